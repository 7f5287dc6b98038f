"""Load options on loops: stale values, timeouts, refreshing, slots, and keys that are kept warm."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import inside
import pytest
from loops import Run, no_threads, until
from slow_loads import Way, in_both_ways

from cachekit import CacheError, LoadTimeoutError
from cachekit.aio import FileCache, IntelligentCache, LoadOptions, MemoryCache
from cachekit.aio.loaders import awaiting, from_threads
from cachekit.model.display import shown_key
from cachekit.testing import ManualClock


class Clocked:
    """A cache on a clock that the test moves, over memory, or over files too."""

    def __init__(self, directory: Path | None) -> None:
        self.clock = ManualClock()
        file = None if directory is None else FileCache(directory, clock=self.clock)
        self.cache = IntelligentCache(MemoryCache(clock=self.clock), None, file)


@pytest.fixture(params=["memory", "files"])
def clocked(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Clocked]:
    clocked = Clocked(tmp_path / "files" if request.param == "files" else None)
    yield clocked
    clocked.cache.sync.close()


async def fails(*_: object) -> NoReturn:
    raise OSError("backend down")


async def hangs(*_: object) -> Any:
    await asyncio.Event().wait()


def test_a_load_that_fails_gives_the_stale_value(clocked: Clocked, run: Run) -> None:
    """For one key, for a region's, and for several; without `stale_ttl` it is an error."""
    cache = clocked.cache

    async def main() -> None:
        await cache.get_or_set("k", lambda: "old", ttl=10, stale_ttl=60)
        clocked.clock.advance(10)
        assert await cache.get("k") is None
        assert await cache.get_or_set("k", fails, stale_ttl=60) == "old"
        assert await cache.region("", str).get_or_set("k", fails, stale_ttl=60) == "old"
        assert await cache.get_or_set_many(["k"], fails, stale_ttl=60) == {"k": "old"}
        for calls in (
            cache.get_or_set("k", fails),
            cache.get_or_set_many(["k"], fails),
            cache.get_or_set_many(["k", "l"], fails, stale_ttl=60),
        ):
            with pytest.raises(OSError, match="backend down"):
                await calls
        await cache.delete("k")
        with pytest.raises(OSError, match="backend down"):
            await cache.get_or_set("k", fails, stale_ttl=60)

    run(main())


@in_both_ways("clocked")
def test_timeouts(clocked: Clocked, run: Run, way: Way) -> None:
    """A load that hangs gives the stale value, or an error; the next caller begins another one."""
    cache = clocked.cache
    soft = LoadOptions(soft_timeout=0.01)
    hard = LoadOptions(hard_timeout=0.01)

    async def main() -> None:
        await cache.get_or_set("k", lambda: "old", ttl=10, stale_ttl=60)
        clocked.clock.advance(10)
        assert await way(cache, hangs, stale_ttl=60, load=soft)() == "old"
        assert await cache.get_or_set("k", fails, stale_ttl=60) == "old", "it is still being loaded"
        with pytest.raises(LoadTimeoutError):
            await cache.get_or_set("new", hangs, load=hard)
        with pytest.raises(LoadTimeoutError):
            await cache.get_or_set_many(["a", "b"], hangs, load=hard)
        assert await cache.get_or_set("new", lambda: 1) == 1
        assert await cache.get_or_set_many(["a", "b"], lambda keys: dict.fromkeys(keys, 1)) == {
            "a": 1,
            "b": 1,
        }
        await cache.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())
    no_threads()


@in_both_ways("clocked")
def test_what_comes_late_is_kept(clocked: Clocked, run: Run, way: Way) -> None:
    """A load that outran its time goes on, and what it brings is there for who asks next."""
    cache = clocked.cache

    async def main() -> None:
        go = asyncio.Event()

        async def late() -> str:
            await go.wait()
            return "late"

        ask = way(cache, late, load=LoadOptions(hard_timeout=0.01))
        with pytest.raises(LoadTimeoutError, match="took longer than"):
            await ask()
        go.set()
        await until(lambda: not len(inside.tasks(cache)), "the load is over")
        assert await cache.get("k") == await ask() == "late"

    run(main())


@in_both_ways("clocked")
def test_refreshing_ahead(clocked: Clocked, run: Run, way: Way) -> None:
    """A hit in the last part of a life is answered at once, and one reload begins."""
    cache = clocked.cache
    options = LoadOptions(refresh_ahead=0.5)

    async def main() -> None:
        calls = []

        async def load() -> int:
            calls.append(1)
            return len(calls)

        ask = way(cache, load, ttl=10, load=options)
        assert await ask() == 1
        clocked.clock.advance(4)
        assert [await ask(), await ask(), len(calls)] == [1, 1, 1]
        clocked.clock.advance(2)
        assert set(await asyncio.gather(ask(), ask(), ask())) == {1}
        await until(lambda: not len(inside.tasks(cache)), "the reload is over")
        assert (await ask(), len(calls)) == (2, 2)

    run(main())


def test_slots(tmp_path: Path, run: Run) -> None:
    """`max_concurrent_loads` bounds loads and batches of tasks."""
    options = LoadOptions(max_concurrent_loads=2)

    async def main() -> None:
        under_way = most = 0

        async def load(*_: object) -> Any:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0)
            under_way -= 1
            return {}

        async with IntelligentCache(
            MemoryCache(), None, FileCache(tmp_path / "files"), load=options
        ) as cache:
            loads = [cache.get_or_set(f"k{number}", load) for number in range(5)]
            batches = [cache.get_or_set_many([f"b{number}"], load) for number in range(5)]
            await asyncio.gather(*loads, *batches)
            assert 1 <= most <= 2

    run(main())


def test_keeping_warm(clocked: Clocked, run: Run) -> None:
    """What is kept warm is loaded on the loop again, until it is dropped."""
    cache = clocked.cache

    async def main() -> None:
        loop = asyncio.get_running_loop()
        calls: list[str] = []

        async def load(key: str) -> str:
            assert asyncio.get_running_loop() is loop
            calls.append(key)
            return key

        assert (await cache.warm_cache(["k"], load, ttl=10, keep_warm=True)).loaded == ["k"]
        kept_warm = cache.sync._core.keep_warm
        assert kept_warm is not None
        clocked.clock.advance(9)
        kept_warm.look()
        await until(lambda: calls == ["k", "k"], "it was loaded again")
        await cache.warm_cache(["k"], load)
        clocked.clock.advance(9)
        kept_warm.look()
        assert calls == ["k", "k"]

    run(main())


def test_loops_that_have_ended(run: Run) -> None:
    """A loader that is wanted after its loop has ended is an error that says so, at once."""

    async def main() -> Any:
        return from_threads(awaiting(str.upper))

    load = run(main())
    with pytest.raises(
        CacheError, match=f"{shown_key('k')} cannot be loaded, because its event loop has ended"
    ):
        load("k")


def test_warming_that_is_off(run: Run) -> None:
    """`enable_cache_warming=False` refuses `keep_warm`."""
    cache = IntelligentCache(file_cache=None, enable_cache_warming=False)
    with pytest.raises(ValueError, match="keep_warm=True, but the cache was made with"):
        run(cache.warm_cache(["k"], str.upper, keep_warm=True))
    run(cache.close())


def test_health(clocked: Clocked, run: Run) -> None:
    """It is that of the core."""
    assert run(clocked.cache.health(min_requests=1)) == clocked.cache.sync.health(min_requests=1)


HUNG = """
import asyncio, threading
from cachekit import LoadTimeoutError
from cachekit.aio import IntelligentCache, LoadOptions

async def main():
    cache = IntelligentCache(file_cache=None, load=LoadOptions(hard_timeout=0.01))
    try:
        await cache.get_or_set("k", threading.Event().wait)
    except LoadTimeoutError:
        await cache.close()

asyncio.run(main())
print("over")
"""


def test_a_process_does_not_wait_for_a_loader_that_hangs() -> None:
    """A plain loader's thread ends with the process."""
    ended = subprocess.run(
        [sys.executable, "-c", HUNG], capture_output=True, text=True, check=False, timeout=200
    )
    assert ended.stdout == "over\n", ended.stderr
