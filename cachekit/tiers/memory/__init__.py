"""The memory tier. `tier` has the class that callers use, `store` holds the entries."""

from cachekit.tiers.memory.tier import MemoryCache, figures_of, memory_of_nothing, store_of

__all__ = ["MemoryCache", "figures_of", "memory_of_nothing", "store_of"]
