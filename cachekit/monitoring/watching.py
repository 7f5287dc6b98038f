"""Looks once a second whether the figures of this process are wanted, and publishes them while they are."""

from __future__ import annotations

import atexit
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final, final
from weakref import WeakValueDictionary, ref

from cachekit.errors import CacheError
from cachekit.loading.core import CacheCore
from cachekit.monitoring.snapshot import Snapshot, Totals, snapshot
from cachekit.monitoring.wanted import INTERVAL, changing, is_wanted, user_directory
from cachekit.runtime import fork
from cachekit.runtime.free_lock import run_if_free
from cachekit.runtime.reentrant_lock import RLock
from cachekit.runtime.scheduler import ScheduledTask, scheduler
from cachekit.tiers.redis import figures_of

if TYPE_CHECKING:
    from cachekit.monitoring.publishing import Publisher
    from cachekit.monitoring.server_publishing import ServerPublisher
    from cachekit.tiers.redis.figures import FigureStore

_AT_END: Final = 2.0  # seconds that the last figures of a process wait for readers
_TURN: Final = 0.3  # seconds that they wait for another thread, which may wait for a server in vain
_SERVER_INTERVAL: Final = 2.0  # seconds between two looks at a server

#: By the path of a directory, or by the identity of a store on a server.
_watches: WeakValueDictionary[Hashable, Watch] = WeakValueDictionary()
#: Kept when their caches are gone: a tier may come back with another cache, and must not count twice.
_published: set[Watch] = set()


class Watch(ABC):
    """The caches of this process whose figures belong in one place."""

    __slots__ = ("__weakref__", "_cores", "_looks", "_publisher", "_totals")

    _interval: ClassVar[float]

    def __init__(self) -> None:
        self._publisher: Publisher | ServerPublisher | None = None
        self._cores: dict[int, ref[CacheCore]] = {}
        self._totals = Totals()
        self._looks: ScheduledTask | None = None

    def add(self, core: CacheCore) -> None:
        """Count a cache too, from now on."""
        with changing:
            self._cores[id(core)] = ref(core)
            if self._looks is not None:
                return
        # Not under the lock: the scheduler has one of its own. Apart: it waits for a disk, or a server.
        looks = scheduler.every(self._interval, self.look, apart=True)
        with changing:
            if self._looks is None:
                self._looks = looks
                return
        looks.cancel()  # another thread was faster

    def remove(self, core: CacheCore) -> None:
        """Count what a cache that was closed has counted, and look no more after the last one."""
        if self._cores.get(id(core), lambda: None)() is not core:
            return
        is_needed = self._is_needed()
        parts = snapshot(core).parts if is_needed else []
        with changing:
            self._totals.add(parts)
            self._cores.pop(id(core), None)
        if is_needed:
            self._publish_last(core)
        if not self.cores():
            self._end()

    def cores(self) -> list[CacheCore]:
        """Return the caches that are open."""
        return [core for core in [one() for one in list(self._cores.values())] if core is not None]

    def look(self) -> None:
        """Publish the figures, if they are wanted now."""
        if not self.cores():
            self._end()
        elif self._is_wanted():
            self.publish()

    def _is_needed(self) -> bool:
        """Tell whether the last figures are missed: a reader has seen earlier ones, or looks now."""
        return self._publisher is not None or self._is_wanted(at_end=True)

    def _snapshots(self) -> dict[CacheCore, Snapshot]:
        return {core: snapshot(core) for core in self.cores()}

    def _end(self) -> None:
        """Look no more, and leave the record to the next reader, as that of a process that ended."""
        with changing:
            looks, self._looks = self._looks, None
            self._leave()
        if looks is not None:
            looks.cancel()

    def _leave(self) -> None:
        """Leave the record to readers, and begin another one if there are more figures."""
        if self._publisher is not None:
            # This closes the lock file of a directory. In a child, then, a dead parent is known to be dead.
            self._publisher = None
            self._totals.counters = {}

    def after_fork(self) -> None:
        """Leave the parent's record to the parent, and count from here on."""
        self._leave()
        _published.discard(self)
        self._totals = Totals()
        for core in self.cores():
            self._totals.begin(snapshot(core).parts)

    def at_exit(self) -> None:
        """Publish the last figures."""
        cores = self.cores()
        if cores and self._is_needed():
            self._publish_last(cores[0])

    @abstractmethod
    def publish(self) -> None:
        """Write the record of this process. If that fails, the next look tries again."""

    @abstractmethod
    def _is_wanted(self, *, at_end: bool = False) -> bool:
        """Tell whether a reader looks now.

        Args:
            at_end: wait for a server no longer than the end of a program may.
        """

    @abstractmethod
    def _publish_last(self, core: CacheCore) -> None:
        """Publish what a cache that ends now has counted."""


@final
class DirectoryWatch(Watch):
    """The caches of this process whose figures belong in one directory.

    Args:
        path: the directory that `figures` is in.
    """

    __slots__ = ("_path",)

    _publisher: Publisher | None
    _interval = INTERVAL

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def publish(self, *, patience: float = 0.0) -> None:
        """Write the record of this process. If that fails, the next look tries again.

        Args:
            patience: seconds to wait for a reader, before the first record (default 0).
        """
        snapshots = self._snapshots()
        with changing:
            # Imported here, under the lock: a fork must not find another thread in the middle of an import.
            from cachekit.monitoring.publishing import Publisher

            if self._looks is None:
                return  # the last cache was closed since its figures were read, and has published them
            self._totals.add([part for one in snapshots.values() for part in one.parts])
            if self._publisher is None:
                self._publisher = Publisher(self._path)
                _published.add(self)
            self._publisher.publish(self._totals.counters, snapshots, patience)

    def _is_wanted(self, *, at_end: bool = False) -> bool:  # noqa: ARG002  # it never waits
        return is_wanted(self._path)

    def _publish_last(self, core: CacheCore) -> None:  # noqa: ARG002  # a directory is there without it
        self.publish(patience=_AT_END)


@final
class ServerWatch(Watch):
    """The caches of this process over one server and prefix, whose figures belong there.

    No lock of figures is held during a call of the server. Figures of two threads could change places on the
    way. So one thread at a time publishes.
    """

    __slots__ = ("_publishing",)

    _publisher: ServerPublisher | None
    _interval = _SERVER_INTERVAL

    def __init__(self) -> None:
        super().__init__()
        self._publishing = RLock()

    def publish(self) -> None:
        """Write the record of this process. If that fails, the next look tries again."""
        for core in self.cores():
            if (store := _reachable(core)) is not None:
                self._publish(store, at_end=False)
                return

    def _publish(self, store: FigureStore, *, at_end: bool) -> None:
        # Not in a signal handler that comes in the middle of it.
        patience = _TURN if at_end else 0.0
        run_if_free(self._publishing, partial(self._publish_alone, store, at_end=at_end), patience)

    def _publish_alone(self, store: FigureStore, *, at_end: bool) -> None:
        snapshots = self._snapshots()
        with changing:
            # Imported here, under the lock, as in `DirectoryWatch.publish`.
            from cachekit.monitoring.server_publishing import ServerPublisher

            if self._looks is None:
                return  # as in `DirectoryWatch.publish`
            self._totals.add([part for one in snapshots.values() for part in one.parts])
            if self._publisher is None:
                self._publisher = ServerPublisher()
                _published.add(self)
            publisher, counters = self._publisher, self._totals.counters.copy()
        publisher.publish(store, counters, snapshots, at_end=at_end)

    def _is_wanted(self, *, at_end: bool = False) -> bool:
        for core in self.cores():
            store = _reachable(core)
            if store is not None:
                try:
                    return store.is_wanted(at_end=at_end)
                except CacheError:  # the tier finds out by itself; figures are no reason to count a failure
                    return False
        return False

    def _publish_last(self, core: CacheCore) -> None:
        store = _reachable(core)
        if store is not None:
            self._publish(store, at_end=True)

    def after_fork(self) -> None:
        """Leave the parent's record to the parent, and count from here on."""
        self._publishing = RLock()  # another thread of the parent may have held it
        super().after_fork()


def _reachable(core: CacheCore) -> FigureStore | None:
    """Return where the figures of a cache belong on its server; None during an outage."""
    redis = core.tiers.redis
    return None if redis is None or redis.breaker.refuses else figures_of(redis.tier)


def watch(core: CacheCore) -> list[Watch]:
    """Publish the figures of a new cache while they are wanted; the caller keeps the result with it."""
    watches: list[Watch] = []
    # A system without users of files has no locks on them either, so no process could publish safely.
    if hasattr(os, "geteuid"):
        file = core.tiers.file
        path = user_directory() if file is None else file.tier.path
        watches.append(_watch(path, partial(DirectoryWatch, path)))
    redis = core.tiers.redis
    store = None if redis is None else figures_of(redis.tier)
    if store is not None:
        watches.append(_watch(store.identity, ServerWatch))
    for one in watches:
        one.add(core)
    return watches


def _watch(identity: Hashable, make: Callable[[], Watch]) -> Watch:
    with changing:
        found = _watches.get(identity)
        if found is None:
            found = _watches[identity] = make()
    return found


def publish_here(identity: Hashable) -> None:
    """Publish at once what this process has to publish in a directory, or on a server."""
    found = _watches.get(identity)
    if found is not None and found.cores():
        found.publish()


def _after_fork_in_child() -> None:
    for one in list(_watches.values()):
        try:
            one.after_fork()
        except Exception:
            import logging

            logging.getLogger("cachekit").exception("the figures of this process begin with wrong counts")


def _at_exit() -> None:
    for one in list(_watches.values()):
        one.at_exit()


fork.call_in_child(_after_fork_in_child)
atexit.register(_at_exit)
