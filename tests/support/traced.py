"""The modules whose lines tests strike or interrupt: one place to change when they are renamed or divided."""

from __future__ import annotations

from cachekit.coherence import accessor, tier_stack, writes
from cachekit.loading import core, flights, path, process_lease, refresh_ahead, slots, threads_driver
from cachekit.runtime import background
from cachekit.tiers import lent_connections
from cachekit.tiers.file import engine_registry, permissions, record_codec
from cachekit.tiers.file import store as file_store
from cachekit.tiers.file.engine import engine, segments
from cachekit.tiers.memcached import store as memcached_store
from cachekit.tiers.memory import policy_store, removal, store, write_lock
from cachekit.tiers.memory import stats as memory_figures
from cachekit.tiers.memory.eviction import lfu, s3fifo, sieve, tinylfu, ttl
from cachekit.tiers.redis import connection_pool

#: How tiers are looked up, filled and written to.
COHERENCE = (tier_stack, writes, file_store, engine)
FILE_LOOKUPS = (file_store,)
WRITES = (writes, file_store, engine, record_codec)
ACCESS = (accessor,)
STATISTICS = (core,)

FLIGHTS = (flights,)
RELOADS = (path, refresh_ahead)
#: The way of a caller to its loader: its parts, each traced alone.
LOADING = {"background": background, "threads_driver": threads_driver, "path": path, "flights": flights}

MEMORY_WRITES = (store, removal, write_lock)
MEMORY_STATISTICS = (memory_figures,)
#: What each strategy runs inside a write: each part is traced alone.
POLICIES = {
    "LRU": [policy_store], "W_TINYLFU": [policy_store, removal, tinylfu], "S3_FIFO": [s3fifo],
    "SIEVE": [sieve], "LFU": [lfu], "TTL": [ttl],
}  # fmt: skip

ENGINE_REGISTRY = (engine_registry,)
SEGMENTS = (segments,)
#: How a cache directory is opened, one directory after another.
OPENING = (permissions,)
CONNECTIONS = (connection_pool, lent_connections)
MEMCACHED = (memcached_store, lent_connections)
PROCESS_LEASES = (process_lease,)
LOAD_SLOTS = (slots,)
