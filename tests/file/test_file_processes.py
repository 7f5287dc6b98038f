"""Several processes on one directory: histories, kills, stopped processes, forks, first opens."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import inside
import pytest
from file_checks import SMALL, check, disk_usage

from cachekit.errors import LockTimeoutError
from cachekit.testing import processes
from cachekit.testing.history import Operation, violations
from cachekit.testing.kills import KillLoop, KillReport, Store
from cachekit.testing.processes import fork, in_processes
from cachekit.tiers.file.engine import shard_lock
from cachekit.tiers.file.engine.control_block import GENERATION
from cachekit.tiers.file.engine.engine import Engine
from cachekit.tiers.file.engine.format import Geometry
from cachekit.tiers.file.engine.shard import Shard

ROOMY = replace(SMALL, limit=8 << 20)


def history_of(
    path: Path,
    processes: int,
    operations: int,
    geometry: Geometry,
    sizes: tuple[int, ...] = (20, 300, 700, 1500),
) -> list[Operation]:
    """What so many processes see that read, write and delete the same few keys."""
    Engine(path, geometry=geometry).close()

    def work(number: int) -> list[Operation]:
        random_ = random.Random(number)
        history = []
        with Engine(path, geometry=geometry) as engine:
            for step in range(operations):
                key = f"k{random_.randrange(4)}"
                action = random_.random()
                begin = time.monotonic()
                if action < 0.6:
                    found = engine.get(key)
                    history.append(
                        Operation(key, False, found.payload if found else None, begin, time.monotonic())
                    )
                elif action < 0.9:
                    value = (b"%d-%d|" % (number, step)).ljust(random_.choice(sizes), b"#")
                    engine.put(key, value)
                    history.append(Operation(key, True, value, begin, time.monotonic()))
                else:
                    engine.delete(key)
                    history.append(Operation(key, True, None, begin, time.monotonic()))
        return history

    return [one for history in in_processes(processes, work) for one in history]


def test_every_read_is_explained(tmp_path: Path) -> None:
    """Eight processes, with room for everything: nothing wrong, nothing old, nothing missing."""
    history = history_of(tmp_path, 8, 500, ROOMY)
    assert len(history) == 4000
    assert violations(history, evicts=False) == []
    with Engine(tmp_path, geometry=ROOMY) as engine:
        check(engine)


def test_every_read_is_explained_under_eviction(tmp_path: Path) -> None:
    """The same in a directory that is full all the time, while another process fills it."""
    history = history_of(tmp_path, 4, 400, SMALL, (20, 700, 1000, 9000))
    assert violations(history) == []
    with Engine(tmp_path, geometry=SMALL) as engine:
        check(engine)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_long_history_is_explained(tmp_path: Path) -> None:
    """Eight processes, 200,000 operations."""
    assert violations(history_of(tmp_path, 8, 25_000, ROOMY), evicts=False) == []


def without_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_lock, "flock", lambda *_: None)


def without_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(self: Shard, hashed: int, key: bytes, now: float) -> Any:
        index = self.files.index
        if index.generation != self.words[GENERATION]:
            index = self.reopen()
        at = index.find(hashed)
        b = index.slots[at + 1] if at >= 0 else 0
        for _ in range(20):
            os.sched_yield()  # others get their turn where it matters
        return self.read(index.segments, b, key) if b else None

    monkeypatch.setattr(Shard, "get", give_up)


def without_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither crc nor key: what is there is believed."""
    from cachekit.tiers.file.engine.format import HEADER, TAG, Record

    def believe(self: Shard, segments: Any, b: int, key: bytes) -> Any:
        content, offset = segments.load(b >> 37, b >> 15 & ((1 << 17) - 1) << 5, 1 << 30)
        if not content:
            return None
        _, payload, key_length, names, flags, tags, made, expiry, stale, _, rt = HEADER.unpack_from(
            content, offset
        )
        end = HEADER.size + TAG.size * tags + key_length
        start = end + names
        copy = content[offset : offset + start + payload]
        return Record(copy, end, start, start + payload, flags, made, expiry, stale, rt, ())

    without_lock(monkeypatch)
    monkeypatch.setattr(Shard, "read", believe)


@pytest.mark.parametrize("sabotage", [without_lock, without_retry, without_checks])
def test_a_broken_engine_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sabotage: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """The history of an engine without lock, retry or checks is not explained, or it does not even end."""
    sabotage(monkeypatch)
    for attempt in range(40):
        try:
            history = history_of(tmp_path / str(attempt), 4, 400, ROOMY, (900, 1000))
        except AssertionError:
            assert sabotage is not without_retry, "it should only miss"
            return
        if violations(history, evicts=False):
            return
    raise AssertionError("the checker saw nothing")


def test_concurrent_first_open(tmp_path: Path) -> None:
    """Eight processes make the same directory at once, and agree on it."""

    def work(number: int) -> list[str]:
        with Engine(tmp_path / "new", 4 << 20) as engine:
            engine.put(f"k{number}", b"%d" % number)
        return [str(engine.geometry), hex(engine._hash_of(b"k"))]

    answers = in_processes(8, work)
    assert len(set(map(tuple, answers))) == 1
    with Engine(tmp_path / "new", 4 << 20) as engine:
        for number in range(8):
            found = engine.get(f"k{number}")
            assert found is not None
            assert found.payload == b"%d" % number
        check(engine)


class EngineStore:
    """An engine as the kill loop wants it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def read(self, key: str) -> bytes | None:
        found = self._engine.get(key)
        return None if found is None else found.payload

    def write(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._engine.delete(key)
        else:
            self._engine.put(key, value)


def kill_loop(path: Path, kills: int, workers: int, geometry: Geometry, evicts: bool) -> KillReport:
    @contextmanager
    def open_store() -> Iterator[Store]:
        with Engine(path, geometry=geometry) as engine:
            yield EngineStore(engine)

    report = KillLoop(open_store, workers, evicts).run(kills)
    with Engine(path, geometry=geometry) as engine:
        check(engine, exact=False)
        for shard in inside.shards(engine):
            # Nothing leaks: all that is on disk is named by the table, and every segment has an entry.
            assert all(live or number for number, _, live in shard.files.table.entries())
    return report


def assert_clean(report: KillReport, kills: int) -> None:
    assert report.errors == []
    assert (report.kills, report.wrong, report.lost, report.stuck, report.unreadable) == (kills, 0, 0, 0, 0)


#: Room for all that the loop writes, but rolls, growth and large values all the time.
KILLED = Geometry(limit=32 << 20, shards=2, segment=64 << 10, buckets=64, tag_buckets=64, capacity=8)


def test_kills(tmp_path: Path) -> None:
    """SIGKILL at any moment loses nothing but the write in flight, and locks nobody out."""
    assert_clean(kill_loop(tmp_path, 12, 4, KILLED, evicts=False), 12)


def test_kills_under_eviction(tmp_path: Path) -> None:
    """The same while reclaim is at work all the time."""
    geometry = replace(KILLED, limit=2 << 20)
    assert_clean(kill_loop(tmp_path, 8, 4, geometry, evicts=True), 8)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("evicts", [False, True])
def test_many_kills(tmp_path: Path, evicts: bool) -> None:
    """1,000 kills over 8 processes."""
    geometry = replace(KILLED, limit=3 << 20) if evicts else KILLED
    report = kill_loop(tmp_path, 1000, 8, geometry, evicts)
    print(report)
    assert_clean(report, 1000)


def test_the_kill_loop_sees_what_is_wrong(tmp_path: Path) -> None:
    """A store that loses, mixes up or cannot be opened is reported."""

    class Broken(EngineStore):
        def read(self, key: str) -> bytes | None:
            found = super().read(key)
            if key.endswith(":3"):
                return None
            return found[:-1] if found and key.endswith(":5") else found

    parent = os.getpid()

    @contextmanager
    def open_store() -> Iterator[Store]:
        with Engine(tmp_path, geometry=KILLED) as engine:
            yield Broken(engine) if os.getpid() == parent else EngineStore(engine)

    report = KillLoop(open_store, 2).run(12)
    assert report.lost
    assert report.wrong

    @contextmanager
    def locked_out() -> Iterator[Store]:
        if os.getpid() == parent:
            raise OSError("cannot be opened")
        with open_store() as store:
            yield store

    assert KillLoop(locked_out, 2).run(2).unreadable == 2


@contextmanager
def stopped_holder(path: Path) -> Iterator[None]:
    """A process that was stopped while it held the lock of the only shard."""
    holds, says = os.pipe()
    child = fork()
    if not child:
        try:
            with Engine(path, geometry=SMALL) as engine:

                def hold() -> None:
                    os.write(says, b"x")
                    signal.pause()

                inside.shard(engine).lock.run(hold)
        finally:
            os._exit(1)
    try:
        assert os.read(holds, 1) == b"x"
        os.kill(child, signal.SIGSTOP)
        os.waitid(os.P_PID, child, os.WSTOPPED | os.WNOWAIT)
        yield
    finally:
        os.close(holds)
        os.close(says)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_stopped_holder_holds_nobody_beyond_the_deadline(tmp_path: Path) -> None:
    """Readers read on; a writer gets an error that says so; once the holder is dead, it writes."""
    with Engine(tmp_path, geometry=SMALL, patience=0.05) as engine:
        engine.put("k", b"v")
        token = engine.token("k")
        with stopped_holder(tmp_path):
            assert engine.get("k") is not None
            assert engine.get("other") is None
            for write in (
                lambda: engine.put("k", b"w"),
                lambda: engine.delete("k"),
                lambda: engine.add("other", b"w", engine.token("other")),
                engine.clear,
            ):
                with pytest.raises(LockTimeoutError, match=r"0\.05 s"):
                    write()
            assert engine.token("k") == token, "what was refused changed nothing"
        assert engine.put("k", b"w")


def test_fork_in_parent_and_child(tmp_path: Path) -> None:
    """An engine that came along through a fork works on both sides, and their locks exclude each other."""
    with Engine(tmp_path, geometry=ROOMY) as engine:
        engine.put("before", b"v")

        def work(number: int) -> list[int]:
            tokens = []
            for step in range(300):
                token = engine.put(f"k{step % 5}", b"%d-%d" % (number, step) * 20)
                assert token is not None
                tokens.append(token)
                engine.put(f"{number}:{step}", b"mine")
                assert engine.get("before") is not None
            return tokens

        tokens = [token for answer in in_processes(4, work) for token in answer]
        assert len(set(tokens)) == len(tokens), "two processes drew the same token"
        assert all(engine.get(f"{number}:{step}") for number in range(4) for step in range(300))
        engine.put("after", b"v")
        check(engine)


def test_fork_while_threads_write(tmp_path: Path) -> None:
    """The child of a process with busy threads has no lock that is held for ever."""
    import threading

    with Engine(tmp_path, geometry=ROOMY) as engine:
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                engine.put("busy", b"v" * 100)

        threads = [threading.Thread(target=write) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            answers = in_processes(5, lambda number: engine.put(f"{number}", b"child") is not None)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert answers == [True] * 5
        assert all(engine.get(f"{number}") for number in range(5))
        check(engine)


def test_the_limit_holds_under_churn(tmp_path: Path) -> None:
    """`du` stays within the limit while four processes write values of all sizes, over and over."""
    geometry = Geometry.for_limit(2 << 20)

    def work(number: int) -> int:
        random_ = random.Random(number)
        most = 0
        with Engine(tmp_path, geometry=geometry) as engine:
            for step in range(1200):
                size = random_.choice([10, 200, 2000, 20_000, 60_000])
                engine.put(f"{random_.randrange(400)}", bytes([number]) * size)
                if step % 7 == 0:
                    engine.delete(f"{random_.randrange(400)}")
                if step % 20 == 0:
                    most = max(most, disk_usage(tmp_path))
        return most

    assert max(in_processes(4, work)) <= 2 << 20
    with Engine(tmp_path, geometry=geometry) as engine:
        check(engine)
        assert engine.stats().entries > 10


def test_processes_bring_errors_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that raises, or dies, is no silent success; and none is left."""
    children: list[int] = []

    def noted() -> int:
        children.append(fork())
        return children[-1]

    monkeypatch.setattr(processes, "fork", noted)
    assert in_processes(3, lambda number: number * 2) == [0, 2, 4]
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        in_processes(2, lambda number: 1 // number)
    with pytest.raises(AssertionError, match="process 1 died"):
        in_processes(2, lambda number: os._exit(1) if number else 0)
    assert len(children) == 7
    for child in children:  # and not of all: a server that other tests share is a child too
        with pytest.raises(ChildProcessError):
            os.waitpid(child, os.WNOHANG)
