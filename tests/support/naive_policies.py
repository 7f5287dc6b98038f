"""Eviction policies as their papers tell them, with lists and searches: slow, and easy to believe."""

from __future__ import annotations

from cachekit.model.types import CacheStrategy
from cachekit.tiers.memory.eviction.sketch import FrequencySketch


class Naive:
    """What the models share: the order in which keys came in, and the deadlines."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.order: list[str] = []  # oldest first
        self.deadlines: dict[str, float] = {}

    def insert(self, key: str, deadline: float) -> None:
        assert key not in self.deadlines
        self.deadlines[key] = deadline
        self.order.append(key)

    def weigh(self, key: str, weight: int, seconds: float | None) -> None:
        """Learn what a value weighs and what its load took, before it comes in or replaces another."""

    def hit(self, key: str) -> None:
        assert key in self.deadlines

    def prolong(self, key: str, deadline: float) -> None:
        self.deadlines[key] = deadline

    def choose(self, incoming: str) -> str:
        return self.order[0]

    def evict(self, incoming: str) -> str:
        victim = self.choose(incoming)
        self.remove(victim)
        return victim

    def remove(self, key: str) -> None:
        self.order.remove(key)
        del self.deadlines[key]


class Lru(Naive):
    def hit(self, key: str) -> None:
        self.order.remove(key)
        self.order.append(key)


class Ttl(Naive):
    """The first of those with the earliest deadline; who got another one came in anew."""

    def prolong(self, key: str, deadline: float) -> None:
        if deadline != self.deadlines[key]:
            self.order.remove(key)
            self.order.append(key)
        super().prolong(key, deadline)

    def choose(self, incoming: str) -> str:
        return min(self.order, key=lambda key: self.deadlines[key])


class Lfu(Naive):
    """`order` is that of the last promotion."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.counts: dict[str, int] = {}

    def insert(self, key: str, deadline: float) -> None:
        super().insert(key, deadline)
        self.counts[key] = 1

    def hit(self, key: str) -> None:
        self.counts[key] += 1
        self.order.remove(key)
        self.order.append(key)

    def choose(self, incoming: str) -> str:
        return min(self.order, key=lambda key: self.counts[key])


class Sieve(Naive):
    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.visited: set[str] = set()
        self.hand = 0

    def hit(self, key: str) -> None:
        self.visited.add(key)

    def choose(self, incoming: str) -> str:
        while True:
            if self.hand >= len(self.order):
                self.hand = 0
            key = self.order[self.hand]
            if key not in self.visited:
                return key
            self.visited.remove(key)
            self.hand += 1

    def remove(self, key: str) -> None:
        if self.order.index(key) < self.hand:
            self.hand -= 1
        self.visited.discard(key)
        super().remove(key)
        if self.hand >= len(self.order):  # past the newest: what comes in next is not next
            self.hand = 0


class S3Fifo(Naive):
    """`order` is the small queue; before the first eviction it overflows to the main one."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.main: list[str] = []
        self.ghosts: list[str] = []
        self.uses: dict[str, int] = {}
        self.evicted = False
        self.was_ghost: str | None = None

    def insert(self, key: str, deadline: float) -> None:
        full = len(self.order) >= max(1, int(self.capacity * 0.1))
        super().insert(key, deadline)
        self.uses[key] = 0
        if key in self.ghosts or key == self.was_ghost or (full and not self.evicted):
            self.order.remove(key)
            self.main.append(key)
        if key in self.ghosts:
            self.ghosts.remove(key)
        self.was_ghost = None

    def hit(self, key: str) -> None:
        self.uses[key] = min(3, self.uses[key] + 1)

    def evict(self, incoming: str) -> str:
        if self.was_ghost != incoming:  # the same, if one entry does not make enough room
            self.was_ghost = None
        if incoming in self.ghosts:
            self.ghosts.remove(incoming)
            self.was_ghost = incoming
        self.evicted = True
        room = len(self.uses)
        if len(self.main) <= room - max(1, int(room * 0.1)):
            while self.order:
                key = self.order[0]
                if self.uses[key] < 2:
                    self.remove(key)
                    self.ghosts = [*self.ghosts, key][-int(room * 0.9) :] if int(room * 0.9) else []
                    return key
                self.uses[key] = 0
                self.main.append(self.order.pop(0))
        while self.uses[self.main[0]]:
            self.uses[self.main[0]] -= 1
            self.main.append(self.main.pop(0))
        key = self.main[0]
        self.remove(key)
        return key

    def remove(self, key: str) -> None:
        del self.uses[key]
        del self.deadlines[key]
        (self.order if key in self.order else self.main).remove(key)


class WTinyLfu(Naive):
    """`order` is the window. The sketch is the real one: what it estimates is a test of its own."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.room = capacity
        self.probation: list[str] = []
        self.protected: list[str] = []
        self.made_for = min(1024, capacity)
        self.sketch = FrequencySketch(self.made_for)
        self.share, self.step = 0.02, -0.05
        self.ratio = 0.0
        self.outcomes: list[bool] = []

    def window_room(self) -> int:
        return max(1, int(self.share * self.room))

    def settle(self, window: int) -> str | None:
        last = None
        while len(self.order) > window:
            last = self.order.pop(0)
            self.probation.append(last)
        return last

    def demote(self) -> None:
        while len(self.protected) > int((self.room - self.window_room()) * 0.8):
            self.probation.append(self.protected.pop(0))

    def insert(self, key: str, deadline: float) -> None:
        super().insert(key, deadline)
        if len(self.deadlines) > self.made_for:
            self.made_for = min(2 * self.made_for, self.capacity)
            self.sketch.resize(self.made_for)
        self.sketch.add(key)
        self.settle(self.window_room())
        self.note(False)

    def hit(self, key: str) -> None:
        self.sketch.add(key)
        if key in self.order:
            self.order.remove(key)
            self.order.append(key)
        elif key in self.protected:
            self.protected.remove(key)
            self.protected.append(key)
        else:
            self.probation.remove(key)
            self.protected.append(key)
            self.demote()
        self.note(True)

    def note(self, hit: bool) -> None:
        self.outcomes.append(hit)
        if len(self.outcomes) < 6 * self.room:
            return
        ratio = sum(self.outcomes) / len(self.outcomes)
        self.outcomes.clear()
        change, self.ratio = ratio - self.ratio, ratio
        self.step = self.step * 0.98 if change >= 0 else -0.6 * self.step
        if abs(change) >= 0.05:
            self.step = 0.05 if self.step > 0 else -0.05
        self.share = max(0.02, min(0.8, self.share + self.step))
        self.settle(self.window_room())
        self.demote()
        while len(self.order) < self.window_room() and self.probation:
            self.order.append(self.probation.pop(0))

    def evict(self, incoming: str) -> str:
        if self.room != len(self.deadlines):
            self.room = len(self.deadlines)
            self.demote()
        candidate = self.settle(self.window_room() - 1) or next(iter(self.order), None)
        rivals = [key for key in self.probation if key != candidate] or self.protected
        victim = rivals[0] if rivals else candidate
        assert victim is not None
        if candidate is not None and self.sketch.estimate(candidate) <= self.sketch.estimate(victim):
            victim = candidate
        self.remove(victim)
        return victim

    def remove(self, key: str) -> None:
        del self.deadlines[key]
        next(part for part in (self.order, self.probation, self.protected) if key in part).remove(key)


class CostAware(Naive):
    """The one with the least `clock + uses * cost / weight`, as of its last use; among equals the oldest."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.clock = 0.0
        self.loads: list[float] = []
        self.since = 0
        self.median = 0.0
        self.most = 0.0
        self.uses: dict[str, int] = {}
        self.density: dict[str, float] = {}
        self.priority: dict[str, float] = {}

    def weigh(self, key: str, weight: int, seconds: float | None) -> None:
        cost = self.median or 1.0
        if seconds is not None:
            self.loads = [*self.loads, seconds][-1024:]
            self.since += 1
            if self.since >= 64 or self.since >= len(self.loads) // 2:
                ordered, self.since = sorted(self.loads), 0
                found, self.most = ordered[len(ordered) // 2], 30 * ordered[3 * len(ordered) // 4]
                if found and not self.median:
                    self.clock *= found
                    for held in self.deadlines:
                        self.density[held] *= found
                        self.priority[held] *= found
                self.median = found or self.median
            typical = self.median or 1.0
            cost = max(seconds, 0.001 * typical)
            if len(self.loads) >= 16:
                cost = min(cost, self.most)
        before = self.density.get(key)
        self.density[key] = cost / max(1, weight)
        if key in self.deadlines and before != self.density[key]:
            self.order.remove(key)
            self.order.append(key)
            self.settle(key, self.uses[key])

    def settle(self, key: str, uses: int) -> None:
        self.uses[key] = uses
        self.priority[key] = self.clock + uses * self.density.setdefault(key, self.median or 1.0)

    def insert(self, key: str, deadline: float) -> None:
        super().insert(key, deadline)
        self.settle(key, 1)

    def hit(self, key: str) -> None:
        self.settle(key, self.uses[key] + 1)

    def choose(self, incoming: str) -> str:
        return min(self.order, key=lambda key: self.priority[key])

    def evict(self, incoming: str) -> str:
        victim = super().evict(incoming)
        self.clock = max(self.clock, self.priority.pop(victim))
        return victim

    def remove(self, key: str) -> None:
        super().remove(key)
        del self.uses[key], self.density[key]


NAIVE: dict[CacheStrategy, type[Naive]] = {
    CacheStrategy.LRU: Lru,
    CacheStrategy.FIFO: Naive,
    CacheStrategy.LFU: Lfu,
    CacheStrategy.TTL: Ttl,
    CacheStrategy.SIEVE: Sieve,
    CacheStrategy.S3_FIFO: S3Fifo,
    CacheStrategy.W_TINYLFU: WTinyLfu,
    CacheStrategy.COST_AWARE: CostAware,
    CacheStrategy.ADAPTIVE: S3Fifo,  # its first shape; another one needs more requests than a model gets
}
