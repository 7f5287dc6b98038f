"""How often keys were asked for lately: an estimate in a few bytes per key, which fades."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, final

_MOST: Final = 15  # what a counter counts up to: more says nothing that matters about a key
_FADE: Final = 10  # asks per entry of the cache, between two halvings
_SMALLEST: Final = 64
_HALF: Final = bytes(count // 2 for count in range(256))


@final
class FrequencySketch:
    """A count-min sketch with conservative update and periodic halving. Not locked.

    A key's counter stands in each of four rows, at a place that its hash gives; others may share the place
    in one row, but hardly in all, and the lowest of the four is the estimate, which is never too low
    (Cormode, Muthukrishnan, "An improved data stream summary", 2005). Only the lowest are raised, which
    keeps strangers apart for longer (Estan, Varghese, 2002). When ten times as many asks were counted as
    the cache has entries, all counters are halved, so that what was popular fades (Einziger, Friedman, Manes,
    "TinyLFU", ACM Transactions on Storage 13 (2017)).

    It starts small and grows with the cache: twice as many places are the old ones twice, and no estimate
    changes. The hashes of keys must differ in all their bits, as those of `str` do; since those are
    keyed by a secret of the process, nobody outside can make keys that share places.

    Args:
        entries: of the cache, for now.
    """

    __slots__ = ("_asks", "_first", "_fourth", "_mask", "_second", "_third", "_until")

    def __init__(self, entries: int = 1) -> None:
        places = _SMALLEST
        self._mask = places - 1
        self._first, self._second = bytearray(places), bytearray(places)
        self._third, self._fourth = bytearray(places), bytearray(places)
        self._asks = 0
        self.resize(entries)

    def resize(self, entries: int) -> None:
        """Be about a cache of this many entries."""
        self._until = _FADE * max(entries, _SMALLEST // 4)
        while self._mask < 2 * entries:
            self._first *= 2
            self._second *= 2
            self._third *= 2
            self._fourth *= 2
            self._mask = 2 * self._mask + 1

    def add(self, key: Hashable) -> None:
        """Count that the key was asked for."""
        spread, mask = hash(key), self._mask
        first, second, third, fourth = self._first, self._second, self._third, self._fourth
        a, b = spread & mask, spread >> 15 & mask
        c, d = spread >> 30 & mask, spread >> 45 & mask
        count = min(first[a], second[b], third[c], fourth[d])
        if count < _MOST:
            if first[a] == count:
                first[a] = count + 1
            if second[b] == count:
                second[b] = count + 1
            if third[c] == count:
                third[c] = count + 1
            if fourth[d] == count:
                fourth[d] = count + 1
        self._asks += 1
        if self._asks >= self._until:
            self._fade()

    def estimate(self, key: Hashable) -> int:
        """How often the key was asked for lately, 0 to 15."""
        spread, mask = hash(key), self._mask
        return min(
            self._first[spread & mask],
            self._second[spread >> 15 & mask],
            self._third[spread >> 30 & mask],
            self._fourth[spread >> 45 & mask],
        )

    def _fade(self) -> None:
        self._first = self._first.translate(_HALF)
        self._second = self._second.translate(_HALF)
        self._third = self._third.translate(_HALF)
        self._fourth = self._fourth.translate(_HALF)
        self._asks //= 2
