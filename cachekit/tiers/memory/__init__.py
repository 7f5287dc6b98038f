"""The memory tier. `tier` has the class that callers use, `store` holds the entries."""

from cachekit.tiers.memory.tier import MemoryCache, memory_of_nothing, stats_of, store_of

__all__ = ["MemoryCache", "memory_of_nothing", "stats_of", "store_of"]
