"""The file tier called by finalizers and signal handlers in the middle of its own writes."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cachekit import CacheClosedError, FileCache
from cachekit.testing.processes import fork
from cachekit.tiers.file.effects import Effects
from cachekit.tiers.file.engine import Engine
from cachekit.tiers.file.sharing import engines


def test_a_cache_is_collected_in_the_middle_of_a_write_while_another_thread_forks(tmp_path: Path) -> None:
    """The fork waits for the write, and the write for nothing."""
    cache = FileCache(tmp_path / "a", 1, cleanup_interval=None)
    forgotten = [FileCache(tmp_path / "b", 1, cleanup_interval=None)]
    descriptors = forgotten[0]._attachment._engine._users
    inside = threading.Event()

    def write() -> bool:
        inside.set()
        deadline = time.monotonic() + 30
        while engines.lock.acquire(blocking=False):  # until the fork has it, and waits for us
            engines.lock.release()
            assert time.monotonic() < deadline
            time.sleep(0.001)
        forgotten.clear()
        return True

    lock = cache._attachment._engine._shards[0].lock
    writer = threading.Thread(target=lock.run, args=(write,))
    writer.start()
    assert inside.wait(30)
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


class _Interrupted(Effects):
    """Something else happens in the middle of a write."""

    happens: Callable[[], object] | None = None

    def pwrite(self, fd: int, content: Any, offset: int) -> int:
        """Let it happen, once, then write."""
        happens, self.happens = self.happens, None
        if happens is not None:
            happens()
        return Effects.pwrite(fd, content, offset)


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
    before = len(os.listdir("/proc/self/fd"))
    assert engine.put("second", b"2")
    with pytest.raises(CacheClosedError):
        engine.get("second")
    assert os.fstat(others[0]).st_size == 0, "a descriptor was given back too early"
    os.close(others[0])
    assert len(os.listdir("/proc/self/fd")) < before
    with Engine(tmp_path, 1 << 20) as engine:
        found = engine.get("second")
        assert found is not None
        assert found.payload == b"2"
