"""FileCache: the tier in a directory, which the processes of one host share and which survives a restart.

It checks what it is given, and speaks entries to caches and plain values to people. `entries` does the
work and keeps the figures; `contents` turns entries into bytes; `engine` stores those, and makes the promises
about crashes, damage and the limit; `sharing` gives a process one engine per directory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from math import inf
from typing import TYPE_CHECKING, Any, final

from cachekit.model.entry import CacheEntry
from cachekit.model.stats import CacheStats
from cachekit.model.types import FOREVER, MISSING, NO_TAGS, TTL, Tags
from cachekit.model.validation import (
    PLAIN_TYPES,
    checked_key,
    checked_keys,
    checked_pattern,
    checked_tags,
    refuse_unstorable,
    seconds,
)
from cachekit.runtime.clock import Clock, SystemClock
from cachekit.runtime.scheduler import scheduler
from cachekit.serialization import Serializer
from cachekit.serialization.codec import Codec
from cachekit.serialization.pickle_allowlist import classes
from cachekit.tiers.arguments import check_entry, checked_cap, checked_fence, checked_interval, checked_limit
from cachekit.tiers.base import Fence, FencedEntry
from cachekit.tiers.fences import ServerTokens, SharedFence
from cachekit.tiers.file.engine_handle import EngineHandle
from cachekit.tiers.file.entry_codec import EntryCodec
from cachekit.tiers.file.paths import directory_of
from cachekit.tiers.file.store import Entries

if TYPE_CHECKING:
    from cachekit.serialization.compression import Compression
    from cachekit.serialization.serializer import CodecName
    from cachekit.serialization.signing import Secret


@final
class FileCache:
    """The file tier: shared by the processes of one host, and still there after a restart.

    Args:
        cache_dir: the directory, made with its parents if it is not there; `~` is the home directory.
            None is `cachekit` in the user's cache directory, as the system has it.
        max_size_mb: how many MiB (2**20 bytes) the directory may take on disk, from 1 to 2**20; what was
            not read for longest goes first. While other processes use the directory with another limit,
            theirs stays, and a warning is logged; alone, another limit empties it.
        cleanup_interval: seconds between sweeps for expired entries; None leaves them until they are
            overwritten or go for room. The sweep runs in the process's one upkeep thread.
        default_ttl: seconds (or a timedelta) that it keeps any copy at the longest. None sets no limit.
        namespace: a directory of its own within the directory, with a limit of its own. Two programs
            with two namespaces never meet.
        codec: "pickle", "json", "msgpack" (needs the extra), or a `Codec`. Entries of another are misses.
        compression: None, "zlib", or "zstd" (needs the extra). None by default: unpacking takes longer
            than reading from a local disk's cache.
        secret: sign what is stored, and read nothing that is not signed with it; at least 16 bytes, or a
            list with the newest first.
        allow: classes that may be read, besides the standard value types, where pickles are not trusted.
        allow_network_fs: whether a directory on a network file system will do. Its promises end at the host.
        clock: where the time comes from; another one is for tests.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a size, TTL, interval or secret out of range.
        ModuleNotFoundError: an extra is not installed; the message names it.
        FileFormatError: other processes use the directory in a way that this one cannot join.
        TierUnavailableError: the directory cannot be made, read or written.

    The directory is opened here. Later failures of the disk are TierUnavailableError too, and leave the
    cache as usable as the disk is. All methods are safe in any thread, before and after a fork, and
    raise TypeError for a key that is not a str and CacheClosedError after `close`. Caches of one process
    on one directory share what it takes to have it open.

    Entries come back with an `access_count` of 0 and `last_accessed` when they were made: counting
    accesses would make every hit a write. Their `size_bytes` is that of the stored value.

    It pickles as its configuration, unless it has a secret: the copy opens the same directory.
    """

    __slots__ = (
        "__weakref__",
        "_arguments",
        "_attachment",
        "_entries",
        "_job",
        "_longest",
        "_max_size_mb",
        "_path",
    )

    def __init__(
        self,
        cache_dir: str | os.PathLike[str] | None = None,
        max_size_mb: float = 1000,
        cleanup_interval: float | None = 3600,
        *,
        default_ttl: TTL = None,
        namespace: str = "",
        codec: CodecName | Codec = "pickle",
        compression: Compression = None,
        secret: Secret | None = None,
        allow: Iterable[Any] = (),
        allow_network_fs: bool = False,
        clock: Clock = SystemClock(),  # noqa: B008  # it has no state
    ) -> None:
        limit = checked_limit(max_size_mb)
        cap = checked_cap(default_ttl)
        interval = checked_interval(cleanup_interval)
        namespace = checked_key(namespace, "namespace")
        if not isinstance(allow_network_fs, bool):
            raise TypeError(f"allow_network_fs must be True or False, not {allow_network_fs!r}")
        path = directory_of(cache_dir, namespace)
        allow = classes(allow)
        arguments: dict[str, Any] = {"codec": codec, "compression": compression, "allow": allow}
        serializer = Serializer(namespace, secret=secret, **arguments)
        trusting = serializer if secret is not None else Serializer(namespace, trusted=True, **arguments)
        self._path = path
        self._max_size_mb = max_size_mb
        self._longest = cap
        self._arguments = None
        if secret is None:
            base = None if cache_dir is None else directory_of(cache_dir, "")
            arguments |= {
                "allow_network_fs": allow_network_fs,
                "default_ttl": default_ttl,
                "namespace": namespace,
                "clock": clock,
            }
            self._arguments = (base, max_size_mb, cleanup_interval), arguments
        contents = EntryCodec(serializer, cap, clock), EntryCodec(trusting, cap, clock)
        self._attachment = EngineHandle(
            path,
            limit,
            clock,
            contents,
            unpickles=secret is None and codec == "pickle",
            network=allow_network_fs,
        )
        self._entries = Entries(self._attachment, clock)
        self._job = None if interval is None else scheduler.every(interval, self._entries.tend)

    @property
    def path(self) -> str:
        """The directory, absolute; the namespace's own if there is one."""
        return self._path

    @property
    def max_size_mb(self) -> float:
        """MiB that it was to take on disk at the most; `stats` of a neighbour may know another limit."""
        return self._max_size_mb

    @property
    def default_ttl(self) -> float | None:
        """Seconds that it keeps any copy at the longest; None without such a limit."""
        return None if self._longest == FOREVER else self._longest

    # -- looking ------------------------------------------------------------------------------------

    def get_value(self, key: str, default: Any = None) -> Any:
        """The value under the key, or `default`; a lookup that counts.

        Raises:
            TierUnavailableError: the disk failed.
        """
        value = self._entries.value(key if type(key) is str else checked_key(key))
        return default if value is MISSING else value

    def get(self, key: str) -> CacheEntry | None:
        """The live entry under the key, or None; a lookup that counts.

        Raises:
            TierUnavailableError: the disk failed.
        """
        return self._entries.entry(checked_key(key))

    def look(self, key: str) -> FencedEntry | None:
        """`get`, with a fence that was taken before the entry was read, and the entry's origin.

        The fence has the tokens that the entry's tags had when its value was made, not those of now.

        Raises:
            TierUnavailableError: the disk failed.
        """
        return self._entries.look(checked_key(key))

    def peek(self, key: str) -> CacheEntry | None:
        """Like `get`, but no lookup: nothing is counted.

        Raises:
            TierUnavailableError: the disk failed.
        """
        return self._entries.peek(checked_key(key))

    def contains(self, key: str) -> bool:
        """Whether there is a live entry that can be read; no lookup."""
        return self.peek(key) is not None

    def get_many(self, keys: Iterable[str]) -> dict[str, CacheEntry]:
        """The live entries among the keys, in the order of the keys; each key is a lookup that counts.

        Raises:
            TypeError: `keys` is a bare str, or one of them is not a str.
            TierUnavailableError: the disk failed.
        """
        self._entries.engine()
        entries = ((key, self._entries.entry(key)) for key in checked_keys(keys))
        return {key: entry for key, entry in entries if entry is not None}

    def keys(self, pattern: str | re.Pattern[str] | None = None) -> Iterator[str]:
        """The keys of live entries, in no particular order; with a pattern those that it matches.

        They are read as they are asked for, so any number of them fits: an entry that comes, goes or
        is moved meanwhile may be missed, or come twice.

        Args:
            pattern: a regular expression, matched from the start of the key.

        Raises:
            TypeError: the pattern is not a str.
            ValueError: it is not a regular expression.
            TierUnavailableError: the disk failed.
        """
        return self._entries.keys(None if pattern is None else checked_pattern(pattern))

    def size(self) -> int:
        """How many entries the directory holds, expired ones included; after a crash about."""
        return self._entries.engine().stats().entries

    def memory_usage(self) -> int:
        """The bytes that the directory takes on disk, about."""
        return self._entries.engine().stats().bytes

    def get_stats(self) -> CacheStats:
        """What has been counted until now; see `CacheStats`. No I/O; it stays readable after `close`.

        Counters are those of this object in this process, but for evictions, expirations and damage among
        the errors: those are counted for all caches of the process on this directory. `size` and
        `memory_usage_bytes` are those of the whole directory. Invalidations by tag are not counted,
        because the entries are not looked for.
        """
        return self._entries.stats()

    # -- fences -------------------------------------------------------------------------------------

    def fence(self, key: str, tags: Tags = ()) -> SharedFence:
        """A fence for `set_if` and `add`, which writes of every process break; take it before a load.

        Raises:
            TierUnavailableError: the lock of a write that was abandoned was not to be had.
        """
        return self._entries.fence(checked_key(key), checked_tags(tags))

    def renew(self) -> None:
        """Break all fences of keys, in every process.

        Raises:
            TierUnavailableError: the disk failed; some fences may stand.
        """
        self._entries.do(self._entries.writer().renew_tokens)

    def settle(self, fence: SharedFence) -> bool:
        """End the write that returned this fence; False if another write of the key came in between.

        Raises:
            TierUnavailableError: the disk failed; copies are not trusted until it is settled by others.
        """
        return self._entries.do(self._entries.writer().settle, fence.key, fence.token)

    # -- writing ------------------------------------------------------------------------------------

    def set_value(self, key: str, value: Any, ttl: TTL = None, tags: Tags | None = None) -> bool:
        """Store a value in place of whatever the key held.

        Args:
            key: where.
            value: anything that the codec carries.
            ttl: its life from now, in seconds or as a timedelta, no longer than the tier's
                `default_ttl`; 0 or less keeps nothing and removes what was there.
            tags: labels by which it can be invalidated together with others.

        Returns:
            True.

        Raises:
            TypeError: a key, TTL or tag of the wrong type.
            ValueError: a TTL of NaN.
            SerializationError: the value would not come back as it is. Nothing was changed.
            ValueTooLargeError: it is larger than there is room for. What the key had is gone.
            TierUnavailableError: the disk failed. What the key had is gone, or nothing was changed.
        """
        if type(value) not in PLAIN_TYPES:
            refuse_unstorable(value)
        self._entries.put_value(
            key if type(key) is str else checked_key(key),
            value,
            inf if ttl is None else seconds(ttl),
            NO_TAGS if tags is None else checked_tags(tags),
        )
        return True

    def set(self, key: str, entry: CacheEntry) -> bool:
        """Store an entry in place of whatever the key held; it keeps the age that it has.

        An entry whose time is over removes the key instead. One created in the future, by another
        machine's clock, counts as created now.

        Returns:
            True.

        Raises:
            TypeError: the key is not a str, or the entry not a CacheEntry.
            ValueError: the entry's own key is another one.
            SerializationError, ValueTooLargeError, TierUnavailableError: as for `set_value`.
        """
        check_entry(key, entry)
        self._entries.put(entry, None, None, False)
        return True

    def put(
        self,
        key: str,
        entry: CacheEntry,
        origin: ServerTokens | None = None,
        *,
        expect: SharedFence | None = None,
        in_flux: bool = False,
    ) -> SharedFence | None:
        """`set`; the fence over key and tags that holds from this write on.

        Args:
            key: where.
            entry: what.
            origin: what the fleet's server said before the value was made; it comes back with `look`.
            expect: change nothing unless this fence, over the key and all tags of the entry, stands; the
                value is as old as it.
            in_flux: nobody may copy the value elsewhere until `settle` has ended the write.

        Returns:
            The fence; None if the expected one was broken, which counts as a refusal.

        Raises:
            TypeError, ValueError, SerializationError, ValueTooLargeError, TierUnavailableError: as for `set`;
                and as for `set_if` if `expect` is not for this entry.
        """
        check_entry(key, entry)
        return self._entries.put(
            entry, origin, None if expect is None else checked_fence(expect, entry), in_flux
        )

    def set_if(self, key: str, entry: CacheEntry, fence: Fence) -> bool:
        """Store an entry if the fence, taken for this key before it was loaded, is still current.

        Returns:
            True if it was stored; False if it was refused, which counts, if its time is over, or if a
            live entry was there already.

        Raises:
            TypeError: the key is not a str, the entry not a CacheEntry, the fence not one of this tier.
            ValueError: the entry's own key is another one, or the fence was taken for another key, or
                not for all the tags of the entry.
            SerializationError, ValueTooLargeError, TierUnavailableError: as for `set_value`, but what the
                key had is not touched.
        """
        return self.add(key, entry, fence) is True

    def add(
        self, key: str, entry: CacheEntry, fence: Fence, origin: ServerTokens | None = None
    ) -> CacheEntry | bool:
        """`set_if`, but a live entry that came first stays, and is the answer.

        Returns:
            The live entry that is there already; or whether this one was stored.

        Raises:
            TypeError, ValueError, SerializationError, ValueTooLargeError, TierUnavailableError: as there.
        """
        check_entry(key, entry)
        return self._entries.add(entry, checked_fence(fence, entry), origin)

    def set_many(self, entries: Mapping[str, CacheEntry]) -> bool:
        """`set` of several entries, one after another; True.

        Raises:
            TypeError, ValueError: as for `set`, before anything was stored.
            SerializationError, ValueTooLargeError, TierUnavailableError: as for `set`; those before it in
                the mapping are stored.
        """
        if not isinstance(entries, Mapping):
            raise TypeError(f"entries must map each key to its CacheEntry, not {entries!r}")
        for key, entry in entries.items():
            check_entry(key, entry)
        self._entries.engine()
        for entry in entries.values():
            self._entries.put(entry, None, None, False)
        return True

    def touch(self, key: str, ttl: TTL = None) -> bool:
        """Give a live entry a new life from now, without changing its value; True if there is one.

        It is a write: it breaks the fences of the key.

        Raises:
            TypeError: the key is not a str, or the TTL neither a number nor a timedelta.
            ValueError: the TTL is NaN.
            TierUnavailableError: the disk failed, or the key was written by others all the time.
        """
        life = min(inf if ttl is None else seconds(ttl), self._longest)
        if life <= 0:
            return self.delete(key)
        return self._entries.touch(checked_key(key), life)

    def delete(self, key: str) -> bool:
        """Remove the key, and refuse every load of it that is under way; True if it was there.

        Raises:
            TierUnavailableError: the lock was not to be had. Nothing was changed.
        """
        return self.remove(key)[0]

    def remove(self, key: str, *, in_flux: bool = False) -> tuple[bool, SharedFence]:
        """`delete`; whether it was there, and the fence that holds from this write on.

        Raises:
            TierUnavailableError: as for `delete`.
        """
        return self._entries.remove(checked_key(key), in_flux)

    def delete_many(self, keys: Iterable[str]) -> int:
        """`delete` of several keys; how many were there.

        Raises:
            TypeError: `keys` is a bare str, or one of them is not a str.
            TierUnavailableError: as for `delete`; those before it are removed.
        """
        self._entries.engine()
        return sum([self.delete(key) for key in checked_keys(keys)])

    def clear(self) -> bool:
        """Remove everything, and refuse every load that is under way. True.

        Raises:
            TierUnavailableError: the disk failed; some of it may be left.
        """
        entries = self._entries
        removed = entries.do(entries.writer().clear)
        entries.counter.invalidations += removed
        return True

    def invalidate_by_tags(self, tags: Tags) -> int:
        """Drop entries with any of the tags, in the time of one, and refuse loads under way that name one.

        Returns:
            0: it changes a token, and does not look which entries have it.

        Raises:
            TypeError: `tags` is not a set, list or tuple of str.
        """
        self._entries.do(self._entries.writer().invalidate_tags, checked_tags(tags))
        return 0

    def invalidate_by_pattern(self, pattern: str | re.Pattern[str]) -> int:
        """Remove entries whose key the regular expression matches from the start.

        All loads under way are refused. Readers are not stopped, and memory does not grow with the
        number of entries, which are all looked at.

        Returns:
            How many entries were removed.

        Raises:
            TypeError: the pattern is not a str.
            ValueError: it is not a regular expression.
            TierUnavailableError: the disk failed; some of them may be left.
        """
        entries = self._entries
        removed = entries.do(entries.writer().delete_matching, checked_pattern(pattern))
        entries.counter.invalidations += removed
        return removed

    def remove_expired(self) -> int:
        """Remove the entries whose time, or that of their tags, is over; how many that were.

        Upkeep calls it by itself, every `cleanup_interval`.

        Raises:
            TierUnavailableError: the disk failed.
        """
        return self._entries.do(self._entries.writer().remove_expired)

    # -- life ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """Give back descriptors and mappings, and end the sweep; a second call does nothing."""
        if self._job is not None:
            self._job.cancel()
        self._attachment.close()

    def __contains__(self, key: str) -> bool:
        """Whether there is a live entry that can be read; no lookup."""
        return self.contains(key)

    def __len__(self) -> int:
        return self.size()

    def __enter__(self) -> FileCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._arguments is None:
            raise TypeError(
                "a FileCache with a secret does not pickle, because its secret would be in the pickle; "
                "make the cache anew in the other process"
            )
        return _configured, self._arguments

    def __repr__(self) -> str:
        return (
            f"FileCache({self._path!r}, max_size_mb={self._max_size_mb}, default_ttl={self.default_ttl}, "
            f"secret={None if self._arguments else '...'})"
        )


def _configured(positional: tuple[Any, ...], named: dict[str, Any]) -> FileCache:
    return FileCache(*positional, **named)
