"""COST_AWARE: evict the entry whose next load would cost the least, for the room that it takes."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from heapq import heapify, heappop, heappush, heapreplace
from math import inf
from typing import Final, Generic, TypeVar, final

K = TypeVar("K", bound=Hashable)

_MOST: Final = 30  # times the upper quartile of load times that a load counts for, at most
_LEAST: Final = 0.001  # times the median, at least, so that hits decide among loads that take no time
_ENOUGH: Final = 16  # load times whose quartile bounds others
_REMEMBERED: Final = 1024  # load times that median and quartile are of
_RENEWED: Final = 64  # load times after which they are computed again
_SLACK: Final = 16  # stale places in the heap that are not worth a rebuild


@final
class _Place:
    """What an entry is worth."""

    __slots__ = ("density", "number", "priority", "uses")

    def __init__(self, density: float, uses: int, clock: float, number: int) -> None:
        self.density = density  # load time for each unit of the weight
        self.uses = uses
        self.priority = clock + uses * density
        self.number = number  # of its place in the heap that counts


@final
class CostAware(Generic[K]):
    """GDSF: Greedy-Dual-Size with Frequency.

    From Cherkasova, "Improving WWW Proxies Performance with Greedy-Dual-Size-Frequency Caching Policy",
    HPL-98-69 (1998), after Cao, Irani, "Cost-Aware WWW Proxy Caching Algorithms", USITS '97. The priority of
    an entry is `clock + uses * load time / weight`, and the entry with the lowest priority is evicted. The
    clock is the priority of the last entry that was evicted. So an entry that is no longer requested is
    overtaken by newer ones, however much its load has cost. An entry that comes back starts with one use.

    A load counts for at most 30 times the upper quartile of the last loads. So one that was slow once,
    because a server was, keeps its place for some rounds only. The quartile, and not the median, because
    load times differ much where this strategy is of use. An entry whose load time is not known counts as the
    median.

    A hit raises two numbers, and leaves the heap as it is: the place in the heap is then too low. Eviction
    moves an entry whose place is too low, and takes the next one. A hit without the lock is safe: two
    threads may count one hit for two.
    """

    __slots__ = (
        "_clock", "_heap", "_loads", "_median", "_most", "_number", "_places", "_since", "_typical",
        "_weighed",
    )  # fmt: skip

    def __init__(self) -> None:
        self.begin(1)

    def begin(self, capacity: int) -> None:  # noqa: ARG002
        self._clock = 0.0
        self._number = 0
        self._heap: list[tuple[float, int, K]] = []
        self._places: dict[K, _Place] = {}
        self._weighed: dict[K, float] = {}  # the density of an entry that is going to be inserted
        self._loads: deque[float] = deque(maxlen=_REMEMBERED)
        self._median = 0.0
        self._typical = 1.0  # what an unknown load counts as
        self._most = inf
        self._since = 0

    @property
    def median(self) -> float:
        """Return the median of the last load times, in seconds; 0 if none is known."""
        return self._median

    def weigh(self, key: K, weight: int, seconds: float | None) -> None:
        """Learn the weight of an entry and how long its load took, just before `insert` or `prolong`."""
        cost = self._typical
        if seconds is not None:
            self._learn(seconds)
            cost = max(seconds, _LEAST * self._typical)
            if len(self._loads) >= _ENOUGH:
                cost = min(cost, self._most)
        density = cost / max(1, weight)
        place = self._places.get(key)
        if place is None:
            self._weighed = {key: density}
        elif place.density != density:
            self._push(key, density, place.uses)

    def _learn(self, seconds: float) -> None:
        self._loads.append(seconds)
        self._since += 1
        if self._since >= _RENEWED or self._since >= len(self._loads) // 2:
            self._since = 0
            ordered = sorted(self._loads)
            found, self._most = ordered[len(ordered) // 2], _MOST * ordered[3 * len(ordered) // 4]
            if found > 0:
                if not self._median:
                    self._scale(found)
                self._median = self._typical = found

    def _scale(self, factor: float) -> None:
        # All that was there before the first load time counted as 1.
        self._clock *= factor
        for place in self._places.values():
            place.density *= factor
            place.priority *= factor
        self._arrange()

    def _arrange(self) -> None:
        self._heap = [(place.priority, place.number, key) for key, place in self._places.items()]
        heapify(self._heap)

    def insert(self, key: K, deadline: float) -> None:  # noqa: ARG002
        self._push(key, self._weighed.pop(key, self._typical), 1)

    def _push(self, key: K, density: float, uses: int) -> None:
        self._number += 1
        self._places[key] = place = _Place(density, uses, self._clock, self._number)
        heappush(self._heap, (place.priority, place.number, key))
        if len(self._heap) > 2 * len(self._places) + _SLACK:
            self._arrange()

    def hit(self, key: K) -> None:
        place = self._places[key]
        place.uses = uses = place.uses + 1
        place.priority = self._clock + uses * place.density

    hit_unlocked = hit

    def prolong(self, key: K, deadline: float) -> None:
        pass

    def evict(self, incoming: K) -> K:  # noqa: ARG002
        heap, places = self._heap, self._places
        while True:
            priority, number, key = heap[0]
            place = places.get(key)
            if place is None or place.number != number:
                heappop(heap)
            elif place.priority > priority:
                heapreplace(heap, (place.priority, number, key))
            else:
                heappop(heap)
                del places[key]
                self._clock = max(self._clock, priority)
                return key

    def remove(self, key: K) -> None:
        del self._places[key]
