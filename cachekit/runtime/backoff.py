"""Random fractions for jitter, and pauses that double while an attempt is repeated."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final, TypeVar


def random_fraction() -> float:
    """A number from 0 up to, but not including, 1."""
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
    """Seconds to wait between attempts, until it is too late; arguments as for `wait_for`."""
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
    """Try until there is a lease, or it is too late.

    Args:
        try_acquire: one attempt, which does not wait; there is at least one.
        deadline: until when, on the monotonic clock.
        wait: waits for so many seconds, or for less if it knows better: `ProcessLeases.wait`, or the
            `wait` of an event that is set when the key changes. Pauses double from 1 ms to 50 ms.
        monotonic: the clock, in seconds.
        jitter: a number from 0 up to 1, each time another; it takes up to half of a pause away.

    Returns:
        The lease, or None at the deadline; then go on without one.
    """
    lease = try_acquire()
    for pause in pauses(deadline, monotonic=monotonic, jitter=jitter):
        if lease is not None:
            break
        wait(pause)
        lease = try_acquire()
    return lease
