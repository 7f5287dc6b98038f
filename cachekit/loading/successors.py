"""What follows each key, as far as it is known: the rows that `Predictor` learns from."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, final

_LEAST_COUNT: Final = 2  # times that a successor must have come
_FADE: Final = 32  # times from which the counts of a row are halved
_MOST_CREDIT: Final = 3  # passes of the queue that a row outlives without a use


@final
class SuccessorRow:
    """The two likeliest successors of a key."""

    __slots__ = ("count", "credit", "first", "first_count", "second", "second_count")

    def __init__(self) -> None:
        self.count = self.credit = 0
        self.first = self.second = ""
        self.first_count = self.second_count = 0

    def add(self, key: str) -> None:
        """Count a successor. The second place is that of the last one that is not the first."""
        self.count += 1
        if self.first == key:
            self.first_count += 1
        elif self.second == key:
            self.second_count += 1
            if self.second_count > self.first_count:
                self.first, self.second = key, self.first
                self.first_count, self.second_count = self.second_count, self.first_count
        elif not self.first_count:
            self.first, self.first_count = key, 1
        else:
            self.second, self.second_count = key, 1
        if self.count >= _FADE:
            self.count //= 2
            self.first_count //= 2
            self.second_count //= 2

    def next(self) -> str:
        """Return the successor to prefetch, or an empty text.

        It must have come in two of three cases: a wrong prefetch costs a load, and the entry that it pushes
        out may cost another one.
        """
        likely = self.first_count >= _LEAST_COUNT and 3 * self.first_count >= 2 * self.count
        return self.first if likely else ""


@final
class SuccessorRows:
    """The rows of at most so many keys. Those that are used again stay, as entries do under S3-FIFO.

    A row of a new key is on trial. When its part is full, it moves on if it was used again, and leaves if
    not. Most keys of a long sequence come once, and would push out the rows of those that recur.
    """

    __slots__ = ("_gone", "_limit", "_main", "_trial", "_trial_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._trial_limit = max(1, limit // 10)
        self._trial: OrderedDict[str, SuccessorRow] = OrderedDict()
        self._main: OrderedDict[str, SuccessorRow] = OrderedDict()
        #: Keys whose rows left on trial. If one comes back, its new row is not on trial.
        self._gone: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._trial) + len(self._main)

    def get(self, key: str) -> SuccessorRow | None:
        """Return the row of a key."""
        return self._main.get(key) or self._trial.get(key)

    def used(self, key: str) -> SuccessorRow:
        """Return the row of a key, whose successor is known now, or a new one."""
        row = self.get(key)
        if row is not None:
            row.credit = min(row.credit + 1, _MOST_CREDIT)
            return row
        row = SuccessorRow()
        if key in self._gone:
            del self._gone[key]
            self._main[key] = row
        else:
            self._trial[key] = row
        while len(self) > self._limit:
            if len(self._trial) > self._trial_limit:
                old, before = self._trial.popitem(last=False)
                if before.credit:
                    before.credit = 0
                    self._main[old] = before
                else:
                    self._gone[old] = None
                    if len(self._gone) > self._limit:
                        self._gone.popitem(last=False)
            else:
                old, before = self._main.popitem(last=False)
                if before.credit:
                    before.credit -= 1
                    self._main[old] = before
        return row

    def clear(self) -> None:
        """Forget all rows."""
        for keys in (self._trial, self._main, self._gone):
            keys.clear()
