"""What the HTTP cache stores, and how it shares it with other hosts and survives forks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
from forking import in_fork
from http_apps import Origin, Page, fetch, memory_cache
from loops import on_a_loop, until
from redis_server import wait_until

from cachekit import IntelligentCache, MemoryCache, RedisCache
from cachekit.http import ASGICache
from cachekit.http.asgi import Receive, Scope, Send
from cachekit.http.flights import PATIENCE, Flights, Landing
from cachekit.http.keys import Keys, tag_of_path, tag_of_url
from cachekit.http.rfc9111 import Policy
from cachekit.http.store import ResponseStore
from cachekit.testing import ManualClock

FRESH = ("Cache-Control", "max-age=60")


def host(make_cache: Callable[..., RedisCache]) -> IntelligentCache:
    return IntelligentCache(MemoryCache(), make_cache(), None)


def test_hosts_share_pages_through_a_server(make_cache: Callable[..., RedisCache]) -> None:
    """Without a secret, a server receives plain values only: responses are made of these."""
    first, second = host(make_cache), host(make_cache)
    origin = Origin(Page((FRESH, ("ETag", '"1"'), ("Cache-Tag", "news")), b"\x00\xff"))
    for cache in (first, second, first):
        response = asyncio.run(fetch(ASGICache(origin, cache)))
        assert (response.body, response["etag"]) == (b"\x00\xff", '"1"')
    assert origin.count == 1
    second.invalidate_by_tags({"news"})

    def is_gone() -> bool:
        asked = [("Cache-Control", "only-if-cached")]
        return asyncio.run(fetch(ASGICache(origin, first), headers=asked)).status == 504

    wait_until(is_gone, "the message has arrived")
    first.close()
    second.close()


@pytest.mark.parametrize("strike", ["put", "known tag"])
def test_another_host_invalidates_a_page_that_is_being_made(
    strike: str, make_cache: Callable[..., RedisCache]
) -> None:
    async def main() -> None:
        first, second = host(make_cache), host(make_cache)
        origin = Origin(Page((("Cache-Control", "no-cache"), ("ETag", '"1"'), ("Cache-Tag", "news")), b"old"))
        mine, theirs = ASGICache(origin, first), ASGICache(Origin(Page((), b"", 204)), second)
        await fetch(mine)  # from now on, its tag is known
        origin.open.clear()
        origin.entered.clear()
        origin.page = Page((FRESH, ("Cache-Tag", "news")), b"old")
        reading = asyncio.create_task(fetch(mine))
        await origin.entered.wait()
        if strike == "put":
            await fetch(theirs, method="PUT")
        else:
            second.invalidate_by_tags({"news"})
        origin.open.set()
        assert (await reading).body == b"old"
        for cache in (first, second):
            asked = [("Cache-Control", "only-if-cached")]
            assert (await fetch(ASGICache(origin, cache), headers=asked)).status == 504
        first.close()
        second.close()

    asyncio.run(main())


class Overtaken(Origin):
    """An application whose calls end when the test says so, each with a page of its own."""

    def __init__(self, *pages: Page) -> None:
        super().__init__()
        self._pages = list(pages)
        self._ends = [asyncio.Event() for _ in pages]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        number = self.count
        self.calls.append(scope)
        await self._ends[number].wait()
        await Origin(self._pages[number])(scope, receive, send)

    def end(self, number: int) -> None:
        self._ends[number].set()


@pytest.mark.parametrize("vary", [(), (("Vary", "Accept"),)], ids=["one", "variants"])
@pytest.mark.parametrize(
    ("status", "etag"), [(200, '"1"'), (304, '"0"'), (404, '"1"')], ids=["page", "validation", "gone"]
)
@on_a_loop
async def test_a_call_that_was_overtaken_leaves_the_newer_page(
    status: int, etag: str, vary: tuple[tuple[str, str], ...]
) -> None:
    """Its page was made before the newer one was asked for."""
    says, clock = ("Cache-Control", "max-age=10, stale-while-revalidate=600"), ManualClock()
    fresh = (says, ("ETag", '"0"'), *vary)
    late = (("Cache-Control", "no-store"),) if status == 404 else (says, ("ETag", etag), *vary)
    origin = Overtaken(Page(fresh, b"old"), Page(late, b"late", status), Page((says, *vary), b"new"))
    app = ASGICache(origin, memory_cache(clock))
    origin.end(0)
    await fetch(app)
    clock.advance(11)
    assert (await fetch(app)).body == b"old"
    await until(lambda: origin.count == 2, "the page is revalidated")
    clock.advance(PATIENCE)
    assert (await fetch(app)).body == b"old"
    await until(lambda: origin.count == 3, "another call takes the place of the one that hangs")
    origin.end(2)
    tasks = app._collapsing._tasks
    await until(lambda: len(tasks) == 1, "the newer page is there")
    assert (await fetch(app)).body == b"new"
    origin.end(1)
    await until(lambda: not tasks, "the older call has ended")
    assert (await fetch(app)).body == b"new"


@pytest.mark.parametrize("before", ["", "Accept"])
@pytest.mark.parametrize("later", ["", "Accept-Language"])
@on_a_loop
async def test_an_overtaken_call_whose_page_varies_by_other_fields(before: str, later: str) -> None:
    """As after a change of the application. The names of the older fields replace nothing either."""
    clock = ManualClock()
    fresh = ("Cache-Control", "max-age=60")
    origin = Overtaken(Page((fresh, ("Vary", before)), b"late"), Page((fresh, ("Vary", later)), b"new"))
    app = ASGICache(origin, memory_cache(clock), coalesce=False)
    late = asyncio.create_task(fetch(app))
    await until(lambda: origin.count == 1, "the first call has begun")
    clock.advance(5)
    origin.end(1)
    assert (await fetch(app)).body == b"new"
    clock.advance(1)
    origin.end(0)
    assert (await late).body == b"late"
    assert (await fetch(app)).body == b"new"


@on_a_loop
async def test_a_clock_that_was_set_back_keeps_no_page() -> None:
    """One that is newer than now is not taken for newer than what was just asked for."""
    clock = ManualClock()
    origin = Origin(Page(body=b"old"))
    app = ASGICache(origin, memory_cache(clock))
    await fetch(app)
    clock.jump(-3600)
    origin.page = Page(body=b"new")
    assert (await fetch(app, headers=[("Cache-Control", "no-cache")])).body == b"new"
    assert (await fetch(app)).body == b"new"


@on_a_loop
async def test_a_page_that_cannot_be_stored_is_passed_on_all_the_same() -> None:
    class Refusing:
        """A weigher that fails."""

        def __call__(self, *_: object) -> int:
            raise ValueError("no weight")

    memory = MemoryCache(max_bytes=1 << 20, weigher=Refusing())
    origin = Origin()
    app = ASGICache(origin, IntelligentCache(memory, file_cache=None))
    assert [(await fetch(app)).body for _ in range(2)] == [b"page", b"page"]
    assert origin.count == 2
    assert app._store._buffered == 0


@on_a_loop
async def test_a_value_of_another_program_is_no_page() -> None:
    cache = memory_cache()
    origin = Origin()
    app = ASGICache(origin, cache)
    for value in ("text", (), ("http response 1",), ("http response 0", 200, (), b"", 0.0, 0.0), 5, None):
        cache.set("http:http://example.com/", value)
        assert (await fetch(app)).body == b"page"
        assert (await fetch(app)).is_hit
        cache.clear()


@on_a_loop
async def test_an_application_outlives_its_cache() -> None:
    cache = memory_cache()
    origin = Origin()
    app = ASGICache(origin, cache)
    await fetch(app)
    origin.open.clear()
    late = asyncio.create_task(fetch(app, "/late"))
    await until(lambda: origin.count == 2, "a page is being made")
    cache.close()
    origin.open.set()
    assert (await late).body == b"page"
    assert (await fetch(app)).cache_status == "cachekit; fwd=bypass; detail=closed"
    assert (await fetch(app, method="PUT")).cache_status == "cachekit; fwd=method"


@on_a_loop
async def test_a_thousand_requests_for_a_stale_page_are_one_validation() -> None:
    clock = ManualClock()
    origin = Origin(Page((FRESH, ("ETag", '"1"')), b"body"))
    app = ASGICache(origin, memory_cache(clock))
    await fetch(app)
    clock.advance(100)
    origin.page = Page((FRESH,), b"", 304)
    responses = await asyncio.gather(*(fetch(app) for _ in range(1000)))
    assert {(response.status, response.body) for response in responses} == {(200, b"body")}
    assert origin.count == 2


def test_tags_of_urls() -> None:
    assert tag_of_path("http://example.com/a%2fb/%C3%A9?x") == "http:/a/b/é"
    assert tag_of_url("http://Example.com:80/%61?x") == tag_of_url("http://example.com/a?x")
    assert tag_of_url("https://example.com:443/a") == tag_of_url("https://example.com/a")
    assert tag_of_url("http://example.com:443/a") != tag_of_url("http://example.com/a")
    assert tag_of_path("http://example.com/%ff") == "http:/\N{REPLACEMENT CHARACTER}"


def test_bytes_are_counted_exactly_by_threads() -> None:
    store = ResponseStore(memory_cache(), Policy(), Keys((), ()), 1 << 30)

    def count() -> None:
        for _ in range(20_000):
            store.reserve(7)
            store.reserve(-7)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store._buffered == 0


# -- flights --------------------------------------------------------------------------------------------


def test_a_forked_child_waits_for_no_request_of_its_parent() -> None:
    flights = Flights(ManualClock())
    flight, leads = flights.join("a")
    assert leads

    def child() -> None:
        assert flights.join("a")[1]

    assert in_fork(child)() == 0
    assert flights.join("a") == (flight, False)


def test_a_flight_ends_once() -> None:
    flights = Flights(ManualClock())
    flight, _ = flights.join("a")
    assert flight is not None
    woken: list[int] = []
    flight.on_landing(lambda: woken.append(1))
    flights.land("a", flight, Landing.STORED)
    flights.land("a", flight, Landing.PRIVATE)
    flight.on_landing(lambda: woken.append(2))
    assert (flight.landing, woken) == (Landing.STORED, [1, 2])
    assert flights.join("a")[1]  # the second end did not make the key private


def test_private_keys_are_forgotten() -> None:
    clock = ManualClock()
    flights = Flights(clock)
    for number in range(10_050):
        flight, _ = flights.join(str(number))
        assert flight is not None
        flights.land(str(number), flight, Landing.PRIVATE)
    assert flights.join("10049") == (None, False)
    assert flights.join("0")[1]  # the oldest ones make room
    clock.advance(11)
    assert flights.join("10049")[1]


@on_a_loop
async def test_many_pages_under_way_keep_to_the_bound() -> None:
    origin = Origin(lambda scope: Page((FRESH,), b"x" * 1000))
    app = ASGICache(origin, memory_cache(), max_buffered=5_000)
    origin.open.clear()
    tasks = [asyncio.create_task(fetch(app, f"/{number}")) for number in range(20)]
    await until(lambda: origin.count == 20, "all are under way")
    origin.open.set()
    assert {response.body for response in await asyncio.gather(*tasks)} == {b"x" * 1000}
    assert app._store._buffered == 0
