"""Step 4 of the tutorial: a change is seen by the next call, also one that struck during a load."""

import sys
import threading
from functools import partial

from cachekit import FileCache, IntelligentCache, MemoryCache

directory = sys.argv[1] if len(sys.argv) > 1 else "shop-cache"
prices = {"apple": 7.5, "fig": 4.5}
reading, changed = threading.Event(), threading.Event()


def ask(item: str) -> float:
    return prices[item]


def ask_slowly(item: str) -> float:
    found = prices[item]  # reads the price before the change, and returns after it
    reading.set()
    changed.wait(10)
    return found


with IntelligentCache(MemoryCache(), file_cache=FileCache(directory, max_size_mb=100)) as cache:
    cache.clear()
    for item in prices:
        cache.get_or_set(f"price:{item}", partial(ask, item), tags={"prices", item})

    prices["fig"] = 5.0
    cache.invalidate_by_tags({"fig"})
    print("after the change:", cache.get_or_set("price:fig", lambda: ask("fig"), tags={"prices", "fig"}))

    cache.delete("price:apple")
    slow = threading.Thread(target=cache.get_or_set, args=("price:apple", lambda: ask_slowly("apple")))
    slow.start()
    reading.wait(10)
    prices["apple"] = 8.0
    cache.delete("price:apple")  # the load is still under way, with the price from before
    changed.set()
    slow.join()
    print("after a change during a load:", cache.get_or_set("price:apple", lambda: ask("apple")))
