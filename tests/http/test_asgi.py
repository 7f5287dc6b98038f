"""ASGICache: what is stored, served and validated, and bodies that come in parts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from http_apps import Client, Origin, Page, Streams, fetch, memory_cache, waiting
from loops import on_a_loop, settle, until

from cachekit import aio
from cachekit.http import ASGICache
from cachekit.http.asgi import Message, Receive, Scope, Send
from cachekit.testing import ManualClock

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
async def test_a_page_is_stored_before_its_client_has_the_last_byte() -> None:
    """Also if the application ends the response later, after content of the length that it announced."""
    streams = Streams((FRESH, ("Content-Length", "4")))
    app = ASGICache(streams, memory_cache())
    client = Client(app)
    asking = asyncio.create_task(client.run())
    for part in (b"pa", b"ge"):
        await streams.write("/", part)
    await client.has(3)
    again = await fetch(app)
    assert (again.is_hit, again.body) == (True, b"page")
    await streams.write("/", None)
    assert (await asking).body == b"page"
    assert streams.calls == 1


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


@pytest.mark.parametrize("kind", ["early_hint", "push", "debug"])
@pytest.mark.parametrize("is_first", [True, False])
def test_what_comes_beside_a_response_does_not_keep_it_from_being_stored(kind: str, is_first: bool) -> None:
    """The client of that request gets it in its place. Those that wait for the response get the response."""
    beside = {"type": f"http.response.{kind}", "links": [b"</a.css>; rel=preload"], "path": "/a.css"}

    async def main() -> None:
        origin, cache = Origin(), memory_cache()
        origin.open.clear()

        async def hinting(scope: Scope, receive: Receive, send: Send) -> None:
            async def sending(message: Message) -> None:
                if message["type"] == "http.response.body":
                    await send({**message, "body": b"pa", "more_body": True})
                    if not is_first:
                        await send(beside)
                    message = {**message, "body": b"ge"}
                await send(message)

            if is_first:
                await send(beside)
            await origin(scope, receive, sending)

        app = ASGICache(hinting, cache)
        first, second = Client(app), Client(app)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(app(first._scope, first._receive, first._send))
            await origin.entered.wait()
            tasks.create_task(second.run())
            await until(lambda: waiting(app) == 1, "the second one waits for the first")
            origin.open.set()
        kinds = [message["type"].rpartition(".")[2] for message in first.messages]
        assert kinds == ([kind, "start", "body", "body"] if is_first else ["start", "body", kind, "body"])
        assert second.response.body == b"page"
        assert (await fetch(app)).is_hit
        assert origin.count == 1

    asyncio.run(main())


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
