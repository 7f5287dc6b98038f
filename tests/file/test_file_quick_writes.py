"""The short ways of writes, `put` and `put_many`: their conditions, and the words while others may look.

What a crash leaves after each step is in `test_file_crashes`.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import inside
import pytest
from file_checks import SMALL, check

from cachekit import FileCache, MemoryCache
from cachekit.tiers.fences import CHANGES, WRITING
from cachekit.tiers.file.engine import compaction, flux
from cachekit.tiers.file.engine.control_block import ALONE, COPIED, CURSOR, NEW, TAIL
from cachekit.tiers.file.engine.engine import Engine
from cachekit.tiers.file.engine.format import Geometry, record_parts, whole_record
from cachekit.tiers.file.engine.shard_files import ShardFiles
from cachekit.tiers.fresh_tokens import fresh
from cachekit.tiers.memory.tier import store_of

ROOMY = replace(SMALL, limit=8 << 20)
WIDE = Geometry(limit=4 << 20, shards=1, segment=256 << 10, buckets=64, tag_buckets=64)


def put(engine: Engine, payloads: Mapping[str, bytes], *, together: bool) -> None:
    """Store the payloads with the same shard's `put` or `put_many`."""
    if not together:
        for key, payload in payloads.items():
            engine.put(key, payload)
        return
    batch = []
    for key, payload in payloads.items():
        octets, hashed, shard, bucket = engine.locate(key)
        parts = record_parts(octets, hashed, payload, 1e12, 0, 0, (), 0.0, 0.0, b"", None)
        batch.append((hashed, whole_record(parts), bucket, fresh()))
    shard.lock.run(shard.put_many, batch)


def payload_of(engine: Engine, key: str) -> bytes | None:
    found = engine.get(key)
    return None if found is None else found.payload


def word_of(engine: Engine, key: str) -> int:
    _, _, shard, bucket = engine.locate(key)
    word: int = shard.tokens.words[bucket]
    return word


@pytest.mark.parametrize("together", [False, True])
def test_the_words_while_records_are_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    """The key is in flux, writes of it in other tiers still count, and there is news."""
    with Engine(tmp_path, geometry=ROOMY) as engine:
        bucket = engine.locate("k")[3]
        other = next(key for key in map(str, range(1000)) if engine.locate(key)[3] != bucket)
        engine.put("k", b"old")
        engine.put(other, b"old")
        engine.put("k", b"of a write that goes on in another tier", in_progress=True)
        going_on = flux.others_in(word_of(engine, "k"))
        assert going_on
        words = inside.shard(engine).tokens.words
        seen: list[tuple[int, int, int]] = []
        publish = ShardFiles.publish

        def looking(files: ShardFiles, *arguments: Any) -> None:
            seen.append((word_of(engine, "k"), word_of(engine, other), words[CHANGES]))
            publish(files, *arguments)

        monkeypatch.setattr(ShardFiles, "publish", looking)
        before = words[CHANGES]
        put(engine, {other: b"new", "k": b"new"}, together=together)
        (first, second) = seen if not together else seen[::-1]  # a batch begins at its end
        assert first[1] & ~flux.LOW == WRITING
        assert second[0] & ~flux.LOW == WRITING | going_on
        assert len({before, first[2], second[2]}) == 3
        assert flux.others_in(word_of(engine, "k")) == going_on
        assert not word_of(engine, other) & WRITING
        assert payload_of(engine, "k") == payload_of(engine, other) == b"new"


@pytest.mark.parametrize("together", [False, True])
def test_an_end_of_the_last_segment_that_is_damaged(tmp_path: Path, together: bool) -> None:
    """Records begin where a slot can say, so they are found."""
    with Engine(tmp_path, geometry=ROOMY) as engine:
        engine.put("k", b"1")
        inside.shard(engine).words[TAIL] += 1
        put(engine, {"k": b"2", "other": b"3"}, together=together)
        assert (payload_of(engine, "k"), payload_of(engine, "other")) == (b"2", b"3")
        check(engine, exact=False)


def test_a_record_over_a_quarter_of_a_segment(tmp_path: Path) -> None:
    """It has a file of its own, also where it would fit into the last segment."""
    with Engine(tmp_path, geometry=ROOMY) as engine:
        engine.put("k", b"1")
        engine.put("k", b"2" * 900)
        engine.put("other", b"3" * 1100)
        assert [size & ALONE for _, size, _ in inside.shard(engine).files.table.entries()] == [0, ALONE]
        assert (payload_of(engine, "k"), payload_of(engine, "other")) == (b"2" * 900, b"3" * 1100)
        check(engine)


@pytest.mark.parametrize("together", [False, True])
def test_a_write_that_is_cut_short(tmp_path: Path, together: bool) -> None:
    """The rest follows, or all of it is written again."""
    with Engine(tmp_path, geometry=ROOMY) as engine:
        engine.put("k", b"1")
        files: Any = inside.shard(engine).files
        pwrite = files.pwrite
        files.pwrite = lambda fd, content, offset: pwrite(fd, content[:50], offset)
        put(engine, {"k": b"2" * 700, "other": b"3" * 700}, together=together)
        files.pwrite = pwrite
        assert (payload_of(engine, "k"), payload_of(engine, "other")) == (b"2" * 700, b"3" * 700)
        check(engine)


@pytest.mark.parametrize("together", [False, True])
def test_no_slot_is_left(tmp_path: Path, together: bool) -> None:
    """Damage has filled all slots, and the counts say that there are free ones: the index is made again."""
    with Engine(tmp_path, geometry=ROOMY) as engine:
        engine.put("k", b"1")
        slots: Any = inside.shard(engine).files.writing.slots
        for at in range(0, len(slots), 2):
            slots[at] = slots[at] or 2 * at + 1
        put(engine, {"new": b"2", "newer": b"3"}, together=together)
        assert (payload_of(engine, "new"), payload_of(engine, "newer")) == (b"2", b"3")
        assert payload_of(engine, "k") == b"1"
        check(engine, exact=False)


@pytest.mark.parametrize("together", [False, True])
def test_overwriting_lets_an_index_grow(tmp_path: Path, together: bool) -> None:
    """Each write does a step of the growth under way, also one that needs neither slot nor segment."""
    with Engine(tmp_path, geometry=WIDE) as engine:
        words = inside.shard(engine).words
        number = 0
        while not words[NEW]:
            engine.put(f"k{number}", b"1")
            number += 1
        segment = words[TAIL] >> 32
        for _ in range(50):
            put(engine, {"k0": b"2", "k1": b"3"}, together=together)
        assert words[TAIL] >> 32 == segment
        assert not words[NEW]
        assert (payload_of(engine, "k0"), payload_of(engine, "k1"), payload_of(engine, "k2")) == (
            b"2", b"3", b"1",
        )  # fmt: skip
        check(engine)


@pytest.mark.parametrize("together", [False, True])
def test_writing_does_compaction_ahead(tmp_path: Path, together: bool) -> None:
    """Compaction that is under way goes on before the last segment is full."""
    with Engine(tmp_path, geometry=WIDE) as engine:
        words = inside.shard(engine).words
        number = 0
        while not words[CURSOR]:
            engine.put(f"k{number}", b"1" * 2000)
            number += 1
        begun, segment = (words[CURSOR], words[COPIED]), words[TAIL] >> 32
        for turn in range(20):
            put(engine, {f"l{turn}": b"2" * 2000, f"m{turn}": b"3" * 2000}, together=together)
        assert words[TAIL] >> 32 == segment
        assert (words[CURSOR], words[COPIED]) != begun
        check(engine)


@pytest.mark.parametrize("together", [False, True])
def test_a_copy_from_before_a_write(tmp_path: Path, together: bool) -> None:
    """Memory refuses it by its own fence, also where that of the files stands."""
    with MemoryCache(max_size=10, cleanup_interval=None) as memory, FileCache(tmp_path) as files:
        store = store_of(memory)
        changes, now = store.fences.changes, store.time.time()
        if together:
            store.break_fences(["another", "k"])
        else:
            store.break_fence("k")
        store.put_copy("k", 1, now, now + 60, now + 60, changes, files.fence("k"))
        assert memory.get_value("k") is None
        store.put_copy("k", 2, now, now + 60, now + 60, store.fences.changes, files.fence("k"))
        assert memory.get_value("k") == 2


@pytest.mark.parametrize("cut", [False, True])
def test_compaction_that_fails_after_a_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: bool
) -> None:
    """The write raises what compaction does, and its value stays, whichever way it went."""

    def failing(*_: object) -> bool:
        raise OSError(errno.EIO, "the test's disk")

    with Engine(tmp_path, geometry=WIDE) as engine:
        shard: Any = inside.shard(engine)
        number = 0
        while not shard.words[CURSOR]:
            engine.put(f"k{number}", b"1" * 2000)
            number += 1
        pwrite = shard.files.pwrite
        if cut:
            shard.files.pwrite = lambda fd, content, offset: pwrite(fd, content[:50], offset)
        monkeypatch.setattr(compaction, "step", failing)
        shard._owed = 1 << 20
        with pytest.raises(OSError, match="the test's disk"):
            engine.put("k", b"2" * 100)
        monkeypatch.undo()
        shard.files.pwrite = pwrite
        assert payload_of(engine, "k") == b"2" * 100
        check(engine)
