"""Two processes, each with a cache of its own on one server: what one invalidates the other hears."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import inside
import pytest
from redis_server import wait_until

from cachekit import CacheEntry, MemoryCache
from cachekit.testing.processes import in_processes
from cachekit.tiers.redis.answers import is_value
from cachekit.tiers.redis.tier import RedisCache

MakeCache = Callable[..., RedisCache]

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


class Copies:
    """A memory tier that the bus keeps true, as a cache over both has it."""

    def __init__(self, cache: RedisCache) -> None:
        self.memory = MemoryCache()
        self.cache = cache
        self.listening = threading.Event()
        self._heard = 0
        cache.subscribe(self)

    def keys_changed(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.memory.delete(key)

    def tags_changed(self, tags: frozenset[str]) -> None:
        self.memory.invalidate_by_tags(tags)

    def pattern_changed(self, pattern: str) -> None:
        self.memory.invalidate_by_pattern(pattern)

    def everything_changed(self) -> None:
        self.memory.clear()
        self._heard += 1
        if self._heard == 2:
            self.listening.set()

    def get(self, key: str) -> object:
        """From memory, else from the server and then in memory."""
        found = self.memory.get(key)
        if found is None:
            fence = self.memory.fence(key)
            found = self.cache.get(key)
            if found is None:
                return None
            self.memory.set_if(key, found, self.memory.fence(key, found.tags)) if fence.is_current() else None
        return found.value


def test_each_hears_the_other(make_cache: MakeCache) -> None:
    """Values, tags, patterns and clear: copies in the memory of one process go when the other says so."""
    redis_cache = make_cache()

    def work(number: int) -> str:
        copies = Copies(redis_cache)
        assert copies.listening.wait(60)
        mine, theirs = f"process {number}", f"process {1 - number}"

        def meet(step: str) -> None:
            redis_cache.set_value(f"{step} {number}", 1)
            wait_until(lambda: redis_cache.get(f"{step} {1 - number}") is not None, f"both are at {step}")

        steps: list[tuple[str, Callable[[], object]]] = [
            ("set", lambda: redis_cache.set_value(mine, "new", tags={mine})),
            ("delete", lambda: redis_cache.delete(mine)),
            ("tag", lambda: redis_cache.invalidate_by_tags({mine})),
            ("pattern", lambda: redis_cache.invalidate_by_pattern(mine)),
        ]
        for step, change in steps:
            redis_cache.set_value(mine, "old", tags={mine})
            meet(f"{step}: stored")
            wait_until(lambda: copies.get(theirs) == "old" and theirs in copies.memory, "there is a copy")
            meet(f"{step}: copied")
            change()
            expected = "new" if step == "set" else None
            wait_until(lambda: copies.get(theirs) == expected, f"the {step} is heard")  # noqa: B023
            meet(f"{step}: heard")
        redis_cache.close()
        return "well"

    assert in_processes(2, work) == ["well", "well"]


def test_only_one_of_many_stores_first(make_cache: MakeCache) -> None:
    """Eight processes load one key at once: one stores, the others are given its value, none a mixture."""
    cache = make_cache()

    def work(number: int) -> list[tuple[bool, int]]:
        results = []
        for round_ in range(50):
            key = f"k{round_}"
            there = cache.add(key, CacheEntry(key, number), cache.origin(key))
            assert there is not False
            results.append((there is True, number if there is True else there.value))
        return results

    for answers in zip(*in_processes(8, work), strict=True):
        stored = [value for was_stored, value in answers if was_stored]
        assert len(stored) == 1
        assert {value for _, value in answers} == set(stored)


def test_an_invalidation_is_not_lost_to_a_load(make_cache: MakeCache) -> None:
    """P4 over a fleet: a load that began before an invalidation leaves nothing behind it."""
    cache = make_cache()

    def work(number: int) -> int:
        kept = 0
        for round_ in range(200):
            key = f"k{round_ % 5}"
            if number == 0:
                # The source changes, then the cache is told.
                source = make_source(cache, round_)
                cache.delete(key) if round_ % 2 else cache.invalidate_by_tags({"t"})
                found = cache.get(key)
                assert found is None or found.value >= source
            else:
                origin = cache.origin(key, frozenset({"t"}))
                value = read_source(cache)
                kept += cache.add(key, CacheEntry(key, value, tags={"t"}), origin) is True
        return kept

    assert sum(in_processes(3, work)) > 0


def make_source(cache: RedisCache, value: int) -> int:
    """The database, which is not a part of the cache: a plain key of the same server."""
    inside.server(cache).call(bool, "SET", cache.key_prefix + "source", value)
    return value


def read_source(cache: RedisCache) -> int:
    return int(inside.server(cache).call(is_value, "GET", cache.key_prefix + "source") or 0)
