"""Means by which a test comes between two steps of an operation, and of that operation alone."""

from __future__ import annotations

import ctypes
import gc
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any


@contextmanager
def no_collection() -> Iterator[None]:
    """Nothing is collected meanwhile.

    A collection runs the finalizers of whatever earlier tests left behind, and a signal's exception
    that strikes in one of those is nobody's to catch.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextmanager
def handled_by(handler: Callable[..., Any]) -> Iterator[None]:
    """Handle SIGUSR1 with this handler."""
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


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


def signal_at_next_check() -> None:
    """Send SIGUSR1 to this thread; the handler runs where Python next looks for signals, not in here.

    `signal.raise_signal` runs the handler itself. Here C's `raise` returns the sentinel, so the `for` ends
    without a jump back, and no step after it looks for signals.
    """
    send = getattr(ctypes.CDLL(None), "raise")
    for _ in iter(partial(send, signal.SIGUSR1), 0):
        pass
