"""A number that a call returns is the number of entries. None means that it is not known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

import cachekit
from cachekit import FileCache, IntelligentCache, MemoryCache, RedisCache, aio
from cachekit.testing import FaultyTier

KEYS = [f"user:{number}" for number in range(3)]


@pytest.fixture(params=["memory", "files", "server", "memory and files", "all"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[IntelligentCache]:
    kind = request.param
    memory = MemoryCache() if kind in {"memory", "memory and files", "all"} else None
    file = FileCache(tmp_path, 20) if kind in {"files", "memory and files", "all"} else None
    redis = None
    if kind in {"server", "all"}:
        redis = RedisCache(
            url=request.getfixturevalue("redis_url"), key_prefix=request.getfixturevalue("prefix")
        )
    with IntelligentCache(memory, redis, file) as cache:
        cache.set_many(dict.fromkeys(KEYS, 1), tags={"t"})
        yield cache


def counts_tags(cache: IntelligentCache) -> bool:
    return cache.redis_cache is None and cache.file_cache is None


def test_a_call_counts_all_or_says_that_it_does_not_know(cache: IntelligentCache) -> None:
    """Whatever tiers there are, 0 means that nothing was there."""

    def refilled() -> IntelligentCache:
        cache.set_many(dict.fromkeys(KEYS, 1), tags={"t"})
        return cache

    known = 3 if counts_tags(cache) else None
    with cachekit.override(cache):
        assert cache.invalidate_by_tags({"t"}) == known
        assert cache.get_many(KEYS) == {}
        refilled()
        assert cachekit.invalidate_cache_tags({"t"}) == known
        assert refilled().invalidate_by_pattern("user:") == 3
        assert cache.invalidate_by_pattern("user:") == 0
        refilled()
        assert cachekit.invalidate_cache_pattern("user:[01]") == 2
        assert refilled().delete_many([*KEYS, "none"]) == 3
        assert cache.delete_many(KEYS) == 0
        assert refilled().region("user:", int).clear() == 3
        assert cache.invalidate_by_tags([]) == 0


def test_the_awaited_calls_count_alike(cache: IntelligentCache) -> None:
    """They are the same functions."""
    known = 3 if counts_tags(cache) else None

    async def calls() -> None:
        awaited = aio.IntelligentCache.of(cache)
        assert await awaited.invalidate_by_tags({"t"}) == known
        await awaited.set_many(dict.fromkeys(KEYS, 1), tags={"t"})
        assert await awaited.invalidate_by_pattern("user:") == 3
        await awaited.set_many(dict.fromkeys(KEYS, 1), tags={"t"})
        assert await awaited.delete_many(KEYS) == 3
        await awaited.set_many(dict.fromkeys(KEYS, 1), tags={"t"})
        assert await awaited.region("user:", int).clear() == 3
        for tier in (awaited.file_cache, awaited.redis_cache):
            if tier is not None:
                await tier.set_value("k", 1, tags={"t"})
                assert await tier.invalidate_by_tags({"t"}) is None
                assert await tier.invalidate_by_tags([]) == 0

    asyncio.run(calls())


def test_a_cached_function(cache: IntelligentCache) -> None:
    """One of its own process is counted, one that tiers share is counted by memory alone."""

    @cache.cached(name="double")
    def double(x: int) -> int:
        return 2 * x

    @cache.cached(name="twice")
    async def twice(x: int) -> int:
        return 2 * x

    async def calls() -> None:
        await twice(1)
        assert await twice.cache_clear() == (1 if counts_tags(cache) else None)

    double(1)
    double(2)
    assert double.cache_clear() == (2 if counts_tags(cache) else None)
    asyncio.run(calls())
    if cache.memory_cache is not None:
        own = cache.cached()(lambda x: x)
        own(1)
        assert own.cache_clear() == 1
        assert own.cache_clear() == 0


CALLS: dict[str, Callable[[IntelligentCache], int | None]] = {
    "delete_many": lambda cache: cache.delete_many(["other", "none"]),
    "invalidate_by_tags": lambda cache: cache.invalidate_by_tags({"t"}),
    "invalidate_by_pattern": lambda cache: cache.invalidate_by_pattern("other"),
    "clear": lambda cache: cache.region("other", int).clear(),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_tier_that_fails(call: str, tmp_path: Path) -> None:
    """What it held is not known, so it is not taken for nothing."""
    with closing(FileCache(tmp_path, 20)) as file:
        failing = FaultyTier(file)
        with IntelligentCache(None, None, failing) as cache:  # type: ignore[arg-type]
            cache.set("other", 1, tags={"t"})
            failing.fail()
            assert CALLS[call](cache) is None
            failing.mend()


def test_keys_that_are_all_found_are_counted(tmp_path: Path) -> None:
    """Whatever the tier that failed would have said."""
    with closing(FileCache(tmp_path, 20)) as file:
        failing = FaultyTier(file)
        with IntelligentCache(MemoryCache(), None, failing) as cache:  # type: ignore[arg-type]
            cache.set_many({"a": 1, "b": 1})
            failing.fail()
            assert cache.delete_many(["a", "b"]) == 2
            failing.mend()
