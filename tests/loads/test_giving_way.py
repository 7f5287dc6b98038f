"""Turns that nobody waits for: of loads that others wait for who have theirs. And what outlives a load."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import inside
from loops import Run, until
from racing import in_thread

from cachekit import FileCache, IntelligentCache, LoadOptions, MemoryCache, aio
from cachekit.loading.process_lease import ProcessLeases

HOUR = 3600.0


def made(directory: Path, load: LoadOptions) -> IntelligentCache:
    return IntelligentCache(MemoryCache(), file_cache=FileCache(directory / "d", 64), load=load)


ONE_SLOT = LoadOptions(max_concurrent_loads=1, lease_timeout=HOUR)


def test_what_has_the_slot_needs_what_waits_for_it(tmp_path: Path, waiting: int) -> None:
    """All pages need the settings, which somebody has begun to ask for just now."""
    with made(tmp_path, ONE_SLOT) as cache:
        begun, go_on = threading.Event(), threading.Event()

        def page() -> str:
            begun.set()
            assert go_on.wait(60)
            return "page with " + cache.get_or_set("settings", lambda: "settings")

        first = in_thread(lambda: cache.get_or_set("page", page))
        assert begun.wait(60)
        second = in_thread(lambda: cache.get_or_set("settings", lambda: "settings"))
        assert os.read(waiting, 1) == b"x"
        go_on.set()
        assert (first(), second()) == ("page with settings", "settings")
        assert cache.get_stats()["combined"].loads == 2


def test_so_on_a_loop(tmp_path: Path, waiting: int, run: Run) -> None:
    """And for a batch, which has one slot for all of its keys."""
    with made(tmp_path, ONE_SLOT) as core:
        cache = aio.IntelligentCache.of(core)

        async def main() -> None:
            begun, go_on = asyncio.Event(), asyncio.Event()

            async def pages(keys: list[str]) -> dict[str, str]:
                begun.set()
                await go_on.wait()
                return dict.fromkeys(keys, await cache.get_or_set("settings", settings))

            async def settings() -> str:
                return "settings"

            first = asyncio.create_task(cache.get_or_set_many(["page:1", "page:2"], pages))
            await begun.wait()
            second = asyncio.create_task(cache.get_or_set("settings", settings))
            await asyncio.to_thread(os.read, waiting, 1)
            go_on.set()
            async with asyncio.timeout(60):
                assert await first == {"page:1": "settings", "page:2": "settings"}
                assert await second == "settings"

        run(main())
        assert core.get_stats()["combined"].loads == 2


def test_what_has_the_lease_waits_for_a_load_without_one(tmp_path: Path) -> None:
    """Each needs the other's key: who turns back from waiting for the load does not wait for its lease."""
    leased = LoadOptions(lease="process", lease_timeout=HOUR)
    with made(tmp_path, LoadOptions()) as cache:
        both = threading.Barrier(2)
        waits = threading.Event()

        def plain() -> str:
            both.wait(60)
            assert waits.wait(60)
            return "plain, " + cache.get_or_set("leased", lambda: "leased", load=leased)

        def with_lease() -> str:
            both.wait(60)
            watch = in_thread(wait_for_it)
            value = "leased, " + cache.get_or_set("plain", lambda: "!")
            watch()
            return value

        def wait_for_it() -> None:
            asyncio.run(until(lambda: inside.waits_for(cache, "leased"), "it waits for the other one"))
            waits.set()

        first = in_thread(lambda: cache.get_or_set("plain", plain))
        second = in_thread(lambda: cache.get_or_set("leased", with_lease, load=leased))
        assert (first(), second()) == ("plain, leased", "leased")


def test_what_outlives_a_load_takes_turns_again(tmp_path: Path, waiting: int, run: Run) -> None:
    """A task that a loader has begun, such as that of a pool of connections, may load for years."""
    options = LoadOptions(lease="process", lease_timeout=HOUR)
    with made(tmp_path, options) as core:
        cache = aio.IntelligentCache.of(core)
        others = ProcessLeases(tmp_path / "d")

        async def main() -> None:
            go_on = asyncio.Event()
            begun: list[asyncio.Task[str]] = []

            async def later() -> str:
                await go_on.wait()
                return await cache.get_or_set("later", value)

            async def value() -> str:
                return "value"

            async def load() -> str:
                begun.append(asyncio.create_task(later()))
                return "loaded"

            await cache.get_or_set("k", load)
            lease = others.try_acquire("later")
            assert lease is not None
            go_on.set()
            async with asyncio.timeout(60):
                await asyncio.to_thread(os.read, waiting, 1)
                assert not begun[0].done()
                lease.release()
                assert await begun[0] == "value"

        run(main())
        others.close()
