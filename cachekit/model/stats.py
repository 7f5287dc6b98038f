"""`CacheStats`, the snapshot of what one tier, or a whole cache, has counted, and its builder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, final

from cachekit.model.counters import LatencyHistogram, TierCounters

#: The statistics that are counted, in the order of `CacheStats`. Rates are derived from them.
COUNTED: Final = (
    "hits", "misses", "unavailable", "size", "memory_usage_bytes", "sets", "deletes",
    "invalidations", "evictions", "expirations", "promotions", "refusals", "oversized", "errors",
    "latency_p50", "latency_p99", "requests", "request_hits", "loads", "load_failures", "load_seconds",
    "stale_served", "lease_waits", "reloaded", "verified", "mismatches", "prefetches", "prefetch_hits",
    "prefetches_late", "prefetches_wasted",
)  # fmt: skip


@final
class CacheStats(Mapping[str, float]):
    """A frozen snapshot of what a tier, or a whole cache, has counted since it was created.

    Read `stats.hits` or `stats["hits"]`. `to_dict()` is ready for JSON. When each number moves:

    - hits: a lookup found a live entry. misses: it found none. unavailable: the tier failed. Every lookup
      is exactly one of the three. `contains`, `explain` and `keys` are no lookups.
    - hit_rate: hits / (hits + misses + unavailable); 0 before the first lookup.
    - sets: an entry was stored by any caller. Replacing an entry counts, a refused write does not.
    - deletes: an entry was removed by `delete` or `delete_many`, or by a `set` whose TTL is over.
    - invalidations: an entry was removed by tag, by pattern or by `clear`.
    - evictions: an entry was removed to make room for another one.
    - expirations: an expired entry was removed. It counts when a lookup or the sweep finds it.
    - promotions: a hit in a slower tier was copied into this one.
    - refusals: a value was not stored because its key was written or invalidated while it was loaded.
    - oversized: a value was not stored because it is too large for a tier that is bounded in bytes.
    - errors: the tier failed, or one of its listeners did.
    - loads, load_failures, load_seconds: the calls of loaders and cached functions that ended, those that
      raised, and the seconds that all took. They count for a whole cache, and are 0 for a tier, as are
      the next two.
    - stale_served: a load returned a stale value.
    - lease_waits: a load had to wait for a lease or a slot (see `LoadOptions`).
    - reloaded: an entry was copied into memory because it was used most before the restart (`reload_hot`).
      This one counts for a whole cache, too.
    - verified, mismatches: hits that were compared with a fresh load, and those that differed. 0 for a tier.
    - prefetches, prefetch_hits, prefetches_late, prefetches_wasted: values were loaded or copied before they
      were asked for; were in memory when they were; were still being loaded; or never were asked for, or
      failed. They count for a whole cache, too.
    - size: the entries held, including expired ones that nothing has removed yet.
    - memory_usage_bytes: an estimate; each tier documents what it covers. In a memory tier with
      `max_bytes` it is what counts towards that bound.
    - latency_p50, latency_p99: the seconds that a hit took, from a sample of at most 100 a second; 0
      without a sample.
    - requests, request_hits, request_hit_rate: lookups as the caller sees them. Each counts once, whichever
      tier has the entry. Those of a tier are its lookups and hits.

    Counters move without a lock and are exact while no thread uses the cache.
    """

    hits: int
    misses: int
    unavailable: int
    size: int
    memory_usage_bytes: int
    sets: int
    deletes: int
    invalidations: int
    evictions: int
    expirations: int
    promotions: int
    refusals: int
    oversized: int
    errors: int
    latency_p50: float
    latency_p99: float
    requests: int
    request_hits: int
    loads: int
    load_failures: int
    load_seconds: float
    stale_served: int
    lease_waits: int
    reloaded: int
    verified: int
    mismatches: int
    prefetches: int
    prefetch_hits: int
    prefetches_late: int
    prefetches_wasted: int

    _DERIVED: Final = ("hit_rate", "request_hit_rate")
    __slots__ = COUNTED

    def __init__(self, **numbers: float) -> None:
        for name in COUNTED:
            object.__setattr__(self, name, numbers.pop(name, 0))
        if numbers:
            raise TypeError(f"statistics must be among {', '.join(COUNTED)}, not {sorted(numbers)}")

    @property
    def hit_rate(self) -> float:
        """Return the share of lookups that found a live entry, 0 to 1."""
        lookups = self.hits + self.misses + self.unavailable
        return self.hits / lookups if lookups else 0.0

    @property
    def request_hit_rate(self) -> float:
        """Return the share of requests that any tier served, 0 to 1. Alerts should watch this rate."""
        return self.request_hits / self.requests if self.requests else 0.0

    def to_dict(self) -> dict[str, float]:
        """Return all numbers, the rates included, as a plain dict."""
        return {name: getattr(self, name) for name in self}

    def __getitem__(self, name: str) -> float:
        if name in COUNTED or name in self._DERIVED:
            number: float = getattr(self, name)
            return number
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        yield from COUNTED
        yield from self._DERIVED

    def __len__(self) -> int:
        return len(COUNTED) + len(self._DERIVED)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"CacheStats is a frozen snapshot; {name} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"CacheStats is a frozen snapshot; {name} cannot be deleted")

    def __reduce__(self) -> tuple[Any, ...]:
        return _stats_from_dict, ({name: getattr(self, name) for name in COUNTED},)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={self[name]!r}" for name in self if self[name])
        return f"CacheStats({shown})"


def _stats_from_dict(numbers: dict[str, float]) -> CacheStats:
    return CacheStats(**numbers)


def tier_stats(
    counter: TierCounters,
    latency: LatencyHistogram,
    *,
    hits: int,
    misses: int,
    unavailable: int = 0,
    **more: float,
) -> CacheStats:
    """Return the statistics of one tier.

    Args:
        counter: what the tier counts besides lookups.
        latency: how long its hits took.
        hits: lookups that found a live entry.
        misses: lookups that found none.
        unavailable: lookups that failed (default 0).
        more: further statistics by name, such as `size`; they take precedence over the counters.

    Raises:
        TypeError: there is no statistic of one of the names.
    """
    numbers: dict[str, float] = {name: getattr(counter, name) for name in TierCounters.__slots__}
    numbers |= {
        "hits": hits,
        "misses": misses,
        "unavailable": unavailable,
        "requests": hits + misses + unavailable,
        "request_hits": hits,
        "latency_p50": latency.quantile(0.5),
        "latency_p99": latency.quantile(0.99),
    }
    return CacheStats(**(numbers | more))
