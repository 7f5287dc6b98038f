"""CacheStats: the statistics of one tier, or of a cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, final

#: The statistics that are counted, in the order of `CacheStats`; rates are derived from them.
COUNTED: Final = (
    "hits", "misses", "unavailable", "size", "memory_usage_bytes", "sets", "deletes",
    "invalidations", "evictions", "expirations", "promotions", "refusals", "oversized", "errors",
    "latency_p50", "latency_p99", "requests", "request_hits", "loads", "load_failures", "load_seconds",
    "stale_served", "lease_waits",
)  # fmt: skip


@final
class CacheStats(Mapping[str, float]):
    """A frozen snapshot of what a tier, or a whole cache, has counted since it was made.

    Read `stats.hits` or `stats["hits"]`; `to_dict()` is ready for JSON. When each number moves:

    - hits: a lookup found a live entry; misses: it found none; unavailable: the tier could not answer.
      Every lookup is exactly one of the three. Looking without asking for the value (`contains`,
      `explain`, `keys`) is no lookup.
    - hit_rate: hits / (hits + misses + unavailable); 0 before the first lookup.
    - sets: an entry was stored, by whomever; a replaced one counts again, a refused write does not.
    - deletes: an entry was removed by `delete` or `delete_many`, or by a `set` that keeps nothing.
    - invalidations: an entry was removed by tag, by pattern or by `clear`.
    - evictions: removed for room. expirations: removed because its time was over; it counts when
      that is noticed, by a lookup or by the sweep.
    - promotions: a hit in a slower tier was copied into this one.
    - refusals: a value was not kept because its key was written or invalidated while it was loaded.
    - oversized: a value was not kept because it is too large for a tier that is bounded in bytes.
    - errors: the tier, or a listener of it, failed.
    - loads, load_failures, load_seconds: calls of loaders and of cached functions, those of them that raised,
      and how long all of them took, ended ones only; of a whole cache, and 0 for a tier, like the next two.
    - stale_served: a load gave the value that it found past its time.
    - lease_waits: a load had to wait for a lease or a slot (see `LoadOptions`).
    - size: entries held, expired ones that were not yet noticed included.
    - memory_usage_bytes: an estimate; each tier says of what. In a memory tier with `max_bytes` it is what
      counts towards that.
    - latency_p50, latency_p99: seconds that a hit took, from a sample of at most 100 a second; 0
      without one.
    - requests, request_hits, request_hit_rate: lookups as the caller saw them, each counted once,
      whichever tier answered; a tier's own are its lookups and hits.

    Counters move without a lock and are exact once the cache is quiet.
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

    _DERIVED: Final = ("hit_rate", "request_hit_rate")
    __slots__ = COUNTED

    def __init__(self, **numbers: float) -> None:
        for name in COUNTED:
            object.__setattr__(self, name, numbers.pop(name, 0))
        if numbers:
            raise TypeError(f"no such statistic: {sorted(numbers)}; there are {', '.join(COUNTED)}")

    @property
    def hit_rate(self) -> float:
        """The share of lookups that found a live entry, 0 to 1."""
        lookups = self.hits + self.misses + self.unavailable
        return self.hits / lookups if lookups else 0.0

    @property
    def request_hit_rate(self) -> float:
        """The share of requests that some tier answered, 0 to 1: what alerts should watch."""
        return self.request_hits / self.requests if self.requests else 0.0

    def to_dict(self) -> dict[str, float]:
        """All of it, the rates included, as a plain dict of numbers."""
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
