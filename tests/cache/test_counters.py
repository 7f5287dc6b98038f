"""What a cache and its functions count: once each, and for good."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import inside
import pytest
from free_threads import HAS_GIL
from racing import frequent_switches, in_thread, race

from cachekit import IntelligentCache
from cachekit.model.counters import LookupTable
from cachekit.tiers.memory.stats import MemoryStats


@pytest.fixture
def cache() -> Iterator[IntelligentCache]:
    with IntelligentCache(file_cache=None) as cache:
        yield cache


def test_figures_of_one_function_count_once(cache: IntelligentCache) -> None:
    """Two threads that meet a function for the first time bump one counter."""
    kept = []
    for number in range(200):
        readers = race(*[lambda number=number: cache._core.reader(f"f{number}")] * 3)
        assert readers[0] is readers[1] is readers[2]
        kept.append(readers[0])
        del readers
    assert len(cache._core.table) == 201


def test_functions_come_and_go_and_figures_stay(cache: IntelligentCache) -> None:
    """A function that is dropped leaves its counts and nothing else, and closing takes no longer for it."""
    for number in range(300):
        cached = cache.cached(name=f"f{number}")(lambda number=number: number)
        assert (cached(), cached()) == (number, number)
        assert cached.cache_info()[:2] == (1, 1)
    del cached
    gc.collect()
    assert len(cache._core.table) == 1
    assert cache._core._functions == {}
    combined = cache.get_stats()["combined"]
    assert (combined.requests, combined.request_hits) == (600, 300)
    again = cache.cached(name="new")(lambda: 1)
    assert (again(), again()) == (1, 1)
    assert again.cache_info()[:2] == (1, 1)


def test_figures_only_grow_while_functions_are_dropped(cache: IntelligentCache) -> None:
    """A reader that is folded into the sums counts neither twice nor not at all."""
    over = threading.Event()
    seen: list[float] = []

    def watch() -> None:
        while not over.is_set():
            seen.append(cache.get_stats()["combined"].requests)

    with frequent_switches():
        watching = in_thread(watch)
        for number in range(400):
            cached = cache.cached(name=f"f{number}")(lambda: 1)
            cached(), cached()
            del cached
            if number % 100 == 0:
                gc.collect()
        over.set()
        watching()
    gc.collect()
    assert seen == sorted(seen)
    assert cache.get_stats()["combined"].requests == 800


@pytest.mark.parametrize("_", range(3 if HAS_GIL else 20))
def test_threads_drop_readers_at_once(_: int) -> None:
    """Each reader is in every total from its first count on, and none undoes what another one adds."""
    table = MemoryStats().table()
    over = threading.Event()
    seen: list[tuple[int, int]] = []

    def watch() -> None:
        while not over.is_set():
            seen.append(table.totals())

    def come_and_go() -> None:
        for _ in range(1000):
            reader = table.reader()
            reader.hits += 1
            reader.misses += 2
            del reader

    with frequent_switches():
        watching = in_thread(watch)
        race(*[come_and_go] * 3)
        over.set()
        watching()
    hits, misses = [hits for hits, _ in seen], [misses for _, misses in seen]
    assert (hits, misses) == (sorted(hits), sorted(misses))
    assert table.totals() == (3000, 6000)


def test_readers_in_garbage_cycles_count_all_the_time() -> None:
    """The collector clears the references to all garbage before it finalizes the first reader."""

    class Owner:
        def __init__(self, table: LookupTable) -> None:
            self.itself, self.table, self.reader = self, table, table.reader()
            self.reader.hits += 1
            self.reader.misses += 2

        def __del__(self) -> None:
            seen.append(self.table.totals())

    seen: list[tuple[int, int]] = []
    table = MemoryStats().table()
    owners = [Owner(table) for _ in range(3)]
    seen.append(table.totals())
    owners.clear()
    gc.collect()
    seen.append(table.totals())
    assert seen == [(3, 6)] * 5


def test_a_shared_tier_remembers_figures_and_not_readers() -> None:
    """Caches come and go over one tier; what they saw stays counted."""
    with IntelligentCache(file_cache=None) as last:
        memory = inside.memory(last)
        memory.set_value("k", 1)
        for _ in range(50):
            with IntelligentCache(memory, close_tiers=False, file_cache=None) as passing:
                assert passing.get("k") == 1
        assert memory.get_stats().hits == 50
        assert len(memory._stats._tables) == 2  # of the tier and those that left, of `last`


def test_a_cache_that_closes_during_a_sum_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its counts go to the first table, which may be read before that or after it."""
    stats = MemoryStats()
    table = stats.table()
    reader = table.reader()
    reader.hits = 5
    totals = LookupTable.totals

    def retiring(first: LookupTable) -> tuple[int, int]:
        monkeypatch.undo()
        stats.retire(table)
        return totals(first)

    monkeypatch.setattr(LookupTable, "totals", retiring)
    assert stats.lookups() == (5, 0)
    assert stats.lookups() == (5, 0)
