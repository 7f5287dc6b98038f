"""Why does a cache not hit? An argument that is another one in each call, found by `explain_calls`."""

from __future__ import annotations

import itertools

from cachekit import IntelligentCache, MemoryCache, cache_result, override
from cachekit.testing import explain_calls

seconds = itertools.count(1732)


@cache_result(ttl=600, tags={"prices"})
def price(item: str, now: int) -> int:
    return len(item) + now % 1


@cache_result(ttl=600, tags={"prices"}, ignore=("now",))
def mended(item: str, now: int) -> int:
    return len(item) + now % 1


def main() -> None:
    with IntelligentCache(MemoryCache(), file_cache=None) as cache, override(cache):
        with explain_calls() as calls:
            for _ in range(3):
                price("apple", next(seconds))
        print(f"{sum(call.level is not None for call in calls)} of {len(calls)} calls hit\n")
        with explain_calls() as calls:
            for _ in range(3):
                mended("apple", next(seconds))
            cache.invalidate_by_tags({"prices"})
            mended("apple", next(seconds))
        print(f"{sum(call.level is not None for call in calls)} of {len(calls)} calls hit")
        cache.invalidate_by_tags({"prices"})
        print(mended.explain("apple", 0))


if __name__ == "__main__":
    main()
