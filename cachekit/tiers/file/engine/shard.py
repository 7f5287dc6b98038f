"""One shard: the operations on its keys, with and without its lock.

It promises what `format` promises for its files: lookups without a lock that yield the stored record or
nothing, and writes that a crash at any point leaves done or undone. Hashes, encoded records and fresh
tokens come from `engine`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from struct import error as StructError  # noqa: N812  # it is an exception, whatever struct calls it
from typing import Final, cast, final
from zlib import crc32

from cachekit.tiers.fences import CHANGES, WRITING
from cachekit.tiers.file.engine.control_block import ENTRIES, GENERATION
from cachekit.tiers.file.engine.fence_tokens import Tokens, fresh
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
    Geometry,
    Record,
    decode_tags,
)
from cachekit.tiers.file.engine.index import Index
from cachekit.tiers.file.engine.segments import Segments, length_at
from cachekit.tiers.file.engine.shard_files import ShardFiles
from cachekit.tiers.file.engine.shard_lock import AGAIN, Again, ShardLock
from cachekit.tiers.file.folder import Folder

_LOW32: Final = (1 << 32) - 1
_SLICE: Final = 1000  # entries, or slots, that one lock hold or one look of a scan goes through
_new_record: Final[Callable[..., Record]] = tuple.__new__
_LOOKS: Final = 4  # at an index that is being replaced, before the lock is asked


@final
class Shard:
    """Safe in any thread, before and after a fork. Any method may raise OSError and LockTimeoutError.

    All take the lock if they need it, but `put`, which is called with it: it saves a call.
    """

    __slots__ = ("_hash_of", "files", "lock", "number", "shards", "tokens", "words")

    def __init__(
        self,
        number: int,
        above: Folder,
        words: memoryview,
        tokens: Tokens,
        geometry: Geometry,
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
        folder = Folder(f"{number:02x}", above)
        self.files = ShardFiles(folder, words, geometry, most_mapped, effects)
        self.lock = ShardLock(folder, patience)

    # -- life -------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Let go of files that others removed, and of what crashes left."""
        self.lock.run(self._tick)

    def _tick(self) -> None:
        self.files.locked_index()
        self.files.remove_orphans()
        self.files.remove_strays()

    def before_fork(self) -> None:
        """Take the locks (see `cachekit.runtime.fork`)."""
        self.lock.before_fork()
        self.files.opening.acquire()

    def after_fork(self, in_child: bool) -> None:
        """Give them back."""
        if in_child:
            self.files.opening = threading.RLock()
        else:
            self.files.opening.release()
        self.lock.after_fork(in_child)

    def close(self) -> None:
        """Give back descriptors; readers that are under way end well."""
        self.lock.close(self.files.close)

    # -- looking ----------------------------------------------------------------------------------------

    def get(self, hashed: int, key: bytes, now: float) -> Record | None:
        """The live record of a key, or None. Without a lock, unless something moved meanwhile."""
        index = self.files.index
        if index.generation != self.words[GENERATION]:
            index = self.reopen()
        slots, mask = index.slots, index.mask
        at = hashed - 1 & mask
        probes = index.probes
        while (a := slots[at]) != hashed:
            probes -= 1
            if not a or not probes:
                return None
            at = at + 2 & mask
        b = slots[at + 1]
        if not b:
            return None
        record = self.read(index.segments, b, key)
        if record is None:
            # Moved by reclaim, overwritten after a crash's tail, or damaged: the lock tells.
            record = self.lock.run(self._get_locked, hashed, key)
            if record is None:
                return None
        if record.expiry <= now or (record.tags and not self.tokens.are_current(record.tags)):
            return None
        visited = index.visited
        if not visited[at >> 1]:
            visited[at >> 1] = 1
        return record

    def reopen(self) -> Index:
        """The index of the generation that the control block names now."""
        for _ in range(_LOOKS):
            try:
                return self.files.open_index(self.words[GENERATION])
            except (FileNotFoundError, ValueError):
                pass  # replaced between two steps of ours, or damaged
        self.lock.run(self._reopen_locked)
        return self.files.index

    def _reopen_locked(self) -> None:
        self.files.locked_index()

    def _get_locked(self, hashed: int, key: bytes) -> Record | None:
        index = self.files.locked_index()
        at = index.find(hashed)
        if at < 0 or not index.slots[at + 1]:
            return None
        record = self.read(index.segments, index.slots[at + 1], key)
        if record is None:
            self.files.counter.damaged += 1
            self.files.clear_slot(index, at)
        return record

    def read(self, segments: Segments, b: int, key: bytes) -> Record | None:
        """The record that a slot names, from a private copy; None if it is not there, or not sound."""
        segment = b >> SEGMENT_SHIFT
        content = segments.mapped.get(segment) or segments.load(segment)
        if content is None:
            return None
        offset = b >> OFFSET_SHIFT & OFFSET_MASK
        length = b >> LENGTH_SHIFT & LENGTH_MASK
        try:
            if length == LONG:
                length = length_at(content, offset)
            copy = content[offset : offset + length]
            crc, payload, key_length, flags, tags, expiry, _, rt = HEADER.unpack_from(copy)
        except StructError:
            return None
        if crc32(copy[4:] if length < PAGE else memoryview(copy)[4:]) != crc or (crc ^ b) & CRC_MASK:
            return None
        start = HEADER.size + TAG.size * tags
        end = start + key_length
        if copy[start:end] != key:
            return None
        # What Record() does, without its call.
        return _new_record(
            Record, (copy[end : end + payload], expiry, flags, rt, decode_tags(copy, tags) if tags else ())
        )

    def scan(self, now: float) -> Iterator[str]:
        """The keys of live records. Without a lock: of those that change meanwhile, the old or the new."""
        for _, a, b in self._slots(self._current_index()):
            found = self._glance(b)
            if found is None:
                continue
            key, expiry, tags = found
            if self._hash_of(key) == a and expiry > now and self.tokens.are_current(tags):
                yield key.decode("utf-8", "surrogatepass")

    def _current_index(self) -> Index:
        index = self.files.index
        return index if index.generation == self.words[GENERATION] else self.reopen()

    def _slots(self, index: Index) -> Iterator[tuple[int, int, int]]:
        for start in range(0, 2 * index.capacity, 2 * _SLICE):
            words = index.slots[start : start + 2 * _SLICE].tolist()
            for at in range(0, len(words), 2):
                if words[at + 1]:
                    yield start + at, words[at], words[at + 1]

    def _glance(self, b: int) -> tuple[bytes, float, tuple[tuple[int, int], ...]] | None:
        """Key, expiry and tags of a record, without its payload and so without its crc."""
        content = self.files.index.segments.load(b >> SEGMENT_SHIFT)
        if content is None:
            return None
        offset = b >> OFFSET_SHIFT & OFFSET_MASK
        try:
            _, _, key_length, _, tags, expiry, _, _ = HEADER.unpack_from(content, offset)
        except StructError:
            return None
        start = HEADER.size + TAG.size * tags
        head = content[offset : offset + start + key_length]
        return head[start:], expiry, decode_tags(head, tags) if len(head) >= start else ()

    # -- writing ----------------------------------------------------------------------------------------

    def put(
        self, hashed: int, record: bytes, bucket: int, token: int, expect: int | None, last: int
    ) -> bool | Again:
        """Store a record in place of whatever the key had, and change the bucket's token; under the lock.

        Args:
            hashed: of the key.
            record: encoded.
            bucket: the word of the key's token.
            token: a fresh one.
            expect: if the bucket's token is another one, change nothing.
            last: FLUX to leave the token in flux, or 0.

        Returns:
            False if the token was not the expected one.
        """
        tokens = self.tokens.words
        if expect is not None and tokens[bucket] != expect:
            return False
        files = self.files
        try:
            made = files.make_room(hashed, record)
            if made is AGAIN:
                return AGAIN
            index, at, b = made
            tokens[bucket] = WRITING | token
            # Before anyone can see the record; and a number that it has never been, or a copy that was
            # looked at then would seem to have been looked at now.
            tokens[CHANGES] = token
            files.publish(index, at, hashed, b, len(record))
            tokens[bucket] = last | token
        except BaseException:
            # What could not be stored invalidates all the same: the caller believes the old value gone.
            self._delete(hashed, bucket, token, last)
            raise
        files.compact_a_little(len(record))
        return True

    def add(
        self, hashed: int, key: bytes, record: bytes, bucket: int, expect: int, now: float
    ) -> Record | bool | None:
        """Store a record if the token is the expected one and the key has no live record.

        Returns:
            The live record that was there, or whether it was stored. The token stays as it is.
        """
        outcome = self.lock.run(self._add, hashed, key, record, bucket, expect, now)
        return cast("Record | bool | None", outcome)  # mypy joins what the union keeps apart

    def _add(
        self, hashed: int, key: bytes, record: bytes, bucket: int, expect: int, now: float
    ) -> Record | bool | Again:
        if self.tokens.words[bucket] != expect:
            return False
        there = self._get_locked(hashed, key)
        if there is not None and there.expiry > now and self.tokens.are_current(there.tags):
            return there
        made = self.files.make_room(hashed, record)
        if made is AGAIN:
            return AGAIN
        index, at, b = made
        self.files.publish(index, at, hashed, b, len(record))
        self.files.compact_a_little(len(record))
        return True

    def delete(self, hashed: int, key: bytes, bucket: int, token: int, last: int, now: float) -> bool | None:
        """Remove a key, and change the bucket's token whether or not it was there; True if it was."""
        return self.lock.run(self._delete_counted, hashed, key, bucket, token, last, now)

    def _delete_counted(
        self, hashed: int, key: bytes, bucket: int, token: int, last: int, now: float
    ) -> bool:
        there = self._get_locked(hashed, key) if self.words[GENERATION] else None
        self._delete(hashed, bucket, token, last)
        return there is not None and there.expiry > now and self.tokens.are_current(there.tags)

    def delete_if(
        self, hashed: int, key: bytes, bucket: int, token: int, expect: int, last: int, now: float
    ) -> tuple[bool, bool]:
        """`delete`, if the token is the expected one: whether it was, and whether the key was there."""
        outcome = self.lock.run(self._delete_if, hashed, key, bucket, token, expect, last, now)
        return (True, False) if outcome is None else outcome

    def _delete_if(
        self, hashed: int, key: bytes, bucket: int, token: int, expect: int, last: int, now: float
    ) -> tuple[bool, bool]:
        if self.tokens.words[bucket] != expect:
            return False, False
        return True, self._delete_counted(hashed, key, bucket, token, last, now)

    def _delete(self, hashed: int, bucket: int, token: int, last: int) -> None:
        tokens = self.tokens.words
        tokens[bucket] = WRITING | token
        tokens[CHANGES] = fresh()
        # Without an index nothing was ever stored here; and to make one may fail for want of room, which
        # shall keep nobody from invalidating.
        if self.words[GENERATION]:
            index = self.files.locked_index()
            at = index.find(hashed)
            if at >= 0 and index.slots[at + 1]:
                self.files.clear_slot(index, at)
        tokens[bucket] = last | token

    def settle(self, bucket: int, token: int, fresh: int) -> bool | None:
        """End a write that was left in flux: its token counts from now on, if nobody wrote meanwhile."""
        return self.lock.run(self._settle, bucket, token, fresh)

    def _settle(self, bucket: int, token: int, fresh: int) -> bool:
        words = self.tokens.words
        mine = bool(words[bucket] == WRITING | token)
        words[bucket] = token if mine else fresh
        words[CHANGES] = fresh
        return mine

    def clear(self) -> int | None:
        """Remove everything, and change all tokens; how many entries that were, about."""
        return self.lock.run(self._clear)

    def _clear(self) -> int:
        entries: int = self.words[ENTRIES]
        # Before and after: what was read in between belongs before the clear, and is not kept.
        self.tokens.renew_slice(self.number, self.shards)
        if entries or self.files.table.entries():  # or there is nothing, and no need to make an index
            self.files.reset()
        self.tokens.renew_slice(self.number, self.shards)
        return entries

    def delete_matching(self, pattern: re.Pattern[str], now: float) -> int:
        """Remove the keys that the pattern matches from the start; how many live ones there were."""
        removed = 0
        for _ in range(_LOOKS):
            index = self._current_index()
            for slots in self._matching(index, pattern, now):
                removed += self.lock.run(self._delete_slots, index.generation, slots) or 0
            if self.words[GENERATION] == index.generation:
                return removed
            # Another index took its place, and from then on nobody told this one what moves where.
        # They come faster than we look; so nobody writes while we do.
        return removed + (self.lock.run(self._delete_matching_locked, pattern, now) or 0)

    def _delete_matching_locked(self, pattern: re.Pattern[str], now: float) -> int:
        index = self.files.locked_index()
        return sum([self._clear_slots(index, slots) for slots in self._matching(index, pattern, now)])

    def _matching(
        self, index: Index, pattern: re.Pattern[str], now: float
    ) -> Iterator[list[tuple[int, bool]]]:
        """Slots of matching keys, and whether they are live; a slice at a time."""
        slots: list[tuple[int, bool]] = []
        for at, a, b in self._slots(index):
            match = self._match(index, at, a, b, pattern, now)
            if match is not None:
                slots.append((at, match))
            if len(slots) == _SLICE:
                yield slots
                slots = []
        if slots:
            yield slots

    def _match(
        self, index: Index, at: int, a: int, b: int, pattern: re.Pattern[str], now: float
    ) -> bool | None:
        """Whether the entry of a slot is live, if its key matches; None if it does not."""
        while True:
            found = self._glance(b)
            if found is not None and self._hash_of(found[0]) == a:
                break
            # Moved since the slot was read, or overwritten; or damaged, and then it stays as it is.
            before, b = b, index.slots[at + 1]
            if not b or b == before:
                return None
        key, expiry, tags = found
        if not pattern.match(key.decode("utf-8", "surrogatepass")):
            return None
        return expiry > now and self.tokens.are_current(tags)

    def _delete_slots(self, generation: int, slots: list[tuple[int, bool]]) -> int:
        index = self.files.locked_index()
        # Of another generation: whoever asked looks again.
        return self._clear_slots(index, slots) if index.generation == generation else 0

    def _clear_slots(self, index: Index, slots: list[tuple[int, bool]]) -> int:
        removed = 0
        words = self.tokens.words
        for at, live in slots:
            # Whatever is there by now: a value that came meanwhile is lost, which does no harm.
            if index.slots[at + 1]:
                bucket, token = self.tokens.bucket(index.slots[at]), fresh()
                words[bucket] = WRITING | token
                words[CHANGES] = token  # as in put()
                self.files.clear_slot(index, at)
                words[bucket] = token
                removed += live
        return removed

    def renew_tokens(self) -> None:
        """Change all tokens of the shard."""
        self.lock.run(self.tokens.renew_slice, self.number, self.shards)

    def remove_expired(self, now: float) -> int:
        """Clear the slots of records whose time is over, or whose tags were invalidated; how many."""
        condemned: list[tuple[int, int]] = []
        removed = 0
        index = self._current_index()
        for at, _, b in self._slots(index):
            found = self._glance(b)
            if found is not None and (found[1] <= now or not self.tokens.are_current(found[2])):
                condemned.append((at, b))
            if len(condemned) == _SLICE:
                removed += self.drop(index.generation, condemned)
                condemned = []
        removed += self.drop(index.generation, condemned)
        self.files.counter.expirations += removed
        return removed

    def drop(self, generation: int, condemned: list[tuple[int, int]]) -> int:
        """Clear slots, each named by its word and what B was, of that index; how many there were."""
        return self.lock.run(self._drop, generation, condemned) or 0 if condemned else 0

    def _drop(self, generation: int, condemned: list[tuple[int, int]]) -> int:
        index = self.files.locked_index()
        if index.generation != generation:
            return 0  # positions have changed; the next sweep comes
        removed = 0
        for at, b in condemned:
            if index.slots[at + 1] == b:
                self.files.clear_slot(index, at)
                removed += 1
        return removed
