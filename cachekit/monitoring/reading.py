"""Reads the figures of all processes that share a directory. Every total only grows, whichever of them ends.

The last figures of processes that ended are added to `ended.json`, under the lock of the directory. The file
names the records that it includes, so that a reader that ends between its two steps counts none twice.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple, Protocol, final

from cachekit.errors import TierUnavailableError
from cachekit.monitoring.folder import ENDED, OF_PROCESS, FiguresFolder
from cachekit.monitoring.record import (
    FORMAT,
    STATUS,
    OtherSize,
    Process,
    Sizes,
    counters_of,
    number_of,
    process_of,
)
from cachekit.monitoring.snapshot import Numbers, added, merged
from cachekit.monitoring.wanted import INTERVAL, LONGEST, user_directory
from cachekit.monitoring.watching import publish_here

_FIRST: Final = 1.5 * INTERVAL  # seconds until all processes have published for the first time
_PATIENCE: Final = 5.0  # seconds that a reader waits for others
_MOST_SIZES: Final = 4  # caches whose other sizes are shown


class SharedFigures(NamedTuple):
    """The figures of all processes that share a directory, or a server and a prefix."""

    counters: Numbers  #: of those that ended, too
    gauges: Numbers  #: of those that live
    processes: tuple[Process, ...]  #: that live, the oldest first
    ended: int  #: how many processes have ended

    @property
    def status(self) -> str:
        """Return the worst status of a process."""
        return max([process.status for process in self.processes], key=STATUS.index, default="healthy")

    def names(self) -> list[str]:
        """Return what each process is called among these: its program, and its host if there are several."""
        is_one = len({process.host for process in self.processes}) < 2
        return [one.program if is_one else f"{one.program} on {one.host}" for one in self.processes]

    def has(self, tier: str) -> bool:
        """Return whether a cache has, or had, this tier."""
        return f"entries/{tier}" in self.gauges or f"sets/{tier}" in self.counters

    def sizes(self) -> list[Sizes]:
        """Return what other sizes of memory would bring: caches of one size together, the busiest first.

        The caches of a program have one size in each of its processes. Each serves a part of the requests.
        """
        alike: dict[tuple[float, str], list[Sizes]] = {}
        for process in self.processes:
            for one in process.sizes:
                alike.setdefault((one.size, one.unit), []).append(one)
        found = [_together(size, unit, estimates) for (size, unit), estimates in alike.items()]
        return sorted(found, key=lambda one: -one.requests)[:_MOST_SIZES]


class FiguresReader(Protocol):
    """Reads the figures of the processes in one place: those of a host, or of a fleet."""

    place: str  #: what is read

    def begin(self) -> object:
        """Have the processes publish from now on, so that the first read waits less.

        Raises:
            TierUnavailableError: the directory cannot be used, or the server does not answer.
        """

    def read(self) -> SharedFigures:
        """Return the figures; raise `TierUnavailableError` as `begin` does."""


@final
class HostReader:
    """Reads the figures of all processes that share a directory, and makes them publish until then.

    Args:
        path: the directory of a cache; None for the caches of this user without files.
        seconds: how long the processes publish after a read, at most 120 (the default).
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, seconds: float = LONGEST) -> None:
        self._seconds = min(seconds, LONGEST)
        self.place = os.path.abspath(os.fspath(path)) if path is not None else user_directory()
        self._makes_above = path is None
        self._complete = 0.0

    def begin(self) -> FiguresFolder:
        """Have the processes publish from now on, so that the first read waits less.

        Raises:
            TierUnavailableError: the directory cannot be used.
        """
        try:
            folder = FiguresFolder.open(self.place, make=True, make_above=self._makes_above)
            if not folder.want(self._seconds):
                self._complete = time.monotonic() + _FIRST
        except OSError as error:
            raise TierUnavailableError(
                f"the figures in {self.place} cannot be read: {error.strerror or error}"
            ) from error
        return folder

    def read(self) -> SharedFigures:
        """Return the figures; the first read waits until every process has published.

        Raises:
            TierUnavailableError: the directory cannot be used, or another reader keeps it for 5 s.
        """
        folder = self.begin()
        wait = self._complete - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        publish_here(self.place)
        try:
            with folder.locked(_PATIENCE) as is_mine:
                if not is_mine:
                    raise TierUnavailableError(
                        f"another reader has kept the figures in {self.place} for {_PATIENCE:.0f} s"
                    )
                return _read(folder)
        except OSError as error:
            raise TierUnavailableError(
                f"the figures in {self.place} cannot be read: {error.strerror or error}"
            ) from error


def _read(folder: FiguresFolder) -> SharedFigures:
    matches = [OF_PROCESS.fullmatch(name) for name in folder.names()]
    ids = sorted({match[1] for match in matches if match is not None})
    alive = [one for one in ids if folder.is_alive(one)]
    ended = folder.read(ENDED) or {}
    counters = counters_of(ended)
    count = number_of(ended.get("processes")) or 0
    gone = set(ids) - set(alive)
    if gone:
        before = ended.get("includes")
        includes = {one for one in before if isinstance(one, str)} if isinstance(before, list) else set()
        records = [record for one in sorted(gone - includes) if (record := folder.read(f"{one}.json"))]
        counters = added([counters, *[counters_of(record) for record in records]])
        count += len(records)
        written = {"format": FORMAT, "processes": count, "counters": counters, "includes": sorted(gone)}
        with suppress(OSError):  # a full disk: the records stay, and the next reader adds them
            folder.replace(ENDED, json.dumps(written).encode())
            for one in gone:
                for end in (".json.new", ".json", ".lock"):
                    folder.remove(one + end)
    found = [process_of(one, record) for one in alive if (record := folder.read(f"{one}.json"))]
    gauges = merged([process.gauges for process in oldest_first(found)])
    return shared(found, counters, gauges, int(count))


def oldest_first(processes: Iterable[Process]) -> list[Process]:
    """Return processes in the order in which their records were written."""
    return sorted(processes, key=lambda process: process.written)


def shared(living: Iterable[Process], sums: Numbers, gauges: Numbers, ended: int) -> SharedFigures:
    """Return the figures of processes that live, with sums of those that ended."""
    processes = sorted(living, key=lambda process: process.started)
    counters = added([sums, *[process.counters for process in processes]])
    return SharedFigures(counters, gauges, tuple(processes), ended)


def _together(size: float, unit: str, estimates: Sequence[Sizes]) -> Sizes:
    requests = sum(one.requests for one in estimates)
    rates: dict[float, list[tuple[float, OtherSize]]] = {}
    for one in estimates:
        for other in one.rates:
            rates.setdefault(other.size, []).append((one.requests / requests, other))
    merged = [
        OtherSize(
            other,
            sum(weight * one.rate for weight, one in known),
            sum(weight * one.plus_minus for weight, one in known),
        )
        for other, known in sorted(rates.items())
        if len(known) == len(estimates)
    ]
    return Sizes(size, unit, requests, tuple(merged))
