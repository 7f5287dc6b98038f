"""A cache over three real tiers that can be made to fail; a plugin, for its fixtures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from cachekit import CacheLevel, FileCache, IntelligentCache, MemoryCache, RedisCache
from cachekit.coherence.notifications import MemoryInvalidator
from cachekit.testing import FaultyTier, ManualClock
from cachekit.tiers.base import DirectoryTier, ServerTier

ALL, MEMORY, REDIS, FILE = CacheLevel.ALL, CacheLevel.MEMORY, CacheLevel.REDIS, CacheLevel.FILE


class Tiers(NamedTuple):
    """A cache over tiers that can be made to fail, with the real ones for a look past it."""

    cache: IntelligentCache
    clock: ManualClock
    memory: MemoryCache
    redis: FaultyTier
    file: FaultyTier

    def where(self, key: str) -> CacheLevel:
        """The levels that have the key."""
        found = CacheLevel(0)
        for level, tier in ((MEMORY, self.memory), (REDIS, self.redis.tier), (FILE, self.file.tier)):
            if cast("Any", tier).peek(key) is not None:
                found |= level
        return found


Make = Callable[..., Tiers]


@pytest.fixture
def make(redis_url: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes caches over one server and one directory, whose bus has begun to listen; all are closed."""
    made: list[IntelligentCache] = []
    heard = threading.Semaphore(0)
    distrust = MemoryInvalidator.everything_changed

    def announced(listener: MemoryInvalidator) -> None:
        distrust(listener)
        heard.release()

    monkeypatch.setattr(MemoryInvalidator, "everything_changed", announced)

    def tiers(directory: str = "host", clock: ManualClock | None = None, **more: Any) -> Tiers:
        clock = clock or ManualClock()
        memory = MemoryCache(clock=clock)
        redis = FaultyTier(RedisCache(url=redis_url, key_prefix=prefix, timeout=20, clock=clock))
        file = FaultyTier(FileCache(tmp_path / directory, 64, clock=clock))
        cache = IntelligentCache(memory, cast("ServerTier", redis), cast("DirectoryTier", file), **more)
        made.append(cache)
        for _ in range(2):  # as the listener's thread begins, and when the server has confirmed
            assert heard.acquire(timeout=60)
        return Tiers(cache, clock, memory, redis, file)

    yield tiers
    for cache in made:
        cache.close()


@pytest.fixture
def tiers(make: Make) -> Tiers:
    return make()
