"""An outage of a tier behind an accessor."""

from __future__ import annotations

from cachekit import CacheEntry, MemoryCache
from cachekit.coherence.accessor import TierAccessor
from cachekit.errors import TierUnavailableError
from cachekit.testing import FaultyTier, ManualClock


class Outage:
    """A faulty tier behind an accessor whose probes are the test's own."""

    def __init__(self, *, strict: bool = False) -> None:
        self.clock = ManualClock()
        self.memory = MemoryCache(max_size=50_000)
        self.tier = FaultyTier(self.memory)
        self.events: list[str] = []
        self.accessor = TierAccessor(  # type: ignore[type-var]
            "file", self.tier, strict=strict, recovered=self.recovered, clock=self.clock
        )

    def recovered(self) -> None:
        self.events.append(f"recovered while {self.accessor.state}, {self.accessor.pending} pending")

    def begin(self) -> None:
        """Fail once; from here on the clock stands unless the test moves it, and nobody else probes."""
        self.tier.fail()
        try:
            self.accessor.call(self.tier.get, "k")
        except TierUnavailableError:
            assert self.accessor.strict
        if self.accessor._job is not None:
            self.accessor._job.cancel()

    def probe(self) -> None:
        self.clock.advance(5)
        self.accessor.probe()

    def fill(self, *keys: str, tags: tuple[str, ...] = ()) -> None:
        for key in keys:
            self.memory.set(key, CacheEntry(key, "old", tags=set(tags)))
