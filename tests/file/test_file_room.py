"""What takes room and what does not: failed writes, keys that are not there, long keys, the largest value."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from disks import fill
from file_checks import check, disk_usage, open_files

from cachekit import CacheEntry, FileCache
from cachekit.cli import main
from cachekit.testing import ManualClock
from cachekit.testing.processes import in_processes
from cachekit.tiers.file.engine.engine import Engine
from cachekit.tiers.file.engine.file_ops import FileOps
from cachekit.tiers.file.engine.format import Geometry


class _FillingUp(FileOps):
    """A disk that has room for half of a large record, and a system that makes no more large files."""

    def __init__(self) -> None:
        self.room = 1 << 30

    def pwrite(self, fd: int, content: Any, offset: int) -> int:
        """Write what there is room for."""
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = FileOps.pwrite(fd, content[: self.room], offset)
        self.room -= written
        return written


def test_a_large_value_that_did_not_fit_takes_no_room(tmp_path: Path) -> None:
    """Or the first one that a nearly full disk refuses would take what was left of it."""
    effects = _FillingUp()
    with Engine(tmp_path, 8 << 20, effects=effects) as engine:
        engine.put("small", b"1")
        used, entries = disk_usage(tmp_path), engine.stats()
        for number in range(20):
            effects.room = 100 << 10
            with pytest.raises(OSError, match="No space"):
                engine.put(f"large{number}", bytes(200 << 10))
            effects.room = 100 << 10
            with pytest.raises(OSError, match="No space"):
                engine.add(f"large{number}", bytes(200 << 10), engine.token(f"large{number}"))
        assert disk_usage(tmp_path) == used
        assert engine.stats() == entries
        effects.room = 1 << 30
        check(engine)
        assert engine.put("large", bytes(200 << 10))
        assert engine.get("small") is not None


def test_a_large_value_that_was_removed_is_not_kept_open(tmp_path: Path) -> None:
    """Its blocks are free at once, not only when something else is written."""
    with FileCache(tmp_path, 8, cleanup_interval=None) as cache:
        cache.set_value("large", os.urandom(1 << 20))
        assert cache.delete("large")
        assert not [path for path in open_files(tmp_path) if path.endswith("(deleted)")]


def test_touching_what_is_not_there_stores_nothing(tmp_path: Path) -> None:
    """No entry comes of it, and none has to go for it; loads under way are refused all the same."""
    with FileCache(tmp_path, 1, cleanup_interval=None) as cache:
        for number in range(100):
            cache.set_value(f"k{number}", number)
        fence = cache.fence("absent1")
        for number in range(3000):
            assert not cache.touch(f"absent{number}")
        assert cache.size() == 100
        assert cache.get_stats().evictions == 0
        assert not cache.set_if("absent1", CacheEntry("absent1", "old"), fence)
        assert cache.get_value("absent1") is None


def test_an_entry_that_is_over_removes_the_key_behind_a_fence(tmp_path: Path) -> None:
    """As `set` does, and it counts as that; but a fence that was broken keeps what is there."""
    clock = ManualClock()
    with FileCache(tmp_path, 1, clock=clock, cleanup_interval=None) as cache:
        over = CacheEntry("k", "over", created_at=clock.time() - 10, ttl=5)
        cache.set_value("k", "new")
        broken = cache.fence("k")
        cache.set_value("k", "newer")
        assert cache.put("k", over, expect=broken) is None
        assert cache.get_value("k") == "newer"
        fence = cache.put("k", over, expect=cache.fence("k"))
        assert fence is not None
        assert fence.is_current()
        assert (cache.size(), cache.get_value("k")) == (0, None)
        stats = cache.get_stats()
        assert (stats.sets, stats.deletes, stats.refusals) == (2, 1, 1)


def test_long_keys_are_not_remembered(tmp_path: Path) -> None:
    """A lookup of a key of a megabyte leaves nothing behind, whether or not it is there."""
    with FileCache(tmp_path, 8, cleanup_interval=None) as cache:
        key = "k" * ((1 << 20) - 2)
        cache.set_value(key, "found")
        assert cache.get_value(key) == "found"
        tracemalloc.start()
        try:
            for number in range(20):
                assert cache.get_value(f"{number}{key}") is None
            assert tracemalloc.get_traced_memory()[0] < 1 << 20
        finally:
            tracemalloc.stop()


def test_more_tags_than_a_record_can_name(tmp_path: Path) -> None:
    """Are a wrong argument, which changes nothing."""
    tags = {f"t{number}" for number in range(1 << 16)}
    with FileCache(tmp_path, 64, cleanup_interval=None) as cache:
        cache.set_value("k", "old")
        with pytest.raises(ValueError, match="65536 tags"):
            cache.set_value("k", "new", tags=tags)
        assert cache.get_value("k") == "old"
        with pytest.raises(ValueError, match="65536 tags"):
            cache.fence("k", tags)
        tags.pop()
        cache.set_value("k", "new", tags=tags)
        assert cache.get_value("k") == "new"


@pytest.mark.parametrize("mib", [1, 2, 10, 33])
def test_the_largest_value(tmp_path: Path, mib: int) -> None:
    """Fits, also into a shard that nobody has used; a larger one is refused before anything goes."""
    with Engine(tmp_path, mib << 20) as engine:
        largest = engine.locate("k")[2].files.largest()
        fits = largest - 64 - len("k")
        engine.put("k", bytes(fits))
        found = engine.get("k")
        assert found is not None
        assert len(found.payload) == fits
        with pytest.raises(ValueError, match="does not fit"):
            engine.put("k", bytes(largest))
        assert disk_usage(tmp_path) <= mib << 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux punches holes into mapped files")
@pytest.mark.parametrize("how", ["clear", "purge", "clear elsewhere"])
def test_a_full_disk_gets_its_room_back_while_others_have_it_mapped(disk: Path, how: str) -> None:
    """Three processes that have read every segment, and now do nothing at all."""
    path, filler = disk / "cache", disk / "filler"
    barrier = multiprocessing.get_context("fork").Barrier(4, timeout=100)

    def read(me: int) -> list[int]:
        with FileCache(path, 4, cleanup_interval=None) as cache:
            if me == 0:
                for number in range(1000):
                    cache.set_value(f"k{number}", os.urandom(2800))
                fill(filler)
            barrier.wait()
            assert sum(cache.get_value(f"k{number}") is not None for number in range(1000)) > 500
            room = [_free(disk)]
            barrier.wait()
            if me == 0:
                if how == "clear":
                    cache.clear()
                elif how == "purge":
                    assert main(["purge", str(path), "--yes"]) == 0
                room.append(_free(disk))
            elif me == 1 and how == "clear elsewhere":
                cache.clear()
            barrier.wait()
            if me == 0 and how == "clear elsewhere":
                room[1] = _free(disk)
            barrier.wait()
            # They go on, and find nothing and no damage.
            assert [cache.get_value(f"k{number}") for number in range(1000)] == [None] * 1000
            assert cache.get_stats().errors == 0
            cache.set_value(f"new{me}", me)
            assert cache.get_value(f"new{me}") == me
            return room

    (before, after), *_ = in_processes(4, read)
    assert before < 100 << 10
    assert after - before > 2 << 20


def _free(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def test_a_limit_of_few_descriptors_is_respected(tmp_path: Path) -> None:
    """A process that may have few gives the cache no more than most of them: macOS grants 256."""
    # A process of its own: a forked one has what tests before this one left open.
    code = f"from test_file_room import _descriptors; print(_descriptors({str(tmp_path)!r}))"
    env = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=env)
    assert (ended.stdout, ended.stderr) == ("(0, True)\n", "")


def _descriptors(path: str) -> tuple[int, bool]:
    before = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    failed = 0
    # As many shards as a cache of 1,000 MiB has, with smaller segments.
    shape = Geometry(limit=32 << 20, shards=32, segment=64 << 10, buckets=1 << 12, tag_buckets=1 << 9)
    with Engine(path, geometry=shape) as engine:
        for number in range(2000):
            try:
                engine.put(f"k{number}", bytes(14_000))
                engine.get(f"k{number * 7 % 2000}")
            except OSError:
                failed += 1
        return failed, len(os.listdir("/proc/self/fd")) - before < 180
