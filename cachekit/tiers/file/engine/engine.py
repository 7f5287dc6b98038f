"""The engine of the file tier: bytes under str keys, in a directory that processes share.

`kill -9` at any moment loses at most the write in progress. Damage is a miss. The directory stays within its
limit. Lookups take no lock. `format` explains how. The tier above serializes values and knows their age. It
also reads `token` before a slow load, and passes it to `add` afterwards.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf
from types import TracebackType
from typing import Final, NamedTuple, NoReturn, TypeAlias, cast, final

from cachekit.errors import CacheClosedError, ValueTooLargeError
from cachekit.model.types import NO_TAGS
from cachekit.runtime import fork
from cachekit.runtime.clock import Clock, SystemClock, source_of
from cachekit.runtime.none_dict import NoneDict
from cachekit.serialization.parts import Payload
from cachekit.tiers.fences import EPOCH, WRITING, SharedFence, TagTokens
from cachekit.tiers.file.descriptor_budget import Fixed, descriptors
from cachekit.tiers.file.engine import control_block, fence_tokens, large_records
from cachekit.tiers.file.engine.directory import USERS, open_directory
from cachekit.tiers.file.engine.fence_tokens import Tokens
from cachekit.tiers.file.engine.file_ops import EFFECTS, FileOps, regrow
from cachekit.tiers.file.engine.format import (
    MOST_TAGS,
    SIGNATURE_SIZE,
    TOKENS_HEAD,
    Geometry,
    LargeRecord,
    Record,
    hasher,
    record_parts,
    record_size,
    whole_record,
)
from cachekit.tiers.file.engine.large_room import LargeRoom
from cachekit.tiers.file.engine.segments import RemovedError
from cachekit.tiers.file.engine.shard import Shard
from cachekit.tiers.file.folder import Folder
from cachekit.tiers.fresh_tokens import fresh

_PATIENCE: Final = 2.0
_OPENING: Final = 30.0
#: Keys whose location is remembered: a key that was just looked up is the next to be stored or looked up, and
#: its hash costs as much as the rest of a lookup that misses.
MOST_LOCATIONS: Final = 4096
#: Bytes of a key whose location is remembered: a few thousand longer ones could take gigabytes.
_LONGEST_LOCATED: Final = 512
#: Descriptors of an open directory: its own, `users`, and two mappings.
_FIXED: Final = 4
#: A key encoded, its hash, its shard, and the word of its token.
Location: TypeAlias = "tuple[bytes, int, Shard, int]"


class EngineStats(NamedTuple):
    """Statistics of a directory, and of what this process did in it."""

    entries: int  #: in the directory, expired ones included; each crash may leave it too high by one
    bytes: int  #: that the directory takes on disk, about
    evictions: int  #: entries that this process removed to free space
    expirations: int  #: entries that this process removed because they, or their tags, were no longer valid
    damaged: int  #: slots and indexes that this process found damaged, and dropped


@final
class Engine:
    """An opened directory. Safe in any thread; in parent and child after a fork.

    Args:
        path: The directory, made with its parents if it does not exist.
        limit: Bytes that it may take on disk, at least 1 MiB.
        clock: for expiry.
        patience: Seconds that a writer waits for another one at most.
        opening: Seconds to wait at most while other processes open the directory.
        geometry: its shape in detail, instead of `limit`.
        effects: the operations that change files; another object is for tests.

    Raises:
        ValueError: the limit is too small.
        FileFormatError: other processes use the directory in a format or state that this one cannot join.
        LockTimeoutError: other processes were opening it all the time.
        OSError: the directory cannot be made, read or written.

    Every method but `close` may raise OSError, and CacheClosedError after `close`. Methods that write may
    also raise LockTimeoutError.
    """

    __slots__ = (
        "__weakref__", "_bucket_shift", "_clock", "_closed", "_effects", "_fixed", "_folder", "_hash_of",
        "_large", "_last_stats", "_shard_shift", "_shards", "_users", "exposure", "geometry", "largest",
        "locations", "path", "surely_fits", "tokens",
    )  # fmt: skip

    def __init__(
        self,
        path: str | os.PathLike[str],
        limit: int = 1000 << 20,
        *,
        clock: Clock | None = None,
        patience: float = _PATIENCE,
        opening: float = _OPENING,
        geometry: Geometry | None = None,
        effects: FileOps = EFFECTS,
    ) -> None:
        directory = open_directory(
            os.path.abspath(os.fspath(path)),
            Geometry.for_limit(limit) if geometry is None else geometry,
            opening,
            effects,
        )
        self._folder: Folder | None = directory.folder
        self.path = directory.folder.path
        #: Why other users may have changed what is in it; empty if they never could.
        self.exposure = directory.exposure
        self.geometry = geometry = directory.geometry
        self._users = directory.users
        self._hash_of = hasher(directory.salt)
        #: What `locate` returned for keys that were used last.
        self.locations: NoneDict[str, Location] = NoneDict()
        #: Bytes of key, names and payload that fit into every shard, without a closer look.
        self.surely_fits = geometry.segment >> 3
        #: Bytes that no record has; most shards take less.
        self.largest = geometry.largest_record
        self._closed = False
        self._effects = effects
        self._last_stats: EngineStats | None = None
        self._clock = source_of(SystemClock() if clock is None else clock)
        self._shards: tuple[Shard, ...] = ()
        self._large = LargeRoom((), geometry)
        self._fixed: Fixed | None = None
        #: Those of its fences; None after `close`. Tokens of another directory mean nothing in this one.
        self.tokens: Tokens | None = None
        try:
            self.tokens = tokens = Tokens(directory.folder, geometry, effects)
            blocks = control_block.map_blocks(directory.folder, geometry, effects)
            self._large = LargeRoom(blocks, geometry)
            self._fixed = Fixed(_FIXED)
            most_mapped = descriptors.limit()
            # With one shard the shift is 64, and every hash belongs to shard 0.
            self._shard_shift = 64 - geometry.shard_bits
            self._bucket_shift = geometry.bucket_shift
            for number in range(geometry.shards):
                self._shards += (
                    Shard(
                        number,
                        directory.folder,
                        blocks[number],
                        tokens,
                        geometry,
                        self._large,
                        self._hash_of,
                        patience,
                        most_mapped,
                        effects,
                    ),
                )
        except BaseException:
            self.close()
            raise
        fork.register(self)

    # -- looking ----------------------------------------------------------------------------------------

    def get(self, key: str) -> Record | None:
        """Return the live record of a key, or None."""
        octets, hashed, shard, _ = self.locations[key] or self.locate(key)
        return shard.get(hashed, octets, self._clock.time())

    def look(self, key: str) -> tuple[SharedFence, Record] | None:
        """Return the live record of a key, and a fence that was taken before it was read; or None.

        The fence covers no tags. The caller may add those of the record.
        """
        octets, hashed, shard, bucket = self.locations[key] or self.locate(key)
        # As in fence(), without its call and for no tags.
        tokens = shard.tokens
        words = tokens.words
        epoch = words[EPOCH]
        if epoch & WRITING:
            epoch = tokens.stable_epoch()
        token = words[bucket]
        if token & WRITING:
            token = self.token(key)
        record = shard.get(hashed, octets, self._clock.time())
        return None if record is None else (SharedFence(tokens, key, bucket, token, epoch), record)

    def keys(self, pattern: re.Pattern[str] | None = None) -> Iterator[str]:
        """Yield the keys of live records, in no order; with a pattern, those that match from the start.

        An entry that is stored, removed or moved during the scan may be missing, or come twice.
        """
        for shard in self._open_shards():
            for key in shard.scan(self._clock.time()):
                if pattern is None or pattern.match(key):
                    yield key

    # -- tokens -----------------------------------------------------------------------------------------

    def token(self, key: str) -> int:
        """Return the fence token of the key, which every write and invalidation of it changes.

        With the WRITING bit set, a write is under way: what is read now must not be copied elsewhere.
        """
        _, _, shard, bucket = self.locations[key] or self.locate(key)
        tokens = shard.tokens
        token: int = tokens.words[bucket]
        if token & WRITING and tokens.is_abandoned(bucket, token):
            shard.lock.run(tokens.end_abandoned_write, bucket, token)
            token = tokens.words[bucket]
        return token

    def tag_tokens(self, tags: Iterable[str]) -> TagTokens:
        """Return the tokens of tags, to be read before a value is loaded and stored with it."""
        return self._open_tokens().of_tags(tags)

    def fence(self, key: str, names: frozenset[str] = NO_TAGS) -> SharedFence:
        """Return a fence over a key and tags, to be taken before the record, or the value, is read."""
        _, _, shard, bucket = self.locations[key] or self.locate(key)
        tokens = shard.tokens
        words = tokens.words
        # First: if a later comparison finds the same epoch, it need not compare tags. During an invalidation
        # that would be wrong, so the fence gets 0, which the epoch never is.
        epoch = words[EPOCH]
        if epoch & WRITING:
            epoch = tokens.stable_epoch()
        tags = tokens.of_tags(names) if names else ()
        token = words[bucket]
        if token & WRITING:
            token = self.token(key)
        return SharedFence(tokens, key, bucket, token, epoch, names, tags)

    # -- writing ----------------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        payload: Payload,
        *,
        expiry: float = inf,
        flags: int = 0,
        server_token: int = 0,
        tags: TagTokens = (),
        created: float = 0.0,
        stale_until: float = 0.0,
        names: bytes = b"",
        sign: Callable[..., bytes] | None = None,
        expect: int | None = None,
        in_progress: bool = False,
    ) -> int | None:
        """Store a record in place of the one that the key has, and change its token.

        Args:
            key: any str.
            payload: the bytes, in one piece or in parts.
            expiry: Seconds since the epoch from which on the record is no longer found.
            flags: 0 to 65,535; it comes back with the record.
            server_token: 64 bits; it comes back with the record.
            tags: the record's tags, by `tag_tokens` from before the value was read.
            created: seconds since the epoch; it comes back with the record.
            stale_until: the same.
            names: bytes; they come back with the record.
            sign: Returns the signature of the parts that it is called with, SIGNATURE_SIZE bytes, which is
                stored at the end of the payload.
            expect: Change nothing unless the key's token is this one, which has no write in progress. A write
                that was under way when the caller looked may be newer than its value.
            in_progress: leave the write in progress, until `finish_write`.

        Returns:
            The new token; None if the token was not the expected one.

        Raises:
            ValueTooLargeError: the record is larger than its shard of the limit, or has over 65,535 tags. The
                key's record is removed, unless there is an `expect`.
            OSError: the disk is full, or fails. The key's record is removed.
            LockTimeoutError: nothing was changed.
        """
        octets, hashed, shard, bucket = self.locations[key] or self.locate(key)
        if expect is not None and expect & WRITING:
            return None
        form = self._form(key, payload, names, tags, sign, removes=expect is None)
        record = form(
            record_parts(
                octets, hashed, payload, expiry, flags, server_token, tags, created, stale_until, names, sign
            )
        )
        token = fresh()
        stored: bool | None
        if isinstance(record, bytes) or record.size <= self._large.most_own:
            stored = shard.lock.run(shard.put, hashed, record, bucket, token, expect, in_progress)
        else:
            stored = self._put_aside(shard, record, hashed, octets, bucket, token, expect, in_progress)
        # None: called within another write of this thread, after which it will be stored.
        return None if stored is False else token

    def add(
        self,
        key: str,
        payload: Payload,
        expect: int,
        *,
        expiry: float = inf,
        flags: int = 0,
        server_token: int = 0,
        tags: TagTokens = (),
        created: float = 0.0,
        stale_until: float = 0.0,
        names: bytes = b"",
        sign: Callable[..., bytes] | None = None,
    ) -> Record | bool:
        """Store a record that was loaded after `token` returned `expect`, unless the key has a live one.

        Returns:
            The live record that the key has; or whether this one was stored. It is refused if the token is
            another one, or has a write in progress. The token stays as it is.

        Raises:
            ValueTooLargeError: the record is larger than its shard of the limit, or has over 65,535 tags.
        """
        octets, hashed, shard, bucket = self.locations[key] or self.locate(key)
        if expect & WRITING:
            return False
        form = self._form(key, payload, names, tags, sign, removes=False)
        record = form(
            record_parts(
                octets, hashed, payload, expiry, flags, server_token, tags, created, stale_until, names, sign
            )
        )
        outcome: Record | bool | None
        if isinstance(record, bytes) or record.size <= self._large.most_own:
            # mypy joins the union's types
            outcome = cast(
                "Record | bool | None",
                shard.lock.run(shard.add, hashed, octets, record, bucket, expect, self._clock.time()),
            )
        else:
            outcome = self._add_aside(shard, record, hashed, octets, bucket, expect)
        # None: called within another write of this thread; it may be refused after that.
        return False if outcome is None else outcome

    def create(
        self,
        key: str,
        payload: Payload,
        *,
        expiry: float,
        flags: int,
        server_token: int,
        tags: TagTokens,
        created: float,
        stale_until: float,
        names: bytes,
        sign: Callable[..., bytes] | None,
    ) -> Record | int | None:
        """Do as `put`, unless the key has a live record: then return that one, and change nothing.

        Returns:
            The live record; or the new token. None if the call came within another write of this thread: it
            is carried out after that, or not at all if the record is large.

        Raises:
            ValueTooLargeError: the record is larger than its shard of the limit, or has over 65,535 tags.
                Nothing was changed.
            OSError: the disk is full, or fails. The key's record is removed.
            LockTimeoutError: nothing was changed.
        """
        octets, hashed, shard, bucket = self.locations[key] or self.locate(key)
        form = self._form(key, payload, names, tags, sign, removes=False)
        record = form(
            record_parts(
                octets, hashed, payload, expiry, flags, server_token, tags, created, stale_until, names, sign
            )
        )
        token = fresh()
        outcome: Record | bool | None
        if isinstance(record, bytes) or record.size <= self._large.most_own:
            # mypy joins the union's types
            outcome = cast(
                "Record | bool | None",
                shard.lock.run(shard.create, hashed, octets, record, bucket, token, self._clock.time()),
            )
        else:
            outcome = self._create_aside(shard, record, hashed, octets, bucket, token)
        return token if outcome is True else outcome or None

    def _put_aside(
        self,
        shard: Shard,
        record: LargeRecord,
        hashed: int,
        key: bytes,
        bucket: int,
        token: int,
        expect: int | None,
        in_progress: bool,
    ) -> bool:
        """Do as `Shard.put` for a record that is written without the lock."""
        if expect is not None and shard.tokens.words[bucket] != expect:
            return False
        try:
            if not large_records.is_nested(self._shards):
                with large_records.written_aside(self._shards, shard, self._large, record, hashed):
                    done = shard.lock.run(shard.put, hashed, record, bucket, token, expect, in_progress)
                    return done is not False
        except RemovedError:
            return True  # as if it had been stored before the directory was emptied
        except BaseException:
            # As in Shard.put(): a write that failed still invalidates. A token is not used twice.
            if expect is None:
                shard.lock.run(shard.delete, hashed, key, bucket, fresh(), False, self._clock.time())
            raise
        # Within another write of this thread it cannot be written, because that one has a lock.
        shard.lock.run(shard.delete, hashed, key, bucket, token, in_progress, self._clock.time())
        return True

    def _add_aside(
        self, shard: Shard, record: LargeRecord, hashed: int, key: bytes, bucket: int, expect: int
    ) -> Record | bool | None:
        """Do as `Shard.add` for a record that is written without the lock."""
        if shard.tokens.words[bucket] != expect or large_records.is_nested(self._shards):
            return False
        there = shard.get(hashed, key, self._clock.time())
        if there is not None:
            return there
        try:
            with large_records.written_aside(self._shards, shard, self._large, record, hashed):
                outcome = shard.lock.run(shard.add, hashed, key, record, bucket, expect, self._clock.time())
                return cast("Record | bool | None", outcome)
        except RemovedError:
            return False

    def _create_aside(
        self, shard: Shard, record: LargeRecord, hashed: int, key: bytes, bucket: int, token: int
    ) -> Record | bool | None:
        """Do as `Shard.create` for a record that is written without the lock."""
        if large_records.is_nested(self._shards):
            return None
        there = shard.get(hashed, key, self._clock.time())
        if there is not None:
            return there
        try:
            with large_records.written_aside(self._shards, shard, self._large, record, hashed):
                outcome = shard.lock.run(shard.create, hashed, key, record, bucket, token, self._clock.time())
                return cast("Record | bool | None", outcome)
        except RemovedError:
            return True  # as if it had been stored before the directory was emptied

    def _form(
        self,
        key: str,
        payload: Payload,
        names: bytes,
        tags: TagTokens,
        sign: Callable[..., bytes] | None,
        *,
        removes: bool,
    ) -> Callable[[Sequence[bytes]], bytes | LargeRecord]:
        """Return what makes a record of its parts, by its size.

        With `removes`, the key of a record that is too large is removed: its caller replaces its record.

        Raises:
            ValueTooLargeError: the record does not fit even into an empty directory.
        """
        octets, _, shard, _ = self.locations[key] or self.locate(key)
        if len(payload) + len(names) + len(octets) <= self.surely_fits and len(tags) <= MOST_TAGS:
            return whole_record
        size = record_size(
            len(octets), len(names), len(payload) + (0 if sign is None else SIGNATURE_SIZE), len(tags)
        )
        if len(tags) > MOST_TAGS:
            if removes:
                self.delete(key)
            raise ValueTooLargeError(f"a value with {len(tags)} tags does not fit: the most are {MOST_TAGS}")
        if not size <= self._large.most_own < self.geometry.limit and size > shard.files.largest():
            self.refuse(key, f"the value takes {len(payload)} bytes", removes=removes)
        return whole_record if size <= shard.files.most_shared else LargeRecord

    def refuse(self, key: str, why: str, *, removes: bool) -> NoReturn:
        """Raise ValueTooLargeError; with `removes`, remove what the key has: its caller replaces that."""
        octets, _, shard, _ = self.locations[key] or self.locate(key)
        if removes:
            self.delete(key)
        raise ValueTooLargeError(
            f"{why} under a key of {len(octets)}, which does not fit: this directory, with a limit of "
            f"{self.geometry.limit} bytes, holds values of up to about {shard.files.largest()}; raise the "
            f"limit, or store less"
        )

    def delete(self, key: str, *, in_progress: bool = False) -> tuple[bool, int]:
        """Remove a key and change its token; return whether the key was there, and the token."""
        octets, hashed, shard, bucket = self.locations[key] or self.locate(key)
        token = fresh()
        removed = shard.lock.run(shard.delete, hashed, octets, bucket, token, in_progress, self._clock.time())
        return bool(removed), token

    def delete_many(self, keys: Iterable[str]) -> list[str]:
        """Do as `delete` for several keys, shard by shard; return those that were there."""
        by_shard: dict[Shard, list[tuple[str, int, bytes, int]]] = {}
        for key in keys:
            octets, hashed, shard, bucket = self.locations[key] or self.locate(key)
            by_shard.setdefault(shard, []).append((key, hashed, octets, bucket))
        removed: list[str] = []
        for shard, places in by_shard.items():
            shard.lock.run(shard.delete_many, places, self._clock.time(), removed)
        return removed

    def delete_if(self, key: str, expect: int, *, in_progress: bool = False) -> tuple[bool, int] | None:
        """Do as `delete` if the key's token is the expected one, without a write in progress; else None."""
        octets, hashed, shard, bucket = self.locations[key] or self.locate(key)
        if expect & WRITING:
            return None
        token = fresh()
        now = self._clock.time()
        outcome = shard.lock.run(shard.delete_if, hashed, octets, bucket, token, expect, in_progress, now)
        # None: called within another write of this thread, after which it will be done.
        done, removed = (True, False) if outcome is None else outcome
        return (removed, token) if done else None

    def finish_write(self, key: str, token: int) -> bool:
        """End a write that was left in progress; tell whether it overlapped with no other one.

        If so, `token` is the key's from now on.
        """
        _, _, shard, bucket = self.locations[key] or self.locate(key)
        return bool(shard.lock.run(shard.finish_write, bucket, token, fresh()))

    def invalidate_tags(self, tags: Iterable[str]) -> None:
        """Invalidate all records that were stored with a token of one of the tags. No lock."""
        self._open_tokens().invalidate_tags(tags)

    def delete_matching(self, pattern: re.Pattern[str]) -> int:
        """Remove the keys that the pattern matches from the start, and change all tokens; return how many.

        The tokens change before and after: what was read or loaded in between is copied nowhere. Memory does
        not grow with the entries, and no lock is held for more than a thousand of them.
        """
        self.renew_tokens()
        removed = sum([shard.delete_matching(pattern, self._clock.time()) for shard in self._open_shards()])
        self.renew_tokens()
        return removed

    def clear(self) -> int:
        """Remove everything, and change all tokens; return about how many entries there were."""
        return sum([shard.lock.run(shard.clear) or 0 for shard in self._open_shards()])

    def renew_tokens(self) -> None:
        """Change the tokens of all keys: what was read until now is copied nowhere else."""
        for shard in self._open_shards():
            shard.lock.run(shard.renew_tokens)

    # -- upkeep -----------------------------------------------------------------------------------------

    def remove_expired(self) -> int:
        """Remove records that are expired, or have an invalidated tag; return how many."""
        return sum([shard.remove_expired(self._clock.time()) for shard in self._open_shards()])

    def tick(self) -> None:
        """Release files that other processes removed: until then, the disk does not get their blocks back."""
        for shard in self._open_shards():
            shard.lock.run(shard.tick)

    def repair(self, damaged: Iterable[tuple[int, int, int, int]]) -> int:
        """Drop slots that `check` found damaged, and files without an entry; count everything again.

        Returns:
            How many slots were dropped.

        Args:
            damaged: of each the shard, the generation of its index, its word in it, and its location word.
        """
        shards = self._open_shards()
        for shard in shards:
            shard.lock.replace_foreign()
        self.tick()  # also drops an index that is damaged as a whole
        by_index: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for number, generation, at, slot in damaged:
            by_index.setdefault((number, generation), []).append((at, slot))
        dropped = sum(
            [shards[number].drop(generation, slots) for (number, generation), slots in by_index.items()]
        )
        for shard in shards:
            shard.lock.run(shard.repair)
        return dropped

    def regrow(self) -> None:
        """Look whether files that are mapped were cut, before their use is SIGBUS."""
        folder, geometry = self._folder, self.geometry
        if folder is None:
            return
        regrow(folder, control_block.NAME, geometry.control_size, self._effects)
        if regrow(folder, fence_tokens.NAME, geometry.tokens_size, self._effects):
            # A fence must not find again the zeros that it once saw.
            self.invalidate_all_tokens()
        for shard in self._shards:
            shard.files.regrow()

    def stats(self) -> EngineStats:
        """Return what the directory holds, and what this process did. No I/O; works after `close`."""
        if self._last_stats is not None:
            return self._last_stats
        files = [shard.files for shard in self._shards]
        fixed = self.geometry.tokens_size + self.geometry.control_size
        return EngineStats(
            sum([one.count() for one in files]),
            fixed + sum([one.bytes_taken() for one in files]),
            sum([one.counter.evictions for one in files]),
            sum([one.counter.expirations for one in files]),
            sum([one.counter.damaged for one in files]),
        )

    # -- life -------------------------------------------------------------------------------------------

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode of the file that every process with this directory keeps open."""
        self._open_shards()
        found = os.fstat(self._users.fd)
        return found.st_dev, found.st_ino

    def is_whole(self) -> bool:
        """Tell whether the files that this process locks are still those in the directory."""
        return all(shard.lock.is_there() for shard in self._open_shards())

    def give_up(self) -> None:
        """Make all processes open the directory again: remove the file that stands for the whole."""
        folder = self._folder
        if folder is not None:
            os.unlink(USERS, dir_fd=folder.fd)

    def invalidate_all_tokens(self) -> None:
        """Break all fences that were ever taken here, because another directory takes this one's place."""
        self._open_tokens().invalidate_all_tokens()

    def close(self) -> None:
        """Close descriptors and mappings; a second call does nothing."""
        if self._closed:
            return
        self._last_stats = self.stats()
        self._closed = True
        self._fixed = None
        for shard in self._shards:
            shard.close()
        # The mappings are closed with the last reader that is under way.
        self._shards = ()
        self._large = LargeRoom((), self.geometry)
        self.tokens = None
        self._folder = None
        self.locations = NoneDict()
        self._users.close()

    def before_fork(self) -> None:
        """Take the locks of all shards."""
        for shard in self._shards:
            shard.before_fork()

    def after_fork(self, in_child: bool) -> None:
        """Release the locks. The child opens its own lock files, and has its own tables; see `NoneDict`."""
        if in_child:
            self.locations = NoneDict()
        for shard in reversed(self._shards):
            shard.after_fork(in_child)

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Engine({self.path!r}, limit={self.geometry.limit})"

    # -- inside -----------------------------------------------------------------------------------------

    def locate(self, key: str) -> Location:
        """Return a key encoded, its hash, its shard, and the word of its token. See `locations` first."""
        # In this order, so that a dict which close() has replaced in between is not filled.
        locations = self.locations
        if self._closed:
            raise self._refusal()
        shards = self._shards
        try:
            octets = key.encode()
        except UnicodeEncodeError:
            octets = key.encode("utf-8", "surrogatepass")
        hashed = self._hash_of(octets)
        shard = shards[hashed >> self._shard_shift]
        found = octets, hashed, shard, TOKENS_HEAD + (hashed >> self._bucket_shift)  # as bucket_of()
        if len(octets) <= _LONGEST_LOCATED:
            if len(locations) >= MOST_LOCATIONS:
                locations.clear()
            locations[key] = found
        return found

    def _open_shards(self) -> tuple[Shard, ...]:
        if self._closed:
            raise self._refusal()
        return self._shards

    def _open_tokens(self) -> Tokens:
        tokens = self.tokens
        if tokens is None:
            raise self._refusal()
        return tokens

    def _refusal(self) -> CacheClosedError:
        return CacheClosedError(f"the cache directory {self.path} was closed")
