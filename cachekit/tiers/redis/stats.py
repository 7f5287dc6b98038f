"""What one process counts of its dealings with the server."""

from __future__ import annotations

from typing import Final, final

from cachekit.errors import CacheClosedError, TierUnavailableError
from cachekit.model.counters import LatencyHistogram, Lookups, TierCounters
from cachekit.model.stats import CacheStats
from cachekit.runtime.clock import Clock
from cachekit.tiers.redis.client import Client

_SAMPLED: Final = 0.01  # seconds between two hits that are timed


@final
class Figures:
    """Counters of one tier; `CacheStats` says when each moves.

    Args:
        clock: what hits are timed with.
    """

    def __init__(self, clock: Clock) -> None:
        self.counter = TierCounters()
        self.size = 0  #: when it was last measured
        self.memory_usage = 0  #: the same
        self._now = clock.monotonic
        self._lookups = Lookups()
        self._unavailable = 0
        self._latency = LatencyHistogram()
        self._sample_due = 0.0

    def begin(self) -> float:
        """The moment at which a lookup begins."""
        return self._now()

    def end(self, begun: float, found: bool) -> None:
        """A lookup has ended; a few of those that found something are timed."""
        if not found:
            self._lookups.misses += 1
            return
        self._lookups.hits += 1
        if begun > self._sample_due:
            now = self._now()
            self._latency.record(now - begun)
            self._sample_due = now + _SAMPLED

    def end_many(self, asked: int, found: int) -> None:
        """So many lookups have ended at once."""
        self._lookups.hits += found
        self._lookups.misses += asked - found

    def fail(self, lookups: int = 0) -> None:
        """The server did not answer, to so many lookups, or to something else."""
        self._unavailable += lookups
        self.counter.errors += 1

    def snapshot(self) -> CacheStats:
        """All of it."""
        hits, misses, unavailable = self._lookups.hits, self._lookups.misses, self._unavailable
        counter = self.counter
        return CacheStats(
            hits=hits,
            misses=misses,
            unavailable=unavailable,
            size=self.size,
            memory_usage_bytes=self.memory_usage,
            sets=counter.sets,
            deletes=counter.deletes,
            invalidations=counter.invalidations,
            refusals=counter.refusals,
            errors=counter.errors,
            latency_p50=self._latency.quantile(0.5),
            latency_p99=self._latency.quantile(0.99),
            requests=hits + misses + unavailable,
            request_hits=hits,
        )


@final
class Guard:
    """A `with` block around whatever asks the server: not after `close`, and its failures are counted.

    It has no state of its own, so one serves all threads, and costs nothing to make.
    """

    __slots__ = ("_figures", "_server")

    def __init__(self, server: Client, figures: Figures) -> None:
        self._server = server
        self._figures = figures

    def __enter__(self) -> None:
        if self._server.is_closed:
            raise CacheClosedError("this RedisCache is closed")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, TierUnavailableError):
            self._figures.fail()
