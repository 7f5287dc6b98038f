"""Invalidate by tag: drop every result that depends on one item, in all tiers."""

from __future__ import annotations

from cachekit import (
    IntelligentCache,
    cache_result,
    get_default_cache,
    invalidate_cache_tags,
    set_default_cache,
)

# Every run begins with the same prices, so this cache has no file tier that outlives the run.
set_default_cache(IntelligentCache(file_cache=None))

PRICES = {"apple": 3, "pear": 4}


@cache_result(tags=lambda item: {f"item:{item}", "prices"})
def price(item: str) -> int:
    return PRICES[item]


@cache_result(tags={"prices"})
def total() -> int:
    return sum(PRICES.values())


print(price("apple"), price("pear"), total())

PRICES["apple"] = 5
print(price("apple"), total(), "is what was remembered")

dropped = invalidate_cache_tags({"item:apple"})
print(price("apple"), total(), f"after {dropped} answer about apples was dropped")

dropped = invalidate_cache_tags({"prices"})
print(price("apple"), total(), f"after {dropped} answers about prices were dropped")

get_default_cache().set("note", "anything can carry tags", tags={"prices", "notes"})
print(invalidate_cache_tags({"notes"}), "note dropped")
