"""One engine per directory and process, however many caches, names and spellings lead to it.

Two engines on one directory would be right too, as two processes are; one takes half the descriptors and
mappings, and its threads queue at a lock of this process instead of at the file's.

An engine is given back by a finalizer, and Python may run that anywhere: also in the middle of a write, for
whose end another thread waits that has the lock of this room, because it forks, or closes. So giving back
never waits for the lock: if it is taken, whoever has it does the rest. Closing waits for writes, and has
the lock meanwhile: or a fork could come in between that has what closing waits for.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeAlias, final

from cachekit.runtime import fork
from cachekit.runtime.clock import Clock
from cachekit.tiers.file.engine.directory import USERS
from cachekit.tiers.file.engine.engine import Engine
from cachekit.tiers.file.folder import Folder

_Identity: TypeAlias = tuple[int, int, Callable[[], float]]


@final
class EngineRegistry:
    """The engines of this process, counted by their users. Safe in any thread, before and after a fork."""

    #: Kept here: when an interpreter ends, the names of modules go before the objects that use them.
    _interpreter_ends = staticmethod(sys.is_finalizing)

    def __init__(self) -> None:
        #: Held while engines come and go; whoever had it calls `settle`. Re-entrant: a finalizer may come in
        #: the middle of whatever holds it.
        self.lock = threading.RLock()
        self._users: dict[_Identity, tuple[Engine, int]] = {}
        self._returned: deque[Engine] = deque()
        fork.register(self)

    def acquire(self, path: str, limit: int, clock: Clock, opening: float) -> tuple[Engine, str]:
        """The engine on the directory, opened now if there is none yet; to be given back by `release`.

        And why others may have changed what is in the directory, or could now; empty if they never could.

        An engine that is there keeps its limit, as one in another process would. `opening` is how many
        seconds to wait for others who are opening the directory.

        Raises:
            What `Engine` raises.
        """
        try:
            with self.lock:
                return self._acquire(path, limit, clock, opening)
        finally:
            self.settle()

    def _acquire(self, path: str, limit: int, clock: Clock, opening: float) -> tuple[Engine, str]:
        identity, exposure = _identify(path, clock)
        if identity is not None and identity in self._users:
            engine, count = self._users[identity]
            self._users[identity] = (engine, count + 1)
            if engine.geometry.limit != limit:
                logging.getLogger("cachekit").warning(
                    "%s is in use with a limit of %d bytes, which stays; %d was asked for",
                    path,
                    engine.geometry.limit,
                    limit,
                )
            return engine, exposure or engine.exposure
        engine = Engine(path, limit, clock=clock, opening=opening)
        self._users[*engine.identity, clock.time] = (engine, 1)
        return engine, engine.exposure

    def release(self, engine: Engine) -> None:
        """Give an engine back, once for each `acquire`; the last one closes it."""
        # The finalizer of a cache that was made at exit comes so late that what closing needs is gone.
        if self._interpreter_ends():
            return  # the process's end gives back what there is
        self._returned.append(engine)
        self.settle()

    def settle(self) -> None:
        """Close what was given back for the last time, unless whoever has the lock is about to."""
        lock: Any = self.lock
        while self._returned and not lock._is_owned():
            try:
                if not lock.acquire(blocking=False):
                    return
                while self._returned:
                    self._count_off(self._returned.popleft())
            finally:
                # Asked, not remembered: a signal handler may raise between taking it and noting that; and in
                # here, once more.
                try:
                    if lock._is_owned():
                        lock.release()
                except BaseException:
                    if lock._is_owned():
                        lock.release()
                    raise

    def _count_off(self, engine: Engine) -> None:
        for identity, (known, count) in list(self._users.items()):
            if known is engine and count > 1:
                self._users[identity] = (engine, count - 1)
            elif known is engine:
                del self._users[identity]
                engine.close()

    def before_fork(self) -> None:
        """Take the lock (see `cachekit.runtime.fork`)."""
        self.lock.acquire()

    def after_fork(self, in_child: bool) -> None:
        """Give it back; the child counts on from what it inherited."""
        if in_child:
            self.lock = threading.RLock()
        else:
            self.lock.release()
        self.settle()


def _identify(path: str, clock: Clock) -> tuple[_Identity | None, str]:
    """What an engine on the directory as it is now would be known by, and who else may write in it.

    None if it is not there.
    """
    try:
        folder = Folder.at(path)
        found = None if folder.objection(USERS) else folder.look(USERS)
    except OSError:  # the engine will find out why
        return None, ""
    # An engine takes the time from one clock, so another clock needs another engine. A method is equal to
    # those of the same object, whether or not that can be compared or hashed.
    return None if found is None else (found.st_dev, found.st_ino, clock.time), folder.exposure


#: The engines of this process.
engines: Final = EngineRegistry()
