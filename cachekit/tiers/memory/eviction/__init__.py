"""The eviction policies of the memory tier: one policy per file, with the algorithm's essay in its class.

LRU is not here, because the store of the memory tier is an LRU queue. `base.EvictionPolicy` says when each
method is called. The amortized cost of a hit and of an eviction is constant in each policy except
SoonestToExpire, where it grows with the logarithm of the number of entries.
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

#: The factory of the policy of each strategy except LRU.
POLICIES: dict[CacheStrategy, Callable[[], EvictionPolicy]] = {
    CacheStrategy.FIFO: Fifo,
    CacheStrategy.LFU: Lfu,
    CacheStrategy.TTL: SoonestToExpire,
    CacheStrategy.SIEVE: Sieve,
    CacheStrategy.S3_FIFO: S3Fifo,
    CacheStrategy.W_TINYLFU: WTinyLfu,
}
