"""The `Clock` protocol, and the clock of this machine."""

from __future__ import annotations

import time as _time
from typing import Any, Protocol, final


@final
class SystemClock:
    """The system clocks, looked up at each call, because tests replace `time.time` and `time.monotonic`."""

    __slots__ = ()

    def time(self) -> float:
        """Return seconds since the epoch."""
        return _time.time()

    def monotonic(self) -> float:
        """Return seconds on a clock that never jumps."""
        return _time.monotonic()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SystemClock)

    def __hash__(self) -> int:
        return hash(SystemClock)

    def __repr__(self) -> str:
        return "SystemClock()"

    def __reduce__(self) -> tuple[Any, ...]:
        return SystemClock, ()


class Clock(Protocol):
    """A source of time. It is a parameter, so that tests can move the time and never sleep."""

    def time(self) -> float:
        """Return seconds since the epoch, for times that other processes or later runs compare."""
        ...

    def monotonic(self) -> float:
        """Return seconds on a clock that never jumps, for times that stay in this process."""
        ...


def checked_clock(clock: Clock) -> Clock:
    """Return a clock that was passed in.

    Raises:
        TypeError: it is none.
    """
    if not (callable(getattr(clock, "time", None)) and callable(getattr(clock, "monotonic", None))):
        raise TypeError(
            f"clock must have the methods time() and monotonic(), as cachekit.testing.ManualClock has, "
            f"and not be of type {type(clock).__name__}"
        )
    return clock


def source_of(clock: Clock) -> Clock:
    """Return what hot paths read a clock from: the module `time` itself for the system clocks.

    That saves the call of a method written in Python.
    """
    source: Any = _time
    return source if isinstance(clock, SystemClock) else clock
