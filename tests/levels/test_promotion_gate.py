"""Which hits in files are copied into memory: all of them, unless few copies are read again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cachekit import CacheLevel, CacheStrategy, FileCache, IntelligentCache, MemoryCache

ROOM = 100


@contextmanager
def filled(path: Path, keys: int, strategy: CacheStrategy = CacheStrategy.LRU) -> Iterator[IntelligentCache]:
    """A cache whose keys are all in files, and none of them in memory."""
    with FileCache(path, 4, None) as files:
        for number in range(keys):
            files.set_value(f"k{number}", number)
        memory = MemoryCache(ROOM, strategy, cleanup_interval=None)
        with IntelligentCache(memory, None, files, close_tiers=False) as cache:
            yield cache


def read(cache: IntelligentCache, numbers: Iterator[int] | range) -> None:
    for number in numbers:
        assert cache.get(f"k{number}") == number


def promotions(cache: IntelligentCache, during: Callable[[], object]) -> int:
    """Return how many hits are copied in that time."""
    before = cache.get_stats()["memory"].promotions
    during()
    return cache.get_stats()["memory"].promotions - before


@pytest.mark.parametrize("strategy", [CacheStrategy.LRU, CacheStrategy.SIEVE])
def test_a_scan_is_hardly_copied(tmp_path: Path, strategy: CacheStrategy) -> None:
    """Of many more keys than memory has room for, each read once in turn, one in sixteen is copied soon."""
    with filled(tmp_path, 1000, strategy) as cache:
        assert promotions(cache, lambda: read(cache, range(250))) == 250
        for _ in range(8):
            read(cache, range(1000))
        assert 40 <= promotions(cache, lambda: read(cache, range(1000))) <= 80


def test_memory_that_is_not_full_gets_all(tmp_path: Path) -> None:
    """As after a restart: no copy has been read again so far, but none has left either."""
    with FileCache(tmp_path, 4, None) as files:
        for number in range(2000):
            files.set_value(f"k{number}", number)
        with IntelligentCache(MemoryCache(2000), None, files, close_tiers=False) as cache:
            assert promotions(cache, lambda: read(cache, range(2000))) == 2000


def test_keys_that_are_read_often_get_into_memory_after_a_scan(tmp_path: Path) -> None:
    """And once most reads are hits there, each hit in files is copied again."""
    with filled(tmp_path, 1000) as cache:
        for _ in range(8):
            read(cache, range(1000))
        chance = random.Random(1)
        for _ in range(2000):
            read(cache, iter([chance.randrange(50)]))
        hits = cache.get_stats()["memory"].hits
        read(cache, range(50))
        assert cache.get_stats()["memory"].hits - hits > 45
        # Memory serves many hits for each copy. A few lookups in files are enough to find that out.
        for _ in range(30_000):
            read(cache, iter([chance.randrange(50) if chance.random() < 0.95 else chance.randrange(1000)]))
        unread = range(1000, 1030)
        for number in unread:
            assert cache.set(f"k{number}", number, cache_level=CacheLevel.FILE)
        assert promotions(cache, lambda: read(cache, unread)) == len(unread)


@pytest.mark.parametrize("many", [False, True])
def test_copies_that_a_neighbour_outdates_are_made_less_often(tmp_path: Path, many: bool) -> None:
    """Each key is written by another process before it is read again."""
    with filled(tmp_path, 90) as cache, FileCache(tmp_path, 4, None) as other:
        keys = [f"k{number}" for number in range(90)]

        def turn() -> None:
            for number, key in enumerate(keys):
                other.set_value(key, number)
            if many:
                assert cache.get_many(keys) == {key: number for number, key in enumerate(keys)}
            else:
                read(cache, range(90))

        assert promotions(cache, turn) == 90
        for _ in range(100):
            turn()
        assert promotions(cache, turn) < 12
