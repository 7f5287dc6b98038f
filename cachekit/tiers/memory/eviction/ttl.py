"""TTL: evict the entry that expires first."""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar, final

K = TypeVar("K", bound=Hashable)

_SLACK = 16  # stale places in the heap that are not worth a rebuild


@final
class SoonestToExpire(Generic[K]):
    """Evicts the entry that expires first; among equals the one that was added first.

    For caches whose TTLs say what a value is worth: an entry that expires soon would have been useful for
    the shortest time. Expired entries are evicted before any live one, also between two sweeps. Only
    deadlines count: if all TTLs are equal, the policy is FIFO. Redis offers it as `volatile-ttl`, with a
    sample. Here the order is exact, by a binary heap (Williams, "Algorithm 232: Heapsort", CACM 7 (1964)).

    A key that is removed, or gets a new deadline, leaves a stale place in the heap, which its number
    identifies. `evict` skips stale places. The heap is rebuilt when they are the larger part. A hit
    without the lock is safe because it does nothing.
    """

    __slots__ = ("_heap", "_numbers", "_places")

    def __init__(self) -> None:
        self.begin(1)

    def begin(self, capacity: int) -> None:  # noqa: ARG002
        self._numbers = count()
        self._heap: list[tuple[float, int, K]] = []
        self._places: dict[K, tuple[float, int, K]] = {}

    def insert(self, key: K, deadline: float) -> None:
        self._places[key] = place = (deadline, next(self._numbers), key)
        heappush(self._heap, place)
        if len(self._heap) > 2 * len(self._places) + _SLACK:
            self._heap = list(self._places.values())
            heapify(self._heap)

    def hit(self, key: K) -> None:
        pass

    hit_unlocked = hit

    def prolong(self, key: K, deadline: float) -> None:
        if self._places[key][0] != deadline:
            self.insert(key, deadline)

    def evict(self, incoming: K) -> K:  # noqa: ARG002
        while True:
            place = heappop(self._heap)
            if self._places.get(place[2]) is place:
                del self._places[place[2]]
                return place[2]

    def remove(self, key: K) -> None:
        del self._places[key]
