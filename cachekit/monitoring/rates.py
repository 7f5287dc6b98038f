"""What figures say: counts per second, shares and quantiles."""

from __future__ import annotations

from typing import Final, final

from cachekit.model.counters import LatencyHistogram
from cachekit.monitoring.families import PARTS
from cachekit.monitoring.reading import SharedFigures
from cachekit.monitoring.record import Process
from cachekit.monitoring.snapshot import Numbers, added

#: Seconds after which a process that does not publish counts as idle, because it is stopped.
_LONGEST: Final = 5.0


@final
class Rates:
    """Counts per second of each process, between the last two records that it has published.

    Between two reads a process may have published no record, or two. So the time is that of the records.
    """

    def __init__(self) -> None:
        #: The last two records, and when the newer one was first read.
        self._records: dict[str, tuple[Process, Process, float]] = {}
        self._read_at = 0.0

    def update(self, figures: SharedFigures, now: float) -> None:
        """Add what was read at this time, in seconds since the epoch."""
        records = {}
        for process in figures.processes:
            before, last, seen = self._records.get(process.id, (process, process, now))
            if process.written != last.written:
                before, last, seen = last, process, now
            records[process.id] = before, last, seen
        self._records, self._read_at = records, now

    def of(self, process: str) -> Numbers:
        """Return the counts per second of a process by its id; empty if they are not known yet."""
        before, last, seen = self._records[process]
        seconds = last.written - before.written
        # By the clock of the reader. That of another host may be wrong by more.
        if seconds <= 0 or self._read_at - seen > _LONGEST:
            return {}
        return {
            key: max(0.0, count - before.counters.get(key, 0)) / seconds
            for key, count in last.counters.items()
        }

    def of_all(self) -> Numbers:
        """Return the counts per second of all processes."""
        return added(self.of(process) for process in self._records)


def total(counters: Numbers, family: str, *values: str) -> float:
    """Return the sum of a family's figures, of those whose first labels have these values."""
    start = "/".join((family, *values))
    return sum(count for key, count in counters.items() if key == start or key.startswith(f"{start}/"))


def hit_rate(counters: Numbers, family: str, *values: str) -> float | None:
    """Return the share of hits, 0 to 1; None without lookups."""
    lookups = total(counters, family, *values)
    return counters.get("/".join((family, *values, "hit")), 0) / lookups if lookups else None


def quantile(counters: Numbers, key: str, share: float) -> float | None:
    """Return the upper edge of the bucket, in seconds, of the duration that `share` of all do not exceed.

    None without durations.
    """
    counts = [counters.get(f"{key}/{part}", 0) for part in PARTS if part != "sum"]
    left = share * sum(counts)
    if not left:
        return None
    for count, edge in zip(counts, LatencyHistogram.EDGES, strict=False):
        left -= count
        if left <= 0:
            return edge
    return float("inf")
