"""Writes the record of one process: what its caches have counted, in one small file of JSON.

A lock on a second file says that the process lives. The kernel releases it however the process ends, and it
holds between containers that share the directory, where process numbers mean nothing.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from typing import final

from cachekit.loading.core import CacheCore
from cachekit.monitoring.folder import FiguresFolder
from cachekit.monitoring.record import Records
from cachekit.monitoring.snapshot import Numbers, Snapshot
from cachekit.tiers.file.descriptor import OpenFile


@final
class Publisher:
    """The record of this process in one directory. Its caller holds a lock.

    Args:
        path: the directory that `figures` is in.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._id = ""
        self._lock: OpenFile | None = None
        self._records = Records()

    def publish(self, counters: Numbers, snapshots: Mapping[CacheCore, Snapshot], patience: float) -> bool:
        """Write the record; return False if that cannot be done now, or a reader is busy for too long."""
        record = self._records.make(counters, snapshots)
        try:
            folder = FiguresFolder.open(self._path)
            if not self._is_begun(folder) and not self._begin(folder, patience):
                return False
            folder.replace(f"{self._id}.json", record)
        except OSError:  # a full disk, or no directory any more; figures are no reason to disturb a cache
            return False
        return True

    def _is_begun(self, folder: FiguresFolder) -> bool:
        """Tell whether the lock of this process is still that of its record, and not one that was removed."""
        if self._lock is None:
            return False
        found = folder.look(f"{self._id}.lock")
        return found is not None and os.path.samestat(found, os.fstat(self._lock.fd))

    def _begin(self, folder: FiguresFolder, patience: float) -> bool:
        """Make the lock file of a new record; return False while a reader is busy."""
        with folder.locked(patience) as is_mine:
            if not is_mine:
                return False
            self._id = os.urandom(16).hex()
            lock = folder.open_or_make(f"{self._id}.lock")
            fcntl.flock(lock.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._lock = lock
        return True
