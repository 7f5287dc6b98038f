"""Compaction: frees a segment, after copying the records worth keeping to the tail.

If a segment is less than half live, all its live records are copied. If there is none, the oldest segment
goes. Of that one only records are copied that were read since they were written or last spared, up to half a
segment: a second chance, as in the CLOCK algorithm (Corbato, 1968), with segments instead of pages. So every
freed segment yields at least half a segment. A step handles a limited number of records under one hold of the
lock. The cursor is in the control block, so the next writer goes on, also after a crash. A record that was
copied but not yet published is copied again.

No token changes: an evicted value is still the key's value, in any other tier that has it.
"""

from __future__ import annotations

import errno
from struct import error as StructError  # noqa: N812  # it is an exception, whatever struct calls it
from typing import Final

from cachekit.runtime.interrupts import is_interrupt
from cachekit.serialization.checksum import crc32
from cachekit.tiers.file.engine.control_block import ALONE, COPIED, CURSOR, NEW, TAIL
from cachekit.tiers.file.engine.format import (
    HEADER,
    SEGMENT_LIMIT,
    pack_location,
    record_size,
)
from cachekit.tiers.file.engine.shard_files import ShardFiles
from cachekit.tiers.file.engine.shard_lock import DamagedError

_LOW32: Final = (1 << 32) - 1
_WORD: Final = (1 << 64) - 1
_ALL: Final = 1 << 63  # in COPIED: copy every live record, not only those with a second chance
_SLICE: Final = 1000  # records that a write which needs space handles under one hold of the lock


def begin(files: ShardFiles) -> bool:
    """Choose a segment and set the cursor on it; False if there is none but the tail."""
    words = files.words
    segment_size = files.geometry.segment
    tail = words[TAIL] >> 32
    candidates = [entry for entry in files.own_entries() if entry[0] != tail]
    if not candidates:
        return False
    sparse = [entry for entry in candidates if not entry[1] & ALONE and entry[2] * 2 < segment_size]
    if sparse:
        number = min(sparse, key=lambda entry: entry[2])[0]
        words[COPIED] = _ALL
    else:
        candidates.sort()
        number = next((entry[0] for entry in candidates if not _is_spared(files, entry)), candidates[0][0])
        words[COPIED] = 0
    if number >= SEGMENT_LIMIT:
        raise DamagedError("a segment has a number that none can have")
    words[CURSOR] = number << 32
    return True


def _is_spared(files: ShardFiles, entry: tuple[int, int, int]) -> bool:
    """Tell whether a large record was read since the last time; if so, it stays this time."""
    number, size, _ = entry
    if not size & ALONE:
        return False
    at = files.slot_of_large(number)
    if at < 0 or not files.index.visited[at >> 1]:
        return False
    files.index.visited[at >> 1] = 0
    return True


def step(files: ShardFiles, most_records: int, most_bytes: int) -> bool:
    """Handle at most so many records or bytes; False if there is nothing to evict."""
    words = files.words
    number = words[CURSOR] >> 32
    if number and not files.table.find(number):
        words[CURSOR] = number = 0
    if not number:
        if not begin(files):
            if not words[TAIL]:
                return False
            # The tail is the only segment. It is freed without copying: copies would need as much space as
            # it frees, without end.
            words[TAIL] = 0
            if not begin(files):
                return False
            words[COPIED] = files.geometry.segment
        number = words[CURSOR] >> 32
    offset = start = words[CURSOR] & _LOW32
    segment_size = files.geometry.segment
    # As much as a step may handle, and one record more. A larger one has a file to itself, and is not copied.
    content = files.index.segments.piece(number, start, min(most_bytes, segment_size) + segment_size // 2)
    for _ in range(most_records):
        if offset >= start + most_bytes:
            break
        size = _copy_or_evict(files, content, start, number, offset)
        if not size:
            words[CURSOR] = 0
            files.remove_segment(number)
            return True
        offset += size
    words[CURSOR] = number << 32 | min(offset, _LOW32)
    return True


def free_space(files: ShardFiles, size: int) -> None:
    """Evict something, for a write of `size` bytes that found no space.

    Raises:
        OSError: there is nothing left to evict.
    """
    # While an index grows there are two. Each hold of the lock brings the end of that nearer.
    if not step(files, _SLICE, files.geometry.limit) and not files.words[NEW]:
        raise OSError(errno.ENOSPC, f"{files.folder.path} has no room for {size} bytes more")


def _copy_or_evict(files: ShardFiles, content: bytes, start: int, number: int, offset: int) -> int:
    """Copy or evict the record at an offset; return its size, or 0 at the end of the records.

    `content` is what the segment has from `start` on.
    """
    begin = offset - start
    try:
        crc, payload, key, names, _, tags, _, _, _, hashed, _ = HEADER.unpack_from(content, begin)
    except StructError:
        return 0
    size = record_size(key, names, payload, tags)
    if not hashed or (offset and begin + size > len(content)):
        return 0
    index = files.index
    at = index.find(hashed)
    if at < 0 or index.slots[at + 1] != pack_location(number, offset, size, crc):
        return size
    words = files.words
    copied = words[COPIED]
    keep = copied & _ALL or (index.visited[at >> 1] and (copied + size) * 2 <= files.geometry.segment)
    if keep:
        record = content[begin : begin + size]
        try:
            location_word = files.append(record, 0) if crc32(memoryview(record)[4:]) == crc else 0
        except OSError as error:
            if is_interrupt(error):
                raise
            location_word = 0  # the disk is full, and evicting this record frees some of it
        if location_word:
            words[COPIED] = copied + size & _WORD
            files.move(index, at, location_word, size)
            return size
    files.clear_slot(index, at)
    files.counter.evictions += 1
    return size
