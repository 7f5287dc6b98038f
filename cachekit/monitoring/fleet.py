"""Reads the figures of all processes of all hosts over a server.

Readers add the last records of processes that ended to the sums on the server. So every total only grows,
whichever process ends, as long as the server keeps the sums. They expire a day after the last record.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Final, final

from cachekit.errors import TierUnavailableError
from cachekit.monitoring.reading import SharedFigures, oldest_first, shared
from cachekit.monitoring.record import counters_of, number_of, parsed, process_of
from cachekit.monitoring.snapshot import Numbers, added, merged
from cachekit.monitoring.wanted import LONGEST
from cachekit.monitoring.watching import publish_here
from cachekit.tiers.redis import figures_of
from cachekit.tiers.redis.figures import FigureStore
from cachekit.tiers.redis.tier import RedisCache

_FIRST: Final = 3.0  # seconds until all processes have published for the first time
_SILENT: Final = 10.0  # seconds without a record after which a process counts as ended
_ID: Final = 32  # hexadecimal digits


@final
class FleetReader:
    """Reads the figures of all processes over a server and a prefix, and makes them publish until then.

    Args:
        tier: a tier on the server, with the prefix. It must stay open.
        seconds: how long the processes publish after a read, at most 120 (the default).
    """

    def __init__(self, tier: RedisCache, *, seconds: float = LONGEST) -> None:
        store = figures_of(tier)
        assert store is not None, "it is a RedisCache"
        self._tier = tier
        self._store: FigureStore = store
        #: What is read.
        self.place = store.place
        self._seconds = min(seconds, LONGEST)

    def begin(self) -> None:
        """Have the processes publish from now on, so that the first read waits less.

        Raises:
            TierUnavailableError: the server does not answer, or does not allow it.
        """
        self._store.want(self._seconds)

    def read(self) -> SharedFigures:
        """Return the figures; the first read waits until every process has published.

        Raises:
            TierUnavailableError: the server does not answer, or does not allow it.
        """
        # Another reader may have begun just now. Until all have published, a living process looks ended.
        wait = _FIRST - self._store.want(self._seconds)
        if wait > 0:
            time.sleep(wait)
        publish_here(self._store.identity)
        stored = self._store.read()
        living, gone = [], []
        for process, record in stored.records.items():
            found = parsed(record.content) if len(process) == _ID else None
            if found is None:
                continue
            if stored.now - record.written <= _SILENT:
                living.append(process_of(process, found))
            else:
                gone.append((process, record, counters_of(found)))
        counters = added([_sums(stored.sums), *[numbers for _, _, numbers in gone]])
        with suppress(TierUnavailableError):  # the next reader tries again
            for process, record, numbers in gone:
                self._store.fold(process, record, numbers)
            if stored.marks:
                self._store.remove(stored.marks)
        ended = number_of(_number(stored.ended)) or 0
        by_host: dict[str, list[Numbers]] = {}
        for one in oldest_first(living):
            by_host.setdefault(one.host, []).append(one.gauges)
        # Each host has files of its own, and all have the server in common.
        gauges = merged(map(merged, by_host.values()), ("/memory", "/file"))
        return shared(living, counters, gauges, int(ended) + len(gone))


def _sums(stored: dict[str, bytes]) -> Numbers:
    return counters_of({"counters": {key: _number(value) for key, value in stored.items()}})


def _number(stored: bytes) -> float | None:
    try:
        return float(stored)
    except ValueError:
        return None
