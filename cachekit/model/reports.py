"""The results of explain, warm_cache, optimize_cache and estimate."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from cachekit.model.display import shown_error, shown_key, shown_tags, shown_text
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
    stale_for: float = 0.0  #: seconds for which a load with a `stale_ttl` may still return the expired value

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
        stale = (
            f"; a load that fails may return it stale for {self.stale_for:.1f} s" if self.stale_for else ""
        )
        return " ".join(parts) + (f": {self.reason}" if self.reason else "") + stale


class Explanation(NamedTuple):
    """What `IntelligentCache.explain` found out about one key."""

    key: str
    level: CacheLevel | None  #: the tier that would serve the key; None if no tier holds it
    age: float | None  #: seconds since the value was created
    remaining: float | None  #: seconds until the entry expires; infinity if it never does
    tags: frozenset[str]
    access_count: int  #: how often that tier has served the entry
    miss: Miss | None = None  #: why no tier holds it; None if one does
    #: How long the load of the value took, in seconds; None if memory does not know, as under LRU without
    #: `max_bytes`, which remembers no load times.
    load_seconds: float | None = None
    #: What decides on evictions from memory now, and why it was chosen, with ADAPTIVE; None with others.
    eviction: str | None = None

    def __repr__(self) -> str:
        return f"<Explanation: {self}>"

    def __str__(self) -> str:
        eviction = "" if self.eviction is None else f"; memory evicts by {self.eviction}"
        if self.level is None or self.age is None or self.remaining is None:
            why = "" if self.miss is None else f": {self.miss}"
            return f"{shown_key(self.key)} is in no tier{why}{eviction}"
        life = "does not expire" if self.remaining == FOREVER else f"expires in {self.remaining:.1f} s"
        load = "" if self.load_seconds is None else f", loaded in {self.load_seconds:.3g} s"
        return (
            f"{shown_key(self.key)} is in {self.level.name}: {self.age:.1f} s old, {life}, "
            f"{shown_tags(self.tags)}, served {self.access_count} times{load}{eviction}"
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

    def __repr__(self) -> str:
        failed = ", ".join(f"{shown_key(key)}: {shown_error(error)}" for key, error in self.failed.items())
        return f"<WarmReport: {len(self.loaded)} loaded, {len(self.fresh)} fresh, failed: {failed or 'none'}>"


class OptimizationReport(NamedTuple):
    """What `optimize_cache` removed and measured, over all tiers."""

    expired_removed: int  #: expired entries that were removed; a Redis server removes its own itself
    size: int  #: entries that are left
    memory_usage_bytes: int  #: the estimated bytes of those entries
    seconds: float  #: how long the call took
    advice: tuple[str, ...] = ()  #: the reasons of `health`, each with its remedy


class LoadTimeGain(NamedTuple):
    """What `CacheStrategy.COST_AWARE` would save beside the strategy in use, by the same simulation."""

    share: float  #: of the time that all loads would take without a cache; less than 0 if it would save less
    plus_minus: float  #: half of the interval that has the share nine times in ten
    hit_rate: float  #: what it would add to the hit rate; often less than 0

    def advice(self) -> tuple[str, ...]:
        """Return what to do about the strategy: nothing below three points of load time."""
        points, margin = 100 * self.share, 100 * self.plus_minus
        if points < _WORTH_A_STRATEGY or points <= margin:
            return ()
        return (
            f"CacheStrategy.COST_AWARE would save {points:.1f} +- {margin:.1f} points more of the load time, "
            f"at {100 * self.hit_rate:+.1f} points of hit rate",
        )


class SizeEstimate(NamedTuple):
    """The hit rates that a memory tier would have at other sizes, from simulations of a sample of its keys.

    It is false if there are no rates; `reason` says why.
    """

    size: int  #: the size of the tier: entries, or bytes if it is bounded in bytes
    rates: Mapping[int, float]  #: the hit rate, 0 to 1, by size; the one of `size` is measured
    plus_minus: Mapping[int, float]  #: by size: half of the interval that has the rate nine times in ten
    requests: int  #: lookups of the tier that the estimate covers
    sampled: float  #: the share of the keys that is simulated
    unit: Literal["entries", "bytes"] = "entries"
    reason: str | None = None  #: why there are no rates
    #: What COST_AWARE would save; None if it is in use, or if no load times are known.
    cost_aware: LoadTimeGain | None = None

    def __bool__(self) -> bool:
        return bool(self.rates)

    def gain(self, size: int) -> float:
        """Return what a size would add to the hit rate; less than 0 if it would take from it."""
        return self.rates[size] - self.rates[self.size]

    def advice(self) -> tuple[str, ...]:
        """Return what to do about size and strategy, a sentence each: nothing if it may be noise."""
        found = []
        for size in sorted(self.rates):
            points, margin = 100 * self.gain(size), 100 * self.plus_minus[size]
            argument = self._argument(size)
            if size < self.size and -points + margin <= _NO_LOSS:
                found.append(f"{argument} would lose {max(0.0, -points):.1f} points of hit rate")
            elif size > self.size and points > margin and points >= _WORTH:
                found.append(f"{argument}: {points:+.1f} +- {margin:.1f} points of hit rate")
        return tuple(found) if self.cost_aware is None else (*found, *self.cost_aware.advice())

    def more_room(self) -> str | None:
        """Return what the smallest size that helps would bring, in words; None if no size helps."""
        for size in sorted(self.rates):
            points, margin = 100 * self.gain(size), 100 * self.plus_minus[size]
            if size > self.size and points > margin and points >= _WORTH:
                return (
                    f"{self._argument(size)} would answer {points:.0f} +- {margin:.0f} points more "
                    f"of the lookups in memory"
                )
        return None

    def _argument(self, size: int) -> str:
        if self.unit == "entries":
            return f"max_size={size}"
        return f"max_bytes={size}, and {size / self.size:g} times the max_size,"


_WORTH: Final = 1.0  # points of hit rate below which more room is not worth a word
_WORTH_A_STRATEGY: Final = 3.0  # points of load time below which COST_AWARE is not worth a word
_NO_LOSS: Final = 1.0  # points of hit rate that less room may cost
