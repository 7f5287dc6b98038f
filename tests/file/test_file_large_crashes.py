"""Writers of large records that die at any moment: what they leave is consistent, and upkeep removes it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import inside
import pytest
from file_checks import check, disk_usage
from large_values import LARGE, SIZE, Watching, large_files, payload_of, value

from cachekit.testing.faults import CrashError, StoppingEffects
from cachekit.testing.kills import KillLoop, KillReport, Store
from cachekit.testing.processes import fork
from cachekit.tiers.file.engine.control_block import ALONE
from cachekit.tiers.file.engine.engine import Engine
from cachekit.tiers.file.engine.format import Geometry

HISTORY = [
    *[(f"k{n}", value(n, 700)) for n in range(12)],
    ("large", value(1, 150_000)),
    ("other", value(2, 200_000)),
    ("large", value(3, 250_000)),
    *[(f"k{n}", value(n + 100, 700)) for n in range(4)],
    ("other", None),
    ("large", value(4, 100)),
    *[(f"more{n}", value(n, 300_000)) for n in range(7)],
]


def play(engine: Engine, done: Callable[[], object]) -> None:
    for key, payload in HISTORY:
        if payload is None:
            engine.delete(key)
        else:
            engine.put(key, payload)
        done()


def play_until_crash(path: Path, geometry: Geometry, allowed: int) -> int:
    """How many operations were finished."""
    finished: list[int] = []
    stopping = StoppingEffects(allowed, torn=0.5 if allowed % 2 else 0.0)
    with suppress(CrashError), Engine(path, geometry=geometry, effects=stopping) as engine:
        try:
            play(engine, lambda: finished.append(1))
        finally:
            for shard in inside.shards(engine):
                shard.files.aside.clear()  # with them go their locks
    return len(finished)


@pytest.mark.parametrize("stride", [41, pytest.param(1, marks=pytest.mark.soak)])
def test_a_crash_after_every_effect(tmp_path: Path, stride: int) -> None:
    """Finished operations are kept, the one in flight is done or undone, and upkeep removes what is left."""
    geometry = replace(LARGE, shards=4, limit=2 << 20)
    effects = StoppingEffects()
    with Engine(tmp_path / "whole", geometry=geometry, effects=effects) as engine:
        play(engine, lambda: None)
    assert effects.count > 300
    orphans = 0
    for allowed in range(0, effects.count, stride):
        path = tmp_path / f"{allowed}"
        steps = play_until_crash(path, geometry, allowed)
        with Engine(path, geometry=geometry) as engine:
            check(engine, exact=False)
            orphans += large_files(engine)
            engine.tick()
            check(engine, exact=False)
            before, after = dict(HISTORY[:steps]), dict(HISTORY[: steps + 1])
            there = {key for key in before if engine.get(key) is not None}
            named = sum(1 for key in there if len(payload_of(engine, key) or b"") > geometry.most_own)
            assert large_files(engine) <= named + 1
            for key in after:
                assert payload_of(engine, key) in (before.get(key), after.get(key), None)
                if not key.startswith(("more", "large", "other")) and before.get(key) == after.get(key):
                    assert payload_of(engine, key) is not None or steps > 17
            play(engine, lambda: None)
            check(engine, exact=False)
    assert orphans


@contextmanager
def orphan(path: Path) -> Iterator[Engine]:
    """A directory where a process died in the middle of writing a large record."""
    Engine(path, geometry=LARGE).close()
    child = fork()
    if not child:
        try:
            die = Watching(lambda: os.kill(os.getpid(), signal.SIGKILL))
            with Engine(path, geometry=LARGE, effects=die) as engine:
                engine.put("k", value(1))
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    with Engine(path, geometry=LARGE) as engine:
        assert large_files(engine) == 1
        assert engine.get("k") is None
        yield engine
        assert large_files(engine) == 0
        assert disk_usage(path) < SIZE
        check(engine, exact=False)


def test_upkeep_removes_what_a_kill_left(tmp_path: Path) -> None:
    """So do a repair, the removal of everything, a new segment, and a writer that needs the room."""
    with orphan(tmp_path / "tick") as engine:
        engine.tick()
    with orphan(tmp_path / "repair") as engine:
        engine.repair([])
    with orphan(tmp_path / "clear") as engine:
        engine.clear()
    with orphan(tmp_path / "roll") as engine:
        for number in range(300):
            engine.put(f"{number}", bytes(900))
        engine.clear()
    with orphan(tmp_path / "room") as engine:
        numbers = {number for _, number, _ in engine._large.files()}
        for number in range(8):
            engine.put(f"large{number}", value(number, 500_000))
        shard = engine.locate("k")[2]
        assert not numbers & {n for s, n, _ in engine._large.files() if s == shard.number}
        engine.clear()


def test_a_child_does_not_keep_the_file_of_a_dead_parent(tmp_path: Path) -> None:
    """A process that was forked while a thread wrote a large record has no part in it."""
    Engine(tmp_path, geometry=LARGE).close()
    reads, writes = os.pipe()
    parent = fork()
    if not parent:
        forked = threading.Event()

        def middle() -> None:
            may_fork.set()
            forked.wait(30)
            os.kill(os.getpid(), signal.SIGKILL)

        may_fork = threading.Event()
        try:
            with Engine(tmp_path, geometry=LARGE, effects=Watching(middle)) as engine:
                threading.Thread(target=engine.put, args=("k", value(1)), daemon=True).start()
                may_fork.wait(30)
                child = os.fork()
                if not child:
                    os.write(writes, str(os.getpid()).encode())
                    signal.pause()
                forked.set()
                signal.pause()
        finally:
            os._exit(1)
    child = int(os.read(reads, 20))
    try:
        _, status = os.waitpid(parent, 0)
        assert os.WIFSIGNALED(status)
        with Engine(tmp_path, geometry=LARGE) as engine:
            assert large_files(engine) == 1
            engine.tick()
            assert large_files(engine) == 0
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(reads)
        os.close(writes)


#: Room for all that the loop writes: 64 keys, of which every fifth is large.
KILLED = Geometry(limit=64 << 20, shards=16, segment=32 << 10, buckets=64, tag_buckets=64, capacity=8)
_TIMES = 30


class Repeating:
    """An engine that stores each value many times over, so that a fifth of them are large."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def read(self, key: str) -> bytes | None:
        found = payload_of(self._engine, key)
        if found is None:
            return None
        once = found[: len(found) // _TIMES]
        return once if found == once * _TIMES else b"torn|0|" + found

    def write(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._engine.delete(key)
        else:
            self._engine.put(key, value * _TIMES)


def kill_loop(path: Path, kills: int, workers: int, geometry: Geometry, evicts: bool) -> KillReport:
    @contextmanager
    def open_store() -> Iterator[Store]:
        with Engine(path, geometry=geometry) as engine:
            yield Repeating(engine)

    report = KillLoop(open_store, workers, evicts).run(kills)
    with Engine(path, geometry=geometry) as engine:
        check(engine, exact=False)
        engine.tick()
        check(engine, exact=False)
        for shard in inside.shards(engine):
            for number, size, live in shard.files.table.entries():
                assert not size & ALONE or (live and shard.files.slot_of_large(number) >= 0), "an orphan"
    return report


def assert_clean(report: KillReport, kills: int) -> None:
    assert report.errors == []
    assert (report.kills, report.wrong, report.lost, report.stuck, report.unreadable) == (kills, 0, 0, 0, 0)


@pytest.mark.parametrize("evicts", [False, True])
def test_kills(tmp_path: Path, evicts: bool) -> None:
    """SIGKILL at any moment loses nothing but the write in flight, and leaves no file."""
    geometry = replace(KILLED, limit=16 << 20) if evicts else KILLED
    assert_clean(kill_loop(tmp_path, 3, 4, geometry, evicts), 3)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("evicts", [False, True])
def test_many_kills(tmp_path: Path, evicts: bool) -> None:
    """1,000 kills over 8 processes."""
    geometry = replace(KILLED, limit=16 << 20) if evicts else replace(KILLED, limit=128 << 20)
    report = kill_loop(tmp_path, 1000, 8, geometry, evicts)
    print(report)
    assert_clean(report, 1000)
