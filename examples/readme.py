"""Run the README's examples, with fast stand-ins for the slow functions."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from cachekit import cache_result


@dataclass(frozen=True)
class User:
    """The value that the README caches."""

    name: str


def load_user(number: int) -> User:
    return User(f"user {number}")


async def fetch_user(number: int) -> User:
    return load_user(number)


@cache_result
def count_primes(limit: int) -> int:
    return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, limit))


print(count_primes(200_000))

from cachekit import IntelligentCache, MemoryCache  # noqa: E402

# Memory over the program's directory, which survives a restart; file_cache=None: memory alone.
cache = IntelligentCache(MemoryCache(max_size=10_000), default_ttl=600)

# One load, for any number of threads.
user = cache.get_or_set("user:1", lambda: load_user(1), tags={"users"})
cache.set("user:2", User("Grace"), ttl=60, tags={"users"})

cache.invalidate_by_pattern(r"user:\d+$")  # a load in progress does not bring the old value back
cache.invalidate_by_tags({"users"})

users = cache.region("user:", User)  # typed: users.get("1") is a User or None
users.set("1", User("Ada"))
print(cache.explain("user:1"))  # key #96df4228de1f is in MEMORY: 0.0 s old, expires in 600.0 s, ...
print(cache.get_stats()["combined"].request_hit_rate)

from cachekit import FileCache, IntelligentCache, MemoryCache, RedisCache  # noqa: E402


def shop_cache() -> IntelligentCache:
    return IntelligentCache(
        MemoryCache(max_size=10_000),
        RedisCache(url="redis://cache.internal:6379/0", key_prefix="shop:"),
        FileCache("~/.cache/shop", max_size_mb=500),
    )


from cachekit import aio  # noqa: E402


async def profile(number: int) -> User:
    awaited = aio.IntelligentCache.of(cache)
    return await awaited.get_or_set(f"user:{number}", lambda: fetch_user(number), tags={"users"})


print(asyncio.run(profile(3)))

from cachekit import clear_all_caches, get_cache_stats, get_default_cache, invalidate_cache_tags  # noqa: E402

print(get_default_cache().file_cache is not None, invalidate_cache_tags({"none"}))
print(get_cache_stats()["combined"].requests, clear_all_caches())
