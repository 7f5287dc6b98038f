"""Waiting for a lease: how long, how often, and not while having one."""

from __future__ import annotations

import subprocess
import sys

from cachekit.runtime.backoff import wait_for
from cachekit.testing import ManualClock
from cachekit.tiers.base import Lease


class Granted:
    def release(self) -> None:
        pass

    def is_held(self) -> bool:
        return True


GRANTED = Granted()


class Attempts:
    """Grants the last of so many attempts, on a clock that waiting moves."""

    def __init__(self, needed: int) -> None:
        self.clock = ManualClock()
        self.needed = needed
        self.pauses: list[float] = []

    def try_acquire(self) -> Lease | None:
        self.needed -= 1
        return None if self.needed else GRANTED

    def wait(self, seconds: float) -> None:
        self.pauses.append(round(seconds, 6))
        self.clock.advance(seconds)

    def run(self, timeout: float, jitter: float = 0.0) -> Lease | None:
        return wait_for(
            self.try_acquire,
            self.clock.monotonic() + timeout,
            wait=self.wait,
            monotonic=self.clock.monotonic,
            jitter=lambda: jitter,
        )


def test_a_free_lease_is_had_without_waiting() -> None:
    """Also when it is too late to wait."""
    attempts = Attempts(1)
    assert attempts.run(-1) is GRANTED
    assert attempts.pauses == []


def test_pauses_double_and_end_at_the_deadline() -> None:
    """From 1 ms to 50 ms, the last one shorter; the deadline is kept, and the last moment tried."""
    attempts = Attempts(1000)
    assert attempts.run(0.2) is None
    assert attempts.pauses == [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.05, 0.05, 0.037]
    assert attempts.needed == 1000 - 10


def test_it_ends_as_soon_as_there_is_a_lease() -> None:
    """Jitter takes up to half of a pause away."""
    attempts = Attempts(4)
    assert attempts.run(10, jitter=0.5) is GRANTED
    assert attempts.pauses == [0.00075, 0.0015, 0.003]


def test_importing_loads_no_lock_library() -> None:
    """They come with the first lease or slot that needs them."""
    heavy = ["redis", "filelock", "portalocker", "asyncio", "logging"]
    code = f"import sys, cachekit.loading.permits; print([name for name in {heavy!r} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
