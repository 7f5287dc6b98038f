"""Recurrence: which keys are asked for in the same minute of an hour, or of a day, as before.

It is fed with what teaches the `Predictor`: misses, and first hits on prefetched entries. A key that came in
the same minute of three hours in a row, or of three days, is foreseen for the next one. At first it notes
whether the key is asked for, and nothing is loaded. Keys are prefetched when at least three of four foreseen
keys were asked for, and no more when fewer than half were. The proof after that takes twice as many keys.

Minutes are those since 1970 in UTC, so neither a time zone nor daylight saving time moves them. After a jump
of the clock, what it knows of minutes far away is out of date, and is learned again.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Final, TypeAlias, final

#: Minutes of an hour and of a day.
_PERIODS: Final = (60, 1440)
_KEYS: Final = 2048  # that are known for each period
_TEXT: Final = 1 << 18  # characters of these keys
_CELLS: Final = 1 << 16  # for keys that find no place
_TRIES: Final = 8  # rows that are looked at, for one to displace
_MINUTES: Final = 6  # of one period in which a key may come; one that comes in more does not follow the clock
_TIMES: Final = 3  # that a key must have come in the same minute
_GAP: Final = 3  # periods after which a key may come again, such as after a weekend
_GRACE: Final = 1  # minutes after the foreseen one in which the key still counts as asked for
_NEEDED: Final = 8  # foreseen keys that prove the first time
_MOST_NEEDED: Final = 1024
_CREDIT: Final = 4  # useful prefetches with which a proof begins
_WINDOW: Final = 64  # foreseen keys from which the counts of the proof are halved
_MOST: Final = 1 << 40  # of a number in a record

#: A key, and its minutes of hours and of days, each with how often it came.
Recorded: TypeAlias = tuple[str, tuple[dict[int, int], ...]]


def is_over(minute: int, now: int) -> bool:
    """Return whether the time is over in which a key that was foreseen for a minute counts as asked for."""
    return not minute - 2 <= now <= minute + _GRACE  # the clock may have been set back


@final
class _Minutes:
    """The minutes of one period in which keys came.

    A row has the last minute of each series of a key, and how often it came. In a busy stream most keys come
    once. If they pushed out older rows, none would stay for a whole period. So a full table takes no new key.
    It notes 32 bits of it instead, in a cell that a later key may take. If the key comes again one period
    later, it takes the row of a key that has not.

    Each place of the period has its keys, so that what a minute asks for takes no look at all rows. A row has
    at most one minute of each place.
    """

    __slots__ = (
        "_before", "_cells", "_minute", "_number", "_period", "_places", "_salt", "_swept", "_text", "rows",
    )  # fmt: skip

    def __init__(self, period: int) -> None:
        self._period = period
        self._text = 0
        self.rows: OrderedDict[str, dict[int, int]] = OrderedDict()
        #: The keys with a minute at each place of the period; dicts, which let any of them go at once.
        self._places: dict[int, dict[str, None]] = {}
        self._swept = 0  # the minute up to which old ones are forgotten
        #: Of keys without a row: bits of the hash, and the number of the period. Made when the table is full.
        self._cells = array("I")
        #: The last minute that was noted in a cell, and what follows from it.
        self._minute = -1
        self._salt = self._number = self._before = 0

    def add(self, key: str, minute: int) -> None:
        """Note that a key was asked for."""
        row = self.rows.get(key)
        if row is None:
            if len(self.rows) < _KEYS and self._insert(key, {minute: 1}):
                return
            if minute != self._minute:
                self._begin(minute)
            bits = hash(key) ^ self._salt
            at, mark = bits & _CELLS - 1, bits & 0xFFFF0000
            cells = self._cells
            if cells[at] == mark | self._before:
                self._displace(len(key))
                if self._insert(key, {minute: 2}):
                    return
            cells[at] = mark | self._number
            return
        if minute in row:
            return
        before = minute
        for gap in range(1, _GAP + 1):
            before -= self._period
            times = row.pop(before, 0)
            if times:
                row[minute] = times + (gap == 1)
                return
        place = minute % self._period
        for one in [one for one in row if one % self._period == place]:
            self._drop_minute(key, row, one)  # the clock was set back, or nothing was forgotten since
        if len(row) < _MINUTES:
            row[minute] = 1
            self._at(minute)[key] = None
            return
        for one in [one for one, times in row.items() if times < _TIMES]:
            self._drop_minute(key, row, one)
        if not row:
            self._drop(key)

    def _insert(self, key: str, row: dict[int, int]) -> bool:
        text = self._text + len(key)
        if len(self.rows) >= _KEYS or text > _TEXT:
            return False
        self.rows[key] = row
        self._text = text
        for minute in row:
            self._at(minute)[key] = None
        return True

    def _at(self, minute: int) -> dict[str, None]:
        """Return the keys with a minute at this place of the period."""
        return self._places.setdefault(minute % self._period, {})

    def _drop_minute(self, key: str, row: dict[int, int], minute: int) -> None:
        del row[minute]
        del self._at(minute)[key]

    def _begin(self, minute: int) -> None:
        """Compute what the cells of keys that come in this minute are made of."""
        if not self._cells:
            self._cells.frombytes(bytes(4 * _CELLS))
        self._minute = minute
        number, place = divmod(minute, self._period)
        self._salt = hash((place, self._period))
        self._number, self._before = number & 0xFFFF, (number - 1) & 0xFFFF

    def _displace(self, needed: int) -> None:
        """Make place for a key of this length, if one of the oldest rows has not come again."""
        for _ in range(min(_TRIES, len(self.rows))):
            key, row = next(iter(self.rows.items()))
            if max(row.values()) > 1:
                self.rows.move_to_end(key)
                continue
            self._drop(key)
            if self._text + needed <= _TEXT:
                return

    def _is_old(self, minute: int, times: int, now: int) -> bool:
        most = _GAP * self._period
        return not -most <= now - minute <= (self._period if times == 1 else most)

    def _drop(self, key: str) -> None:
        row = self.rows.pop(key)
        for minute in list(row):
            self._drop_minute(key, row, minute)
        size = len(key)
        self._text -= size

    def drop_old(self, now: int) -> None:
        """Forget the minutes that did not come again, of the places that were passed since the last call."""
        passed = now - self._swept
        if not 0 <= passed <= self._period:
            passed = self._period
        self._swept = now
        for before in range(now - passed, now):
            place = before % self._period
            for key in list(self._places.get(place, ())):
                row = self.rows[key]
                minute = next(one for one in row if one % self._period == place)
                if self._is_old(minute, row[minute], now):
                    self._drop_minute(key, row, minute)
                    if not row:
                        self._drop(key)

    def forget(self, key: str) -> None:
        """Forget a key."""
        if key in self.rows:
            self._drop(key)

    def due(self, minute: int) -> dict[str, int]:
        """Return the keys that are foreseen for a minute, and how often they came before."""
        before = minute - self._period
        rows = self.rows
        return {
            key: times
            for key in self._places.get(minute % self._period, ())
            if (times := rows[key].get(before, 0)) >= _TIMES
        }

    def restore(self, key: str, minutes: dict[int, int], now: int) -> None:
        """Add what an earlier process knew of a key, before what this one knows."""
        of_place = {
            minute % self._period: minute
            for minute in sorted(minutes)
            if not self._is_old(minute, minutes[minute], now)
        }
        known = {minute: minutes[minute] for minute in of_place.values()}
        if not known or len(known) > _MINUTES:
            return
        own = self.rows.get(key, {}).copy()
        self.forget(key)
        if not self._insert(key, known):
            return
        for minute, times in sorted(own.items()):
            self.add(key, minute)
            row = self.rows.get(key, {})
            if minute in row:
                row[minute] = max(row[minute], times)


@final
class Recurrence:
    """The keys of one function, region or cache that follow the clock. Its owner locks it.

    Attributes:
        foreseen: keys that were foreseen, and whose minute is over.
        right: those of them that were asked for.
        is_proven: whether they are to be prefetched.
    """

    __slots__ = (
        "_expected",
        "_judged",
        "_judged_right",
        "_needed",
        "_tables",
        "foreseen",
        "is_proven",
        "right",
    )

    def __init__(self) -> None:
        self._tables = tuple(map(_Minutes, _PERIODS))
        #: The keys that are foreseen, and not prefetched, and for which minute.
        self._expected: dict[str, int] = {}
        self._needed = _NEEDED
        self._judged = self._judged_right = 0
        self.foreseen = self.right = 0
        self.is_proven = False

    def __contains__(self, key: str) -> bool:
        return any(key in table.rows for table in self._tables)

    def wanted(self, key: str, minute: int) -> None:
        """Note that a key was asked for."""
        expected = self._expected.pop(key, None)
        if expected is not None:
            self.judge(not is_over(expected, minute), prefetched=False)
        for table in self._tables:
            table.add(key, minute)

    def pass_time(self, now: int) -> None:
        """Judge the keys whose minute is over, and forget what is out of date."""
        for key in [key for key, minute in self._expected.items() if is_over(minute, now)]:
            del self._expected[key]
            self.judge(False, prefetched=False)
        for table in self._tables:
            table.drop_old(now)

    def due(self, minute: int) -> list[str]:
        """Return the keys that are foreseen for a minute, the most frequent ones first."""
        of_hour, of_day = (table.due(minute) for table in self._tables)
        found = of_day | of_hour
        return sorted(found, key=found.__getitem__, reverse=True)

    def expect(self, key: str, minute: int) -> None:
        """Foresee a key, and prefetch nothing."""
        self._expected[key] = minute

    def judge(self, is_right: bool, *, prefetched: bool) -> None:
        """Note whether a key that was foreseen was asked for.

        Keys that are foreseen without a prefetch prove it. After that only prefetches count, which may fail,
        or expire.
        """
        self.foreseen += 1
        self.right += is_right
        if prefetched is not self.is_proven:
            return
        self._judged += 1
        self._judged_right += is_right
        if self.is_proven:
            if 2 * self._judged_right < self._judged:
                self.is_proven = False
                self._needed = min(2 * self._needed, _MOST_NEEDED)
                self._judged = self._judged_right = 0
        elif self._judged >= self._needed and 4 * self._judged_right >= 3 * self._judged:
            self.is_proven = True
            self._judged = self._judged_right = _CREDIT
        if self._judged >= max(_WINDOW, 2 * self._needed):
            self._judged //= 2
            self._judged_right //= 2
            if self.is_proven:
                self._needed = max(self._needed // 2, _NEEDED)

    def forget(self, key: str) -> None:
        """Forget a key."""
        for table in self._tables:
            table.forget(key)

    def clear(self) -> None:
        """Forget all keys."""
        self._expected.clear()
        self._tables = tuple(map(_Minutes, _PERIODS))

    # -- over a restart -----------------------------------------------------------------------------

    @property
    def proof(self) -> list[int]:
        """Return what a record says of the proof."""
        return [self._judged, self._judged_right, self._needed, int(self.is_proven)]

    def recorded(self) -> Iterator[Recorded]:
        """Return what is known of each key now, the most frequent ones first."""
        hours, days = ({key: row.copy() for key, row in table.rows.items()} for table in self._tables)
        return _most_frequent_first(hours, days)

    def restore(self, key: str, minutes: tuple[dict[int, int], ...], now: int) -> None:
        """Add what an earlier process knew of a key."""
        for table, known in zip(self._tables, minutes, strict=True):
            table.restore(key, known, now)

    def restore_proof(self, proof: Any) -> None:
        """Go on with the proof of an earlier process, unless this one has begun its own.

        Other programs may write the record, so each part is checked.
        """
        if self.foreseen or not isinstance(proof, list) or len(proof) != 4:
            return
        if not all(type(number) is int for number in proof):
            return
        judged, right, needed, is_proven = proof
        if 0 <= right <= judged <= 2 * _MOST_NEEDED and _NEEDED <= needed <= _MOST_NEEDED:
            self._judged, self._judged_right, self._needed = judged, right, needed
            self.is_proven = bool(is_proven) and 2 * right >= judged


def _most_frequent_first(
    hours: dict[str, dict[int, int]], days: dict[str, dict[int, int]]
) -> Iterator[Recorded]:
    # A generator, so that the owner has released its lock when they are sorted.
    def times(key: str) -> int:
        return max(max(rows.get(key, {0: 0}).values()) for rows in (hours, days))

    for key in sorted(hours | days, key=times, reverse=True):
        yield key, (hours.get(key, {}), days.get(key, {}))


def checked_minutes(minutes: object) -> dict[int, int] | None:
    """Return the minutes of a recorded row, in which minute and times alternate; None if it is no such."""
    if not isinstance(minutes, list) or len(minutes) % 2 or len(minutes) > 2 * _MINUTES:
        return None
    if not all(type(number) is int and 0 <= number < _MOST for number in minutes):
        return None
    return dict(zip(minutes[::2], minutes[1::2], strict=True))
