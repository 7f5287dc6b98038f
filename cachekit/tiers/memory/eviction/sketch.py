"""An estimate of how often keys were requested recently: a few bytes per key, and counts that fade."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, final

_MOST: Final = 15  # the maximum of a counter; higher counts would not change decisions
_FADE: Final = 24  # counts per entry of the cache between two halvings
_WIDTH: Final = 4  # places in a row per entry, at least
_FEWEST: Final = 16  # entries that the rows have room for, at least
_HALF: Final = bytes(count // 2 for count in range(256))


@final
class FrequencySketch:
    """A count-min sketch with conservative update and periodic halving. Not locked.

    Each key has a counter in each of four rows, at a place that its hash gives. Other keys may share the
    place in one row, but hardly in all, so the lowest of the four counters is the estimate. Between two
    halvings it is never too low (Cormode, Muthukrishnan, "An improved data stream summary: the count-min
    sketch and its applications", Journal of Algorithms 55 (2005)). Only the lowest counters are raised,
    which keeps the counts of different keys apart for longer (Estan, Varghese, "New directions in traffic
    measurement and accounting", SIGCOMM '02).

    After a number of counts per entry of the cache, all counters are halved, so that old popularity fades:
    the reset of Einziger, Friedman, Manes, "TinyLFU: A Highly Efficient Cache Admission Policy", ACM
    Transactions on Storage 13 (2017). A request for a key whose counter is full does not count towards the
    reset: otherwise a few very popular keys would make the others fade.

    The sketch starts small and grows with the cache. A row of twice the length is the old row twice, so no
    estimate changes. The hashes of keys must differ in all their bits, as those of `str` do. Hashes of `str`
    depend on a secret of the process, so no attacker can choose keys that share places.

    Args:
        entries: The number of entries that the cache has room for (default 1).
    """

    __slots__ = ("_counts", "_first", "_fourth", "_mask", "_second", "_third", "_until")

    def __init__(self, entries: int = 1) -> None:
        places = _WIDTH * _FEWEST
        self._mask = places - 1
        self._first, self._second = bytearray(places), bytearray(places)
        self._third, self._fourth = bytearray(places), bytearray(places)
        self._counts = 0
        self.resize(entries)

    def resize(self, entries: int) -> None:
        """Set the number of entries that the cache has room for; the rows never become shorter."""
        entries = max(entries, _FEWEST)
        self._until = _FADE * entries
        while self._mask < _WIDTH * entries - 1:
            self._first *= 2
            self._second *= 2
            self._third *= 2
            self._fourth *= 2
            self._mask = 2 * self._mask + 1

    def add(self, key: Hashable) -> None:
        """Count a request for the key."""
        bits, mask = hash(key), self._mask
        first, second, third, fourth = self._first, self._second, self._third, self._fourth
        a, b, c, d = bits & mask, bits >> 15 & mask, bits >> 30 & mask, bits >> 45 & mask
        # Each counter is read once and compared without a call: this is most of the cost of a hit.
        in_first, in_second, in_third, in_fourth = first[a], second[b], third[c], fourth[d]
        count = in_first
        if in_second < count:
            count = in_second
        if in_third < count:
            count = in_third
        if in_fourth < count:
            count = in_fourth
        if count == _MOST:
            return
        if in_first == count:
            first[a] = count + 1
        if in_second == count:
            second[b] = count + 1
        if in_third == count:
            third[c] = count + 1
        if in_fourth == count:
            fourth[d] = count + 1
        self._counts += 1
        if self._counts >= self._until:
            self._fade()

    def estimate(self, key: Hashable) -> int:
        """Return how often the key was requested recently, 0 to 15."""
        bits, mask = hash(key), self._mask
        return min(
            self._first[bits & mask],
            self._second[bits >> 15 & mask],
            self._third[bits >> 30 & mask],
            self._fourth[bits >> 45 & mask],
        )

    def _fade(self) -> None:
        self._first = self._first.translate(_HALF)
        self._second = self._second.translate(_HALF)
        self._third = self._third.translate(_HALF)
        self._fourth = self._fourth.translate(_HALF)
        self._counts //= 2
