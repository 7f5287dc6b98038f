"""Step 2 of the tutorial: a cache of your own, with bounds and statistics."""

import threading
import time
from functools import partial

from cachekit import IntelligentCache, MemoryCache

calls: list[str] = []


def ask(item: str) -> float:
    calls.append(item)
    time.sleep(0.5)
    return len(item) * 1.5


cache = IntelligentCache(MemoryCache(max_size=10_000), file_cache=None, default_ttl=600)


def serve(item: str) -> None:
    price = cache.get_or_set(f"price:{item}", partial(ask, item))
    assert price == len(item) * 1.5


visitors = [threading.Thread(target=serve, args=("apple",)) for _ in range(20)]
for visitor in visitors:
    visitor.start()
for visitor in visitors:
    visitor.join()
serve("apple")

memory = cache.get_stats()["memory"]
print(f"21 visitors, {len(calls)} call of the service; in memory: {memory.size} entry")
