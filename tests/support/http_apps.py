"""Applications for the HTTP cache's tests, and a client that calls ASGI applications without a server."""

from __future__ import annotations

import asyncio
import io
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import unquote
from wsgiref.validate import validator

from cachekit import IntelligentCache
from cachekit.http import ASGICache, WSGICache
from cachekit.http.asgi import Application, Message, Receive, Scope, Send
from cachekit.testing import ManualClock
from cachekit.tiers.memory.tier import MemoryCache

Pairs = Sequence[tuple[str, str]]

#: The fields of a response that may be stored for a minute.
FRESH: Pairs = (("Cache-Control", "max-age=60"),)


def memory_cache(clock: ManualClock | None = None) -> IntelligentCache:
    memory = MemoryCache() if clock is None else MemoryCache(clock=clock)
    return IntelligentCache(memory_cache=memory, file_cache=None)


def waiting(app: ASGICache | WSGICache) -> int:
    """Return how many requests wait for another one."""
    return sum(len(flight._wake) for flight in app._collapsing._flights._flights.values())


@dataclass(frozen=True)
class Response:
    """What a client got."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def __getitem__(self, name: str) -> str:
        """Return the joined value of a field; empty if it is absent."""
        return ", ".join(value for field, value in self.headers if field == name)

    @property
    def cache_status(self) -> str:
        return self["cache-status"]

    @property
    def is_hit(self) -> bool:
        return self.cache_status.startswith("cachekit; hit")

    @property
    def is_stored(self) -> bool:
        return "; stored" in self.cache_status


def encoded(pairs: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs]


def scope_of(target: str, method: str, pairs: Pairs, host: str | None = "example.com") -> Scope:
    path, _, query = target.partition("?")
    headers = encoded(pairs)
    if host is not None:
        headers.insert(0, (b"host", host.encode("latin-1")))
    return {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1",
        "method": method, "scheme": "http", "path": unquote(path), "raw_path": path.encode("latin-1"),
        "query_string": query.encode("latin-1"), "root_path": "", "headers": headers,
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "state": {},
    }  # fmt: skip


class Client:
    """One request to an ASGI application, message by message.

    Attributes:
        messages: what the application has sent so far.
        gone: set it, and the application is told that the client has gone away.
        takes: while it is not set, the client takes no further part of the content.
    """

    def __init__(self, app: Application, target: str = "/", *, method: str = "GET", headers: Pairs = (),
                 host: str | None = "example.com", body: bytes = b"") -> None:  # fmt: skip
        self._app = app
        self._scope = scope_of(target, method, headers, host)
        self._body: list[bytes] = [body]
        self.messages: list[Message] = []
        self.gone = asyncio.Event()
        self.takes = asyncio.Event()
        self.takes.set()
        self.news = asyncio.Condition()

    async def _receive(self) -> Message:
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            await self.takes.wait()
        if self.gone.is_set():
            raise OSError("the client has gone away")
        async with self.news:
            self.messages.append(message)
            self.news.notify_all()

    async def run(self) -> Response:
        await self._app(self._scope, self._receive, self._send)
        return self.response

    async def has(self, count: int) -> None:
        """Wait for so many messages."""
        async with self.news:
            await self.news.wait_for(lambda: len(self.messages) >= count)

    @property
    def response(self) -> Response:
        start, *parts = self.messages
        assert start["type"] == "http.response.start"
        assert not parts or not parts[-1].get("more_body", False)
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]]
        return Response(start["status"], headers, b"".join(part.get("body", b"") for part in parts))


async def fetch(app: Application, target: str = "/", **kwargs: Any) -> Response:
    return await Client(app, target, **kwargs).run()


Answerer = Callable[[Scope], "Page | Awaitable[Page]"]


class Page(NamedTuple):
    """A response of an application."""

    headers: Pairs = FRESH
    body: bytes = b"page"
    status: int = 200


class Origin:
    """An application that counts its calls, and may be held up.

    Attributes:
        page: what it answers with, or a function of the scope.
        calls: the scopes that it was called with.
        open: while it is not set, calls wait.
        entered: set once a call has begun.
    """

    def __init__(self, page: Page | Callable[[Scope], Page] | None = None) -> None:
        self.page = Page() if page is None else page
        self.calls: list[Scope] = []
        self.open = asyncio.Event()
        self.open.set()
        self.entered = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls.append(scope)
        page = self.page(scope) if callable(self.page) else self.page
        self.entered.set()
        await self.open.wait()
        await send({"type": "http.response.start", "status": page.status, "headers": encoded(page.headers)})
        await send({"type": "http.response.body", "body": page.body, "more_body": False})

    @property
    def count(self) -> int:
        return len(self.calls)

    def header(self, name: str) -> str | None:
        """Return a field of the last request."""
        found = dict(self.calls[-1]["headers"]).get(name.encode())
        return None if found is None else found.decode("latin-1")


class Streams:
    """An application whose responses are written by the test, by path."""

    def __init__(self, headers: Pairs = FRESH) -> None:
        self._queues: dict[str, asyncio.Queue[bytes | Exception | None]] = {}
        self.tasks: list[asyncio.Task[Response]] = []
        self.headers = headers
        self.calls = 0

    def queue(self, path: str) -> asyncio.Queue[bytes | Exception | None]:
        return self._queues.setdefault(path, asyncio.Queue())

    async def write(self, path: str, part: bytes | Exception | None) -> None:
        await self.queue(path).put(part)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += 1
        headers = [(name.lower().encode(), value.encode()) for name, value in self.headers]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while True:
            part = await self.queue(scope["path"]).get()
            if isinstance(part, Exception):
                raise part
            await send({"type": "http.response.body", "body": part or b"", "more_body": part is not None})
            if part is None:
                return


# -- WSGI -----------------------------------------------------------------------------------------------


def environ_of(
    target: str, method: str, pairs: Pairs, host: str | None = "example.com", body: bytes = b""
) -> dict[str, Any]:
    path, _, query = target.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": unquote(path, "latin-1"),
        "QUERY_STRING": query, "RAW_URI": target, "SERVER_NAME": "127.0.0.1", "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.version": (1, 0), "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body), "wsgi.errors": sys.stderr, "wsgi.multithread": True,
        "wsgi.multiprocess": False, "wsgi.run_once": False,
    }  # fmt: skip
    if host is not None:
        environ["HTTP_HOST"] = host
    if body:
        environ["CONTENT_LENGTH"] = str(len(body))
    for name, value in pairs:
        variable = name.upper().replace("-", "_")
        variable = variable if variable in {"CONTENT_LENGTH", "CONTENT_TYPE"} else f"HTTP_{variable}"
        environ[variable] = f"{environ[variable]},{value}" if variable in environ else value
    return environ


class Call:
    """One request to a WSGI application, part by part; what both sides do is checked against the standard."""

    def __init__(
        self,
        app: Any,
        target: str = "/",
        *,
        method: str = "GET",
        headers: Pairs = (),
        host: str | None = "example.com",
        body: bytes = b"",
        checked: bool = True,
    ) -> None:
        self._head: list[Any] = []
        environ = environ_of(target, method, headers, host, body)
        self.parts: list[bytes] = []
        self._result = (validator(app) if checked else app)(environ, self._start)
        self._parts = iter(self._result)

    def _start(
        self, status: str, headers: list[tuple[str, str]], error: Any = None
    ) -> Callable[[bytes], object]:
        self._head[:] = [int(status[:3]), headers]
        return self.parts.append

    def take(self) -> bytes:
        """Return the next part of the content."""
        self.parts.append(next(self._parts))
        return self.parts[-1]

    def close(self) -> None:
        """Go away, or end a complete response."""
        if hasattr(self._result, "close"):
            self._result.close()

    def response(self) -> Response:
        """Take all of the content."""
        try:
            self.parts.extend(self._parts)
        finally:
            self.close()
        status, headers = self._head
        return Response(status, [(name.lower(), value) for name, value in headers], b"".join(self.parts))


def call(app: Any, target: str = "/", **kwargs: Any) -> Response:
    return Call(app, target, **kwargs).response()


class WSGIOrigin:
    """A WSGI application that counts its calls, and may be held up.

    Attributes:
        page: what it answers with, or a function of the environment; the content in a list.
        open: while it is not set, calls wait.
    """

    def __init__(self, page: Page | Callable[[dict[str, Any]], Page] | None = None) -> None:
        self.page = Page() if page is None else page
        self.calls: list[dict[str, Any]] = []
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Semaphore(0)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.calls.append(environ)
        page = self.page(environ) if callable(self.page) else self.page
        self.entered.release()
        assert self.open.wait(60)
        headers = list(page.headers)
        if page.status not in {204, 304}:
            headers.append(("Content-Type", "text/plain"))
        start_response(f"{page.status} Status", headers)
        return [page.body] if page.body else []

    @property
    def count(self) -> int:
        return len(self.calls)
