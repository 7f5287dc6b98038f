"""FIFO: evict the oldest entry."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar, final

K = TypeVar("K", bound=Hashable)


@final
class Fifo(Generic[K]):
    """First in, first out: only the age of an entry decides.

    The oldest and cheapest policy: one queue, new entries at one end, victims at the other, and a hit
    changes nothing. Popular entries leave like any other and have to be loaded again. So FIFO mostly serves
    as the baseline for other policies. Where requests run through keys in order without repetition, it is
    as good as any policy. Belady, "A study of replacement algorithms for a virtual-storage computer", IBM
    Systems Journal 5 (1966), describes it beside the optimum.

    An entry whose value is replaced keeps its place, because the key is what was added. A hit without the
    lock is safe because it does nothing.
    """

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        self.begin(1)

    def begin(self, capacity: int) -> None:  # noqa: ARG002
        # Not a dict: finding its first key takes longer with every key that was removed before it.
        self._queue: OrderedDict[K, None] = OrderedDict()

    def insert(self, key: K, deadline: float) -> None:  # noqa: ARG002
        self._queue[key] = None

    def hit(self, key: K) -> None:
        pass

    hit_unlocked = hit

    def prolong(self, key: K, deadline: float) -> None:
        pass

    def evict(self, incoming: K) -> K:  # noqa: ARG002
        return self._queue.popitem(last=False)[0]

    def remove(self, key: K) -> None:
        del self._queue[key]
