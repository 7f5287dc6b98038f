"""The files of one shard, and every step by which they change.

All but `open_index`, `largest` and `bytes_taken` needs the lock of the shard, and is called from an
operation of `shard`. The order of the steps is the one that `format` explains; `reclaim` chooses what
goes for room.
"""

from __future__ import annotations

import errno
import threading
from contextlib import suppress
from struct import error as StructError  # noqa: N812  # it is an exception, whatever struct calls it
from typing import Final, final

from cachekit.tiers.file.engine import compaction, control_block, index_growth
from cachekit.tiers.file.engine import index as index_file
from cachekit.tiers.file.engine.control_block import (
    ALONE,
    BUSY,
    CAPACITY,
    CURSOR,
    ENTRIES,
    GENERATION,
    NEW,
    NEW_CAPACITY,
    NEXT,
    TAIL,
    USED,
    Table,
)
from cachekit.tiers.file.engine.file_ops import FileOps
from cachekit.tiers.file.engine.format import (
    DATA_NAME,
    HEADER,
    LENGTH_MASK,
    LENGTH_SHIFT,
    LONG,
    OFFSET_MASK,
    OFFSET_SHIFT,
    PAGE,
    SEGMENT_LIMIT,
    SEGMENT_SHIFT,
    UNIT,
    Geometry,
    place,
)
from cachekit.tiers.file.engine.index import NO_INDEX, Index, file_size
from cachekit.tiers.file.engine.segments import Content, Segments, length_at, write_all
from cachekit.tiers.file.engine.shard_lock import AGAIN, Again
from cachekit.tiers.file.folder import Folder

_LOW32: Final = (1 << 32) - 1
_SLICE: Final = 1000  # records, or slots, that one lock hold or one look of a scan goes through
_LOOKS: Final = 4  # at an index that is being replaced, before the lock is asked
_PACE: Final = 1 << 16  # bytes of reclaim that a writer lets gather before it does them


class _NumbersUsedUpError(Exception):
    """The last segment number was given away: the shard begins anew."""


@final
class Counter:
    """What one process has seen an engine do, over all shards. Bumped under a lock, each shard its own."""

    __slots__ = ("damaged", "evictions", "expirations")

    def __init__(self) -> None:
        self.evictions = 0
        self.expirations = 0
        self.damaged = 0


@final
class ShardFiles:
    """Index, segments and control block of one shard.

    Args:
        folder: the directory of the shard; it is there as soon as its lock was held.
        words: its control block.
        geometry: of the whole directory.
        most_mapped: how many segments to keep mapped.
        effects: by which it changes files.
    """

    index: Index  #: the last one that this process saw
    growing: Index | None  #: the last one that this process saw being filled

    __slots__ = (
        "_most_mapped", "_most_shared", "_owed", "_pwrite", "_segment_size", "_writing", "counter", "effects",
        "folder", "geometry", "growing", "index", "opening", "table", "words",
    )  # fmt: skip

    def __init__(
        self, folder: Folder, words: memoryview, geometry: Geometry, most_mapped: int, effects: FileOps
    ) -> None:
        self.folder = folder
        self.words = words
        self.geometry = geometry
        self._most_mapped = most_mapped
        self.effects = effects
        self._pwrite = effects.pwrite
        self._segment_size = geometry.segment
        #: A larger record gets a file of its own.
        self._most_shared = geometry.segment >> 2
        self._owed = 0
        self.counter = Counter()
        self.table = Table(words, geometry)
        # No file is touched before somebody asks for a key of this shard.
        self.index = NO_INDEX
        self.growing = None
        #: The last one that was seen under the lock.
        self._writing = NO_INDEX
        #: Held while an index is opened; see `open_index`.
        self.opening = threading.RLock()

    # -- life -------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Take up what is there if it is sound, or begin anew; and clear what crashes left."""
        try:
            entries = self.table.entries()
            if not self._is_sound(entries):
                raise ValueError("the control block is damaged")
            self.open_index(self.words[GENERATION])
        except (ValueError, FileNotFoundError):
            self.reset()
            entries = []
        self.words[CAPACITY] = self.index.capacity
        segments = self.index.segments
        for number, size, _ in entries:
            # A file that was cut, or an entry that was changed: readers would find out, the limit not.
            should = self.geometry.segment
            if size & ALONE:
                should = -(-segments.length(number) // PAGE) * PAGE + ALONE
            if size != should:
                self.remove_segment(number)
        self.remove_strays()

    def _is_sound(self, entries: list[tuple[int, int, int]]) -> bool:
        words = self.words
        numbers = [number for number, _, _ in entries]
        if (
            words[0] != control_block.MAGIC
            or len(set(numbers)) != len(numbers)
            or max(numbers, default=0) >= words[NEXT]
            or words[NEXT] > SEGMENT_LIMIT
        ):
            return False
        tail, offset = words[TAIL] >> 32, words[TAIL] & _LOW32
        return not tail or (tail in numbers and offset <= self.geometry.segment and not offset % UNIT)

    def reset(self) -> None:
        """Begin anew, under the lock: an empty index of a new incarnation, and no segments.

        First the generation becomes one that has no file: a crash anywhere from here on is a reason to
        begin anew, and numbers of this incarnation are given to nobody.
        """
        words = self.words
        incarnation = (words[GENERATION] >> 32) + 1 & (1 << 31) - 1 or 1
        words[GENERATION] = incarnation << 32
        for at in range(TAIL, len(words)):
            if words[at]:
                words[at] = 0
        words[NEXT] = 1
        generation = incarnation << 32 | 1
        self._remove_all_but(set())
        # A full disk has their blocks back only now, and needs them for what follows.
        self.index.segments.forget_all_but(())
        index_file.create(self.folder, generation, self.geometry.capacity, self.effects)
        words[CAPACITY] = self.geometry.capacity
        words[GENERATION] = generation
        words[0] = control_block.MAGIC
        self.open_index(generation)

    def remove_strays(self) -> None:
        """Remove what a crash left behind, and let go of what others removed; under the lock."""
        index, words = self.index, self.words
        in_use = (words[TAIL] >> 32, words[CURSOR] >> 32)
        numbers = set()
        for number, _, live in self.table.entries():
            if live or number in in_use:
                numbers.add(number)
            else:
                self.remove_segment(number)
        known = {index.segments.name(number) for number in numbers}
        known |= {index_file.name_of(at) for at in (index.generation, words[NEW])}
        self._remove_all_but(known)
        index.segments.forget_all_but(numbers)

    def remove_orphans(self) -> None:
        """Remove large records that no slot names: their writer died between the file and the slot.

        Reclaim would come to them, but only when room is needed.
        """
        for number, size, _ in self.table.entries():
            if size & ALONE and self.slot_of_large(number) < 0:
                self.remove_segment(number)

    def slot_of_large(self, number: int) -> int:
        """The word at which the slot begins that names this file of one record; -1 if there is none."""
        try:
            hashed = HEADER.unpack(self.index.segments.head(number, HEADER.size))[6]
        except StructError:
            return -1
        at = self.index.find(hashed)
        return at if at >= 0 and self.index.slots[at + 1] >> SEGMENT_SHIFT == number else -1

    def _remove_all_but(self, known: set[str]) -> None:
        """Remove index and segment files of other names."""
        for name in filter(DATA_NAME.fullmatch, self.folder.names()):
            if name not in known:
                with suppress(IsADirectoryError):  # a directory, which is none of ours
                    self.effects.unlink(self.folder, name)

    def close(self) -> None:
        """Give back what is open for writing."""
        with self.opening:  # a reader that meets another index does it too
            self.index.segments.close_writer()

    # -- the index of the moment ------------------------------------------------------------------------

    def remove_index(self, generation: int) -> None:
        """Remove the file of an index, if it is there."""
        try:
            self.effects.unlink(self.folder, index_file.name_of(generation))
        except FileNotFoundError:
            pass

    def open_index(self, generation: int) -> Index:
        """Have the index of that generation for `index`; raises as `Index` does."""
        # Readers come here without the lock of the shard; two that opened the same would lose one.
        with self.opening:
            before = self.index
            if before.generation == generation:
                return before
            index = Index(self.folder, generation, self.effects)
            incarnation = generation >> 32
            if before.segments.incarnation == incarnation:
                index.segments = before.segments
            else:
                before.segments.close_writer()
                index.segments = Segments(
                    self.folder, incarnation, self.geometry.segment, self._most_mapped, self.effects
                )
            self.index = index
            return index

    def locked_index(self) -> Index:
        """The index, under the lock, after some of its growth; a damaged one is dropped."""
        index, words = self._writing, self.words
        if index.generation != words[GENERATION]:
            index = self._take_up()
        if words[NEW]:
            index = self._writing = index_growth.step(self, index)
        return index

    def _take_up(self) -> Index:
        """What `locked_index` does when there is another index than before, or none was seen so far."""
        if self._writing is NO_INDEX:
            self._begin()
        else:
            try:
                self.open_index(self.words[GENERATION])
            except (ValueError, FileNotFoundError):
                self.counter.damaged += 1
                self.reset()
        self._writing = self.index
        return self.index

    # -- the steps of a write ---------------------------------------------------------------------------

    def make_room(self, hashed: int, record: bytes) -> tuple[Index, int, int] | Again:
        """Append the record: the index, its slot, and the B to store there. AGAIN after making room."""
        index, words = self._writing, self.words
        if index.generation != words[GENERATION] or words[NEW]:
            index = self.locked_index()
        slots, mask = index.slots, index.mask
        at = hashed - 1 & mask
        # What `index.place` and `append` do for most records, without their calls.
        a = slots[at]
        if a and a != hashed:
            at = index.place(hashed)
            a = slots[at] if at >= 0 else 0
        if at < 0 or (not a and not index_growth.has_room(self, index)):
            return AGAIN
        size, tail, (segment, fd) = len(record), words[TAIL], index.segments.writing
        offset = tail & _LOW32
        if (
            size <= self._most_shared
            and tail >> 32 == segment
            and offset + size <= self._segment_size
            and self._pwrite(fd, record, offset) == size
        ):
            words[TAIL] = tail + size
            return index, at, place(segment, offset, size, int.from_bytes(record[:4], "little"))
        try:
            b = self.append(record, 1)
        except _NumbersUsedUpError:
            self.reset()
            return AGAIN
        if b:
            return index, at, b
        self.free_space(len(record))
        return AGAIN

    def free_space(self, size: int) -> None:
        """Some of what is stored goes.

        Raises:
            OSError: there is nothing left that could.
        """
        # While an index grows, there are two; each turn with the lock brings that nearer to its end.
        if not compaction.step(self, _SLICE, self.geometry.limit) and not self.words[NEW]:
            raise OSError(errno.ENOSPC, f"{self.folder.path} has no room for {size} bytes more")

    def append(self, record: bytes, spare: int) -> int:
        """Write a record beyond the tail; the B that names it, or 0 if that needs room first.

        Args:
            record: encoded.
            spare: how many segments must be left free for reclaim to copy into.
        """
        size = len(record)
        if size > self._most_shared:
            return self._append_alone(record, spare)
        words = self.words
        segment, offset = words[TAIL] >> 32, words[TAIL] & _LOW32
        if not segment or offset + size > self.geometry.segment:
            segment, offset = self._roll(spare), 0
            if not segment:
                return 0
        try:
            fd = self.index.segments.writer(segment)
        except FileNotFoundError:
            words[TAIL] = 0  # someone removed it by hand
            return self.append(record, spare)
        write_all(self._pwrite, fd, record, offset)
        words[TAIL] = segment << 32 | offset + size
        return place(segment, offset, size, int.from_bytes(record[:4], "little"))

    def _append_alone(self, record: bytes, spare: int) -> int:
        """`append` for a record that is too large to share a file."""
        size = len(record)
        segment = self._new_number(-(-size // PAGE) * PAGE + ALONE, spare)
        if not segment:
            return 0
        try:
            self.index.segments.create_alone(segment, record)
        except BaseException:
            # Nothing will name it; and where the disk is full, it has taken the last of it.
            self.remove_segment(segment)
            raise
        return place(segment, 0, size, int.from_bytes(record[:4], "little"))

    def publish(self, index: Index, at: int, hashed: int, b: int, size: int) -> None:
        """Have the slot name a record that was appended."""
        words, slots, table = self.words, index.slots, self.table
        before = slots[at + 1]
        growing = words[NEW]
        if growing:
            words[BUSY] = 1
        # Counts go up first and down last, so that a crash leaves them too high: see `format`.
        table.gain(b >> SEGMENT_SHIFT, size)
        if slots[at]:
            if not before:
                words[ENTRIES] += 1
            slots[at + 1] = b
        else:
            before = 0  # of an insert that a crash cut off between B and A
            words[USED] += 1
            words[ENTRIES] += 1
            slots[at + 1] = b
            slots[at] = hashed
        index.visited[at >> 1] = 0
        if growing:
            index_growth.follow(self, index, at)
        if before:
            self._lose(index, before)

    def move(self, index: Index, at: int, b: int, size: int) -> None:
        """Have the slot name a copy of its record."""
        before = index.slots[at + 1]
        self.table.gain(b >> SEGMENT_SHIFT, size)
        self._change(index, at, b)
        self._lose(index, before)

    def clear_slot(self, index: Index, at: int) -> None:
        """The entry is no more."""
        before = index.slots[at + 1]
        self._change(index, at, 0)
        self.words[ENTRIES] = max(0, self.words[ENTRIES] - 1)
        self._lose(index, before)

    def _change(self, index: Index, at: int, b: int) -> None:
        growing = self.words[NEW]
        if growing:
            self.words[BUSY] = 1
        index.slots[at + 1] = b
        index.visited[at >> 1] = 0
        if growing:
            index_growth.follow(self, index, at)

    def _lose(self, index: Index, b: int) -> None:
        """Count the record that a slot named before off its segment, and remove a segment that is dead."""
        segment = b >> SEGMENT_SHIFT
        length = b >> LENGTH_SHIFT & LENGTH_MASK
        if length == LONG:
            offset = b >> OFFSET_SHIFT & OFFSET_MASK
            content: Content | None = index.segments.mapped.get(segment)
            try:
                if content is None:
                    content = index.segments.head(segment, offset + HEADER.size)
                length = length_at(content, offset)
            except StructError:
                length = 0
        left = self.table.lose(segment, length)
        words = self.words
        if not left and segment != words[TAIL] >> 32 and segment != words[CURSOR] >> 32:
            self.remove_segment(segment)

    def remove_segment(self, segment: int) -> None:
        """Unlink first: the table names every file there is, also after a crash between the two."""
        self.index.segments.unlink(segment)
        self.table.remove(segment)

    def room(self) -> int:
        """Bytes that are left of the quota."""
        new = file_size(self.words[NEW_CAPACITY]) if self.words[NEW] else 0
        return self.geometry.quota - self.table.total() - file_size(self.index.capacity) - new

    def largest(self) -> int:
        """The largest record that there would be room for if all others went; without a lock."""
        words = self.words
        # A shard that nobody has used will have an index, too.
        capacity = max(self.geometry.capacity, words[CAPACITY], words[NEW_CAPACITY] if words[NEW] else 0)
        index = file_size(capacity)
        return self.geometry.quota - self.geometry.segment - index - PAGE

    def bytes_taken(self) -> int:
        """Bytes that index and segments take on disk; without a lock, so a moment old."""
        words = self.words
        unused = self.geometry.segment - (words[TAIL] & _LOW32) if words[TAIL] else 0
        index = file_size(words[CAPACITY]) + (file_size(words[NEW_CAPACITY]) if words[NEW] else 0)
        return self.table.total() + index - unused if words[GENERATION] else 0

    def _roll(self, spare: int) -> int:
        """A new segment for the tail; 0 if there is no room for it."""
        size = self.geometry.segment
        if self.room() < size * (1 + spare):
            return 0
        self.remove_strays()
        segment = self._new_number(size, spare)
        if segment:
            self.index.segments.create(segment)
            self.words[TAIL] = segment << 32
            if not self.words[CURSOR] and self.room() < 2 * size:
                compaction.begin(self)
        return segment

    def _new_number(self, on_disk: int, spare: int) -> int:
        """The number of a new file, entered into the table; 0 if there is no room for it."""
        if self.room() < on_disk + spare * self.geometry.segment:
            return 0
        number: int = self.words[NEXT]
        if number >= SEGMENT_LIMIT:
            if not spare:
                return 0  # for reclaim, which then gives up what it would have copied
            raise _NumbersUsedUpError
        self.words[NEXT] = number + 1
        return number if self.table.add(number, on_disk) else 0

    def compact_a_little(self, size: int) -> None:
        """Do some of the reclaim that is under way, so that it ends before the next segment is needed."""
        self._owed += 2 * size
        if self._owed >= _PACE:
            owed, self._owed = self._owed, 0
            if self.words[CURSOR]:
                compaction.step(self, _SLICE, owed)
