"""Tiers that fail, a server that freezes, processes that die, clocks that jump, all under load; then quiet.

Two hosts, that is two directories and two clocks, share one server. While it lasts no exception reaches a
caller, and nothing that is over is served; when it is quiet everybody agrees, and the figures add up.
Beyond the model: everything at once, statistics, and errors that no step of the protocol has.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from chaos_load import (
    CALLS,
    EXCEPTIONS,
    FAULTS,
    KEYS,
    OUTAGES,
    SLEEPS,
    STEP,
    THREADS,
    WRONG,
    Answer,
    Assignment,
    Board,
    Value,
    clock_of,
    complaints,
    expired,
    is_expired,
    main,
    note_late,
)
from file_checks import check
from redis_server import RedisServer, wait_until

from cachekit.testing.clock import JumpingClock
from cachekit.tiers.file.engine.engine import Engine

#: Seconds; the clock of a host is never further from the truth.
_FURTHEST = 900.0


class Chaos(NamedTuple):
    """What one run was, and what its callers met."""

    calls: int
    faults: int  #: that were made in tiers of workers
    outages: int  #: that the workers which lived to the end had seen
    blows: dict[str, int]
    exceptions: int
    wrong: int
    expired: list[Answer]
    longest: float  #: seconds of the call that took longest, but for those of processes that were stopped
    seconds: float


class Worker:
    """A process, and the pipe to it."""

    def __init__(self, own: Assignment, how: str, loaded: bool) -> None:
        self.own = own
        context: Any = multiprocessing.get_context(how)
        self.pipe: Connection
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=main, args=(own, theirs, loaded), daemon=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a fork, where other tests left threads
            self.process.start()
        theirs.close()

    def hear(self) -> Any:
        assert self.pipe.poll(120), f"worker {self.own} says nothing"
        return self.pipe.recv()

    def ask(self, *question: Any) -> Any:
        self.pipe.send(question)
        return self.hear()

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def end(self) -> None:
        self.pipe.send(("end",))
        self.process.join(120)
        assert self.process.exitcode == 0
        self.pipe.close()


class Run:
    """One run of it: workers of two hosts, and what befalls them."""

    def __init__(self, path: Path, server: RedisServer, of_each: int, seed: int) -> None:
        self._path = path
        self._server = server
        self._random = random.Random(seed)
        self._lives = 0
        slots = 2 * of_each
        self._board = Board(path / "board", slots)
        self._slots = range(slots)
        self._clocks = [clock_of(path, host) for host in range(2)]
        self._off = [0.0, 0.0]
        self.workers: list[Worker] = []
        self.blows: dict[str, int] = {}

    def begin(self) -> None:
        for slot in self._slots:
            self.workers.append(self._start(slot, "fork" if slot % 2 else "spawn"))
        for worker in self.workers:
            assert worker.hear() == "ready"

    def _start(self, slot: int, how: str, host: int | None = None, loaded: bool = True) -> Worker:
        self._lives += 1
        host = slot % 2 if host is None else host
        return Worker(Assignment(slot, self._lives, host, self._path, self._server.url), how, loaded)

    # -- blows --------------------------------------------------------------------------------------

    def blow(self, kind: Callable[[Run], None]) -> None:
        """Have something happen, and let all of them work on."""
        kind(self)
        name = kind.__name__
        self.blows[name] = self.blows.get(name, 0) + 1
        self._let_work(self._random.randrange(5, 60))

    def _let_work(self, calls: int, host: int | None = None) -> None:
        """Wait until each worker, or each one of a host, has done so many calls more."""
        goals = {
            slot: self._board.total(CALLS, range(slot, slot + 1)) + calls
            for slot in self._slots
            if host in (None, slot % 2)
        }
        wait_until(
            lambda: all(
                self._board.total(CALLS, range(slot, slot + 1)) >= goal for slot, goal in goals.items()
            ),
            "everybody gets on",
        )

    def freeze(self) -> None:
        """The server hangs."""
        with self._server.frozen():
            self._let_work(self._random.randrange(10, 50))

    def restart(self) -> None:
        """The server dies, and comes back empty."""
        self._server.kill()
        self._let_work(self._random.randrange(10, 50))
        assert self._server.start()

    def kill(self) -> None:
        """A worker dies, anywhere in what it does; another one takes its place."""
        slot = self._random.choice(self._slots)
        self.workers[slot].kill()
        for thread in range(THREADS):  # what it was about to keep it has kept by now
            step = (self.workers[slot].own.life, thread, self._board.row(slot, thread)[STEP])
            note_late(self._path, step, time.monotonic())
        self.workers[slot] = self._start(slot, self._random.choice(("fork", "fork", "spawn")))
        assert self.workers[slot].hear() == "ready"

    def jump(self) -> None:
        """The wall clock of a host is set, forward or back."""
        self._jump(self._random.randrange(2), self._random.choice((-1, 1)) * self._random.uniform(20, 600))

    def _jump(self, host: int, seconds: float) -> None:
        if abs(self._off[host] + seconds) > _FURTHEST:
            seconds = -seconds
        self._off[host] += seconds
        self._clocks[host].jump(seconds)

    def suspend(self) -> None:
        """A host sleeps: its processes stop, the other host goes on, the wall clock has moved."""
        host = self._random.randrange(2)
        sleepers = [worker for worker in self.workers if worker.own.host == host]
        sleeping = [self._board.row(worker.own.slot, THREADS) for worker in sleepers]
        for row in sleeping:
            row[SLEEPS] += 1
        for worker in sleepers:
            worker.signal(signal.SIGSTOP)
        self._jump(host, self._random.uniform(20, 600))
        self._let_work(20, 1 - host)
        for worker in sleepers:
            worker.signal(signal.SIGCONT)
        for row in sleeping:
            row[SLEEPS] += 1

    # -- quiet --------------------------------------------------------------------------------------

    def calm(self) -> None:
        """All clocks are right again, and nothing fails; every process accounts for what it counted."""
        for clock, off in zip(self._clocks, self._off, strict=True):
            clock.jump(-off)
        for worker in self.workers:
            worker.pipe.send(("quiet",))
        for worker in self.workers:
            assert worker.hear() == []
        # And processes that were never there before, which find only what lower tiers have.
        fresh = [self._start(0, "spawn", host, loaded=False) for host in range(2)]
        for worker in fresh:
            assert worker.hear() == "ready"
        self.workers += fresh

    def agree(self) -> None:
        """Everybody reads the same, once the bus is silent; what ends between two looks is no matter."""

        def agreed() -> bool:
            first, *others = self._ask_all("read")
            return all(answer == first for answer in others)

        wait_until(agreed, "they agree")

    def _ask_all(self, *question: Any) -> list[Any]:
        for worker in self.workers:
            worker.pipe.send(question)
        return [worker.hear() for worker in self.workers]

    def see_last_writes(self) -> None:
        """A write is seen at once by all processes of the host, and soon by the others."""
        for key in KEYS:
            writer = self._random.choice(self.workers)
            last = Value(key, writer.own.host, time.monotonic(), 7200.0, (0, 0, 0))
            assert writer.ask("write", key, last, 7200.0) is True
            for worker in self.workers:
                if worker.own.host == writer.own.host:
                    assert worker.ask("read")[key] == last
            wait_until(lambda: all(answer[key] == last for answer in self._ask_all("read")), "all see it")  # noqa: B023

    def miss_last_writes(self) -> None:
        """What a tier missed it is told when it is back: no process is served what was there before."""
        for key, without in zip(KEYS[:4], itertools.cycle(("redis", "file"))):
            writer = self._random.choice(self.workers)
            last = Value(key, writer.own.host, time.monotonic(), 7200.0, (0, 0, 1))
            assert writer.ask(f"write without {without}", key, last, 7200.0) is False
            wait_until(
                lambda: all(answer[key] in (last, None) for answer in self._ask_all("read")),  # noqa: B023
                "all see that something was written",
            )
        self.agree()

    def end(self) -> None:
        """The directories are whole, and can be opened and written."""
        for worker in self.workers:
            worker.end()
        self.workers.clear()
        for host, clock in enumerate(self._clocks):
            with Engine(self._path / f"host{host}", 16 << 20, clock=clock) as engine:
                check(engine, exact=False)
                for key in KEYS:
                    assert engine.put(key, b"whole")
                    found = engine.get(key)
                    assert found is not None
                    assert found.payload == b"whole"

    def abort(self) -> None:
        for worker in self.workers:
            worker.kill()

    def seen(self, seconds: float) -> Chaos:
        total = self._board.total
        return Chaos(
            total(CALLS), total(FAULTS), total(OUTAGES), self.blows, total(EXCEPTIONS), total(WRONG),
            expired(self._path, self._clocks), self._board.longest(), seconds,
        )  # fmt: skip


BLOWS: list[Callable[[Run], None]] = [Run.freeze, Run.kill, Run.jump, Run.suspend, Run.restart]


def chaos(path: Path, server: RedisServer, of_each: int, blows: list[Callable[[Run], None]]) -> Chaos:
    """Let so many processes of each host work while all that comes over them, and judge."""
    begun = time.monotonic()
    run = Run(path, server, of_each, len(blows))
    try:
        run.begin()
        for blow in blows:
            run.blow(blow)
        run.calm()
        run.agree()
        run.see_last_writes()
        run.miss_last_writes()
        run.end()
    finally:
        run.abort()
        for complaint in complaints(path)[:10]:
            print(complaint)
    assert complaints(path) == []
    return run.seen(time.monotonic() - begun)


def assert_clean(seen: Chaos) -> None:
    assert (seen.exceptions, seen.wrong, seen.expired) == (0, 0, [])


def test_chaos(tmp_path: Path, server: RedisServer) -> None:
    """Everything that can happen, once."""
    seen = chaos(tmp_path, server, 2, BLOWS)
    assert_clean(seen)
    assert seen.calls > 100


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_chaos_for_long(tmp_path: Path, server: RedisServer) -> None:
    """Prints what came over them, and what the worst call took."""
    random_ = random.Random(0)
    blows = random_.choices(BLOWS, (2, 4, 4, 2, 1), k=300)
    seen = chaos(tmp_path, server, 4, blows)
    print(seen)
    assert_clean(seen)


def test_what_is_over_is_told_from_what_is_not(tmp_path: Path) -> None:
    """The judge of the chaos: by the clock of the process that answers, jumps and all."""
    here, there = JumpingClock(tmp_path / "here"), JumpingClock(tmp_path / "there")
    clocks = [here, there]
    now = time.monotonic()
    value = Value("k", 0, now, 10.0, (0, 0, 0))

    def is_over(host: int, after: float, kept: float | None = None) -> bool:
        return is_expired(Answer(value, host, now + after, now + after), clocks, kept)

    assert [is_over(0, after) for after in (0, 9, 10.4, 10.6)] == [False, False, False, True]
    assert [is_over(1, after) for after in (0, 9, 10.4, 10.6)] == [False, False, False, True]
    assert [is_over(1, after, kept=now + 3) for after in (10.6, 12.9, 13.1)] == [False, False, True]
    there.jump(-100)  # a copy that it makes from now on has its TTL, as long as its clock lets it
    assert [is_over(1, after) for after in (10.6, 100, 112)] == [False, False, True]
    assert [is_over(0, after) for after in (10.4, 10.6)] == [False, True]
    here.jump(1000)  # a copy in memory, made before, still has its life; and what is made may be dated now
    assert is_over(0, 5) is False
    older = value._replace(made=now - 100)
    assert is_expired(Answer(older, 0, now, now), clocks)
