"""What explain, warm_cache and optimize_cache return."""

from __future__ import annotations

from typing import NamedTuple

from cachekit.model.types import FOREVER, CacheLevel


class Explanation(NamedTuple):
    """What a cache knows about one key, as `IntelligentCache.explain` returns it."""

    key: str
    level: CacheLevel | None  #: the tier that would answer; None if no tier holds the key
    age: float | None  #: seconds since the value was made
    remaining: float | None  #: seconds that it has left; infinity if it does not expire
    tags: frozenset[str]
    access_count: int  #: how often that tier has served it

    def __str__(self) -> str:
        if self.level is None or self.age is None or self.remaining is None:
            return f"{self.key!r} is in no tier"
        life = "does not expire" if self.remaining == FOREVER else f"expires in {self.remaining:.1f} s"
        tags = ", ".join(sorted(self.tags)) or "none"
        return (
            f"{self.key!r} is in {self.level.name}: {self.age:.1f} s old, {life}, "
            f"tags: {tags}, served {self.access_count} times"
        )


class WarmReport(NamedTuple):
    """What `warm_cache` did with each of its keys, in the order of the call."""

    loaded: list[str]  #: loaded here, and stored
    fresh: list[str]  #: in some tier already, or loaded by somebody else meanwhile
    failed: dict[str, Exception]  #: the loader, or storing its value, raised this


class OptimizationReport(NamedTuple):
    """What `optimize_cache` did and measured, in all tiers."""

    expired_removed: int  #: entries whose time was over; a Redis removes its own by itself
    size: int  #: entries that are left
    memory_usage_bytes: int  #: what they take, about
    seconds: float  #: how long the round took
    advice: tuple[str, ...] = ()  #: what `health` finds, and what can be done about it
