"""Caches of one process over one `RedisCache`, without files: each hears the others, and not itself."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import inside
import pytest
from coherent_caches import listening
from forking import in_fork
from free_threads import HAS_GIL
from racing import race
from redis_server import RedisServer, wait_until

from cachekit import CacheEntry, CacheLevel, IntelligentCache, MemoryCache, RedisCache, aio

MakeCache = Callable[..., RedisCache]
Over = Callable[..., IntelligentCache]


pytestmark = pytest.mark.usefixtures("few_buckets")


@pytest.fixture
def over() -> Iterator[Over]:
    """Makes caches over a tier, whose buses have begun to listen; all are closed."""
    with ExitStack() as stack:

        def make(redis: RedisCache, memory: MemoryCache | None = None) -> IntelligentCache:
            own = MemoryCache() if memory is None else memory
            cache = listening(lambda: IntelligentCache(own, redis, None, close_tiers=False))
            stack.callback(cache.close)
            return cache

        yield make


def copy_of(cache: IntelligentCache, key: str) -> object:
    """What the memory of the cache has."""
    assert cache.memory_cache is not None
    entry = cache.memory_cache.peek(key)
    return None if entry is None else entry.value


CHANGES: list[Callable[[IntelligentCache], object]] = [
    lambda cache: cache.set("k", "new"),
    lambda cache: cache.set("k", "new", tags={"t", "u"}),
    lambda cache: cache.set("k", "new", cache_level=CacheLevel.MEMORY),
    lambda cache: cache.set("k", "new", cache_level=CacheLevel.REDIS),
    lambda cache: cache.set("k", "new", ttl=0),
    lambda cache: cache.set_many({"k": "new", "l": "new"}),
    lambda cache: cache.delete("k"),
    lambda cache: cache.delete("k", CacheLevel.REDIS),
    lambda cache: cache.delete_many(["l", "k"]),
    lambda cache: cache.touch("k", 100),
    lambda cache: cache.invalidate_by_tags({"t"}),
    lambda cache: cache.invalidate_by_pattern("k"),
    lambda cache: cache.invalidate_by_pattern(re.compile("K", re.IGNORECASE)),
    lambda cache: cache.clear(),
    lambda cache: cache.clear(CacheLevel.REDIS),
]


def test_each_change_is_seen_when_the_call_returns(make_cache: MakeCache, over: Over) -> None:
    """Whatever one cache does to a key, the other's copy is gone; its next lookup has the new."""
    redis = make_cache()
    one, two = over(redis), over(redis)
    for change in CHANGES:
        for writer, reader in ((one, two), (two, one)):
            writer.set("k", "old", tags={"t"})
            assert (reader.get("k"), copy_of(reader, "k")) == ("old", "old")
            change(writer)
            assert copy_of(reader, "k") is None
            stored = redis.peek("k")
            assert reader.get("k") == (None if stored is None else stored.value)


def test_who_writes_keeps_its_copy(make_cache: MakeCache, over: Over) -> None:
    """It is not told of what it does itself, however many others listen."""
    redis = make_cache()
    one, two = over(redis), over(redis)
    for value in range(3):
        assert one.set("k", value)
        assert (copy_of(one, "k"), copy_of(two, "k")) == (value, None)
        assert two.get_or_set("loaded", lambda: 1) == 1
        assert copy_of(two, "loaded") == 1
    one.set("other", 1)
    one.delete("other", CacheLevel.REDIS)
    assert copy_of(one, "other") == 1, "memory was not named"


def test_two_caches_over_one_memory(make_cache: MakeCache, over: Over) -> None:
    """What one of them writes is the other's copy too."""
    redis, memory = make_cache(), MemoryCache()
    one, two = over(redis, memory), over(redis, memory)
    assert one.set("k", "new")
    assert (copy_of(one, "k"), two.get("k")) == ("new", "new")


def test_the_tier_itself_is_heard(make_cache: MakeCache, over: Over) -> None:
    """What somebody writes to the tier without a cache is told to all caches over it."""
    redis = make_cache()
    one, two = over(redis), over(redis)
    for write in (
        lambda: redis.set_value("k", "new"),
        lambda: redis.set("k", CacheEntry("k", "new")),
        lambda: redis.delete("k"),
        redis.clear,
        redis.renew,
    ):
        one.set("k", "old")
        two.get("k")
        write()
        assert (copy_of(one, "k"), copy_of(two, "k")) == (None, None)


def test_a_load_under_way_is_refused(make_cache: MakeCache, over: Over) -> None:
    """As if the neighbour's write were the cache's own."""
    redis = make_cache()
    one, two = over(redis), over(redis)

    def loader() -> str:
        one.set("k", "newer")
        return "older"

    assert two.get_or_set("k", loader) in {"older", "newer"}
    assert two.get("k") == "newer"


def test_a_listener_that_writes_is_heard(make_cache: MakeCache, over: Over) -> None:
    """A write in the midst of telling is its own cache's, also for the one that is being told of."""
    redis = make_cache()
    one, memory = over(redis), MemoryCache()
    two = over(redis, memory)
    one.set("answer", "old")
    assert two.set("k", "old")
    memory.on_removal(lambda key, *_: two.set("answer", "new") if key == "k" else None)
    assert copy_of(one, "answer") == "old"
    one.set("k", "new")
    assert (copy_of(one, "answer"), one.get("answer")) == (None, "new")
    assert copy_of(one, "k") == "new"


def test_a_write_that_failed_is_told(server: RedisServer, over: Over) -> None:
    """It may have been carried out: nobody keeps what was there before."""
    with RedisCache(url=server.url, timeout=0.2) as redis:
        one, two = over(redis), over(redis)
        one.set("k", "old")
        assert two.get("k") == "old"
        with server.frozen():
            assert one.set("k", "new") is False
            assert copy_of(two, "k") is None


def test_caches_that_are_awaited(make_cache: MakeCache, over: Over) -> None:
    """A facade's writes, from its threads, reach the others, and theirs reach it."""
    redis = make_cache()
    one = over(redis)
    other = aio.IntelligentCache.of(over(redis))

    async def work() -> None:
        for value in range(20):
            one.set("k", value)
            assert await other.get("k") == value
            await other.set("k", -value)
            assert copy_of(other.sync, "k") == -value
            assert one.get("k") == -value

    asyncio.run(work())


def test_no_stale_read(make_cache: MakeCache, over: Over) -> None:
    """Two threads write and invalidate through a cache each, others read and load; nobody sees the past."""
    redis = make_cache()
    caches = [over(redis) for _ in range(3)]
    database = {"a": 0, "b": 0}
    oldest = dict(database)
    ended = [False, False]

    def write(number: int) -> int:
        key, cache = "ab"[number], caches[number]
        try:
            for version in range(1, 300 if HAS_GIL else 60):  # readers without a GIL hold the lock
                database[key] = version
                if version % 3:
                    CHANGED[version % 3 - 1](cache, key)
                else:
                    cache.set(key, version, tags={key})
                oldest[key] = version
        finally:
            ended[number] = True
        return 0

    def read(number: int) -> int:
        cache, stale, reads = caches[number % 3], 0, 0
        while not all(ended):
            for key in database:
                least = oldest[key]
                stale += cache.get_or_set(key, lambda key=key: database[key], tags={key}) < least  # type: ignore[misc]
                reads += 1
        assert reads
        return stale

    work = [lambda number=number: write(number) for number in range(2)]
    work += [lambda number=number: read(number) for number in range(4)]
    assert race(*work) == [0] * 6


CHANGED: list[Callable[[IntelligentCache, str], object]] = [
    lambda cache, key: cache.delete(key),
    lambda cache, key: cache.invalidate_by_tags({key}),
]


def test_caches_come_and_go(make_cache: MakeCache, over: Over, caplog: pytest.LogCaptureFixture) -> None:
    """While threads write, others open and close caches over the tier: nothing is raised, or logged."""
    redis = make_cache()
    one, two = over(redis), over(redis)
    ended = threading.Event()

    def open_and_close() -> None:
        try:
            for _ in range(15):
                with IntelligentCache(MemoryCache(), redis, None, close_tiers=False) as cache:
                    cache.set("k", "theirs")
                    cache.get("k")
        finally:
            ended.set()

    def write(cache: IntelligentCache) -> None:
        while not ended.is_set():
            cache.set("k", "mine")
            cache.invalidate_by_tags({"t"})

    race(open_and_close, open_and_close, lambda: write(one), lambda: write(two))
    one.set("k", "last")
    assert two.get("k") == "last"
    assert len(inside.bus(redis).readers()) == 2
    assert caplog.text == ""


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_in_a_forked_child(make_cache: MakeCache, over: Over) -> None:
    """Its caches hear each other as the parent's do."""
    redis = make_cache()
    one, two = over(redis), over(redis)

    def work() -> None:
        for value in range(10):
            one.set("k", value)
            assert two.get("k") == value
            two.set("k", -value)
            assert one.get("k") == -value

    assert in_fork(work)() == 0
    work()


def test_a_cache_that_is_dropped_ends(make_cache: MakeCache) -> None:
    """Without `close`, and although its tier lives on: its thread ends, its memory is free."""
    redis = make_cache()

    def threads() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "cachekit-bus"]

    others = threads()
    for _ in range(3):
        cache = IntelligentCache(MemoryCache(), redis, None)
        cache.set("k", 1)
        memory = weakref.ref(cache.memory_cache)
        (own,) = [thread for thread in threads() if thread not in others]
        del cache
        gc.collect()
        own.join(60)
        assert not own.is_alive()
        assert memory() is None
    assert len(inside.bus(redis).readers()) == 1, "what is over is forgotten when the next one comes"
    redis.delete("k")


def test_a_tier_that_is_dropped_with_its_cache_ends(redis_url: str, prefix: str) -> None:
    """Nothing of either is left: no thread and, after a last heartbeat, no connection."""
    cache = IntelligentCache(MemoryCache(), RedisCache(url=redis_url, key_prefix=prefix, timeout=60), None)
    redis = cache.redis_cache
    assert isinstance(redis, RedisCache)
    cache.set("k", 1)
    (thread,) = inside.bus(redis).readers()
    server = weakref.ref(inside.server(redis))
    assert thread.is_alive()
    del cache, redis
    gc.collect()
    thread.join(60)
    assert not thread.is_alive()
    wait_until(lambda: gc.collect() >= 0 and server() is None, "the connection is given back")
