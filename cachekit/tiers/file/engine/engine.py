"""The engine of the file tier: bytes under str keys, in a directory that processes share.

It promises that kill -9 at any moment loses at most the write in progress, that damage is a miss, that
the directory stays within its limit, and that lookups take no lock; `format` tells how. Values, their
serialization and their age are the business of the tier above; so is asking `token` before something
slow and handing it to `add` afterwards.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterable, Iterator
from math import inf
from types import TracebackType
from typing import Final, NamedTuple, TypeAlias, final

from cachekit.errors import CacheClosedError, ValueTooLargeError
from cachekit.model.types import NO_TAGS
from cachekit.runtime import fork
from cachekit.runtime.clock import Clock, SystemClock
from cachekit.tiers.fences import EPOCH, WRITING, SharedFence, TagTokens
from cachekit.tiers.file.engine import control_block
from cachekit.tiers.file.engine.control_block import ENTRIES
from cachekit.tiers.file.engine.directory import USERS, open_directory
from cachekit.tiers.file.engine.fence_tokens import Tokens, fresh
from cachekit.tiers.file.engine.file_ops import EFFECTS, FileOps
from cachekit.tiers.file.engine.format import MOST_TAGS, Geometry, Record, encode, hasher, record_size
from cachekit.tiers.file.engine.shard import Shard
from cachekit.tiers.file.folder import Folder

_PATIENCE: Final = 2.0
_OPENING: Final = 30.0
#: Keys whose place is remembered: one that was just asked for is what will be stored, or asked for again,
#: and its hash costs as much as all the rest of a lookup that fails.
_MOST_KNOWN: Final = 4096
#: Bytes of a key that is remembered: of longer ones a few thousand would take gigabytes.
_LONGEST_KNOWN: Final = 512
#: A key encoded, its hash, its shard, and the word of its token.
_Location: TypeAlias = "tuple[bytes, int, Shard, int]"


class EngineStats(NamedTuple):
    """Figures of a directory, and of what this process did in it."""

    entries: int  #: in the directory, expired ones included; after a crash up to one too many each
    bytes: int  #: that the directory takes on disk, about
    evictions: int  #: this process removed for room
    expirations: int  #: this process removed because their time, or that of their tags, was over
    damaged: int  #: slots and indexes that this process found damaged, and dropped


@final
class Engine:
    """An opened directory. Safe in any thread; in parent and child after a fork.

    Args:
        path: the directory; made, with its parents, if it is not there.
        limit: bytes that it may take on disk, at least 1 MiB.
        clock: for expiry.
        patience: the most seconds that a writer waits for another one.
        opening: the most seconds to wait for others who are opening the directory.
        geometry: its shape in detail, instead of `limit`.
        effects: by which files are changed; for tests.

    Raises:
        ValueError: the limit is too small.
        FileFormatError: others use the directory in a way that we cannot join.
        LockTimeoutError: others are opening it for too long.
        OSError: the directory cannot be made, read or written.

    Every method but `close` may raise CacheClosedError after `close`, and OSError; those that write also
    LockTimeoutError.
    """

    __slots__ = (
        "__weakref__", "_closed", "_folder", "_hash_of", "_known", "_last_stats", "_shard_shift", "_shards",
        "_time", "_users", "exposure", "geometry", "path",
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
        #: Why others may have changed what is in it; empty if they never could.
        self.exposure = directory.exposure
        self.geometry = geometry = directory.geometry
        self._users = directory.users
        self._hash_of = hasher(directory.salt)
        self._known: dict[str, _Location] = {}
        self._closed = False
        self._last_stats: EngineStats | None = None
        self._time = (SystemClock() if clock is None else clock).time
        self._shards: tuple[Shard, ...] = ()
        try:
            tokens = Tokens(directory.folder, geometry, effects)
            blocks = control_block.map_blocks(directory.folder, geometry, effects)
            most_mapped = _most_mapped(geometry.shards)
            # By 64 if there is one shard: then every hash names number 0.
            self._shard_shift = 64 - geometry.shard_bits
            for number in range(geometry.shards):
                self._shards += (
                    Shard(
                        number,
                        directory.folder,
                        blocks[number],
                        tokens,
                        geometry,
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
        """The live record of a key, or None."""
        octets, hashed, shard, _ = self._known.get(key) or self._locate(key)
        return shard.get(hashed, octets, self._time())

    def keys(self, pattern: re.Pattern[str] | None = None) -> Iterator[str]:
        """The keys of live records, those that the pattern matches from the start, in no order.

        Entries that come, go or are moved meanwhile may be missed, or come twice.
        """
        for shard in self._open_shards():
            for key in shard.scan(self._time()):
                if pattern is None or pattern.match(key):
                    yield key

    # -- tokens -----------------------------------------------------------------------------------------

    def token(self, key: str) -> int:
        """The fence token of the key: another one as soon as somebody writes or invalidates it.

        With the FLUX bit set, a write is under way, and nothing that is read now may be kept elsewhere.
        """
        _, _, shard, bucket = self._known.get(key) or self._locate(key)
        tokens = shard.tokens
        token: int = tokens.words[bucket]
        if token & WRITING and tokens.is_abandoned(bucket, token):
            shard.lock.run(tokens.settle, bucket, token)
            token = tokens.words[bucket]
        return token

    def tag_tokens(self, tags: Iterable[str]) -> TagTokens:
        """The tokens of tags, to be read before a value is loaded and stored with it."""
        return self._open_shards()[0].tokens.of_tags(tags)

    def tags_are_current(self, tags: TagTokens) -> bool:
        """Whether none of the tags was invalidated since their tokens were read."""
        return self._open_shards()[0].tokens.are_current(tags)

    def tag_epoch(self) -> int:
        """The same twice, and without the FLUX bit: no tag at all was invalidated in between."""
        return self._open_shards()[0].tokens.epoch()

    def fence(self, key: str, names: frozenset[str] = NO_TAGS) -> SharedFence:
        """The tokens of a key and tags as a fence, to be taken before the record, or the value, is read."""
        _, _, shard, bucket = self._known.get(key) or self._locate(key)
        tokens = shard.tokens
        words = tokens.words
        # First: who finds it unchanged later need not compare the tags. All through an invalidation that
        # would not be so, hence 0, which it never is.
        epoch = words[EPOCH]
        if epoch & WRITING:
            epoch = tokens.epoch()
            if epoch & WRITING:
                epoch = 0
        tags = tokens.of_tags(names) if names else ()
        token = words[bucket]
        if token & WRITING:
            token = self.token(key)
        return SharedFence(tokens, key, bucket, token, epoch, names, tags)

    def owns(self, fence: SharedFence) -> bool:
        """Whether the fence was taken here: tokens of another directory mean nothing in this one."""
        return fence.tokens is self._open_shards()[0].tokens

    # -- writing ----------------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        payload: bytes,
        *,
        expiry: float = inf,
        flags: int = 0,
        rt: int = 0,
        tags: TagTokens = (),
        expect: int | None = None,
        in_flux: bool = False,
    ) -> int | None:
        """Store a record in place of whatever the key had, and change the key's token.

        Args:
            key: any str.
            payload: the bytes.
            expiry: seconds since the epoch from which on the record is not there.
            flags: 16 bits that come back with it.
            rt: 64 bits that come back with it.
            tags: what `tag_tokens` said before the value was loaded.
            expect: change nothing if the key's token is another one, or this one is in flux: a write
                that was under way when the caller looked may be newer than what it brings.
            in_flux: leave the token in flux, for `settle`.

        Returns:
            The new token; None if the token was not the expected one.

        Raises:
            ValueTooLargeError: it is larger than its shard of the limit, or has over 65,535 tags. Whatever
                the key had is gone, unless there is an `expect`.
            OSError: the disk is full, or fails. Whatever the key had is gone.
            LockTimeoutError: nothing was changed.
        """
        octets, hashed, shard, bucket = self._known.get(key) or self._locate(key)
        if expect is not None and expect & WRITING:
            return None
        token = fresh()
        if len(payload) + len(octets) > self.geometry.segment >> 3 or len(tags) > MOST_TAGS:
            reason = self._too_large(octets, payload, tags, shard)
            if reason is not None:
                if expect is None:
                    # The caller means to replace what is there: if not by this value, then by none.
                    shard.delete(hashed, octets, bucket, token, 0, self._time())
                raise reason
        record = encode(octets, hashed, payload, expiry, flags, rt, tags)
        stored = shard.lock.run(shard.put, hashed, record, bucket, token, expect, WRITING if in_flux else 0)
        # None: from inside another write of this thread, after which it will be stored.
        return None if stored is False else token

    def add(
        self,
        key: str,
        payload: bytes,
        expect: int,
        *,
        expiry: float = inf,
        flags: int = 0,
        rt: int = 0,
        tags: TagTokens = (),
    ) -> Record | bool:
        """Store a record that was loaded after `token` said `expect`, unless another live one came first.

        Returns:
            The live record that is there already; or whether it was stored: not if the token is another
            one, or is in flux. The token stays as it is.

        Raises:
            ValueTooLargeError: it is larger than its shard of the limit, or has over 65,535 tags.
        """
        octets, hashed, shard, bucket = self._known.get(key) or self._locate(key)
        if expect & WRITING:
            return False
        reason = self._too_large(octets, payload, tags, shard)
        if reason is not None:
            raise reason
        record = encode(octets, hashed, payload, expiry, flags, rt, tags)
        return _outcome(shard.add(hashed, octets, record, bucket, expect, self._time()))

    def delete(self, key: str, *, in_flux: bool = False) -> tuple[bool, int]:
        """Remove a key, and change its token whether or not it was there; if it was, and the token."""
        octets, hashed, shard, bucket = self._known.get(key) or self._locate(key)
        token = fresh()
        last = WRITING if in_flux else 0
        removed = shard.delete(hashed, octets, bucket, token, last, self._time())
        return bool(removed), token

    def delete_if(self, key: str, expect: int, *, in_flux: bool = False) -> tuple[bool, int] | None:
        """`delete`, if the key's token is the expected one, and not in flux; None if it is not."""
        octets, hashed, shard, bucket = self._known.get(key) or self._locate(key)
        if expect & WRITING:
            return None
        token = fresh()
        last = WRITING if in_flux else 0
        done, removed = shard.delete_if(hashed, octets, bucket, token, expect, last, self._time())
        return (removed, token) if done else None

    def settle(self, key: str, token: int) -> bool:
        """End a write that was left in flux; whether `token` is the key's now, and nobody wrote meanwhile."""
        _, _, shard, bucket = self._known.get(key) or self._locate(key)
        return bool(shard.settle(bucket, token, fresh()))

    def invalidate_tags(self, tags: Iterable[str]) -> None:
        """From now on no record is found that was stored with a token of one of the tags. No lock."""
        self._open_shards()[0].tokens.invalidate_tags(tags)

    def delete_matching(self, pattern: re.Pattern[str]) -> int:
        """Remove the keys that the pattern matches from the start, and change all tokens; how many.

        Before and after: what was read, or loaded, in between is kept nowhere. Memory does not grow with
        the entries, and no lock is held for more than a thousand of them.
        """
        self.renew_tokens()
        removed = sum([shard.delete_matching(pattern, self._time()) for shard in self._open_shards()])
        self.renew_tokens()
        return removed

    def clear(self) -> int:
        """Remove everything, and change all tokens; how many entries that were, about."""
        return sum([shard.clear() or 0 for shard in self._open_shards()])

    def renew_tokens(self) -> None:
        """Change the tokens of all keys: whatever was read until now is kept nowhere else."""
        for shard in self._open_shards():
            shard.renew_tokens()

    # -- upkeep -----------------------------------------------------------------------------------------

    def remove_expired(self) -> int:
        """Remove records whose time, or that of one of their tags, is over; how many."""
        return sum([shard.remove_expired(self._time()) for shard in self._open_shards()])

    def tick(self) -> None:
        """Let go of files that others removed, whose blocks the disk does not have back until then."""
        for shard in self._open_shards():
            shard.tick()

    def repair(self, damaged: Iterable[tuple[int, int, int, int]]) -> int:
        """Drop slots that somebody found damaged, and what belongs to nothing; how many slots there were.

        Args:
            damaged: of each the shard, the generation of its index, its word in it, and what it said.
        """
        shards = self._open_shards()
        self.tick()  # also drops an index that is damaged as a whole
        by_index: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for number, generation, at, slot in damaged:
            by_index.setdefault((number, generation), []).append((at, slot))
        return sum(
            [shards[number].drop(generation, slots) for (number, generation), slots in by_index.items()]
        )

    def stats(self) -> EngineStats:
        """What the directory holds, and what this process did; without I/O, and also after `close`."""
        if self._last_stats is not None:
            return self._last_stats
        files = [shard.files for shard in self._shards]
        fixed = self.geometry.tokens_size + self.geometry.control_size
        return EngineStats(
            sum([one.words[ENTRIES] for one in files]),
            fixed + sum([one.bytes_taken() for one in files]),
            sum([one.counter.evictions for one in files]),
            sum([one.counter.expirations for one in files]),
            sum([one.counter.damaged for one in files]),
        )

    # -- life -------------------------------------------------------------------------------------------

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode of the file that whoever has this directory open keeps open."""
        self._open_shards()
        found = os.fstat(self._users)
        return found.st_dev, found.st_ino

    def is_whole(self) -> bool:
        """Whether the files that this process locks are still those in the directory."""
        return all(shard.lock.is_there() for shard in self._open_shards())

    def give_up(self) -> None:
        """Have all processes open the directory again: the file that stands for the whole goes."""
        folder = self._folder
        if folder is not None:
            os.unlink(USERS, dir_fd=folder.fd)

    def invalidate_all_tokens(self) -> None:
        """Break all fences that were ever taken here: the directory is not this one any more."""
        self._open_shards()[0].tokens.invalidate_all_tokens()

    def close(self) -> None:
        """Give back descriptors and mappings; a second call does nothing."""
        if self._closed:
            return
        self._last_stats = self.stats()
        self._closed = True
        for shard in self._shards:
            shard.close()
        # The mappings go with the last reader that is under way.
        self._shards = ()
        self._folder = None
        self._known = {}
        os.close(self._users)

    def before_fork(self) -> None:
        """Take the locks (see `cachekit.runtime.fork`)."""
        for shard in self._shards:
            shard.before_fork()

    def after_fork(self, in_child: bool) -> None:
        """Give them back; the child opens its lock files anew."""
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

    def _locate(self, key: str) -> _Location:
        # In this order: what a `close` in between has emptied is not filled again.
        known, shards = self._known, self._open_shards()
        octets = key.encode("utf-8", "surrogatepass")
        hashed = self._hash_of(octets)
        shard = shards[hashed >> self._shard_shift]
        found = (octets, hashed, shard, shard.tokens.bucket(hashed))
        if len(octets) <= _LONGEST_KNOWN:
            if len(known) >= _MOST_KNOWN:
                known.clear()
            known[key] = found
        return found

    def _open_shards(self) -> tuple[Shard, ...]:
        if self._closed:
            raise self._refusal()
        return self._shards

    def _refusal(self) -> CacheClosedError:
        return CacheClosedError(f"the cache directory {self.path} was closed")

    def _too_large(
        self, key: bytes, payload: bytes, tags: TagTokens, shard: Shard
    ) -> ValueTooLargeError | None:
        """Why there is no room for a record however many others go; None if there is."""
        if len(tags) > MOST_TAGS:
            return ValueTooLargeError(f"a value with {len(tags)} tags does not fit: the most are {MOST_TAGS}")
        largest = shard.files.largest()
        if record_size(len(key), len(payload), len(tags)) <= largest:
            return None
        return ValueTooLargeError(
            f"a value of {len(payload)} bytes under a key of {len(key)} does not fit: this directory, "
            f"with a limit of {self.geometry.limit} bytes, holds values of up to about {largest}; "
            f"raise the limit, or store less"
        )


def _outcome(outcome: Record | bool | None) -> Record | bool:
    """None, from inside another write of this thread, is no promise that it was stored."""
    return False if outcome is None else outcome


def _most_mapped(shards: int) -> int:
    """Segments that each shard may keep mapped: together a third of the descriptors we may have."""
    # Directory, lock, index and tail of a shard take one each besides: of the 256 that macOS grants, 128 of
    # 32 shards.
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(1, (min(1024, soft if soft > 0 else 1024) // 3 - shards) // shards)
