"""How many loads run at once in all processes that share a directory."""

from __future__ import annotations

import logging
import os
import random
import re
import threading
from typing import final

from portalocker import AlreadyLocked, Lock, LockException

from cachekit.errors import TierUnavailableError
from cachekit.loading.process_lease import open_lock
from cachekit.runtime import fork


@final
class LoadSlot:
    """A slot of `LoadSlots`; see `Lease`. One that nobody has any more is released."""

    __slots__ = ("_lock", "_slots")

    def __init__(self, slots: LoadSlots, lock: Lock) -> None:
        self._slots = slots
        self._lock = lock

    def release(self) -> None:
        """Give it back."""
        self._slots._release(self._lock)

    def __del__(self) -> None:
        # For one on its way to a caller whom a signal handler's exception took away; maybe half made.
        # One that was released takes no lock: this may run in the middle of anything, and a fork that has
        # the lock may wait for the end of that.
        if hasattr(self, "_lock") and self.is_held():
            self.release()

    def is_held(self) -> bool:
        """Whether it was not released, and this is no child of a fork."""
        return self._lock in self._slots._held


@final
class LoadSlots:
    """At most so many loads at once in all processes that share a directory. Safe in any thread.

    A slot ends with its process, however that dies. It is `portalocker.Lock`, one locked file per slot: as
    `portalocker.NamedBoundedSemaphore` has it, which would follow symbolic links.

    Args:
        name: what is bounded; letters, digits, and `.`, `_` or `-`.
        limit: how many at once; processes that say different numbers get the largest of them together.
        directory: an existing one, on a local file system, that nobody cleans up.

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
        self._held: set[Lock] = set()
        self._lock = threading.RLock()
        fork.register(self)

    def try_acquire(self) -> LoadSlot | None:
        """A slot, or None if all are taken. Does not wait.

        Raises:
            TierUnavailableError: the directory cannot be used.
        """
        # It logs while we hold our lock. Whether that is wanted is cached by this, or else it would be
        # found out under the lock of `logging`, which a fork takes together with ours in an order of
        # its own.
        logging.getLogger("portalocker.utils").isEnabledFor(logging.DEBUG)
        numbers = random.sample(range(self._limit), self._limit)
        for number in numbers:
            path = os.path.join(self._directory, f"{self._name}.{number:02d}.lock")
            lock = Lock(path, fail_when_locked=True, opener=open_lock)
            slot = LoadSlot(self, lock)
            # Held all through, so that no fork copies a locked file that is not in the table yet.
            with self._lock:
                try:
                    lock.acquire()
                    self._held.add(lock)
                except AlreadyLocked:
                    continue
                except (OSError, LockException) as error:
                    raise TierUnavailableError(f"no slot could be taken: {error}") from error
                except BaseException:
                    # A signal handler's exception: nobody will have a slot to release.
                    self._held.discard(lock)
                    lock.release()
                    raise
            return slot
        return None

    def _release(self, lock: Lock) -> None:
        with self._lock:
            if lock in self._held:
                # In this order, so that a release that was interrupted can be made again.
                lock.release()
                self._held.discard(lock)

    def before_fork(self) -> None:
        """Take the lock (see `forks`)."""
        self._lock.acquire()

    def after_fork(self, in_child: bool) -> None:
        """Give the lock back. The child closes what it inherited.

        To unlock it would be to unlock it for the parent, and to keep it open to hold it after its death.
        """
        if in_child:
            for lock in self._held:
                if lock.fh is not None:
                    lock.fh.close()
                    lock.fh = None
            self._held = set()
        self._lock.release()
