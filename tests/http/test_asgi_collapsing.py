"""ASGICache: requests that come together are one call of the application."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from http_apps import Client, Origin, Page, Streams, fetch, memory_cache, waiting
from loops import on_a_loop, settle, until

from cachekit import IntelligentCache
from cachekit.http import ASGICache
from cachekit.testing import ManualClock
from cachekit.tiers.file.tier import FileCache


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
