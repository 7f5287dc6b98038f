"""Descriptors: one budget per process over all directories, and what happens when there are none left."""

from __future__ import annotations

import errno
import os
import random
import resource
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import inside
import pytest
from file_checks import check
from free_threads import HAS_GIL

from cachekit import FileCache, IntelligentCache, MemoryCache, TierUnavailableError
from cachekit.testing.history import Operation, violations
from cachekit.testing.processes import in_processes
from cachekit.tiers.file.descriptor_budget import DescriptorBudget, descriptors
from cachekit.tiers.file.engine.engine import Engine
from cachekit.tiers.file.engine.format import Geometry
from cachekit.tiers.file.engine.index import Index
from cachekit.tiers.file.engine.shard_files import ShardFiles
from cachekit.tiers.file.engine.shard_lock import ShardLock

#: As many shards as a cache of 1,000 MiB has, with smaller segments.
MANY = Geometry(limit=32 << 20, shards=32, segment=64 << 10, buckets=1 << 12, tag_buckets=1 << 9)


def may_have(count: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))


def held() -> int:
    return sum(one.held() for one in descriptors._all())


def test_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than half of what the process may have now, within bounds."""
    for soft, limit in ((64, 24), (256, 120), (1024, 504), (1 << 20, 2048), (-1, 2048), (10, 8)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert descriptors.limit() == limit


@pytest.mark.parametrize(
    "count", [64, *(pytest.param(count, marks=pytest.mark.soak) for count in (128, 256))]
)
def test_one_budget_over_all_directories(tmp_path: Path, count: int) -> None:
    """Five caches with few descriptors keep everything, and take less than half of them."""

    def work(_: int) -> list[object]:
        before = len(os.listdir("/proc/self/fd"))
        may_have(before + count)
        most = failed = 0
        engines = [Engine(tmp_path / f"{number}", geometry=MANY) for number in range(3)]
        kept: dict[tuple[int, str], bytes] = {}
        random_ = random.Random(1)
        for step in range(600):
            number, key = step % 3, f"k{step}"
            try:
                engines[number].put(key, kept.setdefault((number, key), random_.randbytes(900)))
                number, key = random_.choice(list(kept))
                found = engines[number].get(key)
                assert found is not None
                assert found.payload == kept[number, key]
            except OSError:
                failed += 1
            most = max(most, len(os.listdir("/proc/self/fd")) - 1 - before)
        for number, key in kept:
            found = engines[number].get(key)
            assert found is not None
            assert found.payload == kept[number, key]
        for engine in engines:
            check(engine)
            engine.close()
        return [failed, most <= max(count // 2, (before + count) // 2), held()]

    assert in_processes(1, work) == [[0, True, 0]]


def test_what_is_used_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard whose key is looked up all the time is not closed; others are, again and again."""
    reopened = closed = 0
    for directory in range(5):  # each has a salt of its own, by which keys have their shards
        monkeypatch.undo()
        with Engine(tmp_path / str(directory), geometry=MANY) as engine:
            for number in range(200):
                engine.put(f"k{number}", b"v" * 900)
            assert engine.get("k0") is not None
            hot = engine.locate("k0")[2]
            monkeypatch.setattr(DescriptorBudget, "limit", lambda _: 40)
            index = hot.files.index
            for number in range(1, 200):
                if engine.locate(f"k{number}")[2] is hot:
                    continue
                closed += engine.locate(f"k{number}")[2].held() == 0
                assert engine.get(f"k{number}") is not None
                engine.put(f"k{number}", b"v" * 900)
                assert engine.get("k0") is not None
                reopened += hot.files.index is not index
                index = hot.files.index
                assert held() <= 45
    assert closed > 250
    assert reopened < closed / 20


def test_threads_and_forks(tmp_path: Path) -> None:
    """Eight threads read and write with 64 descriptors, and so does a child that is forked among them."""

    def work(_: int) -> list[str]:
        may_have(len(os.listdir("/proc/self/fd")) + (40 if HAS_GIL else 100))  # then all open files at once
        wrong: list[str] = []

        def use(engine: Engine, name: str) -> None:
            try:
                random_ = random.Random(name)
                for step in range(150):
                    key = f"{name}-{random_.randrange(40)}"
                    engine.put(key, f"{key}:{step}".encode() * 20)
                    found = engine.get(key)
                    if found is None or found.payload != f"{key}:{step}".encode() * 20:
                        wrong.append(key)
                    other = engine.get(f"{random_.randrange(8)}-{random_.randrange(40)}")
                    if other is not None and len(set(other.payload.split(b":"))) < 2:
                        wrong.append("other")
            except Exception as error:  # whatever it is, it is a finding
                wrong.append(repr(error))

        with Engine(tmp_path, geometry=MANY) as engine:
            threads = [threading.Thread(target=use, args=(engine, f"{number}")) for number in range(8)]
            for thread in threads:
                thread.start()
            child = os.fork()
            if not child:
                wrong.clear()
                use(engine, "child")
                os._exit(bool(wrong))
            for thread in threads:
                thread.join()
            _, status = os.waitpid(child, 0)
            check(engine)
            return [*wrong, str(status)]

    assert in_processes(1, work) == [["0"]]


def test_every_read_is_explained(tmp_path: Path) -> None:
    """Four processes with few descriptors on one directory see nothing wrong, old or lost."""
    Engine(tmp_path, geometry=MANY).close()

    def work(number: int) -> list[Operation]:
        import time

        may_have(len(os.listdir("/proc/self/fd")) + 30)
        random_ = random.Random(number)
        history = []
        with Engine(tmp_path, geometry=MANY, patience=30) as engine:
            for step in range(300):
                key = f"k{random_.randrange(20)}"
                begin = time.monotonic()
                if random_.random() < 0.6:
                    found = engine.get(key)
                    value = found.payload if found else None
                    history.append(Operation(key, False, value, begin, time.monotonic()))
                else:
                    value = b"%d-%d|" % (number, step) * 40
                    engine.put(key, value)
                    history.append(Operation(key, True, value, begin, time.monotonic()))
        return history

    history = [one for part in in_processes(4, work) for one in part]
    assert violations(history, evicts=False) == []


def test_no_descriptor_left(tmp_path: Path) -> None:
    """Lookups and writes fail or succeed, never lie. The tier is not given up, and works at once after."""

    def work(_: int) -> list[object]:
        may_have(len(os.listdir("/proc/self/fd")) + 60)
        file = FileCache(tmp_path, 200)
        with IntelligentCache(MemoryCache(max_size=1), file_cache=file) as cache:
            for number in range(100):
                cache.set(f"k{number}", number)
            outcomes = set()
            for turn in range(5):
                hog: list[int] = []
                with suppress(OSError):
                    while True:
                        hog.append(os.open("/dev/null", os.O_RDONLY))
                for number in range(100):
                    assert cache.get(f"k{number}") in (number, (turn, number - 1), None)
                    cache.set(f"k{number}", number)
                    assert cache.get(f"k{number}") in (number, None)
                    cache.delete(f"gone{number}")
                    with suppress(TierUnavailableError):
                        file.set_value(f"direct{number}", turn)
                with suppress(TierUnavailableError):
                    list(file.keys())
                for fd in hog:
                    os.close(fd)
                cache.set("after", turn)
                outcomes.add(file.get_value("after") == turn)
                for number in range(100):
                    assert file.get_value(f"direct{number}") in (turn, None)
                    assert cache.get(f"k{number}") in (number, None)
                    cache.set(f"k{number}", number)
            check(file._handle.engine, exact=False)
            return [*outcomes, inside.file_breaker(cache).outages]

    assert in_processes(1, work) == [[True, 0]]


def test_an_index_that_is_set_aside_at_the_end_of_a_reopening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lookup that opened the index under the lock goes on with it, whatever other threads do then."""
    with Engine(tmp_path, geometry=MANY) as engine:
        engine.put("k", b"v")
        shard = engine.locate("k")[2]
        open_index, run = ShardFiles.open_index, ShardLock.run
        attempts = iter(range(4))

        def replaced_at_first(self: ShardFiles, generation: int) -> Index:
            if next(attempts, None) is not None:
                raise FileNotFoundError
            return open_index(self, generation)

        def run_and_rest(self: ShardLock, operation: Callable[..., Any], *arguments: Any) -> Any:
            result = run(self, operation, *arguments)
            shard.rest()
            return result

        monkeypatch.setattr(ShardFiles, "open_index", replaced_at_first)
        monkeypatch.setattr(ShardLock, "run", run_and_rest)
        shard.rest()
        found = engine.get("k")
        assert found is not None
        assert found.payload == b"v"
        assert next(attempts, None) is None


def opened_after(refusals: int) -> Callable[[], str]:
    """What opens a file when it has failed so many times for want of a descriptor."""
    left = iter(range(refusals))

    def opened() -> str:
        if next(left, None) is not None:
            raise OSError(errno.EMFILE, "too many")
        return "opened"

    return opened


def test_descriptors_that_others_take_at_once(tmp_path: Path) -> None:
    """A file is opened as long as there is something to close, also if the first that is freed is taken."""
    with Engine(tmp_path, geometry=MANY) as engine:
        for number in range(100):
            engine.put(f"k{number}", b"v" * 900)
        assert descriptors.attempt(opened_after(3)) == "opened"
        assert engine.get("k0") is not None


def test_descriptors_that_others_use_at_this_moment() -> None:
    """There is nothing to close until their operations end."""
    budget = DescriptorBudget()
    assert budget.attempt(opened_after(3)) == "opened"
    with pytest.raises(OSError, match="too many"):
        budget.attempt(opened_after(1_000_000))
