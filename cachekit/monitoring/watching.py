"""Looks once a second whether the figures of this process are wanted, and publishes them while they are."""

from __future__ import annotations

import atexit
import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Final, final
from weakref import WeakValueDictionary, ref

from cachekit.errors import CacheError
from cachekit.loading.core import CacheCore
from cachekit.monitoring.snapshot import Snapshot, Totals, snapshot
from cachekit.monitoring.wanted import INTERVAL, changing, is_wanted, user_directory
from cachekit.runtime.reentrant_lock import RLock
from cachekit.runtime.scheduler import ScheduledTask, scheduler
from cachekit.tiers.redis import figures_of

if TYPE_CHECKING:
    from cachekit.monitoring.publishing import Publisher
    from cachekit.monitoring.server_publishing import ServerPublisher
    from cachekit.tiers.redis.figures import FigureStore

_AT_END: Final = 2.0  # seconds that the last figures of a process wait for readers
_SERVER_INTERVAL: Final = 2.0  # seconds between two looks at a server

_watches: WeakValueDictionary[str, Watch] = WeakValueDictionary()
#: Kept when their caches are gone: a tier may come back with another cache, and must not count twice.
_published: set[Watch] = set()


class Watch(ABC):
    """The caches of this process whose figures belong in one place.

    Args:
        place: the name of the place.
    """

    __slots__ = ("__weakref__", "_cores", "_looks", "_totals", "place")

    _interval: ClassVar[float]

    def __init__(self, place: str) -> None:
        self.place = place
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

    def _snapshots(self) -> dict[CacheCore, Snapshot]:
        return {core: snapshot(core) for core in self.cores()}

    def _end(self) -> None:
        """Look no more, and leave the record to the next reader, as that of a process that ended."""
        with changing:
            looks, self._looks = self._looks, None
            self._leave()
        if looks is not None:
            looks.cancel()

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
    def _is_wanted(self) -> bool:
        """Tell whether a reader looks now."""

    @abstractmethod
    def _is_needed(self) -> bool:
        """Tell whether the last figures are missed: a reader has seen earlier ones, or looks now."""

    @abstractmethod
    def _publish_last(self, core: CacheCore) -> None:
        """Publish what a cache that ends now has counted."""

    @abstractmethod
    def _leave(self) -> None:
        """Leave the record to readers, and begin another one if there are more figures."""


@final
class DirectoryWatch(Watch):
    """The caches of this process whose figures belong in one directory.

    Args:
        place: the directory that `figures` is in.
    """

    __slots__ = ("_publisher",)

    _interval = INTERVAL

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self._publisher: Publisher | None = None

    def publish(self, *, patience: float = 0.0) -> None:
        """Write the record of this process. If that fails, the next look tries again.

        Args:
            patience: seconds to wait for a reader, before the first record (default 0).
        """
        snapshots = self._snapshots()
        with changing:
            # Imported here, under the lock: a fork must not find another thread in the middle of an import.
            from cachekit.monitoring.publishing import Publisher

            self._totals.add([part for one in snapshots.values() for part in one.parts])
            if self._publisher is None:
                self._publisher = Publisher(self.place)
                _published.add(self)
            self._publisher.publish(self._totals.counters, snapshots, patience)

    def _is_wanted(self) -> bool:
        return is_wanted(self.place)

    def _is_needed(self) -> bool:
        return self._publisher is not None or is_wanted(self.place)

    def _publish_last(self, core: CacheCore) -> None:  # noqa: ARG002  # a directory is there without it
        self.publish(patience=_AT_END)

    def _leave(self) -> None:
        if self._publisher is not None:
            # This closes the lock file. In a child, then, a dead parent is known to be dead.
            self._publisher = None
            self._totals.counters = {}


@final
class ServerWatch(Watch):
    """The caches of this process over one server and prefix, whose figures belong there.

    No lock of figures is held during a call of the server. Figures of two threads could change places on the
    way. So one thread at a time publishes.
    """

    __slots__ = ("_is_publishing", "_publisher", "_publishing")

    _interval = _SERVER_INTERVAL

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self._publisher: ServerPublisher | None = None
        self._publishing = RLock()
        self._is_publishing = False

    def publish(self) -> None:
        """Write the record of this process. If that fails, the next look tries again."""
        for core in self.cores():
            if (store := _reachable(core)) is not None:
                self._publish(store, at_end=False)
                return

    def _publish(self, store: FigureStore, *, at_end: bool) -> None:
        if not self._publishing.acquire(timeout=_AT_END if at_end else 0.0):
            return
        if self._is_publishing:  # a signal handler comes here in the middle of it
            self._publishing.release()
            return
        try:
            self._is_publishing = True
            snapshots = self._snapshots()
            with changing:
                # Imported here, under the lock, as in `DirectoryWatch.publish`.
                from cachekit.monitoring.server_publishing import ServerPublisher

                self._totals.add([part for one in snapshots.values() for part in one.parts])
                if self._publisher is None:
                    self._publisher = ServerPublisher()
                    _published.add(self)
                publisher = self._publisher
                record = publisher.record(self._totals.counters, snapshots)
            publisher.send(store, record, at_end=at_end)
        finally:
            self._is_publishing = False
            self._publishing.release()

    def _is_wanted(self, *, at_end: bool = False) -> bool:
        for core in self.cores():
            store = _reachable(core)
            if store is not None:
                try:
                    return store.is_wanted(at_end=at_end)
                except CacheError:  # the tier finds out by itself; figures are no reason to count a failure
                    return False
        return False

    def _is_needed(self) -> bool:
        return self._publisher is not None or self._is_wanted(at_end=True)

    def _publish_last(self, core: CacheCore) -> None:
        store = _reachable(core)
        if store is not None:
            self._publish(store, at_end=True)

    def after_fork(self) -> None:
        """Leave the parent's record to the parent, and count from here on."""
        # Another thread of the parent may have held it.
        self._publishing, self._is_publishing = RLock(), False
        super().after_fork()

    def _leave(self) -> None:
        if self._publisher is not None:
            self._publisher = None
            self._totals.counters = {}


def _reachable(core: CacheCore) -> FigureStore | None:
    """Return where the figures of a cache belong on its server; None during an outage."""
    redis = core.tiers.redis
    return None if redis is None or redis.breaker.refuses else figures_of(redis.tier)


def watch(core: CacheCore) -> list[Watch]:
    """Publish the figures of a new cache while they are wanted; the caller keeps the result with it."""
    file = core.tiers.file
    watches = [_watch(DirectoryWatch, user_directory() if file is None else file.tier.path)]
    redis = core.tiers.redis
    store = None if redis is None else figures_of(redis.tier)
    if store is not None:
        watches.append(_watch(ServerWatch, store.place))
    # A system without users of files has no locks on them either, so no process could publish safely.
    if not hasattr(os, "geteuid"):
        del watches[0]
    for one in watches:
        one.add(core)
    return watches


def _watch(kind: type[DirectoryWatch | ServerWatch], place: str) -> Watch:
    with changing:
        found = _watches.get(place)
        if found is None:
            found = _watches[place] = kind(place)
    return found


def publish_here(place: str) -> None:
    """Publish what this process has to publish in a place at once."""
    found = _watches.get(place)
    if found is not None and found.cores():
        found.publish()


def _after_fork_in_child() -> None:
    # The locks of cachekit are free again: the hooks of `runtime.fork` were registered before this one.
    for one in list(_watches.values()):
        try:
            one.after_fork()
        except Exception:
            import logging

            logging.getLogger("cachekit").exception("the figures of this process begin with wrong counts")


def _at_exit() -> None:
    for one in list(_watches.values()):
        one.at_exit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
