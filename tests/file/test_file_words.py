"""Damaged words of a shard in use: misses or OSError, soon, and never the value of another time."""

from __future__ import annotations

import logging
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import inside
import pytest
from file_checks import SMALL, check
from forking import in_fork

from cachekit import FileCache
from cachekit.tiers.file.engine import index_growth
from cachekit.tiers.file.engine.check import STATES, Inspection
from cachekit.tiers.file.engine.control_block import (
    CURSOR,
    ENTRIES,
    GENERATION,
    NEW,
    NEW_CURSOR,
    NEXT,
    TABLE,
    TAIL,
    USED,
)
from cachekit.tiers.file.engine.engine import Engine

GROWING = replace(SMALL, limit=1 << 20, capacity=64)
EVERYTHING = (1 << 64) - 1


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="cachekit")


def values(word: int, chance: random.Random) -> Iterator[int]:
    """What a damaged word may be."""
    yield from (0, 1, EVERYTHING, 1 << 63, (1 << 32) - 1, 1 << 27, chance.getrandbits(64))
    yield from (word + 1 & EVERYTHING, word - 1 & EVERYTHING, word * 2 & EVERYTHING)


def use(engine: Engine, expected: dict[str, bytes | None]) -> None:
    """Do everything, and note what each key holds; OSError is what a damaged disk may answer."""

    def look(key: str) -> None:
        found = engine.get(key)
        assert found is None or found.payload == expected.get(key), key

    def put(key: str, payload: bytes) -> None:
        expected[key] = None  # a write that failed leaves nothing
        engine.put(key, payload)
        expected[key] = payload

    def delete(key: str) -> None:
        expected[key] = None
        engine.delete(key)

    keys = list(expected)
    calls: list[Callable[[], object]] = [partial(look, key) for key in keys]
    calls += [partial(put, f"k{number}", b"new %d" % number * 9) for number in range(30, 50)]
    calls += [lambda: put("large", b"L" * 9000), lambda: delete("k3"), lambda: delete("k31")]
    calls += [lambda: list(engine.keys()), lambda: engine.delete_matching(re.compile("k7"))]
    calls += [engine.remove_expired, engine.tick, engine.stats]
    for call in calls:
        try:
            call()
        except OSError:
            pass
    for key in expected:
        look(key)


def sound(engine: Engine) -> None:
    """A shard that was repaired works."""
    damaged = [item for item in Inspection(engine.path).items(verify=True) if item.state not in STATES]
    engine.repair([(item.shard, item.generation, item.at, item.slot) for item in damaged])
    for number in range(80):
        engine.put(f"k{number}", b"again %d" % number)
    engine.tick()
    check(engine, exact=False)


def filled(path: Path) -> tuple[Engine, dict[str, bytes | None]]:
    """A shard whose index was just full enough to be replaced."""
    engine = Engine(path, geometry=GROWING)
    expected: dict[str, bytes | None] = {f"k{number}": b"value %d" % number * 7 for number in range(36)}
    for number in range(36):
        engine.put(f"k{number}", b"value %d" % number * 7)
    engine.put("large", b"l" * 5000)
    expected["large"] = b"l" * 5000
    engine.delete("k5")
    expected["k5"] = None
    return engine, expected


def damage_every_word(path: Path, growing: bool, chance: random.Random, most: int) -> int:
    """Each word of a control block in turn; the shard is then used, repaired, and used again."""
    done = 0
    for at in range(TABLE + 9):
        for number in chance.sample(range(10), most):
            engine, expected = filled(path / f"{at}-{number}")
            with engine:
                words = inside.shard(engine).words
                assert bool(words[NEW]) == growing
                words[at] = list(values(words[at], chance))[number]
                started = time.process_time()
                use(engine, expected)
                sound(engine)
                assert time.process_time() - started < 1, (at, number)
            done += 1
    return done


@pytest.mark.parametrize("growing", [True, False])
def test_a_word_of_a_control_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, growing: bool) -> None:
    """Each, to one value of all."""
    monkeypatch.setattr(index_growth, "_SLICE", 2 if growing else 1000)
    assert damage_every_word(tmp_path, growing, random.Random(growing), 1) == TABLE + 9


@pytest.mark.soak
@pytest.mark.parametrize("growing", [True, False])
def test_every_word_of_a_control_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, growing: bool
) -> None:
    """Each, to every value."""
    monkeypatch.setattr(index_growth, "_SLICE", 2 if growing else 1000)
    assert damage_every_word(tmp_path, growing, random.Random(growing), 10) == 10 * (TABLE + 9)


@pytest.mark.parametrize("word", [USED, ENTRIES, TABLE + 2, NEXT, CURSOR, TAIL])
def test_a_word_that_says_too_much_costs_no_write(tmp_path: Path, word: int) -> None:
    """A count beyond all bounds is counted again, or the shard is emptied; the write itself is done."""
    engine, _ = filled(tmp_path)
    with engine:
        inside.shard(engine).words[word] = EVERYTHING
        for number in range(100):
            engine.put(f"new{number}", b"payload" * 20)
            found = engine.get(f"new{number}")
            assert found is not None
            assert found.payload == b"payload" * 20


def test_a_new_index_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots that are all taken in the index that is being filled do not make the next write loop."""
    monkeypatch.setattr(index_growth, "_SLICE", 2)
    engine, _ = filled(tmp_path)
    with engine:
        files = inside.shard(engine).files
        new = files.new_index()
        assert new is not None
        for at in range(0, len(new.slots), 2):
            new.slots[at], new.slots[at + 1] = 3, 0
        started = time.process_time()
        for number in range(200):
            engine.put(f"x{number}", b"x")
            found = engine.get(f"x{number}")
            assert found is None or found.payload == b"x"
        assert time.process_time() - started < 2
        engine.clear()
        sound(engine)


def test_a_wrong_cursor_brings_no_old_value_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was changed behind it is in the old index only: the copy is made again."""
    monkeypatch.setattr(index_growth, "_SLICE", 2)
    engine, expected = filled(tmp_path)
    with engine:
        words = inside.shard(engine).words
        for _ in range(10):
            engine.token("k0")
            inside.shard(engine).lock.run(inside.shard(engine).locked_index)
        assert words[NEW_CURSOR] > 20
        words[NEW_CURSOR] = 0
        for key in expected:
            engine.delete(key)
        for _ in range(200):
            inside.shard(engine).lock.run(inside.shard(engine).locked_index)
        assert not words[NEW]
        assert [key for key in expected if engine.get(key) is not None] == []


def test_a_generation_is_not_used_twice(tmp_path: Path) -> None:
    """A process that has the index of an earlier generation open would read the values of that time."""
    engine, expected = filled(tmp_path)
    with engine, Engine(tmp_path, geometry=GROWING) as other:
        for key, payload in expected.items():
            found = other.get(key)
            assert (None if found is None else found.payload) == payload
        seen = set()
        for _ in range(20):
            seen.add(inside.shard(engine).words[GENERATION] >> 32)
            inside.shard(engine).words[GENERATION] = 0
            for key in expected:
                engine.put(key, b"newer")
                found = other.get(key)
                assert found is None or found.payload == b"newer"
        assert len(seen) == 20


READER = """
import os, sys
sys.path[:0] = {paths!r}
import inside
from cachekit import FileCache
with FileCache({path!r}, 1, cleanup_interval=None) as cache:
    keys = [f"k{{number}}" for number in range(200)]
    for key in keys:
        cache.set_value(key, key * 50)
    assert all(cache.get_value(key) == key * 50 for key in keys)
    print("ready", flush=True)
    sys.stdin.readline()
    inside.look_again(cache)
    found = [cache.get_value(key) for key in keys]
    assert all(value in (None, key * 50) for key, value in zip(keys, found))
    for key in keys:
        cache.set_value(key, "again")
    assert [cache.get_value(key) for key in keys] == ["again"] * 200
    print("lost", found.count(None), flush=True)
"""


@pytest.mark.parametrize("name", ["control", "tokens", "index", "segment"])
@pytest.mark.parametrize("left", [0, 5000])
def test_a_mapped_file_that_was_cut(tmp_path: Path, name: str, left: int) -> None:
    """A tenth of a second later, what was in it is a miss, and not the end of the process."""
    paths = [os.path.dirname(inside.__file__), *sys.path]
    program = READER.format(paths=paths, path=str(tmp_path / "cache"))
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        file = next(file for file in sorted((tmp_path / "cache").rglob("*")) if file.name.endswith(name))
        os.truncate(file, left)
        process.stdin.write("\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        assert process.wait(60) == 0
        assert answer.startswith("lost ")
        assert name in ("tokens", "control") or answer != "lost 0\n"


@pytest.mark.parametrize("name", ["control", "tokens"])
@pytest.mark.parametrize("remade", [True, False])
@pytest.mark.parametrize("use", ["get_stats", "close", "keys", "clear"])
def test_a_file_that_was_cut_while_no_operation_looked(
    tmp_path: Path, name: str, remade: bool, use: str
) -> None:
    """Neither figures nor the end of a cache are; nor the first call after another process made it again."""
    path, (begin, go) = tmp_path / "cache", os.pipe()
    ready, opened = os.pipe()

    def work() -> None:
        with FileCache(path, 1, cleanup_interval=None) as cache:
            cache.set_value("k", 1)
            os.write(opened, b"r")
            os.read(begin, 1)
            inside.look_again(cache)  # it is a tenth of a second later
            getattr(cache, use)()

    ended = in_fork(work)
    os.read(ready, 1)
    os.truncate(path / name, 0)
    if remade:
        with FileCache(path, 1, cleanup_interval=None) as cache:
            cache.set_value("k", 2)
    os.write(go, b"g")
    assert ended() == 0
    for one in (begin, go, ready, opened):
        os.close(one)


def test_another_cache_of_a_process_looks_first(tmp_path: Path) -> None:
    """It shares the open files of the first one, which was idle while they were cut."""

    def work() -> None:
        with FileCache(tmp_path, 1, cleanup_interval=None) as cache:
            cache.set_value("k", 1)
            inside.look_again(cache)
            os.truncate(tmp_path / "control", 0)
            with FileCache(tmp_path, 1, cleanup_interval=None) as another:
                another.set_value("k", 2)
                assert another.get_value("k") == 2

    assert in_fork(work)() == 0


def test_what_was_deleted_does_not_come_back_from_a_new_index(tmp_path: Path) -> None:
    """The index is cut while it is replaced, after a part of its slots has moved."""
    with FileCache(tmp_path, 1, cleanup_interval=None) as cache:
        shard = inside.shard(inside.engine(cache))
        number = 0
        while not shard.words[NEW]:
            cache.set_value(f"k{number}", number)
            number += 1
        for _ in range(3):  # with each write a part moves
            cache.set_value("k0", 0)
        (index,) = tmp_path.rglob("*-1.index")
        os.truncate(index, 0)
        inside.look_again(cache)
        keys = [f"k{key}" for key in range(number)]
        for key in keys:
            cache.delete(key)
        assert [key for key in keys if cache.get_value(key) is not None] == []


def test_an_old_slot_behind_a_zeroed_one_is_not_found_again(tmp_path: Path) -> None:
    """A zeroed hash word hides the slots behind it. What is written then makes an end of them."""
    hidden = turn = 0
    with Engine(tmp_path, geometry=GROWING) as engine:
        while hidden <= 3:  # which slots follow each other depends on the salt and the keys
            at, turn = 2 * turn % 120, turn + 1
            keys = [f"{turn}:{number}" for number in range(30)]
            for key in keys:
                engine.put(key, b"old")
            slots = inside.shard(engine).files.index.slots
            if not slots[at] or not slots[at + 2]:
                engine.clear()
                continue
            slots[at] = 0
            gone = [key for key in keys if engine.get(key) is None]
            for key in gone:
                engine.put(key, b"new")
                engine.delete(key)
            slots[at] ^= 0x5555_5555_5555_0000
            assert [key for key in gone if engine.get(key) is not None] == []
            hidden += len(gone) - 1
            engine.clear()
