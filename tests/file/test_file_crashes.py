"""A small history stopped after every one of its effects: what is left is consistent, and complete."""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import inside
import pytest
from file_checks import SMALL, check

from cachekit import FileCache
from cachekit.model.entry import CacheEntry
from cachekit.testing.faults import CrashError, FullDisk, StoppingEffects
from cachekit.tiers.fences import WRITING
from cachekit.tiers.file import store_of
from cachekit.tiers.file.engine import compaction, flux, index_growth
from cachekit.tiers.file.engine.control_block import ALONE, COPIED, CURSOR, NEW, NEW_CURSOR, TAIL
from cachekit.tiers.file.engine.engine import Engine
from cachekit.tiers.file.engine.format import Geometry
from cachekit.tiers.file.engine.shard import Shard

ROOMY = replace(SMALL, limit=1 << 20)
Step = tuple[str, bytes | None]
#: Every effect, which takes minutes. The suite stops after some of them: odd strides tear every other one.
ALL = (pytest.mark.soak, pytest.mark.timeout(3600))


def value(number: int, size: int) -> bytes:
    return (b"%d:" % number).ljust(size, b".")


#: New keys until the index grows twice, overwrites, deletes, segments that roll, large values.
GROWING: list[Step] = [
    *[(f"k{n}", value(n, 150)) for n in range(12)],
    *[(f"k{n}", value(100 + n, 700)) for n in range(4)],
    *[(f"k{n}", None) for n in range(2, 6)],
    *[("large", value(n, 2000 + 3000 * n)) for n in range(3)],
    ("large", None),
    *[(f"k{n}", value(200 + n, 90)) for n in range(3, 9)],
]
#: More than there is room for: reclaim copies, spares and gives up.
CHURNING: list[Step] = [
    *[(f"c{n % 37}", value(n, 850)) for n in range(90)],
    *[(f"large{n % 3}", value(n, 9000)) for n in range(6)],
    *[(f"c{n}", None) for n in range(0, 30, 3)],
    *[(f"c{n}", value(300 + n, 700)) for n in range(12)],
]
#: With an index of 64 slots that is copied slot by slot: all kinds of writes on both sides of the cursor.
COPYING: list[Step] = [
    *[(f"k{n}", value(n, 20)) for n in range(36)],
    *[(f"k{n}", value(100 + n, 40)) for n in range(0, 36, 5)],
    *[(f"k{n}", None) for n in range(1, 36, 5)],
    *[(f"k{n}", value(200 + n, 40)) for n in range(1, 36, 10)],
    *[(f"n{n}", value(300 + n, 20)) for n in range(3)],
]


def play(engine: Engine, history: list[Step], done: Callable[[int], None], read: int | None = None) -> None:
    for number, (key, payload) in enumerate(history):
        if payload is None:
            engine.delete(key)
        else:
            engine.put(key, payload)
        if read is not None:
            engine.get(f"c{number % read}")
        done(number)


def state_after(history: list[Step], steps: int) -> dict[str, bytes]:
    state: dict[str, bytes] = {}
    for key, payload in history[:steps]:
        if payload is None:
            state.pop(key, None)
        else:
            state[key] = payload
    return state


def count_effects(path: Path, history: list[Step], geometry: Geometry, read: int | None) -> int:
    effects = StoppingEffects()
    with Engine(path, geometry=geometry, effects=effects) as engine:
        play(engine, history, lambda _: None, read)
    return effects.count


def play_until_crash(
    path: Path, history: list[Step], geometry: Geometry, read: int | None, allowed: int
) -> int:
    """How many operations were finished."""
    effects = StoppingEffects(allowed, torn=0.5 if allowed % 2 else 0.0)
    finished: list[int] = []
    engine = None
    try:
        engine = Engine(path, geometry=geometry, effects=effects)
        play(engine, history, finished.append, read)
    except CrashError:
        return len(finished)
    finally:
        if engine is not None:
            engine.close()
    raise AssertionError(f"it ended within {allowed} effects")


@pytest.mark.parametrize(
    ("history", "limit", "read", "stride"),
    [
        pytest.param(GROWING, 1 << 20, None, 13, id="growing"),
        pytest.param(GROWING, 1 << 20, None, 1, id="growing, all", marks=ALL),
        pytest.param(CHURNING, SMALL.limit, 5, 111, id="churning"),
        pytest.param(CHURNING, SMALL.limit, 5, 1, id="churning, all", marks=ALL),
    ],
)
def test_a_crash_after_every_effect(
    tmp_path: Path, history: list[Step], limit: int, read: int | None, stride: int
) -> None:
    """Every finished operation is kept, the one in flight is done or undone, and nothing is left over.

    Where entries are evicted, one may be gone; what is there is right.
    """
    geometry = replace(SMALL, limit=limit)
    evicts = read is not None
    total = count_effects(tmp_path / "whole", history, geometry, read)
    assert total > 300
    for allowed in range(0, total, stride):
        path = tmp_path / f"{allowed}"
        finished = play_until_crash(path, history, geometry, read, allowed)
        with Engine(path, geometry=geometry) as engine:
            check(engine, exact=False)
            engine.tick()
            files = inside.shard(engine).files
            named = {b >> 37 for b in files.index.slots[1::2].tolist()}
            assert {number for number, size, _ in files.table.entries() if size & ALONE} <= named
            before = state_after(history, finished)
            after = state_after(history, finished + 1)
            for key in {key for key, _ in history}:
                found = engine.get(key)
                payload = None if found is None else found.payload
                allowed_values = {before.get(key), after.get(key)} | ({None} if evicts else set())
                assert payload in allowed_values, f"{key} after {allowed} effects"
                if not evicts and before.get(key) == after.get(key):
                    assert payload == after.get(key)
            # And life goes on: the same again, without a crash.
            play(engine, history, lambda _: None, read)
            check(engine, exact=False)
            for key, expected in state_after(history, len(history)).items():
                found = engine.get(key)
                if found is None:
                    assert evicts, f"{key} was lost after {allowed} effects"
                else:
                    assert found.payload == expected


def rebuild(shard: Shard) -> None:
    """Have another index, with the same entries."""
    before = shard.locked_index()
    if not shard.words[NEW]:
        index_growth.begin(shard.files, before, max(64, before.capacity))
    while shard.locked_index() is before:
        pass


@pytest.mark.parametrize("stride", [13, pytest.param(1, marks=ALL)])
def test_a_crash_while_an_index_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    """Whatever stopped in the middle of the copy, and between a store in the old index and in the new one."""
    monkeypatch.setattr(index_growth, "_SLICE", 1)
    geometry = replace(ROOMY, capacity=64)
    first, then = COPYING[:35], COPYING[35:]
    with Engine(tmp_path / "first", geometry=geometry) as engine:
        play(engine, first, lambda _: None)
        assert not inside.shard(engine).words[NEW]
    shutil.copytree(tmp_path / "first", tmp_path / "whole")
    copies = 0
    for allowed in range(0, count_effects(tmp_path / "whole", then, geometry, None), stride):
        path = tmp_path / f"{allowed}"
        shutil.copytree(tmp_path / "first", path)
        finished = play_until_crash(path, then, geometry, None, allowed)
        before, after = (state_after(COPYING, len(first) + finished + extra) for extra in (0, 1))
        with Engine(path, geometry=geometry) as engine:
            shard = inside.shard(engine)
            copies += bool(shard.words[NEW] and shard.words[NEW_CURSOR])
            check(engine, exact=False)
            seen: dict[str, bytes | None] = {}
            for _ in range(2):
                for key in {key for key, _ in COPYING}:
                    found = engine.get(key)
                    payload = None if found is None else found.payload
                    assert payload in (before.get(key), after.get(key)), f"{key} after {allowed} effects"
                    assert seen.setdefault(key, payload) == payload, f"{key} after {allowed} effects"
                shard.lock.run(rebuild, shard)
            check(engine, bytes_drifted=True)
            play(engine, COPYING[-4:], lambda _: None)
            check(engine, bytes_drifted=True)
    assert copies > 100 // stride


def test_counts_are_right_again_after_the_index_is_rebuilt(tmp_path: Path) -> None:
    """A crash leaves counts too high at the most, and the next rebuild counts."""
    for allowed in range(100, 140, 3):
        play_until_crash(tmp_path / str(allowed), GROWING, SMALL, None, allowed)
        with Engine(tmp_path / str(allowed), geometry=SMALL) as engine:
            inside.shard(engine).lock.run(rebuild, inside.shard(engine))
            check(engine, bytes_drifted=True)


@pytest.mark.parametrize("torn", [0.0, 0.5])
def test_a_write_that_was_cut_off_hides_nothing_behind_it(tmp_path: Path, torn: float) -> None:
    """Reclaim walks over whatever a crash left in a segment, and finds the records that came later."""
    for allowed in range(20):
        path = tmp_path / str(allowed)
        effects = StoppingEffects(torn=torn)
        engine = Engine(path, geometry=ROOMY, effects=effects)
        engine.put("before", b"b" * 100)
        effects.allowed = effects.count + allowed
        with contextlib.suppress(CrashError):
            engine.put("cut off", b"c" * 900)
        engine.close()
        with Engine(path, geometry=ROOMY) as engine:
            for number in range(3):
                engine.put(f"after{number}", b"a" * 100)
            files = inside.shard(engine).files
            segment = files.words[TAIL] >> 32
            files.words[TAIL] = 0
            files.words[COPIED] = 1 << 63  # copy whatever is live
            files.words[CURSOR] = segment << 32
            while files.words[CURSOR]:
                assert inside.shard(engine).lock.run(compaction.step, files, 1, 1 << 20)
            assert not files.table.find(segment)
            for key in ("before", "after0", "after1", "after2"):
                assert engine.get(key) is not None, f"{key} after {allowed} effects"
            check(engine, exact=False)


def test_a_crash_in_flux_is_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that a dead writer left in flux keeps nobody from keeping values for ever."""
    from cachekit.tiers.file.engine import fence_tokens

    with Engine(tmp_path, geometry=SMALL) as engine:
        token = engine.put("k", b"v", in_progress=True)
        assert token is not None
        assert flux.is_alone(engine.token("k"), token)
        assert engine.add("k", b"v", engine.token("k")) is False
        monkeypatch.setattr(fence_tokens, "_ABANDONED", -1.0)
        settled = engine.token("k")
        assert not settled & WRITING
        assert settled != token
        assert engine.finish_write("k", token) is False
        assert engine.token("k") not in (token, settled)


def test_settling_ones_own_write(tmp_path: Path) -> None:
    """A write whose other half is done gets the token that it was made with."""
    with Engine(tmp_path, geometry=SMALL) as engine:
        token = engine.put("k", b"v", in_progress=True)
        assert token is not None
        assert engine.finish_write("k", token) is True
        assert engine.token("k") == token
        removed, token = engine.delete("k", in_progress=True)
        assert removed
        engine.put("k", b"w")
        assert engine.finish_write("k", token) is False


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_last_of_several_writes_ends_the_flux(tmp_path: Path, order: tuple[int, ...]) -> None:
    """Until then nobody may copy what is read: the other tiers may have the values in another order."""
    with Engine(tmp_path, geometry=SMALL) as engine:
        tokens = [engine.put("k", b"%d" % number, in_progress=True) for number in range(3)]
        for number in order[:-1]:
            token = tokens[number]
            assert token is not None
            assert engine.finish_write("k", token) is False
            assert engine.token("k") & WRITING
        last = tokens[order[-1]]
        assert last is not None
        assert engine.finish_write("k", last) is False
        assert not engine.token("k") & WRITING
        alone = engine.put("k", b"alone", in_progress=True)
        assert alone is not None
        assert engine.finish_write("k", alone) is True


@pytest.mark.parametrize(
    "change",
    [
        lambda engine: engine.put("k", b"other"),
        lambda engine: engine.delete("k"),
        lambda engine: engine.delete_many(["k"]),
        lambda engine: engine.delete_matching(re.compile("k")),
        lambda engine: engine.clear(),
        lambda engine: engine.renew_tokens(),
    ],
)  # fmt: skip
def test_no_change_ends_the_flux_of_another_write(tmp_path: Path, change: Callable[[Engine], object]) -> None:
    """A change that is over at once leaves the key in flux, and the write that is in progress ends it."""
    with Engine(tmp_path, geometry=SMALL) as engine:
        token = engine.put("k", b"v", in_progress=True)
        assert token is not None
        before = engine.token("k")
        change(engine)
        assert flux.others_in(engine.token("k")) == flux.others_in(before) != 0
        assert engine.token("k") != before
        assert engine.finish_write("k", token) is False
        assert not engine.token("k") & WRITING


def test_a_write_of_many_keys_ends_no_flux(tmp_path: Path) -> None:
    """A cache of files alone writes many keys, while one with a server, too, writes one of them."""
    with FileCache(tmp_path) as cache:
        flux = cache.put("k", CacheEntry("k", "v", time.time()), None, in_flux=True)
        assert flux is not None
        store = store_of(cache)
        assert store is not None
        store.write_many(dict.fromkeys(["k", *map(str, range(300))], "other"), math.inf, frozenset(), 0.0)
        assert cache.fence("k").token & WRITING
        assert not cache.fence("1").token & WRITING
        assert cache.settle(flux) is False
        assert not cache.fence("k").token & WRITING


def test_a_dead_writer_is_forgotten_though_the_key_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two seconds later, the writes of others end the flux, and so does a look at the token."""
    now = 8190.0  # the count of eighths of a second begins again at 8192 s
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Engine(tmp_path, geometry=SMALL) as engine:
        assert engine.put("k", b"of one that dies", in_progress=True)
        for _ in range(3):
            now += 1.0
            token = engine.put("k", b"v", in_progress=True)
            assert token is not None
            alone = engine.finish_write("k", token)
        assert alone is True
        assert engine.put("k", b"of another one", in_progress=True)
        now += 1.0
        engine.put("k", b"v")
        assert engine.token("k") & WRITING
        now += 1.5
        engine.put("k", b"v")
        assert not engine.token("k") & WRITING
        assert engine.put("k", b"of a third one", in_progress=True)
        now += 2.5
        assert not engine.token("k") & WRITING


def test_more_writes_in_flux_than_are_counted(tmp_path: Path) -> None:
    """The count stops at its end, and never becomes a part of another token."""
    with Engine(tmp_path, geometry=SMALL) as engine:
        tokens = [engine.put("k", b"v", in_progress=True) for _ in range(300)]
        assert flux.others_in(engine.token("k")) >> 55 == 255
        for token in tokens:
            assert token is not None
            engine.finish_write("k", token)
        assert not engine.token("k") & WRITING


def test_a_full_disk_turns_a_write_into_a_delete(tmp_path: Path) -> None:
    """What cannot be stored still invalidates: the older value is not served."""
    effects = FullDisk()
    with Engine(tmp_path, geometry=SMALL, effects=effects) as engine:
        for size in (10, 2000):
            engine.put("k", b"old")
            token = engine.token("k")
            effects.full = True
            with pytest.raises(OSError, match=r"No space") as caught:
                engine.put("k", b"n" * size)
            assert caught.value.errno == errno.ENOSPC
            assert engine.get("k") is None
            assert engine.token("k") not in (token, token | WRITING)
            effects.full = False
            assert engine.put("k", b"new")
            engine.tick()
            check(engine)


def test_a_disk_that_was_full_from_the_start_keeps_nobody_from_invalidating(tmp_path: Path) -> None:
    """Where nothing was ever stored there is nothing to make room for: a delete needs none."""
    effects = FullDisk()
    with Engine(tmp_path, geometry=SMALL, effects=effects) as engine:
        effects.full = True
        token = engine.token("k")
        assert engine.delete("k")[0] is False
        assert engine.token("k") != token
        effects.full = False
        assert engine.put("k", b"new")
        check(engine)


def test_a_value_that_can_never_fit(tmp_path: Path) -> None:
    """It is refused by an error that tells both sizes, and what it should have replaced is gone."""
    with Engine(tmp_path, geometry=SMALL) as engine:
        engine.put("k", b"old")
        with pytest.raises(ValueError, match=r"200000 bytes .* limit of 98304"):
            engine.put("k", bytes(200_000))
        assert engine.get("k") is None
        with pytest.raises(ValueError, match="200000"):
            engine.add("k", bytes(200_000), engine.token("k"))
        for number in range(20):
            engine.put(f"small{number}", bytes(100))
        largest = bytes(inside.shard(engine).files.largest() - 100)
        for number in range(10):
            engine.put(f"{number}", largest, expiry=math.inf)
            assert engine.get(f"{number}") is not None
            check(engine)


def test_segment_numbers_run_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the shard begins anew, in another incarnation, and goes on."""
    from cachekit.tiers.file.engine import shard_files

    with Engine(tmp_path, geometry=SMALL) as engine, Engine(tmp_path, geometry=SMALL) as other:
        engine.put("first", b"v")
        assert other.get("first") is not None
        monkeypatch.setattr(shard_files, "SEGMENT_LIMIT", 9)
        for number in range(200):
            engine.put(f"k{number % 20}", value(number, 800))
            found = other.get(f"k{number % 20}")
            assert found is not None
            assert found.payload == value(number, 800)
        assert inside.shard(engine).files.index.segments.incarnation > 2
        check(engine)
