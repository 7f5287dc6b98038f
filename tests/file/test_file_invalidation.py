"""Tags and patterns over many entries: nothing is missed, nobody is stopped, memory stays small."""

from __future__ import annotations

import fcntl
import os
import re
import threading
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import inside
import pytest
from file_checks import SMALL, check

from cachekit import CacheEntry, FileCache
from cachekit.tiers.fences import WRITING
from cachekit.tiers.file.engine.engine import Engine
from cachekit.tiers.file.engine.index import Index
from cachekit.tiers.file.engine.shard_files import ShardFiles

ROOMY = replace(SMALL, limit=4 << 20)


class Disturbing:
    """A pattern that lets something happen at every key it looks at."""

    def __init__(self, pattern: str, happens: Callable[[], object]) -> None:
        self._match = re.compile(pattern).match
        self._happens = happens

    def match(self, key: str) -> Any:
        found = self._match(key)
        self._happens()
        return found


@pytest.mark.parametrize(("busy", "entries"), [(1, 45), (40, 120), (400, 120)])
def test_nothing_is_missed_that_moves(tmp_path: Path, busy: int, entries: int) -> None:
    """While indexes grow and records are moved, whatever matched at the beginning is gone at the end.

    However fast: with the most, no index stays as long as it takes to look through it.
    """
    with Engine(tmp_path, geometry=ROOMY) as engine:
        for number in range(entries):
            engine.put(f"{'drop' if number % 3 else 'keep'}:{number}", b"v" * 100)
        there = set(engine.keys())
        generations = {inside.shard(engine).words[1]}
        count = 0

        def write() -> None:
            nonlocal count
            count += 1
            # Overwritten all the time, so that segments become sparse and are emptied; and some new ones.
            for step in range(8):
                engine.put(f"old:{(count * 8 + step) % 40}", b"n" * 300)
            if count % busy == 0:
                for step in range(40):
                    engine.put(f"new:{count}:{step}", b"")
                    engine.delete(f"new:{count}:{step}")
            generations.add(inside.shard(engine).words[1])

        pattern = cast("re.Pattern[str]", Disturbing("drop", write))
        removed = engine.delete_matching(pattern)
        assert [key for key in list(engine.keys()) if key.startswith("drop")] == []
        assert [key for key in there if key.startswith("drop") and engine.get(key)] == []
        assert 0 < removed <= entries * 2 // 3
        assert len(generations) > 1 or busy == 400, "no index was replaced meanwhile"
        check(engine, bytes_drifted=True)


def test_nothing_is_missed_that_reclaim_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that were moved since their slots were read are found where they are now."""
    move = ShardFiles.move
    moved = 0

    def counting(files: ShardFiles, index: Index, at: int, b: int, size: int) -> None:
        nonlocal moved
        moved += 1
        move(files, index, at, b, size)

    geometry = replace(SMALL, limit=256 << 10, capacity=4096)
    with Engine(tmp_path, geometry=geometry) as engine:
        for number in range(400):
            engine.put(f"drop:{number}", b"v" * 60)
            for step in range(3):
                engine.put(f"old:{number % 40}:{step}", b"o" * 120)
        there = [key for key in list(engine.keys()) if key.startswith("drop")]
        generation = inside.shard(engine).words[1]
        count = 0

        def write() -> None:
            nonlocal count
            for _ in range(6):
                count += 1
                engine.put(f"old:{count % 40}:{count % 3}", b"o" * 120)

        monkeypatch.setattr(ShardFiles, "move", counting)
        engine.delete_matching(cast("re.Pattern[str]", Disturbing("drop", write)))
        assert [key for key in there if engine.get(key)] == []
        assert len(there) > 100
        assert moved > 100
        assert inside.shard(engine).words[1] == generation, "or all would have been looked at again for that"


def test_nothing_that_was_read_in_between_is_kept(tmp_path: Path) -> None:
    """A load that begins while the scan runs is refused, for the keys that are dropped and all others."""
    with FileCache(tmp_path, 4) as cache:
        for number in range(50):
            cache.set_value(f"k{number}", number)
        fences = []
        looks = []

        def look() -> None:
            fences.append(cache.fence("k7"))
            fences.append(cache.fence("not there"))
            looks.append(cache.look("k8"))

        cache._handle.for_writing().delete_matching(cast("re.Pattern[str]", Disturbing("k", look)))
        assert not any(fence.is_current() for fence in fences)
        assert not any(found.fence.is_current() for found in looks if found is not None)
        assert cache.add("k7", CacheEntry("k7", "loaded"), fences[-2]) is False
        assert not cache.fence("k7").token & WRITING
        assert cache.size() == 0


def test_nobody_is_stopped(tmp_path: Path) -> None:
    """While the pattern is matched no lock is held: others read and write."""
    with FileCache(tmp_path, 4) as cache:
        for number in range(100):
            cache.set_value(f"k{number}", number)
        reached, go_on = threading.Event(), threading.Event()

        def wait() -> None:
            reached.set()
            assert go_on.wait(60)

        scan = threading.Thread(
            target=lambda: cache._handle.for_writing().delete_matching(
                cast("re.Pattern[str]", Disturbing("k", wait))
            )
        )
        scan.start()
        try:
            assert reached.wait(60)
            with FileCache(tmp_path, 4) as other:
                assert other.get_value("other", "miss") == "miss"
                other.set_value("other", 1)
                assert other.get_value("other") == 1
        finally:
            go_on.set()
            scan.join()
        assert list(cache.keys()) == ["other"]


def test_memory_does_not_grow_with_the_entries(tmp_path: Path) -> None:
    """Eight times the keys take no more of it."""
    peaks = []
    # Few tokens: to renew those of a larger directory takes more at once than the scan would at its worst.
    geometry = replace(SMALL, limit=32 << 20, segment=64 << 10, capacity=1024)
    for count in (3_000, 24_000):
        with Engine(tmp_path / str(count), geometry=geometry) as engine:
            for number in range(count):
                engine.put(f"a key that is not the shortest:{number:020}", b"")
            tracemalloc.start()
            try:
                removed = engine.delete_matching(re.compile(r".*[02468]$"))
                peaks.append(tracemalloc.get_traced_memory()[1])
            finally:
                tracemalloc.stop()
            assert removed == count // 2
            assert len(list(engine.keys())) == count // 2
    # The keys that were removed would take 1,050,000 bytes more. Until the collector runs, Python keeps up to
    # 2,000 tuples of two, and of three, that were freed: 240,000 bytes at most, with either number of keys.
    assert peaks[1] - peaks[0] < 400_000, peaks


def test_a_tag_needs_no_lock_and_no_look_at_its_entries(tmp_path: Path) -> None:
    """Ten thousand entries are gone at once, while somebody holds every lock."""
    with FileCache(tmp_path, 16) as cache:
        for number in range(10_000):
            cache.set_value(f"k{number}", number, tags={"all", f"t{number % 7}"})
        before = cache.memory_usage()
        locks = [os.open(lock, os.O_RDWR) for lock in tmp_path.glob("*/lock")]
        for lock in locks:
            fcntl.flock(lock, fcntl.LOCK_EX)
        cache.invalidate_by_tags({"all"})
        assert all(cache.get_value(f"k{number}") is None for number in range(0, 10_000, 97))
        assert list(cache.keys()) == []
        assert (cache.size(), cache.memory_usage()) == (10_000, before), "they go with the sweep"
        for lock in locks:
            os.close(lock)
        assert cache.remove_expired() == 10_000
        assert cache.size() == 0


def test_many_calls_from_within_a_write(tmp_path: Path) -> None:
    """What a finalizer asks for in the middle of a write is done after it, however much that is."""
    with Engine(tmp_path, geometry=ROOMY) as engine:

        def ask() -> None:
            for number in range(5000):
                engine.put(f"k{number % 50}", b"%d" % number)

        inside.shard(engine).lock.run(ask)
        found = engine.get("k49")
        assert found is not None
        assert found.payload == b"4999"
