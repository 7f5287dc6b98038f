"""The figures of the processes over one server and prefix: a record of each, and sums of those that ended.

A key that expires says that figures are wanted. While it is there, each process replaces its record every two
seconds. A process that has not done so for ten seconds has ended, or does not reach the server. Readers add
its last record to the sums, so that no total falls. A mark then says which of its records that was. If the
process comes back, it goes on from there with another record. All records are in one hash. So each script has
one key, also in a Cluster.
"""

from __future__ import annotations

import re
import time
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final, NamedTuple, final

from cachekit.errors import TierUnavailableError
from cachekit.model.display import safe_repr
from cachekit.tiers.redis.answers import MOST_SECONDS, Check, is_count, is_value
from cachekit.tiers.redis.client import Call, Client
from cachekit.tiers.redis.end_budget import end_budget
from cachekit.tiers.redis.key_layout import Layout
from cachekit.tiers.redis.resp import Argument
from cachekit.tiers.redis.scripts import FIGURES_FOLD, FIGURES_PUBLISH, FIGURES_READ, FIGURES_WANT

_ENDED: Final = b"ended"  # the field with the number of processes that ended
_RECORD: Final = b"r:"  # what the field of a record begins with
_MARK: Final = b"f:"  # what the field of a mark begins with
_SUM: Final = b"e:"  # what the field of a counter of processes that ended begins with
_KEPT: Final = 3600.0  # seconds that a mark is kept
_NUMBER: Final = 15  # digits of the number of a record
_RECORDED: Final = re.compile(rb"(\d{1,%d})\|(\d{1,%d})\|" % (MOST_SECONDS, _NUMBER))
_LARGEST: Final = 1 << 18  # bytes of a record that is read


class StoredRecord(NamedTuple):
    """The record of a process."""

    written: float  #: by the server's clock, in seconds since the epoch
    number: bytes  #: of the records of the process
    content: bytes
    stored: bytes  #: all three, as they are stored


class Publication(NamedTuple):
    """What the server says to a record."""

    begun: bytes  #: when the hash of the records began
    #: Which earlier record of the process was added to the sums, so that this one was refused. 0 if it is
    #: stored; -1 if it is refused, because the hash is another one than before.
    added: int


class StoredFigures(NamedTuple):
    """What is on the server. Other programs may write there."""

    now: float  #: by the server's clock, in seconds since the epoch
    records: dict[str, StoredRecord]  #: by process
    sums: dict[str, bytes]  #: of the processes that ended, by counter
    ended: bytes  #: how many processes ended
    marks: list[bytes]  #: the fields of the marks that are no longer needed


@final
class FigureStore:
    """The records under one prefix. Safe in any thread.

    Args:
        server: the client of the server.
        layout: the names under the prefix.

    Every method asks the server, and raises TierUnavailableError if it does not answer.
    """

    def __init__(self, server: Client, layout: Layout) -> None:
        self._server = server
        self._wanted, self._records = layout.figures()
        #: What readers say they read.
        self.place = f"{server}, key_prefix={safe_repr(layout.prefix)}"
        #: What all stores of the same figures in this process have in common.
        self.identity: Hashable = (server.identity, layout.prefix)

    def is_wanted(self, *, at_end: bool = False) -> bool:
        """Return whether a reader wants the figures now.

        Args:
            at_end: wait for the server no longer than the end of a program may.
        """
        if at_end:
            return self._at_end(is_value, "GET", self._wanted) is not None
        return self._server.read(self._wanted) is not None

    def want(self, seconds: float) -> float:
        """Say that figures are wanted for so long; return for how long they were wanted already."""
        call = Call(FIGURES_WANT, [self._wanted], [round(seconds * 1000)])
        return int(self._server.run([call])[0]) / 1000

    def publish(
        self, process: str, number: int, record: bytes, *, begun: bytes, last: int, at_end: bool = False
    ) -> Publication:
        """Replace the record of a process.

        Args:
            process: its id, 32 hexadecimal digits.
            number: of this record, from 1 on.
            record: what it says.
            begun: what the last answer said of it; empty before the first.
            last: the number of the last record that was stored, as the server said; 0 before that.
            at_end: wait for the server no longer than the end of a program may.
        """
        call = Call(FIGURES_PUBLISH, [self._records], [process, number, record, begun, last])
        if at_end:
            return Publication(*self._at_end(call.check, *call.command("EVAL")))
        return Publication(*self._server.run([call])[0])

    def _at_end(self, check: Check, *command: Argument) -> Any:
        server, begun = str(self._server), time.monotonic()
        try:
            return self._server.call_within(end_budget.share(server), check, *command)
        except TierUnavailableError:
            end_budget.spend(server, time.monotonic() - begun)
            raise

    def read(self) -> StoredFigures:
        """Return all records and sums."""
        ((now, fields),) = self._server.run([Call(FIGURES_READ, [self._records], [])])
        found = dict(zip(fields[::2], fields[1::2], strict=True))
        records = {
            field[len(_RECORD) :].decode("utf-8", "replace"): record
            for field, value in found.items()
            if field.startswith(_RECORD) and (record := _record(value)) is not None
        }
        sums = {
            field[len(_SUM) :].decode("utf-8", "replace"): value
            for field, value in found.items()
            if field.startswith(_SUM)
        }
        marks = [
            field
            for field, value in found.items()
            if field.startswith(_MARK) and not 0 <= float(now) - _time_of_mark(value) <= _KEPT
        ]
        return StoredFigures(float(now), records, sums, found.get(_ENDED, b"0"), marks)

    def fold(self, process: str, record: StoredRecord, counters: Mapping[str, float]) -> None:
        """Add a record to the sums of the processes that ended, unless it has changed since it was read."""
        numbers = [part for counter, number in counters.items() for part in (counter, repr(float(number)))]
        arguments: list[Argument] = [process, record.stored, record.number, *numbers]
        self._server.run([Call(FIGURES_FOLD, [self._records], arguments)])

    def remove(self, marks: Sequence[bytes]) -> None:
        """Remove marks that are no longer needed."""
        self._server.call(is_count, "HDEL", self._records, *marks)


def _record(stored: bytes) -> StoredRecord | None:
    match = _RECORDED.match(stored)
    if match is None or len(stored) - match.end() > _LARGEST:
        return None
    return StoredRecord(float(match[1]), match[2], stored[match.end() :], stored)


def _time_of_mark(stored: bytes) -> float:
    match = _RECORDED.match(stored + b"|")
    return 0.0 if match is None else float(match[1])
