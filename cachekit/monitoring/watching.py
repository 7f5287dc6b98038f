"""Looks once a second whether the figures of this process are wanted, and publishes them while they are."""

from __future__ import annotations

import atexit
import os
from typing import TYPE_CHECKING, final
from weakref import WeakValueDictionary, ref

from cachekit.loading.core import CacheCore
from cachekit.monitoring.snapshot import Totals, snapshot
from cachekit.monitoring.wanted import INTERVAL, changing, is_wanted, user_directory
from cachekit.runtime.scheduler import ScheduledTask, scheduler

if TYPE_CHECKING:
    from cachekit.monitoring.publishing import Publisher

_watches: WeakValueDictionary[str, Watch] = WeakValueDictionary()
#: Kept when their caches are gone: a tier may come back with another cache, and must not count twice.
_published: set[Watch] = set()


@final
class Watch:
    """The caches of this process whose figures belong in one directory.

    Args:
        directory: the one that `figures` is in.
    """

    __slots__ = ("__weakref__", "_cores", "_looks", "_publisher", "_totals", "directory")

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._cores: dict[int, ref[CacheCore]] = {}
        self._totals = Totals()
        self._publisher: Publisher | None = None
        self._looks: ScheduledTask | None = None

    def add(self, core: CacheCore) -> None:
        """Count a cache too, from now on."""
        with changing:
            self._cores[id(core)] = ref(core)
            if self._looks is not None:
                return
        # Not under the lock: the scheduler has one of its own. Apart: it reads and writes a disk.
        looks = scheduler.every(INTERVAL, self.look, apart=True)
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
            self.publish(patience=_AT_END)
        if not self.cores():
            self._end()

    def cores(self) -> list[CacheCore]:
        """Return the caches that are open."""
        return [core for core in [one() for one in list(self._cores.values())] if core is not None]

    def look(self) -> None:
        """Publish the figures, if they are wanted now."""
        if not self.cores():
            self._end()
        elif is_wanted(self.directory):
            self.publish()

    def _is_needed(self) -> bool:
        """Tell whether the last figures are missed: a reader has seen earlier ones, or looks now."""
        return self._publisher is not None or is_wanted(self.directory)

    def publish(self, *, patience: float = 0.0) -> None:
        """Write the record of this process. If that fails, the next look tries again.

        Args:
            patience: seconds to wait for a reader, before the first record (default 0).
        """
        snapshots = {core: snapshot(core) for core in self.cores()}
        with changing:
            # Imported here, under the lock: a fork must not find another thread in the middle of an import.
            from cachekit.monitoring.publishing import Publisher

            self._totals.add([part for one in snapshots.values() for part in one.parts])
            if self._publisher is None:
                self._publisher = Publisher(self.directory)
                _published.add(self)
            self._publisher.publish(self._totals.counters, snapshots, patience)

    def _end(self) -> None:
        """Look no more, and leave the record to the next reader, as that of a process that ended."""
        with changing:
            looks, self._looks = self._looks, None
            if self._publisher is not None:
                self._publisher = None  # which releases the lock
                self._totals.counters = {}
        if looks is not None:
            looks.cancel()

    def after_fork(self) -> None:
        """Leave the parent's record to the parent, and count from here on."""
        self._publisher = None  # closes the inherited lock file, so that a dead parent is known to be dead
        _published.discard(self)
        self._totals = Totals()
        for core in self.cores():
            self._totals.begin(snapshot(core).parts)

    def at_exit(self) -> None:
        """Publish the last figures."""
        if self.cores() and self._is_needed():
            self.publish(patience=_AT_END)


_AT_END = 2.0  # seconds that the last figures of a process wait for readers


def watch(core: CacheCore) -> Watch:
    """Publish the figures of a new cache while they are wanted; the caller keeps the result with it."""
    file = core.tiers.file
    directory = user_directory() if file is None else file.tier.path
    with changing:
        found = _watches.get(directory)
        if found is None:
            found = _watches[directory] = Watch(directory)
    # A system without users of files has no locks on them either, so no process could publish safely.
    if hasattr(os, "geteuid"):
        found.add(core)
    return found


def publish_here(path: str) -> None:
    """Publish what this process has to publish in a directory at once."""
    for one in list(_watches.values()):
        if one.directory == path and one.cores():
            one.publish()


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
