"""The memory tier under threads: counts that add up, internals that agree, nothing stale."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import inside
import pytest
import traced
from interrupting import InterruptedClock
from racing import frequent_switches, race
from tracing import at_line

from cachekit import CacheEntry, IntelligentCache, MemoryCache
from cachekit.model.counters import Lookups
from cachekit.testing import ManualClock
from cachekit.tiers.memory.store import gil_enabled

THREADS = 8


@pytest.fixture
def cache(build: None, clock: ManualClock) -> Iterator[MemoryCache]:
    with MemoryCache(max_size=50, clock=clock) as cache:
        yield cache


def test_everything_at_once_leaves_the_store_whole(cache: MemoryCache) -> None:
    """After any mix of operations, order, bounds, tags and counters agree."""
    lookups = [0] * THREADS

    def work(number: int) -> None:
        random_ = random.Random(number)
        for step in range(3000):
            key = f"k{random_.randrange(100)}"
            action = random_.randrange(20)
            if action < 10:
                lookups[number] += 1
                value = cache.get_value(key)
                assert value is None or value.startswith(key + "="), value
            elif action < 15:
                cache.set_value(key, f"{key}={step}", tags={f"t{step % 5}"} if step % 2 else None)
            elif action == 15:
                cache.delete(key)
            elif action == 16:
                cache.invalidate_by_tags({f"t{step % 5}"})
            elif action == 17:
                fence = cache.fence(key, {"t1"})
                cache.set_if(key, CacheEntry(key, f"{key}={step}", tags={"t1"}), fence)
            elif action == 18:
                cache.touch(key, 100)
            elif step % 100 == 0:
                cache.invalidate_by_pattern(f"k{step % 10}")
            else:
                len(cache.keys())

    with frequent_switches():
        race(*[lambda number=number: work(number) for number in range(THREADS)])
    cache._check()
    stats = cache.get_stats()
    assert stats.hits + stats.misses == sum(lookups)
    assert stats.size <= 50
    assert len(inside.fences(cache)) == 0


def test_no_hit_is_lost_to_another_thread(cache: MemoryCache) -> None:
    """Counters bumped by eight threads at once are exact."""
    cache.set_value("k", 1)

    def hits() -> None:
        for _ in range(20_000):
            cache.get_value("k")

    with frequent_switches():
        race(*[hits] * THREADS)
    assert cache.get_stats().hits == THREADS * 20_000
    entry = cache.peek("k")
    assert entry is not None
    assert entry.access_count == THREADS * 20_000


def test_a_returned_delete_is_seen_by_everyone(cache: MemoryCache) -> None:
    """A get that begins after delete or set has returned does not see the older value."""
    newest = [0]
    stop = threading.Event()

    def write() -> None:
        for version in range(1, 3000):
            if version % 3:
                cache.set_value("k", version)
            else:
                cache.delete("k")
            newest[0] = version
        stop.set()

    def read() -> None:
        while not stop.is_set():
            at_least = newest[0]
            seen = cache.get_value("k")
            assert seen is None or seen >= at_least

    with frequent_switches():
        race(write, read, read, read)


def test_no_expired_value_under_threads(cache: MemoryCache, clock: ManualClock) -> None:
    """A reader never gets a value whose deadline had passed when it asked."""

    def work() -> None:
        for step in range(2000):
            now = clock.time()
            cache.set("k", CacheEntry("k", now + 5, now, ttl=5))
            for _ in range(step % 7):
                clock.advance(1)
                asked = clock.time()
                deadline = cache.get_value("k")
                assert deadline is None or asked < deadline

    with frequent_switches():
        race(*[work] * 4)


@pytest.mark.skipif(not gil_enabled(), reason="a free-threaded build reads both under the lock")
@pytest.mark.parametrize("through", ["tier", "cache", "function"])
@pytest.mark.parametrize("event", ["replaced", "evicted", "deleted"])
def test_nothing_comes_between_a_value_and_its_deadline(through: str, event: str) -> None:
    """A reader with an old value in hand does not take the deadline of a new one for its own."""
    clock = InterruptedClock()
    with IntelligentCache(MemoryCache(2, clock=clock), file_cache=None) as cache:
        computed = iter(range(10))
        function = cache.cached(name="f", ttl=5)(lambda argument: next(computed))
        reads: dict[str, tuple[str, Callable[[], object]]] = {
            "tier": ("k", lambda: inside.memory(cache).get_value("k")),
            "cache": ("k", lambda: cache.get("k")),
            "function": (function.key("k"), lambda: function("k")),
        }
        key, read = reads[through]
        function("k")
        cache.set(key, "old", ttl=5)
        assert read() == "old"

        def happens() -> None:
            clock.now += 5  # the old value is over
            if event == "replaced":
                cache.set(key, "new", ttl=50)
            elif event == "deleted":
                cache.delete(key)
            else:
                cache.set_many({"a": 1, "b": 1, "c": 1})

        clock.happens = happens
        expected = {"tier": None, "cache": None, "function": 1}[through]
        assert read() == ("new" if event == "replaced" else expected)


def test_a_fence_shared_by_two_threads_is_broken_for_both(cache: MemoryCache) -> None:
    """Two loads of one key hold the same news."""
    fences = race(lambda: cache.fence("k", {"a"}), lambda: cache.fence("k", {"b"}))
    cache.invalidate_by_tags({"b"})
    assert [fence.is_current() for fence in fences] == [False, False]


def test_figures_never_go_back() -> None:
    """A cache that leaves a tier takes nothing with it, not for a moment; one that comes then is kept."""
    for line in itertools.count(1):
        with MemoryCache() as memory:
            leaving = memory._stats.table()
            leaver = leaving.reader()
            leaver.hits, leaver.misses = 3, 2
            seen: list[tuple[int, int]] = []
            coming: list[Lookups] = []

            def look(memory: MemoryCache = memory, seen: Any = seen, coming: Any = coming) -> None:
                stats = memory.get_stats()
                seen.append((stats.hits, stats.misses))
                coming.append(memory._stats.table().reader())

            def leave(memory: MemoryCache = memory, leaving: Any = leaving) -> None:
                memory._stats.retire(leaving)

            if not at_line(line, traced.MEMORY_STATISTICS, look, leave):
                break
            assert seen == [(3, 2)]
            coming[0].hits += 1
            assert memory.get_stats().hits == 4
    assert line > 5
