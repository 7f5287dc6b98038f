"""Room: which segment goes, and which of its records are copied to the tail first.

A segment of which less than half is live is emptied by copying; if there is none, the oldest goes, and
only the records that were read since they were written, or last spared, are copied, up to half a
segment of them: a second chance, as in the CLOCK algorithm (Corbato, 1968), with segments for its hand.
So every segment given up yields at least half of one. A step handles at most so many records under one
hold of the lock; the cursor is in the control block, so whoever writes next goes on, also after a crash,
and a record that was copied but not yet published is simply copied again.

No token changes: an evicted value is still the key's value, in whatever other tier holds it.
"""

from __future__ import annotations

from struct import error as StructError  # noqa: N812  # it is an exception, whatever struct calls it
from typing import TYPE_CHECKING, Final
from zlib import crc32

from cachekit.tiers.file.engine.control_block import ALONE, COPIED, CURSOR, TAIL
from cachekit.tiers.file.engine.format import HEADER, UNIT, place, record_size

if TYPE_CHECKING:
    from cachekit.tiers.file.engine.segments import Content
    from cachekit.tiers.file.engine.shard_files import ShardFiles

_LOW32: Final = (1 << 32) - 1
_ALL: Final = 1 << 63  # in COPIED: copy every live record, not only those with a second chance


def begin(files: ShardFiles) -> bool:
    """Choose a segment and set the cursor on it; False if there is none but the tail."""
    words = files.words
    segment_size = files.geometry.segment
    tail = words[TAIL] >> 32
    candidates = [entry for entry in files.table.entries() if entry[0] != tail]
    if not candidates:
        return False
    sparse = [entry for entry in candidates if not entry[1] & ALONE and entry[2] * 2 < segment_size]
    if sparse:
        number = min(sparse, key=lambda entry: entry[2])[0]
        words[COPIED] = _ALL
    else:
        candidates.sort()
        number = next((entry[0] for entry in candidates if not _spared(files, entry)), candidates[0][0])
        words[COPIED] = 0
    words[CURSOR] = number << 32
    return True


def _spared(files: ShardFiles, entry: tuple[int, int, int]) -> bool:
    """Whether a large record was read since we were here; if so, it may stay this time."""
    number, size, _ = entry
    if not size & ALONE:
        return False
    at = files.slot_of_large(number)
    if at < 0 or not files.index.visited[at >> 1]:
        return False
    files.index.visited[at >> 1] = 0
    return True


def step(files: ShardFiles, most_records: int, most_bytes: int) -> bool:
    """Go on, or begin, with at most so many records or bytes; False if there is nothing to give up."""
    words = files.words
    number = words[CURSOR] >> 32
    if number and not files.table.find(number):
        words[CURSOR] = number = 0
    if not number:
        if not begin(files):
            if not words[TAIL]:
                return False
            # The tail is all there is. It goes, and nothing of it is copied: that would need as much room
            # as it gives, for ever.
            words[TAIL] = 0
            if not begin(files):
                return False
            words[COPIED] = files.geometry.segment
        number = words[CURSOR] >> 32
    offset = words[CURSOR] & _LOW32
    content = files.index.segments.load(number)
    end = min(offset + most_bytes, _LOW32)
    for _ in range(most_records):
        if offset >= end:
            break
        size = 0 if content is None else _one(files, content, number, offset)
        if not size:
            words[CURSOR] = 0
            files.remove_segment(number)
            return True
        offset += size
    words[CURSOR] = number << 32 | offset
    return True


def _one(files: ShardFiles, content: Content, number: int, offset: int) -> int:
    """Copy or give up the record there; its size, or 0 where the records end."""
    try:
        crc, payload, key, _, tags, _, hashed, _ = HEADER.unpack_from(content, offset)
    except StructError:
        return 0
    size = record_size(key, payload, tags)
    if not hashed or offset + size > -(-len(content) // UNIT) * UNIT:
        return 0
    index = files.index
    at = index.find(hashed)
    if at < 0 or index.slots[at + 1] != place(number, offset, size, crc):
        return size
    words = files.words
    copied = words[COPIED]
    keep = copied & _ALL or (index.visited[at >> 1] and (copied + size) * 2 <= files.geometry.segment)
    if keep:
        record = content[offset : offset + size]
        try:
            b = files.append(record, 0) if crc32(memoryview(record)[4:]) == crc else 0
        except OSError:
            b = 0  # the disk is full, and giving this up is what helps
        if b:
            words[COPIED] = copied + size
            files.move(index, at, b, size)
            return size
    files.clear_slot(index, at)
    files.counter.evictions += 1
    return size
