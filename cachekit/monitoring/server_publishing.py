"""Writes the record of one process to a server. Readers add it to the sums when it is no longer replaced."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, final

from cachekit.errors import CacheError
from cachekit.loading.core import CacheCore
from cachekit.monitoring.record import Records
from cachekit.monitoring.snapshot import Numbers, Snapshot

if TYPE_CHECKING:
    from cachekit.tiers.redis.figures import FigureStore


class _Record(NamedTuple):
    counters: Numbers  # of the process
    content: bytes  # what is new since the record before, if that was added to the sums


@final
class ServerPublisher:
    """The record of this process on one server. One thread at a time calls it."""

    def __init__(self) -> None:
        self._records = Records()
        self._id = os.urandom(16).hex()
        self._is_new = True
        #: What is in the sums, by an earlier record of this process.
        self._added: Numbers = {}
        #: What was sent last. It may have arrived, also if no answer came. So it is what may be in the sums.
        self._sent: Numbers = {}

    def record(self, counters: Numbers, snapshots: Mapping[CacheCore, Snapshot]) -> _Record:
        """Return the record to send; the caller holds the lock of the figures."""
        own = {key: max(0, number - self._added.get(key, 0)) for key, number in counters.items()}
        return _Record(dict(counters), self._records.make(own, snapshots))

    def send(self, store: FigureStore, record: _Record, *, at_end: bool) -> None:
        """Send a record. If the server fails, or does not allow it, the next one says the same and more."""
        sent, self._sent = self._sent, record.counters
        try:
            is_stored = store.publish(self._id, record.content, is_new=self._is_new, at_end=at_end)
        except CacheError:  # figures are no reason to disturb a cache
            return
        if is_stored:
            self._is_new = False
        else:
            # This process was silent for long. Its next record counts from the last one on.
            self._id = os.urandom(16).hex()
            self._is_new = True
            self._added = self._sent = sent
