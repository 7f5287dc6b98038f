"""Steps that run under a lock if it is free, and else not at all: for finalizers and signal handlers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

R = TypeVar("R")


def run_if_free(lock: Any, step: Callable[[], R], patience: float = 0.0) -> R | None:
    """Call the step while this thread holds the re-entrant lock; None if any thread holds it, this one too.

    The lock is asked for its owner: a signal handler may raise between taking it and noting that.

    Args:
        lock: the lock.
        step: what is called.
        patience: seconds to wait for another thread, which no finalizer may do (default 0).
    """
    is_mine = lock._is_owned
    if is_mine():
        return None
    try:
        return step() if lock.acquire(timeout=patience) else None
    finally:
        # The handler may raise once more in here.
        try:
            if is_mine():
                lock.release()
        except BaseException:
            if is_mine():
                lock.release()
            raise
