"""ASGICache: what is stored, served, validated, collapsed and invalidated."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from http_apps import Client, Origin, Page, Response, fetch, memory_cache, waiting
from loops import on_a_loop, settle, until

from cachekit import IntelligentCache, aio
from cachekit.http import ASGICache
from cachekit.http.asgi import Receive, Scope, Send
from cachekit.testing import ManualClock
from cachekit.tiers.file.tier import FileCache

FRESH = ("Cache-Control", "max-age=60")
ETAG = ("ETag", '"v1"')


# -- hits -----------------------------------------------------------------------------------------------


@on_a_loop
async def test_a_page_is_served_from_the_cache() -> None:
    clock = ManualClock()
    origin = Origin(Page((FRESH, ("Content-Type", "text/plain")), b"hello"))
    app = ASGICache(origin, memory_cache(clock))
    first = await fetch(app, "/a?b")
    assert (first.status, first.body) == (200, b"hello")
    assert first.cache_status == "cachekit; fwd=uri-miss; stored"
    clock.advance(10)
    second = await fetch(app, "/a?b")
    assert (second.status, second.body, second["content-type"]) == (200, b"hello", "text/plain")
    assert second.cache_status == "cachekit; hit; ttl=50"
    assert second["age"] == "10"
    assert origin.count == 1
    head = await fetch(app, "/a?b", method="HEAD")
    assert (head.body, head["content-length"], head.is_hit) == (b"", "5", True)
    clock.advance(50)
    assert (await fetch(app, "/a?b")).cache_status == "cachekit; fwd=uri-miss; stored"
    assert origin.count == 2


@on_a_loop
async def test_what_differs_in_the_target_is_another_page() -> None:
    origin = Origin(lambda scope: Page(body=scope["raw_path"] + b"?" + scope["query_string"]))
    app = ASGICache(origin, memory_cache())
    targets = ["/a", "/a?", "/a?b", "/a?b=", "/a/", "//a", "/A", "/%61", "/a%2Fb", "/a/b", "/a" + "x" * 3000,
               "/a" + "x" * 3001]  # fmt: skip
    for target in targets:
        assert (await fetch(app, target)).body.startswith(target.partition("?")[0].encode())
    hits = [await fetch(app, target) for target in targets]
    assert all(hit.is_hit for hit in hits)
    # A server does not tell `/a` and `/a?` apart.
    assert origin.count == len(targets) - 1


@on_a_loop
async def test_the_view_of_asyncio_will_do() -> None:
    origin = Origin()
    app = ASGICache(origin, aio.IntelligentCache.of(memory_cache()))
    await fetch(app)
    assert (await fetch(app)).is_hit


@on_a_loop
async def test_other_scopes_are_passed_on() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def nothing(*_: object) -> Any:
        return None

    await ASGICache(app, memory_cache())({"type": "lifespan"}, nothing, nothing)
    await ASGICache(app, memory_cache())({"type": "websocket"}, nothing, nothing)
    assert seen == ["lifespan", "websocket"]


# -- what is not stored ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "sent", "status"),
    [
        (Page(()), (), "fwd=uri-miss; detail=no-freshness"),
        (Page((("Cache-Control", "private, max-age=60"),)), (), "fwd=uri-miss; detail=private"),
        (Page((("Cache-Control", "no-store"),)), (), "fwd=uri-miss; detail=no-store"),
        (Page((FRESH, ("Set-Cookie", "id=1"))), (), "fwd=uri-miss; detail=set-cookie"),
        (Page((FRESH, ("Vary", "*"))), (), "fwd=uri-miss; detail=vary"),
        (Page((FRESH,)), (("Cookie", "id=1"),), "fwd=uri-miss; detail=cookie"),
        (Page((FRESH,)), (("Authorization", "x"),), "fwd=uri-miss; detail=authorization"),
        (Page((FRESH,)), (("Cache-Control", "no-store"),), "fwd=uri-miss; detail=request-no-store"),
        (Page((FRESH,)), (("X-Large", "x" * 9000),), "fwd=uri-miss; detail=large-request"),
        (Page((FRESH,), b"x" * 3000), (), "fwd=uri-miss; stored"),  # the length was not announced
        (Page((FRESH, ("Content-Length", "3000")), b"x" * 3000), (), "fwd=uri-miss; detail=too-large"),
        (Page((FRESH, ("Content-Length", "3")), b"x" * 4), (), "fwd=uri-miss; stored"),
        (Page((FRESH, ("Content-Type", "text/event-stream"))), (), "fwd=uri-miss; detail=streaming"),
        (Page((FRESH, ("Cache-Tag", ",".join(map(str, range(500)))))), (), "fwd=uri-miss; detail=tags"),
        (Page((FRESH,)), (("Content-Length", "1"),), "fwd=bypass; detail=request-content"),
        (Page((FRESH,)), (("If-Match", '"x"'),), "fwd=bypass; detail=precondition"),
    ],
)  # fmt: skip
def test_what_is_not_stored_says_why(page: Page, sent: Any, status: str) -> None:
    async def main() -> None:
        origin = Origin(page)
        app = ASGICache(origin, memory_cache(), max_body=2000)
        first = await fetch(app, headers=sent)
        assert (first.status, first.body) == (page.status, page.body)
        assert first.cache_status == f"cachekit; {status}"
        assert not (await fetch(app)).is_hit
        assert origin.count == 2

    asyncio.run(main())


@on_a_loop
async def test_a_default_ttl_is_for_pages_of_no_user() -> None:
    page = Page((), b"x")
    origin = Origin(lambda scope: page)
    app = ASGICache(origin, memory_cache(), default_ttl=30)
    assert not (await fetch(app, headers=[("Cookie", "a=b")])).is_stored
    assert (await fetch(app)).is_stored
    assert (await fetch(app)).is_hit
    page = Page((("Vary", "Cookie"),))
    assert not (await fetch(app, "/2")).is_stored


@on_a_loop
async def test_memory_of_responses_under_way_is_bounded() -> None:
    streams = Streams()
    app = ASGICache(streams, memory_cache(), max_buffered=2500)
    for number in range(4):
        client = Client(app, f"/{number}")
        streams.tasks.append(asyncio.create_task(client.run()))
        await client.has(1)
        await streams.write(f"/{number}", b"x" * 1000)
        await client.has(2)
    for number in range(4):
        await streams.write(f"/{number}", None)
    assert [response.body for response in await asyncio.gather(*streams.tasks)] == [b"x" * 1000] * 4
    other = ASGICache(Origin(Page(())), app._store.cache)
    assert [(await fetch(other, f"/{number}")).is_hit for number in range(4)] == [True, True, False, False]
    assert app._store._buffered == 0  # all of it was given back


class Streams:
    """An application whose responses are written by the test, by path."""

    def __init__(self, headers: tuple[tuple[str, str], ...] = (FRESH,)) -> None:
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


# -- conditions, ranges and variants --------------------------------------------------------------------


@on_a_loop
async def test_conditions_and_ranges_are_answered_here() -> None:
    origin = Origin(Page((FRESH, ETAG), b"0123456789"))
    app = ASGICache(origin, memory_cache())
    await fetch(app)
    same = await fetch(app, headers=[("If-None-Match", '"v1"')])
    assert (same.status, same.body, same["etag"], same.is_hit) == (304, b"", '"v1"', True)
    part = await fetch(app, headers=[("Range", "bytes=2-4")])
    assert (part.status, part.body, part["content-range"]) == (206, b"234", "bytes 2-4/10")
    none = await fetch(app, headers=[("Range", "bytes=10-")])
    assert (none.status, none.body, none["content-range"]) == (416, b"", "bytes */10")
    assert origin.count == 1


@on_a_loop
async def test_variants_are_stored_beside_each_other() -> None:
    def page(scope: Scope) -> Page:
        language = dict(scope["headers"]).get(b"accept-language", b"none")
        return Page((FRESH, ("Vary", "Accept-Language")), language)

    origin = Origin(page)
    app = ASGICache(origin, memory_cache())
    for language in ("en", "de", "fr"):
        first = await fetch(app, headers=[("Accept-Language", language)])
        assert (first.body, first.is_stored) == (language.encode(), True)
    assert first.cache_status == "cachekit; fwd=vary-miss; stored"
    for language in ("en", "de", "fr"):
        again = await fetch(app, headers=[("Accept-Language", language)])
        assert (again.body, again.is_hit) == (language.encode(), True)
    assert (await fetch(app)).body == b"none"
    assert origin.count == 4


@on_a_loop
async def test_fields_named_by_vary_are_part_of_every_key() -> None:
    origin = Origin(lambda scope: Page(body=dict(scope["headers"]).get(b"x-tenant", b"")))
    app = ASGICache(origin, memory_cache(), vary=["X-Tenant"])
    for tenant in ("a", "b", "a"):
        assert (await fetch(app, headers=[("X-Tenant", tenant)])).body == tenant.encode()
    assert origin.count == 2


# -- validation -----------------------------------------------------------------------------------------


@on_a_loop
async def test_a_stale_page_is_validated() -> None:
    clock = ManualClock()
    origin = Origin(Page((FRESH, ETAG, ("A", "1")), b"long body"))
    app = ASGICache(origin, memory_cache(clock))
    await fetch(app)
    clock.advance(100)
    origin.page = Page((FRESH, ("A", "2")), b"", 304)
    fresh = await fetch(app, headers=[("If-None-Match", '"other"')])
    assert origin.header("if-none-match") == '"v1"'
    assert (fresh.status, fresh.body, fresh["a"]) == (200, b"long body", "2")
    assert fresh.cache_status == "cachekit; fwd=stale; fwd-status=304; stored"
    again = await fetch(app)
    assert (again.body, again["a"], again.is_hit) == (b"long body", "2", True)
    clock.advance(100)
    same = await fetch(app, headers=[("If-None-Match", '"v1"')])
    assert (same.status, same.body) == (304, b"")


@on_a_loop
async def test_a_validated_page_that_has_become_private_is_not_stored() -> None:
    clock = ManualClock()
    origin = Origin(Page((FRESH, ETAG), b"body"))
    app = ASGICache(origin, memory_cache(clock))
    await fetch(app)
    clock.advance(100)
    origin.page = Page((FRESH, ("Set-Cookie", "id=1")), b"", 304)
    validated = await fetch(app)
    assert (validated.body, validated["set-cookie"]) == (b"body", "id=1")
    assert "detail=set-cookie" in validated.cache_status
    origin.page = Page((), b"", 304)
    assert (await fetch(app))["set-cookie"] == ""


@on_a_loop
async def test_a_stale_page_is_served_while_one_request_revalidates_it() -> None:
    clock = ManualClock()
    origin = Origin(Page((("Cache-Control", "max-age=60, stale-while-revalidate=60"),), b"old"))
    app = ASGICache(origin, memory_cache(clock))
    await fetch(app)
    clock.advance(90)
    origin.page = Page(body=b"new")
    origin.open.clear()
    for _ in range(5):
        stale = await fetch(app, headers=[("Range", "bytes=0-1")])
        assert (stale.body, stale.cache_status) == (b"ol", "cachekit; hit; ttl=-30")
    await settle()
    assert origin.count == 2
    assert origin.header("range") is None
    origin.open.set()
    await settle()
    assert (await fetch(app)).body == b"new"
    assert origin.count == 2


@on_a_loop
async def test_a_revalidation_that_is_cancelled_at_once_is_not_the_last_one() -> None:
    """A loop that ends cancels its tasks, also those that have not begun."""
    clock = ManualClock()
    origin = Origin(Page((("Cache-Control", "max-age=60, stale-while-revalidate=600"),)))
    app = ASGICache(origin, memory_cache(clock))
    await fetch(app)
    clock.advance(90)
    before = asyncio.all_tasks()
    await fetch(app)
    for task in asyncio.all_tasks() - before:
        task.cancel()
    await settle()
    assert origin.count == 1
    assert (await fetch(app)).is_hit
    await settle()
    assert origin.count == 2


@on_a_loop
async def test_a_stale_page_is_served_if_the_application_fails() -> None:
    clock = ManualClock()
    origin = Origin(Page((("Cache-Control", "max-age=60, stale-if-error=600"),), b"old"))
    app = ASGICache(origin, memory_cache(clock))
    await fetch(app)
    clock.advance(90)
    origin.page = Page((), b"broken", 503)
    stale = await fetch(app)
    assert (stale.status, stale.body) == (200, b"old")
    assert "fwd-status=503" in stale.cache_status

    def fail(_: Scope) -> Page:
        raise LookupError("broken")

    origin.page = fail
    assert (await fetch(app)).body == b"old"
    clock.advance(1000)
    with pytest.raises(LookupError):
        await fetch(app)


@on_a_loop
async def test_directives_of_a_client_count_unless_they_are_switched_off() -> None:
    origin = Origin()
    cache = memory_cache()
    obeying, deaf = ASGICache(origin, cache), ASGICache(origin, cache, client_directives=False)
    assert (await fetch(obeying, headers=[("Cache-Control", "only-if-cached")])).status == 504
    await fetch(obeying)
    reload = [("Cache-Control", "no-cache")]
    assert (await fetch(deaf, headers=reload)).is_hit
    assert (await fetch(obeying, headers=reload)).cache_status == "cachekit; fwd=request; stored"
    assert origin.count == 2


# -- invalidation ---------------------------------------------------------------------------------------


@on_a_loop
async def test_an_unsafe_request_invalidates_its_url() -> None:
    origin = Origin()
    app = ASGICache(origin, memory_cache())
    for target in ("/a/1", "/a/2", "/list"):
        await fetch(app, target)
    origin.page = Page((("Location", "/list"),), b"", 204)
    put = await fetch(app, "/%61/1", method="PUT", body=b"x")
    assert put.cache_status == "cachekit; fwd=method"
    origin.page = Page()
    assert [(await fetch(app, target)).is_hit for target in ("/a/1", "/a/2", "/list")] == [False, True, False]
    origin.page = Page((), b"", 500)
    await fetch(app, "/a/1", method="DELETE")
    assert (await fetch(app, "/a/1")).is_hit


@pytest.mark.parametrize("field", ["Cache-Tag", "Surrogate-Key"])
def test_a_tag_invalidates_the_pages_that_name_it(field: str) -> None:
    async def main() -> None:
        separator = ", " if field == "Cache-Tag" else " "
        origin = Origin(lambda scope: Page((FRESH, (field, separator.join(["all", scope["path"][1:]])))))
        cache = memory_cache()
        app = ASGICache(origin, cache)
        for target in ("/a", "/b", "/b?c"):
            await fetch(app, target)
        cache.invalidate_by_tags({"a"})
        assert [(await fetch(app, target)).is_hit for target in ("/a", "/b", "/b?c")] == [False, True, True]
        cache.invalidate_by_tags({"http:/b"})
        assert [(await fetch(app, target)).is_hit for target in ("/a", "/b", "/b?c")] == [True, False, False]
        cache.invalidate_by_tags({"http:http://example.com/b?c"})
        assert [(await fetch(app, target)).is_hit for target in ("/a", "/b", "/b?c")] == [True, True, False]
        cache.invalidate_by_tags({"all"})
        assert not any([(await fetch(app, target)).is_hit for target in ("/a", "/b", "/b?c")])

    asyncio.run(main())


Strike = Callable[[IntelligentCache, ASGICache, Origin], Any]


async def put_it(_: IntelligentCache, app: ASGICache, origin: Origin) -> None:
    origin.open.set()
    await fetch(app, "/a", method="PUT", body=b"x")


async def purge(cache: IntelligentCache, *_: object) -> None:
    cache.invalidate_by_tags({"news"})


async def clear(cache: IntelligentCache, *_: object) -> None:
    cache.clear()


async def by_pattern(cache: IntelligentCache, *_: object) -> None:
    cache.invalidate_by_pattern("http:http://example.com/a")


@pytest.mark.parametrize("strike", [put_it, purge, clear, by_pattern])
@pytest.mark.parametrize("vary", [(), (("Vary", "Accept"),)], ids=["plain", "vary"])
@pytest.mark.parametrize("tiers", ["memory", "file", "other process"])
def test_what_invalidates_a_page_that_is_being_made_wins(
    strike: Strike, vary: Any, tiers: str, tmp_path: Path
) -> None:
    """The page was read before the write; it reaches its client, and no other one."""

    def cache() -> IntelligentCache:
        if tiers == "memory":
            return memory_cache()
        return IntelligentCache(file_cache=FileCache(tmp_path / "responses"))

    async def main() -> None:
        mine = cache()
        # A second cache over the same directory is to the first one what another process is.
        theirs = cache() if tiers == "other process" else mine
        body = b"old"

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["method"] != "GET":
                await send({"type": "http.response.start", "status": 204, "headers": []})
                await send({"type": "http.response.body"})
                return
            await origin(scope, receive, send)

        origin = Origin(lambda _: Page((FRESH, ("Cache-Tag", "news"), *vary), body))
        first, second = ASGICache(app, mine), ASGICache(app, theirs)
        origin.open.clear()
        reading = asyncio.create_task(fetch(first, "/a"))
        await origin.entered.wait()
        body = b"new"
        await strike(theirs, second, origin)
        origin.open.set()
        assert (await reading).body == b"old"
        again = await fetch(first, "/a")
        assert (again.body, again.is_hit) == (b"new", False)
        assert (await fetch(first, "/a")).is_hit
        assert (await fetch(second, "/a")).body == b"new"
        mine.close()
        theirs.close()

    asyncio.run(main())


@on_a_loop
async def test_the_invalidation_of_another_page_refuses_nothing() -> None:
    """A site that is written all the time is cached all the same."""
    cache = memory_cache()
    origin = Origin(
        lambda scope: Page((FRESH, ("Cache-Tag", "news"))) if scope["path"] == "/tagged" else Page()
    )
    app = ASGICache(origin, cache)
    # The tags of a page that was never seen are not known, so it is stored the second time.
    for target, is_stored in (("/plain", True), ("/tagged", False), ("/tagged", True)):
        origin.open.clear()
        origin.entered.clear()
        reading = asyncio.create_task(fetch(app, target))
        await origin.entered.wait()
        cache.invalidate_by_tags({"other"})
        origin.open.set()
        await reading
        count = origin.count
        assert (await fetch(app, target, headers=[("Cache-Control", "only-if-cached")])).is_hit is is_stored
        assert origin.count == count


# -- requests that come together ------------------------------------------------------------------------


@on_a_loop
async def test_a_thousand_requests_for_a_hot_page_are_one_call() -> None:
    origin = Origin(Page((("Cache-Control", "public, max-age=60"), ("Vary", "Accept"))))
    app = ASGICache(origin, memory_cache(ManualClock()))
    origin.open.clear()
    tasks = [asyncio.create_task(fetch(app, headers=[("Cookie", f"id={n}")])) for n in range(1000)]
    await origin.entered.wait()
    await settle()
    origin.open.set()
    responses = await asyncio.gather(*tasks)
    assert {response.body for response in responses} == {b"page"}
    assert origin.count == 1
    collapsed = [response.cache_status for response in responses if "collapsed" in response.cache_status]
    assert collapsed == ["cachekit; fwd=uri-miss; collapsed; ttl=60"] * 999


def test_requests_wait_for_a_page_that_memory_does_not_hold(tmp_path: Path) -> None:
    """They read what the first one has stored from the file tier."""

    async def main() -> None:
        with IntelligentCache(memory_cache=None, file_cache=FileCache(tmp_path / "pages")) as cache:
            origin = Origin()
            app = ASGICache(origin, cache)
            origin.open.clear()
            tasks = [asyncio.create_task(fetch(app)) for _ in range(20)]
            await origin.entered.wait()
            await until(lambda: waiting(app) == 19, "the others wait for the first one")
            origin.open.set()
            responses = await asyncio.gather(*tasks)
            assert {response.body for response in responses} == {b"page"}
            assert origin.count == 1

    asyncio.run(main())


@on_a_loop
async def test_a_private_response_is_for_its_own_request() -> None:
    origin = Origin(lambda scope: Page((("Cache-Control", "private"),), dict(scope["headers"])[b"cookie"]))
    app = ASGICache(origin, memory_cache())
    origin.open.clear()
    tasks = [asyncio.create_task(fetch(app, headers=[("Cookie", f"id={n}")])) for n in range(50)]
    await origin.entered.wait()
    await settle()
    assert origin.count == 1
    origin.open.set()
    responses = await asyncio.gather(*tasks)
    assert [response.body for response in responses] == [b"id=%d" % n for n in range(50)]
    assert origin.count == 50
    # From now on, none waits for another one.
    origin.open.clear()
    tasks = [asyncio.create_task(fetch(app, headers=[("Cookie", f"id={n}")])) for n in range(50)]
    await settle()
    assert origin.count == 100
    origin.open.set()
    await asyncio.gather(*tasks)


@on_a_loop
async def test_requests_do_not_wait_for_each_other_if_told_so() -> None:
    origin = Origin()
    app = ASGICache(origin, memory_cache(), coalesce=False)
    origin.open.clear()
    tasks = [asyncio.create_task(fetch(app)) for _ in range(5)]
    await settle()
    origin.open.set()
    await asyncio.gather(*tasks)
    assert origin.count == 5


@on_a_loop
async def test_another_request_leads_if_the_first_client_goes_away() -> None:
    streams = Streams()
    app = ASGICache(streams, memory_cache())
    first, second = Client(app), Client(app)
    leading = asyncio.create_task(first.run())
    await first.has(1)
    waiting = asyncio.create_task(second.run())
    await settle()
    assert streams.calls == 1
    leading.cancel()
    await streams.write("/", b"x")
    await streams.write("/", None)
    assert (await waiting).body == b"x"
    assert streams.calls == 2
    with pytest.raises(asyncio.CancelledError):
        await leading


@on_a_loop
async def test_a_slow_client_does_not_hold_up_the_others() -> None:
    streams = Streams()
    app = ASGICache(streams, memory_cache())
    slow, other = Client(app), Client(app)
    slow.takes.clear()
    leading = asyncio.create_task(slow.run())
    await slow.has(1)
    waiting = asyncio.create_task(other.run())
    for part in (b"x", b"y", None):
        await streams.write("/", part)
    assert (await waiting).body == b"xy"
    assert streams.calls == 1
    slow.takes.set()
    assert (await leading).body == b"xy"


@on_a_loop
async def test_a_client_that_goes_away_does_not_lose_the_page() -> None:
    streams = Streams()
    app = ASGICache(streams, memory_cache())
    client = Client(app)
    leading = asyncio.create_task(client.run())
    await client.has(1)
    client.gone.set()
    for part in (b"x", b"y", None):
        await streams.write("/", part)
    with pytest.raises(OSError, match="gone away"):
        await leading
    assert (await fetch(app)).is_hit


# -- bodies ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text/event-stream", "text/plain"])
def test_a_stream_arrives_event_by_event(kind: str) -> None:
    async def main() -> None:
        streams = Streams((FRESH, ("Content-Type", kind)))
        app = ASGICache(streams, memory_cache())
        client = Client(app)
        task = asyncio.create_task(client.run())
        for number in range(5):
            await client.has(1 + number)
            await streams.write("/", b"event %d" % number)
        await streams.write("/", None)
        await task
        assert [message["body"] for message in client.messages[1:-1]] == [b"event %d" % n for n in range(5)]
        assert (await fetch(ASGICache(Origin(Page(())), app._store.cache))).is_hit is (kind == "text/plain")

    asyncio.run(main())


@on_a_loop
async def test_an_endless_body_is_passed_on_and_given_up() -> None:
    streams = Streams()
    app = ASGICache(streams, memory_cache(), max_body=10_000)
    client, other = Client(app), Client(app)
    endless = asyncio.create_task(client.run())
    await client.has(1)
    waiting = asyncio.create_task(other.run())
    for number in range(50):
        await streams.write("/", b"x" * 1000)
        await client.has(2 + number)
    # The other one does not wait for an end.
    await other.has(1)
    assert streams.calls == 2
    assert app._store._buffered <= 10_000
    for task in (endless, waiting):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert app._store._buffered == 0


@on_a_loop
async def test_a_slow_body_holds_up_the_others_for_a_second_at_most() -> None:
    clock = ManualClock()
    streams = Streams()
    app = ASGICache(streams, memory_cache(clock))
    first, second = Client(app), Client(app)
    slow = asyncio.create_task(first.run())
    await first.has(1)
    clock.advance(2)
    waiting = asyncio.create_task(second.run())
    await second.has(1)
    assert streams.calls == 2
    for part in (b"x", b"x", None, None):
        await streams.write("/", part)
    await asyncio.gather(slow, waiting, return_exceptions=True)


@on_a_loop
async def test_a_broken_body_is_not_stored() -> None:
    streams = Streams()
    app = ASGICache(streams, memory_cache())
    client, other = Client(app), Client(app)
    task = asyncio.create_task(client.run())
    await client.has(1)
    waiting = asyncio.create_task(other.run())
    await settle()
    await streams.write("/", b"half")
    await streams.write("/", ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        await task
    await streams.write("/", b"whole")
    await streams.write("/", None)
    assert (await waiting).body == b"whole"
    assert app._store._buffered == 0


@on_a_loop
async def test_a_body_that_differs_from_its_length_is_not_stored() -> None:
    streams = Streams((FRESH, ("Content-Length", "5")))
    app = ASGICache(streams, memory_cache())
    for part in (b"abc", None, b"abc", None):
        await streams.write("/", part)
    await fetch(app)
    assert not (await fetch(app)).is_hit


@on_a_loop
async def test_content_that_the_server_sends_by_itself_is_not_stored() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"max-age=60")]}
        )
        await send({"type": "http.response.pathsend", "path": "/etc/hostname"})

    cached = ASGICache(app, memory_cache())
    for _ in range(2):
        client = Client(cached)
        await client._app(client._scope, client._receive, client._send)
        assert client.messages[1]["type"] == "http.response.pathsend"


# -- arguments ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"cache": {}}, TypeError, "cache must be an IntelligentCache, not dict"),
        ({"max_body": 0}, ValueError, "max_body must be 1 byte or more"),
        ({"max_body": "1"}, TypeError, "max_body must be a number of bytes"),
        ({"max_buffered": True}, TypeError, "max_buffered must be a number"),
        ({"cookies": "lax"}, ValueError, 'cookies must be "strict" or "rfc", not \'lax\''),
        ({"default_ttl": 0}, ValueError, "default_ttl must be more than 0"),
        ({"vary": "accept"}, TypeError, "vary must be a set, list or tuple"),
        ({"client_directives": 1}, TypeError, "client_directives must be True or False"),
        ({"coalesce": 1}, TypeError, "coalesce must be True or False"),
    ],
)
def test_a_wrong_argument_is_refused(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError

    with pytest.raises(error, match=text):
        ASGICache(app, **{"cache": memory_cache(), **arguments})
