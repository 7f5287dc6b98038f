"""Reads the figures of one cache. Nothing on the way of a hit changes for that."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from math import inf
from typing import Final, NamedTuple, final
from weakref import WeakKeyDictionary, ref

from cachekit.loading.core import CacheCore
from cachekit.model.counters import LatencyHistogram
from cachekit.model.stats import CacheStats
from cachekit.monitoring.families import GAUGES, HIT_DURATIONS, PARTS, TIER_COUNTERS
from cachekit.runtime.interrupts import raise_interrupt
from cachekit.tiers.file import store_of
from cachekit.tiers.memory.stats import usage
from cachekit.tiers.redis import latency_of

Numbers = dict[str, float]


class Part(NamedTuple):
    """What one object has counted. Several caches may have a tier in common, which counts once."""

    owner: object  #: the core of a cache, or a tier
    counters: Numbers


class Snapshot(NamedTuple):
    """The figures of one cache at one moment."""

    stats: Mapping[str, CacheStats]
    parts: list[Part]
    gauges: list[tuple[object, Numbers]]  #: by tier; a state is that of the tier, whichever cache it is in

    def counters(self) -> Numbers:
        """Return the counters of the cache and its tiers."""
        return added(part.counters for part in self.parts)

    def gauge_values(self) -> Numbers:
        """Return the gauges of the cache and its tiers."""
        return merged(numbers for _, numbers in self.gauges)


def snapshot(core: CacheCore) -> Snapshot:
    """Return the figures of a cache. A file tier and a server are not called, so it does no I/O."""
    # In this order: a request that is under way, or ends from here on, may be a hit. It is a miss only when
    # it has ended as one, because a counter must never fall.
    missed = core.requests() - core.tiers.busy
    stats = core.get_stats(_used(core))
    combined = stats["combined"]
    missed -= combined.request_hits
    durations = core.loads.figures.durations
    own: Numbers = {
        "requests/hit": combined.request_hits,
        "requests/miss": max(0, missed),
        "loads/ok": combined.loads - combined.load_failures,
        "loads/error": combined.load_failures,
        "stale_served": combined.stale_served,
        "lease_waits": combined.lease_waits,
        "verified": combined.verified,
        "mismatches": combined.mismatches,
        "reloaded": combined.reloaded,
        "prefetches/begun": combined.prefetches,
        "prefetches/hit": combined.prefetch_hits,
        "prefetches/late": combined.prefetches_late,
        "prefetches/wasted": combined.prefetches_wasted,
        **_histogram("load.duration", durations),
    }
    parts = [Part(core, own)]
    gauges: list[tuple[object, Numbers]] = []
    memory = core.memory_tier
    if memory is not None:
        counted = _tier_counters("memory", stats["memory"])
        parts.append(Part(memory, counted | _histogram(HIT_DURATIONS["memory"], core.memory_stats.latency)))
        limits = {"entries.limit/memory": memory.max_size, "size.limit/memory": memory.max_bytes}
        gauges.append((memory, _tier_gauges("memory", stats["memory"]) | _known(limits)))
    for name, state in core.tiers.states().items():
        counted = _tier_counters(name, stats[name])
        # Each cache over the tier counts what its own circuit breaker refused.
        counted[f"lookups/{name}/unavailable"] -= state.unavailable
        own[f"lookups/{name}/unavailable"] = state.unavailable
        own[f"tier.outages/{name}"] = state.outages
        latency = _latency(state.tier)
        if latency is not None:
            counted |= _histogram(HIT_DURATIONS[name], latency)
        parts.append(Part(state.tier, counted))
        mebibytes = getattr(state.tier, "max_size_mb", None)
        limit = mebibytes * 2**20 if isinstance(mebibytes, (int, float)) else None
        gauges.append((state.tier, _tier_gauges(name, stats[name]) | _known({f"size.limit/{name}": limit})))
        health = {f"tier.up/{name}": float(not state.is_out)}
        gauges.append((core, health | {f"tier.pending_invalidations/{name}": state.pending}))
    return Snapshot(stats, parts, gauges)


def _used(core: CacheCore) -> int:
    """Return the bytes of the entries in memory, from a mean that is at most ten seconds old.

    Measuring entries takes milliseconds, in which no other thread runs.
    """
    store = core.memory
    entries, weight, now = len(store), store.weight, time.monotonic()
    if weight is not None or not entries:
        return weight or 0
    measured_at, mean = _means.get(core, (-inf, 0.0))
    if now - measured_at > _FRESH:
        mean = usage(store) / entries
        _means[core] = now, mean
    return round(mean * entries)


_FRESH: Final = 10.0
_means: Final[WeakKeyDictionary[CacheCore, tuple[float, float]]] = WeakKeyDictionary()


def added(all_numbers: Iterable[Numbers]) -> Numbers:
    """Return the sums of numbers by key."""
    sums: Numbers = {}
    for numbers in all_numbers:
        for key, number in numbers.items():
            sums[key] = sums.get(key, 0) + number
    return sums


def merged(all_gauges: Iterable[Numbers], alone: tuple[str, ...] = ("/memory",)) -> Numbers:
    """Return gauges of several tiers, processes or hosts as one, the newest ones last (see `Family.across`).

    Args:
        all_gauges: the gauges of each.
        alone: The ends of the names of what each of them has alone; it is added.
    """
    one: Numbers = {}
    for gauges in all_gauges:
        for key, number in gauges.items():
            across = GAUGES[key].across
            if key in one and across == "least":
                one[key] = min(one[key], number)
            elif key in one and (across == "sum" or key.endswith(alone)):
                one[key] += number
            else:
                one[key] = number
    return one


def _tier_counters(tier: str, stats: CacheStats) -> Numbers:
    return {"/".join((name[0], tier, *name[1:])): stats[stat] for name, stat in TIER_COUNTERS.items()}


def _tier_gauges(tier: str, stats: CacheStats) -> Numbers:
    return {f"entries/{tier}": stats.size, f"size/{tier}": stats.memory_usage_bytes}


def _known(limits: Mapping[str, float | None]) -> Numbers:
    return {key: limit for key, limit in limits.items() if limit is not None and limit < inf}


def _histogram(key: str, histogram: LatencyHistogram) -> Numbers:
    numbers = [*histogram.buckets(), histogram.sum]
    return {f"{key}/{part}": number for part, number in zip(PARTS, numbers, strict=True)}


def _latency(tier: object) -> LatencyHistogram | None:
    files = store_of(tier)
    return latency_of(tier) if files is None else files.latency


@final
class Totals:
    """What the caches of a process have counted since it began, or was forked; it only grows.

    Its callers hold a lock.
    """

    def __init__(self) -> None:
        self.counters: Numbers = {}
        self._seen: dict[int, tuple[ref[object] | None, Numbers]] = {}

    def begin(self, parts: Iterable[Part]) -> None:
        """Leave out what the owners have counted so far."""
        self.add(parts)
        self.counters = {}

    def add(self, parts: Iterable[Part]) -> None:
        """Count what the owners have counted since they were seen last."""
        present = {id(part.owner): part for part in parts}
        for number, part in present.items():
            reference, before = self._seen.get(number, (None, {}))
            if reference is not None and reference() is not part.owner:
                before = {}  # of an object that is gone
            # Another thread may have read later and come here first.
            now = {key: max(count, _number(before, key)) for key, count in part.counters.items()}
            for key, count in now.items():
                self.counters[key] = _number(self.counters, key) + count - _number(before, key)
            self._seen[number] = _reference(part.owner), now
        # An owner that no cache has now may come back with another cache.
        self._seen = {
            number: (reference, counters)
            for number, (reference, counters) in self._seen.items()
            if number in present or (reference is not None and reference() is not None)
        }


def _number(numbers: Numbers, key: str) -> float:
    # Not by `get`. On the free-threaded CPython 3.13 it locks the dict twice if another thread made what it
    # finds (see `NoneDict`), as it does here: each look runs in a thread of its own. The thread then waits
    # for itself, and offers its processor to others 40 times. On a busy host a look took seconds. A process
    # that ended at that time did not get its turn to publish its last figures.
    return numbers[key] if key in numbers else 0  # noqa: SIM401


def _reference(owner: object) -> ref[object] | None:
    try:
        return ref(owner)
    except TypeError as error:
        raise_interrupt(error)
        return None  # a tier of the user's, with slots
