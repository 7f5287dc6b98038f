"""What usually comes next is loaded before it is asked for: here, the next page of a reader."""

import hashlib
import time

from cachekit import IntelligentCache, MemoryCache

with IntelligentCache(MemoryCache(1_000, default_ttl=60), file_cache=None) as cache:

    @cache.cached(prefetch=True)
    def page(number: int) -> str:
        return hashlib.pbkdf2_hmac("sha256", b"page %d" % number, b"a backend", 10_000).hex()

    for reader in range(3):
        page.cache_clear()  # a new day
        before = page.cache_info().misses
        for number in range(10):
            page(number)
            time.sleep(0.03)  # reading
        print(f"reader {reader + 1} waited for {page.cache_info().misses - before} of 10 pages")
    print(page.cache_info().prefetch)
