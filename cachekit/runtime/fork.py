"""Hooks around `os.fork()` that leave all locks usable in the parent and in the child.

A lock that another thread holds during a fork stays locked in the child for ever, and the data that it
guards may be half changed. So all registered locks are taken before a fork and released after it on both
sides: no change is in progress when the child begins. Then the child drops what only its parent may use, and
after that its threads begin.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol, TypeVar

    T = TypeVar("T")

    class ForkSafe(Protocol):
        """An object that holds locks, or threads, across operations."""

        def before_fork(self) -> None:
            """Take the locks."""
            ...

        def after_fork(self, in_child: bool) -> Callable[[], None] | None:
            """Release the locks. In the child, also drop the state of threads that no longer exist.

            Returns:
                What begins the threads of the child.
            """
            ...

    class Lock(Protocol):
        """A lock of `threading`."""

        def acquire(self) -> object:
            """Take the lock."""
            ...

        def release(self) -> None:
            """Release the lock."""
            ...


# Not a WeakSet: iterating it raises when another thread adds a member at the same time.
_registered: dict[int, weakref.ref[ForkSafe]] = {}
_numbers = itertools.count()
_taking_part: list[ForkSafe] = []
_in_child: list[Callable[[], None]] = []
# One fork at a time: two threads that hold half of the locks each would deadlock.
_one_fork = threading.Lock()


def register(participant: ForkSafe) -> None:
    """Call the hooks of `participant` around every fork while it lives; only a weak reference is kept."""
    number = next(_numbers)
    _registered[number] = weakref.ref(participant, lambda _: _registered.pop(number, None))


def call_in_child(function: Callable[[], None]) -> None:
    """Call a function in every forked child, when its locks are free and before its threads begin."""
    _in_child.append(function)


class ForkSafeLock:
    """Takes a lock before every fork and releases it afterwards in parent and child, while it lives.

    Args:
        lock: The lock. It is a separate object, because Python-level `with` blocks would cost a call.
    """

    __slots__ = ("__weakref__", "_lock")

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        register(self)

    def before_fork(self) -> None:  # noqa: D102
        self._lock.acquire()

    def after_fork(self, in_child: bool) -> None:  # noqa: ARG002, D102
        self._lock.release()


def _before() -> None:
    _one_fork.acquire()
    for participant in [one for one in (ref() for ref in list(_registered.values())) if one is not None]:
        participant.before_fork()
        _taking_part.append(participant)


def _after_in_parent() -> None:
    _after(in_child=False)


def _after_in_child() -> None:
    _after(in_child=True)


def _after(in_child: bool) -> None:
    threads: list[Callable[[], None]] = []
    try:
        while _taking_part:
            begin = _tried("a lock may not have survived the fork", _taking_part.pop().after_fork, in_child)
            if begin is not None:
                threads.append(begin)
    finally:
        _one_fork.release()
    if in_child:
        for function in [*_in_child, *threads]:
            _tried("a forked child has what belongs to its parent, or lacks a thread", function)


def _tried(wrong: str, step: Callable[..., T], *arguments: object) -> T | None:
    try:
        return step(*arguments)
    except Exception:
        # The other participants must get their locks back, and later forks must be possible.
        import logging

        logging.getLogger("cachekit").exception(wrong)
        return None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
