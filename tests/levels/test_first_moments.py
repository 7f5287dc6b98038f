"""What the first calls of a cache over a server store in memory stays there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
import redis
from forking import in_fork
from redis_server import RedisServer, wait_until

from cachekit import CacheLevel, IntelligentCache, MemoryCache, RedisCache


@pytest.fixture
def cache(redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[IntelligentCache]:
    """A cache that has not been used, whose calls wait for the bus even where it gets no CPU for long."""
    monkeypatch.setattr("cachekit.tiers.redis.bus._FIRST_CALL", 60.0)
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


@pytest.fixture
def long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts to connect are an hour apart, unless something ends the pause."""
    monkeypatch.setattr("cachekit.tiers.redis.bus.random.uniform", lambda low, high: 72_000.0)


def listens(cache: IntelligentCache) -> bool:
    bus = cache._core.tiers._bus
    assert bus is not None
    return all(reader.is_connected for reader in bus._readers)


@pytest.mark.parametrize("name", FIRST)
def test_it_stays_after_a_reconnection(
    cache: IntelligentCache, name: str, redis_url: str, prefix: str
) -> None:
    """A call that comes when the bus is lost waits until it is there again; the pause ends for it."""
    cache.get_or_set("before", lambda: 0)
    wait_until(lambda: listens(cache), "the bus is there")
    bus = cache._core.tiers._bus
    assert bus is not None
    with RedisCache(url=redis_url, key_prefix=prefix) as other:
        with redis.Redis.from_url(redis_url) as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        wait_until(lambda: bus.beginning, "the loss is noticed")
        other.set_value("before", 1)  # without a message that anyone receives
        FIRST[name](cache)
        assert listens(cache), "the call waited for it"
        memory = cache.memory_cache
        assert memory is not None
        keys = memory.keys()
        assert "before" not in keys
        assert keys
        memory.set_value("message", 1)
        wait_until(lambda: other.delete("message") or "message" not in memory, "a message arrived")
        assert memory.keys() == keys


def test_it_stays_after_an_outage(server: RedisServer, long_pauses: None) -> None:
    """A server that is back is listened to at once, however long the pauses between attempts have become."""
    redis = RedisCache(url=server.url, timeout=20)
    with IntelligentCache(MemoryCache(), redis, None) as cache:
        cache.set("k", 1)
        wait_until(lambda: listens(cache), "the bus is there")
        bus = cache._core.tiers._bus
        assert bus is not None
        server.kill()
        accessor = cache._core.tiers.redis
        assert accessor is not None
        wait_until(lambda: cache.get("none") or accessor.breaker.refuses, "the outage is noticed")
        wait_until(lambda: not listens(cache), "the loss is noticed")
        bus.await_beginning()  # an attempt that fails, after which nothing but the recovery causes another
        assert server.start()
        wait_until(lambda: not accessor.breaker.refuses, "the server is used again")
        cache.set("after", 3)
        assert listens(cache)
        memory = cache.memory_cache
        assert memory is not None
        assert "after" in memory


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_it_stays_in_a_child(cache: IntelligentCache) -> None:
    """A child listens with a thread of its own, and its first call waits for that."""
    cache.set("k", 1)
    wait_until(lambda: listens(cache), "the bus is there")

    def in_child() -> None:
        cache.get_or_set("l", lambda: 1)
        assert listens(cache)
        assert cache.memory_cache is not None
        assert "l" in cache.memory_cache

    assert in_fork(in_child)() == 0
