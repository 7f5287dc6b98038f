"""The figures of the processes over one server and prefix: a record of each, and sums of those that ended.

A key that expires says that figures are wanted. While it is there, each process replaces its record every two
seconds. A process that has not done so for ten seconds has ended, or does not reach the server. Readers add
its last record to the sums, so that no total falls. If it comes back, its record is refused, and it begins
another one. All records are in one hash. So each script has one key, also in a Cluster.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, final

from cachekit.errors import TierUnavailableError
from cachekit.tiers.redis.answers import MOST_SECONDS, Check, is_done, is_flag, is_value
from cachekit.tiers.redis.client import Call, Client
from cachekit.tiers.redis.end_budget import end_budget
from cachekit.tiers.redis.key_layout import Layout
from cachekit.tiers.redis.resp import Argument
from cachekit.tiers.redis.scripts import FIGURES_FOLD, FIGURES_PUBLISH, FIGURES_READ

_ENDED: Final = b"ended"  # the field with the number of processes that ended
_RECORD: Final = b"r:"  # what the field of a record begins with
_SUM: Final = b"e:"  # what the field of a counter of processes that ended begins with
_LARGEST: Final = 1 << 18  # bytes of a record that is read


class StoredRecord(NamedTuple):
    """The record of a process."""

    written: float  #: by the server's clock, in seconds since the epoch
    content: bytes
    stored: bytes  #: time and content, as they are stored


class StoredFigures(NamedTuple):
    """What is on the server. Other programs may write there."""

    now: float  #: by the server's clock, in seconds since the epoch
    records: dict[str, StoredRecord]  #: by process
    sums: dict[str, bytes]  #: of the processes that ended, by counter
    ended: bytes  #: how many processes ended


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
        self.place = f"{server}, key_prefix={layout.prefix!r}"

    def is_wanted(self, *, at_end: bool = False) -> bool:
        """Return whether a reader wants the figures now.

        Args:
            at_end: wait for the server no longer than the end of a program may.
        """
        if at_end:
            return self._at_end(is_value, "GET", self._wanted) is not None
        return self._server.read(self._wanted) is not None

    def want(self, seconds: float) -> bool:
        """Say that figures are wanted for so long; return whether they were wanted already."""
        milliseconds = round(seconds * 1000)
        if self._server.call(is_done, "SET", self._wanted, "1", "PX", milliseconds, "NX"):
            return False
        # Not a shorter time than another reader has asked for.
        self._server.call(is_flag, "PEXPIRE", self._wanted, milliseconds, "GT")
        return True

    def publish(self, process: str, record: bytes, *, is_new: bool, at_end: bool = False) -> bool:
        """Replace the record of a process.

        Args:
            process: its id, 32 hexadecimal digits.
            record: what it says.
            is_new: whether it is the first one with this id.
            at_end: wait for the server no longer than the end of a program may.

        Returns:
            False if an earlier record was added to those of the processes that ended.
        """
        call = Call(FIGURES_PUBLISH, [self._records], [process, record, "1" if is_new else "0"])
        if at_end:
            return bool(self._at_end(call.check, *call.command("EVAL")))
        return bool(self._server.run([call])[0])

    def _at_end(self, check: Check, *command: Argument) -> Any:
        place, begun = self.place, time.monotonic()
        try:
            return self._server.call_within(end_budget.share(place), check, *command)
        except TierUnavailableError:
            end_budget.spend(place, time.monotonic() - begun)
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
        return StoredFigures(float(now), records, sums, found.get(_ENDED, b"0"))

    def fold(self, process: str, record: StoredRecord, counters: Mapping[str, float]) -> None:
        """Add a record to the sums of the processes that ended, unless it has changed since it was read."""
        numbers = [part for counter, number in counters.items() for part in (counter, repr(float(number)))]
        self._server.run([Call(FIGURES_FOLD, [self._records], [process, record.stored, *numbers])])


def _record(stored: bytes) -> StoredRecord | None:
    written, bar, content = stored.partition(b"|")
    if not bar or not written.isdigit() or len(written) > MOST_SECONDS or len(content) > _LARGEST:
        return None
    return StoredRecord(float(written), content, stored)
