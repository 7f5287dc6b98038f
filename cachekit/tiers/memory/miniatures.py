"""Miniature caches: of a sample of the keys, with the same share of the room that the sample has of the keys.

"Miniature Simulations" are from Waldspurger, Saemundsson, Ahmad, Park, "Cache Modeling and Optimization using
Miniature Simulations", ATC '17. `size_simulation` runs several of them side by side.
"""

from __future__ import annotations

from collections import OrderedDict
from math import inf
from typing import Final, final

from cachekit.model.types import CacheStrategy
from cachekit.runtime.none_dict import NoneDict
from cachekit.tiers.memory.eviction.adaptive import Adaptive, Shape
from cachekit.tiers.memory.eviction.base import EvictionPolicy, WeighsEntries
from cachekit.tiers.memory.eviction.lru import Lru

#: The parts of the sample, whose differences give the uncertainty.
PARTS: Final = 4
_AGAIN: Final = 15  # hits of an entry in a row that a policy is told of


class Miniature:
    """One simulated cache. It knows keys, deadlines and weights, and counts its hits.

    Args:
        policy: The eviction policy, which belongs to it from now on.
        capacity: The maximum number of entries, at least 1.
        limit: The maximum weight; infinity for no limit.
    """

    __slots__ = ("_held", "_policy", "_weigh", "_weight", "capacity", "hits", "limit")

    def __init__(self, policy: EvictionPolicy, capacity: int, limit: float = inf) -> None:
        policy.begin(capacity)
        self._policy = policy
        self._weigh = policy.weigh if isinstance(policy, WeighsEntries) else None
        self.capacity = capacity
        self.limit = limit
        self._held: NoneDict[str, tuple[float, int]] = NoneDict()
        self._weight = 0
        #: By part of the sample.
        self.hits = [0] * PARTS

    def __contains__(self, key: str) -> bool:
        return key in self._held

    def __len__(self) -> int:
        return len(self._held)

    def take_shape(self, shape: Shape) -> None:
        """Change the shape of an `Adaptive` policy."""
        assert isinstance(self._policy, Adaptive)
        self._policy.shape = shape

    def look_up(self, key: str, part: int, now: float) -> bool:
        """Count a hit if the key is held and live; return whether."""
        held = self._held[key]
        if held is None:
            return False
        if held[0] <= now:
            self.forget(key)
            return False
        self.hits[part] += 1
        self._policy.hit(key)
        return True

    def request(
        self, key: str, part: int, now: float, deadline: float, weight: int, seconds: float | None
    ) -> bool:
        """Do what `look_up` does, and store what it misses, which a load would bring."""
        if self.look_up(key, part, now):
            return True
        self.store(key, deadline, weight, seconds)
        return False

    def hit_again(self, key: str, part: int, number: int) -> None:
        """Count so many more hits of a key that was hit just now; the policy learns of the first few."""
        if key in self._held:
            self.hits[part] += number
            for _ in range(min(number, _AGAIN)):
                self._policy.hit(key)

    def store(self, key: str, deadline: float, weight: int, seconds: float | None = None) -> None:
        """Store an entry, which took so many seconds to load, in place of any entry under the key."""
        held, policy = self._held, self._policy
        before = held[key]
        if before is not None:
            if before[1] == weight:
                held[key] = deadline, weight
                if self._weigh is not None:
                    self._weigh(key, weight, seconds)
                policy.prolong(key, deadline)
                policy.hit(key)
                return
            self.forget(key)
        if weight > self.limit:
            return
        while held and (len(held) >= self.capacity or self._weight + weight > self.limit):
            evicted = held.pop(policy.evict(key))
            self._weight -= evicted[1]
        held[key] = deadline, weight
        self._weight += weight
        if self._weigh is not None:
            self._weigh(key, weight, seconds)
        policy.insert(key, deadline)

    def prolong(self, key: str, deadline: float) -> None:
        """Give the entry of a key another deadline, if it is held."""
        held = self._held[key]
        if held is not None:
            self._held[key] = deadline, held[1]
            self._policy.prolong(key, deadline)

    def forget(self, key: str) -> None:
        """Remove the key, if it is held."""
        held = self._held.pop(key, None)
        if held is not None:
            self._weight -= held[1]
            self._policy.remove(key)


@final
class LruMiniature(Miniature):
    """One of LRU that bounds the number of entries only. A request takes a third of the time.

    Args:
        capacity: The maximum number of entries, at least 1.
    """

    __slots__ = ("_order",)

    def __init__(self, capacity: int) -> None:
        super().__init__(Lru[str](), capacity)
        #: Deadlines; the key that was requested or written longest ago comes first.
        self._order: OrderedDict[str, float] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return key in self._order

    def __len__(self) -> int:
        return len(self._order)

    def request(
        self,
        key: str,
        part: int,
        now: float,
        deadline: float,
        weight: int,  # noqa: ARG002
        seconds: float | None,  # noqa: ARG002
    ) -> bool:
        """Do what `Miniature.request` does."""
        order = self._order
        if key not in order:
            if len(order) >= self.capacity:
                order.popitem(last=False)
            order[key] = deadline
            return False
        order.move_to_end(key)
        if order[key] <= now:
            order[key] = deadline
            return False
        self.hits[part] += 1
        return True

    def hit_again(self, key: str, part: int, number: int) -> None:
        """Count so many more hits of a key that was hit just now."""
        if key in self._order:
            self.hits[part] += number

    def store(self, key: str, deadline: float, weight: int, seconds: float | None = None) -> None:  # noqa: ARG002
        """Store an entry in place of any entry under the key."""
        order = self._order
        if key in order:
            order.move_to_end(key)
        elif len(order) >= self.capacity:
            order.popitem(last=False)
        order[key] = deadline

    def prolong(self, key: str, deadline: float) -> None:
        """Give the entry of a key another deadline, if it is held."""
        if key in self._order:
            self._order[key] = deadline

    def forget(self, key: str) -> None:
        """Remove the key, if it is held."""
        self._order.pop(key, None)


def miniature_of(strategy: CacheStrategy, capacity: int, limit: float) -> Miniature:
    """Return a new miniature of a strategy, the quickest that there is."""
    if strategy is CacheStrategy.LRU and limit == inf:
        return LruMiniature(capacity)
    return Miniature(policy_of(strategy), capacity, limit)


def policy_of(strategy: CacheStrategy) -> EvictionPolicy:
    """Return a new policy of a strategy."""
    if strategy is CacheStrategy.LRU:
        return Lru()
    from cachekit.tiers.memory.eviction.policies import POLICIES

    return POLICIES[strategy]()
