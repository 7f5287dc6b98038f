"""All eviction policies, by strategy."""

from __future__ import annotations

from collections.abc import Callable

from cachekit.model.types import CacheStrategy
from cachekit.tiers.memory.eviction.adaptive import Adaptive
from cachekit.tiers.memory.eviction.base import EvictionPolicy
from cachekit.tiers.memory.eviction.cost_aware import CostAware
from cachekit.tiers.memory.eviction.fifo import Fifo
from cachekit.tiers.memory.eviction.lfu import Lfu
from cachekit.tiers.memory.eviction.s3fifo import S3Fifo
from cachekit.tiers.memory.eviction.sieve import Sieve
from cachekit.tiers.memory.eviction.tinylfu import WTinyLfu
from cachekit.tiers.memory.eviction.ttl import SoonestToExpire

__all__ = [
    "POLICIES",
    "Adaptive",
    "CostAware",
    "Fifo",
    "Lfu",
    "S3Fifo",
    "Sieve",
    "SoonestToExpire",
    "WTinyLfu",
]

#: The factory of the policy of each strategy except LRU.
POLICIES: dict[CacheStrategy, Callable[[], EvictionPolicy]] = {
    CacheStrategy.FIFO: Fifo,
    CacheStrategy.LFU: Lfu,
    CacheStrategy.TTL: SoonestToExpire,
    CacheStrategy.SIEVE: Sieve,
    CacheStrategy.S3_FIFO: S3Fifo,
    CacheStrategy.W_TINYLFU: WTinyLfu,
    CacheStrategy.ADAPTIVE: Adaptive,
    CacheStrategy.COST_AWARE: CostAware,
}
