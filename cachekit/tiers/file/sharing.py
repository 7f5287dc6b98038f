"""One engine per directory and process, however many caches, names and spellings lead to it.

Two engines on one directory would be right too, as two processes are; one takes half the descriptors and
mappings, and its threads queue at a lock of this process instead of at the file's.

An engine is given back by a finalizer, and Python may run that anywhere: also in the middle of a write, for
whose end another thread waits that has the lock of this room, because it forks. So giving back never waits:
if the lock is taken, whoever has it does the rest. And nobody who has it waits for a write, but a fork.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Iterator
from typing import Final, TypeAlias, final

from cachekit import forks
from cachekit.ports import Clock
from cachekit.tiers.file.directory import USERS
from cachekit.tiers.file.engine import Engine

_Identity: TypeAlias = tuple[int, int, int]


@final
class Engines:
    """The engines of this process, counted by their users. Safe in any thread, before and after a fork."""

    def __init__(self) -> None:
        # Re-entrant: a finalizer may come in the middle of whatever holds it.
        self._lock = threading.RLock()
        self._holders = 0  # of this thread, one within the other
        self._users: dict[_Identity, tuple[Engine, int]] = {}
        self._returned: deque[Engine] = deque()
        forks.register(self)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """No engine comes meanwhile, and none goes, unless by this thread."""
        try:
            with self._lock:
                self._holders += 1
                try:
                    yield
                finally:
                    self._holders -= 1
        finally:
            self._settle()

    def acquire(self, path: str, limit: int, clock: Clock, opening: float) -> Engine:
        """The engine on the directory, opened now if there is none yet; to be given back by `release`.

        An engine that is there keeps its limit, as one in another process would. `opening` is how many
        seconds to wait for others who are opening the directory.

        Raises:
            What `Engine` raises.
        """
        with self.held():
            identity = _identify(path, clock)
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
                return engine
            engine = Engine(path, limit, clock=clock, opening=opening)
            self._users[*engine.identity, hash(clock)] = (engine, 1)
            return engine

    def release(self, engine: Engine) -> None:
        """Give an engine back, once for each `acquire`; the last one closes it. It never waits."""
        self._returned.append(engine)
        self._settle()

    def _settle(self) -> None:
        """Close what was given back for the last time, unless somebody else is about to."""
        while self._returned and self._lock.acquire(blocking=False):
            try:
                if self._holders:
                    return  # this thread is in `held`, and comes here at its end
                closing = self._count_off()
            finally:
                self._lock.release()
            # Without the lock: closing waits for a write that is under way.
            for engine in closing:
                engine.close()

    def _count_off(self) -> list[Engine]:
        closing = []
        while self._returned:
            engine = self._returned.popleft()
            for identity, (known, count) in list(self._users.items()):
                if known is engine and count > 1:
                    self._users[identity] = (engine, count - 1)
                elif known is engine:
                    del self._users[identity]
                    closing.append(engine)
        return closing

    def before_fork(self) -> None:
        """Take the lock (see `cachekit.forks`)."""
        self._lock.acquire()

    def after_fork(self, in_child: bool) -> None:
        """Give it back; the child counts on from what it inherited."""
        if in_child:
            self._lock = threading.RLock()
        else:
            self._lock.release()
        self._settle()


def _identify(path: str, clock: Clock) -> _Identity | None:
    """What an engine on the directory as it is now would be known by; None if nobody has opened it."""
    try:
        found = os.stat(f"{path}/{USERS}")
    except OSError:  # the engine will find out why
        return None
    # An engine takes the time from one clock, so another clock needs another engine.
    return found.st_dev, found.st_ino, hash(clock)


#: The engines of this process.
engines: Final = Engines()
