"""One shard: the operations on its keys, with and without its lock.

It keeps the promises of `format` for its files. Lookups without a lock return the stored record or nothing. A
crash at any point leaves a write done or undone. Hashes, encoded records and fresh tokens come from `engine`.
A write that finds no slot or no space lets `index_growth` or `compaction` do a step, and is then run again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from struct import error as StructError  # noqa: N812  # it is an exception, whatever struct calls it
from typing import Final, final

from cachekit.runtime.reentrant_lock import RLock
from cachekit.serialization.checksum import crc32
from cachekit.tiers.fences import CHANGES, WRITING
from cachekit.tiers.file.descriptor_budget import descriptors
from cachekit.tiers.file.engine import compaction, flux, index_growth
from cachekit.tiers.file.engine.control_block import CURSOR, ENTRIES, GENERATION, NEW, TAIL, problem_of
from cachekit.tiers.file.engine.fence_tokens import Tokens
from cachekit.tiers.file.engine.file_ops import FileOps
from cachekit.tiers.file.engine.format import (
    CRC_MASK,
    HEADER,
    LENGTH_MASK,
    LENGTH_SHIFT,
    LONG,
    OFFSET_MASK,
    OFFSET_SHIFT,
    PAGE,
    SEGMENT_SHIFT,
    TAG,
    UNIT,
    FileAside,
    Geometry,
    LargeRecord,
    Record,
    bucket_of,
    decode_tags,
)
from cachekit.tiers.file.engine.index import Index
from cachekit.tiers.file.engine.large_room import LargeRoom
from cachekit.tiers.file.engine.segments import Content, Segments, length_at
from cachekit.tiers.file.engine.shard_files import NO_SLOT, Lack, ShardFiles
from cachekit.tiers.file.engine.shard_lock import AGAIN, Again, DamagedError, ShardLock
from cachekit.tiers.file.folder import Folder
from cachekit.tiers.fresh_tokens import fresh

#: Seconds by which an entry may be ahead of the clock. One that is further ahead was stored before the clock
#: was set back: how much of its life is over cannot be known.
AHEAD: Final = 5.0
_LOW32: Final = (1 << 32) - 1
_SLICE: Final = 1000  # entries, or slots, that one hold of the lock or one step of a scan goes through
_GLANCE: Final = 512  # bytes in which header, tags and key of most records lie
_LOOKS: Final = 8  # at a slot whose record moves all the time
_new_record: Final[Callable[..., Record]] = tuple.__new__
_ATTEMPTS: Final = 4  # to open an index that is being replaced, before the lock is taken
_PACE: Final = 1 << 16  # bytes of compaction that gather before a writer does them


@final
class Shard:
    """Safe in any thread, before and after a fork. Any method may raise OSError and LockTimeoutError.

    Methods whose description says "under the lock" are run by the caller as `shard.lock.run(shard.put, ...)`.
    The others take the lock themselves where they need it.
    """

    __slots__ = (
        "__weakref__",
        "_hash_of",
        "_largest",
        "_owed",
        "files",
        "lock",
        "number",
        "shards",
        "tokens",
        "words",
    )

    def __init__(
        self,
        number: int,
        above: Folder,
        words: memoryview,
        tokens: Tokens,
        geometry: Geometry,
        large: LargeRoom,
        hash_of: Callable[[bytes], int],
        patience: float,
        most_mapped: int,
        effects: FileOps,
    ) -> None:
        self.number = number
        self.shards = geometry.shards
        self.words = words
        self.tokens = tokens
        self._hash_of = hash_of
        self._largest = geometry.largest_record
        self._owed = 0  # bytes of compaction that writes of this process have not done yet
        folder = Folder(f"{number:02x}", above)
        self.files = ShardFiles(folder, words, geometry, large, most_mapped, effects)
        self.lock = ShardLock(folder, patience, self.files.mend)
        descriptors.register(self)

    # -- life -------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Release files that other processes removed, and remove what crashes left; under the lock."""
        self.locked_index()
        self.files.remove_orphans()
        self.files.remove_strays()

    def repair(self) -> None:
        """Make the control block agree with the index; under the lock."""
        if self.words[GENERATION]:
            self.locked_index()
            self.files.remove_strays()
            self.files.recount()
            if problem_of(self.words, self.files.geometry):
                raise DamagedError("the control block is damaged")

    def before_fork(self) -> None:
        """Take the locks."""
        self.lock.before_fork()
        self.files.opening.acquire()

    def after_fork(self, in_child: bool) -> None:
        """Release the locks."""
        if in_child:
            self.files.opening = RLock()
            self.files.forget_others_asides()
            self.files.index.segments.replace_tables()
        else:
            self.files.opening.release()
        self.lock.after_fork(in_child)

    def close(self) -> None:
        """Close descriptors. Readers under way keep what they use until they return."""
        self.lock.close(self.files.close)

    # -- descriptors ------------------------------------------------------------------------------------

    def held(self) -> int:
        """Return how many descriptors are open."""
        return self.lock.held() + self.files.held()

    def close_mapping(self) -> bool:
        """Close a mapping that was not used lately, but not the last one; tell whether there was one."""
        return self.files.index.segments.close_mapping()

    def rest(self) -> bool:
        """Close all descriptors if they were not used since the last call, and are not in use."""
        return self.lock.rest(self.files.rest)

    # -- looking ----------------------------------------------------------------------------------------

    def get(self, hashed: int, key: bytes, now: float) -> Record | None:
        """Return the live record of a key, or None. Without the lock, unless the record was just moved."""
        index = self.files.index
        if index.generation != self.words[GENERATION]:
            index = self.reopen()
        at = index.find(hashed)
        location_word = 0 if at < 0 else index.slots[at + 1]
        if not location_word:
            return None
        record = self.read(index.segments, location_word, key)
        if record is None:
            record = self._get_again(index, at, location_word, hashed, key)
            if record is None:
                return None
        if not self._is_live(record, now):
            return None
        visited = index.visited
        if not visited[at >> 1]:
            visited[at >> 1] = 1
        return record

    def _get_again(self, index: Index, at: int, before: int, hashed: int, key: bytes) -> Record | None:
        """Return the record of a key whose slot named none when it was read."""
        location_word = index.slots[at + 1]
        if location_word and location_word != before:
            # Replaced since then. Without the lock, because a large record takes long to read.
            record = self.read(index.segments, location_word, key)
            if record is not None:
                return record
        # Moved by compaction, overwritten after a crash, or damaged: only the lock can tell.
        return self.lock.run(self._get_locked, hashed, key)

    def _is_live(self, record: Record, now: float) -> bool:
        return record.created - AHEAD <= now < record.expiry and self.tokens.are_current(record.tags)

    def reopen(self) -> Index:
        """Return the index of the generation that the control block names now."""
        for _ in range(_ATTEMPTS):
            try:
                return self.files.open_index(self.words[GENERATION])
            except (FileNotFoundError, ValueError):
                pass  # replaced after its generation was read, or damaged
        index = self.lock.run(self.locked_index)
        # Not `files.index`, which another thread may have set aside since the lock was released. None: this
        # thread is in an operation under the lock, so nothing sets it aside.
        return self.files.index if index is None else index

    def locked_index(self) -> Index:
        """Return the index, after a step of its growth; a damaged one is dropped. Under the lock."""
        files, words = self.files, self.words
        index = files.writing
        if index.generation != words[GENERATION]:
            index = files.take_up_index()
        if words[NEW]:
            index = files.writing = index_growth.step(files, index)
        return index

    def _get_locked(self, hashed: int, key: bytes) -> Record | None:
        index = self.locked_index()
        at = index.find(hashed)
        if at < 0 or not index.slots[at + 1]:
            return None
        record = self.read(index.segments, index.slots[at + 1], key)
        if record is None:
            self.files.counter.damaged += 1
            self.files.clear_slot(index, at)
        return record

    def read(self, segments: Segments, location_word: int, key: bytes) -> Record | None:
        """Return the record at a location, from a private copy; None if it is gone or damaged."""
        segment = location_word >> SEGMENT_SHIFT
        offset = location_word >> OFFSET_SHIFT & OFFSET_MASK
        content: Content | None = segments.mapped[segment]
        if content is None:
            content, offset = segments.load(segment, offset, self._largest)
        length = location_word >> LENGTH_SHIFT & LENGTH_MASK
        try:
            if length == LONG:
                length = length_at(content, offset)
            copy = content[offset : offset + length]
            (crc, payload, key_length, names, flags, tags, created, expiry, stale_until, _, server_token) = (
                HEADER.unpack_from(copy)
            )
            actual = crc32(copy[4:] if length < PAGE else memoryview(copy)[4:])
            at = HEADER.size + TAG.size * tags
            end = at + key_length
            # Under one checksum: if it holds, so do all fields. The slot has some bits of the crc, so another
            # record that took this place is noticed too.
            if actual != crc or (crc ^ location_word) & CRC_MASK or copy[at:end] != key:
                return None
            start = end + names
            tokens = decode_tags(copy, tags) if tags else ()
        except StructError:
            return None
        # As Record(), without its call.
        return _new_record(
            Record,
            (copy, end, start, start + payload, flags, created, expiry, stale_until, server_token, tokens),
        )

    def scan(self, now: float) -> Iterator[str]:
        """Yield the keys of live records, without the lock. A record that changes may be old or new."""
        for _, hash_word, location_word in self._slots(self._current_index()):
            found = self._glance(location_word)
            if found is None:
                continue
            key, expiry, tags = found
            if self._hash_of(key) == hash_word and expiry > now and self.tokens.are_current(tags):
                yield key.decode("utf-8", "surrogatepass")

    def _current_index(self) -> Index:
        index = self.files.index
        return index if index.generation == self.words[GENERATION] else self.reopen()

    def _slots(self, index: Index) -> Iterator[tuple[int, int, int]]:
        """Yield position, hash word and location word of each slot that names a record."""
        for start in range(0, 2 * index.capacity, 2 * _SLICE):
            words = index.slots[start : start + 2 * _SLICE].tolist()
            for at in range(0, len(words), 2):
                if words[at + 1] and (location_word := self._word_now(index, start + at, words[at])):
                    yield start + at, words[at], location_word

    def _word_now(self, index: Index, at: int, hash_word: int) -> int:
        """Return the location word that a slot of this index has now, in the current index; 0 if it has none.

        A record may have moved since the slot was read, and its segment was removed then. Where a tmpfs is
        full, to touch what a removed file had is SIGBUS. An index that was replaced follows no moves.
        """
        if index.generation != self.words[GENERATION]:
            index = self._current_index()
            at = index.find(hash_word)
        return index.slots[at + 1] if at >= 0 else 0

    def _glance(self, location_word: int) -> tuple[bytes, float, tuple[tuple[int, int], ...]] | None:
        """Return key, expiry and tags of a record. The payload is not read, so the crc is not checked."""
        segments, segment = self.files.index.segments, location_word >> SEGMENT_SHIFT
        at = location_word >> OFFSET_SHIFT & OFFSET_MASK
        offset = at
        content: Content | None = segments.mapped[segment]
        if content is None:
            content, offset = segments.load(segment, at, _GLANCE)
        try:
            _, _, key_length, _, _, tags, _, expiry, *_ = HEADER.unpack_from(content, offset)
        except StructError:
            return None
        start = HEADER.size + TAG.size * tags
        end = start + key_length
        if len(content) == _GLANCE < end:
            content, offset = segments.load(segment, at, min(end, self._largest))
        head = content[offset : offset + end]
        return head[start:], expiry, decode_tags(head, tags) if len(head) >= start else ()

    # -- writing ----------------------------------------------------------------------------------------

    def put(
        self,
        hashed: int,
        record: bytes | LargeRecord,
        bucket: int,
        token: int,
        expect: int | None,
        in_progress: bool,
    ) -> bool | Again:
        """Store a record in place of the one that the key has, and change the bucket's token; under the lock.

        These are the steps that `format` explains. The first two are written out for what most writes are: a
        record that fits into the last segment, in an index that is not growing. Calls took a tenth of the
        time of a write. `_append` does them for all other writes, also over what a pwrite that was cut short
        has left.

        Args:
            hashed: of the key.
            record: encoded.
            bucket: the word of the key's token.
            token: a fresh one.
            expect: if the bucket's token is another one, change nothing.
            in_progress: leave the write in progress.

        Returns:
            False if the token was not the expected one.
        """
        tokens, words = self.tokens.words, self.words
        before = tokens[bucket]
        if expect is not None and before != expect:
            return False
        others = flux.others_in(before) if before & WRITING else 0
        files, size = self.files, len(record)
        try:
            index, location_word = files.writing, 0
            if index.generation == words[GENERATION] and not words[NEW]:
                slots = index.slots
                at = hashed - 1 & index.mask
                hash_word = slots[at]
                if hash_word and hash_word != hashed:
                    at = index.place(hashed)
                    hash_word = slots[at] if at >= 0 else 0
                tail, (segment, fd) = words[TAIL], index.segments.writing
                offset = tail & _LOW32
                if (
                    at >= 0
                    and (hash_word or files.may_use_slot(index))
                    and tail >> 32 == segment
                    and not offset % UNIT
                    and offset + size <= files.segment_size
                    and type(record) is bytes
                    and files.pwrite(fd, record, offset) == size
                ):
                    words[TAIL] = tail + size
                    # As pack_location(), without its call.
                    length = size if size < LONG else LONG  # noqa: FURB136  # a call costs more
                    crc = int.from_bytes(record[:4], "little") & CRC_MASK
                    location_word = (
                        segment << SEGMENT_SHIFT | offset << OFFSET_SHIFT | length << LENGTH_SHIFT | crc
                    )
            if not location_word:
                appended = self._append(hashed, record)
                if appended is AGAIN:
                    return AGAIN
                index, at, location_word = appended
            tokens[bucket] = WRITING | others | token & flux.LOW
            # Before a reader can find the record. It must be a number that the word never was, or a fence
            # that was compared then would seem to have been compared now.
            tokens[CHANGES] = token
            files.publish(index, at, location_word, hashed, size)
            if others or in_progress:
                tokens[bucket] = flux.after(token, others, in_progress=in_progress)
            else:
                tokens[bucket] = token
        except BaseException:
            # A write that failed still invalidates: the caller relies on the old value being gone.
            self._remove(hashed, bucket, token, others)
            raise
        self._owed += 2 * size
        if self._owed >= _PACE:
            self._compact_a_little()
        return True

    def _append(self, hashed: int, record: bytes | LargeRecord) -> tuple[Index, int, int] | Again:
        """Append any record in any index; return the index, the slot of the key, and the location word.

        AGAIN where there was no room, and there may be now.
        """
        index = self.locked_index()
        appended = self.files.append_for(index, hashed, record)
        if not isinstance(appended, tuple):
            return self._make_room(index, appended, len(record))
        if self.files.needs_compaction:
            self._begin_compaction()
        return index, *appended

    def create(
        self, hashed: int, key: bytes, record: bytes | LargeRecord, bucket: int, token: int, now: float
    ) -> Record | bool | Again:
        """Do as `put`, unless the key has a live record; then return that one. Under the lock."""
        if self.words[GENERATION]:
            there = self._get_locked(hashed, key)
            if there is not None and self._is_live(there, now):
                return there
        return self.put(hashed, record, bucket, token, None, False)

    def put_many(self, records: list[tuple[int, bytes, int, int]]) -> bool | Again:
        """Do as `put` for hash, record, bucket and token of several keys; under the lock.

        What was stored leaves the list, so a call after AGAIN goes on with the others.
        """
        while records:
            index = self.files.writing
            if index.generation != self.words[GENERATION]:
                index = self.locked_index()
            locations = self.files.append_together(index, records)
            if locations:
                again = self._publish_together(index, locations, records)
            else:
                again = self.put(*records[-1], None, False) is AGAIN
                if not again:
                    records.pop()
            if again:
                return AGAIN
        return True

    def _publish_together(
        self, index: Index, locations: list[int], records: list[tuple[int, bytes, int, int]]
    ) -> bool:
        """Publish the last records of the list, which lie at these places; True if there is no slot."""
        tokens, files = self.tokens.words, self.files
        slots, mask, low, publish = index.slots, index.mask, flux.LOW, files.publish
        for location_word in locations:
            hashed, record, bucket, token = records[-1]
            before = tokens[bucket]
            others = flux.others_in(before) if before & WRITING else 0
            try:
                # Not before the previous one is published: both may get the same free slot.
                at = hashed - 1 & mask
                if slots[at] != hashed:
                    at = index.place(hashed)
                    if at < 0:
                        index_growth.make_room(files, index)
                        return True
                tokens[bucket] = WRITING | others | token & low
                tokens[CHANGES] = token  # as in put()
                size = len(record)
                publish(index, at, location_word, hashed, size)
                tokens[bucket] = flux.after(token, others) if others else token
            except BaseException:
                self._remove(hashed, bucket, token, others)
                raise
            records.pop()
            self._owed += 2 * size
        if self._owed >= _PACE:
            self._compact_a_little()
        return False

    def add(
        self,
        hashed: int,
        key: bytes,
        record: bytes | LargeRecord,
        bucket: int,
        expect: int,
        now: float,
    ) -> Record | bool | Again:
        """Store a record if the token is the expected one and the key has no live record; under the lock.

        Returns:
            The live record that the key has, or whether this one was stored. The token stays as it is.
        """
        if self.tokens.words[bucket] != expect:
            return False
        there = self._get_locked(hashed, key)
        if there is not None and self._is_live(there, now):
            return there
        appended = self._append(hashed, record)
        if appended is AGAIN:
            return AGAIN
        size = len(record)
        self.files.publish(*appended, hashed, size)
        self._owed += 2 * size
        if self._owed >= _PACE:
            self._compact_a_little()
        return True

    # -- large records ----------------------------------------------------------------------------------

    def begin_aside(self, size: int) -> FileAside | None:
        """Make the file of a large record, which is written without the lock; under the lock."""
        self.locked_index()
        return self.files.begin_aside(size)

    def end_aside(self, aside: FileAside) -> None:
        """Close the file, and remove it unless a slot names it; under the lock."""
        self.locked_index()
        self.files.end_aside(aside)

    def evict_large(self, number: int, spares: bool) -> bool:
        """Remove a large record; with `spares`, not one that was read since the last time. Under the lock."""
        self.locked_index()
        return self.files.evict_large(number, spares)

    def evict_large_of(self, hashed: int) -> None:
        """Remove the record of a key if it is a large one; under the lock."""
        index = self.locked_index()
        at = index.find(hashed)
        if at >= 0:
            self.files.evict_large(index.slots[at + 1] >> SEGMENT_SHIFT, False)

    def fit(self) -> bool | Again:
        """Evict entries until the shard takes no more than its share; under the lock."""
        # Its index is opened only if it must be.
        if not self.words[GENERATION] or self.files.overdrawn() <= 0:
            return True
        self.locked_index()
        if self.files.room() < 0 and compaction.step(self.files, _SLICE, self.files.geometry.limit):
            return AGAIN
        return True

    # -- room -------------------------------------------------------------------------------------------

    def _make_room(self, index: Index, lack: Lack | Again, size: int) -> Again:
        if lack is NO_SLOT:
            index_growth.make_room(self.files, index)
        elif lack is not AGAIN:
            compaction.free_space(self.files, size)
        return AGAIN

    def _begin_compaction(self) -> None:
        self.files.needs_compaction = False
        if not self.words[CURSOR]:
            compaction.begin(self.files)

    def _compact_a_little(self) -> None:
        """Do some of the compaction under way, so that it ends before the next segment is needed."""
        owed, self._owed = self._owed, 0
        if self.words[CURSOR]:
            compaction.step(self.files, _SLICE, owed)

    def delete(self, hashed: int, key: bytes, bucket: int, token: int, in_progress: bool, now: float) -> bool:
        """Remove a key, and change the bucket's token; True if the key was there. Under the lock."""
        there = self._get_locked(hashed, key) if self.words[GENERATION] else None
        self._remove(hashed, bucket, token, flux.others_in(self.tokens.words[bucket]), in_progress)
        return there is not None and self._is_live(there, now)

    def delete_many(self, keys: list[tuple[str, int, bytes, int]], now: float, removed: list[str]) -> None:
        """Do as `delete` for several keys; add those that were there to `removed`. Under the lock."""
        for key, hashed, octets, bucket in keys:
            if self.delete(hashed, octets, bucket, fresh(), False, now):
                removed.append(key)

    def delete_if(
        self, hashed: int, key: bytes, bucket: int, token: int, expect: int, in_progress: bool, now: float
    ) -> tuple[bool, bool]:
        """Do as `delete` if the token is the expected one: whether it was, and whether the key was there."""
        if self.tokens.words[bucket] != expect:
            return False, False
        return True, self.delete(hashed, key, bucket, token, in_progress, now)

    def _remove(self, hashed: int, bucket: int, token: int, others: int, in_progress: bool = False) -> None:
        tokens = self.tokens.words
        tokens[bucket] = flux.during(token, others)
        tokens[CHANGES] = fresh()
        # Without an index nothing was ever stored here. Making one may fail on a full disk, which must not
        # keep a caller from invalidating.
        if self.words[GENERATION]:
            index = self.locked_index()
            at = index.find(hashed)
            if at >= 0 and index.slots[at + 1]:
                self.files.clear_slot(index, at)
        tokens[bucket] = flux.after(token, others, in_progress=in_progress)

    def finish_write(self, bucket: int, token: int, fresh: int) -> bool:
        """End a write in progress: its token stands if it overlapped with no other write. Under the lock."""
        words = self.tokens.words
        word: int = words[bucket]
        mine = flux.is_alone(word, token)
        words[bucket] = token if mine else flux.without_one(word, fresh)
        words[CHANGES] = fresh
        return mine

    def clear(self) -> int:
        """Remove everything, and change all tokens; about how many entries there were. Under the lock."""
        entries: int = self.words[ENTRIES]
        # Before and after: what was read in between is from before the clear, and must not be copied.
        self.renew_tokens()
        if entries or self.files.table.entries():  # an empty shard needs no index
            self.files.reset()
        self.renew_tokens()
        return entries

    def delete_matching(self, pattern: re.Pattern[str], now: float) -> int:
        """Remove the keys that the pattern matches from the start; return how many were live."""
        removed = 0
        for _ in range(_ATTEMPTS):
            index = self._current_index()
            for slots in self._matching(index, pattern, now):
                removed += self.lock.run(self._delete_slots, index.generation, slots) or 0
            if self.words[GENERATION] == index.generation:
                return removed
            # Another index took its place. From then on, this one was not updated when records moved.
        # The index is replaced faster than this scan. So the scan runs under the lock, without other writers.
        return removed + (self.lock.run(self._delete_matching_locked, pattern, now) or 0)

    def _delete_matching_locked(self, pattern: re.Pattern[str], now: float) -> int:
        index = self.locked_index()
        return sum([self._clear_slots(index, slots) for slots in self._matching(index, pattern, now)])

    def _matching(
        self, index: Index, pattern: re.Pattern[str], now: float
    ) -> Iterator[list[tuple[int, bool]]]:
        """Yield slots of matching keys, and whether they are live; a slice at a time."""
        slots: list[tuple[int, bool]] = []
        for at, hash_word, location_word in self._slots(index):
            match = self._match(index, at, hash_word, location_word, pattern, now)
            if match is not None:
                slots.append((at, match))
            if len(slots) == _SLICE:
                yield slots
                slots = []
        if slots:
            yield slots

    def _match(
        self,
        index: Index,
        at: int,
        hash_word: int,
        location_word: int,
        pattern: re.Pattern[str],
        now: float,
    ) -> bool | None:
        """Tell whether the entry of a slot is live, if its key matches; None if it does not."""
        for _ in range(_LOOKS):
            found = self._glance(location_word)
            if found is not None and self._hash_of(found[0]) == hash_word:
                break
            # The record was moved or overwritten after the slot was read; or it is damaged, and stays.
            before, location_word = location_word, self._word_now(index, at, hash_word)
            if not location_word or location_word == before:
                return None
        else:
            return None
        key, expiry, tags = found
        if not pattern.match(key.decode("utf-8", "surrogatepass")):
            return None
        return expiry > now and self.tokens.are_current(tags)

    def _delete_slots(self, generation: int, slots: list[tuple[int, bool]]) -> int:
        index = self.locked_index()
        # In another generation the positions are others, and the caller scans again.
        return self._clear_slots(index, slots) if index.generation == generation else 0

    def _clear_slots(self, index: Index, slots: list[tuple[int, bool]]) -> int:
        removed = 0
        words = self.tokens.words
        for at, live in slots:
            # The slot may have a newer value by now. Losing that is allowed: it is a cache.
            if index.slots[at + 1]:
                bucket, token = bucket_of(index.slots[at], self.files.geometry.bucket_shift), fresh()
                others = flux.others_in(words[bucket])
                words[bucket] = flux.during(token, others)
                words[CHANGES] = token  # as in put()
                self.files.clear_slot(index, at)
                words[bucket] = flux.after(token, others)
                removed += live
        return removed

    def renew_tokens(self) -> None:
        """Change all tokens of the shard; under the lock."""
        self.tokens.renew_slice(self.number, self.shards)

    def remove_expired(self, now: float) -> int:
        """Clear the slots of records that are expired, or have an invalidated tag; return how many."""
        expired: list[tuple[int, int]] = []
        removed = 0
        index = self._current_index()
        for at, _, location_word in self._slots(index):
            found = self._glance(location_word)
            if found is not None and (found[1] <= now or not self.tokens.are_current(found[2])):
                expired.append((at, location_word))
            if len(expired) == _SLICE:
                removed += self.drop(index.generation, expired)
                expired = []
        removed += self.drop(index.generation, expired)
        self.files.counter.expirations += removed
        return removed

    def drop(self, generation: int, slots: list[tuple[int, int]]) -> int:
        """Clear slots of that index, each given by position and location word; return how many."""
        return self.lock.run(self._drop, generation, slots) or 0 if slots else 0

    def _drop(self, generation: int, slots: list[tuple[int, int]]) -> int:
        index = self.locked_index()
        if index.generation != generation:
            return 0  # positions have changed; the next sweep sees the new ones
        removed = 0
        for at, location_word in slots:
            if index.slots[at + 1] == location_word:
                self.files.clear_slot(index, at)
                removed += 1
        return removed
