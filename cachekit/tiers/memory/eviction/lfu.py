"""LFU: what was asked for least often leaves first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar, final

K = TypeVar("K", bound=Hashable)


@final
class Lfu(Generic[K]):
    """Least frequently used, with exact counts of what is held.

    An entry comes in with a count of one, and each hit adds one; the lowest count leaves, and among
    equals the one that reached this count longest ago. Counts begin anew when an entry comes back. Every
    step takes constant time: the keys of one count stand in a queue of their own, and a hit moves a key
    to the end of the next queue (Shah, Mitra, Matani, "An O(1) algorithm for implementing the LFU cache
    eviction scheme", 2010).

    Where popularity never changes that is the best that can be done without a look at the future. Where
    it does, yesterday's favourites hold their places with counts that nothing new can reach: on such
    requests plain LFU falls far behind LRU, and W-TinyLFU, which lets counts fade, is what one wants.

    A hit moves a key between two queues, so hits come in batches under the lock.
    """

    __slots__ = ("_counts", "_least", "_queues")

    def __init__(self) -> None:
        self.begin(1)

    def begin(self, capacity: int) -> None:  # noqa: ARG002
        """See `EvictionPolicy`."""
        self._counts: dict[K, int] = {}
        self._queues: dict[int, OrderedDict[K, None]] = {}  # of each count that some key has
        self._least = 1  # no key has a lower count

    def insert(self, key: K, deadline: float) -> None:  # noqa: ARG002
        """See `EvictionPolicy`."""
        self._least = 1
        self._enqueue(key, 1)

    def hit(self, key: K) -> None:
        """See `EvictionPolicy`."""
        count = self._counts[key]
        self._dequeue(key, count)
        self._enqueue(key, count + 1)

    def prolong(self, key: K, deadline: float) -> None:
        """See `EvictionPolicy`."""

    def evict(self, incoming: K) -> K:  # noqa: ARG002
        """See `EvictionPolicy`."""
        if self._least not in self._queues:
            self._least = min(self._queues)
        victim = next(iter(self._queues[self._least]))
        self.remove(victim)
        return victim

    def remove(self, key: K) -> None:
        """See `EvictionPolicy`."""
        self._dequeue(key, self._counts.pop(key))

    def _enqueue(self, key: K, count: int) -> None:
        self._counts[key] = count
        queue = self._queues.get(count)
        if queue is None:
            queue = self._queues[count] = OrderedDict()
        queue[key] = None

    def _dequeue(self, key: K, count: int) -> None:
        queue = self._queues[count]
        del queue[key]
        if not queue:
            del self._queues[count]
