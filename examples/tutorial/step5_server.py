"""Step 5 of the tutorial: three tiers. Hosts share the second one, and the program works without it."""

import os
import sys

from cachekit import FileCache, IntelligentCache, MemoryCache, RedisCache

directory = sys.argv[1] if len(sys.argv) > 1 else "shop-cache"
url = os.environ.get("SHOP_REDIS_URL", "redis://127.0.0.1:6379/0")


def shop() -> IntelligentCache:
    return IntelligentCache(
        MemoryCache(max_size=10_000),
        RedisCache(url=url, key_prefix="shop:"),
        FileCache(directory, max_size_mb=100),
        default_ttl=600,
    )


with shop() as cache:
    cache.set("price:plum", 6.0, tags={"prices"})
    print("stored in every tier:", cache.set("price:fig", 4.5, tags={"prices"}))

with shop() as cache:  # a second process, or another host
    print("price:fig is", cache.get("price:fig"))
    tiers = {name: tier for name, tier in cache.get_stats().items() if name != "combined"}
    print("found in:", ", ".join(name for name, tier in tiers.items() if tier.hits))
    print("health:", cache.health().status)
