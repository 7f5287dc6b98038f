"""The memory tier: `tier` is what people and caches speak to, `store` is what holds the entries."""

from cachekit.tiers.memory.tier import MemoryCache, figures_of, memory_of_nothing, store_of

__all__ = ["MemoryCache", "figures_of", "memory_of_nothing", "store_of"]
