"""The clock of this machine, as the `Clock` port asks for it."""

from __future__ import annotations

import time as _time
from typing import Any, Protocol, final


@final
class SystemClock:
    """The system's clocks, without a call of our own between: the methods are the builtins."""

    __slots__ = ()

    time = staticmethod(_time.time)
    monotonic = staticmethod(_time.monotonic)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SystemClock)

    def __hash__(self) -> int:
        return hash(SystemClock)

    def __repr__(self) -> str:
        return "SystemClock()"

    def __reduce__(self) -> tuple[Any, ...]:
        return SystemClock, ()


class Clock(Protocol):
    """Where the time comes from: a parameter, so that tests move it and never sleep."""

    def time(self) -> float:
        """Seconds since the epoch: for whatever is compared between processes or after a restart."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps: for whatever stays in this process."""
        ...
