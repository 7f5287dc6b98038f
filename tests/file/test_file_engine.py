"""The engine in one process: opening, shapes, threads, patterns, expiry, interruptions, closing."""

from __future__ import annotations

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any
from zlib import crc32

import inside
import pytest
from file_checks import SMALL, check, disk_usage, open_files
from interrupting import no_collection
from racing import frequent_switches, race

from cachekit.errors import CacheClosedError, FileFormatError
from cachekit.testing import ManualClock
from cachekit.testing.faults import StoppingEffects
from cachekit.testing.history import Operation, violations
from cachekit.testing.processes import in_processes
from cachekit.tiers.fences import WRITING
from cachekit.tiers.file.engine import fence_tokens
from cachekit.tiers.file.engine import format as file_format
from cachekit.tiers.file.engine.control_block import GENERATION
from cachekit.tiers.file.engine.engine import Engine
from cachekit.tiers.file.engine.file_ops import EFFECTS
from cachekit.tiers.file.engine.format import FORMAT, Geometry
from cachekit.tiers.file.engine.index import name_of
from cachekit.tiers.file.engine.shard import Shard
from cachekit.tiers.file.folder import Folder
from cachekit.tiers.fresh_tokens import fresh

ROOMY = replace(SMALL, limit=8 << 20)


def payload_of(engine: Engine, key: str) -> bytes | None:
    found = engine.get(key)
    return None if found is None else found.payload


@pytest.mark.parametrize("mib", [1, 2, 8, 20, 64, 100, 500, 1000, 4000, 100_000])
def test_the_shape_for_a_limit(mib: int) -> None:
    """A power of two of shards, segments of 64 KiB to 4 MiB, and everything within the limit."""
    geometry = Geometry.for_limit(mib << 20)
    assert geometry.is_sound()
    assert geometry.shards in (1, 2, 4, 8, 16, 32)
    assert 64 << 10 <= geometry.segment <= 4 << 20
    assert geometry.quota >= 6 * geometry.segment
    assert geometry.most_payload > geometry.segment
    assert geometry.shards * geometry.quota + geometry.tokens_size + geometry.control_size < geometry.limit
    assert geometry.buckets <= 1 << 18


def test_too_small_a_limit() -> None:
    """It is refused with the number that would do."""
    with pytest.raises(ValueError, match="1048576"):
        Geometry.for_limit(1000)


@pytest.mark.parametrize("mib", [1, 100, 1000])
def test_real_shapes(tmp_path: Path, mib: int) -> None:
    """What small shapes are tested with holds in those of users: values of all sizes, in all shards."""
    random_ = random.Random(mib)
    expected = {}
    with Engine(tmp_path, mib << 20) as engine:
        for number in range(300):
            key = f"key {number}"
            expected[key] = random_.randbytes(random_.choice([0, 10, 500, 2000]))
            engine.put(key, expected[key], flags=number, server_token=2**64 - 1 - number)
        largest = bytes(min(shard.files.largest() for shard in inside.shards(engine)) - 200)
        assert payload_of(engine, "key 1") == expected["key 1"]
    with Engine(tmp_path, mib << 20) as engine:
        assert {key: payload_of(engine, key) for key in expected} == expected
        assert sorted(engine.keys()) == sorted(expected)
        assert engine.stats().entries == 300
        assert disk_usage(tmp_path) <= mib << 20
        engine.put("largest", largest)
        assert payload_of(engine, "largest") == largest
        assert disk_usage(tmp_path) <= mib << 20
        check(engine)


def test_a_shard_is_opened_when_a_key_asks_for_it(tmp_path: Path) -> None:
    """Opening a directory opens none of its shards, and yet tells what is in all of them."""
    with Engine(tmp_path, 100 << 20) as engine:
        assert not [path for path in tmp_path.iterdir() if path.is_dir()]
        for number in range(50):
            engine.put(f"{number}", b"v" * 200)
        expected = engine.stats()
        assert expected.entries == 50
        key = next(f"{n}" for n in range(1, 50) if engine.locate(f"{n}")[2] is not engine.locate("0")[2])
    with Engine(tmp_path, 100 << 20) as engine:
        assert engine.stats() == expected
        engine.put("0", b"w")
        others = inside.shards(engine)[1:]
        assert all(shard.files.index.generation < 0 for shard in others if shard.lock._fd < 0)
        assert engine.locate(key)[2].lock._fd < 0
        assert payload_of(engine, key) == b"v" * 200
        assert engine.locate(key)[2].lock._fd < 0, "a lookup takes no lock"


def test_what_a_fork_inherits_makes_no_token_twice(tmp_path: Path) -> None:
    """Tokens are drawn many at a time, and the child throws away what the parent has drawn."""
    fresh()
    theirs = in_processes(2, lambda _: [fresh() for _ in range(600)])
    drawn = [*theirs[0], *theirs[1], *(fresh() for _ in range(600))]
    assert len(set(drawn)) == len(drawn)


def test_closing(tmp_path: Path) -> None:
    """After close there is no descriptor, no mapping and no service."""
    Engine(tmp_path, geometry=SMALL).close()  # filelock, and what else the first call loads
    engine = Engine(tmp_path, geometry=SMALL)
    for number in range(30):
        engine.put(f"{number}", b"v" * 900)
        engine.get(f"{number}")
    engine.close()
    engine.close()
    refused = pytest.raises(CacheClosedError, match=re.escape(str(tmp_path)))
    with refused:
        engine.get("k")
    with refused:
        engine.get("29")
    with refused:
        engine.put("k", b"")
    with refused:
        engine.add("k", b"", 0)
    with refused:
        engine.delete("k")
    with refused:
        engine.clear()
    with refused:
        list(engine.keys())
    del refused
    assert engine.stats().entries > 0
    gone = weakref.ref(engine)
    if os.path.exists("/proc/self/fd"):
        assert open_files(tmp_path) == []
    del engine
    assert gone() is None


def test_importing_loads_no_lock_library() -> None:
    """Neither `import cachekit` nor the engine's module loads filelock; an engine does."""
    code = "import sys, cachekit, cachekit.tiers.file.engine.engine; sys.exit('filelock' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def write_manifest(path: Path, change: Callable[[dict[str, object]], None], *, sound: bool = True) -> None:
    shape = json.loads((path / "manifest").read_bytes().split(b" ", 1)[1])
    change(shape)
    body = json.dumps(shape).encode()
    (path / "manifest").write_bytes(b"%08x %s\n" % (crc32(body) ^ (not sound), body))


def test_another_format(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of another version nothing is read: the directory is emptied, or, if it is in use, refused."""
    with Engine(tmp_path, geometry=SMALL) as engine:
        engine.put("k", b"v")
        write_manifest(tmp_path, lambda shape: shape.update(format=FORMAT + 1))
        with pytest.raises(FileFormatError, match=rf"in use.*format {FORMAT + 1}"):
            Engine(tmp_path, geometry=SMALL)
        assert payload_of(engine, "k") == b"v"
    with Engine(tmp_path, geometry=SMALL) as engine:
        assert engine.get("k") is None
        engine.put("k", b"w")
    assert f"format {FORMAT + 1}" in caplog.text
    with Engine(tmp_path, geometry=SMALL) as engine:
        assert payload_of(engine, "k") == b"w"


@pytest.mark.parametrize(
    "change",
    [
        lambda shape: shape.pop("geometry"),
        lambda shape: shape["geometry"].update(shards=3),
        lambda shape: shape["geometry"].update(shards=-1),
        lambda shape: shape["geometry"].update(segment=10),
        lambda shape: shape["geometry"].update(unknown=10),
        lambda shape: shape["geometry"].update(buckets="many"),
        lambda shape: shape.update(salt="00"),
        lambda shape: shape.update(format="x"),
    ],
)
def test_a_manifest_that_makes_no_sense(tmp_path: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Even under a right checksum it is damage."""
    with Engine(tmp_path, geometry=SMALL) as engine:
        engine.put("k", b"v")
    write_manifest(tmp_path, change)
    with Engine(tmp_path, geometry=SMALL) as engine:
        assert engine.get("k") is None
        check(engine)


def test_another_limit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever is there first decides; whoever is alone may decide anew, and begins with nothing."""
    with Engine(tmp_path, 2 << 20) as first:
        first.put("k", b"v")
        with Engine(tmp_path, 4 << 20) as second:
            assert second.geometry.limit == 2 << 20
            assert payload_of(second, "k") == b"v"
        assert "which stays" in caplog.text
    with Engine(tmp_path, 4 << 20) as alone:
        assert alone.geometry.limit == 4 << 20
        assert alone.get("k") is None


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    """A directory that is emptied loses nothing that someone else put there."""
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "zz").mkdir()
    with Engine(tmp_path, 2 << 20):
        pass
    with Engine(tmp_path, 4 << 20):
        pass
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "zz").is_dir()


def test_expiry_and_sweeping(tmp_path: Path) -> None:
    """A record is there until its time, and not at that moment; a sweep removes it and tells how many."""
    clock = ManualClock()
    with Engine(tmp_path, geometry=ROOMY, clock=clock) as engine:
        for number in range(50):
            engine.put(f"{number}", b"v", expiry=clock.time() + number)
        engine.put("tagged", b"v", tags=engine.tag_tokens(["x"]))
        engine.put("ever", b"v", expiry=math.inf)
        clock.advance(10)
        assert engine.get("10") is None
        assert engine.get("11") is not None
        assert len(list(engine.keys())) == 41
        engine.invalidate_tags({"x"})
        assert engine.stats().entries == 52
        assert engine.remove_expired() == 12
        assert engine.stats()[2:4] == (0, 12)
        assert engine.stats().entries == 40
        assert engine.remove_expired() == 0
        check(engine)


def test_patterns(tmp_path: Path) -> None:
    """Matching keys go, the others stay, and every token changes."""
    with Engine(tmp_path, geometry=ROOMY) as engine:
        for number in range(30):
            engine.put(f"user:{number}", b"v")
            engine.put(f"page:{number}", b"v")
        assert sorted(engine.keys(re.compile("user:1.$"))) == sorted(f"user:{n}" for n in range(10, 20))
        absent = engine.token("user:absent")
        assert engine.delete_matching(re.compile("user:")) == 30
        assert engine.token("user:absent") != absent
        assert sorted(engine.keys()) == sorted(f"page:{n}" for n in range(30))


def test_tokens_are_fresh() -> None:
    """No token comes twice, none is in flux or zero, and no two are one flipped byte apart."""
    drawn = [fresh() for _ in range(5000)]
    assert len(set(drawn)) == len(drawn)
    assert all(0 < token < WRITING for token in drawn)
    for before, after in pairwise(drawn):
        assert sum(byte != 0 for byte in (before ^ after).to_bytes(8, "little")) > 1


def test_tokens_do_not_outlive_their_file(tmp_path: Path) -> None:
    """A record whose tag was invalidated does not come back with a new tokens file."""
    with Engine(tmp_path, geometry=SMALL) as engine:
        tags = engine.tag_tokens(["x"])
        engine.put("k", b"v", tags=tags)
    (tmp_path / "tokens").unlink()
    fence_tokens.create(Folder.at(str(tmp_path)), SMALL, StoppingEffects())
    with Engine(tmp_path, geometry=SMALL) as engine:
        assert engine.get("k") is None
        assert not inside.shard(engine).tokens.are_current(tags)


def test_two_keys_of_one_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take the slot from each other; neither is ever served for the other."""
    from cachekit.tiers.file.engine import engine as engine_module

    def few(salt: bytes) -> Callable[[bytes], int]:
        hash_of = file_format.hasher(salt)
        return lambda octets: hash_of(octets) & 0x7 | 1

    monkeypatch.setattr(engine_module, "hasher", few)
    with Engine(tmp_path, geometry=ROOMY) as engine:
        for step in range(200):
            key = f"k{step % 17}"
            engine.put(key, b"%d" % step)
            assert payload_of(engine, key) == b"%d" % step
            for other in range(17):
                found = payload_of(engine, f"k{other}")
                assert found is None or int(found) % 17 == other
        assert engine.stats().entries <= 8


def test_threads(tmp_path: Path) -> None:
    """Eight threads of one process: every read is explained, and nothing is lost."""
    import time

    with Engine(tmp_path, geometry=ROOMY, effects=StoppingEffects()) as engine:

        def work(number: int) -> list[Operation]:
            random_ = random.Random(number)
            history = []
            for step in range(250):
                key = f"k{random_.randrange(4)}"
                begin = time.monotonic()
                if random_.random() < 0.5:
                    value = payload_of(engine, key)
                    history.append(Operation(key, False, value, begin, time.monotonic()))
                elif random_.random() < 0.8:
                    value = (b"%d-%d|" % (number, step)).ljust(random_.choice([20, 700, 1500]), b"#")
                    engine.put(key, value)
                    history.append(Operation(key, True, value, begin, time.monotonic()))
                else:
                    engine.delete(key)
                    history.append(Operation(key, True, None, begin, time.monotonic()))
            return history

        with frequent_switches():
            histories = race(*[lambda number=number: work(number) for number in range(8)])
        assert violations([one for history in histories for one in history], evicts=False) == []
        check(engine)


def test_a_call_from_inside_a_write(tmp_path: Path) -> None:
    """What a finalizer or a signal handler writes in the middle of a write is done right after it."""
    with Engine(tmp_path, geometry=SMALL) as engine:
        engine.put("victim", b"v")
        files: Any = inside.shard(engine).files
        pwrite = files.pwrite
        between: list[object] = []

        def interrupted(fd: int, content: bytes, offset: int) -> object:
            if not between:
                between.append(engine.put("inner", b"i"))
                between.append(engine.delete("victim"))
                between.append(payload_of(engine, "victim"))
                engine.put("outer", b"inner")
            return pwrite(fd, content, offset)

        files.pwrite = interrupted
        engine.put("outer", b"o")
        assert between[0] is not None
        assert payload_of(engine, "inner") == b"i"
        assert engine.get("victim") is None
        assert payload_of(engine, "outer") == b"inner"
        check(engine)


class Interrupted(Exception):
    pass


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_a_signal_handler_that_raises(tmp_path: Path) -> None:
    """Wherever its exception strikes, the lock is free afterwards, and a value is whole or gone.

    In a process of its own: a descriptor that is struck before it has reached a variable stays open.
    """
    assert in_processes(1, lambda _: struck_at_any_time(tmp_path))[0] > 100


def struck_at_any_time(path: Path) -> int:
    """How often the work was struck."""

    def work(engine: Engine, key: str, step: int) -> None:
        signal.setitimer(signal.ITIMER_REAL, random_.uniform(1e-6, 60e-6))
        engine.put(key, (b"%d|" % step) * 30)
        engine.get(key)
        engine.delete(f"k{step % 4}")

    def strike(_: int, frame: FrameType | None) -> None:
        # A signal that came at the very end is handled when the work is done already.
        while frame is not None and frame.f_code is not work.__code__:
            frame = frame.f_back
        if frame is not None:
            raise Interrupted

    signal.signal(signal.SIGALRM, strike)
    struck = 0
    random_ = random.Random(5)
    with (
        no_collection(),
        Engine(path, geometry=SMALL) as engine,
        Engine(path, geometry=SMALL) as other,
    ):
        for number in range(9):  # files are open, and the index has its size
            engine.put(f"k{number}", b"0|" * 30)
            other.put("other", b"v")
        for step in range(1500):
            key = f"k{step % 9}"
            try:
                work(engine, key, step)
            except Interrupted:
                struck += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            found = payload_of(other, key)
            assert found is None or found == (found.split(b"|")[0] + b"|") * 30
            assert other.put("other", b"v") is not None, "the lock is held by nobody"
        for number in range(9):
            engine.put(f"k{number}", b"end")
            assert payload_of(other, f"k{number}") == b"end"
        engine.tick()  # what an interrupted step left behind
        check(engine, exact=False)
    return struck


def test_growth_keeps_everything(tmp_path: Path) -> None:
    """An index that doubles again and again loses nothing, and readers of the old one follow."""
    with Engine(tmp_path, geometry=ROOMY) as engine, Engine(tmp_path, geometry=ROOMY) as other:
        for number in range(1500):
            engine.put(f"{number}", b"%d" % number)
            assert payload_of(other, f"{number}") == b"%d" % number
        assert inside.shard(engine).files.index.capacity >= 2048
        assert all(payload_of(other, f"{number}") == b"%d" % number for number in range(1500))
        for number in range(1500):
            assert other.delete(f"{number}")[0] is True
        assert engine.stats().entries == 0
        for number in range(3000):
            engine.put("one", b"%d" % number)
            engine.delete("one")
        check(engine)


def test_second_chance(tmp_path: Path) -> None:
    """What is read stays while what is not goes."""
    with Engine(tmp_path, geometry=SMALL) as engine:
        engine.put("hot", b"h" * 300)
        for number in range(2000):
            engine.put(f"cold{number}", b"c" * 300)
            assert engine.get("hot") is not None, number
        assert engine.get("cold0") is None
        assert engine.stats().evictions > 1500
        check(engine)


def test_a_scan_uses_the_places_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that has moved since a slice of the index was read is looked for where it is.

    That holds while the index grows, too: the one in which the scan began does not follow the moves.
    """
    with Engine(tmp_path, geometry=replace(ROOMY, capacity=64)) as engine:
        keys = {f"k{number}" for number in range(9)}
        for key in keys:
            engine.put(key, b"old")
        glance = Shard._glance

        def looking(shard: Shard, location_word: int) -> Any:
            assert location_word in shard.files.index.slots.tolist()
            return glance(shard, location_word)

        monkeypatch.setattr(Shard, "_glance", looking)
        seen, scan = set(), engine.keys()
        generations = {inside.shard(engine).words[GENERATION]}
        for key in scan:
            seen.add(key)
            for more in range(20):
                engine.put(f"more{len(seen)}-{more}", b"")
            for moved in keys:
                engine.put(moved, b"new")
            generations.add(inside.shard(engine).words[GENERATION])
        assert seen >= keys
        assert len(generations) > 1, "the index has not grown"


def test_a_cut_short_write_goes_on(tmp_path: Path) -> None:
    """A pwrite that writes a part is followed by the rest."""
    with Engine(tmp_path, geometry=SMALL) as engine:
        files: Any = inside.shard(engine).files
        pwrite = files.pwrite
        files.pwrite = lambda fd, content, offset: pwrite(fd, content[:100], offset)
        engine.put("k", b"value" * 150)
        assert payload_of(engine, "k") == b"value" * 150


def test_a_hot_key_in_a_segment_removed_by_hand(tmp_path: Path) -> None:
    """A file that someone deletes under us is a miss, and writing goes on."""
    with Engine(tmp_path, geometry=SMALL) as engine, Engine(tmp_path, geometry=SMALL) as other:
        engine.put("k", b"v")
        for path in tmp_path.rglob("*.segment"):
            path.unlink()
        assert other.get("k") is None
        for number in range(60):
            other.put(f"k{number}", b"v" * 300)
        assert payload_of(other, "k59") == b"v" * 300


def test_effects_cost_nothing() -> None:
    """In normal use the replaceable effects are the builtins themselves, and the views are the mappings."""
    view = memoryview(bytearray(16))
    assert EFFECTS.pwrite is os.pwrite
    assert EFFECTS.words(view) is view
    assert EFFECTS.octets(view) is view


def test_many_tiny_values(tmp_path: Path) -> None:
    """Where the index takes as much as the values, it counts, and entries go before the limit does."""
    with Engine(tmp_path, 1 << 20) as engine:
        for number in range(20_000):
            engine.put(f"{number}", b"v")
            if number % 500 == 0:
                assert disk_usage(tmp_path) <= 1 << 20
        assert engine.get("19999") is not None
        assert engine.stats().evictions > 0
        check(engine)
        for files in [shard.files for shard in inside.shards(engine)]:
            taken = sum(size for _, size, _ in files.table.entries())
            index = os.stat(f"{files.folder.path}/{name_of(files.index.generation)}").st_size
            assert taken + index <= engine.geometry.quota
