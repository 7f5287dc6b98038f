"""What `health` says to a cache that is too small, and what more room would bring."""

from __future__ import annotations

import random

from cachekit import IntelligentCache, MemoryCache

requests = random.Random(1)
with IntelligentCache(MemoryCache(max_size=60), file_cache=None) as cache:
    for _ in range(20_000):
        page = f"page {min(int(requests.expovariate(0.01)), 399)}"
        cache.get_or_set(page, lambda: "a page that took long to make")

    for reason in cache.health().reasons:
        print(f"{reason.message}: {reason.remedy}")
    for advice in cache.optimize_cache().advice[1:]:
        print(advice)
