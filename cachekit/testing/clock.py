"""A clock that stands still until a test moves it."""

from __future__ import annotations

from typing import final


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
            ValueError: a negative number; time does not go back, but see `jump`.
        """
        if seconds < 0:
            raise ValueError(
                f"seconds must not be negative, not {seconds!r}; jump() sets the wall clock back"
            )
        self._wall += seconds
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or, with a negative number, back, as an administrator would."""
        self._wall += seconds
