"""Pages that are asked for in the same minute of each hour or day, on a clock of the test."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import inside
import pytest
from prefetched_pages import Pages, memory_only

from cachekit import IntelligentCache, Prefetch
from cachekit.loading import prefetching
from cachekit.testing import ManualClock

HOUR = 3600.0
DAY = 24 * HOUR
KEYS = range(10)

#: Of one row no sequence is learned.
BY_CLOCK = Prefetch(rows=1)


@pytest.fixture(autouse=True)
def looks_of_the_test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no background thread look at the clock."""
    monkeypatch.setattr(prefetching, "_INTERVAL", 1e6)


class Clocked:
    """A cached function whose pages are asked for at a quarter past the hour, or the day."""

    def __init__(self, cache: IntelligentCache, clock: ManualClock, **options: Any) -> None:
        self.clock = clock
        self.pages = Pages(cache, **{"ttl": 600, "prefetch": BY_CLOCK, **options})

    def go_to(self, minutes: float, period: float = HOUR) -> None:
        """Let time pass until so many minutes of the period are over."""
        self.clock.advance((60 * minutes - self.clock.time()) % period)

    def turn(self, numbers: Iterable[int] = KEYS, period: float = HOUR) -> list[int]:
        """Let a period pass, and return the numbers that were not in memory at a quarter past."""
        self.go_to(14.7, period)
        inside.look_at_clock(self.pages.cache)
        inside.wait_for_prefetches(self.pages.cache)
        self.go_to(15.4, period)
        return sorted(self.pages.read(numbers))

    def prove(self) -> None:
        """Let the keys come for four hours."""
        for _ in range(4):
            assert self.turn() == list(KEYS)
        assert self.pages.info.clock_active

    def hold_in_the_middle(self) -> threading.Event:
        """Return, when all four threads load for the next minute, what lets them go on."""
        began, proceed = threading.Semaphore(0), threading.Event()

        def hold(_: int) -> None:
            began.release()
            proceed.wait(30)

        self.pages.inside = hold
        self.go_to(14.7)
        inside.look_at_clock(self.pages.cache)
        for _ in range(4):
            assert began.acquire(timeout=30)
        return proceed


def clocked(size: int = 400, **options: Any) -> Clocked:
    clock = ManualClock()
    return Clocked(memory_only(size, clock=clock, cleanup_interval=None), clock, **options)
