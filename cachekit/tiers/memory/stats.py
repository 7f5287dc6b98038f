"""What the memory tier counts, for however many read it, and what it takes."""

from __future__ import annotations

from typing import Final, final

from cachekit.model.counters import LatencyHistogram, Lookups
from cachekit.model.stats import CacheStats, tier_stats
from cachekit.tiers.memory.sizing import entry_size
from cachekit.tiers.memory.store import Store

_SAMPLED: Final = 0.01  # seconds between two hits that are timed
_SIZED: Final = 1000  # entries measured, at most, for an estimate of the whole


@final
class Figures:
    """The lookups of a tier: the sum over its readers, each of which bumps a counter of its own.

    Readers come and go without a lock, which a fork or a signal handler could meet: the tuple of them is
    exchanged as a whole, and under the GIL nothing comes between a look at it and its exchange (see `stats`).
    So no snapshot is without the figures of a reader that is just leaving.
    """

    __slots__ = ("_readers", "latency", "sample_due")

    def __init__(self) -> None:
        #: The first one has what those that left had counted.
        self._readers: tuple[Lookups, ...] = (Lookups(),)
        #: How long hits took.
        self.latency = LatencyHistogram()
        #: When the next hit is timed, on the monotonic clock of the tier.
        self.sample_due = 0.0

    def reader(self) -> Lookups:
        """Counters for one more reader."""
        lookups = Lookups()
        self._readers = (*self._readers, lookups)
        return lookups

    def retire(self, readers: list[Lookups]) -> None:
        """Keep the figures of readers that will read no more, and not the readers."""
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
        """Time the steps of a hit once more: timing every hit would cost more than the hit."""
        started = store.now()
        self.sample_due = started + _SAMPLED
        held = store.find(key)
        if held is not None and store.now() < held.deadline:
            try:
                store.touch_again(held.key)
            except KeyError:
                return
            self.latency.record(store.now() - started)

    def statistics(self, store: Store) -> CacheStats:
        """All that has been counted, here and by the store."""
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
    """What the entries of a store take: what counts towards its bound, or else an estimate."""
    weight = store.weight
    if weight is not None:
        return weight
    held = store.all_held()
    if not held:
        return 0
    # Evenly spread over the store's own order, which is that of insertion.
    sample = held[:: -(-len(held) // _SIZED)]
    measured = sum(entry_size(one.key, one.value, one.tags) for one in sample)
    return round(measured / len(sample) * len(held))
