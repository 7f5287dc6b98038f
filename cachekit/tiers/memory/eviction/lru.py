"""LRU as an eviction policy, for simulations: the store of the memory tier is an LRU queue itself."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar, final

K = TypeVar("K", bound=Hashable)


@final
class Lru(Generic[K]):
    """Evicts the entry that was requested or written longest ago. See `Store` for the one of the tier."""

    __slots__ = ("_order", "hit")

    def __init__(self) -> None:
        self.begin(1)

    def begin(self, capacity: int) -> None:  # noqa: ARG002
        self._order: OrderedDict[K, None] = OrderedDict()
        self.hit = self._order.move_to_end

    def insert(self, key: K, deadline: float) -> None:  # noqa: ARG002
        self._order[key] = None

    def prolong(self, key: K, deadline: float) -> None:
        pass

    def evict(self, incoming: K) -> K:  # noqa: ARG002
        return self._order.popitem(last=False)[0]

    def remove(self, key: K) -> None:
        del self._order[key]
