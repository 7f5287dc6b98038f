"""Step 3 of the tutorial: a second tier in files, which survives a restart."""

import sys
import time
from functools import partial

from cachekit import FileCache, IntelligentCache, MemoryCache

directory = sys.argv[1] if len(sys.argv) > 1 else "shop-cache"


def ask(item: str) -> float:
    time.sleep(0.5)
    return len(item) * 1.5


with IntelligentCache(
    MemoryCache(max_size=10_000), file_cache=FileCache(directory, max_size_mb=100), default_ttl=600
) as cache:
    for item in ("apple", "fig", "apple"):
        cache.get_or_set(f"price:{item}", partial(ask, item))

    statistics = cache.get_stats()
    loads = int(statistics["combined"].loads)
    print(f"memory: {statistics['memory'].hits} hits, files: {statistics['file'].hits} hits, loads: {loads}")
