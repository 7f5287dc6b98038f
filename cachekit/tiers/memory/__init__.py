"""The memory tier: `tier` is what people and caches speak to, `store` is what holds the entries."""

from cachekit.tiers.memory.tier import MemoryCache

__all__ = ["MemoryCache"]
