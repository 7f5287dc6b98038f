"""LoadSlots: a bound on how many loads run at once in all processes that share a directory."""

from __future__ import annotations

import logging
import os
import re
import threading
from typing import final

from portalocker import LockException, NamedBoundedSemaphore

from cachekit.errors import TierUnavailableError
from cachekit.runtime import fork


@final
class LoadSlot:
    """A slot of `LoadSlots`; see `Lease`. It is released when nothing refers to it any more."""

    __slots__ = ("_semaphore", "_slots")

    def __init__(self, slots: LoadSlots, semaphore: NamedBoundedSemaphore) -> None:
        self._slots = slots
        self._semaphore = semaphore

    def release(self) -> None:
        """Release the slot. A second call does nothing."""
        self._slots._release(self._semaphore)

    def __del__(self) -> None:
        # If a signal handler's exception strikes before a caller has the slot, only this releases it; the
        # object may be half made. A released slot takes no lock, because this may run in the middle of any
        # operation, and a fork that holds the lock may wait for the end of that one.
        if hasattr(self, "_semaphore") and self.is_held():
            self.release()

    def is_held(self) -> bool:
        """Return whether the slot is not released, and this is no child of a fork."""
        return self._semaphore in self._slots._held


@final
class LoadSlots:
    """At most so many loads at once in all processes that share a directory. Safe in any thread.

    When a process dies, its slots are free. They are those of a `portalocker.NamedBoundedSemaphore`, one
    locked file per slot.

    Args:
        name: what is bounded; letters, digits, and `.`, `_` or `-`.
        limit: how many at once. Processes that give different numbers get the largest of them together.
        directory: an existing directory on a local file system, from which nothing deletes files.

    Raises:
        TypeError: a limit that is not an int.
        ValueError: a limit below 1, or a name that is no file name.
    """

    __slots__ = ("__weakref__", "_directory", "_held", "_limit", "_lock", "_name")

    def __init__(self, name: str, limit: int, directory: str | os.PathLike[str]) -> None:
        if not isinstance(limit, int) or isinstance(limit, bool):
            raise TypeError(f"limit must be an int, not {limit!r} of type {type(limit).__name__}")
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit!r}; None or no LoadSlots is no limit")
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name):
            raise ValueError(f"name must be of letters, digits, '.', '_' and '-', not {name!r}")
        self._name = name
        self._limit = limit
        self._directory = os.fspath(directory)
        self._held: set[NamedBoundedSemaphore] = set()
        self._lock = threading.RLock()
        fork.register(self)

    def try_acquire(self) -> LoadSlot | None:
        """Return a slot, or None if all are taken. Does not wait.

        Raises:
            TierUnavailableError: the directory cannot be used.
        """
        # portalocker asks whether to log while we hold our lock. This caches the answer. Otherwise it would
        # take the lock of `logging`, which a fork takes together with ours, in an order of its own.
        logging.getLogger("portalocker.utils").isEnabledFor(logging.DEBUG)
        # A semaphore for each slot, because a semaphore holds one.
        semaphore = NamedBoundedSemaphore(self._limit, name=self._name, directory=self._directory)
        slot = LoadSlot(self, semaphore)
        # Held all the time, so that no fork copies a locked file that is not in the table yet.
        with self._lock:
            try:
                if not semaphore.try_lock(semaphore.get_random_filenames()):
                    return None
                self._held.add(semaphore)
            except (OSError, LockException) as error:
                raise TierUnavailableError(f"no slot could be taken: {error}") from error
            except BaseException:
                # A signal handler's exception: no caller gets the slot.
                self._held.discard(semaphore)
                semaphore.release()
                raise
        return slot

    def _release(self, semaphore: NamedBoundedSemaphore) -> None:
        with self._lock:
            if semaphore in self._held:
                # In this order, so that an interrupted release can be repeated.
                semaphore.release()
                self._held.discard(semaphore)

    def before_fork(self) -> None:
        """Take the lock."""
        self._lock.acquire()

    def after_fork(self, in_child: bool) -> None:
        """Release the lock. The child closes the files that it inherited.

        If it unlocked them, they would be unlocked for the parent too. If it kept them open, they would stay
        locked after the parent's death.
        """
        if in_child:
            for semaphore in self._held:
                lock = semaphore.lock
                if lock is not None and lock.fh is not None:
                    lock.fh.close()
                    lock.fh = None
            self._held = set()
        self._lock.release()
