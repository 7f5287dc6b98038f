"""What a service does for months leaves nothing behind: no memory, threads, descriptors, or work."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest
from free_threads import HAS_GIL
from inside import bus, end_outage
from redis_server import RedisServer, wait_until

from cachekit import (
    FileCache,
    IntelligentCache,
    LoadOptions,
    MemoryCache,
    RedisCache,
    aio,
    cache_result,
    override,
)
from cachekit.testing import FaultyTier

#: How many of each the soak run makes, after as many as fill what is bounded: the largest bound is 10,000.
MANY, FILLING = 100_000, 20_000
#: What they may leave behind in that run: tables that are emptied when they are full, such as one of 4,096
#: places in a directory, may be more or less full. One object for each would be four times as many.
MOST_OBJECTS = 25_000
MOST_BYTES = 24 << 20

_names = itertools.count()


def one() -> int:
    return 1


async def one_awaited() -> int:
    return 1


@cache_result(name="in all caches")
def in_all_caches(x: int) -> int:
    return x


def functions(cache: IntelligentCache, count: int) -> None:
    for number in range(count):

        @cache.cached()
        def double(x: int, number: int = number) -> int:
            return x + number

        double(1)


def named_functions(cache: IntelligentCache, count: int) -> None:
    """Each has a name of its own, and each hit is verified."""
    for _number in range(count):
        function = cache.cached(name=f"f{next(_names)}", load=LoadOptions(verify=1.0))(lambda x: x)
        function(1)
        function(1)


def tagged_functions(cache: IntelligentCache, count: int) -> None:
    """Their tags are made of their arguments."""
    function = cache.cached(tags=lambda x: [f"x{x}"], name="tagged")(lambda x: x)
    for number in range(count):
        function(number)


def caches(_: IntelligentCache, count: int) -> None:
    for _number in range(count):
        with IntelligentCache(MemoryCache(max_size=10), None, None) as one_cache:
            one_cache.get_or_set("k", one)


def caches_left_open(_: IntelligentCache, count: int) -> None:
    """They are dropped without `close`, and one function has used them all."""
    for _number in range(count):
        with override(IntelligentCache(MemoryCache(max_size=10), None, None)):
            in_all_caches(1)


def caches_of_one_memory(cache: IntelligentCache, count: int) -> None:
    """They are dropped without `close`, and what they counted stays."""
    memory = cache.memory_cache
    assert memory is not None
    before = memory.get_stats().requests
    for _number in range(count):
        IntelligentCache(memory, None, None).get("k")
    assert memory.get_stats().requests == before + count


def caches_over_files(cache: IntelligentCache, count: int) -> None:
    """They share a directory."""
    assert cache.file_cache is not None
    path = Path(cache.file_cache.path).parent / "shared"
    for _number in range(count):
        file = FileCache(path, 4, cleanup_interval=None)
        with IntelligentCache(MemoryCache(max_size=10), None, file) as one_cache:
            one_cache.get_or_set("k", one)


def regions(cache: IntelligentCache, count: int) -> None:
    for number in range(count):
        region = cache.region(f"r{number}:", int)
        region.get_or_set("k", one)
        region.delete("k")
        if number % 1000 == 0:  # it goes through all keys
            region.clear()


def keys(cache: IntelligentCache, count: int) -> None:
    for number in range(count):
        cache.set(f"k{number}", number)
        cache.get_or_set(f"l{number}", one)
        cache.get(f"m{number}")
        cache.delete(f"l{number}")


def tags(cache: IntelligentCache, count: int) -> None:
    for number in range(count):
        cache.set(f"k{number}", number, tags={f"t{number}"})
        cache.get_or_set(f"l{number}", one, tags=[f"u{number}"])
        cache.invalidate_by_tags({f"v{number}"})


def abandoned_fills(cache: IntelligentCache, count: int) -> None:
    for number in range(count):
        cache.begin(f"k{number}", tags={f"t{number}"})


def keys_with_options(cache: IntelligentCache, count: int) -> None:
    """Stale values, reloads ahead, time limits, leases and slots."""
    options = LoadOptions(refresh_ahead=0.99, hard_timeout=60, lease="process", max_concurrent_loads=2)
    for number in range(count):
        cache.get_or_set(f"k{number}", one, load=options, stale_ttl=60)
        cache.get_or_set(f"k{number}", one, load=options, stale_ttl=60)


def failures(cache: IntelligentCache, count: int) -> None:
    def fail() -> int:
        raise OSError("loader's own")

    for number in range(count):
        try:
            cache.get_or_set(f"fails {number}", fail)
        except OSError:
            pass


def loops(cache: IntelligentCache, count: int) -> None:
    awaited = aio.IntelligentCache.of(cache)

    async def calls(number: int) -> None:
        await awaited.get_or_set(f"loop {number}", one_awaited)

    for number in range(count):
        asyncio.run(calls(number))


def loops_that_end_early(cache: IntelligentCache, count: int) -> None:
    """With a load under way."""
    awaited = aio.IntelligentCache.of(cache)

    async def hang() -> int:
        loop = asyncio.get_running_loop()
        loop.stop()
        await loop.create_future()
        return 1

    for number in range(count):
        loop = asyncio.new_event_loop()
        task = loop.create_task(awaited.get_or_set(f"loop {number}", hang))
        loop.run_forever()
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()


def threads(cache: IntelligentCache, count: int) -> None:
    for number in range(count):
        thread = threading.Thread(target=cache.get_or_set, args=(f"thread {number}", one))
        thread.start()
        thread.join()


def classes(cache: IntelligentCache, count: int) -> None:
    for number in range(count):
        cache.get_or_set(f"kind {number}", type(f"Kind{number}", (), {}))


def listeners(cache: IntelligentCache, count: int) -> None:
    assert cache.memory_cache is not None
    for _number in range(count):
        cache.memory_cache.on_removal(lambda *_: None)()


def outages(cache: IntelligentCache, count: int) -> None:
    tier = cache.file_cache
    assert isinstance(tier, FaultyTier)
    for number in range(count):
        tier.fail()
        cache.set(f"k{number}", 1)
        cache.invalidate_by_tags({f"t{number}"})
        tier.mend()
        end_outage(cache)


def missed(cache: IntelligentCache, count: int) -> None:
    """Invalidations, by an outage that goes on."""
    tier = cache.file_cache
    assert isinstance(tier, FaultyTier)
    tier.fail()
    for number in range(count):
        cache.set(f"k{number}", 1)
        cache.invalidate_by_tags({f"t{number}"})
        if number % 100 == 0:
            cache.invalidate_by_pattern(f"p{number}")
    tier.mend()
    end_outage(cache)


Driver = Callable[[IntelligentCache, int], None]
DRIVERS: list[Driver] = [
    functions, named_functions, tagged_functions, caches, caches_left_open, caches_of_one_memory,
    caches_over_files, regions, keys, tags, abandoned_fills, keys_with_options, failures, loops,
    loops_that_end_early, threads, classes, listeners, outages, missed,
]  # fmt: skip


class Held(NamedTuple):
    objects: (
        int  #: blocks of memory that the interpreter has allocated, each of which is one object or a part
    )
    resident: int  #: bytes of the process
    descriptors: int
    threads: int


def held() -> Held:
    re.purge()
    for _ in range(3):
        gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    descriptors = len(os.listdir("/proc/self/fd"))
    return Held(sys.getallocatedblocks(), resident, descriptors, threading.active_count())


def work_of(call: Callable[[], object]) -> int:
    """Return how many instructions of the interpreter a call executes in its thread, at the least of five."""
    executed = 0

    def count(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal executed
        frame.f_trace_opcodes = True
        executed += event == "opcode"
        return count

    def once() -> int:
        nonlocal executed
        executed = 0
        before = sys.gettrace()
        sys.settrace(count)
        try:
            call()
        finally:
            sys.settrace(before)
        return executed

    return min(once() for _ in range(5))


@contextmanager
def no_log() -> Iterator[None]:
    """Nothing keeps what is logged: pytest would."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def comes_back(
    drive: Callable[[int], None], next_call: Callable[[], object], filling: int, count: int
) -> str:
    """Assert that all is as it was after `count` more, and return the figures.

    Args:
        drive: makes some of what may grow.
        next_call: one of each operation.
        filling: how many are made first: what is filled once is full then.
        count: how many are made between the two looks.
    """
    drive(filling)
    next_call()
    work, before = work_of(next_call), held()
    drive(count)
    next_call()
    # A task of upkeep may run in a thread of its own just now.
    wait_until(lambda: threading.active_count() <= before.threads, "no more threads than before")
    work_after, after = work_of(next_call), held()
    objects, resident = after.objects - before.objects, after.resident - before.resident
    figures = (
        f"{count:>7,} more: {objects:+7,} objects, {resident / 2**20:+5.1f} MiB, "
        f"{after.descriptors - before.descriptors:+d} descriptors, no more threads than {before.threads}, "
        f"next operations {work:,} -> {work_after:,} instructions"
    )
    assert objects < (MOST_OBJECTS if filling == FILLING else (40 if HAS_GIL else 60) * count), figures
    assert resident < MOST_BYTES, figures
    assert after.descriptors <= before.descriptors + 3, figures
    assert work_after < 1.05 * work + 200, figures
    return figures


def operations(cache: IntelligentCache) -> None:
    """One of each: of the cache, a function, a further cache, and a loop."""
    cache.get_or_set("next", one, tags={"next"})
    cache.get("next")
    cache.invalidate_by_tags({"next"})
    cache.delete("next")
    cache.get_stats()
    cache.cached(name="next")(lambda x: x)(1)
    with IntelligentCache(MemoryCache(max_size=10), None, None) as further:
        further.set("next", 1)


def drive(driver: Driver, place: Path, filling: int, count: int) -> str:
    with (
        no_log(),
        IntelligentCache(
            MemoryCache(max_size=100),
            None,
            FaultyTier(FileCache(place, 8, cleanup_interval=None)),  # type: ignore[arg-type]
            reload_hot=True,
        ) as cache,
    ):
        cache.health()  # imports what simulates, which the background would at a moment of its own

        def driven(number: int) -> None:
            driver(cache, number)
            cache.clear()

        return comes_back(driven, lambda: operations(cache), filling, count)


@pytest.mark.parametrize("driver", DRIVERS)
def test_it_is_back(driver: Driver, tmp_path: Path) -> None:
    """After a hundred. Here it is seen if each leaves forty objects, in the soak run the fourth of one."""
    drive(driver, tmp_path, 100, 100)


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("driver", DRIVERS)
def test_it_is_back_after_many(driver: Driver, tmp_path: Path) -> None:
    """After a hundred thousand."""
    print(f"\n{driver.__name__:20}", drive(driver, tmp_path, FILLING, MANY))


# -- with a server ------------------------------------------------------------------------------------


def writers(server: RedisServer, cache: IntelligentCache, begin: int, count: int) -> None:
    """Each publishes one message, as a process of another host does."""
    tier, memory = cache.redis_cache, cache.memory_cache
    assert isinstance(tier, RedisCache)
    assert memory is not None
    with server.client() as client:
        for first in range(begin, begin + count, 1_000):
            pipe = client.pipeline(transaction=False)
            for number in range(first, min(first + 1_000, begin + count)):
                pipe.publish(bus(tier).channel, json.dumps([1, f"{number:018x}", 1, "keys", [f"k{number}"]]))
            pipe.execute()
            cache.set("end", 1)
            pipe.publish(bus(tier).channel, json.dumps([1, f"{first:018x}", 2, "keys", ["end"]]))
            pipe.execute()
            wait_until(lambda: "end" not in memory, "all messages have been read")


@pytest.mark.parametrize(
    ("filling", "count"),
    [(20, 50), pytest.param(FILLING, MANY, marks=[pytest.mark.soak, pytest.mark.timeout(0)])],
)
def test_writers_of_messages(server: RedisServer, filling: int, count: int) -> None:
    with no_log(), IntelligentCache(MemoryCache(), RedisCache(url=server.url), None) as cache:
        cache.health()
        begin = 0

        def drive(number: int) -> None:
            nonlocal begin
            writers(server, cache, begin, number)
            begin += number
            cache.clear()

        figures = comes_back(drive, lambda: operations(cache), filling, count)
    print(f"\n{'writers':20}", figures)


@pytest.mark.parametrize(
    ("filling", "count"),
    [(3, 10), pytest.param(1_000, MANY, marks=[pytest.mark.soak, pytest.mark.timeout(0)])],
)
def test_caches_over_a_server(server: RedisServer, filling: int, count: int) -> None:
    with no_log(), IntelligentCache(MemoryCache(), RedisCache(url=server.url), None) as cache:
        cache.health()

        def drive(number: int) -> None:
            for _ in range(number):
                with IntelligentCache(MemoryCache(), RedisCache(url=server.url), None) as further:
                    further.get_or_set("k", one)

        figures = comes_back(drive, lambda: operations(cache), filling, count)
    print(f"\n{'caches over a server':20}", figures)
