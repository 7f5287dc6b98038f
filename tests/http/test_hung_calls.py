"""A call of the application that never ends costs other requests their patience once, and not for ever."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from http_apps import Origin, Page, WSGIOrigin, call, fetch, memory_cache, waiting
from loops import on_a_loop, until
from redis_server import wait_until

from cachekit.http import ASGICache, WSGICache, collapsing, flights
from cachekit.http.flights import PATIENCE, PATIENCE_WITH_CONTENT, Flights, Landing
from cachekit.testing import ManualClock

STALE = (("Cache-Control", "max-age=10, stale-while-revalidate=600"),)


def test_another_flight_takes_the_place_of_one_that_is_overdue() -> None:
    clock = ManualClock()
    under_way = Flights(clock)
    first, _ = under_way.join("a")
    assert first is not None
    ended: list[Landing | None] = []
    first.on_landing(lambda: ended.append(first.landing))
    clock.advance(PATIENCE - 1)
    assert under_way.join("a") == (first, False)
    clock.advance(1)
    second, leads = under_way.join("a")
    assert leads
    assert second is not first
    assert ended == [Landing.GONE]  # so that its requests wait for the second one
    under_way.land("a", first, Landing.PRIVATE)
    assert under_way.join("a") == (second, False)


def test_what_a_request_that_no_longer_waits_does() -> None:
    clock = ManualClock()
    flight, _ = Flights(clock).join("a")
    assert flight is not None
    assert (flight.keeps_waiting, flight.outcome) == (True, Landing.ALONE)
    flight.response_began()
    clock.advance(PATIENCE_WITH_CONTENT)
    assert flight.keeps_waiting
    clock.advance(0.1)
    assert (flight.keeps_waiting, flight.outcome) == (False, Landing.ALONE)
    clock.advance(PATIENCE)
    assert (flight.keeps_waiting, flight.outcome) == (False, Landing.ALONE), "its head is there"
    other, _ = Flights(clock).join("a")
    assert other is not None
    clock.advance(PATIENCE)
    assert (other.keeps_waiting, other.outcome) == (False, Landing.GONE)
    other.land(Landing.STORED)
    other.land(Landing.ALONE)
    assert (other.keeps_waiting, other.outcome) == (False, Landing.STORED)


def test_each_request_has_a_patience_of_its_own() -> None:
    """It ends at the deadline of the request, however young the flight is."""
    flight, _ = Flights(ManualClock()).join("a")
    assert flight is not None
    assert flight.wait(time.monotonic() + 0.05) is Landing.ALONE
    assert flight.landing is None
    flight.land(Landing.STORED)
    assert flight.wait(time.monotonic() - 1) is Landing.STORED


def test_revalidations_that_hang_become_rare() -> None:
    """Each waits twice as long as the one before, for there is no client that waits. A request does not."""
    clock = ManualClock()
    under_way = Flights(clock)
    begun = []
    for second in range(1000):
        if under_way.join("a", in_background=True)[1]:
            begun.append(second)
        clock.advance(1)
    assert begun == [0, 30, 90, 210, 450, 930]
    assert under_way.join("a")[1]
    assert not under_way.join("a")[1]
    (flight,) = under_way._flights.values()
    under_way.land("a", flight, Landing.STORED)
    clock.advance(PATIENCE)
    assert under_way.join("a", in_background=True)[1]
    clock.advance(PATIENCE)
    assert under_way.join("a", in_background=True)[1], "after one that ended"


class HungAt(Origin):
    """An application of which some calls never end."""

    def __init__(self, page: Page, *hung: int) -> None:
        super().__init__(page)
        self._hung = hung

    async def __call__(self, *args: Any) -> None:
        if self.count + 1 in self._hung:
            self.calls.append(args[0])
            await asyncio.Event().wait()
        await super().__call__(*args)


@on_a_loop
async def test_a_page_whose_first_call_hangs() -> None:
    clock = ManualClock()
    origin = HungAt(Page(), 1)
    app = ASGICache(origin, memory_cache(clock))
    hung = asyncio.create_task(fetch(app))
    await until(lambda: origin.count == 1, "the first call hangs")
    follower = asyncio.create_task(fetch(app))
    await until(lambda: waiting(app) == 1, "a request waits for it")
    clock.advance(PATIENCE)
    assert (await asyncio.wait_for(fetch(app), 10)).is_stored
    # The one that waited is answered by the call that took the place.
    assert "collapsed" in (await asyncio.wait_for(follower, 10)).cache_status
    assert origin.count == 2
    hung.cancel()


@on_a_loop
async def test_a_page_whose_revalidation_hangs() -> None:
    clock = ManualClock()
    origin = HungAt(Page(STALE, b"old"), 2, 3)
    app = ASGICache(origin, memory_cache(clock))
    await fetch(app)
    clock.advance(11)
    assert (await fetch(app)).body == b"old"
    await until(lambda: origin.count == 2, "the revalidation hangs")
    origin.page = Page(STALE, b"new")
    clock.advance(PATIENCE - 1)
    assert (await fetch(app)).body == b"old"
    assert origin.count == 2
    clock.advance(1)
    assert (await fetch(app)).body == b"old"
    await until(lambda: origin.count == 3, "another revalidation takes its place, and hangs")
    clock.advance(2 * PATIENCE - 1)
    assert (await fetch(app)).body == b"old"
    await asyncio.sleep(0)
    assert origin.count == 3
    clock.advance(1)
    assert (await fetch(app)).body == b"old"
    await until(lambda: origin.count == 4, "the next one waits twice as long")
    assert (await fetch(app)).body == b"new"


@on_a_loop
async def test_requests_that_lose_their_patience_together_are_one_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (collapsing, flights):
        monkeypatch.setattr(module, "PATIENCE", 0.3)
    origin = HungAt(Page(), 1)
    app = ASGICache(origin, memory_cache())
    hung = asyncio.create_task(fetch(app))
    await until(lambda: origin.count == 1, "the first call hangs")
    others = [asyncio.create_task(fetch(app)) for _ in range(20)]
    assert {response.body for response in await asyncio.wait_for(asyncio.gather(*others), 10)} == {b"page"}
    assert origin.count == 2
    hung.cancel()


class WSGIHungAt(WSGIOrigin):
    """A WSGI application of which one call ends only with the test."""

    def __init__(self, hung: int, page: Page) -> None:
        super().__init__(page)
        self._hung = hung
        self.ends = threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        if self.count + 1 == self._hung:
            self.calls.append(environ)
            assert self.ends.wait(60)
            raise OSError("the connection is lost")
        return super().__call__(environ, start_response)


def test_a_wsgi_page_whose_first_call_hangs() -> None:
    clock = ManualClock()
    origin = WSGIHungAt(1, Page())
    app = WSGICache(origin, memory_cache(clock))
    with ThreadPoolExecutor(3) as threads:
        hung = threads.submit(call, app)
        try:
            wait_until(lambda: origin.count == 1, "the first call hangs")
            follower = threads.submit(call, app)
            wait_until(lambda: waiting(app) == 1, "a request waits for it")
            clock.advance(PATIENCE)
            assert threads.submit(call, app).result(10).is_stored
            assert "collapsed" in follower.result(10).cache_status
            assert origin.count == 2
        finally:
            origin.ends.set()
        assert isinstance(hung.exception(10), OSError)


def test_a_wsgi_page_whose_revalidation_hangs() -> None:
    clock = ManualClock()
    origin = WSGIHungAt(2, Page(STALE, b"old"))
    app = WSGICache(origin, memory_cache(clock))
    try:
        call(app)
        clock.advance(11)
        assert call(app).body == b"old"
        wait_until(lambda: origin.count == 2, "the revalidation hangs")
        origin.page = Page(STALE, b"new")
        clock.advance(PATIENCE)
        assert call(app).body == b"old"
        wait_until(lambda: call(app).body == b"new", "another revalidation takes its place")
    finally:
        origin.ends.set()


def test_a_fetch_that_hangs() -> None:
    httpx = pytest.importorskip("httpx", reason="the transports need httpx")
    from cachekit.http import CachedTransport

    clock, ends, asks = ManualClock(), threading.Event(), list[Any]()

    def answer(asked: Any) -> Any:
        asks.append(asked)
        if len(asks) == 1:
            assert ends.wait(60)
        return httpx.Response(200, headers={"Cache-Control": "max-age=60"})

    client = httpx.Client(transport=CachedTransport(memory_cache(clock), httpx.MockTransport(answer)))
    with ThreadPoolExecutor(2) as threads:
        hung = threads.submit(client.get, "http://example.com/")
        try:
            wait_until(lambda: len(asks) == 1, "the first call hangs")
            clock.advance(PATIENCE)
            got = threads.submit(client.get, "http://example.com/").result(10)
            assert got.headers["cache-status"] == "cachekit; fwd=uri-miss; stored"
        finally:
            ends.set()
        assert hung.result(10).status_code == 200
