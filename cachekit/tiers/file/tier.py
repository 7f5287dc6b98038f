"""FileCache: the tier in a directory, which the processes of one host share and which survives a restart.

It checks arguments. `store` does the work and counts; `record_codec` turns entries into the fields of
records. `engine` stores records, and keeps the promises about crashes, damage and the limit.
`engine_registry` opens one engine per directory and process. Caches call `look`, `fence`, `put`, `add`,
`remove` and `settle` on every operation.
Those check inline, and call a check only to raise its error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from math import inf
from typing import TYPE_CHECKING, Any, Final, final

from cachekit.model.display import safe_repr, shown_value
from cachekit.model.entry import CacheEntry
from cachekit.model.stats import CacheStats
from cachekit.model.storable import READABLE_TYPES, refuse_unstorable
from cachekit.model.types import FOREVER, MISSING, NO_TAGS, TTL, Tags
from cachekit.model.validation import (
    LONGEST,
    checked_key,
    checked_keys,
    checked_pattern,
    checked_tags,
    pattern_to_invalidate,
    seconds,
)
from cachekit.runtime.clock import Clock, SystemClock, checked_clock
from cachekit.runtime.scheduler import scheduler
from cachekit.serialization.codec import Codec
from cachekit.serialization.compression import Compressor
from cachekit.serialization.envelope import sized
from cachekit.serialization.pickle_allowlist import classes
from cachekit.serialization.serializer import codec_for
from cachekit.serialization.signing import Signer
from cachekit.tiers.arguments import check_entry, checked_cap, checked_fence, checked_interval, checked_limit
from cachekit.tiers.base import Fence, FencedEntry
from cachekit.tiers.fences import ServerTokens, SharedFence
from cachekit.tiers.file.engine.engine import Engine
from cachekit.tiers.file.engine.format import mebibytes
from cachekit.tiers.file.engine_handle import EngineHandle
from cachekit.tiers.file.paths import directory_of
from cachekit.tiers.file.record_codec import RecordCodec
from cachekit.tiers.file.store import FileStore

if TYPE_CHECKING:
    from cachekit.serialization.compression import Compression
    from cachekit.serialization.serializer import CodecName
    from cachekit.serialization.signing import Secret

#: What every signature of a record covers first, and then the namespace.
_SIGNED_HERE: Final = b"cachekit file record"


@final
class FileCache:
    """The file tier: shared by the processes of one host, and kept across restarts.

    Args:
        cache_dir: The directory, made with its parents if it does not exist; `~` is the home directory.
            None is `cachekit/default` in the user's cache directory, as the system defines it. With a
            `namespace` it is `cachekit` and the namespace there. Under pytest and unittest a temporary
            directory takes the place of `cachekit`.
        max_size_mb: MiB (2**20 bytes) that the directory may take on disk, 1 to 2**20. The entries that were
            not read for longest are evicted first. While other processes use the directory with another
            limit, theirs stays, and a warning is logged. If no other process uses it, another limit empties
            it.
        cleanup_interval: Seconds between sweeps for expired entries. None leaves them until they are
            overwritten or evicted. The process's scheduler thread runs the sweep.
        default_ttl: Seconds (or a timedelta) that it keeps any copy at most. None sets no limit.
        namespace: A subdirectory with its own limit. Programs with two namespaces never share entries.
        codec: "pickle", "json", "msgpack" (needs the extra), or a `Codec`. Entries of another codec are
            misses.
        compression: None, "zlib", or "zstd" (needs the extra). None by default: decompressing takes longer
            than reading from the page cache.
        secret: Signs entries. Nothing is read that is not signed with it. At least 16 bytes, or a list with
            the newest first.
        allow: Classes that may be read, besides the standard value types, where pickles are not trusted.
        allow_network_fs: Whether a directory on a network file system is accepted. The promises hold on one
            host only.
        clock: The source of time; another one is for tests.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a size, TTL, interval or secret out of range.
        ModuleNotFoundError: an extra is not installed; the message names it.
        FileFormatError: other processes use the directory in a format or state that this one cannot join.
        TierUnavailableError: the directory cannot be made, read or written.

    The constructor opens the directory. Later failures of the disk are TierUnavailableError too, and leave
    the cache as usable as the disk is. All methods are safe in any thread, before and after a fork. They
    raise TypeError for a key that is not a str, and all but `get_stats` CacheClosedError after `close`.
    Caches of one process on one directory share descriptors and mappings.

    Entries come back with an `access_count` of 0, and with `last_accessed` at their creation: counting
    accesses would make every hit a write. Their `size_bytes` is that of the stored value.

    A FileCache pickles as its configuration, unless it has a secret. The copy opens the same directory.
    """

    __slots__ = (
        "__weakref__", "_arguments", "_handle", "_longest", "_max_size_mb", "_path", "_store", "_sweep",
    )  # fmt: skip

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
            raise TypeError(f"allow_network_fs must be True or False, not {safe_repr(allow_network_fs)}")
        checked_clock(clock)
        path = directory_of(cache_dir, namespace)
        allow = classes(allow)
        arguments: dict[str, Any] = {"codec": codec, "compression": compression, "allow": allow}
        # A record that was moved to another namespace does not verify, nor does what another tier signed.
        signed = _SIGNED_HERE + sized(namespace.encode("utf-8", "surrogatepass"))
        signer = None if secret is None else Signer(secret, signed)
        compressor = Compressor(compression)
        codecs = (
            RecordCodec(codec_for(codec, allow, secret is not None), compressor, signer),
            RecordCodec(codec_for(codec, allow, True), compressor, signer),
        )
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
        self._handle = EngineHandle(
            path,
            limit,
            clock,
            codecs,
            unpickles=secret is None and codec == "pickle",
            network=allow_network_fs,
        )
        self._store = FileStore(self._handle, cap, clock)
        self._sweep = None if interval is None else scheduler.every(interval, self._store.sweep, apart=True)

    @property
    def path(self) -> str:
        """The directory, absolute; with a namespace, that of the namespace."""
        return self._path

    @property
    def max_size_mb(self) -> float:
        """The limit of the directory in MiB: that of the cache which opened it first."""
        limit = self._handle.engine.geometry.limit
        return self._max_size_mb if limit == checked_limit(self._max_size_mb) else mebibytes(limit)

    @property
    def default_ttl(self) -> float | None:
        """Seconds that it keeps any copy at most; None without a limit."""
        return None if self._longest == FOREVER else self._longest

    # -- looking ----------------------------------------------------------------------------------------

    def get_value(self, key: str, default: Any = None) -> Any:
        """Return the value under the key, or `default`; a lookup that counts.

        Raises:
            TierUnavailableError: the disk failed.
        """
        value = self._store.value(key if type(key) is str and len(key) <= LONGEST else checked_key(key))
        return default if value is MISSING else value

    def get(self, key: str) -> CacheEntry | None:
        """Return the live entry under the key, or None; a lookup that counts.

        Raises:
            TierUnavailableError: the disk failed.
        """
        return self._store.entry(key if type(key) is str and len(key) <= LONGEST else checked_key(key))

    def look(self, key: str) -> FencedEntry | None:
        """Do as `get`, and also return the entry's origin and a fence taken before the entry was read.

        The fence has the tokens that the entry's tags had when its value was made, not those of now.

        Raises:
            TierUnavailableError: the disk failed.
        """
        return self._store.look(key if type(key) is str and len(key) <= LONGEST else checked_key(key))

    def peek(self, key: str) -> CacheEntry | None:
        """Return the live entry under the key, or None, without counting.

        Raises:
            TierUnavailableError: the disk failed.
        """
        return self._store.peek(checked_key(key))

    def contains(self, key: str) -> bool:
        """Tell whether there is a live entry that can be read; no lookup."""
        return self.peek(key) is not None

    def get_many(self, keys: Iterable[str]) -> dict[str, CacheEntry]:
        """Return the live entries among the keys, in the order of the keys; each key is a lookup that counts.

        Raises:
            TypeError: `keys` is a bare str, or one of them is not a str.
            TierUnavailableError: the disk failed.
        """
        self._store.engine()  # without keys, too, it raises after close()
        entries = ((key, self._store.entry(key)) for key in checked_keys(keys))
        return {key: entry for key, entry in entries if entry is not None}

    def keys(self, pattern: str | re.Pattern[str] | None = None) -> Iterator[str]:
        """Return the keys of live entries, in no particular order; with a pattern, those that match.

        The keys are read while the caller consumes them, so memory does not grow with their number. An entry
        that is stored, removed or moved during that time may be missing, or come twice.

        Args:
            pattern: a regular expression, matched from the start of the key.

        Raises:
            TypeError: the pattern is not a str.
            ValueError: it is not a regular expression.
            TierUnavailableError: the disk failed.
        """
        return self._store.keys(None if pattern is None else checked_pattern(pattern))

    def size(self) -> int:
        """Return how many entries the directory holds, expired ones included; approximate after a crash."""
        return self._store.read(Engine.stats).entries

    def memory_usage(self) -> int:
        """Return about how many bytes the directory takes on disk."""
        return self._store.read(Engine.stats).bytes

    def get_stats(self) -> CacheStats:
        """Return what has been counted until now; it works after `close`. No entry is read.

        Counters are those of this object in this process. Evictions, expirations and damaged records (among
        the errors) are counted for all caches of the process on this directory. `size` and
        `memory_usage_bytes` are those of the whole directory. Invalidations by tag are not counted,
        because their entries are not searched for.
        """
        return self._store.stats()

    # -- fences -----------------------------------------------------------------------------------------

    def fence(self, key: str, tags: Tags = ()) -> SharedFence:
        """Return a fence for `set_if` and `add`, which writes of every process break; take it before a load.

        Raises:
            TierUnavailableError: the lock of an abandoned write could not be taken in time.
        """
        return self._store.fence(
            key if type(key) is str and len(key) <= LONGEST else checked_key(key),
            tags if tags is NO_TAGS else checked_tags(tags),
        )

    def renew(self) -> None:
        """Break all fences of keys, in every process.

        Raises:
            TierUnavailableError: the disk failed; some fences may stand.
        """
        self._store.change(Engine.renew_tokens)

    def settle(self, fence: SharedFence) -> bool:
        """End the write that returned this fence; False if it overlapped with another write of the key.

        Raises:
            TierUnavailableError: the disk failed. No copy is trusted until another write settles the key.
        """
        return self._store.settle(fence)

    # -- writing ----------------------------------------------------------------------------------------

    def set_value(self, key: str, value: Any, ttl: TTL = None, tags: Tags | None = None) -> bool:
        """Store a value in place of the one that the key had.

        Args:
            key: the key.
            value: anything that the codec carries.
            ttl: Seconds (or a timedelta) that it lives from now, at most the tier's `default_ttl`. 0 or less
                stores nothing and removes the key.
            tags: labels by which it can be invalidated together with others.

        Returns:
            True.

        Raises:
            TypeError: a key, TTL or tag of the wrong type.
            ValueError: a TTL of NaN.
            SerializationError: the value would not come back as it is. Nothing was changed.
            ValueTooLargeError: the directory has no room for it. What the key had is removed.
            TierUnavailableError: the disk failed. What the key had is removed, or nothing was changed.
        """
        if type(value) not in READABLE_TYPES:
            refuse_unstorable(value)
        self._store.write(
            key if type(key) is str and len(key) <= LONGEST else checked_key(key),
            value,
            inf if ttl is None else seconds(ttl),
            NO_TAGS if tags is None else checked_tags(tags),
        )
        return True

    def set(self, key: str, entry: CacheEntry) -> bool:
        """Store an entry in place of the one that the key had; it keeps its age.

        An expired entry removes the key instead. An entry created in the future, by another machine's clock,
        counts as created now.

        Returns:
            True.

        Raises:
            TypeError: the key is not a str, or the entry not a CacheEntry.
            ValueError: the entry's own key is another one.
            SerializationError, ValueTooLargeError, TierUnavailableError: as for `set_value`.
        """
        check_entry(key, entry)
        self.put(key, entry)
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
        """Do as `set`, and return the fence over key and tags that stands from this write on.

        Args:
            key: the key.
            entry: the entry to store.
            origin: the server's tokens from before the value was made; `look` returns them.
            expect: Change nothing unless this fence, over the key and all tags of the entry, stands. The
                value is as old as the fence.
            in_flux: No other tier may copy the value until `settle` has ended the write.

        Returns:
            The fence; None if the expected one was broken, which counts as a refusal.

        Raises:
            TypeError, ValueError, SerializationError, ValueTooLargeError, TierUnavailableError: as for `set`;
                and as for `set_if` if `expect` is not for this entry.
        """
        if type(key) is not str or type(entry) is not CacheEntry or key != entry.key:
            check_entry(key, entry)
        if expect is not None:
            checked_fence(expect, entry)
            return self._store.replace(entry, origin, expect, in_flux)
        return self._store.write(
            key,
            entry.value,
            inf if entry.ttl is None else entry.ttl,
            entry.tags,
            entry.stale_ttl,
            entry.created_timestamp,
            origin,
            in_flux,
        )

    def create(self, key: str, entry: CacheEntry, origin: ServerTokens | None = None) -> SharedFence | None:
        """Do as `put`, unless the key has a live entry; of several callers at once one stores its entry.

        Returns:
            The fence over key and tags that stands from this write on. None if there is an entry, which
            counts as a refusal, or if this one is expired.

        Raises:
            TypeError, ValueError, SerializationError, TierUnavailableError: as for `set`.
            ValueTooLargeError: the directory has no room for it. Nothing was changed.
        """
        if type(key) is not str or type(entry) is not CacheEntry or key != entry.key:
            check_entry(key, entry)
        return self._store.create(entry, origin)

    def set_if(self, key: str, entry: CacheEntry, fence: Fence) -> bool:
        """Store an entry if the fence, taken for this key before it was loaded, is still current.

        Returns:
            True if it was stored. False if it was refused, which counts; if it is expired; or if the key had
            a live entry.

        Raises:
            TypeError: the key is not a str, the entry not a CacheEntry, the fence not one of this tier.
            ValueError: the entry's own key is another one, or the fence was taken for another key, or
                not for all the tags of the entry.
            SerializationError, ValueTooLargeError, TierUnavailableError: as for `set_value`, but what the
                key had stays.
        """
        return self.add(key, entry, fence) is True

    def add(
        self, key: str, entry: CacheEntry, fence: Fence, origin: ServerTokens | None = None
    ) -> CacheEntry | bool:
        """Do as `set_if`, but return the live entry of the key if there is one.

        Returns:
            The live entry that the key has; or whether this one was stored.

        Raises:
            TypeError, ValueError, SerializationError, ValueTooLargeError, TierUnavailableError: as for
                `set_if`.
        """
        if type(key) is not str or type(entry) is not CacheEntry or key != entry.key:
            check_entry(key, entry)
        if type(fence) is not SharedFence or fence.key != key or not fence.names >= entry.tags:
            fence = checked_fence(fence, entry)
        return self._store.add(entry, fence, origin)

    def set_many(self, entries: Mapping[str, CacheEntry]) -> bool:
        """Store several entries, one after another; True.

        Raises:
            TypeError, ValueError: as for `set`, before anything was stored.
            SerializationError, ValueTooLargeError, TierUnavailableError: as for `set`. The entries before it
                in the mapping are stored.
        """
        if not isinstance(entries, Mapping):
            raise TypeError(f"entries must map each key to its CacheEntry, not {shown_value(entries)}")
        for key, entry in entries.items():
            check_entry(key, entry)
        self._store.engine()  # without entries, too, it raises after close()
        for entry in entries.values():
            self.put(entry.key, entry)
        return True

    def touch(self, key: str, ttl: TTL = None) -> bool:
        """Give a live entry a new life from now, without changing its value; True if there is one.

        It is a write: it breaks the fences of the key.

        Raises:
            TypeError: the key is not a str, or the TTL neither a number nor a timedelta.
            ValueError: the TTL is NaN.
            TierUnavailableError: the disk failed, or other callers wrote the key all the time.
        """
        life = min(inf if ttl is None else seconds(ttl), self._longest)
        if life <= 0:
            return self.delete(key)
        return self._store.touch(checked_key(key), life)

    def delete(self, key: str) -> bool:
        """Remove the key, and refuse every load of it that is under way; True if it was there.

        Raises:
            TierUnavailableError: the lock could not be taken in time. Nothing was changed.
        """
        return self.remove(key)[0]

    def remove(self, key: str, *, in_flux: bool = False) -> tuple[bool, SharedFence]:
        """Do as `delete`; return whether the key was there, and the fence that stands from this write on.

        Raises:
            TierUnavailableError: as for `delete`.
        """
        return self._store.remove(
            key if type(key) is str and len(key) <= LONGEST else checked_key(key), in_flux
        )

    def delete_many(self, keys: Iterable[str]) -> int:
        """Remove several keys; return how many were there.

        Raises:
            TypeError: `keys` is a bare str, or one of them is not a str.
            TierUnavailableError: as for `delete`. Some of the keys may be removed.
        """
        self._store.engine()  # without keys, too, it raises after close()
        return len(self._store.remove_many(checked_keys(keys)))

    def clear(self) -> bool:
        """Remove everything, and refuse every load that is under way. True.

        Raises:
            TierUnavailableError: the disk failed; some entries may be left.
        """
        removed = self._store.change(Engine.clear)
        self._store.counter.invalidations += removed
        return True

    def invalidate_by_tags(self, tags: Tags) -> int | None:
        """Invalidate entries with any of the tags, in constant time; refuse loads under way that name one.

        Returns:
            None: it changes a token, and does not count entries. 0 without tags.

        Raises:
            TypeError: `tags` is not a set, list or tuple of str.
        """
        tags = checked_tags(tags)
        self._store.change(Engine.invalidate_tags, tags)
        return None if tags else 0

    def invalidate_by_pattern(self, pattern: str | re.Pattern[str]) -> int:
        """Remove entries whose key the regular expression matches from the start.

        All loads under way are refused. Every entry is looked at. Readers are not blocked, and memory does
        not grow with the number of entries.

        Returns:
            How many entries were removed.

        Raises:
            TypeError: the pattern is not a str.
            ValueError: it is not a regular expression.
            TierUnavailableError: the disk failed; some of the entries may be left.
        """
        removed = self._store.change(Engine.delete_matching, pattern_to_invalidate(pattern))
        self._store.counter.invalidations += removed
        return removed

    def remove_expired(self) -> int:
        """Remove expired entries, and entries with invalidated tags; return how many.

        The scheduler does the same every `cleanup_interval`.

        Raises:
            TierUnavailableError: the disk failed.
        """
        return self._store.change(Engine.remove_expired)

    # -- life -------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close descriptors and mappings, and stop the sweep; a second call does nothing."""
        if self._sweep is not None:
            self._sweep.cancel()
        self._handle.close()

    def __contains__(self, key: str) -> bool:
        """Tell whether there is a live entry that can be read; no lookup."""
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
                "construct another FileCache in the other process"
            )
        return _configured, self._arguments

    def __repr__(self) -> str:
        return (
            f"FileCache({self._path!r}, max_size_mb={self.max_size_mb}, default_ttl={self.default_ttl}, "
            f"secret={None if self._arguments else '...'})"
        )


def store_of(file: FileCache) -> FileStore:
    """Return the store of a file tier, for caches over it, which check arguments themselves."""
    return file._store


def _configured(positional: tuple[Any, ...], named: dict[str, Any]) -> FileCache:
    return FileCache(*positional, **named)
