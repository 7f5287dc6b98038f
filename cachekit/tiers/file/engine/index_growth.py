"""A shard's index becomes a larger one, or one without deleted slots, a little with every write.

Copying a whole index takes as long as the index is large, and all that time nobody else writes. So the
new file is filled beside the old one: whoever has the lock next copies some slots, and the cursor in the
control block says how far that went. Until all are copied only the old index counts. Readers know
nothing of the new one; writers store in both what lies behind the cursor, the old one first.

The two agree whenever nobody holds the lock. A process that dies in between leaves BUSY set, and then
the copy is thrown away and begins anew. All of this needs the lock of the shard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cachekit.tiers.file.engine import index as index_file
from cachekit.tiers.file.engine.control_block import (
    BUSY,
    CAPACITY,
    ENTRIES,
    GENERATION,
    LAST,
    NEW,
    NEW_CAPACITY,
    NEW_CURSOR,
    NEW_ENTRIES,
    NEW_USED,
    USED,
)
from cachekit.tiers.file.engine.format import SEGMENT_SHIFT
from cachekit.tiers.file.engine.index import Index, file_size

if TYPE_CHECKING:
    from cachekit.tiers.file.engine.shard_files import ShardFiles

#: Slots that one turn with the lock copies: about 30 us of work. An index that begins to grow has room
#: for a twentieth of its slots, so with this it is done long before that is used up.
_SLICE: Final = 128


def has_room(files: ShardFiles, index: Index) -> bool:
    """Whether one more slot may be used; growth begins in time, and if it has to, evicts for room."""
    words = files.words
    used = words[USED] + 1
    if used * 100 <= index.capacity * 55:
        return True
    if words[NEW]:
        return bool(used * 10 <= index.capacity * 6)
    capacity = index.capacity
    entries = words[ENTRIES]
    larger = capacity * 2 if entries * 10 >= capacity * 3 else capacity
    # Half of the quota at the most, for both; with many tiny values, entries go instead.
    enough = larger == capacity or file_size(capacity) + file_size(larger) <= files.geometry.quota // 2
    if not enough and entries * 20 <= capacity * 9:
        larger, enough = capacity, True
    # Beside the new file there must be room for the segment into which reclaim copies what was read.
    if not enough or files.room() < file_size(larger) + files.geometry.segment:
        files.free_space(file_size(larger))
    else:
        begin(files, index, larger)
    return False


def begin(files: ShardFiles, index: Index, capacity: int) -> None:
    """Make the file of another index, which holds nothing yet."""
    words = files.words
    # A number of its own for each attempt: others may still have the file of one that was thrown away.
    words[LAST] = generation = max(words[LAST], index.generation) + 1
    files.remove_index(generation)
    index_file.create(files.folder, generation, capacity, files.effects)
    words[NEW_CAPACITY] = capacity
    for at in (NEW_USED, NEW_ENTRIES, NEW_CURSOR, BUSY):
        words[at] = 0
    words[NEW] = generation


def _abandon(files: ShardFiles) -> None:
    """Throw the copy away; whoever needs more room begins anew."""
    generation = files.words[NEW]
    files.words[NEW] = 0
    files.remove_index(generation)


def _new_index(files: ShardFiles) -> Index | None:
    """The index that is being filled; None if it cannot be used."""
    generation = files.words[NEW]
    known = files.growing
    if known is not None and known.generation == generation:
        return known
    try:
        files.growing = known = Index(files.folder, generation, files.effects)
    except (ValueError, FileNotFoundError):
        return None
    return known


def step(files: ShardFiles, index: Index) -> Index:
    """Copy some slots; the index of the moment, which after the last of them is the new one.

    Left out are deleted slots, slots of segments that are gone, and slots that a probe for their own
    hash does not lead to: those are damage, and were misses before.
    """
    words = files.words
    if words[NEW] == index.generation:
        _finish(files)  # somebody died in the middle of that
        files.remove_strays()
        return index
    new = _new_index(files)
    if new is None or words[BUSY] or new.capacity != words[NEW_CAPACITY]:
        _abandon(files)
        return index
    words[BUSY] = 1
    start = words[NEW_CURSOR] & ~1
    old = index.slots[start : start + 2 * _SLICE].tolist()
    slots, mask, old_mask = new.slots, new.mask, index.mask
    segments: dict[int, int] = {}
    count = 0
    for at in range(0, len(old), 2):
        a, b = old[at], old[at + 1]
        if not b or not a & 1:
            continue
        segment = b >> SEGMENT_SHIFT
        if segment not in segments:
            segments[segment] = files.table.find(segment)
        if not segments[segment] or (a - 1 & old_mask != start + at and index.find(a) != start + at):
            continue
        to = a - 1 & mask
        while slots[to]:
            to = to + 2 & mask
        slots[to + 1] = b
        slots[to] = a
        if index.visited[start + at >> 1]:
            new.visited[to >> 1] = 1
        count += 1
    words[NEW_USED] += count
    words[NEW_ENTRIES] += count
    words[NEW_CURSOR] = start + len(old)
    words[BUSY] = 0
    if start + len(old) < 2 * index.capacity:
        return index
    _finish(files)
    now = files.open_index(new.generation)
    files.remove_index(index.generation)
    return now


def follow(files: ShardFiles, index: Index, at: int) -> None:
    """Have the new index say what a changed slot of the old one says, if that was copied already."""
    words = files.words
    if at < words[NEW_CURSOR]:
        new = _new_index(files)
        a, b = index.slots[at], index.slots[at + 1]
        to = -1 if new is None or not a & 1 else new.place(a)
        if new is None or to < 0:
            return  # damage: BUSY stays, and so this copy ends
        slots = new.slots
        if slots[to]:
            words[NEW_ENTRIES] = max(0, words[NEW_ENTRIES] + bool(b) - bool(slots[to + 1]))
            slots[to + 1] = b
        elif b:
            words[NEW_USED] += 1
            words[NEW_ENTRIES] += 1
            slots[to + 1] = b
            slots[to] = a
        new.visited[to >> 1] = 0
    words[BUSY] = 0


def _finish(files: ShardFiles) -> None:
    """The new index counts from now on. After a crash in here whoever has the lock next does it again."""
    words = files.words
    words[GENERATION] = words[NEW]
    # Both were as large or larger before: see `format` on counts.
    words[USED] = words[NEW_USED]
    words[ENTRIES] = words[NEW_ENTRIES]
    words[CAPACITY] = words[NEW_CAPACITY]
    words[NEW] = 0
    files.growing = None
