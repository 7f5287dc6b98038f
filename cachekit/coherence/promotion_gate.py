"""PromotionGate: which hits in files are worth a copy in memory.

A small record of a mapped file is read in a few microseconds. A copy of it in memory costs twice that, and
pays if it is read twice before it leaves. In some streams few copies are: scans, many more keys than memory
has room for, and processes that write most keys. There only every second hit is copied, or every fourth, and
at least every sixteenth. Keys that are read often come up often, so they get into memory all the same.

Berg et al., "The CacheLib Caching Engine: Design and Experiences at Scale", OSDI '20, admit to flash by a
share, which needs no record of keys. Here the share follows from what copies turn out to be worth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, final

from cachekit.tiers.memory.store import Store

_LOOKUPS: Final = 256  # in files, between two decisions
_WORTH: Final = 2.0  # hits in memory for each copy, below which fewer are made; from twice that on, more are
_LOST: Final = 0.5  # entries that leave memory for each copy, below which memory is only filling
_MOST: Final = 16


@final
class PromotionGate:
    """Decides for one cache. Safe in any thread: a count that is lost between threads does no harm.

    Args:
        memory: the store that gets the copies.
        hits: Returns how many lookups have found their key in it.
    """

    __slots__ = ("_asked", "_copies", "_hits", "_left", "_memory", "_served", "due", "every")

    def __init__(self, memory: Store, hits: Callable[[], int]) -> None:
        self._memory = memory
        self._hits = hits
        self._asked = self._copies = self._served = self._left = 0
        #: Of so many hits in files one is copied.
        self.every = 1
        #: At how many promotions of the memory tier `decide` is due, as long as all hits are copied.
        self.due = _LOOKUPS

    def opens(self) -> bool:
        """Return whether the next hit is to be copied, where not all are."""
        self._asked += 1
        if self._asked >= _LOOKUPS:
            self.decide()
        return not self._asked % self.every

    def decide(self) -> None:
        """Let more or fewer hits be copied from now on, by what became of the last copies."""
        counter, served = self._memory.counter, self._hits()
        left = counter.evictions + counter.invalidations + counter.expirations
        copies, hits, lost = counter.promotions - self._copies, served - self._served, left - self._left
        self._copies, self._served, self._left, self._asked = counter.promotions, served, left, 0
        self.due = counter.promotions + _LOOKUPS
        if hits < _WORTH * copies and lost > _LOST * copies:
            self.every = min(_MOST, 2 * self.every)
        elif hits > 2 * _WORTH * copies or lost <= _LOST * copies:
            self.every = max(1, self.every // 2)
