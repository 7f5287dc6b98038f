"""The results of explain, warm_cache and optimize_cache."""

from __future__ import annotations

from typing import NamedTuple

from cachekit.model.display import shown_key, shown_tags
from cachekit.model.types import FOREVER, CacheLevel


class Explanation(NamedTuple):
    """What `IntelligentCache.explain` found out about one key."""

    key: str
    level: CacheLevel | None  #: the tier that would serve the key; None if no tier holds it
    age: float | None  #: seconds since the value was created
    remaining: float | None  #: seconds until the entry expires; infinity if it never does
    tags: frozenset[str]
    access_count: int  #: how often that tier has served the entry

    def __repr__(self) -> str:
        return f"<Explanation: {self}>"

    def __str__(self) -> str:
        if self.level is None or self.age is None or self.remaining is None:
            return f"{shown_key(self.key)} is in no tier"
        life = "does not expire" if self.remaining == FOREVER else f"expires in {self.remaining:.1f} s"
        return (
            f"{shown_key(self.key)} is in {self.level.name}: {self.age:.1f} s old, {life}, "
            f"{shown_tags(self.tags)}, served {self.access_count} times"
        )


class Verified(NamedTuple):
    """How many hits of a function were compared with a fresh load, and how many differed."""

    verified: int
    mismatches: int


class WarmReport(NamedTuple):
    """What `warm_cache` did with each of its keys, in the order of the call."""

    loaded: list[str]  #: keys that this call loaded and stored
    fresh: list[str]  #: keys that a tier held already, or that another caller loaded
    failed: dict[str, Exception]  #: what the loader raised, or storing its value


class OptimizationReport(NamedTuple):
    """What `optimize_cache` removed and measured, over all tiers."""

    expired_removed: int  #: expired entries that were removed; a Redis server removes its own itself
    size: int  #: entries that are left
    memory_usage_bytes: int  #: the estimated bytes of those entries
    seconds: float  #: how long the call took
    advice: tuple[str, ...] = ()  #: the reasons of `health`, each with its remedy
