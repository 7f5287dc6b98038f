"""What the first calls of a cache over a server store in memory stays there."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from redis_server import RedisServer, wait_until

from cachekit import CacheLevel, IntelligentCache, MemoryCache, RedisCache


@pytest.fixture
def cache(redis_url: str, prefix: str) -> Iterator[IntelligentCache]:
    """A cache that has not been used."""
    with IntelligentCache(MemoryCache(), RedisCache(url=redis_url, key_prefix=prefix), None) as cache:
        yield cache


FIRST: dict[str, Callable[[IntelligentCache], object]] = {
    "load": lambda cache: cache.get_or_set("k", lambda: 1),
    "function of memory": lambda cache: cache.cached(cache_level=CacheLevel.MEMORY, name="f")(lambda: 1)(),
    "set": lambda cache: cache.set("k", 1),
    "set in memory": lambda cache: cache.set("k", 1, cache_level=CacheLevel.MEMORY),
    "set_many": lambda cache: cache.set_many({"k": 1, "l": 1}),
}


@pytest.mark.parametrize("name", FIRST)
def test_it_stays(cache: IntelligentCache, name: str, redis_url: str, prefix: str) -> None:
    """The bus connects before the value is stored, and not after it, which would clear memory."""
    FIRST[name](cache)
    memory = cache.memory_cache
    assert memory is not None
    (key, *_) = memory.keys()
    # A message of another cache shows that this one listens, and that everything before it has arrived.
    with RedisCache(url=redis_url, key_prefix=prefix) as other:
        memory.set_value("message", 1)
        wait_until(lambda: other.delete("message") or "message" not in memory, "the message arrived")
    assert key in memory


def test_a_server_that_does_not_answer(server: RedisServer) -> None:
    """The first call waits a little longer than usual, and goes on without it."""
    redis = RedisCache(url=server.url, timeout=0.2)
    with server.frozen(), IntelligentCache(MemoryCache(), redis, None) as cache:
        assert cache.get_or_set("k", lambda: 1) == 1
        assert not cache._core.tiers.is_beginning
