"""The mutable half of the statistics: counters that hot paths bump, and a latency histogram.

`cachekit.model.stats.CacheStats` is the frozen half. Counters are plain attributes bumped with `+= 1`, which
no other thread can cut in two while the GIL is held: between reading and storing an attribute CPython
(3.11 to 3.13) neither calls Python code nor looks for a switch request. So what is added is worked out
before: in `counter += f()` the counter is read first, and what others count during the call is lost.
Free-threaded builds take the owner's lock around every bump instead (see `tiers.memory`).
"""

from __future__ import annotations

import math
from typing import Final, final


@final
class Lookups:
    """What one reader of a tier saw: a tier read directly, a cache over it, a cached function.

    Each reader bumps a counter of its own, once; the tier's figures are the sum over its readers. So a
    hit costs one increment, however many views there are on it. A cached function, of which one wants to
    know what it did not have to work out, also counts what it asked of lower tiers.
    """

    __slots__ = ("below", "hits", "misses", "skipped")

    def __init__(self) -> None:
        self.hits = 0
        self.misses = 0
        self.skipped = 0  #: times that this tier was not to be asked
        self.below = 0  #: misses, or times that it was skipped, which a lower tier answered


@final
class TierCounters:
    """What a tier counts besides lookups; `CacheStats` says when each moves."""

    __slots__ = (
        "deletes", "errors", "evictions", "expirations", "invalidations", "oversized", "promotions",
        "refusals", "sets",
    )  # fmt: skip

    def __init__(self) -> None:
        self.sets = 0
        self.deletes = 0
        self.invalidations = 0
        self.evictions = 0
        self.expirations = 0
        self.promotions = 0
        self.refusals = 0
        self.oversized = 0
        self.errors = 0


@final
class LoadCounters:
    """What the loads of one cache count; `CacheStats` says when each moves."""

    __slots__ = ("failures", "lease_waits", "loads", "seconds", "stale_served")

    def __init__(self) -> None:
        self.loads = 0
        self.failures = 0
        self.seconds = 0.0
        self.stale_served = 0
        self.lease_waits = 0

    def as_dict(self) -> dict[str, float]:
        """The numbers, as `CacheStats` calls them."""
        return {
            "loads": self.loads,
            "load_failures": self.failures,
            "load_seconds": self.seconds,
            "stale_served": self.stale_served,
            "lease_waits": self.lease_waits,
        }


@final
class LatencyHistogram:
    """Durations in buckets that grow by a quarter of a doubling, from 10 ns to 20 minutes.

    A quantile is right to within 19 %. Not locked: a count may be lost under contention.
    """

    _SMALLEST: Final = 1e-8
    _STEPS: Final = 4
    _BUCKETS: Final = 4 * 37

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts = [0] * self._BUCKETS

    def record(self, seconds: float) -> None:
        """Count one duration."""
        step = math.ceil(math.log2(max(seconds, self._SMALLEST) / self._SMALLEST) * self._STEPS)
        self._counts[min(step, self._BUCKETS - 1)] += 1

    def quantile(self, share: float) -> float:
        """The duration in seconds that `share` (0 to 1) of the recorded ones did not exceed; 0 if none."""
        total = sum(self._counts)
        if not total:
            return 0.0
        rank = max(1, math.ceil(share * total))
        seen = 0
        for step, count in enumerate(self._counts):
            seen += count
            if seen >= rank:
                return float(self._SMALLEST * 2 ** (step / self._STEPS))
        raise AssertionError("the ranks of a histogram end at its total")
