"""Means by which a test comes between two steps of an operation, and of that operation alone."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
