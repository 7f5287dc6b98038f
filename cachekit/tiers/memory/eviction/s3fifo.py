"""S3-FIFO: a small queue on trial, a main queue, and the names of those that failed the trial."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar, final

K = TypeVar("K", bound=Hashable)

_SMALL: Final = 0.1  # of the capacity
_GHOSTS: Final = 0.9
_ENOUGH: Final = 2  # hits in the small queue that earn a place in the main one
_MOST: Final = 3  # hits that are counted: two bits


@final
class _Uses:
    """How often an entry was asked for, up to three times."""

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number = 0


@final
class S3Fifo(Generic[K]):
    """S3-FIFO, as in Yang, Zhang, Qiu, Yue, Vigfusson, "FIFO queues are all you need", SOSP '23.

    Most keys of a skewed stream are asked for once within the time that a cache can hold them. So new
    entries go on trial in a small FIFO queue, a tenth of the room. Those that were asked for at least
    twice more when their turn comes move to the main queue; the others leave, and only their names are
    kept, as ghosts. A key that comes back while its ghost is there goes straight to the main queue. The
    main queue is a FIFO with reinsertion: an entry that was asked for since goes around once more, with
    one use less, at most three times in a row.

    The small queue gives up an entry whenever the main one is not beyond its nine tenths, so a scan runs
    through a tenth of the cache and leaves the rest alone. There are as many ghosts as entries in nine
    tenths of the room. While the cache has not yet been full, what the small queue has no room for goes
    to the main queue, so that the first entries need not leave and come back. (That and the two uses are
    as in the authors' own simulator; a reading of the paper's Algorithm 1 without them differs by at
    most 0.15 points of hit ratio on the traces that we measure.)

    A cache that is bounded in bytes may be full with fewer entries than its capacity; the tenth is then
    one of what is held.

    A hit without the lock is safe: it looks up an object and adds to its number. An entry on its way from
    the small to the main queue is in both for a moment, with the same object. Two threads may count
    one hit for two, and a hit on an entry that leaves is lost.
    """

    __slots__ = ("_capacity", "_full_once", "_ghosts", "_main", "_returning", "_small")

    def __init__(self) -> None:
        self.begin(1)

    def begin(self, capacity: int) -> None:
        """See `EvictionPolicy`."""
        self._capacity = capacity
        self._full_once = False
        self._small: OrderedDict[K, _Uses] = OrderedDict()
        self._main: OrderedDict[K, _Uses] = OrderedDict()
        self._ghosts: OrderedDict[K, None] = OrderedDict()
        self._returning: K | None = None  # a key that room is made for, and that was a ghost

    def insert(self, key: K, deadline: float) -> None:  # noqa: ARG002
        """See `EvictionPolicy`."""
        known = self._was_ghost(key)
        self._returning = None
        if known or (not self._full_once and len(self._small) >= _share(self._capacity)):
            self._main[key] = _Uses()
        else:
            self._small[key] = _Uses()

    def _was_ghost(self, key: K) -> bool:
        if key in self._ghosts:
            del self._ghosts[key]
            return True
        return key == self._returning

    def hit(self, key: K) -> None:
        """See `EvictionPolicy`."""
        # The small one first: whatever is not there any more is in the main one already.
        uses = self._small.get(key) or self._main[key]
        if uses.number < _MOST:
            uses.number += 1

    hit_unlocked = hit

    def prolong(self, key: K, deadline: float) -> None:
        """See `EvictionPolicy`."""

    def evict(self, incoming: K) -> K:
        """See `EvictionPolicy`."""
        # Looked for before there is a new ghost, which might push this one out.
        self._returning = incoming if self._was_ghost(incoming) else None
        self._full_once = True
        small, main = self._small, self._main
        room = len(small) + len(main)
        if len(main) <= room - _share(room):
            # Once it is the turn of the small queue, it is until one of its entries leaves.
            while small:
                key, uses = next(iter(small.items()))
                if uses.number < _ENOUGH:
                    del small[key]
                    self._remember(key, int(room * _GHOSTS))
                    return key
                uses.number = 0
                main[key] = uses
                del small[key]
        while True:
            key, uses = next(iter(main.items()))
            if not uses.number:
                del main[key]
                return key
            uses.number -= 1
            main.move_to_end(key)

    def _remember(self, key: K, most: int) -> None:
        self._ghosts[key] = None
        while len(self._ghosts) > most:
            self._ghosts.popitem(last=False)

    def remove(self, key: K) -> None:
        """See `EvictionPolicy`."""
        if key in self._small:
            del self._small[key]
        else:
            del self._main[key]


def _share(room: int) -> int:
    """How many of the entries that there is room for may be on trial."""
    return max(1, int(room * _SMALL))
