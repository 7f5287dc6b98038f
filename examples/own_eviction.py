"""Use an eviction policy of your own, for requests that run in circles, which LRU cannot serve."""

from __future__ import annotations

from cachekit import CacheStrategy, MemoryCache


class MostRecent:
    """Evict the entry that was used last."""

    def begin(self, capacity: int) -> None:
        self.order: dict[str, None] = {}

    def insert(self, key: str, deadline: float) -> None:
        self.order[key] = None

    def hit(self, key: str) -> None:
        self.order[key] = self.order.pop(key)

    def prolong(self, key: str, deadline: float) -> None:
        """Do nothing: this policy ignores deadlines."""

    def evict(self, incoming: str) -> str:
        return self.order.popitem()[0]

    def remove(self, key: str) -> None:
        del self.order[key]


def hit_rate(cache: MemoryCache) -> float:
    with cache:
        for request in range(10_000):
            key = f"page {request % 120}"  # one page after the other, then from the first again
            if cache.get_value(key) is None:
                cache.set_value(key, "...")
        return cache.get_stats().hit_rate


print(f"LRU {hit_rate(MemoryCache(100)):.0%}", end=", ")
print(f"W-TinyLFU {hit_rate(MemoryCache(100, CacheStrategy.W_TINYLFU)):.0%}", end=", ")
print(f"most recent first {hit_rate(MemoryCache(100, MostRecent)):.0%}")
