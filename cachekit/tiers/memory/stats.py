"""The counters of the memory tier, summed over all its readers, and the estimate of its bytes."""

from __future__ import annotations

from typing import Final, final

from cachekit.model.counters import LatencyHistogram, Lookups
from cachekit.model.stats import CacheStats, tier_stats
from cachekit.tiers.memory.sizing import entry_size
from cachekit.tiers.memory.store import Store

_SAMPLE_INTERVAL: Final = 0.01  # seconds between two hits that are timed
_MEASURED: Final = 1000  # the most entries that are measured for an estimate of all


@final
class MemoryStats:
    """The lookups of a tier: the sum over its readers, each of which increments its own counters.

    Readers come and go without a lock, because a fork or a signal handler could find it locked. The tuple
    of readers is replaced as a whole, and under the GIL nothing runs between the comparison and the
    replacement (see `model.counters`). So every snapshot includes a reader that is just leaving.
    """

    __slots__ = ("_readers", "latency", "sample_due")

    def __init__(self) -> None:
        #: The first one has the counts of the readers that left.
        self._readers: tuple[Lookups, ...] = (Lookups(),)
        #: How long hits take.
        self.latency = LatencyHistogram()
        #: When the next hit is timed, on the tier's monotonic clock.
        self.sample_due = 0.0

    def reader(self) -> Lookups:
        """Return the counters of a new reader."""
        lookups = Lookups()
        self._readers = (*self._readers, lookups)
        return lookups

    def retire(self, readers: list[Lookups]) -> None:
        """Keep the counts of readers that end, and drop the readers."""
        while True:
            before = self._readers
            retired = Lookups()
            leaving = [before[0], *(one for one in before[1:] if one in readers)]
            retired.hits = sum([one.hits for one in leaving])
            retired.misses = sum([one.misses for one in leaving])
            after = (retired, *(one for one in before[1:] if one not in readers))
            if self._readers is before:
                self._readers = after
                return

    def sample(self, store: Store, key: str) -> None:
        """Repeat the steps of a hit and time them: timing every hit would cost more than the hit."""
        started = store.time.monotonic()
        self.sample_due = started + _SAMPLE_INTERVAL
        held = store.find(key)
        if held is not None and store.time.monotonic() < held.deadline:
            try:
                store.touch_again(held.key)
            except KeyError:
                return
            self.latency.record(store.time.monotonic() - started)

    def statistics(self, store: Store) -> CacheStats:
        """Return all counts, of the readers and of the store."""
        readers = self._readers
        hits = sum([reader.hits for reader in readers])
        misses = sum([reader.misses for reader in readers])
        return tier_stats(
            store.counter,
            self.latency,
            hits=hits,
            misses=misses,
            size=len(store),
            memory_usage_bytes=usage(store),
        )


def usage(store: Store) -> int:
    """Return the bytes of a store's entries: what counts towards its bound, or else an estimate."""
    weight = store.weight
    if weight is not None:
        return weight
    held = store.all_held()
    if not held:
        return 0
    # Evenly spread over the order of insertion.
    sample = held[:: -(-len(held) // _MEASURED)]
    measured = sum(entry_size(one.key, one.value, one.tags) for one in sample)
    return round(measured / len(sample) * len(held))
