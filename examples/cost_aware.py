"""A full cache that keeps what is expensive to load, and a cache that says it should."""

import time

from cachekit import CacheStrategy, IntelligentCache, MemoryCache


def report(number: int) -> str:
    time.sleep(0.005 if number % 10 == 0 else 0)  # one report in ten takes long
    return f"report {number}"


def seconds(strategy: CacheStrategy) -> float:
    """Return how long the loads of 900 requests took, for 90 reports and room for 30."""
    memory = MemoryCache(30, strategy)
    with IntelligentCache(memory, file_cache=None) as cache:
        for request in range(900):
            number = request * 7 % 90
            cache.get_or_set(f"report:{number}", lambda number=number: report(number))  # type: ignore[misc]
        print(memory.policy)
        for line in cache.optimize_cache().advice:
            if "COST_AWARE" in line:
                print("advice:", line)
        return cache.get_stats()["combined"].load_seconds


print(f"{seconds(CacheStrategy.LRU):.2f} s of loads")
print(f"{seconds(CacheStrategy.COST_AWARE):.2f} s of loads")
