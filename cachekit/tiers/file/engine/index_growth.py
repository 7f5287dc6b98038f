"""Index growth: replaces a shard's index by a larger one, or by one without deleted slots, in small steps.

Copying a whole index takes time, and no other write could run until it ends. So a new file is filled beside
the old one: each holder of the lock copies some slots, and the cursor in the control block says how far the
copy is. Until all slots are copied, only the old index counts. Readers do not use the new one. Writers store
in both what lies before the cursor, in the old one first (`ShardFiles.publish`).

The two agree whenever the lock is free. A process that dies in between leaves BUSY set. Then the copy is
thrown away, and starts again. All of this needs the lock of the shard.
"""

from __future__ import annotations

from typing import Final

from cachekit.tiers.file.engine import compaction
from cachekit.tiers.file.engine import index as index_file
from cachekit.tiers.file.engine.control_block import (
    BUSY,
    COUNT,
    ENTRIES,
    NEW,
    NEW_CAPACITY,
    NEW_CHECK,
    NEW_CURSOR,
    NEW_ENTRIES,
    NEW_USED,
)
from cachekit.tiers.file.engine.format import SEGMENT_SHIFT
from cachekit.tiers.file.engine.index import Index, file_size
from cachekit.tiers.file.engine.shard_files import ShardFiles
from cachekit.tiers.file.engine.shard_lock import DamagedError
from cachekit.tiers.fresh_tokens import fresh

#: Slots that one hold of the lock copies, about 30 us of work. An index that begins to grow has room for a
#: twentieth of its slots, so growth ends long before that is used up.
_SLICE: Final = 128


def make_room(files: ShardFiles, index: Index) -> None:
    """Do a step towards a free slot, for a write that found none: start growth, or evict entries."""
    words = files.words
    if words[NEW]:
        return  # growth is under way, and each hold of the lock continues it
    capacity = index.capacity
    entries = words[ENTRIES]
    larger = capacity * 2 if entries * 10 >= capacity * 3 else capacity
    # Both files may take half of the quota. If many tiny values would need more, entries are evicted instead.
    enough = larger == capacity or file_size(capacity) + file_size(larger) <= files.quota() // 2
    if not enough and entries * 20 <= capacity * 9:
        larger, enough = capacity, True
    # Beside the new file there must be room for the segment into which compaction copies.
    if not enough or files.room() < file_size(larger) + files.geometry.segment:
        compaction.free_space(files, file_size(larger))
    else:
        begin(files, index, larger)


def begin(files: ShardFiles, index: Index, capacity: int) -> None:
    """Make the file of another index, which is empty."""
    words = files.words
    # Each attempt has its own number: another process may have the file of an abandoned one mapped.
    # It is random: a damaged word must not lead back to one of those.
    generation = index.generation
    while generation == index.generation:
        generation = index.generation >> 32 << 32 | (fresh() & COUNT or 1)
    files.remove_index(generation)
    index_file.create(files.folder, generation, capacity, files.effects)
    words[NEW_CAPACITY] = capacity
    for at in (NEW_USED, NEW_ENTRIES, NEW_CURSOR, BUSY):
        words[at] = 0
    words[NEW_CHECK] = generation
    words[NEW] = generation


def _abandon(files: ShardFiles) -> None:
    """Throw the copy away; the next write that needs a slot starts another one."""
    generation = files.words[NEW]
    files.words[NEW] = 0
    files.remove_index(generation)


def step(files: ShardFiles, index: Index) -> Index:
    """Copy some slots; return the current index, which after the last of them is the new one.

    Deleted slots and slots of removed segments are left out. So are slots that a probe for their own hash
    does not reach: those are damaged, and were misses before. An entry that finds no place is lost: without
    damage there is one.
    """
    words = files.words
    if words[NEW] == index.generation:
        files.use_new_index()  # a process died in the middle of that
        files.remove_strays()
        return index
    new = files.new_index()
    start = words[NEW_CURSOR]
    if (
        new is None
        or words[BUSY]
        or new.capacity != words[NEW_CAPACITY]
        or new.generation >> 32 != index.generation >> 32
        # A wrong cursor would leave out what was changed behind it.
        or words[NEW_CHECK] != start ^ new.generation
    ):
        _abandon(files)
        return index
    words[BUSY] = 1
    old = index.slots[start : start + 2 * _SLICE].tolist()
    slots, mask, old_mask, most = new.slots, new.mask, index.mask, new.probes
    segments: dict[int, int] = {}
    count = 0
    for at in range(0, len(old), 2):
        hash_word, location_word = old[at], old[at + 1]
        if not location_word or not hash_word & 1:
            continue
        segment = location_word >> SEGMENT_SHIFT
        if segment not in segments:
            segments[segment] = files.table.find(segment)
        at_home = hash_word - 1 & old_mask == start + at
        if not segments[segment] or not (at_home or index.find(hash_word) == start + at):
            continue
        to = hash_word - 1 & mask
        probes = most
        while slots[to] and probes:
            to = to + 2 & mask
            probes -= 1
        if not probes:
            continue  # damage has filled the new index; the entry is lost
        slots[to + 1] = location_word
        slots[to] = hash_word
        if index.visited[start + at >> 1]:
            new.visited[to >> 1] = 1
        count += 1
    words[NEW_USED] = words[NEW_USED] + count & COUNT
    words[NEW_ENTRIES] = words[NEW_ENTRIES] + count & COUNT
    words[NEW_CURSOR] = start + len(old)
    words[NEW_CHECK] = start + len(old) ^ new.generation
    words[BUSY] = 0
    if start + len(old) < 2 * index.capacity:
        return index
    try:
        # Opened again first: the file may have been damaged since this process has mapped it.
        index_file.map_file(files.folder, new.generation, files.geometry.most_slots, read_only=True)
        files.use_new_index()
        now = files.open_index(new.generation)
    except (ValueError, FileNotFoundError):
        if words[NEW]:
            _abandon(files)
            return index
        raise DamagedError("the new index is damaged") from None
    files.remove_index(index.generation)
    return now
