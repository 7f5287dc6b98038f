"""A clock with which a test comes between two steps of an operation."""

from __future__ import annotations

from collections.abc import Callable


class InterruptedClock:
    """Lets something happen between a reader's steps: whenever the time is asked for, once."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.happens: Callable[[], object] | None = None

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        happens, self.happens = self.happens, None
        if happens is not None:
            happens()
        return self.now
