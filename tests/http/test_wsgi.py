"""WSGICache: what differs from ASGICache, and that the rest is the same."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from http_apps import Call, Page, Response, WSGIOrigin, call, memory_cache, waiting
from racing import in_thread
from redis_server import wait_until

from cachekit import IntelligentCache
from cachekit.http import WSGICache
from cachekit.http.store import ResponseStore
from cachekit.testing import ManualClock
from cachekit.tiers.file.tier import FileCache

FRESH = ("Cache-Control", "max-age=60")


def test_a_page_is_served_from_the_cache() -> None:
    clock = ManualClock()
    origin = WSGIOrigin(Page((FRESH, ("ETag", '"v1"')), b"0123456789"))
    app = WSGICache(origin, memory_cache(clock))
    first = call(app, "/a?b")
    assert (first.status, first.body, first.cache_status) == (
        200,
        b"0123456789",
        "cachekit; fwd=uri-miss; stored",
    )
    clock.advance(10)
    second = call(app, "/a?b")
    assert (second.body, second.cache_status, second["age"]) == (b"0123456789", "cachekit; hit; ttl=50", "10")
    assert call(app, "/a?b", method="HEAD").body == b""
    assert call(app, "/a?b", headers=[("If-None-Match", '"v1"')]).status == 304
    part = call(app, "/a?b", headers=[("Range", "bytes=2-4")])
    assert (part.status, part.body) == (206, b"234")
    assert call(app, "/a?b", headers=[("Range", "bytes=20-")]).status == 416
    assert origin.count == 1


def test_what_differs_in_the_target_is_another_page() -> None:
    origin = WSGIOrigin(lambda environ: Page(body=environ["RAW_URI"].encode()))
    app = WSGICache(origin, memory_cache())
    targets = ["/a", "/a?b", "/a/", "/%61", "/a%2Fb", "/a/b", "/%C3%A9"]
    for _ in range(2):
        assert [call(app, target).body for target in targets] == [target.encode() for target in targets]
    assert origin.count == len(targets)


def test_variants_and_validation() -> None:
    clock = ManualClock()
    origin = WSGIOrigin(
        lambda environ: Page((FRESH, ("Vary", "Accept"), ("ETag", '"v1"')), environ["HTTP_ACCEPT"].encode())
    )
    app = WSGICache(origin, memory_cache(clock))
    for accepted in ("a", "b", "a", "b"):
        assert call(app, headers=[("Accept", accepted)]).body == accepted.encode()
    assert origin.count == 2
    clock.advance(100)
    origin.page = Page((FRESH, ("Vary", "Accept")), b"", 304)
    asked = [("Accept", "a"), ("If-None-Match", '"other"'), ("Range", "bytes=0-0")]
    fresh = call(app, headers=asked)
    assert (origin.calls[-1]["HTTP_IF_NONE_MATCH"], "HTTP_RANGE" in origin.calls[-1]) == ('"v1"', False)
    assert (fresh.status, fresh.body) == (206, b"a")
    assert call(app, headers=[("Accept", "a")]).is_hit


def test_a_stale_page_is_served_while_one_thread_revalidates_it() -> None:
    clock = ManualClock()
    origin = WSGIOrigin(Page((("Cache-Control", "max-age=60, stale-while-revalidate=60"),), b"old"))
    app = WSGICache(origin, memory_cache(clock))
    call(app)
    clock.advance(90)
    origin.page = Page(body=b"new")
    origin.open.clear()
    assert [call(app).body for _ in range(5)] == [b"old"] * 5
    origin.open.set()
    wait_until(lambda: call(app).body == b"new", "the page was revalidated")
    assert origin.count == 2


def test_a_stale_page_is_served_if_the_application_fails() -> None:
    clock = ManualClock()
    origin = WSGIOrigin(Page((("Cache-Control", "max-age=60, stale-if-error=600"),), b"old"))
    app = WSGICache(origin, memory_cache(clock))
    call(app)
    clock.advance(90)
    origin.page = Page((), b"broken", 500)
    assert (call(app).status, call(app).body) == (200, b"old")

    def fail(_: dict[str, Any]) -> Page:
        raise LookupError("broken")

    origin.page = fail
    assert call(app).body == b"old"
    clock.advance(1000)
    with pytest.raises(LookupError):
        call(app)


def test_a_request_that_comes_while_a_page_is_being_stored_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first page of a URL that varies is stored in two steps, and the second request comes in between."""
    origin = WSGIOrigin(Page((FRESH, ("Vary", "Accept"))))
    app = WSGICache(origin, memory_cache(ManualClock()))
    store_step = ResponseStore._store_behind
    others: list[Callable[[], Response]] = []

    def store_and_ask(store: ResponseStore, *args: Any) -> None:
        store_step(store, *args)
        if not others:
            others.append(in_thread(lambda: call(app)))
            wait_until(lambda: waiting(app) or origin.count > 1, "the other one waits or calls the origin")

    monkeypatch.setattr(ResponseStore, "_store_behind", store_and_ask)
    first = call(app)
    second = others[0]()
    assert (first.body, second.body, origin.count) == (b"page", b"page", 1)
    assert second.cache_status == "cachekit; fwd=uri-miss; collapsed; ttl=60"
    assert call(app).is_hit


Strike = Callable[[IntelligentCache, WSGICache], object]


@pytest.mark.parametrize(
    "strike",
    [
        lambda _, app: call(app, "/a", method="PUT", body=b"x"),
        lambda cache, _: cache.invalidate_by_tags({"news"}),
    ],
    ids=["put", "purge"],
)
@pytest.mark.parametrize("tiers", ["memory", "other process"])
def test_what_invalidates_a_page_that_is_being_made_wins(strike: Strike, tiers: str, tmp_path: Path) -> None:
    def cache() -> IntelligentCache:
        return memory_cache() if tiers == "memory" else IntelligentCache(file_cache=FileCache(tmp_path / "c"))

    mine = cache()
    theirs = mine if tiers == "memory" else cache()
    origin = WSGIOrigin(Page((FRESH, ("Cache-Tag", "news")), b"old"))

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "PUT":
            start_response("204 No Content", [])
            return []
        return origin(environ, start_response)

    first, second = WSGICache(app, mine), WSGICache(app, theirs)
    origin.open.clear()
    with ThreadPoolExecutor() as threads:
        reading = threads.submit(call, first, "/a")
        assert origin.entered.acquire(timeout=60)
        origin.page = Page((FRESH, ("Cache-Tag", "news")), b"new")
        strike(theirs, second)
        origin.open.set()
        assert reading.result().body == b"old"
    again = call(first, "/a")
    assert (again.body, again.is_hit) == (b"new", False)
    assert call(first, "/a").is_hit
    mine.close()
    theirs.close()


def test_a_hot_page_is_one_call() -> None:
    origin = WSGIOrigin()
    app = WSGICache(origin, memory_cache())
    origin.open.clear()
    responses: list[Response] = []
    ready = threading.Barrier(51)

    def ask() -> None:
        ready.wait()
        responses.append(call(app))

    threads = [threading.Thread(target=ask) for _ in range(50)]
    for thread in threads:
        thread.start()
    ready.wait()
    assert origin.entered.acquire(timeout=60)
    origin.open.set()
    for thread in threads:
        thread.join()
    assert [response.body for response in responses] == [b"page"] * 50
    assert origin.count == 1


def test_requests_wait_for_a_page_that_memory_does_not_hold(tmp_path: Path) -> None:
    """They read what the first one has stored from the file tier."""
    origin = WSGIOrigin()
    origin.open.clear()
    with (
        IntelligentCache(memory_cache=None, file_cache=FileCache(tmp_path / "pages")) as cache,
        ThreadPoolExecutor(5) as threads,
    ):
        app = WSGICache(origin, cache)
        responses = [threads.submit(call, app) for _ in range(5)]
        wait_until(lambda: waiting(app) == 4, "the others wait for the first one")
        origin.open.set()
        assert [response.result().body for response in responses] == [b"page"] * 5
    assert origin.count == 1


def test_private_responses_are_for_their_own_requests() -> None:
    origin = WSGIOrigin(
        lambda environ: Page((("Cache-Control", "private"),), environ["HTTP_COOKIE"].encode())
    )
    app = WSGICache(origin, memory_cache())
    with ThreadPoolExecutor(20) as threads:
        bodies = list(threads.map(lambda n: call(app, headers=[("Cookie", f"id={n}")]).body, range(50)))
    assert bodies == [b"id=%d" % n for n in range(50)]
    assert origin.count == 50


# -- bodies ---------------------------------------------------------------------------------------------


class Parts:
    """Content that comes in parts, and notes that it was closed."""

    def __init__(self, *parts: bytes | Exception) -> None:
        self._parts = iter(parts)
        self.taken = 0
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        part = next(self._parts)
        self.taken += 1
        if isinstance(part, Exception):
            raise part
        return part

    def close(self) -> None:
        self.closed += 1


def serving(parts: Callable[[], Iterable[bytes]], *headers: tuple[str, str]) -> Any:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [FRESH, ("Content-Type", "text/plain"), *headers])
        return parts()

    return app


def test_a_stream_comes_part_by_part_and_is_stored() -> None:
    parts = Parts(b"a", b"b", b"c")
    app = WSGICache(serving(lambda: parts), memory_cache())
    request = Call(app)
    for number, part in enumerate([b"a", b"b", b"c"]):
        assert parts.taken == number
        assert request.take() == part
    assert request.response().body == b"abc"
    assert parts.closed == 1
    again = call(app)
    assert (again.body, again.is_hit) == (b"abc", True)


def test_a_page_is_stored_before_its_last_part_is_sent() -> None:
    app = WSGICache(serving(lambda: Parts(b"a", b"b"), ("Content-Length", "2")), memory_cache())
    request = Call(app)
    request.take()
    request.take()
    assert call(app).is_hit
    request.response()


def test_a_client_that_goes_away_leaves_nothing() -> None:
    parts = Parts(b"a", b"b")
    app = WSGICache(serving(lambda: parts), memory_cache())
    request = Call(app)
    request.take()
    request.close()
    assert parts.closed == 1
    parts = Parts(b"x")
    again = call(app)
    assert (again.body, again.is_hit) == (b"x", False)
    assert app._store._buffered == 0


def test_a_broken_and_an_endless_body_are_passed_on() -> None:
    parts = Parts(b"a", ValueError("broken"))
    app = WSGICache(serving(lambda: parts), memory_cache(), max_body=5000)
    request = Call(app)
    request.take()
    with pytest.raises(ValueError, match="broken"):
        request.take()
    request.close()
    assert parts.closed == 1
    parts = Parts(*[b"x" * 1000] * 50)
    request = Call(app)
    for _ in range(40):
        request.take()
        assert app._store._buffered <= 5000
    request.close()
    assert app._store._buffered == 0
    parts = Parts(b"y")
    assert call(app).body == b"y"


def test_a_generator_may_begin_its_response_late() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [FRESH, ("Content-Type", "text/plain")])
        yield b"a"
        yield b"b"

    cached = WSGICache(app, memory_cache())
    assert call(cached).body == b"ab"
    assert call(cached).is_hit


def test_written_content_is_passed_on() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        write = start_response("200 OK", [FRESH, ("Content-Type", "text/plain")])
        write(b"a")
        return [b"b"]

    cached = WSGICache(app, memory_cache())
    for _ in range(2):
        response = call(cached)
        assert (response.body, response.is_stored) == (b"ab", False)


def test_a_response_that_is_replaced_by_an_error() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [FRESH, ("Content-Type", "text/plain")])
        try:
            raise ValueError
        except ValueError as error:
            start_response(
                "500 Broken", [("Content-Type", "text/plain")], (ValueError, error, error.__traceback__)
            )
        return [b"broken"]

    response = call(WSGICache(app, memory_cache()))
    assert (response.status, response.body, response.is_stored) == (500, b"broken", False)


def test_tags_and_unsafe_requests_invalidate() -> None:
    cache = memory_cache()
    origin = WSGIOrigin(lambda environ: Page((FRESH, ("Surrogate-Key", environ["PATH_INFO"][1:] + " all"))))
    app = WSGICache(origin, cache)
    for target in ("/a", "/b"):
        call(app, target)
    cache.invalidate_by_tags({"a"})
    assert [call(app, target).is_hit for target in ("/a", "/b")] == [False, True]
    assert call(app, "/%62", method="POST", body=b"x").cache_status == "cachekit; fwd=method"
    assert [call(app, target).is_hit for target in ("/a", "/b")] == [True, False]
