"""The loop goes on while tiers wait: for a frozen server, for a disk, for a lock.

A task beats as often as the loop lets it. What a tier waits for comes only after many beats, so a call
that held up the loop would wait for what cannot come, and be over, or fail, before the beats are there.
"""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from loops import Run, no_threads, until
from redis_server import RedisServer

from cachekit.aio import CacheLevel, FileCache, IntelligentCache, MemoryCache, RedisCache

TASKS = 100
BEATS = 1000


class Heartbeat:
    """Beats whenever the loop comes round."""

    def __init__(self) -> None:
        self.beats = 0

    async def beat(self) -> None:
        while True:
            self.beats += 1
            await asyncio.sleep(0)

    async def beats_on(self) -> None:
        """Until it has beaten many more times."""
        beats = self.beats
        await until(lambda: self.beats >= beats + BEATS, "the heart has beaten")


@asynccontextmanager
async def a_heart() -> AsyncIterator[Heartbeat]:
    heart = Heartbeat()
    task = asyncio.create_task(heart.beat())
    try:
        yield heart
    finally:
        task.cancel()


def many(call: Callable[[int], Awaitable[Any]]) -> list[asyncio.Future[Any]]:
    return [asyncio.ensure_future(call(number)) for number in range(TASKS)]


class Disk:
    """A codec that reads and writes when it is let, as a disk that is busy."""

    name = "slow"
    code = 200

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.ready.set()

    def encode(self, value: Any) -> bytes:
        assert self.ready.wait(60), "it was waited for where it could not come"
        return pickle.dumps(value)

    def decode(self, payload: bytes | memoryview) -> Any:
        assert self.ready.wait(60), "it was waited for where it could not come"
        return pickle.loads(payload)


CALLS: dict[str, Callable[[IntelligentCache, int], Awaitable[Any]]] = {
    "get": lambda cache, number: cache.get(f"k{number}"),
    "get at a level": lambda cache, number: cache.get(f"k{number}", cache_level=CacheLevel.FILE),
    "get_many": lambda cache, number: cache.get_many([f"k{number}", "no"]),
    "get_or_set": lambda cache, number: cache.get_or_set(f"k{number}", lambda: 1),
    "a load": lambda cache, number: cache.get_or_set(f"new{number}", lambda: 1),
    "many loads": lambda cache, number: cache.get_or_set_many(
        [f"new{number}"], lambda keys: dict.fromkeys(keys, 1)
    ),
    "set": lambda cache, number: cache.set(f"k{number}", number),
    "set_many": lambda cache, number: cache.set_many({f"k{number}": number}),
    "a region": lambda cache, number: cache.region("k", int).get(str(number)),
    "a tier": lambda cache, number: cache.file_cache.get(f"k{number}"),  # type: ignore[union-attr]
    "a cached function": lambda cache, number: answer(cache, number),
}


async def answer(cache: IntelligentCache, number: int) -> Any:
    @cache.cached(key_func=lambda: f"k{number}", name="answer")
    async def ask() -> int:
        return number

    return await ask()


def test_a_busy_disk(subtests: pytest.Subtests, tmp_path: Path, run: Run) -> None:
    """While a hundred tasks wait for a disk the loop goes on, and none of them is done before it is ready."""
    for name in CALLS:
        with subtests.test(name=name):

            async def main() -> None:
                disk = Disk()
                file = FileCache(tmp_path / "files", codec=disk)
                async with IntelligentCache(None, None, file) as cache, a_heart() as heart:
                    await cache.set_many({f"k{number}": number for number in range(TASKS)})
                    disk.ready.clear()
                    calls = many(partial(CALLS[name], cache))  # noqa: B023
                    await heart.beats_on()
                    assert not any(call.done() for call in calls)
                    disk.ready.set()
                    await asyncio.gather(*calls)

            run(main())
            no_threads()


def test_a_frozen_server(server: RedisServer, tmp_path: Path, run: Run) -> None:
    """While a hundred tasks wait for a server that is stopped the loop goes on; then each has its answer."""

    async def main() -> None:
        redis = RedisCache(url=server.url, timeout=60)
        file = FileCache(tmp_path / "files")
        async with IntelligentCache(None, redis, file) as cache, a_heart() as heart:
            assert await cache.set_many({f"k{number}": number for number in range(TASKS)})
            with server.frozen():
                calls = many(lambda number: cache.get(f"k{number}"))
                loads = many(lambda number: cache.get_or_set(f"new{number}", lambda: number))
                tier = many(lambda number: redis.get_value(f"k{number}"))
                await heart.beats_on()
                assert not any(call.done() for call in (*calls, *loads, *tier))
            numbers = list(range(TASKS))
            assert await asyncio.gather(*calls) == numbers
            assert await asyncio.gather(*loads) == numbers
            assert await asyncio.gather(*tier) == numbers

    run(main())
    no_threads()


def test_memory_hits_while_a_server_is_frozen(server: RedisServer, run: Run) -> None:
    """What is in memory is answered at once, however many tasks wait for the server."""

    async def main() -> None:
        redis = RedisCache(url=server.url, timeout=60)
        async with IntelligentCache(MemoryCache(), redis, None) as cache:
            with server.frozen():
                waiting = many(lambda number: cache.get(f"k{number}"))
                await asyncio.sleep(0)
                await cache.memory_cache.set_value("near", 1)  # type: ignore[union-attr]
                assert [await cache.get("near") for _ in range(1000)] == [1] * 1000
                assert (await cache.get_many(["near"])) == {"near": 1}
                assert await cache.get_or_set("near", lambda: 2) == 1
                assert await cache.contains("near")
                assert not any(call.done() for call in waiting)
            assert set(await asyncio.gather(*waiting)) == {None}

    run(main())


def test_a_frozen_server_costs_a_bounded_wait(server: RedisServer, tmp_path: Path, run: Run) -> None:
    """With a short timeout the calls end by themselves, with what the file has, and the loop goes on."""

    async def main() -> None:
        async with IntelligentCache(
            None, RedisCache(url=server.url, timeout=60), FileCache(tmp_path / "files")
        ) as patient:
            assert await patient.set_many({f"k{number}": number for number in range(TASKS)})
        redis = RedisCache(url=server.url, timeout=0.5)
        file = FileCache(tmp_path / "files")
        async with IntelligentCache(None, redis, file) as cache, a_heart() as heart:
            with server.frozen():
                calls = many(lambda number: cache.get(f"k{number}"))
                await heart.beats_on()
                assert not all(call.done() for call in calls)
                assert await asyncio.gather(*calls) == list(range(TASKS))
            stats = await cache.get_stats()
            assert stats["redis"].unavailable == TASKS

    run(main())


def test_a_default_cache_is_built_off_the_loop(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call of a cached function, which opens a directory, does so in a thread."""
    from cachekit import cache_result
    from cachekit.cache import config

    threads = []
    real = config.redis_cache

    def watched() -> Any:
        threads.append(threading.get_ident())
        return real()

    monkeypatch.setattr(config, "redis_cache", watched)

    @cache_result(name="first")
    async def first() -> int:
        return 1

    async def main() -> None:
        assert list(await asyncio.gather(first(), first())) == [1, 1]
        assert len(threads) == 1
        assert threads[0] != threading.get_ident()

    run(main())


IMPORTS = """
import asyncio, sys, threading
from cachekit import aio, LoadOptions

class Watch:
    def find_spec(self, name, path=None, target=None):
        # Whatever is found is found by others.
        if threading.current_thread() is threading.main_thread() and name.partition(".")[0] in watched:
            found.append(name)

watched = {"cachekit", "filelock", "portalocker", "platformdirs", "redis"}
found = []

async def load(*_):
    return 1

async def main():
    cache = aio.IntelligentCache(file_cache=aio.FileCache(sys.argv[1], max_size_mb=5))
    cached = cache.cached()(load)
    sys.meta_path.insert(0, Watch())
    for step in (
        lambda: cache.get("k"),
        lambda: cache.set("k", {"a": 1}, tags={"t"}),
        lambda: cache.get_or_set("a", load),
        lambda: cache.get_or_set("b", load, load=LoadOptions(lease="process")),
        lambda: cache.get_or_set("c", load, load=LoadOptions(max_concurrent_loads=2)),
        lambda: cache.get_or_set("d", load, stale_ttl=9, load=LoadOptions(hard_timeout=9, soft_timeout=9)),
        lambda: cache.get_or_set("e", load, ttl=9, load=LoadOptions(refresh_ahead=0.5)),
        lambda: cache.get_many(["k", "x"]),
        lambda: cache.set_many({"k": 1}),
        lambda: cache.delete("k"),
        lambda: cache.invalidate_by_tags({"t"}),
        lambda: cache.invalidate_by_pattern("a"),
        lambda: cache.explain("x"),
        lambda: cached(1),
        lambda: cached.refresh(1),
        lambda: cached.invalidate(1),
        lambda: cache.warm_cache(["w"], load, keep_warm=True),
        lambda: cache.get_stats(),
        lambda: cache.health(),
        lambda: cache.optimize_cache(),
        lambda: cache.clear(),
        lambda: cache.aclose(),
    ):
        await step()
    print(found)

asyncio.run(main())
"""


def test_no_import_holds_up_the_loop(tmp_path: Path) -> None:
    """What a call needs for the first time is imported in a thread: portalocker alone takes 100 ms."""
    ran = subprocess.run(
        [sys.executable, "-c", IMPORTS, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    assert ran.stdout == "[]\n"
