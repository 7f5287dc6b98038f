"""FIFO: what came in first leaves first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar, final

K = TypeVar("K", bound=Hashable)


@final
class Fifo(Generic[K]):
    """First in, first out: an entry's age decides, and nothing that happens to it afterwards.

    The oldest policy and the cheapest: one queue, new entries at one end, victims at the other, and a hit
    changes nothing. Popular entries leave like any other and have to be loaded again, which is why it
    mostly stands for the least that a policy should reach; where requests run through keys in order and
    do not come back it is as good as any. Belady, "A study of replacement algorithms for a
    virtual-storage computer", IBM Systems Journal 5 (1966), describes it beside the optimum.

    An entry whose value is replaced keeps its place: it is the key that came in. A hit without the lock
    is safe because it does nothing.
    """

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        self.begin(1)

    def begin(self, capacity: int) -> None:  # noqa: ARG002
        """See `EvictionPolicy`."""
        # Not a dict, which steps over the places of all that have left to find its first key.
        self._queue: OrderedDict[K, None] = OrderedDict()

    def insert(self, key: K, deadline: float) -> None:  # noqa: ARG002
        """See `EvictionPolicy`."""
        self._queue[key] = None

    def hit(self, key: K) -> None:
        """See `EvictionPolicy`."""

    hit_unlocked = hit

    def prolong(self, key: K, deadline: float) -> None:
        """See `EvictionPolicy`."""

    def evict(self, incoming: K) -> K:  # noqa: ARG002
        """See `EvictionPolicy`."""
        return self._queue.popitem(last=False)[0]

    def remove(self, key: K) -> None:
        """See `EvictionPolicy`."""
        del self._queue[key]
