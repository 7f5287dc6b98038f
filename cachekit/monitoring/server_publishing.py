"""Writes the records of one process to a server, in turn. Readers add its last one to the sums.

A record that got no answer may have arrived all the same. So the process keeps what each of them counted,
until the server has stored a later one. The server says which of them was added, and the process goes on from
there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, final

from cachekit.errors import CacheError
from cachekit.loading.core import CacheCore
from cachekit.monitoring.record import Records
from cachekit.monitoring.snapshot import Numbers, Snapshot

if TYPE_CHECKING:
    from cachekit.tiers.redis.figures import FigureStore

_MOST_UNANSWERED: Final = 8  # records without an answer, of which a process keeps what they counted
_TRIES: Final = 3  # a record may be refused because the hash is another one, and because one was added


@final
class ServerPublisher:
    """The records of this process on one server. One thread at a time calls it."""

    def __init__(self) -> None:
        self._records = Records()
        self._begun = b""
        self._added: Numbers = {}  # what is in the sums, by earlier records of this process
        self._begin()

    def _begin(self) -> None:
        """Begin with another id, or with another hash, where no record of this process is."""
        self._id = os.urandom(16).hex()
        self._last = 0  # the number of the last record that was stored, as the server said
        self._sent: dict[int, Numbers] = {}  # by number: that record and those after it, the newest last

    def publish(
        self,
        store: FigureStore,
        counters: Numbers,
        snapshots: Mapping[CacheCore, Snapshot],
        *,
        at_end: bool,
    ) -> None:
        """Send a record. If the server fails, or does not allow it, the next one says the same and more.

        Args:
            store: where to.
            counters: of this process. They stay as they are.
            snapshots: of the caches that are open.
            at_end: wait for the server no longer than the end of a program may.
        """
        for _ in range(_TRIES):
            if len(self._sent) <= _MOST_UNANSWERED:
                self._sent[next(reversed(self._sent), 0) + 1] = counters
            number, sent = next(reversed(self._sent.items()))
            new = {key: count - self._added.get(key, 0) for key, count in sent.items()}
            record = self._records.make(new, snapshots)
            begun, last = self._begun, self._last
            try:
                answer = store.publish(self._id, number, record, begun=begun, last=last, at_end=at_end)
            except CacheError:  # figures are no reason to disturb a cache
                return
            self._begun = answer.begun
            if answer.added == 0:
                self._last, self._sent = number, {number: sent}
                return
            # All that was there is lost with the hash. Else this process was silent for long.
            self._added = self._sent.get(answer.added, sent) if answer.added > 0 else {}
            self._begin()
