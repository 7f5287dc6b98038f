"""The counters of one tier on a server, in one process."""

from __future__ import annotations

from typing import final

from cachekit.model.counters import SAMPLE_INTERVAL, LatencyHistogram, Lookups, TierCounters
from cachekit.model.stats import CacheStats, tier_stats
from cachekit.runtime.clock import Clock


@final
class Figures:
    """Counters of one tier; `CacheStats` says when each changes.

    Args:
        clock: the clock of latencies.

    Attributes:
        counter: the counters that all tiers have.
        size: how many values there were when they were last counted.
        memory_usage: how many bytes they took when they were last measured.
        unavailable: lookups that the server did not answer.
        latency: how long hits took.
    """

    def __init__(self, clock: Clock) -> None:
        self.counter = TierCounters()
        self.size = 0
        self.memory_usage = 0
        self.unavailable = 0
        self._now = clock.monotonic
        self._lookups = Lookups()
        self.latency = LatencyHistogram()
        self._sample_due = 0.0

    def begin(self) -> float:
        """Return the time at which a lookup begins."""
        return self._now()

    def end(self, begun: float, found: bool) -> None:
        """Count a lookup, and time a few of the hits."""
        if not found:
            self._lookups.misses += 1
            return
        self._lookups.hits += 1
        if begun > self._sample_due:
            now = self._now()
            self.latency.record(now - begun)
            self._sample_due = now + SAMPLE_INTERVAL

    def end_many(self, asked: int, found: int) -> None:
        """Count several lookups that were one call."""
        self._lookups.hits += found
        self._lookups.misses += asked - found

    def snapshot(self) -> CacheStats:
        """Return all counters."""
        return tier_stats(
            self.counter,
            self.latency,
            hits=self._lookups.hits,
            misses=self._lookups.misses,
            unavailable=self.unavailable,
            size=self.size,
            memory_usage_bytes=self.memory_usage,
        )
