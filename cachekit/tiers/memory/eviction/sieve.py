"""SIEVE: a queue, one bit per entry, and a hand that removes what was not asked for again."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar, final

K = TypeVar("K", bound=Hashable)


@final
class _Node(Generic[K]):
    """An entry's place in the queue."""

    __slots__ = ("key", "newer", "older", "visited")

    key: K
    visited: bool
    newer: _Node[K] | None
    older: _Node[K] | None


@final
class Sieve(Generic[K]):
    """SIEVE, as in Zhang, Yang, Yue, Vigfusson, Rashmi, "SIEVE is Simpler than LRU", NSDI '24.

    Entries stand in a queue in the order in which they came in and never move. A hit sets the entry's
    visited bit. To make room, a hand walks from the oldest towards the newest: an entry with the bit loses
    the bit and stays where it is; the first without it leaves. The hand stays there and goes on from
    there next time, and begins again with the oldest when it has passed the newest.

    That differs from CLOCK in one thing. CLOCK moves the survivor to the young end, so new and surviving
    entries mix; SIEVE leaves it where it is, so the hand keeps passing over the young part of the queue,
    where entries that nobody asks for twice are found and removed soon ("quick demotion"), while what
    has survived lies behind it and is not looked at for a round ("lazy promotion"). On skewed requests
    (web, key-value caches) it beats LRU, with a hit that is one assignment. It is no good at scans that
    are longer than the cache and come in rounds, and slow to forget what was popular and is no more.

    A hit without the lock is safe: it looks a node up and sets an attribute of it. A node that has just
    left takes the bit with it, unseen; two threads set the same bit.
    """

    __slots__ = ("_hand", "_newest", "_nodes", "_oldest")

    def __init__(self) -> None:
        self.begin(1)

    def begin(self, capacity: int) -> None:  # noqa: ARG002
        """See `EvictionPolicy`."""
        self._nodes: dict[K, _Node[K]] = {}
        self._oldest: _Node[K] | None = None
        self._newest: _Node[K] | None = None
        self._hand: _Node[K] | None = None  # where the next walk begins; None is at the oldest

    def insert(self, key: K, deadline: float) -> None:  # noqa: ARG002
        """See `EvictionPolicy`."""
        node = _Node[K]()
        node.key = key
        node.visited = False
        node.newer = None
        node.older = self._newest
        if self._newest is None:
            self._oldest = node
        else:
            self._newest.newer = node
        self._newest = node
        self._nodes[key] = node

    def hit(self, key: K) -> None:
        """See `EvictionPolicy`."""
        self._nodes[key].visited = True

    hit_unlocked = hit

    def prolong(self, key: K, deadline: float) -> None:
        """See `EvictionPolicy`."""

    def evict(self, incoming: K) -> K:  # noqa: ARG002
        """See `EvictionPolicy`."""
        node = self._hand or self._oldest
        while node is not None and node.visited:
            node.visited = False
            node = node.newer or self._oldest
        assert node is not None, "evict is called only while something is held"
        self._hand = node
        self.remove(node.key)
        return node.key

    def remove(self, key: K) -> None:
        """See `EvictionPolicy`."""
        node = self._nodes.pop(key)
        if node is self._hand:
            self._hand = node.newer
        if node.older is None:
            self._oldest = node.newer
        else:
            node.older.newer = node.newer
        if node.newer is None:
            self._newest = node.older
        else:
            node.newer.older = node.older
        # Two nodes that name each other would wait for the garbage collector.
        node.newer = node.older = None
