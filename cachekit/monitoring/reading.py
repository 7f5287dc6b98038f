"""Reads the figures of all processes that share a directory. Every total only grows, whichever of them ends.

The last figures of processes that ended are added to `ended.json`, under the lock of the directory. The file
names the records that it includes, so that a reader that ends between its two steps counts none twice.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, final

from cachekit.errors import TierUnavailableError
from cachekit.monitoring.families import COUNTERS, GAUGES
from cachekit.monitoring.folder import ENDED, FORMAT, OF_PROCESS, FiguresFolder
from cachekit.monitoring.snapshot import Numbers, added, merged
from cachekit.monitoring.wanted import INTERVAL, LONGEST, user_directory
from cachekit.monitoring.watching import publish_here

_FIRST: Final = 1.5 * INTERVAL  # seconds until all processes have published for the first time
_PATIENCE: Final = 5.0  # seconds that a reader waits for others
_STATUS: Final = ("healthy", "warning", "critical")  # the worst one last
_TEXT: Final = 500  # characters of a text in a record
_REASONS: Final = 10
_MOST: Final = 2.0**63  # a figure beyond it is damage


class Reason(NamedTuple):
    """Why a process is not healthy; see `cachekit.health.Reason`."""

    status: str
    tier: str
    message: str
    remedy: str

    def as_dict(self) -> dict[str, Any]:
        """Return its fields by name."""
        return self._asdict()


class Process(NamedTuple):
    """The figures of one process that lives."""

    id: str
    program: str
    pid: int  #: in its own container, if it runs in one
    started: float  #: seconds since the epoch
    written: float  #: when these figures were written
    caches: int
    counters: Numbers
    gauges: Numbers
    status: str
    reasons: tuple[Reason, ...]


class HostFigures(NamedTuple):
    """The figures of all processes of a host that share a directory."""

    counters: Numbers  #: of those that ended, too
    gauges: Numbers  #: of those that live
    processes: tuple[Process, ...]  #: that live, the oldest first
    ended: int  #: how many processes have ended

    @property
    def status(self) -> str:
        """Return the worst status of a process."""
        return max([process.status for process in self.processes], key=_STATUS.index, default="healthy")

    def has(self, tier: str) -> bool:
        """Return whether a cache has, or had, this tier."""
        return f"entries/{tier}" in self.gauges or f"sets/{tier}" in self.counters


@final
class HostReader:
    """Reads the figures of all processes that share a directory, and makes them publish until then.

    Args:
        path: the directory of a cache; None for the caches of this user without files.
        seconds: how long the processes publish after a read, at most 120 (the default).
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, seconds: float = LONGEST) -> None:
        self._seconds = min(seconds, LONGEST)
        self.path = os.path.abspath(os.fspath(path)) if path is not None else user_directory()
        self._makes_above = path is None
        self._complete = 0.0

    def begin(self) -> FiguresFolder:
        """Have the processes publish from now on, so that the first read waits less.

        Raises:
            TierUnavailableError: the directory cannot be used.
        """
        try:
            folder = FiguresFolder.open(self.path, make=True, make_above=self._makes_above)
            if not folder.want(self._seconds):
                self._complete = time.monotonic() + _FIRST
        except OSError as error:
            raise TierUnavailableError(
                f"the figures in {self.path} cannot be read: {error.strerror or error}"
            ) from error
        return folder

    def read(self) -> HostFigures:
        """Return the figures; the first read waits until every process has published.

        Raises:
            TierUnavailableError: the directory cannot be used, or another reader keeps it for 5 s.
        """
        folder = self.begin()
        wait = self._complete - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        publish_here(self.path)
        try:
            with folder.locked(_PATIENCE) as is_mine:
                if not is_mine:
                    raise TierUnavailableError(
                        f"another reader has kept the figures in {self.path} for {_PATIENCE:.0f} s"
                    )
                return _read(folder)
        except OSError as error:
            raise TierUnavailableError(
                f"the figures in {self.path} cannot be read: {error.strerror or error}"
            ) from error


def _read(folder: FiguresFolder) -> HostFigures:
    matches = [OF_PROCESS.fullmatch(name) for name in folder.names()]
    ids = sorted({match[1] for match in matches if match is not None})
    alive = [one for one in ids if folder.is_alive(one)]
    ended = folder.read(ENDED) or {}
    counters = _numbers(ended.get("counters"), COUNTERS)
    count = _number(ended.get("processes")) or 0
    gone = set(ids) - set(alive)
    if gone:
        before = ended.get("includes")
        includes = {one for one in before if isinstance(one, str)} if isinstance(before, list) else set()
        records = [record for one in sorted(gone - includes) if (record := folder.read(f"{one}.json"))]
        counters = added([counters, *[_numbers(record.get("counters"), COUNTERS) for record in records]])
        count += len(records)
        written = {"format": FORMAT, "processes": count, "counters": counters, "includes": sorted(gone)}
        folder.replace(ENDED, json.dumps(written).encode())
        for one in gone:
            for end in (".json.new", ".json", ".lock"):
                folder.remove(one + end)
    found = [_process(one, record) for one in alive if (record := folder.read(f"{one}.json"))]
    processes = sorted(found, key=lambda process: process.started)
    newest_last = sorted(processes, key=lambda process: process.written)
    return HostFigures(
        added([counters, *[process.counters for process in processes]]),
        merged(process.gauges for process in newest_last),
        tuple(processes),
        int(count),
    )


def _process(process: str, record: Mapping[str, Any]) -> Process:
    health = record.get("health")
    health = health if isinstance(health, dict) else {}
    listed = health.get("reasons")
    reasons = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    status = health.get("status")
    return Process(
        process,
        _text(record.get("program")),
        int(_number(record.get("pid")) or 0),
        _number(record.get("started")) or 0.0,
        _number(record.get("written")) or 0.0,
        int(_number(record.get("caches")) or 0),
        _numbers(record.get("counters"), COUNTERS),
        _numbers(record.get("gauges"), GAUGES),
        status if status in _STATUS else "healthy",
        tuple(
            Reason(*[_text(one.get(name)) for name in ("status", "tier", "message", "remedy")])
            for one in reasons[:_REASONS]
        ),
    )


def _text(value: object) -> str:
    return value[:_TEXT] if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if 0 <= value <= _MOST and not math.isnan(value) else None


def _numbers(value: object, known: Mapping[str, object] | frozenset[str]) -> Numbers:
    if not isinstance(value, dict):
        return {}
    numbers = {key: _number(number) for key, number in value.items() if key in known}
    return {key: number for key, number in numbers.items() if number is not None}
