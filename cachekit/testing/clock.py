"""Clocks for tests: one that stands still until it is moved, and one that jumps under several processes."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, final

_JUMPS: Final = 4_000  # that a JumpingClock has room for


@final
class ManualClock:
    """A `Clock` for tests: wall and monotonic time move together, when `advance` is called.

    Args:
        start: the wall clock's first reading, in seconds since the epoch. The monotonic clock begins
            elsewhere, so that code which confuses the two is found out.
    """

    __slots__ = ("_monotonic", "_wall")

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._wall = start
        self._monotonic = 1_000.0

    def time(self) -> float:
        """Seconds since the epoch."""
        return self._wall

    def monotonic(self) -> float:
        """Seconds on the clock that never jumps."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            ValueError: a negative number, or NaN; time does not go back, but see `jump`.
        """
        if not seconds >= 0:  # NaN is not
            raise ValueError(
                f"seconds must not be negative, not {seconds!r}; jump() sets the wall clock back"
            )
        self._wall += seconds
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or, with a negative number, back, as an administrator would."""
        self._wall += seconds


class Span(NamedTuple):
    """A time in which a `JumpingClock` went evenly; begin and end are monotonic."""

    begin: float
    end: float
    ahead: float  #: seconds that its wall clock was ahead of its monotonic clock


@final
class JumpingClock:
    """A `Clock` of one host, which its processes share: its wall clock jumps, its monotonic one never.

    Args:
        path: of a small file, made by whoever comes first; it must be made before processes race for it.

    Both clocks go with the machine's monotonic clock, so what two hosts on one machine say can be
    compared. It remembers every jump, so that a test can tell afterwards what the clock had said. One
    process may jump, the others read; it pickles, as its path.
    """

    __slots__ = ("_path", "_words")

    #: Seconds on the clock that never jumps.
    monotonic = staticmethod(time.monotonic)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.path.abspath(path)
        size = 8 * (1 + 2 * _JUMPS)
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            begins = not os.fstat(fd).st_size
            if begins:
                os.ftruncate(fd, size)
            # How many spans there are, then the begin of each and by how much it is ahead.
            self._words = memoryview(mmap.mmap(fd, size)).cast("d")
        finally:
            os.close(fd)
        if begins:
            self._add(0.0, time.time() - time.monotonic())

    def time(self) -> float:
        """Seconds since the epoch, by this host."""
        words = self._words
        return time.monotonic() + words[2 * int(words[0])]

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or, with a negative number, back."""
        self._add(time.monotonic(), self._words[2 * int(self._words[0])] + seconds)

    def _add(self, begin: float, ahead: float) -> None:
        count = int(self._words[0])
        if count >= _JUMPS:
            raise ValueError(f"a JumpingClock remembers {_JUMPS} jumps, and this one has had them all")
        self._words[2 * count + 1] = begin
        self._words[2 * count + 2] = ahead
        self._words[0] = count + 1  # last: a reader sees all of it or nothing

    def spans(self, begin: float, end: float) -> Iterator[Span]:
        """How it went between two monotonic moments; cut off at both."""
        words = self._words[: 1 + 2 * int(self._words[0])].tolist()
        begins, aheads = words[1::2], words[2::2]
        for first, last, ahead in zip(begins, [*begins[1:], end], aheads, strict=True):
            if first <= end and last >= begin:
                yield Span(max(first, begin), min(last, end), ahead)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JumpingClock) and other._path == self._path

    def __hash__(self) -> int:
        return hash(self._path)

    def __reduce__(self) -> tuple[Any, ...]:
        return JumpingClock, (self._path,)
