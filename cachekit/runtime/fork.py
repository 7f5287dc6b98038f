"""What must happen around `os.fork()`, so that parent and child both go on.

A lock that some thread holds at the moment of a fork stays locked for ever in the child, and what it
guards may be half changed. So all registered locks are taken before the fork and given back on both
sides after it; nothing of ours is in the middle of a change when the child begins.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from typing import Protocol


class ForkSafe(Protocol):
    """Something that holds locks, or threads, across operations."""

    def before_fork(self) -> None:
        """Take the locks."""
        ...

    def after_fork(self, in_child: bool) -> None:
        """Give the locks back; in the child also forget what belonged to threads that are gone."""
        ...


# Not a WeakSet: while its members are listed another thread may add one, and that is an error.
_registered: dict[int, weakref.ref[ForkSafe]] = {}
_numbers = itertools.count()
_taking_part: list[ForkSafe] = []
# One fork at a time: two threads that each hold half of the locks would wait for ever.
_one_fork = threading.Lock()


def register(participant: ForkSafe) -> None:
    """Have the participant called around every fork for as long as it lives; it is held weakly."""
    number = next(_numbers)
    _registered[number] = weakref.ref(participant, lambda _: _registered.pop(number, None))


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
    try:
        while _taking_part:
            try:
                _taking_part.pop().after_fork(in_child)
            except Exception:
                # The others, and the next fork, shall not be stranded with it.
                import logging

                logging.getLogger("cachekit").exception("a lock may not have survived the fork")
    finally:
        _one_fork.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
