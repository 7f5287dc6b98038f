"""The counters of the memory tier, summed over all its readers, and the estimate of its bytes."""

from __future__ import annotations

from math import inf
from typing import Final, final

from cachekit.model.counters import SAMPLE_INTERVAL, LatencyHistogram, Lookups, LookupTable
from cachekit.model.stats import CacheStats, tier_stats
from cachekit.runtime.interrupts import raise_interrupt
from cachekit.runtime.reentrant_lock import RLock
from cachekit.tiers.memory.sizing import entry_size
from cachekit.tiers.memory.store import Store

_MEASURED: Final = 1000  # the most entries that are measured for an estimate of all
_MOST_OBJECTS: Final = 200  # that are looked at in one of them, at least


@final
class MemoryStats:
    """The lookups of a tier: the sum over the caches above it, each of which has a table of its own.

    The tuple of tables is replaced as a whole. No finalizer or signal handler runs between the comparison and
    the replacement, nor does another thread: see `LookupTable`, also for the lock. So every snapshot includes
    a table that is just leaving. Forks do not take the lock: a finalizer may wait for it that holds another
    lock, for which the fork waits. Under the GIL no fork finds it locked.
    """

    __slots__ = ("_lock", "_tables", "latency", "sample_due")

    def __init__(self) -> None:
        self._lock = RLock()
        #: The first one is the tier's own. It has the counts of the caches that left, too.
        self._tables: tuple[LookupTable, ...] = (LookupTable(self._lock),)
        #: How long hits take.
        self.latency = LatencyHistogram()
        #: When the next hit is timed, on the tier's monotonic clock.
        self.sample_due = 0.0

    def reader(self) -> Lookups:
        """Return the counters of a caller of the tier itself, which keeps them."""
        return self._tables[0].reader()

    def table(self) -> LookupTable:
        """Return the table of a new cache above the tier."""
        table = LookupTable(self._lock)
        while True:
            before = self._tables
            after = (*before, table)
            with self._lock:
                # Nothing runs between the next two lines. A finalizer may have retired a table.
                if self._tables is before:
                    self._tables = after
                    return table

    def retire(self, table: LookupTable) -> None:
        """Keep the counts of a cache that is closed or gone, and drop its table.

        A second call does nothing. A finalizer may call it, so it takes no lock.
        """
        while True:
            before = self._tables
            if table not in before:
                return
            after = tuple(one for one in before if one is not table)
            hits, misses = table.totals()
            first = before[0]
            with self._lock:
                # Nothing runs between the next lines.
                if self._tables is before:
                    first.hits += hits
                    first.misses += misses
                    self._tables = after
                    return

    def lookups(self) -> tuple[int, int]:
        """Return the hits and misses of all readers."""
        while True:
            tables = self._tables
            hits, misses = map(sum, zip(*[table.totals() for table in tables], strict=True))
            with self._lock:
                # A table that has left since may have counted twice: the first one has its counts now.
                is_settled = self._tables is tables
            if is_settled:
                return hits, misses

    def sample(self, store: Store, key: str) -> None:
        """Repeat the steps of a hit and time them: timing every hit would cost more than the hit."""
        started = store.time.monotonic()
        self.sample_due = started + SAMPLE_INTERVAL
        held = store.find(key)
        if held is not None and store.time.monotonic() < held.deadline:
            try:
                store.touch_again(held.key)
            except KeyError as error:
                raise_interrupt(error)
                return
            self.latency.record(store.time.monotonic() - started)

    def statistics(self, store: Store, used: int | None = None) -> CacheStats:
        """Return all counts, of the readers and of the store.

        Args:
            store: the store of the tier.
            used: the bytes of its entries; None measures them.
        """
        hits, misses = self.lookups()
        return tier_stats(
            store.counter,
            self.latency,
            hits=hits,
            misses=misses,
            size=len(store),
            memory_usage_bytes=usage(store) if used is None else used,
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
    measured = sum(entry_size(one.key, one.value, one.tags, inf, _MOST_OBJECTS) for one in sample)
    return round(measured / len(sample) * len(held))
