"""SIEVE: a queue, one bit per entry, and a hand that evicts entries without a second request."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar, final

K = TypeVar("K", bound=Hashable)


@final
class _Node(Generic[K]):
    """The place of an entry in the queue."""

    __slots__ = ("key", "newer", "older", "visited")

    key: K
    visited: bool
    newer: _Node[K] | None
    older: _Node[K] | None


@final
class Sieve(Generic[K]):
    """SIEVE, as in Zhang, Yang, Yue, Vigfusson, Rashmi, "SIEVE is Simpler than LRU", NSDI '24.

    Entries stay in a queue in the order in which they were added and never move. A hit sets the visited bit
    of the entry. To evict, a hand moves from the oldest towards the newest entry. An entry with the bit
    loses the bit and keeps its place; the first entry without the bit is evicted. The hand stays there,
    continues from there at the next eviction, and returns to the oldest entry after it has passed the newest.

    That differs from CLOCK in one thing. CLOCK moves a surviving entry to the young end, so new and
    surviving entries mix. SIEVE leaves it in place, so the hand keeps passing over the young part of the
    queue. There, entries that are requested only once are found and removed soon ("quick demotion"), while
    surviving entries lie behind the hand and are not examined for a round ("lazy promotion"). On skewed
    requests (web, key-value caches) it beats LRU, with a hit that is one assignment. It performs badly on
    repeated scans that are longer than the cache, and is slow to forget formerly popular entries.

    A hit without the lock is safe: it looks up a node and sets one attribute. A node that was just removed
    takes the bit with it without effect, and two threads set the same bit.
    """

    __slots__ = ("_hand", "_newest", "_nodes", "_oldest")

    def __init__(self) -> None:
        self.begin(1)

    def begin(self, capacity: int) -> None:  # noqa: ARG002
        self._nodes: dict[K, _Node[K]] = {}
        self._oldest: _Node[K] | None = None
        self._newest: _Node[K] | None = None
        self._hand: _Node[K] | None = None  # where the next eviction begins; None means the oldest

    def insert(self, key: K, deadline: float) -> None:  # noqa: ARG002
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
        self._nodes[key].visited = True

    hit_unlocked = hit

    def prolong(self, key: K, deadline: float) -> None:
        pass

    def evict(self, incoming: K) -> K:  # noqa: ARG002
        node = self._hand or self._oldest
        while node is not None and node.visited:
            node.visited = False
            node = node.newer or self._oldest
        assert node is not None, "evict is called only while something is held"
        self._hand = node
        self.remove(node.key)
        return node.key

    def remove(self, key: K) -> None:
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
        # Break the reference cycle between adjacent nodes, so that no garbage collection is needed.
        node.newer = node.older = None
