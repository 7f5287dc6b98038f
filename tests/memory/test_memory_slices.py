"""Removals of many entries hold the lock for a bounded number of entries, and lose nothing in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import inside
import pytest

from cachekit import CacheEntry, MemoryCache
from cachekit.model.types import CacheStrategy
from cachekit.tiers.memory import removal

COUNT = 3 * removal._SLICE + 7


class CountingLock:
    """A lock that notes how many entries leave in one hold, and calls something between two holds."""

    def __init__(self, cache: MemoryCache) -> None:
        self.store = inside.store(cache)
        self.lock = self.store._lock
        self.depth = 0
        self.before = 0
        self.most = 0
        self.holds = 0
        self.between: Callable[[int], object] = lambda _: None
        self.store._lock = self

    def __enter__(self) -> None:
        self.lock.acquire()
        self.depth += 1
        if self.depth == 1:
            self.before = len(self.store)

    def __exit__(self, *_: object) -> None:
        self.depth -= 1
        self.most = max(self.most, self.before - len(self.store))
        self.lock.release()
        if not self.depth:
            self.holds += 1
            between, self.between = self.between, lambda _: None
            try:
                between(self.holds)
            finally:
                self.between = between


REMOVALS: dict[str, Callable[[MemoryCache], object]] = {
    "tags": lambda cache: cache.invalidate_by_tags({"t"}),
    "pattern": lambda cache: cache.invalidate_by_pattern("k"),
    "clear": lambda cache: cache.clear(),
}
every_removal = pytest.mark.parametrize("how", REMOVALS)
every_strategy = pytest.mark.parametrize("strategy", [CacheStrategy.LRU, CacheStrategy.SIEVE])


def filled(strategy: CacheStrategy = CacheStrategy.LRU) -> MemoryCache:
    cache = MemoryCache(COUNT + 10, strategy, cleanup_interval=None)
    for number in range(COUNT):
        cache.set_value(f"k{number}", number, tags={"t", f"n{number % 3}"})
    return cache


@every_removal
@every_strategy
def test_a_hold_removes_a_slice(how: str, strategy: CacheStrategy) -> None:
    with filled(strategy) as cache:
        lock = CountingLock(cache)
        assert REMOVALS[how](cache) in (COUNT, True)
        assert 0 < lock.most <= removal._SLICE
        assert cache.size() == 0
        assert cache.get_stats().invalidations == COUNT
        cache._check()


@every_removal
@every_strategy
def test_what_happens_in_between(how: str, strategy: CacheStrategy) -> None:
    """A load that began before is refused, and entries that were there are gone, whatever others do."""
    with filled(strategy) as cache:
        old = {key: cache.fence(key, {"t"}) for key in ("k1", "knew")}
        lock = CountingLock(cache)
        held: list[int] = []

        def between(hold: int) -> None:
            held.append(hold)
            if len(held) == 1:
                return  # the call has only begun
            for key, fence in old.items():
                assert cache.set_if(key, CacheEntry(key, "loaded before", tags={"t"}), fence) is False
            for number in range(0, COUNT, 11):
                cache.set_value(f"k{number}", "newer", tags={"t"} if number % 2 else {"other"})
            cache.delete("k5")
            cache.set_value("k6", "newer")
            cache.set_value(f"extra {hold % 5}", hold, tags={"t"})

        lock.between = between
        REMOVALS[how](cache)
        lock.between = lambda _: None
        assert len(held) > 3
        left = {key: cache.get_value(key) for key in cache.keys()}  # noqa: SIM118  # not a dict
        assert set(map(type, left.values())) <= {str, int}
        assert all(value == "newer" or key.startswith("extra") for key, value in left.items())
        cache._check()
        cache.invalidate_by_tags({"t", "other"})
        assert set(cache.keys()) <= {"k6"}
        cache._check()


@every_removal
@pytest.mark.parametrize("hold", [2, 3, 4])
def test_an_interruption_in_between(how: str, hold: int) -> None:
    """What an interrupted call has left is found by the next one, also under tags that are stored again."""

    class Struck(Exception):
        pass

    def between(number: int) -> None:
        if number == hold:
            raise Struck

    with filled() as cache:
        lock = CountingLock(cache)
        lock.between = between
        with pytest.raises(Struck):
            REMOVALS[how](cache)
        lock.between = lambda _: None
        cache._check()
        assert cache.size() > 0
        again: Any = cache.keys()[0]
        cache.set_value(again, "again", tags={"t"})
        cache.set_value("new", "new", tags={"t"})
        cache._check()
        cache.invalidate_by_tags({"t"})
        assert cache.size() == 0
        cache._check()


def test_two_invalidations_at_once() -> None:
    """One that begins later does not return before the entries of the other one are gone."""
    with filled() as cache:
        lock = CountingLock(cache)
        seen: list[int] = []

        def between(hold: int) -> None:
            if hold == 3:
                assert 0 < cache.size() < COUNT
                cache.set_value("new", 1, tags={"t"})
                cache.invalidate_by_tags({"t"})
                seen.append(cache.size())

        lock.between = between
        cache.invalidate_by_tags({"t"})
        assert seen == [0]
        cache._check()
