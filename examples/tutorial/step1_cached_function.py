"""Step 1 of the tutorial: a function whose results are kept."""

import time

from cachekit import cache_result


@cache_result
def price(item: str) -> float:
    time.sleep(0.5)  # a slow question to another service
    return len(item) * 1.5


for item in ("apple", "fig", "apple"):
    started = time.perf_counter()
    answer = price(item)
    print(f"{item} costs {answer}: {time.perf_counter() - started:.1f} s")

info = price.cache_info()
print(f"hits: {info.hits}, misses: {info.misses}")
