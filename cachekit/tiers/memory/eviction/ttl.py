"""TTL: what would expire soonest leaves first."""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar, final

K = TypeVar("K", bound=Hashable)

_SLACK = 16  # stale places in the heap that are not worth a clearing


@final
class SoonestToExpire(Generic[K]):
    """The entry whose time is over soonest leaves first; among equals the one that came in first.

    For caches whose TTLs say what a value is worth: what is nearly over would have been of use for the
    shortest time. Entries that have expired go before any live one, also between two sweeps. It looks at
    nothing but deadlines: if all TTLs are alike it is FIFO. Redis has it as `volatile-ttl`, by a sample;
    here the order is exact, by a binary heap (Williams, "Algorithm 232: Heapsort", CACM 7 (1964)).

    Whatever leaves early or gets another deadline stays in the heap as a stale place, known by its number,
    and is skipped when it comes up. The heap is cleared of them when they are the larger part. A hit
    without the lock is safe because it does nothing.
    """

    __slots__ = ("_heap", "_numbers", "_places")

    def __init__(self) -> None:
        self.begin(1)

    def begin(self, capacity: int) -> None:  # noqa: ARG002
        """See `EvictionPolicy`."""
        self._numbers = count()
        self._heap: list[tuple[float, int, K]] = []
        self._places: dict[K, tuple[float, int, K]] = {}

    def insert(self, key: K, deadline: float) -> None:
        """See `EvictionPolicy`."""
        self._places[key] = place = (deadline, next(self._numbers), key)
        heappush(self._heap, place)
        if len(self._heap) > 2 * len(self._places) + _SLACK:
            self._heap = list(self._places.values())
            heapify(self._heap)

    def hit(self, key: K) -> None:
        """See `EvictionPolicy`."""

    hit_unlocked = hit

    def prolong(self, key: K, deadline: float) -> None:
        """See `EvictionPolicy`."""
        if self._places[key][0] != deadline:
            self.insert(key, deadline)

    def evict(self, incoming: K) -> K:  # noqa: ARG002
        """See `EvictionPolicy`."""
        while True:
            place = heappop(self._heap)
            if self._places.get(place[2]) is place:
                del self._places[place[2]]
                return place[2]

    def remove(self, key: K) -> None:
        """See `EvictionPolicy`."""
        del self._places[key]
