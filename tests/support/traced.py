"""The modules whose lines tests strike or interrupt: one place to change when they are renamed or divided."""

from __future__ import annotations

from cachekit import (
    accessor,
    background,
    batches,
    figures,
    levels,
    loads,
    refreshing,
    singleflight,
    writing,
)
from cachekit.eviction import lfu, s3fifo, sieve, tinylfu, ttl
from cachekit.locks import processes, slots
from cachekit.tiers.file import segments, sharing
from cachekit.tiers.memory import exclusive, removing, selective, store
from cachekit.tiers.memory import figures as memory_figures
from cachekit.tiers.redis import lines

#: How tiers are looked up, filled and written to.
COHERENCE = (levels, writing)
WRITES = (writing,)
ACCESS = (accessor,)
STATISTICS = (figures,)

FLIGHTS = (singleflight,)
RELOADS = (loads, refreshing)
#: The way of a caller to its loader: its parts, each traced alone.
LOADING = {"background": background, "batches": batches, "loads": loads, "flights": singleflight}

MEMORY_WRITES = (store, removing, exclusive)
MEMORY_STATISTICS = (memory_figures,)
#: What each strategy runs inside a write: each part is traced alone.
POLICIES = {
    "LRU": [selective], "W_TINYLFU": [selective, removing, tinylfu], "S3_FIFO": [s3fifo], "SIEVE": [sieve],
    "LFU": [lfu], "TTL": [ttl],
}  # fmt: skip

ENGINE_REGISTRY = (sharing,)
SEGMENTS = (segments,)
CONNECTIONS = (lines,)
PROCESS_LEASES = (processes,)
LOAD_SLOTS = (slots,)
