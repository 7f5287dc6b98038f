"""Which entry a full memory tier gives up: one policy a file, its class the algorithm's essay.

LRU is not here: the store of the memory tier is one. `cachekit.tiers.memory.eviction.base.EvictionPolicy` says what a policy
is told, and when; it knows keys, not values, and is never called by two threads at once unless it
asks for it. The cost of a hit and of an eviction is constant for each, in the mean over many; SoonestToExpire
takes time in proportion to the logarithm of the number of entries.
"""

from __future__ import annotations

from collections.abc import Callable

from cachekit.model.types import CacheStrategy
from cachekit.tiers.memory.eviction.base import EvictionPolicy
from cachekit.tiers.memory.eviction.fifo import Fifo
from cachekit.tiers.memory.eviction.lfu import Lfu
from cachekit.tiers.memory.eviction.s3fifo import S3Fifo
from cachekit.tiers.memory.eviction.sieve import Sieve
from cachekit.tiers.memory.eviction.tinylfu import WTinyLfu
from cachekit.tiers.memory.eviction.ttl import SoonestToExpire

__all__ = ["POLICIES", "Fifo", "Lfu", "S3Fifo", "Sieve", "SoonestToExpire", "WTinyLfu"]

#: What makes the policy of each strategy but LRU.
POLICIES: dict[CacheStrategy, Callable[[], EvictionPolicy]] = {
    CacheStrategy.FIFO: Fifo,
    CacheStrategy.LFU: Lfu,
    CacheStrategy.TTL: SoonestToExpire,
    CacheStrategy.SIEVE: Sieve,
    CacheStrategy.S3_FIFO: S3Fifo,
    CacheStrategy.W_TINYLFU: WTinyLfu,
}
