"""How many loads run at once in all processes that share a directory."""

from __future__ import annotations

import logging
import os
import random
import re
from typing import final

from portalocker import AlreadyLocked, Lock, LockException

from cachekit.errors import TierUnavailableError
from cachekit.loading.process_lease import open_lock
from cachekit.model.display import safe_repr, typed_repr
from cachekit.runtime import fork
from cachekit.runtime.interrupts import interrupt_behind
from cachekit.runtime.reentrant_lock import RLock


@final
class LoadSlot:
    """A slot of `LoadSlots`; see `Lease`. It is released when nothing refers to it any more."""

    __slots__ = ("_lock", "_slots")

    def __init__(self, slots: LoadSlots, lock: Lock) -> None:
        self._slots = slots
        self._lock = lock

    def release(self) -> None:
        """Release the slot."""
        self._slots._release(self._lock)

    def __del__(self) -> None:
        # After a signal handler's exception only this releases the slot, which may be half made. A released
        # slot takes no lock, because this may run in any operation that a fork waits for.
        if hasattr(self, "_lock") and self.is_held():
            self.release()

    def is_held(self) -> bool:
        """Return whether the slot is neither released nor lost to a fork."""
        return self._lock in self._slots._held


@final
class LoadSlots:
    """At most so many loads at once in all processes that share a directory. Safe in any thread.

    When a process dies, its slots are free. A slot is a file locked by `portalocker.Lock`.
    `portalocker.NamedBoundedSemaphore` does the same, but follows symbolic links.

    Args:
        name: What is bounded: letters, digits, `.`, `_` and `-`.
        limit: How many loads run at once, at least 1. Processes with different limits get the largest one.
        directory: An existing directory on a local file system. Its files must not be removed.

    Raises:
        TypeError: The limit is not an int.
        ValueError: The limit is below 1, or the name cannot be a file name.
    """

    __slots__ = ("__weakref__", "_directory", "_held", "_limit", "_lock", "_name")

    def __init__(self, name: str, limit: int, directory: str | os.PathLike[str]) -> None:
        if not isinstance(limit, int) or isinstance(limit, bool):
            raise TypeError(f"limit must be an int, not {typed_repr(limit)}")
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit!r}; None or no LoadSlots is no limit")
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name):
            raise ValueError(f"name must be of letters, digits, '.', '_' and '-', not {safe_repr(name)}")
        self._name = name
        self._limit = limit
        self._directory = os.fspath(directory)
        self._held: set[Lock] = set()
        self._lock = RLock()
        fork.register(self)

    def try_acquire(self) -> LoadSlot | None:
        """Return a slot, or None if all are taken. Does not wait.

        Raises:
            TierUnavailableError: The directory cannot be used.
        """
        # portalocker logs while this holds the lock. `isEnabledFor` caches its result, so the lock of
        # `logging` is not taken then: a fork takes both locks, in another order.
        logging.getLogger("portalocker.utils").isEnabledFor(logging.DEBUG)
        numbers = random.sample(range(self._limit), self._limit)
        for number in numbers:
            path = os.path.join(self._directory, f"{self._name}.{number:02d}.lock")
            lock = Lock(path, fail_when_locked=True, opener=open_lock)
            slot = LoadSlot(self, lock)
            # Held throughout, so that no fork copies a locked file that is not in the table yet.
            with self._lock:
                try:
                    lock.acquire()
                    self._held.add(lock)
                except AlreadyLocked:
                    continue
                except BaseException as error:
                    struck = interrupt_behind(error)
                    if struck is None and isinstance(error, (OSError, LockException)):
                        raise TierUnavailableError(f"no slot could be taken: {error}") from error
                    # A signal handler's exception: no caller gets the slot.
                    self._held.discard(lock)
                    lock.release()
                    raise (struck or error) from None
            return slot
        return None

    def _release(self, lock: Lock) -> None:
        with self._lock:
            if lock in self._held:
                # In this order, so that an interrupted release can be repeated.
                lock.release()
                self._held.discard(lock)

    def before_fork(self) -> None:  # noqa: D102
        self._lock.acquire()

    def after_fork(self, in_child: bool) -> None:  # noqa: D102
        if in_child:
            # To unlock an inherited file would unlock it for the parent. To keep it open would keep the slot
            # taken after the parent has died. So the child closes it.
            for lock in self._held:
                if lock.fh is not None:
                    lock.fh.close()
                    lock.fh = None
            self._held = set()
        self._lock.release()
