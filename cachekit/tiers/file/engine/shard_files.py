"""The files of one shard, and every step by which they change.

All methods but `open_index`, `largest` and `bytes_taken` need the lock of the shard; `shard` holds it. The
order of the steps is the one that `format` explains. This module does not choose what to evict, and does not
fill a larger index: `compaction` and `index_growth` do, when `shard` calls them.
"""

from __future__ import annotations

import enum
import threading
from struct import error as StructError  # noqa: N812  # it is an exception, whatever struct calls it
from typing import Final, TypeAlias, final

from cachekit.runtime.free_lock import run_if_free
from cachekit.runtime.interrupts import raise_interrupt
from cachekit.runtime.reentrant_lock import RLock
from cachekit.tiers.file.descriptor_budget import descriptors
from cachekit.tiers.file.engine import control_block
from cachekit.tiers.file.engine import index as index_file
from cachekit.tiers.file.engine.control_block import (
    ALONE,
    BUSY,
    BYTES,
    CAPACITY,
    COUNT,
    CURSOR,
    ENTRIES,
    GENERATION,
    NEW,
    NEW_CAPACITY,
    NEW_CHECK,
    NEW_CURSOR,
    NEW_ENTRIES,
    NEW_USED,
    NEXT,
    TAIL,
    USED,
    Table,
    problem_of,
)
from cachekit.tiers.file.engine.file_ops import FileOps, regrow
from cachekit.tiers.file.engine.format import (
    CRC_MASK,
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
    FileAside,
    Geometry,
    LargeRecord,
    pack_location,
)
from cachekit.tiers.file.engine.index import NO_INDEX, Index, file_size
from cachekit.tiers.file.engine.large_room import LargeRoom
from cachekit.tiers.file.engine.segments import Content, RemovedError, Segments, discard, length_at, write_all
from cachekit.tiers.file.engine.shard_lock import AGAIN, Again, DamagedError
from cachekit.tiers.file.folder import Folder
from cachekit.tiers.fresh_tokens import fresh

_LOW32: Final = (1 << 32) - 1
_SLICE: Final = 2000  # words that are read at once
_TOGETHER: Final = 1 << 18  # bytes that one write of several records takes at most


class Lack(enum.Enum):
    """What a write needs before it can be done."""

    SLOT = "SLOT"
    SPACE = "SPACE"


NO_SLOT: Final = Lack.SLOT
NO_SPACE: Final = Lack.SPACE
#: Position of a slot, and the location word to store there.
Appended: TypeAlias = tuple[int, int]


class _NumbersUsedUpError(Exception):
    """All segment numbers were used: the shard is emptied, and begins with new ones."""


@final
class Counter:
    """What this process did in one shard. Changed under the shard's lock."""

    __slots__ = ("damaged", "evictions", "expirations")

    def __init__(self) -> None:
        self.evictions = 0
        self.expirations = 0
        self.damaged = 0


@final
class ShardFiles:
    """Index, segments and control block of one shard.

    Args:
        folder: the directory of the shard; it exists once the lock was held.
        words: its control block.
        geometry: of the whole directory.
        large: the room that the large records of all shards share.
        most_mapped: how many segments to keep mapped.
        effects: the operations that change files.
    """

    index: Index  #: the last one that this process opened
    writing: Index  #: the last one that this process opened under the lock
    needs_compaction: bool  #: whether a new segment has left too little room for another one

    __slots__ = (
        "_growing", "_large", "_most_mapped", "_parked", "aside", "counter", "effects", "folder", "geometry",
        "index", "most_shared", "needs_compaction", "opening", "pwrite", "segment_size", "table", "words",
        "writing",
    )  # fmt: skip

    def __init__(
        self,
        folder: Folder,
        words: memoryview,
        geometry: Geometry,
        large: LargeRoom,
        most_mapped: int,
        effects: FileOps,
    ) -> None:
        self.folder = folder
        self.words = words
        self.geometry = geometry
        self._large = large
        #: The files of large records that this process writes, and that no slot names yet.
        self.aside: set[FileAside] = set()
        self._most_mapped = most_mapped
        self.effects = effects
        self.pwrite = effects.pwrite
        self.segment_size = geometry.segment
        #: Bytes of the largest record that shares a file with others.
        self.most_shared = geometry.segment >> 2
        self.counter = Counter()
        self.table = Table(words, geometry)
        # No file is opened before the first operation on a key of this shard.
        self.index = self.writing = NO_INDEX
        self.needs_compaction = False
        self._parked: Index | None = None  # the last index, if it was not used since `rest`
        self._growing: Index | None = None  # the last one that this process saw being filled
        #: Held while an index is opened.
        self.opening = RLock()

    # -- life -------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Open the index if all is sound, or reset the shard; and remove what crashes left."""
        try:
            if problem_of(self.words, self.geometry):
                raise ValueError("the control block is damaged")
            self.open_index(self.words[GENERATION])
        except (ValueError, FileNotFoundError):
            self.reset()
        self.words[CAPACITY] = self.index.capacity
        self.remove_strays()

    def mend(self) -> None:
        """Make the stored words sound, which contradict each other: count again, or else empty the shard."""
        self.counter.damaged += 1
        try:
            self.open_index(self.words[GENERATION])
            self.recount()
            sound = not problem_of(self.words, self.geometry)
        except (ValueError, FileNotFoundError):
            sound = False
        if not sound:
            self.reset()
        self.writing = self.index

    def recount(self) -> None:
        """Count slots, entries and live bytes again. Slots out of reach, or without a segment, are cleared.

        A copy of the index that is under way is given up.
        """
        index, words = self.index, self.words
        words[NEW] = 0
        used = entries = 0
        live: dict[int, int] = {}
        for start in range(0, 2 * index.capacity, _SLICE):
            pairs = index.slots[start : start + _SLICE].tolist()
            for at in range(0, len(pairs), 2):
                hash_word, location_word = pairs[at], pairs[at + 1]
                used += hash_word != 0
                if not location_word:
                    continue
                segment = location_word >> SEGMENT_SHIFT
                if index.find(hash_word) != start + at or not self.table.find(segment):
                    index.slots[start + at + 1] = 0
                    continue
                entries += 1
                live[segment] = live.get(segment, 0) + self._length(index, location_word)
        words[CAPACITY], words[USED], words[ENTRIES] = index.capacity, used, entries
        self.table.set_live(live)

    def reset(self) -> None:
        """Empty the shard, under the lock: a new index of a new incarnation, and no segments.

        First the generation becomes one that has no file. A crash at any later point then leads to another
        reset. The incarnation is random: a damaged word must not lead back to one that a process has open.
        """
        words = self.words
        incarnation = fresh() & (1 << 31) - 1 or 1
        words[GENERATION] = incarnation << 32
        for at in range(TAIL, len(words)):
            if words[at]:
                words[at] = 0
        words[NEXT] = 1
        generation = incarnation << 32 | 1
        self._remove_all_but(set())
        self.index.segments.forget_all_but(())
        index_file.create(self.folder, generation, self.geometry.capacity, self.effects)
        words[CAPACITY] = self.geometry.capacity
        words[GENERATION] = generation
        words[0] = control_block.MAGIC
        self.open_index(generation)

    def remove_strays(self) -> None:
        """Remove what a crash left, and release what other processes removed; under the lock."""
        index, words = self.index, self.words
        busy = (words[TAIL] >> 32, words[CURSOR] >> 32)
        numbers = set()
        for number, size, live in self.table.entries():
            in_use = live or number in busy or self._is_being_written(number, size)
            # If the file was cut, grown or removed, readers notice that, but the limit does not hold.
            if in_use and size == index.segments.size_on_disk(number, size):
                numbers.add(number)
            else:
                self.remove_segment(number)
        known = {index.segments.name(number) for number in numbers}
        known |= {index_file.name_of(at) for at in (index.generation, words[NEW])}
        self._remove_all_but(known)
        index.segments.forget_all_but(numbers)

    def regrow(self) -> None:
        """Give an index that was cut its size back, and have segments looked at again; without the lock."""
        if self.index is NO_INDEX:
            return
        self.index.segments.distrust()
        for index in (self.index, self._parked, self._growing):
            if index is not None and index.generation >= 0:  # not one that stands for a closed one
                name = index_file.name_of(index.generation)
                was_cut = regrow(self.folder, name, file_size(index.capacity), self.effects)
                if was_cut and self.words[NEW]:
                    # A key that is gone from one index may still be in the other, where no later write
                    # replaces or removes it. With a wrong check the new index is given up.
                    self.words[NEW_CHECK] ^= 1

    def remove_orphans(self) -> None:
        """Remove large records that no slot names: their writer died between the file and the slot.

        Compaction would remove them too, but only when space is needed.
        """
        for number, size, live in self.table.entries():
            orphaned = size & ALONE and self.slot_of_large(number) < 0
            if orphaned and (live or not self._is_being_written(number, size)):
                self.remove_segment(number)

    def _is_being_written(self, number: int, size: int) -> bool:
        return self._large.is_large(size) and self.index.segments.is_being_written(number)

    def own_entries(self) -> list[tuple[int, int, int]]:
        """Return number, size and live bytes of the segments that are in the shard's share of the limit."""
        return [entry for entry in self.table.entries() if not self._large.is_large(entry[1])]

    def slot_of_large(self, number: int) -> int:
        """Return the position of the slot that names this file of one record; -1 if there is none."""
        try:
            hashed = HEADER.unpack(self.index.segments.piece(number, 0, HEADER.size))[9]
        except StructError:
            return -1
        at = self.index.find(hashed)
        return at if at >= 0 and self.index.slots[at + 1] >> SEGMENT_SHIFT == number else -1

    def _remove_all_but(self, known: set[str]) -> None:
        """Remove index and segment files of other names."""
        for name in filter(DATA_NAME.fullmatch, self.folder.names()):
            if name not in known:
                if name.endswith(".segment"):
                    discard(self.folder, name, self.geometry.segment, self.effects)
                else:
                    self._unlink(name)

    def close(self) -> None:
        """Close the descriptor that is open for writing."""
        with self.opening:  # a reader that opens another index closes it too
            self.index.segments.close_writer()

    # -- the current index ------------------------------------------------------------------------------

    def remove_index(self, generation: int) -> None:
        """Remove the file of an index, if it is there."""
        self._unlink(index_file.name_of(generation))

    def _unlink(self, name: str) -> None:
        try:
            self.effects.unlink(self.folder, name)
        except (FileNotFoundError, IsADirectoryError):
            pass  # no cache makes directories here

    def open_index(self, generation: int) -> Index:
        """Make the index of that generation `index`; raise as `Index` does."""
        # Readers call this without the lock of the shard. Two that open the same index would leak one.
        with self.opening:
            before = self.index
            if before.generation == generation:
                return before
            parked, self._parked = self._parked, None
            if parked is not None and parked.generation == generation:
                self.index = parked
                return parked
            descriptors.make_room()
            index = Index(self.folder, generation, self.geometry.most_slots, self.effects)
            incarnation = generation >> 32
            if before.segments.incarnation == incarnation:
                index.segments = before.segments
            else:
                before.segments.close_writer()
                index.segments = Segments(
                    self.folder,
                    incarnation,
                    self.geometry.segment,
                    self.geometry.largest_record,
                    self._most_mapped,
                    self.effects,
                )
            self.index = index
            return index

    def held(self) -> int:
        """Return how many descriptors are open."""
        index = self.index
        mapped = (index.generation >= 0) + (self._parked is not None) + (self._growing is not None)
        return mapped + index.segments.held() + self.folder.held()

    def rest(self) -> bool:
        """Close all descriptors if the index was not used since the last call; no operation is under way."""
        return bool(run_if_free(self.opening, self._rest))

    def _rest(self) -> bool:
        index = self.index
        if index.generation >= 0:
            # Readers and writers find another generation, and take it back in open_index().
            self._parked = index
            resting = index_file.resting(index.segments)
            self.index = resting
            if self.writing is not NO_INDEX:
                self.writing = resting
            return False
        if not self.held():
            return False
        self._parked = self._growing = None
        index.segments.rest()
        self.folder.rest()
        return True

    def take_up_index(self) -> Index:
        """Open the index that the control block names now; a damaged one is dropped."""
        if self.writing is NO_INDEX:
            self._begin()
        else:
            try:
                self.open_index(self.words[GENERATION])
            except (ValueError, FileNotFoundError):
                self.counter.damaged += 1
                self.reset()
        self.writing = self.index
        return self.index

    def new_index(self) -> Index | None:
        """Return the index that is being filled; None if it cannot be used."""
        generation = self.words[NEW]
        known = self._growing
        if known is not None and known.generation == generation:
            return known
        try:
            self._growing = known = Index(self.folder, generation, self.geometry.most_slots, self.effects)
        except (ValueError, FileNotFoundError):
            return None
        return known

    def use_new_index(self) -> None:
        """Make the new index the current one. After a crash in here, the next lock holder does it again."""
        words = self.words
        words[GENERATION] = words[NEW]
        # Both counts were as large or larger before: counts are too high after a crash, never too low.
        words[USED] = words[NEW_USED]
        words[ENTRIES] = words[NEW_ENTRIES]
        words[CAPACITY] = words[NEW_CAPACITY]
        words[NEW] = 0
        self._growing = None

    # -- the steps of a write ---------------------------------------------------------------------------

    def append_for(self, index: Index, hashed: int, record: bytes | LargeRecord) -> Appended | Lack | Again:
        """Append the record, and find its slot; or tell what is missing. AGAIN after a reset of the shard."""
        at = index.place(hashed)
        if at < 0 or (not index.slots[at] and not self.may_use_slot(index)):
            return NO_SLOT
        try:
            location_word = self.append(record, 1)
        except _NumbersUsedUpError:
            self.reset()
            return AGAIN
        return (at, location_word) if location_word else NO_SPACE

    def append_together(self, index: Index, records: list[tuple[int, bytes, int, int]]) -> list[int]:
        """Append records from the end of the list in one write; return their location words in that order.

        Returns:
            An empty list if fewer than two fit: beyond the tail, or into the index without growth.
        """
        words = self.words
        tail, (segment, fd) = words[TAIL], index.segments.writing
        offset = tail & _LOW32
        if words[NEW] or tail >> 32 != segment or offset % UNIT:
            return []
        slots = index.capacity * 55 // 100 - words[USED]  # as may_use_slot()
        room = min(self.segment_size - offset, _TOGETHER)
        content: list[bytes] = []
        locations: list[int] = []
        size = 0
        for at in range(len(records) - 1, max(len(records) - 1 - slots, -1), -1):
            record = records[at][1]
            length = len(record)
            if length > self.most_shared or size + length > room:
                break
            # As pack_location(), without its call.
            locations.append(
                segment << SEGMENT_SHIFT
                | offset + size << OFFSET_SHIFT
                | (length if length < LONG else LONG) << LENGTH_SHIFT  # noqa: FURB136  # a call costs more
                | int.from_bytes(record[:4], "little") & CRC_MASK
            )
            content.append(record)
            size += length
        try:
            if len(content) < 2 or self.pwrite(fd, b"".join(content), offset) != size:
                return []
        except OSError as error:
            raise_interrupt(error)
            return []  # each record by itself: it may fit, or it fails with the error for its key
        words[TAIL] = tail + size
        return locations

    def may_use_slot(self, index: Index) -> bool:
        """Tell whether the index has room for one more key, without growth."""
        # Growth begins at 0.55 of the slots. While it lasts, writes may use the rest up to 0.6.
        used = self.words[USED] + 1
        if used > index.capacity:
            raise DamagedError("more slots are in use than there are")
        return bool(used * 100 <= index.capacity * (60 if self.words[NEW] else 55))

    def append(self, record: bytes | LargeRecord, spare: int) -> int:
        """Write a record beyond the tail; return its location word, or 0 if there is no space.

        Args:
            record: encoded.
            spare: how many segments must stay free for compaction to copy into.
        """
        size = len(record)
        if not isinstance(record, bytes):
            return self._append_alone(record, spare)
        words = self.words
        segment, offset = words[TAIL] >> 32, words[TAIL] & _LOW32
        if not segment or offset % UNIT or offset + size > self.geometry.segment:
            segment, offset = self._roll(spare), 0
            if not segment:
                return 0
        try:
            fd = self.index.segments.writer(segment)
        except FileNotFoundError:
            words[TAIL] = 0  # a user removed the file
            return self.append(record, spare)
        write_all(self.pwrite, fd, record, offset)
        words[TAIL] = segment << 32 | offset + size
        return pack_location(segment, offset, size, int.from_bytes(record[:4], "little"))

    def _append_alone(self, record: LargeRecord, spare: int) -> int:
        """`append` for a record that is too large to share a file."""
        aside = record.aside
        if aside is not None:
            if not self._is_there(aside):
                raise RemovedError
            return pack_location(aside.number, 0, record.size, record.crc)
        segment = self._new_number(-(-record.size // PAGE) * PAGE + ALONE, spare)
        if not segment:
            return 0
        try:
            self.index.segments.create_alone(segment, record.parts)
        except BaseException:
            # No slot will name it, and on a full disk it holds the last free blocks.
            self.remove_segment(segment)
            raise
        return pack_location(segment, 0, record.size, record.crc)

    def _next_number(self) -> int:
        number: int = self.words[NEXT]
        if number <= max([used for used, _, _ in self.table.entries()], default=0) and number < SEGMENT_LIMIT:
            raise DamagedError("the number of the next segment was used before")
        return number

    def _is_there(self, aside: FileAside) -> bool:
        """Tell whether the shard was not reset since the file was made."""
        return self.words[GENERATION] >> 32 == aside.incarnation and self.table.find(aside.number) > 0

    # -- records that are written without the lock ------------------------------------------------------

    def begin_aside(self, size: int) -> FileAside | None:
        """Make the file of a large record, which is written without the lock; None if the table is full.

        Its bytes count from now on, and so every shard has less room.
        """
        number = self._next_number()
        if number >= SEGMENT_LIMIT:
            self.reset()
            number = self.words[NEXT]
        self.words[NEXT] = number + 1
        if not self.table.add(number, -(-size // PAGE) * PAGE + ALONE):
            return None
        try:
            file = self.index.segments.create_aside(number, size)
        except BaseException:
            self.remove_segment(number)
            raise
        aside = FileAside(self.words[GENERATION] >> 32, number, file)
        self.aside.add(aside)
        return aside

    def end_aside(self, aside: FileAside) -> None:
        """Close the file, and remove it unless a slot names it."""
        self.aside.discard(aside)
        try:
            if self._is_there(aside) and not self.table.live(aside.number):
                self.remove_segment(aside.number)
        finally:
            aside.file.close()

    def forget_others_asides(self) -> None:
        """Close the files that threads of the parent process write; this is a forked child."""
        # Without this, their locks would last as long as the child.
        for aside in self.aside:
            if aside.thread != threading.get_ident():
                aside.file.close()
        self.aside.clear()

    def evict_large(self, number: int, spares: bool) -> bool:
        """Remove a large record; with `spares`, not one that was read since the last time."""
        place = self.table.find(number)
        if not place or not self._large.is_large(self.words[place + 1]):
            return False
        index, at = self.index, self.slot_of_large(number)
        if at >= 0:
            if spares and index.visited[at >> 1]:
                index.visited[at >> 1] = 0
                return False
            self.clear_slot(index, at)
            self.counter.evictions += 1
        if self.table.find(number):
            if not self.table.live(number) and self.index.segments.is_being_written(number):
                return False
            self.remove_segment(number)
        return True

    def mtime(self, number: int) -> int:
        """Return when the file of a segment was last written, in nanoseconds; 0 if it was removed."""
        found = self.folder.look(self.index.segments.name(number))
        return 0 if found is None else found.st_mtime_ns

    def publish(self, index: Index, at: int, location_word: int, hashed: int, size: int) -> None:
        """Store the location word of a record that was appended in its slot."""
        words, slots, places = self.words, index.slots, self.table.places
        before = slots[at + 1]
        growing = words[NEW]
        if growing:
            words[BUSY] = 1
        # Counts go up first and down last, so that a crash leaves them too high; `format` explains why.
        segment = location_word >> SEGMENT_SHIFT
        # As in Table.gain() and lose(), whose calls take a tenth of a write.
        place = places.get(segment, 0)
        if words[place] == segment:
            words[place + 2] = words[place + 2] + size & BYTES
        else:
            self.table.gain(segment, size)
        if slots[at]:
            if not before:
                words[ENTRIES] = words[ENTRIES] + 1 & COUNT
            slots[at + 1] = location_word
        else:
            before = 0  # it belongs to an insert that a crash cut off before its hash word
            words[USED] = words[USED] + 1 & COUNT
            words[ENTRIES] = words[ENTRIES] + 1 & COUNT
            if slots[at + 2 & index.mask]:
                self._clear_hidden(index, at, hashed)
            slots[at + 1] = location_word
            slots[at] = hashed
        index.visited[at >> 1] = 0
        if growing:
            self._follow(index, at)
        if before:
            length = before >> LENGTH_SHIFT & LENGTH_MASK
            segment = before >> SEGMENT_SHIFT
            place = places.get(segment, 0)
            if length != LONG and words[place] == segment and words[place + 2] > length:
                words[place + 2] -= length
            elif before != location_word:
                self._lose(index, before)

    def _clear_hidden(self, index: Index, at: int, hashed: int) -> None:
        """Clear a slot of this hash that a probe no longer reached, because damage made the one before it 0.

        If the other slot were damaged too, the old value would be found again.
        """
        slots, mask = index.slots, index.mask
        for _ in range(index.probes):
            at = at + 2 & mask
            if not slots[at]:
                return
            if slots[at] == hashed and slots[at + 1]:
                self._change(index, at, 0)

    def move(self, index: Index, at: int, location_word: int, size: int) -> None:
        """Store the location word of a copy of a record in its slot."""
        before = index.slots[at + 1]
        self.table.gain(location_word >> SEGMENT_SHIFT, size)
        self._change(index, at, location_word)
        self._lose(index, before)

    def clear_slot(self, index: Index, at: int) -> None:
        """Remove the entry of a slot."""
        before = index.slots[at + 1]
        self._change(index, at, 0)
        self.words[ENTRIES] = max(0, self.words[ENTRIES] - 1)
        self._lose(index, before)

    def _change(self, index: Index, at: int, location_word: int) -> None:
        growing = self.words[NEW]
        if growing:
            self.words[BUSY] = 1
        index.slots[at + 1] = location_word
        index.visited[at >> 1] = 0
        if growing:
            self._follow(index, at)

    def _follow(self, index: Index, at: int) -> None:
        """Change the slot in the index that is being filled too, if it was copied already."""
        words = self.words
        if at < words[NEW_CURSOR]:
            new = self.new_index()
            hash_word, location_word = index.slots[at], index.slots[at + 1]
            to = -1 if new is None or not hash_word & 1 else new.place(hash_word)
            if new is None or to < 0:
                return  # damage: BUSY stays set, and so this copy is abandoned
            slots = new.slots
            if slots[to]:
                difference = bool(location_word) - bool(slots[to + 1])
                words[NEW_ENTRIES] = max(0, words[NEW_ENTRIES] + difference) & COUNT
                slots[to + 1] = location_word
            elif location_word:
                words[NEW_USED] = words[NEW_USED] + 1 & COUNT
                words[NEW_ENTRIES] = words[NEW_ENTRIES] + 1 & COUNT
                slots[to + 1] = location_word
                slots[to] = hash_word
            new.visited[to >> 1] = 0
        words[BUSY] = 0

    def _lose(self, index: Index, location_word: int) -> None:
        """Subtract a record from its segment; remove a segment without live bytes."""
        segment = location_word >> SEGMENT_SHIFT
        # Of a file of one record this is all, whatever its header says: it may be damaged.
        alone = self.table.is_alone(segment)
        length = self.table.live(segment) if alone else self._length(index, location_word)
        left = self.table.lose(segment, length)
        words = self.words
        if not left and segment != words[TAIL] >> 32 and segment != words[CURSOR] >> 32:
            self.remove_segment(segment)

    def _length(self, index: Index, location_word: int) -> int:
        """Return the size of the record at a location; 0 if it is gone."""
        length = location_word >> LENGTH_SHIFT & LENGTH_MASK
        if length != LONG:
            return length
        segment = location_word >> SEGMENT_SHIFT
        offset = location_word >> OFFSET_SHIFT & OFFSET_MASK
        content: Content | None = index.segments.mapped[segment]
        if content is None:
            content, offset = index.segments.load(segment, offset, HEADER.size)
        try:
            return length_at(content, offset)
        except StructError:
            return 0

    def remove_segment(self, segment: int) -> None:
        """Remove a segment's file, then its entry: the table names every file, also after a crash between."""
        if self.words[TAIL] >> 32 == segment:
            self.words[TAIL] = 0  # its file was damaged; others must not go on writing to it
        self.index.segments.unlink(segment)
        self.table.remove(segment)

    def room(self) -> int:
        """Return how many bytes are left of the quota."""
        index = file_size(self.index.capacity) + self._new_size()
        left = self.quota() - self.table.total(self._large.most_own) - index
        if left < -self.geometry.quota:
            raise DamagedError("more bytes are in use than there are")
        return left

    def _new_size(self) -> int:
        return file_size(self.words[NEW_CAPACITY]) if self.words[NEW] else 0

    def overdrawn(self) -> int:
        """Return how many bytes the shard takes beyond its quota; without a lock, so just out of date."""
        index = file_size(self.words[CAPACITY]) + self._new_size()
        return self.table.total(self._large.most_own) + index - self.quota()

    def quota(self) -> int:
        """Return how many bytes index and segments may take beside the large records of all shards."""
        return self.geometry.quota - self._large.share()

    def largest(self) -> int:
        """Return the size of the largest record that an empty directory has room for; without a lock."""
        if self._large.most_own < self.geometry.limit:
            return max(self._large.most_own, min(self.geometry.limit // 4, self._large.most()))
        words = self.words
        # A shard that was never used will have an index, too.
        capacity = max(self.geometry.capacity, words[CAPACITY], words[NEW_CAPACITY] if words[NEW] else 0)
        index = file_size(min(capacity, self.geometry.most_slots))
        return self.geometry.quota - self.geometry.segment - index - PAGE

    def bytes_taken(self) -> int:
        """Return how many bytes index and segments take on disk; without a lock, so just out of date."""
        words = self.words
        unused = self.geometry.segment - (words[TAIL] & _LOW32) if words[TAIL] else 0
        index = file_size(words[CAPACITY]) + (file_size(words[NEW_CAPACITY]) if words[NEW] else 0)
        own = self.table.total(self.geometry.limit)
        taken = own + index - unused if words[GENERATION] else 0
        return max(0, min(taken, self.geometry.limit))

    def count(self) -> int:
        """Return how many entries there are; without a lock."""
        return min(self.words[ENTRIES], self.geometry.most_slots)

    def _roll(self, spare: int) -> int:
        """Return a new segment for the tail; 0 if there is no room for it."""
        size = self.geometry.segment
        if self.room() < size * (1 + spare):
            return 0
        self.remove_strays()
        segment = self._new_number(size, spare)
        if segment:
            self.index.segments.create(segment)
            self.words[TAIL] = segment << 32
            if not self.words[CURSOR] and self.room() < 2 * size:
                self.needs_compaction = True
        return segment

    def _new_number(self, on_disk: int, spare: int) -> int:
        """Return the number of a new file, entered into the table; 0 if there is no room for it."""
        if self.room() < on_disk + spare * self.geometry.segment:
            return 0
        number = self._next_number()
        if number >= SEGMENT_LIMIT:
            if not spare:
                return 0  # for compaction, which then evicts what it would have copied
            raise _NumbersUsedUpError
        self.words[NEXT] = number + 1
        return number if self.table.add(number, on_disk) else 0
