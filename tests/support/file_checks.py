"""What must be true of every cache directory at rest, looked at from inside and outside."""

from __future__ import annotations

import os

import inside

from cachekit.tiers.file.engine.control_block import (
    BUSY,
    ENTRIES,
    NEW,
    NEW_CURSOR,
    NEW_ENTRIES,
    NEW_USED,
    USED,
)
from cachekit.tiers.file.engine.engine import Engine
from cachekit.tiers.file.engine.file_ops import EFFECTS
from cachekit.tiers.file.engine.format import Geometry
from cachekit.tiers.file.engine.index import Index, name_of
from cachekit.tiers.file.engine.segments import length_at
from cachekit.tiers.file.engine.shard_files import ShardFiles

#: One shard, a few segments of a page each: growth, rolls and reclaim come within a few dozen writes.
SMALL = Geometry(limit=96 << 10, shards=1, segment=4096, buckets=64, tag_buckets=64, capacity=8)


def disk_usage(path: str | os.PathLike[str]) -> int:
    """What `du` says, in bytes; files that go meanwhile count nothing."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in [".", *names]:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:
                pass
    return total


def open_files(directory: str | os.PathLike[str]) -> list[str]:
    """What the descriptors of this process lead to in a directory, whatever else others open and close."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except FileNotFoundError:  # closed by another thread
            pass
    return [name for name in found if name.startswith(os.fspath(directory) + os.sep)]


def check(engine: Engine, *, exact: bool = True, bytes_drifted: bool = False) -> None:
    """The invariants of `format`. Counts may be too high after a crash: then they are not `exact`.

    Those of live bytes stay so (`bytes_drifted`) when the index is rebuilt.
    """
    for shard in inside.shards(engine):
        files = shard.files
        index = shard.lock.run(shard.locked_index)
        assert index is not None
        slots = index.slots.tolist() if hasattr(index.slots, "tolist") else list(index.slots)
        pairs = [(a, b) for a, b in zip(slots[::2], slots[1::2], strict=True) if a]
        live = [(a, b) for a, b in pairs if b]
        entries = files.table.entries()
        names = {index.segments.name(number) for number, _, _ in entries}
        names |= {"lock", name_of(index.generation)}
        if files.words[NEW]:
            names.add(name_of(files.words[NEW]))
            check_growth(files, index)
        found = set(files.folder.names())
        assert len({a for a, _ in pairs}) == len(pairs), "a key has two slots"
        for a, _ in pairs:
            at = index.find(a)
            assert at >= 0, "a slot is out of reach"
            assert slots[at] == a
        numbers = {number for number, _, _ in entries}
        assert {b >> 37 for _, b in live} <= numbers, "a slot names a segment that is gone"
        live_bytes = dict.fromkeys(numbers, 0)
        for _, b in live:
            live_bytes[b >> 37] += _record_size(index, b)
        counted = {number: alive for number, _, alive in entries}
        assert all(counted[number] >= live_bytes[number] for number in numbers), "a count is too low"
        if exact:
            assert bytes_drifted or counted == live_bytes
            assert found == names
            assert files.words[USED] == len(pairs)
            assert files.words[ENTRIES] == len(live)
        else:
            assert found <= names
            assert files.words[USED] >= len(pairs)
            assert files.words[ENTRIES] >= len(live)
        assert files.words[USED] * 10 <= index.capacity * 6 + 10
    assert disk_usage(engine.path) <= engine.geometry.limit


def check_growth(files: ShardFiles, index: Index) -> None:
    """The index that is being filled says what the old one says of the slots before the cursor."""
    assert not files.words[BUSY]
    new = Index(files.folder, files.words[NEW], files.geometry.most_slots, EFFECTS)
    old, copied = index.slots.tolist()[: files.words[NEW_CURSOR]], new.slots.tolist()
    # B without A is an insert that a crash cut off: nobody finds it, and nobody copies it.
    expected = {a: b for a, b in zip(old[::2], old[1::2], strict=True) if a and b}
    assert {a: b for a, b in zip(copied[::2], copied[1::2], strict=True) if b} == expected
    assert files.words[NEW_USED] == sum(1 for a in copied[::2] if a)
    assert files.words[NEW_ENTRIES] == len(expected)
    assert all(copied[new.find(a)] == a for a in copied[::2] if a)


def _record_size(index: Index, b: int) -> int:
    return length_at(*index.segments.load(b >> 37, b >> 15 & ((1 << 17) - 1) << 5, 1 << 20))
