"""The entries of one cache directory: the work of `FileCache`, below the checks of its arguments.

The store counts, takes fences in the right order, and turns entries into records of the engine. It turns
every failure of the disk into a TierUnavailableError. A record that cannot be read is a miss, and an error.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import inf
from struct import error as StructError  # noqa: N812  # it is an exception, whatever struct calls it
from typing import Any, Concatenate, Final, NoReturn, ParamSpec, TypeAlias, TypeVar, final

from cachekit.errors import (
    CacheClosedError,
    CacheError,
    FileFormatError,
    LockTimeoutError,
    SerializationError,
    TierUnavailableError,
    UnreadableError,
    ValueTooLargeError,
)
from cachekit.model.counters import SAMPLE_INTERVAL, LatencyHistogram, Lookups, TierCounters
from cachekit.model.display import how_to_show, shown_key
from cachekit.model.entry import CacheEntry
from cachekit.model.stats import CacheStats, tier_stats
from cachekit.model.types import MISSING, NO_TAGS, Missing
from cachekit.runtime.clock import Clock, source_of
from cachekit.runtime.interrupts import is_interrupt, is_no_fault_of_value
from cachekit.serialization.checksum import crc32
from cachekit.serialization.parts import Payload
from cachekit.tiers.base import FencedEntry
from cachekit.tiers.fences import EPOCH, WRITING, ServerTokens, SharedFence, TagTokens
from cachekit.tiers.file.engine.control_block import GENERATION
from cachekit.tiers.file.engine.engine import Engine
from cachekit.tiers.file.engine.format import (
    CRC_MASK,
    HEADER,
    LENGTH_MASK,
    LENGTH_SHIFT,
    LONG,
    MOST_TAGS,
    OFFSET_MASK,
    OFFSET_SHIFT,
    PAGE,
    SEGMENT_SHIFT,
    TAG,
    Record,
    decode_tags,
    small_record,
)
from cachekit.tiers.file.engine.segments import length_at
from cachekit.tiers.file.engine.shard import AHEAD, Shard
from cachekit.tiers.file.engine_handle import EngineHandle
from cachekit.tiers.file.permissions import remedy_for
from cachekit.tiers.file.record_codec import RecordCodec, pack_names, parse_names
from cachekit.tiers.fresh_tokens import fresh

P = ParamSpec("P")
T = TypeVar("T")

#: Keeps a copy in memory: key, value, created, expiry, stale until, what tells changes, fence with tags.
Keep: TypeAlias = Callable[[str, Any, float, float, float, int, SharedFence], object]

#: The disk, the quota, the largest size of a file of this process, or its descriptors are exhausted. What is
#: open is still read, and what is not can be when the process closes others.
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE})
_PATIENCE: Final = 2.0  # seconds for which touch() retries while other callers write the key
_PAUSE: Final = 1e-3
_TOGETHER: Final = 4 << 20  # bytes of values that are encoded before they are stored
_unpack_header: Final = HEADER.unpack_from
_HEADER_SIZE: Final = HEADER.size
_TAG_SIZE: Final = TAG.size
_FAILURES: Final = (OSError, TierUnavailableError, FileFormatError, CacheClosedError)


@final
class FileStore:
    """The entries of an opened directory. Safe in any thread, before and after a fork.

    Args:
        handle: the hold on the directory's engine.
        longest: Seconds that any copy lives at most.
        clock: the tier's clock.

    Every method but `stats` may raise TierUnavailableError, and CacheClosedError after the handle is closed.
    """

    __slots__ = (
        "__weakref__", "_clock", "_handle", "_longest", "_lookups", "_sample_due", "_unavailable",
        "counter", "latency",
    )  # fmt: skip

    def __init__(self, handle: EngineHandle, longest: float, clock: Clock) -> None:
        self._handle = handle
        self._longest = longest
        self._clock = source_of(clock)
        self._lookups = Lookups()
        self._unavailable = 0
        self.counter = TierCounters()
        self.latency = LatencyHistogram()
        self._sample_due = 0.0

    # -- looking ----------------------------------------------------------------------------------------

    def value(self, key: str, keep: Keep | None = None, changes: int = 0) -> Any | Missing:
        """Return the value of the live entry, and let the memory tier keep a copy; a lookup that counts.

        From the key to the value, this is written out for what most records are: in a mapped segment, and
        stored by a pickle codec without a secret or compression. Calls between the steps took a third of a
        hit's time. All other records are left to `_find_value`, which reads them again.

        Args:
            key: the key.
            keep: Stores the copy, unless memory has changed; None for no copy.
            changes: what tells that, from before this call.
        """
        started = time.monotonic()
        handle = self._handle
        value: Any | Missing = MISSING
        token = 0
        try:
            if started >= handle.fresh_until:
                handle.for_reading()
            engine, codec = handle.opened
            octets, hashed, shard, bucket = engine.locations[key] or engine.locate(key)
            tokens = shard.tokens
            if keep is not None:
                # A fence is older than the record: a write between the two, or later, breaks it.
                token = tokens.words[bucket]
            # As in Index.find().
            index = shard.files.index
            if index.generation != shard.words[GENERATION]:
                index = shard.reopen()
            slots, mask = index.slots, index.mask
            at = hashed - 1 & mask
            probes = index.probes
            while (hash_word := slots[at]) != hashed:
                probes -= 1
                if not hash_word or not probes:
                    self._lookups.misses += 1
                    return MISSING
                at = at + 2 & mask
            location_word = slots[at + 1]
            content = index.segments.mapped[location_word >> SEGMENT_SHIFT]
            length = location_word >> LENGTH_SHIFT & LENGTH_MASK
            if content is not None and not token & WRITING:
                # As in Shard.read().
                offset = location_word >> OFFSET_SHIFT & OFFSET_MASK
                if length == LONG:
                    length = length_at(content, offset)
                copy = content[offset : offset + length]
                (crc, size, key_length, names, flags, tags, created, expiry, stale_until, _, _) = (
                    _unpack_header(copy)
                )
                key_at = _HEADER_SIZE + _TAG_SIZE * tags
                names_at = key_at + key_length
                start = names_at + names
                if (
                    flags == codec.plain
                    and crc32(copy[4:] if length < PAGE else memoryview(copy)[4:]) == crc
                    and not (crc ^ location_word) & CRC_MASK
                    and copy[key_at:names_at] == octets
                    and created - AHEAD <= self._clock.time() < expiry
                    and (not tags or tokens.packed_are_current(copy[_HEADER_SIZE:key_at]))
                ):
                    try:
                        # A slice costs less than a view if it is short.
                        payload = copy if size < PAGE else memoryview(copy)
                        value = codec.loads(payload[start : start + size])
                    except Exception as error:
                        if is_no_fault_of_value(error):
                            raise
                    visited = index.visited
                    if not visited[at >> 1]:
                        visited[at >> 1] = 1
                    if keep is not None:
                        # It gets the tags of the record, and no others later. So it needs no epoch.
                        fence = SharedFence(tokens, key, bucket, token, 0)
                        if tags:
                            # The record's own tokens of its tags: they also tell an invalidation since the
                            # value was made.
                            fence.tags = decode_tags(copy, tags)
                            fence.names = frozenset(parse_names(copy[names_at:start]))
        except (StructError, UnreadableError):
            value = MISSING
        except _FAILURES as error:
            self._fail_lookup(error)
        if value is MISSING:
            return self._find_value(key, keep, changes)
        self._lookups.hits += 1
        if started > self._sample_due:
            self._time_hit(started)
        if keep is not None:
            keep(key, value, created, expiry, stale_until, changes, fence)
        return value

    def _find_value(self, key: str, keep: Keep | None, changes: int) -> Any | Missing:
        """Do what `value` does, with any record."""
        started = time.monotonic()
        handle = self._handle
        try:
            if started >= handle.fresh_until:
                handle.for_reading()
            engine, codec = handle.opened
            found = engine.look(key)
            if found is None:
                self._lookups.misses += 1
                return MISSING
            fence, record = found
            value = codec.value(record)
            if record.tags and keep is not None:
                fence.tags = record.tags
                fence.names = frozenset(parse_names(record.content[record.names : record.start]))
        except UnreadableError:
            self.counter.errors += 1
            self._lookups.misses += 1
            return MISSING
        except _FAILURES as error:
            self._fail_lookup(error)
        self._lookups.hits += 1
        if started > self._sample_due:
            self._time_hit(started)
        if keep is not None and not fence.token & WRITING:  # else a write is in progress
            keep(key, value, record.created, record.expiry, record.stale_until, changes, fence)
        return value

    def look(self, key: str) -> FencedEntry | None:
        """Return the live entry with a fence that was taken before it was read; a lookup that counts."""
        started = time.monotonic()
        handle = self._handle
        try:
            if started >= handle.fresh_until:
                handle.for_reading()
            engine, codec = handle.opened
            found = engine.look(key)
        except _FAILURES as error:
            self._fail_lookup(error)
        decoded = None if found is None else self._decoded(codec, key, found[1])
        if found is None or decoded is None:
            self._lookups.misses += 1
            return None
        self._lookups.hits += 1
        if started > self._sample_due:
            self._time_hit(started)
        fence, (entry, origin) = found[0], decoded
        fence.names, fence.tags = entry.tags, found[1].tags
        return FencedEntry(entry, fence, origin)

    def entry(self, key: str) -> CacheEntry | None:
        """Return the live entry; a lookup that counts."""
        found = self.look(key)
        return None if found is None else found.entry

    def peek(self, key: str) -> CacheEntry | None:
        """Return the live entry; no lookup."""
        found = self._peek(key)
        return None if found is None else found[1]

    def _peek(self, key: str) -> tuple[Record, CacheEntry, ServerTokens | None] | None:
        handle = self._handle
        try:
            handle.for_reading()
            engine, codec = handle.opened
            record = engine.get(key)
        except _FAILURES as error:
            self._fail(error)
        found = None if record is None else self._decoded(codec, key, record)
        return None if record is None or found is None else (record, *found)

    def fence(self, key: str, names: frozenset[str]) -> SharedFence:
        """Return a fence over a key and tags."""
        handle = self._handle
        try:
            engine = handle.engine if time.monotonic() < handle.fresh_until else handle.for_reading()
            return engine.fence(key, names)
        except _FAILURES as error:
            self._fail(error)

    def keys(self, pattern: re.Pattern[str] | None) -> Iterator[str]:
        """Return the keys of live entries, which are read as the caller consumes them."""
        return self._keys(self.engine(), pattern)

    def _keys(self, engine: Engine, pattern: re.Pattern[str] | None) -> Iterator[str]:
        try:
            yield from engine.keys(pattern)
        except _FAILURES as error:
            self._fail(error)

    # -- writing ----------------------------------------------------------------------------------------

    def write(
        self,
        key: str,
        value: Any,
        ttl: float,
        names: frozenset[str],
        stale_ttl: float = 0.0,
        created: float = inf,
        origin: ServerTokens | None = None,
        in_progress: bool = False,
    ) -> SharedFence:
        """Store a value in place of the one that the key had; return the fence from this write on.

        Args:
            key: the key.
            value: any object that the codec carries.
            ttl: Seconds that it lives from `created`.
            names: its tags.
            stale_ttl: Seconds after its life in which loads may use it.
            created: When it was made, by the wall clock; now if that is in the future.
            origin: the server's tokens from before the value was made.
            in_progress: Let no other tier copy the value until the write is finished.
        """
        handle = self._handle
        checks = time.monotonic() >= handle.checked_until
        try:
            if checks:
                handle.for_writing()
        except _FAILURES as error:
            self._fail(error)
        (engine, codec), now = handle.opened, self._clock.time()
        if created > now:
            created = now
        expiry = min(created + ttl, now + self._longest)
        if expiry <= now:
            return self.remove(key, in_progress)[1]
        try:
            flags, payload = codec.encode(value, engine.largest)
        except ValueTooLargeError as error:
            self._refuse(engine, key, error, removes=True)
        packed = pack_names(names, origin) if names else b""
        server_token = 0 if origin is None else origin.token
        try:
            octets, hashed, shard, bucket = engine.locations[key] or engine.locate(key)
            tokens = shard.tokens
            # Before the write: an invalidation of a tag from here on concerns this value. The epoch comes
            # first, as in Engine.fence().
            epoch = tokens.words[EPOCH]
            if epoch & WRITING:
                epoch = tokens.stable_epoch()
            tags = tokens.of_tags(names) if names else ()
            if len(payload) + len(packed) + len(octets) <= engine.surely_fits and len(tags) <= MOST_TAGS:
                record = small_record(
                    octets, hashed, payload, expiry, flags, server_token, tags, created, expiry + stale_ttl,
                    packed, codec.sign,
                )  # fmt: skip
                token = fresh()
                # From inside another write of this thread it is stored after that one.
                shard.lock.run(shard.put, hashed, record, bucket, token, None, in_progress)
            else:
                stored = engine.put(
                    key, payload, expiry=expiry, flags=flags, server_token=server_token, tags=tags,
                    created=created, stale_until=expiry + stale_ttl, names=packed, sign=codec.sign,
                    in_progress=in_progress,
                )  # fmt: skip
                token = 0 if stored is None else stored
        except FileNotFoundError as error:
            if checks:
                self._fail(error)
            handle.checked_until = 0.0  # the lock was removed, and perhaps the directory
            return self.write(key, value, ttl, names, stale_ttl, created, origin, in_progress)
        except _FAILURES as error:
            self._fail(error)
        self.counter.sets += 1
        return SharedFence(tokens, key, bucket, token, epoch, names, tags)

    def write_many(
        self,
        values: Mapping[str, Any],
        ttl: float,
        names: frozenset[str],
        stale_ttl: float,
        fences: dict[str, SharedFence] | None = None,
    ) -> None:
        """Do as `write` for several values, under one hold of each shard's lock for some MiB of them.

        So many are encoded before the first of them is stored.

        Args:
            values: the values by key.
            ttl: as for `write`, like all others.
            names: as there.
            stale_ttl: as there.
            fences: takes the fences that `write` would return; None if they are not needed.
        """
        self.change(_itself)
        opened, created = self._handle.opened, self._clock.time()
        expiry = min(created + ttl, created + self._longest)
        if expiry <= created:
            for key in values:
                fence = self.remove(key, False)[1]
                if fences is not None:
                    fences[key] = fence
            return
        (engine, codec), times = opened, (created, expiry, expiry + stale_ttl)
        encode, most = codec.encode, engine.largest
        encoded: list[tuple[str, int, Payload]] = []
        left = _TOGETHER
        for key, value in values.items():
            try:
                flags, payload = encode(value, most)
            except ValueTooLargeError as error:
                self._refuse(engine, key, error, removes=True)
            except SerializationError as error:
                text = f"the value of {shown_key(key)} is not storable: {error}{how_to_show()}"
                raise type(error)(text) from error.__cause__
            encoded.append((key, flags, payload))
            size = len(payload)
            left -= size
            if left < 0:
                self._write_encoded(opened, encoded, times, names, fences)
                encoded, left = [], _TOGETHER
        if encoded:
            self._write_encoded(opened, encoded, times, names, fences)

    def _write_encoded(
        self,
        opened: tuple[Engine, RecordCodec],
        encoded: list[tuple[str, int, Payload]],
        times: tuple[float, float, float],
        names: frozenset[str],
        fences: dict[str, SharedFence] | None,
    ) -> None:
        """Store values, each given by key, flags and payload. The times: created, expiry, stale until."""
        (engine, codec), (created, expiry, stale_until) = opened, times
        sign, locations = codec.sign, engine.locations
        packed = pack_names(names, None) if names else b""
        by_shard: dict[Shard, list[tuple[int, bytes, int, int]]] = {}
        try:
            before = engine.fence("", names)  # older than the writes: its epoch and the tokens of the tags
            tags = before.tags
            fits = engine.surely_fits - len(packed) if len(tags) <= MOST_TAGS else -1
            for key, flags, payload in encoded:
                octets, hashed, shard, bucket = locations[key] or engine.locate(key)
                if len(payload) + len(octets) <= fits:
                    record = small_record(
                        octets, hashed, payload, expiry, flags, 0, tags, created, stale_until, packed, sign
                    )
                    token = fresh()
                    records = by_shard.get(shard)
                    if records is None:
                        records = by_shard[shard] = []
                    records.append((hashed, record, bucket, token))
                else:
                    stored = engine.put(
                        key, payload, expiry=expiry, flags=flags, tags=tags, created=created,
                        stale_until=stale_until, names=packed, sign=sign,
                    )  # fmt: skip
                    token = 0 if stored is None else stored
                if fences is not None:
                    fences[key] = SharedFence(shard.tokens, key, bucket, token, before.epoch, names, tags)
            for shard, records in by_shard.items():
                records.reverse()  # it begins at the end, and the last keys have to be the newest
                shard.lock.run(shard.put_many, records)
        except _FAILURES as error:
            self._fail(error)
        count = len(encoded)
        self.counter.sets += count

    def replace(
        self, entry: CacheEntry, origin: ServerTokens | None, expect: SharedFence, in_progress: bool
    ) -> SharedFence | None:
        """Store an entry in place of the one that its key had, if the fence is current; else return None."""
        handle, names = self._handle, entry.tags
        try:
            handle.for_writing()
        except _FAILURES as error:
            self._fail(error)
        engine, codec = handle.opened
        created, expiry = self._times(entry)
        flags, payload = self._encoded(engine, codec, entry)
        if not (expect.tokens is engine.tokens and expect.is_current()):
            self.counter.refusals += 1
            return None
        try:
            if expiry <= created:
                return self._remove_behind(engine, expect, in_progress)
            tags = expect.tags if expect.names == names else _some_tags(engine, expect, names)
            token = engine.put(
                entry.key,
                payload,
                expiry=expiry,
                flags=flags,
                server_token=0 if origin is None else origin.token,
                tags=tags,
                created=created,
                stale_until=expiry + entry.stale_ttl,
                names=pack_names(names, origin) if names else b"",
                sign=codec.sign,
                expect=expect.token,
                in_progress=in_progress,
            )
        except _FAILURES as error:
            self._fail(error)
        if token is None:
            self.counter.refusals += 1
            return None
        self.counter.sets += 1
        return _with_token(expect, token, names, tags)

    def _encoded(self, engine: Engine, codec: RecordCodec, entry: CacheEntry) -> tuple[int, Payload]:
        try:
            return codec.encode(entry.value, engine.largest)
        except ValueTooLargeError as error:
            self._refuse(engine, entry.key, error, removes=False)

    def _refuse(self, engine: Engine, key: str, error: ValueTooLargeError, *, removes: bool) -> NoReturn:
        """Raise the error for a value that takes more than any record may have."""
        try:
            engine.refuse(key, str(error), removes=removes)
        except _FAILURES as failure:
            self._fail(failure)

    def _times(self, entry: CacheEntry) -> tuple[float, float]:
        """Return when the entry was created and when it expires; the former twice if it is expired."""
        now, created = self._clock.time(), entry.created_timestamp
        if created > now:
            created = now
        expiry = min(created + (inf if entry.ttl is None else entry.ttl), now + self._longest)
        return created, expiry if expiry > now else created

    def _remove_behind(self, engine: Engine, fence: SharedFence, in_progress: bool) -> SharedFence | None:
        outcome = engine.delete_if(fence.key, fence.token, in_progress=in_progress)
        if outcome is None:
            self.counter.refusals += 1
            return None
        removed, token = outcome
        if removed:
            self.counter.deletes += 1
        return _with_token(fence, token, NO_TAGS, ())

    def add(self, entry: CacheEntry, fence: SharedFence, origin: ServerTokens | None) -> CacheEntry | bool:
        """Store an entry behind its fence, unless the key has a live one; then return that one."""
        key, names, handle = entry.key, entry.tags, self._handle
        checks = time.monotonic() >= handle.checked_until
        try:
            if checks:
                handle.for_writing()
        except _FAILURES as error:
            self._fail(error)
        engine, codec = handle.opened
        created, expiry = self._times(entry)
        flags, payload = self._encoded(engine, codec, entry)
        if not (fence.tokens is engine.tokens and fence.is_current()):
            self.counter.refusals += 1
            return False
        if expiry <= created:
            return False
        try:
            outcome = engine.add(
                key,
                payload,
                fence.token,
                expiry=expiry,
                flags=flags,
                server_token=0 if origin is None else origin.token,
                tags=fence.tags if fence.names == names else _some_tags(engine, fence, names),
                created=created,
                stale_until=expiry + entry.stale_ttl,
                names=pack_names(names, origin) if names else b"",
                sign=codec.sign,
            )
        except FileNotFoundError as error:
            if checks:
                self._fail(error)
            handle.checked_until = 0.0  # the lock was removed, and perhaps the directory
            return self.add(entry, fence, origin)
        except _FAILURES as error:
            self._fail(error)
        if isinstance(outcome, Record):
            there = self._decoded(codec, key, outcome)
            if there is not None:
                return there[0]
            # The stored record cannot be read. It must not block the key until it expires.
            return self.replace(entry, origin, fence, False) is not None
        if not outcome:
            self.counter.refusals += 1
            return False
        self.counter.sets += 1
        return True

    def create(self, entry: CacheEntry, origin: ServerTokens | None) -> SharedFence | None:
        """Store an entry unless its key has a live one; return the fence that stands from then on, or None.

        An expired entry is not stored. Nor is one that is created in the middle of another write.
        """
        key, names, handle = entry.key, entry.tags, self._handle
        try:
            handle.for_writing()
        except _FAILURES as error:
            self._fail(error)
        engine, codec = handle.opened
        created, expiry = self._times(entry)
        flags, payload = self._encoded(engine, codec, entry)
        if expiry <= created:
            return None
        try:
            fence = engine.fence(key, names)  # older than the write: its epoch and the tokens of the tags
            outcome = engine.create(
                key,
                payload,
                expiry=expiry,
                flags=flags,
                server_token=0 if origin is None else origin.token,
                tags=fence.tags,
                created=created,
                stale_until=expiry + entry.stale_ttl,
                names=pack_names(names, origin) if names else b"",
                sign=codec.sign,
            )
        except _FAILURES as error:
            self._fail(error)
        if isinstance(outcome, Record):
            if self._decoded(codec, key, outcome) is None:
                # The stored record cannot be read. It must not block the key until it expires.
                return self.replace(entry, origin, fence, False)
            outcome = None
        if outcome is None:
            self.counter.refusals += 1
            return None
        self.counter.sets += 1
        return _with_token(fence, outcome, names, fence.tags)

    def touch(self, key: str, life: float) -> bool:
        """Store a live entry again, to expire in `life` seconds; True if there is one."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            fence = self.change(Engine.fence, key)
            found = self._peek(key)
            if found is None:
                # A load that began before this call may be under way. Changing the token refuses its value.
                # A value that another caller has stored since then stays.
                if self.change(Engine.delete_if, key, fence.token) is not None:
                    return False
                self._pause(key, deadline)
                continue
            record, entry, origin = found
            entry.ttl = self._clock.time() - entry.created_timestamp + life
            expect = _with_token(fence, fence.token, entry.tags, record.tags)
            try:
                if self.replace(entry, origin, expect, False):
                    return True
            except (SerializationError, ValueTooLargeError):  # no cache has stored it: a cache could not
                self.counter.errors += 1
                return False
            self._pause(key, deadline)

    def _pause(self, key: str, deadline: float) -> None:
        if time.monotonic() >= deadline:
            self.counter.errors += 1
            raise LockTimeoutError(
                f"touch of {shown_key(key)} in {self._handle.path} gave up after {_PATIENCE} s, because "
                f"other callers wrote the key all the time; try again"
            )
        time.sleep(_PAUSE)

    def remove(self, key: str, in_progress: bool) -> tuple[bool, SharedFence]:
        """Remove a key; return whether it was there, and the fence that stands from this write on."""
        try:
            engine = self._handle.for_writing()
            fence = engine.fence(key)
            removed, fence.token = engine.delete(key, in_progress=in_progress)
        except _FAILURES as error:
            self._fail(error)
        if removed:
            self.counter.deletes += 1
        return removed, fence

    def remove_many(self, keys: Iterable[str]) -> list[str]:
        """Remove keys, under one hold of each shard's lock; return those that were there."""
        removed = self.change(Engine.delete_many, keys)
        count = len(removed)
        self.counter.deletes += count
        return removed

    def sweep(self) -> None:
        """Remove expired entries, and release files that other processes removed."""
        try:
            self.change(Engine.remove_expired)
            self.change(Engine.tick)
        except CacheError:
            pass  # it is counted, and callers get it too; the next sweep tries again

    def settle(self, fence: SharedFence) -> bool:
        """End the write that returned this fence, and has just found that the directory is there."""
        try:
            return self._handle.engine.finish_write(fence.key, fence.token)
        except _FAILURES as error:
            self._fail(error)

    # -- the engine -------------------------------------------------------------------------------------

    def engine(self) -> Engine:
        """Return the engine, for an operation that changes nothing."""
        return self.read(_itself)

    def read(self, operation: Callable[Concatenate[Engine, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call an operation of the engine that changes nothing."""
        try:
            return operation(self._handle.for_reading(), *args, **kwargs)
        except _FAILURES as error:
            self._fail(error)

    def change(self, operation: Callable[Concatenate[Engine, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call an operation of the engine that changes something."""
        try:
            return operation(self._handle.for_writing(), *args, **kwargs)
        except _FAILURES as error:
            self._fail(error)

    def _fail_lookup(self, error: OSError | CacheError) -> NoReturn:
        if not self._handle.is_closed() and not is_interrupt(error):
            self._unavailable += 1
        self._fail(error)

    def _fail(self, error: OSError | CacheError) -> NoReturn:
        """Count a failure of the engine, and raise it as TierUnavailableError."""
        if is_interrupt(error):  # a time limit may be a TimeoutError, which is an OSError
            raise error
        path = self._handle.path
        if isinstance(error, CacheClosedError):
            if self._handle.is_closed():
                raise error
            error = TierUnavailableError(f"the cache directory {path} was replaced during this call")
        self.counter.errors += 1
        if isinstance(error, FileFormatError):  # of a directory that took the place of this one
            raise TierUnavailableError(str(error)) from error
        if isinstance(error, OSError):
            if isinstance(error, FileNotFoundError):
                self._handle.check_replaced()
            raise TierUnavailableError(
                f"the cache directory {path} failed: {error.strerror or error}; {remedy_for(error)}",
                full=error.errno in _NO_SPACE,
            ) from error
        raise error

    def _decoded(
        self, codec: RecordCodec, key: str, record: Record
    ) -> tuple[CacheEntry, ServerTokens | None] | None:
        try:
            return codec.entry(key, record, self._clock.time())
        except UnreadableError:
            self.counter.errors += 1
            return None

    # -- statistics -------------------------------------------------------------------------------------

    def stats(self) -> CacheStats:
        """Return what has been counted, as `FileCache.get_stats` describes it."""
        engine = self._handle.stats()
        return tier_stats(
            self.counter,
            self.latency,
            hits=self._lookups.hits,
            misses=self._lookups.misses,
            unavailable=self._unavailable,
            size=engine.entries,
            memory_usage_bytes=engine.bytes,
            evictions=engine.evictions,
            expirations=engine.expirations,
            errors=self.counter.errors + engine.damaged,
        )

    def _time_hit(self, started: float) -> None:
        self._sample_due = started + SAMPLE_INTERVAL
        self.latency.record(time.monotonic() - started)


def _itself(engine: Engine) -> Engine:
    return engine


def _with_token(fence: SharedFence, token: int, names: frozenset[str], tags: TagTokens) -> SharedFence:
    """Return the fence with another token and tags. The tags' tokens are no older than the fence's epoch."""
    return SharedFence(fence.tokens, fence.key, fence.bucket, token, fence.epoch, names, tags)


def _some_tags(engine: Engine, fence: SharedFence, names: frozenset[str]) -> TagTokens:
    """Return the tokens that the fence has for some of its tags."""
    known = dict(fence.tags)
    return tuple([(bucket, known[bucket]) for bucket, _ in engine.tag_tokens(names)])
