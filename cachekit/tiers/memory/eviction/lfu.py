"""LFU: evict the entry that was requested least often."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar, final

K = TypeVar("K", bound=Hashable)


@final
class Lfu(Generic[K]):
    """Least frequently used, with exact counts of the entries held.

    An entry starts with a count of one, and each hit adds one. The entry with the lowest count is evicted;
    among equals, the one that reached this count first. An entry that comes back starts at one again. Every
    step takes constant time: the keys of each count have their own queue, and a hit moves a key to the end
    of the next queue (Shah, Mitra, Matani, "An O(1) algorithm for implementing the LFU cache eviction
    scheme", 2010).

    Where popularity never changes, no policy without knowledge of the future does better. Where it changes,
    formerly popular entries stay with counts that no new entry can reach. On such requests plain LFU falls
    far behind LRU; use W-TinyLFU, whose counts fade.

    A hit moves a key between two queues, so hits come in batches under the lock.
    """

    __slots__ = ("_counts", "_least", "_queues")

    def __init__(self) -> None:
        self.begin(1)

    def begin(self, capacity: int) -> None:  # noqa: ARG002
        self._counts: dict[K, int] = {}
        self._queues: dict[int, OrderedDict[K, None]] = {}  # of each count that some key has
        self._least = 1  # no key has a lower count

    def insert(self, key: K, deadline: float) -> None:  # noqa: ARG002
        self._least = 1
        self._enqueue(key, 1)

    def hit(self, key: K) -> None:
        count = self._counts[key]
        self._dequeue(key, count)
        self._enqueue(key, count + 1)

    def prolong(self, key: K, deadline: float) -> None:
        pass

    def evict(self, incoming: K) -> K:  # noqa: ARG002
        if self._least not in self._queues:
            self._least = min(self._queues)
        victim = next(iter(self._queues[self._least]))
        self.remove(victim)
        return victim

    def remove(self, key: K) -> None:
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
