"""The file tier called by finalizers and signal handlers in the middle of its own writes."""

from __future__ import annotations

import fcntl
import os
import threading
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import inside
import pytest
import traced
from file_checks import open_files
from racing import in_thread
from redis_server import wait_until
from tracing import at_line

from cachekit import CacheClosedError, FileCache
from cachekit.runtime.clock import SystemClock
from cachekit.testing.processes import fork
from cachekit.tiers.file.engine.engine import Engine
from cachekit.tiers.file.engine.file_ops import EFFECTS, FileOps
from cachekit.tiers.file.engine.segments import Segments
from cachekit.tiers.file.engine_registry import EngineRegistry, engines


def test_a_cache_is_collected_in_the_middle_of_a_write_while_another_thread_forks(tmp_path: Path) -> None:
    """The fork waits for the write, and the write for nothing."""
    cache = FileCache(tmp_path / "a", 1, cleanup_interval=None)
    forgotten = [FileCache(tmp_path / "b", 1, cleanup_interval=None)]
    descriptors = forgotten[0]._handle.engine._users.fd
    within = threading.Event()

    def engines_are_locked() -> bool:
        if engines.lock.acquire(blocking=False):
            engines.lock.release()
            return False
        return True

    def write() -> bool:
        within.set()
        wait_until(engines_are_locked, "the fork has the lock, and waits for the write")
        forgotten.clear()
        return True

    lock = inside.shard(inside.engine(cache)).lock
    writer = threading.Thread(target=lock.run, args=(write,))
    writer.start()
    assert within.wait(60)
    child = fork()
    if child == 0:
        os._exit(0 if not _is_open(descriptors) else 1)
    assert os.waitpid(child, 0)[1] == 0
    writer.join()
    assert not _is_open(descriptors), "the fork was to close what it kept the finalizer from"
    cache.close()


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


class _Interrupted(FileOps):
    """Something else happens in the middle of a write."""

    happens: Callable[[], object] | None = None

    def pwrite(self, fd: int, content: Any, offset: int) -> int:
        """Let it happen, once, then write."""
        happens, self.happens = self.happens, None
        if happens is not None:
            happens()
        return FileOps.pwrite(fd, content, offset)


def test_closed_in_the_middle_of_a_write(tmp_path: Path) -> None:
    """The write ends well, under its lock and in its own file; then the engine is closed."""
    effects = _Interrupted()
    engine = Engine(tmp_path, 1 << 20, effects=effects)
    engine.put("first", b"1")
    others: list[int] = []

    def close() -> None:
        engine.close()
        others.append(os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT))
        with open(tmp_path / "00" / "lock", "rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    effects.happens = close
    assert len(open_files(tmp_path)) > 1
    assert engine.put("second", b"2")
    with pytest.raises(CacheClosedError):
        engine.get("second")
    assert os.fstat(others[0]).st_size == 0, "a descriptor was given back too early"
    os.close(others[0])
    assert open_files(tmp_path) == []
    with Engine(tmp_path, 1 << 20) as engine:
        found = engine.get("second")
        assert found is not None
        assert found.payload == b"2"


class _StruckError(Exception):
    pass


def test_a_signal_handler_that_raises_while_an_engine_is_given_back(tmp_path: Path) -> None:
    """Wherever it strikes, the lock of the engines is free, and the directory can be opened and closed."""

    def strike() -> None:
        raise _StruckError

    def is_free(lock: Any) -> bool:
        if not lock.acquire(blocking=False):
            return False
        lock.release()
        return True

    number, came = 0, True
    while came:
        number += 1
        own, clock = EngineRegistry(), SystemClock()
        engine, _ = own.acquire(str(tmp_path), 1 << 20, clock, 5)
        try:
            came = at_line(number, traced.ENGINE_REGISTRY, strike, partial(own.release, engine))
        except _StruckError:
            pass
        assert in_thread(partial(is_free, own.lock))(), number
        own.release(own.acquire(str(tmp_path), 1 << 20, clock, 5)[0])
        assert not own._returned, number
        engine.close()
    assert number > 3


def test_a_signal_while_a_directory_is_opened(tmp_path: Path) -> None:
    """At no step does its exception leave a descriptor open."""

    def strike() -> None:
        raise _StruckError

    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "target").mkdir()
    path = tmp_path / "link" / ".." / "target" / "cache"

    def work() -> None:
        Engine(path, 1 << 20).close()

    def descriptors() -> list[str]:
        return sorted(os.listdir("/proc/self/fd"))

    work()
    before = descriptors()
    number, came = 0, True
    while came:
        number += 1
        with warnings.catch_warnings():
            # A file object that nobody closed closes itself, and says so.
            warnings.simplefilter("ignore", ResourceWarning)
            try:
                came = at_line(number, traced.OPENING, strike, work)
            except _StruckError:
                pass
        assert descriptors() == before, number
    assert number > 20


def test_segments_go_while_one_is_mapped(tmp_path: Path) -> None:
    """A reader that makes room among the mapped ones does not mind that another thread was faster."""
    with FileCache(tmp_path, 1, cleanup_interval=None) as cache:
        for number in range(40):
            cache.set_value(f"k{number}", bytes(10_000))
        files = inside.shard(inside.engine(cache)).files
        known = files.index.segments
        number, came = 0, True
        while came:
            number += 1
            segments = Segments(files.folder, known.incarnation, files.geometry.segment, 1 << 20, 1, EFFECTS)
            for segment, _, _ in files.table.entries()[:3]:
                assert segments.load(segment, 0, 1)[0]
            last = files.table.entries()[3][0]
            came = at_line(
                number,
                traced.SEGMENTS,
                partial(segments.forget_all_but, ()),
                partial(segments.load, last, 0, 1),
            )
            assert len(segments.mapped) <= 1
        assert number > 3
