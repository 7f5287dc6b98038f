"""Writes the record of one process: what its caches have counted, in one small file of JSON.

A lock on a second file says that the process lives. The kernel releases it however the process ends, and it
holds between containers that share the directory, where process numbers mean nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, final

from cachekit.health import assess, since
from cachekit.loading.core import CacheCore
from cachekit.model.stats import CacheStats
from cachekit.monitoring.folder import FORMAT, FiguresFolder
from cachekit.monitoring.snapshot import Numbers, Snapshot, merged
from cachekit.tiers.file.descriptor import OpenFile

_SPAN: Final = 10.0  # seconds between two snapshots that health is judged by
_SPANS: Final = 6  # health is that of the last minute, or at first of the whole life of the cache
_NOTHING: Final[Mapping[str, CacheStats]] = {}  # what was counted when a cache began
_REASONS: Final = 10  # the most that are published
_NAME: Final = 80  # characters of the program's name


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
        self._started = time.time()
        self._earlier: dict[int, deque[tuple[float, Mapping[str, CacheStats]]]] = {}

    def publish(self, counters: Numbers, snapshots: Mapping[CacheCore, Snapshot], patience: float) -> bool:
        """Write the record; return False if that cannot be done now, or a reader is busy for too long."""
        gauges: dict[int, Numbers] = {}
        for one in snapshots.values():
            for owner, numbers in one.gauges:
                gauges.setdefault(id(owner), {}).update(numbers)
        record = {
            "format": FORMAT,
            "program": program(),
            "pid": os.getpid(),
            "started": self._started,
            "written": time.time(),
            "caches": len(snapshots),
            "counters": counters,
            "gauges": merged(gauges.values()),
            "health": self._health(snapshots),
        }
        try:
            folder = FiguresFolder.open(self._path)
            if not self._is_begun(folder) and not self._begin(folder, patience):
                return False
            folder.replace(f"{self._id}.json", json.dumps(record).encode())
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

    def _health(self, snapshots: Mapping[CacheCore, Snapshot]) -> dict[str, Any]:
        now = time.monotonic()
        healths = []
        earlier = {}
        for core, one in snapshots.items():
            history = self._earlier.get(id(core)) or deque([(now, _NOTHING)], _SPANS)
            earlier[id(core)] = history
            span = since(history[0][1], one.stats)
            healths.append(assess(span, core.tiers.states(), sizes=core.estimate(span)))
            if now - history[-1][0] >= _SPAN:
                history.append((now, one.stats))
        self._earlier = earlier
        reasons = [reason for health in healths for reason in health.reasons]
        reasons.sort(key=lambda reason: reason.status)  # "critical" comes before "warning"
        return {
            "status": reasons[0].status if reasons else "healthy",
            "reasons": [
                {
                    "status": reason.status,
                    "cause": reason.cause,
                    "tier": reason.tier,
                    "message": reason.message,
                    "remedy": reason.remedy,
                }
                for reason in reasons[:_REASONS]
            ],
        }


def program() -> str:
    """Return what this process is called in the figures."""
    path = str(sys.argv[0]) if getattr(sys, "argv", None) else ""
    name = os.path.basename(path)
    if name == "__main__.py":
        name = os.path.basename(os.path.dirname(path))
    return (name if name not in ("", "-", "-c") else "python")[:_NAME]
