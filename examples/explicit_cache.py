"""Make a cache of your own in memory, store values in it, and read them."""

from __future__ import annotations

from cachekit import IntelligentCache, MemoryCache

with IntelligentCache(MemoryCache(max_size=10_000), file_cache=None, default_ttl=3600) as cache:
    cache.set("user:1", {"name": "Ada"}, ttl=60)
    print(cache.get("user:1"))
    print(cache.get("user:2", "no such user"))

    # One caller loads. Other callers wait for that load.
    print(cache.get_or_set("user:3", lambda: {"name": "Grace"}))

    # A region is a typed view of the keys with one prefix: pages.get("/") is `str | None`.
    pages = cache.region("page:", str, ttl=600)
    pages.set("/", "<h1>Hello</h1>")
    print(pages.get("/"))

    cache.delete("user:1")
    print("user:1" in cache)
    print(f"hit rate: {cache.get_stats()['combined'].request_hit_rate:.0%}")
