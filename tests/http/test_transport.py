"""The transports for httpx: a private cache, against a real server."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from http_apps import memory_cache

from cachekit import IntelligentCache
from cachekit.testing import ManualClock
from cachekit.tiers.file.tier import FileCache

httpx = pytest.importorskip("httpx", reason="the transports need httpx")

FRESH = {"Cache-Control": "max-age=60"}


class Answer(NamedTuple):
    """What the server answers with."""

    headers: dict[str, str]
    body: bytes = b"page"
    status: int = 200


class Server:
    """A web server on this machine, in a thread.

    Attributes:
        answer: from a request to its answer.
        requests: methods and fields of what was asked for.
        open: while it is not set, answers wait.
    """

    def __init__(self) -> None:
        self.answer: Callable[[BaseHTTPRequestHandler], Answer] = lambda _: Answer(FRESH)
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Semaphore(0)
        mine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                self.rfile.read(length)
                fields = {name.lower(): value for name, value in self.headers.items()}
                mine.requests.append((self.command, fields))
                mine.entered.release()
                mine.open.wait(60)
                answer = mine.answer(self)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if answer.status != 304:
                    self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                if answer.status != 304 and self.command != "HEAD":
                    self.wfile.write(answer.body)

            do_GET = do_HEAD = do_PUT = handle_any  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @property
    def count(self) -> int:
        return len(self.requests)

    def close(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.open.set()
    server.close()


class Client:
    """A client of either kind, as if it were synchronous."""

    def __init__(self, kind: str, cache: IntelligentCache, **options: Any) -> None:
        from cachekit.http import AsyncCachedTransport, CachedTransport

        self._is_async = kind == "async"
        if self._is_async:
            self._runner = asyncio.Runner()
            self._client = httpx.AsyncClient(transport=AsyncCachedTransport(cache, **options))
        else:
            self._client = httpx.Client(transport=CachedTransport(cache, **options))

    def run(self, work: Callable[[Any], Any]) -> Any:
        """Call a function of the client, and wait for it."""
        return self._runner.run(work(self._client)) if self._is_async else work(self._client)

    def get(self, url: str, **options: Any) -> Any:
        return self.run(lambda client: client.get(url, **options))

    def settle(self) -> None:
        """Let tasks in the background end."""

        async def settled() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            await asyncio.gather(*tasks)

        if self._is_async:
            self._runner.run(settled())

    def close(self) -> None:
        if self._is_async:
            self._runner.run(self._client.aclose())
            self._runner.close()
        else:
            self._client.close()


@pytest.fixture(params=["sync", "async"])
def new_client(request: pytest.FixtureRequest) -> Iterator[Callable[..., Client]]:
    clients: list[Client] = []

    def new(cache: IntelligentCache, **options: Any) -> Client:
        clients.append(Client(request.param, cache, **options))
        return clients[-1]

    yield new
    for client in clients:
        client.close()


NewClient = Callable[..., Client]


def status(response: Any) -> str:
    return str(response.headers["cache-status"])


def test_a_page_is_fetched_once(server: Server, new_client: NewClient) -> None:
    clock = ManualClock()
    client = new_client(memory_cache(clock))
    first = client.get(f"{server.url}/a?b")
    assert (first.text, status(first)) == ("page", "cachekit; fwd=uri-miss; stored")
    clock.advance(10)
    second = client.get(f"{server.url}/a?b")
    assert (second.text, status(second), second.headers["age"]) == ("page", "cachekit; hit; ttl=50", "10")
    assert server.count == 1


def test_private_responses_are_stored_and_those_of_others_are_not_served(
    server: Server, new_client: NewClient
) -> None:
    server.answer = lambda request: Answer(
        {"Cache-Control": "private, max-age=60"}, str(request.headers.get("Authorization")).encode()
    )
    cache = memory_cache()
    client = new_client(cache)
    for _ in range(2):
        for user in ("a", "b"):
            assert client.get(server.url, headers={"Authorization": user}).text == user
        assert client.get(server.url).text == "None"
    assert server.count == 3
    keys = list(cache.memory_cache.keys()) if cache.memory_cache is not None else []
    assert keys
    assert not any("Authorization" in key for key in keys)


def test_a_compressed_page_is_decoded_each_time(server: Server, new_client: NewClient) -> None:
    server.answer = lambda _: Answer({**FRESH, "Content-Encoding": "gzip"}, gzip.compress(b"hello"))
    client = new_client(memory_cache())
    assert [client.get(server.url).text for _ in range(2)] == ["hello", "hello"]
    assert server.count == 1


def test_a_stale_page_is_validated(server: Server, new_client: NewClient) -> None:
    clock = ManualClock()
    client = new_client(memory_cache(clock))
    server.answer = lambda _: Answer({**FRESH, "ETag": '"1"'}, b"body")
    client.get(server.url)
    clock.advance(100)
    server.answer = lambda _: Answer(FRESH, b"", 304)
    fresh = client.get(server.url)
    assert server.requests[-1][1]["if-none-match"] == '"1"'
    assert (fresh.status_code, fresh.text) == (200, "body")
    assert status(fresh) == "cachekit; fwd=stale; fwd-status=304; stored"
    assert status(client.get(server.url)).startswith("cachekit; hit")


def test_a_stale_page_is_served_while_it_is_revalidated(server: Server, new_client: NewClient) -> None:
    clock = ManualClock()
    client = new_client(memory_cache(clock))
    server.answer = lambda _: Answer({"Cache-Control": "max-age=60, stale-while-revalidate=60"}, b"old")
    client.get(server.url)
    assert server.entered.acquire(timeout=60)
    clock.advance(90)
    server.answer = lambda _: Answer(FRESH, b"new")
    assert client.get(server.url).text == "old"
    client.settle()
    assert server.entered.acquire(timeout=60)
    while client.get(server.url).text != "new":  # it is being stored
        pass
    assert server.count == 2


def test_a_stale_page_is_served_if_the_server_is_gone(server: Server, new_client: NewClient) -> None:
    clock = ManualClock()
    client = new_client(memory_cache(clock))
    server.answer = lambda _: Answer(
        {"Cache-Control": "max-age=60, stale-if-error=600", "Connection": "close"}, b"old"
    )
    client.get(server.url)
    clock.advance(90)
    server.close()
    assert client.get(server.url).text == "old"
    clock.advance(1000)
    with pytest.raises(httpx.ConnectError):
        client.get(server.url)


def test_an_unsafe_request_invalidates_its_url(server: Server, new_client: NewClient) -> None:
    client = new_client(memory_cache())
    client.get(server.url)
    put = client.run(lambda client: client.put(server.url, content=b"x"))
    assert status(put) == "cachekit; fwd=method"
    assert status(client.get(server.url)) == "cachekit; fwd=uri-miss; stored"


def test_a_page_that_is_not_read_to_its_end_is_not_stored(server: Server, new_client: NewClient) -> None:
    server.answer = lambda _: Answer(FRESH, b"x" * 1_000_000)
    client = new_client(memory_cache())

    def begin(client: Any) -> None:
        with client.stream("GET", server.url) as response:
            next(response.iter_raw())

    async def begin_async(client: Any) -> None:
        async with client.stream("GET", server.url) as response:
            async for _ in response.aiter_raw():
                break

    client.run(begin_async if isinstance(client._client, httpx.AsyncClient) else begin)
    assert status(client.get(server.url)) == "cachekit; fwd=uri-miss; stored"
    assert status(client.get(server.url)).startswith("cachekit; hit")


def test_clients_share_pages_through_a_directory(
    server: Server, new_client: NewClient, tmp_path: Path
) -> None:
    def cache() -> IntelligentCache:
        return IntelligentCache(file_cache=FileCache(tmp_path / "pages"))

    with cache() as first, cache() as second:
        for one in (first, second, first):
            assert new_client(one).get(server.url).text == "page"
    assert server.count == 1


def test_threads_that_ask_together_fetch_once(server: Server) -> None:
    from cachekit.http import CachedTransport

    server.open.clear()
    with httpx.Client(transport=CachedTransport(memory_cache())) as client, ThreadPoolExecutor(20) as threads:
        pages = [threads.submit(client.get, server.url) for _ in range(20)]
        assert server.entered.acquire(timeout=60)
        server.open.set()
        assert [page.result().text for page in pages] == ["page"] * 20
    assert server.count == 1


def test_tasks_that_ask_together_fetch_once(server: Server) -> None:
    from cachekit.http import AsyncCachedTransport

    async def main() -> None:
        async with httpx.AsyncClient(transport=AsyncCachedTransport(memory_cache())) as client:
            pages = await asyncio.gather(*(client.get(server.url) for _ in range(100)))
        assert [page.text for page in pages] == ["page"] * 100

    asyncio.run(main())
    assert server.count == 1


@pytest.mark.parametrize("kind", ["blocking", "awaited"])
@pytest.mark.parametrize("made_as", ["bytes", "generator"])
def test_content_without_a_length_is_passed_on(kind: str, made_as: str) -> None:
    """As a client may send it over HTTP/2. What a generator has is known only when it is sent."""
    from cachekit.http import AsyncCachedTransport, CachedTransport

    async def echo(asked: Any) -> Any:
        return httpx.Response(200, headers=FRESH, content=await asked.aread())

    def blocking_echo(asked: Any) -> Any:
        return httpx.Response(200, headers=FRESH, content=asked.read())

    async def awaited(content: bytes) -> Any:
        async def generated() -> AsyncIterator[bytes]:
            yield content

        transport = AsyncCachedTransport(cache, httpx.MockTransport(echo))
        client = httpx.AsyncClient(transport=transport)
        return await client.send(without_length(client, generated() if is_generated else content))

    def blocking(content: bytes) -> Any:
        client = httpx.Client(transport=CachedTransport(cache, httpx.MockTransport(blocking_echo)))
        return client.send(without_length(client, iter([content]) if is_generated else content))

    def without_length(client: Any, content: Any) -> Any:
        asked = client.build_request("GET", "http://example.com/", content=content)
        for name in ("Content-Length", "Transfer-Encoding"):
            asked.headers.pop(name, None)
        return asked

    cache, is_generated = memory_cache(), made_as == "generator"
    for content in (b"evil", b"", b"evil", b""):
        got = asyncio.run(awaited(content)) if kind == "awaited" else blocking(content)
        assert got.content == content
        is_passed_on = "detail=request-content" in got.headers["cache-status"]
        assert is_passed_on is (is_generated or bool(content))
