"""One structure whose shape changes with the requests: a trial queue, a main queue, ghosts and a sketch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Final, Generic, NamedTuple, TypeVar, final

from cachekit.tiers.memory.eviction.base import HasAccesses
from cachekit.tiers.memory.eviction.sketch import FrequencySketch

K = TypeVar("K", bound=Hashable)

_GHOSTS: Final = 0.9  # of the entries held
_MOST: Final = 3  # rounds of the main queue that hits can earn
_COUNTED: Final = 15  # hits that the sketch counts at once: it counts no further
_FIRST: Final = 1024  # entries that the sketch has room for at first


class Shape(NamedTuple):
    """What decides on the way of an entry."""

    trial: float  #: the trial queue's share of the entries
    earns: int  #: hits on trial that earn a place in the main queue; 0: the sketch decides

    def __str__(self) -> str:
        how = f"{self.earns} hits earn a place" if self.earns else "the more frequent key stays"
        return f"trial {self.trial:.0%}, {how}"


#: The shapes that ADAPTIVE chooses among. The first one is that of S3-FIFO.
SHAPES: Final = (
    Shape(0.10, 2), Shape(0.01, 2), Shape(0.25, 1), Shape(0.01, 0), Shape(0.20, 0), Shape(0.60, 0),
)  # fmt: skip


@final
class _Place:
    """What is known of an entry's requests."""

    __slots__ = ("credit", "fresh", "seen")

    def __init__(self) -> None:
        self.credit = 0  # hits that may still help it, at most three
        self.fresh = 0  # hits that `hit` reported since the last look
        self.seen = 0  # accesses of the entry that are counted already


@final
class Adaptive(Generic[K]):
    """S3-FIFO and W-TinyLFU in one structure, which three numbers turn from one into the other.

    New entries begin in the trial queue. At its end an entry moves to the main queue, or is evicted and
    leaves its key as a ghost. `Shape` says what decides: hits on trial, as in S3-FIFO (Yang et al.,
    SOSP '23), or a comparison with the main queue's own victim, as in W-TinyLFU (Einziger, Friedman, Manes,
    ACM Transactions on Storage 13 (2017)). The main queue is a FIFO with reinsertion. With hits, a key whose
    ghost exists goes straight to the main queue. With a comparison, an entry on trial that was hit goes round
    once more, which stands for the LRU window of W-TinyLFU.

    A change of the shape moves no entry and forgets nothing, which is why it is free. Where the trial queue
    is then longer than its share, it becomes shorter by the entries that win a comparison: these take no
    other entry's place in the main queue. The choice is made by miniature simulations of all shapes (see
    `key_sample`).

    A hit does nothing: the policy reads the entry's own count of accesses when it looks at the entry. So hits
    are as cheap as they can be, and need no lock.
    """

    __slots__ = (
        "_capacity", "_entries", "_full_once", "_ghosts", "_main", "_returning", "_sketch", "_sketched",
        "_trial", "changes", "lead", "shape",
    )  # fmt: skip

    def __init__(self) -> None:
        self.shape = SHAPES[0]
        #: How often the shape has changed, and the share of requests by which the last one was ahead.
        self.changes = 0
        self.lead = 0.0
        self._entries: Mapping[K, HasAccesses] = {}
        self.begin(1)

    def __str__(self) -> str:
        why = f", the last time for {100 * self.lead:.1f} points of hit rate" if self.changes else ""
        return f"{self.shape}; changed {self.changes} times{why}"

    def change(self, shape: Shape, lead: float) -> None:
        """Take another shape, which would have served so much more of the requests."""
        self.shape = shape
        self.lead = lead
        self.changes += 1

    def begin(self, capacity: int) -> None:
        self._capacity = capacity
        self._full_once = False
        self._trial: OrderedDict[K, _Place] = OrderedDict()
        self._main: OrderedDict[K, _Place] = OrderedDict()
        self._ghosts: OrderedDict[K, None] = OrderedDict()
        self._returning: K | None = None
        self._sketched = min(capacity, _FIRST)
        self._sketch = FrequencySketch(self._sketched)

    def read_accesses(self, entries: Mapping[K, HasAccesses]) -> None:
        """Read hits from the entries from now on, by key. Then `hit` is called for replaced values only."""
        self._entries = entries

    def count_hits(self, key: K) -> None:
        self._look(key, self._trial.get(key) or self._main[key])

    def insert(self, key: K, deadline: float) -> None:  # noqa: ARG002
        held = len(self._trial) + len(self._main)
        if held >= self._sketched:
            self._sketched = min(2 * self._sketched, max(self._capacity, held))
            self._sketch.resize(self._sketched)
        self._sketch.add(key)
        known = self._was_ghost(key)
        self._returning = None
        place = _Place()
        entry = self._entries.get(key)
        if entry is not None:
            place.seen = entry.accesses
        if (known and self.shape.earns) or (
            not self._full_once and len(self._trial) >= max(1, int(self._capacity * self.shape.trial))
        ):
            self._main[key] = place
        else:
            self._trial[key] = place

    def _was_ghost(self, key: K) -> bool:
        if key in self._ghosts:
            del self._ghosts[key]
            return True
        return key == self._returning

    def hit(self, key: K) -> None:
        place = self._trial.get(key) or self._main[key]
        place.fresh += 1
        entry = self._entries.get(key)
        if entry is not None:  # a new value under the key counts from the start
            place.seen = entry.accesses

    def prolong(self, key: K, deadline: float) -> None:
        pass

    def evict(self, incoming: K) -> K:
        # Checked before there is a new ghost, which might push out the one of `incoming`.
        self._returning = incoming if self._was_ghost(incoming) else None
        self._full_once = True
        trial, main = self._trial, self._main
        held = len(trial) + len(main)
        share, earns = self.shape
        most = max(1, int(held * share))
        if len(main) <= held - most:
            while trial:
                key, place = next(iter(trial.items()))
                self._look(key, place)
                if earns:
                    stays = place.credit >= earns
                elif main:
                    if place.credit:
                        place.credit = 0
                        trial.move_to_end(key)
                        continue
                    victim = self._victim()
                    stays = self._sketch.estimate(key) > self._sketch.estimate(victim)
                    if stays and len(trial) <= most:
                        del main[victim]
                        del trial[key]
                        main[key] = place
                        self._remember(victim, held)
                        return victim
                else:
                    stays = place.credit > 0
                del trial[key]
                if not stays:
                    self._remember(key, held)
                    return key
                place.credit = 0
                main[key] = place
        key = self._victim()
        del main[key]
        return key

    def _victim(self) -> K:
        """Return the oldest entry of the main queue without a credit, after those that go round once more."""
        main = self._main
        while True:
            key, place = next(iter(main.items()))
            self._look(key, place)
            if not place.credit:
                return key
            place.credit -= 1
            main.move_to_end(key)

    def _look(self, key: K, place: _Place) -> None:
        """Count the hits since the last look."""
        entry = self._entries.get(key)
        fresh = place.fresh
        if entry is not None:
            fresh += max(0, entry.accesses - place.seen)
            place.seen = entry.accesses
        if fresh:
            place.fresh = 0
            place.credit = min(place.credit + fresh, _MOST)
            add = self._sketch.add
            for _ in range(min(fresh, _COUNTED)):
                add(key)

    def _remember(self, key: K, held: int) -> None:
        self._ghosts[key] = None
        while len(self._ghosts) > int(held * _GHOSTS):
            self._ghosts.popitem(last=False)

    def remove(self, key: K) -> None:
        if key in self._trial:
            del self._trial[key]
        else:
            del self._main[key]
