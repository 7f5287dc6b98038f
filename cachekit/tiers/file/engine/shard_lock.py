"""The lock of one shard: a thread lock, and behind it a flock on a descriptor that stays open.

A caller waits at most `patience` seconds. A process that is stopped while it holds the flock delays writers
that long, and then they get LockTimeoutError. A process that dies releases the flock. The first attempt is
one `flock`. If it fails, `filelock.lock_descriptor` tries again after a random 50 us to 1 ms: as fast and as
fair as a wait in the kernel, which would have no deadline.
"""

from __future__ import annotations

import enum
import os
import random
import threading
import time
from collections.abc import Callable
from errno import EIO, ENOENT
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock
from functools import partial
from typing import Any, Final, Literal, TypeAlias, TypeVar, TypeVarTuple, Unpack, final

from cachekit.errors import CacheClosedError, LockTimeoutError
from cachekit.runtime.free_lock import run_if_free
from cachekit.runtime.interrupts import is_interrupt
from cachekit.runtime.reentrant_lock import RLock
from cachekit.tiers.file.descriptor import OpenFile
from cachekit.tiers.file.descriptor_budget import descriptors
from cachekit.tiers.file.folder import Folder, remove


class _Again(enum.Enum):
    AGAIN = "AGAIN"


#: An operation returns this to be called again, after other callers could take the lock.
AGAIN: Final = _Again.AGAIN
Again: TypeAlias = Literal[_Again.AGAIN]


class DamagedError(Exception):
    """Stored words contradict each other. They are made sound, and then the operation is called again."""


T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_SHORTEST: Final = 50e-6
_LONGEST: Final = 1e-3
_MOST_CALLS: Final = 10_000

LOCK: Final = "lock"

# In place of a descriptor.
_UNOPENED: Final = -1
_CLOSED: Final = -2


@final
class ShardLock:
    """Mutual exclusion of threads and processes, by the file `lock` in a directory.

    Args:
        folder: the directory; made at first use, with the file, if it does not exist, and never removed.
        patience: Seconds that a caller waits at most.
        mend: Makes stored words sound; called under the lock after a DamagedError.
    """

    __slots__ = (
        "_deferred", "_draining", "_fd", "_file", "_folder", "_lock", "_mend", "_owner", "_thread_lock",
        "path", "patience",
    )  # fmt: skip

    def __init__(self, folder: Folder, patience: float, mend: Callable[[], None]) -> None:
        # Loaded here: importing filelock costs six times what a bare interpreter does.
        from filelock import lock_descriptor

        self._folder = folder
        self.path = f"{folder.path}/{LOCK}"
        self.patience = patience
        self._mend = mend
        self._lock = lock_descriptor
        self._thread_lock = RLock()
        self._owner = 0
        self._draining = 0
        self._deferred: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self._file: OpenFile | None = None
        self._fd = _UNOPENED

    def _open(self) -> None:
        if self._fd == _CLOSED:
            raise CacheClosedError(f"{self._folder.path} was closed")
        descriptors.make_room()
        try:
            self._file = self._folder.open_or_make(LOCK)
        except FileNotFoundError:
            self._folder.make()
            self._file = self._folder.open_or_make(LOCK)
        self._fd = self._file.fd

    def run(self, operation: Callable[[Unpack[Ts]], T | Again], *arguments: *Ts) -> T | None:
        """Call the operation while no other thread or process is in a `run` of this file.

        As long as it returns AGAIN, the lock is released, taken again, and the operation called again.
        A finalizer or a signal handler may call this in the middle of an operation of its own thread. That
        call returns None at once, and its operation runs when the other one is done.

        Raises:
            LockTimeoutError: the lock could not be taken within `patience`.
            FileNotFoundError: the lock file was removed.
            OSError: the stored words were damaged again after they were mended.
        """
        mended = False
        me = threading.get_ident()
        if self._owner == me:
            self._deferred.append((operation, arguments))
            return None
        try:
            for _ in range(_MOST_CALLS):
                entered = time.monotonic()
                # `with` leaves no gap in which a signal handler's exception could leave the thread lock
                # taken. It has no deadline, but each thread before this one has one. Ours began before that.
                with self._thread_lock:
                    if self._fd < 0:
                        self._open()
                    try:
                        self._owner = me
                        try:
                            flock(self._fd, LOCK_EX | LOCK_NB)  # what filelock calls, without its checks
                        except (BlockingIOError, PermissionError):
                            self._wait(entered + self.patience)
                        if not os.fstat(self._fd).st_nlink:
                            # Another process makes a new file, which this flock would not lock.
                            raise FileNotFoundError(ENOENT, "the lock was removed", self.path)
                        try:
                            result = operation(*arguments)
                        except DamagedError as damage:
                            if mended:
                                raise OSError(EIO, f"{damage}, again", self._folder.path) from damage
                            mended = True
                            self._mend()
                            result = AGAIN
                    finally:
                        self._owner = 0
                        try:
                            flock(self._fd, LOCK_UN)
                        except BaseException:
                            # A signal handler's exception before the unlock. Unlocking twice does no harm.
                            flock(self._fd, LOCK_UN)
                            raise
                if result is not AGAIN:
                    return result
            raise LockTimeoutError(f"the write under {self.path} did not end after {_MOST_CALLS} attempts")
        finally:
            if self._deferred and self._draining != me:
                self._run_deferred(me)

    def _wait(self, deadline: float) -> None:
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise LockTimeoutError(
                    f"the lock {self.path} was held by another process for {self.patience} s; "
                    f"that process is stopped, or the disk is very slow"
                )
            time.sleep(min(left, random.uniform(_SHORTEST, _LONGEST)))
            if self._lock(self._fd, blocking=False):
                return

    def _run_deferred(self, me: int) -> None:
        # In a loop, not each from within the one before: there may be many.
        self._draining = me
        try:
            while self._deferred:
                operation, arguments = self._deferred.pop(0)
                if operation == self.close:
                    operation(*arguments)
                else:
                    self.run(operation, *arguments)
        finally:
            self._draining = 0

    def replace_foreign(self) -> None:
        """Remove what is no file of this user, and has the name of the lock."""
        folder = self._folder
        try:
            if folder.objection(LOCK):
                remove(folder, LOCK)
        except FileNotFoundError:
            pass  # the shard has no directory

    def is_mine(self) -> bool:
        """Tell whether this thread is in a `run`."""
        return self._owner == threading.get_ident()

    def is_there(self) -> bool:
        """Tell whether the open lock file is still the one in the directory; True if none is open."""
        file = self._file
        if file is None or self._fd < 0:
            return True
        try:
            found = self._folder.look(LOCK)
            is_same = found is not None and os.path.samestat(os.fstat(file.fd), found)
            return is_same and self._folder.is_there()
        except OSError as error:
            if is_interrupt(error):
                raise
            return True  # no permission to look is no reason to give up an open directory

    def held(self) -> int:
        """Return how many descriptors are open."""
        return int(self._fd >= 0)

    def rest(self, also: Callable[[], bool]) -> bool:
        """Call `also`, and if it returns True close the descriptor until it is used again; return the same.

        Nothing is done while an operation of any thread is under way, or about to begin.
        """
        return bool(run_if_free(self._thread_lock, partial(self._rest, also)))

    def _rest(self, also: Callable[[], bool]) -> bool:
        if self._fd == _CLOSED or not also():
            return False
        if self._fd >= 0:
            self._fd = _UNOPENED
            self._file = None  # `is_there` may be using it
        return True

    def close(self, also: Callable[[], object]) -> None:
        """Close the descriptor, and call `also`, after the operation that is in `run`.

        If a finalizer or a signal handler calls this in the thread of that operation, the operation goes on
        with its open descriptor, and this is done at its end.
        """
        with self._thread_lock:
            if self._owner:
                self._deferred.append((self.close, (also,)))
                return
            self._fd = _CLOSED
            if self._file is not None:
                self._file.close()
            also()

    def before_fork(self) -> None:
        """Take the thread lock, so that no thread is in the middle of a write."""
        self._thread_lock.acquire()

    def after_fork(self, in_child: bool) -> None:
        """Release it. The child opens the file again: a flock belongs to the inherited open file."""
        if not in_child:
            self._thread_lock.release()
            return
        self._thread_lock = RLock()
        self._owner = 0
        self._draining = 0
        self._deferred.clear()
        if self._file is not None and self._fd >= 0:
            self._fd = _UNOPENED
            self._file.close()
