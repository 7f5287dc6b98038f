"""One engine per directory and process, for all caches, names and spellings of its path.

Two engines on one directory would be correct, as two processes are. One engine needs half the descriptors and
mappings, and its threads queue at a lock of this process instead of at the lock file.

A finalizer releases an engine, and Python may run it at any point, even in the middle of a write. If
releasing waited for the registry lock, it could deadlock: another thread may hold that lock, to fork or to
close, and wait for that write. So a release never blocks. If the lock is taken, its holder finishes the
release. Closing an engine waits for its writes and holds the lock, so that no fork comes in between.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias, final

from cachekit.runtime import fork
from cachekit.runtime.clock import Clock, SystemClock
from cachekit.runtime.free_lock import run_if_free
from cachekit.runtime.interrupts import raise_interrupt
from cachekit.runtime.reentrant_lock import RLock
from cachekit.tiers.file.engine.directory import USERS, warn_of_limit
from cachekit.tiers.file.engine.engine import Engine
from cachekit.tiers.file.folder import Folder

_Identity: TypeAlias = tuple[int, int, Callable[[], float] | None]


@final
class EngineRegistry:
    """The engines of this process, counted by their users. Safe in any thread, before and after a fork."""

    #: Kept here: when an interpreter ends, module globals go before the objects that use them.
    _interpreter_ends = staticmethod(sys.is_finalizing)

    def __init__(self) -> None:
        #: Held while engines are opened and closed. Its holder calls `close_returned` afterwards. Re-entrant,
        #: because a finalizer may run in the thread that holds it.
        self.lock = RLock()
        self._users: dict[_Identity, tuple[Engine, int]] = {}
        self._returned: deque[Engine] = deque()
        fork.register(self)

    def acquire(self, path: str, limit: int, clock: Clock, opening: float) -> tuple[Engine, str]:
        """Return the engine on the directory, opened now if there is none; `release` returns it.

        Also return why other users may have changed the directory, or can now; empty if they never could.

        An open engine keeps its limit, as one in another process would. `opening` is in seconds: how long to
        wait while other processes open the directory.

        Raises:
            FileFormatError, LockTimeoutError, OSError: as for `Engine`.
        """
        try:
            with self.lock:
                return self._acquire(path, limit, clock, opening)
        finally:
            self.close_returned()

    def _acquire(self, path: str, limit: int, clock: Clock, opening: float) -> tuple[Engine, str]:
        identity, exposure = _identify(path, clock)
        if identity is not None and identity in self._users:
            engine, count = self._users[identity]
            self._users[identity] = (engine, count + 1)
            if engine.geometry.limit != limit:
                warn_of_limit(path, engine.geometry.limit, limit)
            return engine, exposure or engine.exposure
        engine = Engine(path, limit, clock=clock, opening=opening)
        self._users[*engine.identity, _clock_key(clock)] = (engine, 1)
        return engine, engine.exposure

    def release(self, engine: Engine) -> None:
        """Return an engine, once for each `acquire`; the last release closes it."""
        # The finalizer of a cache that was made at exit runs when the modules that closing needs are gone.
        if self._interpreter_ends():
            return  # the end of the process closes the descriptors
        self._returned.append(engine)
        self.close_returned()

    def close_returned(self) -> None:
        """Close engines without users, unless the holder of the lock is about to."""
        # Again after the lock is released: what came in while it was held was left to this thread.
        while self._returned:
            if not run_if_free(self.lock, self._close_all):
                return

    def _close_all(self) -> bool:
        while self._returned:
            self._remove_user(self._returned.popleft())
        return True

    def _remove_user(self, engine: Engine) -> None:
        for identity, (known, count) in list(self._users.items()):
            if known is engine and count > 1:
                self._users[identity] = (engine, count - 1)
            elif known is engine:
                del self._users[identity]
                engine.close()

    def before_fork(self) -> None:
        """Take the lock."""
        self.lock.acquire()

    def after_fork(self, in_child: bool) -> None:
        """Release the lock. The child goes on with the counts that it inherited."""
        if in_child:
            self.lock = RLock()
        else:
            self.lock.release()
        self.close_returned()


def _identify(path: str, clock: Clock) -> tuple[_Identity | None, str]:
    """Return the key of an engine on the directory as it is now, and which other users may write to it.

    The key is None if the directory holds no cache.
    """
    try:
        folder = Folder.at(path)
        found = None if folder.objection(USERS) else folder.look(USERS)
    except OSError as error:  # opening the engine finds out why
        raise_interrupt(error)
        return None, ""
    return None if found is None else (found.st_dev, found.st_ino, _clock_key(clock)), folder.exposure


def _clock_key(clock: Clock) -> Callable[[], float] | None:
    """Return what tells clocks apart: an engine takes the time from one clock."""
    # Bound methods of one object are equal and have one hash, whether or not the object can be compared.
    return None if isinstance(clock, SystemClock) else clock.time


#: The engines of this process.
engines: Final = EngineRegistry()
