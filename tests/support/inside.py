"""What tests see of the inside of caches: one place to change when something inside is renamed."""

from __future__ import annotations

import math
from asyncio import Task
from collections.abc import Sequence
from typing import Any

from redis_server import wait_until

from cachekit import FileCache, IntelligentCache, MemoryCache, RedisCache, aio
from cachekit.coherence.breaker import CircuitBreaker
from cachekit.loading import flights as all_flights
from cachekit.loading.flights import FlightTable
from cachekit.loading.prefetching import PrefetchPool
from cachekit.tiers.file.engine.engine import Engine
from cachekit.tiers.file.engine.shard import Shard
from cachekit.tiers.memory.entry import MemoryEntry
from cachekit.tiers.memory.key_sample import KeySample
from cachekit.tiers.redis.bus import Bus
from cachekit.tiers.redis.bus_protocol import Outbox
from cachekit.tiers.redis.heartbeat import Heartbeat


def _core(cache: IntelligentCache | aio.IntelligentCache) -> IntelligentCache:
    return cache.sync if isinstance(cache, aio.IntelligentCache) else cache


def memory(cache: IntelligentCache | aio.IntelligentCache) -> MemoryCache:
    tier = _core(cache).memory_cache
    assert tier is not None
    return tier


def primary(cache: IntelligentCache) -> tuple[str, int]:
    """Return where the sentinels of a cache's server have its primary."""
    found = cache.redis_cache
    assert isinstance(found, RedisCache)
    assert found._server._primary is not None
    return found._server._primary._named.address


def next_probe_in(breaker: CircuitBreaker) -> float:
    """Return the seconds until an open breaker lets the tier be probed."""
    return breaker._due - breaker._monotonic()


def file_breaker(cache: IntelligentCache) -> CircuitBreaker:
    file = cache._core.tiers.file
    assert file is not None
    return file.breaker


def missed_by_server(cache: IntelligentCache) -> int:
    """The number of invalidations that the tier of the hosts has missed."""
    redis = cache._core.tiers.redis
    assert redis is not None
    return redis.pending


def functions(cache: IntelligentCache) -> list[str]:
    """The tags of the cached functions that the cache counts lookups of."""
    return list(_core(cache)._core._functions)


def loads(cache: IntelligentCache | aio.IntelligentCache) -> Any:
    return _core(cache)._core.loads


def wait_for_reload(cache: IntelligentCache | aio.IntelligentCache) -> None:
    """Wait until the entries that were used most are in memory again."""
    hot_set = _core(cache)._core.hot_set
    assert hot_set is not None
    for copy in hot_set._copies:
        copy.wait(30)
        assert copy.is_over


def functions_waited_for(cache: IntelligentCache) -> list[str]:
    """Return the functions whose entries the reader of the record copies."""
    hot_set = cache._core.hot_set
    assert hot_set is not None
    return list(hot_set._functions)


def prefetches(cache: IntelligentCache | aio.IntelligentCache) -> PrefetchPool:
    """Return what the prefetchers of a cache share."""
    return _core(cache)._core.prefetches()


def wait_for_prefetches(cache: IntelligentCache) -> None:
    """Wait until the threads that prefetch have nothing to do."""
    pool = prefetches(cache)
    wait_until(lambda: pool._unfinished == 0, "nothing is being prefetched")


def look_at_clock(cache: IntelligentCache | aio.IntelligentCache) -> None:
    """Have the keys of the minute that comes next found, and begin to prefetch them."""
    pool = prefetches(cache)
    pool.look()
    if pool._round is not None:
        pool._round.wait(30)
        assert pool._round.is_over


def clock_table(cache: IntelligentCache) -> list[dict[str, dict[int, int]]]:
    """Return what the only prefetcher of a cache knows of the hours and the days of keys."""
    (prefetcher,) = prefetches(cache)._prefetchers
    recurrence = prefetcher.predictor._recurrence
    assert recurrence is not None
    return [table.rows for table in recurrence._tables]


def flights(cache: IntelligentCache | aio.IntelligentCache) -> FlightTable[Any]:
    """Return the loads under way."""
    return _core(cache)._core.loads.path.flights


def threads_waiting(cache: IntelligentCache | aio.IntelligentCache, key: str) -> int:
    with all_flights._lock:
        flight = flights(cache)._flights.get(key)
        return 0 if flight is None else sum(one is flight for one in all_flights._waiting.values())


def tasks_waiting(cache: IntelligentCache | aio.IntelligentCache, key: str) -> int:
    with all_flights._lock:
        flight = flights(cache)._flights.get(key)
        return 0 if flight is None else len(flight._watchers)


def waits_for(cache: IntelligentCache | aio.IntelligentCache, key: str) -> list[str]:
    """Return the keys that the load of a key waits for."""
    return [flight.key for flight in flights(cache)._flights[key]._blocked_on]


def tasks(cache: IntelligentCache | aio.IntelligentCache) -> list[Task[Any]]:
    """Return the tasks of loads under way."""
    found = [reference() for reference in _core(cache)._core.loads.tasks._tasks.keyrefs()]
    return [task for task in found if task is not None]


def store(cache: MemoryCache) -> Any:
    return cache._store


def begin_sampling(cache: MemoryCache) -> None:
    """Have the thread of upkeep simulate the sample of keys, as if there were many notes."""
    sample = cache._store.sample
    assert isinstance(sample, KeySample)
    while sample.sleeps:
        sample.notes.extend(["k"] * 256)
        sample.wake()


def begin_again(cache: MemoryCache) -> None:
    """Have the next round begin again with a smaller sample, as if this one took too much of a core."""
    sample = cache._store.sample
    assert isinstance(sample, KeySample)
    sample.simulate()
    sample._credit = -1.0
    sample.simulate()


def entries(cache: MemoryCache) -> list[MemoryEntry]:
    """Return what the memory tier holds."""
    return cache._store.all_held()


def fences(cache: MemoryCache) -> Any:
    """Return the fences of loads under way."""
    return cache._store._fences


def engine(cache: FileCache) -> Engine:
    return cache._handle.engine


def shards(owner: Engine) -> Any:
    return owner._shards


def shard(owner: Engine) -> Shard:
    """Return the first shard, of an engine that may have but one."""
    return owner._shards[0]


def bus(cache: RedisCache) -> Bus:
    return cache._store.bus


def outbox(cache: RedisCache) -> Outbox:
    return cache._store.bus.outbox


def confirmed(cache: RedisCache) -> int:
    """Return the number of the last message that a heartbeat has confirmed."""
    return cache._store.bus.outbox._confirmed


def heartbeat(cache: RedisCache) -> Heartbeat:
    return cache._store.bus.heartbeat


def server(cache: RedisCache) -> Any:
    return cache._server


def redis_store(cache: RedisCache) -> Any:
    return cache._store


def let_go(cache: RedisCache, *keys: str) -> None:
    """Have the server run out of room: it lets go of the values, and not of their tokens."""
    cache._server.unlink([cache._store._layout.value(key) for key in keys])


def look_again(cache: FileCache) -> None:
    """Have the next operation look at the directory, as if it came a tenth of a second later."""
    handle = cache._handle
    handle.fresh_until = handle.checked_until = handle._sizes_until = 0.0


def look_never(cache: FileCache) -> None:
    """Have no operation look at the directory before something is missing there."""
    cache._handle.checked_until = math.inf


def keep_warm(cache: IntelligentCache, keys: Sequence[str]) -> None:
    """Have keys kept warm whose values are there."""
    kept = cache._core.keep_warm
    assert kept is not None
    kept.keep(keys, str, cache._core.defaults.request(3600, None))


def end_outage(cache: IntelligentCache) -> None:
    """Have the file tier probed until it is used again, without the pauses in between."""
    file = cache._core.tiers.file
    assert file is not None
    while file.is_out:
        file.breaker._due = 0.0
        file.probe()
