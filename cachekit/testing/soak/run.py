"""Soak: rounds of mixed work by several processes, with kills and outages. Each history is checked."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterable, Sequence
from math import isfinite
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self, cast, final, get_args

from cachekit import RedisCache
from cachekit.testing.history import Operation, violations
from cachekit.testing.history_log import logged
from cachekit.testing.processes import fork
from cachekit.testing.soak.proxy import OutageKind, Proxy
from cachekit.testing.soak.stalls import NO_STALL, Stall
from cachekit.testing.soak.worker import Figures, Kind, Order, Place, Report, resident_bytes, run
from cachekit.tiers.file.engine.check import STATES, Inspection
from cachekit.tiers.file.engine.engine import MOST_LOCATIONS

_PROCESSES: Final = 3
_ROUND: Final = 2.0  # seconds of a round, at most
_FEWEST_ROUNDS: Final = 6
_PATIENCE: Final = 120.0  # seconds in which a process must end a round
_OUTAGE: Final = 0.4  # seconds of an outage at most, longer than the timeout of a call
_LATE: Final = 0.1  # seconds by which a value may outlive its TTL, for the time of a call
_MOST_SHOWN: Final = 10

#: What a process may hold more at the end: a constant, and so much for an operation.
_SLACK_BLOCKS: Final = (5_000, 0.01)
#: What the file engine's table of locations takes: five objects for each. It fills, and is emptied when full.
_LOCATIONS: Final = 5 * MOST_LOCATIONS
_SLACK_BYTES: Final = (24 << 20, 16.0)
_SLACK_DESCRIPTORS: Final = 4
_SLACK_THREADS: Final = 2

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


class Growth(NamedTuple):
    """What a process that was never killed held more at the end than after its first rounds."""

    operations: int  #: in between
    blocks: int
    resident: int | None
    descriptors: int | None
    threads: int
    last: Figures
    tables: int  #: blocks that tables may take which fill, and are emptied when full

    def problems(self) -> list[str]:
        """Return what grew beyond its bound, in words."""
        found = []
        if self.blocks > self.tables + _SLACK_BLOCKS[0] + _SLACK_BLOCKS[1] * self.operations:
            found.append(f"{self.blocks:,} objects more after {self.operations:,} operations")
        if (self.resident or 0) > _SLACK_BYTES[0] + _SLACK_BYTES[1] * self.operations:
            found.append(f"{self.resident:,} bytes more after {self.operations:,} operations")
        if (self.descriptors or 0) > _SLACK_DESCRIPTORS:
            found.append(f"{self.descriptors} descriptors more")
        if self.threads > _SLACK_THREADS:
            found.append(f"{self.threads} threads more")
        return found


class SoakReport(NamedTuple):
    """The results. `problems` is empty if the place is qualified."""

    seconds: float
    rounds: int
    operations: int
    checked: int  #: reads and writes that the checker has explained, or has not
    kills: int
    outages: int
    loops: int  #: event loops that ended
    wrong: list[str]
    exceptions: int
    tracebacks: list[str]
    growth: Growth | None  #: None if the run was too short
    peak: int | None  #: bytes of memory of all processes that are no file's
    stall: Stall
    collection: float  #: seconds of the longest garbage collection

    def problems(self) -> list[str]:
        """Return what must not be, in words."""
        found = []
        if self.wrong:
            found.append(f"{len(self.wrong):,} wrong answers")
        if self.exceptions:
            found.append(f"{self.exceptions:,} exceptions")
        return found + (self.growth.problems() if self.growth is not None else [])


@final
class Soak:
    """Processes that use one cache hard, and a check of all that they saw. A context manager; `run` once.

    Args:
        kind: `memory`, `files`, `redis`, `asyncio` or `disk`.
        target: The URL of the server for `redis`, the directory for `disk`. The others have none.
        seconds: How long to work.
        seed: The seed of what happens when. The rest depends on the machine.

    Files are made in a new directory, in `target` or in that for temporary files, and removed. Keys on a
    server have a prefix of their own, and are removed. Outages are made between the caches and the server,
    so that its other clients notice none. For that its URL must begin with `redis://`.

    Raises:
        ValueError: an argument that does not fit.
        OSError: the directory cannot be used.
    """

    def __init__(
        self, kind: Kind, target: str | None = None, *, seconds: float = 60.0, seed: int = 0
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
        if (target is not None) != (kind in ("redis", "disk")):
            needs = {"redis": "the URL of a server", "disk": "a directory"}.get(kind, "no target")
            raise ValueError(f"{kind} needs {needs}, not {target!r}")
        if not (isfinite(seconds) and seconds > 0):
            raise ValueError(f"seconds must be a finite number above 0, not {seconds!r}")
        self._kind = kind
        self._seconds = seconds
        self._random = random.Random(seed)
        self._logs = Path(tempfile.mkdtemp(prefix="cachekit-soak-"))
        self._proxy: Proxy | None = None
        self._server: str | None = None
        try:
            self._place = self._prepare(target)
        except BaseException:
            self.close()
            raise
        self._workers: list[_Process] = []
        self._lives = self._kills = self._outages = self._loops = 0
        self._operations = self._checked = self._exceptions = 0
        self._wrong: list[str] = []
        self._tracebacks: list[str] = []
        self._figures: list[tuple[int, Figures]] = []  # of the process that is never killed
        self._first_operations = 0
        self._peak: int | None = None
        self._stall, self._collection = NO_STALL, 0.0

    def _prepare(self, target: str | None) -> Place:
        directory = url = None
        if self._kind in ("files", "asyncio"):
            directory = str(self._logs / "cache")
        elif self._kind == "disk":
            directory = tempfile.mkdtemp(prefix="cachekit-soak-", dir=target)
        elif self._kind == "redis":
            url = self._server = cast("str", target)
            if url.startswith("redis://"):
                self._proxy = Proxy(url)
                url = self._proxy.url
        return Place(self._kind, directory, url, f"cachekit-soak-{os.getpid()}-{time.time_ns():x}:")

    @property
    def makes_outages(self) -> bool:
        """Whether this run loses its server now and then."""
        return self._proxy is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes, and remove what they stored."""
        for worker in getattr(self, "_workers", []):
            worker.kill()
        if self._proxy is not None:
            self._proxy.close()
        place = getattr(self, "_place", None)
        if place is not None and place.kind == "disk" and place.directory is not None:
            shutil.rmtree(place.directory, ignore_errors=True)
        if place is not None and self._server is not None:
            with RedisCache(url=self._server, key_prefix=place.prefix) as cache:
                cache.clear()
        shutil.rmtree(self._logs, ignore_errors=True)

    # -- rounds ---------------------------------------------------------------------------------------

    def run(self) -> SoakReport:
        """Work for the time that was asked for, and return the results."""
        begun = time.monotonic()
        for _ in range(_PROCESSES):
            self._workers.append(self._start())
        length = min(_ROUND, self._seconds / _FEWEST_ROUNDS)
        number = 0
        before: Path | None = None
        while number < _FEWEST_ROUNDS or time.monotonic() - begun < self._seconds:
            logs = self._logs / f"round-{number}"
            logs.mkdir()
            self._work(Order("work", number, time.monotonic() + length, str(logs)), before)
            self._settle(Order("settle", number, 0.0, str(logs)))
            before = logs
            number += 1
        if before is not None:
            self._check(before)
        for worker in self._workers:
            worker.end()
        if self._place.directory is not None:
            self._wrong.extend(damage(self._place.directory))
        return SoakReport(
            time.monotonic() - begun, number, self._operations, self._checked, self._kills, self._outages,
            self._loops, self._wrong, self._exceptions, self._tracebacks,
            growth(self._figures, 0 if self._place.directory is None else _LOCATIONS), self._peak,
            self._stall, self._collection,
        )  # fmt: skip

    def _work(self, order: Order, before: Path | None) -> None:
        for worker in self._workers:
            worker.orders.send(order)
        left = order.until - time.monotonic()
        if self._proxy is not None and self._random.random() < 0.5 and left > 0:
            kind = cast("OutageKind", self._random.choice(get_args(OutageKind)))
            self._proxy.disturb(kind, self._random.uniform(0.1, min(_OUTAGE, max(0.1, left))))
            self._outages += 1
        if self._random.random() < 0.7 and left > 0:
            # A process may be killed anywhere in a call. The first one lives on, to be measured.
            time.sleep(self._random.uniform(0, left))
            victim = self._random.randrange(1, _PROCESSES)
            self._workers[victim].kill()
            self._kills += 1
            self._workers[victim] = self._start()
            self._workers[victim].orders.send(order)
        if before is not None:
            # While the processes work, but after the kill: on a slow machine this takes longer than they do.
            self._check(before)
        self._collect(order)
        resident = [resident_bytes(worker.process) for worker in self._workers]
        self._peak = max(self._peak or 0, sum(filter(None, resident))) or None

    def _settle(self, order: Order) -> None:
        for worker in self._workers:
            worker.orders.send(order)
        self._collect(order)

    def _collect(self, order: Order) -> None:
        """Add the reports of all processes. One that ended or hangs is a finding, and is replaced."""
        waiting = {worker.orders: worker for worker in self._workers}
        deadline = time.monotonic() + _PATIENCE
        while waiting:
            ready = wait(list(waiting), max(0.0, deadline - time.monotonic()))
            if not ready:
                break
            for one in ready:
                connection = cast("Connection", one)
                worker = waiting.pop(connection)
                try:
                    self._add(connection.recv(), worker)
                except EOFError:
                    self._replace(worker, f"process {worker.process} ended by itself, {worker.kill()}")
        for worker in waiting.values():
            self._replace(worker, f"process {worker.process} did not end its {order.task} in {_PATIENCE:g} s")

    def _replace(self, worker: _Process, finding: str) -> None:
        self._exceptions += 1
        self._tracebacks.append(finding)
        worker.kill()
        self._workers[self._workers.index(worker)] = self._start()

    def _add(self, report: Report, worker: _Process) -> None:
        self._operations += report.operations
        self._exceptions += report.exceptions
        self._loops += report.loops
        self._tracebacks.extend(report.tracebacks[: _MOST_SHOWN - len(self._tracebacks)])
        self._wrong += report.wrong
        if report.stall.seconds > self._stall.seconds:
            self._stall = report.stall
        self._collection = max(self._collection, report.collection)
        if worker is self._workers[0]:
            self._first_operations += report.operations
            if report.figures is not None:
                self._figures.append((self._first_operations, report.figures))

    def _check(self, logs: Path) -> None:
        history = list(logged(logs))
        checked = len(history)
        self._checked += checked
        self._wrong.extend(violations(history))
        self._wrong.extend(expired(history))
        shutil.rmtree(logs)

    def _start(self) -> _Process:
        self._lives += 1
        return _Process(self._place, self._lives, [worker.orders for worker in self._workers])


@final
class _Process:
    """A process, and the pipe to it."""

    def __init__(self, place: Place, life: int, others: Iterable[Connection]) -> None:
        self.orders, theirs = Pipe()
        self.process = fork()
        self._status: int | None = None
        if not self.process:
            for one in (self.orders, *others):
                one.close()
            run(place, life, theirs)
        theirs.close()

    def end(self) -> None:
        """Let it close its cache and end."""
        self.orders.send(None)
        self._wait()
        self.orders.close()

    def kill(self) -> str:
        """Kill it unless it has ended, and return how it ended."""
        if self._status is None:
            os.kill(self.process, signal.SIGKILL)
            self._wait()
            self.orders.close()
        assert self._status is not None
        return f"with status {self._status}"

    def _wait(self) -> None:
        _, status = os.waitpid(self.process, 0)
        self._status = os.waitstatus_to_exitcode(status)


# -- checks -------------------------------------------------------------------------------------------


def expired(history: Sequence[Operation]) -> list[str]:
    """Return reads of values that were over: the name of a value that expires ends with its milliseconds."""
    over: dict[bytes, float] = {}
    for one in history:
        if one.is_write and one.value is not None and b"~" in one.value:
            life = int(one.value.rpartition(b"~")[2]) / 1000
            over[one.value] = max(over.get(one.value, 0.0), one.end + life + _LATE)
    return [
        f"{one.key!r}: {one.value!r} was read after it expired"
        for one in history
        if not one.is_write and one.value in over and one.begin > over[one.value]
    ]


def growth(measured: Sequence[tuple[int, Figures]], tables: int) -> Growth | None:
    """Compare the least of the first rounds with the least of the last ones; the very first fills tables.

    Args:
        measured: the operations until the end of each round, and what was held then.
        tables: blocks that tables may take which take longer to fill.
    """
    third = len(measured) // 3
    if third < 2:
        return None
    early, late = measured[1 : third + 1], measured[-third:]

    def least(part: Sequence[tuple[int, Figures]], name: str) -> int | None:
        found = [getattr(figures, name) for _, figures in part]
        return None if None in found else min(found)

    def more(name: str) -> int | None:
        before, after = least(early, name), least(late, name)
        return None if before is None or after is None else after - before

    return Growth(
        late[0][0] - early[0][0], more("blocks") or 0, more("resident"), more("descriptors"),
        more("threads") or 0, measured[-1][1],
        tables,
    )  # fmt: skip


def damage(directory: str) -> list[str]:
    """Return what is damaged in a cache directory that no process uses."""
    inspection = Inspection(directory)
    found = [
        f"shard {part.number:02x}: {problem}" for part in inspection.parts() for problem in part.problems
    ]
    found += [
        f"shard {item.shard:02x}: {item.state}"
        for item in inspection.items(verify=True)
        if item.state not in STATES
    ]
    return found + [
        f"shard {number:02x}: its control block counts too little" for number in inspection.miscounted
    ]
