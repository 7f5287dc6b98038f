"""Counters that hot paths increment, and a latency histogram. `CacheStats` is the frozen snapshot of them.

Counters are plain attributes. `counter += 1` is atomic under the GIL: CPython 3.11 to 3.14 neither calls
Python code nor switches threads between the read and the store. In `counter += f()` other threads' counts
during `f` are lost, so call `f` first. Free-threaded builds take the lock of the memory tier for its lookups
and writes. Other counters may lose counts there: of 20,000 lookups of a file tier by four threads, 3 to 69.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, final
from weakref import ref

#: Seconds between two hits that a tier times.
SAMPLE_INTERVAL: Final = 0.01


@final
class Lookups:
    """The lookups of one reader of a tier: a direct caller, a cache over the tier, or a cached function.

    Each reader increments only its own counters, and the tier's statistics are the sum over its readers.
    So a hit costs one increment, however many views the tier has. A cached function also counts the
    misses that a lower tier served, because those did not run the function.
    """

    __slots__ = ("__weakref__", "below", "hits", "misses", "skipped", "table")

    def __init__(self, table: LookupTable | None = None) -> None:
        self.hits = 0
        self.misses = 0
        self.skipped = 0  #: lookups that left this tier out because of their `levels`
        self.below = 0  #: misses and skipped lookups that a lower tier served
        self.table = table  #: to which it belongs, if any

    def __del__(self) -> None:
        if self.table is not None:
            self.table.fold(self)


@final
class LookupTable:
    """The lookups of one cache: of its readers, and the sums of readers that are gone.

    Args:
        lock: The re-entrant lock of all tables of a tier. Nothing else runs in the thread that holds it.

    A finalizer, which may run at any point of any thread, folds a reader into the sums. No finalizer and no
    signal handler runs between the lines that say so: they call nothing, and allocate nothing that is
    collected. So none waits for another lock while its thread holds this one. Under the GIL no other thread
    runs there either. On a free-threaded build, the lock keeps them out.
    """

    __slots__ = (
        "__weakref__", "_folded", "_lock", "_readers", "_told_hits", "_told_misses", "hits", "is_closed",
        "misses",
    )  # fmt: skip

    def __init__(self, lock: AbstractContextManager[object]) -> None:
        self._lock = lock
        self._readers: dict[int, ref[Lookups]] = {}
        self._folded = 0
        self._told_hits = 0  # the largest totals so far
        self._told_misses = 0
        self.hits = 0
        self.misses = 0
        self.is_closed = False  #: whether the cache is closed, so that no caller asks for the counts

    def __len__(self) -> int:
        return len(self._readers)

    def reader(self) -> Lookups:
        """Return the counters of a new reader, which only the caller keeps."""
        lookups = Lookups(self)
        self._readers[id(lookups)] = ref(lookups)
        return lookups

    def fold(self, lookups: Lookups) -> None:
        """Add the counts of a reader that is gone to the sums, once."""
        number, readers = id(lookups), self._readers
        try:
            with self._lock:
                # Nothing runs between the next lines. Of two threads that fold at once, one would undo what
                # the other adds.
                del readers[number]
                self.hits += lookups.hits
                self.misses += lookups.misses
                self._folded += 1
        except KeyError:
            pass

    def total_hits(self) -> int:
        """Return the hits of all readers."""
        return self.totals()[0]

    def totals(self) -> tuple[int, int]:
        """Return the hits and misses of all readers."""
        while True:
            folded = self._folded
            readers = [
                one for one in [reference() for reference in list(self._readers.values())] if one is not None
            ]
            hits = sum([one.hits for one in readers])
            misses = sum([one.misses for one in readers])
            with self._lock:
                # Nothing runs between the next lines. If a reader has left since, it may have counted twice.
                is_settled = self._folded == folded
                if is_settled:
                    hits += self.hits
                    misses += self.misses
                    # A reader that dies has no reference any more before it is folded. That is so without the
                    # GIL, and in garbage cycles. Until then its counts are missing here.
                    if hits < self._told_hits:
                        hits = self._told_hits
                    self._told_hits = hits
                    if misses < self._told_misses:
                        misses = self._told_misses
                    self._told_misses = misses
            if is_settled:
                return hits, misses


@final
class TierCounters:
    """The counters of a tier besides lookups; `CacheStats` says when each moves."""

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
    """The counters of the loads of one cache; `CacheStats` says when each moves."""

    __slots__ = (
        "durations", "failures", "lease_waits", "listeners", "mismatches", "stale_served", "successes",
        "verified",
    )  # fmt: skip

    def __init__(self) -> None:
        # Two counters that only grow: of a sum and a part of it, the rest could fall for a moment.
        self.successes = 0
        self.failures = 0
        self.durations = LatencyHistogram()  #: of every load
        self.stale_served = 0
        self.lease_waits = 0
        self.verified = 0
        self.mismatches = 0
        #: Called with the seconds of each load, by whichever thread has ended it. They raise nothing.
        self.listeners: tuple[Callable[[float], object], ...] = ()

    def ended(self, seconds: float, failed: bool) -> None:
        """Count a load."""
        if failed:
            self.failures += 1
        else:
            self.successes += 1
        self.durations.record(seconds)
        for listener in self.listeners:
            listener(seconds)

    def as_dict(self) -> dict[str, float]:
        """Return the counters under their names in `CacheStats`."""
        failures = self.failures  # read once: it changes
        return {
            "loads": self.successes + failures,
            "load_failures": failures,
            "load_seconds": self.durations.sum,
            "stale_served": self.stale_served,
            "lease_waits": self.lease_waits,
            "verified": self.verified,
            "mismatches": self.mismatches,
        }


@final
class LatencyHistogram:
    """Durations in buckets that grow by a quarter of a doubling, from 10 ns to 20 minutes, and their sum.

    A quantile is correct to within 19 %. There is no lock, as in all counters of this module.
    """

    _SMALLEST: Final = 1e-8
    _STEPS: Final = 4
    _BUCKETS: Final = 4 * 37
    #: The doublings of 10 ns at which an exported bucket ends, where one of its own buckets ends too.
    _EXPORTED: Final = range(7, 34, 2)
    #: The upper edges of the exported buckets in seconds, from 1.28 us to 86 s. One more bucket has no edge.
    EDGES: Final[tuple[float, ...]] = tuple(1e-8 * 2.0**doublings for doublings in _EXPORTED)

    __slots__ = ("_counts", "sum")

    def __init__(self) -> None:
        self._counts = [0] * self._BUCKETS
        self.sum = 0.0  #: seconds of all records

    def record(self, seconds: float) -> None:
        """Count one duration."""
        step = math.ceil(math.log2(max(seconds, self._SMALLEST) / self._SMALLEST) * self._STEPS)
        self._counts[min(step, self._BUCKETS - 1)] += 1
        self.sum += seconds

    def buckets(self) -> list[int]:
        """Return the records in each exported bucket, the one beyond the last edge included."""
        counts = self._counts.copy()
        ends = [doublings * self._STEPS + 1 for doublings in self._EXPORTED]
        starts = [0, *ends]
        return [sum(counts[start:end]) for start, end in zip(starts, [*ends, None], strict=True)]

    def quantile(self, share: float) -> float:
        """Return the duration in seconds that `share` (0 to 1) of the records do not exceed; 0 if none."""
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
