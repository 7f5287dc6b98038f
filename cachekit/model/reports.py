"""The results of explain, warm_cache and optimize_cache."""

from __future__ import annotations

import time
from typing import NamedTuple

from cachekit.model.display import shown_key, shown_tags, shown_text
from cachekit.model.types import FOREVER, CacheLevel


class Miss(NamedTuple):
    """Why no tier has a key, as far as this process knows."""

    #: "never stored", "expired", "evicted", "invalidated", "refused" by a fence during its load,
    #: "not storable", or "unknown"
    cause: str
    at: float | None = None  #: when, in seconds since the epoch; None if that is not known
    tier: str | None = None  #: the tier that evicted it, or let it expire; None if that is not known
    by: str | None = None  #: "key", "tag", "pattern" or "clear": what invalidated it, or broke the fence
    name: str | None = None  #: that key, tag or pattern
    where: str | None = None  #: "this cache", or "another cache", which is usually of another process
    reason: str = ""  #: why it is not storable

    def __str__(self) -> str:
        if self.cause == "unknown":
            return "no reason is known: it was never stored, or that is too long ago"
        parts = [self.cause if self.cause != "refused" else "its load was refused"]
        if self.at is not None:
            parts.append(f"{max(0.0, time.time() - self.at):.1f} s ago")
        if self.tier is not None:
            parts.append(f"in {self.tier}" if self.cause == "expired" else f"from {self.tier}")
        if self.by == "clear":
            parts.append("by clear")
        elif self.by is not None:
            name = "" if self.name is None or self.by == "key" else f" {shown_text(self.name)}"
            parts.append(f"by {self.by}{name}")
        if self.where is not None:
            parts.append(f"by {self.where}" if self.by is None else f"of {self.where}")
        return " ".join(parts) + (f": {self.reason}" if self.reason else "")


class Explanation(NamedTuple):
    """What `IntelligentCache.explain` found out about one key."""

    key: str
    level: CacheLevel | None  #: the tier that would serve the key; None if no tier holds it
    age: float | None  #: seconds since the value was created
    remaining: float | None  #: seconds until the entry expires; infinity if it never does
    tags: frozenset[str]
    access_count: int  #: how often that tier has served the entry
    miss: Miss | None = None  #: why no tier holds it; None if one does

    def __repr__(self) -> str:
        return f"<Explanation: {self}>"

    def __str__(self) -> str:
        if self.level is None or self.age is None or self.remaining is None:
            why = "" if self.miss is None else f": {self.miss}"
            return f"{shown_key(self.key)} is in no tier{why}"
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
