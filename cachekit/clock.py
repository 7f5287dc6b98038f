"""The clock of this machine, as the `Clock` port asks for it."""

from __future__ import annotations

import time as _time
from typing import Any, final


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
