"""Watching a cache: who wants to be told is told when its health is another than it was."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, final

from cachekit.health import Health, since
from cachekit.model.stats import CacheStats
from cachekit.runtime.scheduler import Job, upkeep

_INTERVAL: Final = 10.0  # seconds between two looks
_LOOKS: Final = 6  # how many of them a judgement spans: a minute, so that an alert ends with its cause

Statistics = Mapping[str, CacheStats]


@final
class Watch:
    """Looks at a cache every ten seconds, in upkeep's thread, and judges its last minute.

    Args:
        changed: called as `changed(new, old)` when the status is another one; healthy comes first.
        statistics: asked for the figures.
        judge: makes them a health.
    """

    __slots__ = ("__weakref__", "_changed", "_earlier", "_job", "_judge", "_last", "_statistics")

    def __init__(
        self,
        changed: Callable[[Health, Health], object],
        statistics: Callable[[], Statistics],
        judge: Callable[[Statistics], Health],
    ) -> None:
        self._changed = changed
        self._statistics = statistics
        self._judge = judge
        self._last = Health("healthy", ())
        self._earlier: deque[Statistics] = deque([statistics()], _LOOKS)
        self._job: Job = upkeep.every(_INTERVAL, self.look)

    def look(self) -> None:
        """Look once."""
        now = self._statistics()
        health, before = self._judge(since(self._earlier[0], now)), self._last
        self._earlier.append(now)
        self._last = health
        if health.status != before.status:
            self._changed(health, before)

    def close(self) -> None:
        """Look no more."""
        self._job.cancel()
