"""Random fractions for jitter, and pauses that double while an attempt is repeated."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final, TypeVar


def random_fraction() -> float:
    """Return a random number from 0 up to, but not including, 1."""
    import random

    return random.random()


L = TypeVar("L")

_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.05


def pauses(
    deadline: float,
    *,
    monotonic: Callable[[], float] = time.monotonic,
    jitter: Callable[[], float] = random_fraction,
) -> Iterator[float]:
    """Yield the seconds to wait between attempts, until the deadline; arguments as for `wait_for`."""
    pause = _FIRST_PAUSE
    while (left := deadline - monotonic()) > 0:
        yield min(left, pause * (1 - jitter() / 2))
        pause = min(2 * pause, _LONGEST_PAUSE)


def wait_for(
    try_acquire: Callable[[], L | None],
    deadline: float,
    *,
    wait: Callable[[float], object] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
    jitter: Callable[[], float] = random_fraction,
) -> L | None:
    """Try to acquire a lease until the deadline.

    Args:
        try_acquire: Makes one attempt without waiting. It is called at least once.
        deadline: The end of waiting, in seconds on the monotonic clock.
        wait: Waits for the given seconds. Pauses double from 1 ms to 50 ms.
        monotonic: The clock, in seconds.
        jitter: Returns a number from 0 up to 1. It shortens each pause by up to half.

    Returns:
        The lease, or None at the deadline.
    """
    lease = try_acquire()
    for pause in pauses(deadline, monotonic=monotonic, jitter=jitter):
        if lease is not None:
            break
        wait(pause)
        lease = try_acquire()
    return lease
