"""What type checkers must see in `cachekit.aio`. Checked, not run, by test_typing.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_type

import cachekit
from cachekit import Explanation, LoadOptions, OptimizationReport, WarmReport, aio
from cachekit.aio import (
    CacheEntry,
    CacheLevel,
    CacheStats,
    FileCache,
    IntelligentCache,
    MemoryCache,
    RedisCache,
    Region,
)
from cachekit.aio.polled import PolledFacade


class User:
    """Something to keep."""


async def load() -> User:
    """A loader that is awaited."""
    return User()


def load_plain() -> User:
    """A loader that is not."""
    return User()


async def load_key(key: str) -> User:
    """A loader of one of several keys."""
    return User()


async def load_many(keys: list[str]) -> dict[str, User]:
    """A loader of several keys."""
    return {}


async def caches(cache: IntelligentCache) -> None:
    """As in the core, awaited."""
    assert_type(await cache.get("k"), Any | None)
    assert_type(await cache.get("k", 0), Any | int)
    assert_type(await cache.get("k", cache_level=CacheLevel.FILE), Any | None)
    assert_type(await cache.set("k", 1, ttl=60, tags={"a"}), bool)
    assert_type(await cache.set("k", 1, None, CacheLevel.ALL), bool)
    assert_type(await cache.get_or_set("k", load), User)
    assert_type(await cache.get_or_set("k", load_plain, ttl=60), User)
    assert_type(await cache.get_or_set("k", lambda: load(), tags=["a"]), User)
    assert_type(await cache.get_or_set("k", lambda: 1), int)
    assert_type(await cache.get_many(["k"]), dict[str, Any])
    assert_type(await cache.get_or_set_many(["k"], load_many), dict[str, User])
    assert_type(await cache.get_or_set_many(["k"], lambda keys: dict.fromkeys(keys, 1)), dict[str, int])
    assert_type(await cache.warm_cache(keys=["k"], loader_func=load_key, concurrency=2), WarmReport)
    assert_type(await cache.warm_cache(["k"], load_key, progress=True, load=LoadOptions()), WarmReport)
    assert_type(await cache.warm_cache(["k"], load_key, progress=print), WarmReport)
    assert_type(await cache.delete("k"), bool)
    assert_type(await cache.delete_many(["k"]), int | None)
    assert_type(await cache.touch("k", 5), bool)
    assert_type(await cache.contains("k"), bool)
    assert_type(await cache.explain("k"), Explanation)
    assert_type(await cache.clear(CacheLevel.MEMORY), bool)
    assert_type(await cache.invalidate_by_pattern("k"), int | None)
    assert_type(await cache.invalidate_by_tags({"a"}), int | None)
    assert_type(await cache.get_stats(), dict[str, CacheStats])
    assert_type(await cache.optimize_cache(), OptimizationReport)
    assert_type(cache.default_ttl, float)
    assert_type(cache.memory_cache, MemoryCache | None)
    assert_type(cache.redis_cache, RedisCache | PolledFacade[Any] | None)
    assert_type(cache.file_cache, FileCache | None)
    assert_type(cache.sync, cachekit.IntelligentCache)
    async with cache as same:
        assert_type(same, IntelligentCache)
    await cache.aclose()

    await cache.get(1)  # type: ignore[call-overload]
    await cache.set("k", 1, tags="user")  # type: ignore[arg-type]
    await cache.set("k", 1, no_such=1)  # type: ignore[call-arg]
    await cache.delete()  # type: ignore[call-arg]
    await cache.invalidate_by_tags("user")  # type: ignore[arg-type]
    await cache.get_or_set("k", 1)  # type: ignore[call-overload]
    await cache.warm_cache(["k"], load_key, concurrency="2")  # type: ignore[arg-type]
    await cache.warm_cache(["k"], load_key, progress="yes")  # type: ignore[arg-type]
    await cache.warm_cache(["k"], load_key, progress=lambda done: None)  # type: ignore[arg-type, misc]
    await cache.warm_cache(["k"], load_key, load="process")  # type: ignore[arg-type]
    cache.get("k") + 1  # type: ignore[operator]
    print("k" in cache)  # type: ignore[operator]
    cachekit.set_default_cache(cache)  # type: ignore[arg-type]


async def tiers(memory: MemoryCache, file: FileCache, redis: RedisCache) -> None:
    """Entries and values, awaited; the figures of a tier at once."""
    assert_type(await memory.get("k"), CacheEntry | None)
    assert_type(await memory.set("k", CacheEntry("k", 1)), bool)
    assert_type(await memory.get_value("k", 0), Any)
    assert_type(await memory.keys("k"), list[str])
    assert_type(await memory.on_removal(print), Callable[[], None])
    assert_type(memory.get_stats(), CacheStats)
    assert_type(await file.keys(), list[str])
    assert_type(await file.set_value("k", 1, ttl=5), bool)
    assert_type(await file.get_many(["k"]), dict[str, CacheEntry])
    assert_type(file.get_stats().hits, int)
    assert_type(await redis.get("k"), CacheEntry | None)
    assert_type(await redis.size(), int)
    assert_type(await redis.contains("k"), bool)
    assert_type(redis.get_stats(), CacheStats)
    assert_type(RedisCache.cluster([("a", 1)]), RedisCache)
    assert_type(MemoryCache.of(cachekit.MemoryCache()), MemoryCache)

    await memory.set("k", 1)  # type: ignore[arg-type]
    await file.delete(1)  # type: ignore[arg-type]
    await redis.set_value("k", 1, ttl="60")  # type: ignore[arg-type]
    MemoryCache("1")  # type: ignore[arg-type]
    FileCache(no_such=1)  # type: ignore[call-arg]
    IntelligentCache(file)  # type: ignore[arg-type]


async def regions(cache: IntelligentCache) -> None:
    """Typed views."""
    users = cache.region("user:", User, ttl=60)
    assert_type(users, Region[User])
    assert_type(await users.get("1"), User | None)
    assert_type(await users.get("1", False), User | bool)
    assert_type(await users.get_or_set("1", load), User)
    assert_type(await users.get_or_set("1", load_plain), User)
    assert_type(await users.set("1", User()), bool)
    assert_type(await users.clear(), int | None)

    await users.set("1", "a str")  # type: ignore[arg-type]
    await users.get(1)  # type: ignore[call-overload]


async def functions(cache: IntelligentCache) -> None:
    """The default cache."""
    assert_type(await aio.get_default_cache(), IntelligentCache)
    assert_type(aio.set_default_cache(cache), IntelligentCache | None)
    assert_type(await aio.get_cache_stats(), dict[str, CacheStats])
    assert_type(await aio.invalidate_cache_pattern("k"), int | None)
    assert_type(await aio.invalidate_cache_tags({"a"}), int | None)
    assert_type(await aio.clear_all_caches(), bool)
    assert_type(await aio.warm_cache_keys(["k"], load_key), WarmReport)
    assert_type(await aio.optimize_cache_performance(), OptimizationReport)
    with aio.override(cachekit.IntelligentCache()) as inside:
        assert_type(inside, IntelligentCache)

    await aio.invalidate_cache_tags("user")  # type: ignore[arg-type]
    await aio.invalidate_cache_pattern()  # type: ignore[call-arg]


@aio.cache_result(ttl=60)
async def cached(x: int) -> bytes:
    """A cached coroutine function."""
    return bytes(x)


async def decorated(cache: IntelligentCache) -> None:
    """The decorator of a facade is the core's."""

    @cache.cached(name="n")
    async def later(x: int) -> str:
        return str(x)

    @cache.cached
    async def bare(x: int) -> str:
        return str(x)

    assert_type(await bare(1), str)
    assert_type(await later(1), str)
    assert_type(await cached(1), bytes)
    await later("1")  # type: ignore[arg-type]
