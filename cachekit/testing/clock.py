"""Clocks for tests: one that moves only on request, and one that jumps while several processes use it."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator
from typing import Any, ClassVar, Final, NamedTuple, final

from cachekit.runtime import fork
from cachekit.runtime.reentrant_lock import RLock

_JUMPS: Final = 4_000  # the most jumps of a JumpingClock


@final
class ManualClock:
    """A `Clock` for tests. Wall and monotonic time move together, when `advance` is called.

    Safe in any thread.

    Args:
        start: The first wall clock time, in seconds since the epoch. The monotonic clock starts at another
            number, so that a test finds code that confuses the two.
    """

    __slots__ = ("_monotonic", "_wall")

    #: Of all clocks, so that one can be copied and pickled.
    _lock: ClassVar = RLock()
    _fork_guard: ClassVar = fork.ForkSafeLock(_lock)

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._wall = start
        self._monotonic = 1_000.0

    def time(self) -> float:
        """Return seconds since the epoch."""
        return self._wall

    def monotonic(self) -> float:
        """Return seconds on the clock that never jumps."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Move both clocks forward.

        Raises:
            ValueError: a negative number, or NaN; `jump` sets the wall clock back.
        """
        if not seconds >= 0:  # also true for NaN
            raise ValueError(
                f"seconds must be 0 or more, not {seconds!r}; use jump() to set the wall clock back"
            )
        with self._lock:
            self._wall += seconds
            self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or, with a negative number, back."""
        with self._lock:
            self._wall += seconds


class Span(NamedTuple):
    """A span of time without a jump of a `JumpingClock`. Begin and end are monotonic times."""

    begin: float
    end: float
    ahead: float  #: seconds by which the wall clock was ahead of the monotonic clock


@final
class JumpingClock:
    """A `Clock` that the processes of one host share. Its wall clock jumps, its monotonic clock never does.

    Args:
        path: The path of a small file, which the first user creates. Create it before processes race for it.

    Both clocks follow the machine's monotonic clock, so times of two hosts on one machine can be compared. It
    records every jump, so that a test can look up later what the clock showed. Only one process may jump;
    others read. It pickles as its path.
    """

    __slots__ = ("_path", "_words")

    #: Return seconds on the clock that never jumps.
    monotonic = staticmethod(time.monotonic)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.path.abspath(path)
        size = 8 * (1 + 2 * _JUMPS)
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            begins = not os.fstat(fd).st_size
            if begins:
                os.ftruncate(fd, size)
            # The number of spans, then the begin of each and how far it is ahead.
            self._words = memoryview(mmap.mmap(fd, size)).cast("d")
        finally:
            os.close(fd)
        if begins:
            self._add(0.0, time.time() - time.monotonic())

    def time(self) -> float:
        """Return seconds since the epoch, as this host sees them."""
        words = self._words
        return time.monotonic() + words[2 * int(words[0])]

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or, with a negative number, back."""
        self._add(time.monotonic(), self._words[2 * int(self._words[0])] + seconds)

    def _add(self, begin: float, ahead: float) -> None:
        count = int(self._words[0])
        if count >= _JUMPS:
            raise ValueError(f"jumps must be at most {_JUMPS}, not one more; create a new JumpingClock")
        self._words[2 * count + 1] = begin
        self._words[2 * count + 2] = ahead
        self._words[0] = count + 1  # last, so that a reader sees all of the span or nothing

    def spans(self, begin: float, end: float) -> Iterator[Span]:
        """Yield the spans between two monotonic times, cut at both."""
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
