"""The interfaces that tiers implement: `Tier`, `DirectoryTier`, `ServerTier`, and what goes with them.

`cachekit.testing.TierContract` is the test suite that goes with `Tier`. A cache takes a `DirectoryTier` as
`file_cache` and a `ServerTier` as `redis_cache`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from cachekit.model.entry import CacheEntry
from cachekit.model.stats import CacheStats
from cachekit.model.types import TTL, Tags
from cachekit.tiers.fences import ServerTokens, SharedFence


class Fence(Protocol):
    """The result of `Tier.fence`, taken before something slow: opaque, except for one question."""

    def is_current(self) -> bool:
        """Return whether nothing has written or invalidated the key, or one of the tags, since."""
        ...


@runtime_checkable
class Tier(Protocol):
    """One place that holds entries. Every method may be called from any thread.

    Only wrong arguments raise `TypeError` or `ValueError`. A tier that fails raises
    `TierUnavailableError`, which a cache over it absorbs. After `close` every method but `close` and
    `get_stats` raises `CacheClosedError`.
    """

    def get(self, key: str) -> CacheEntry | None:
        """Return a snapshot of the live entry under the key, or None; never an expired one."""
        ...

    def set(self, key: str, entry: CacheEntry) -> bool:
        """Store the entry in place of the key's older one, break the key's fences, and return True.

        A copy lives as long as the entry has left, and at most as long as the tier's own default. An
        expired entry removes the key instead.

        Raises:
            ValueError: the entry has another key.
        """
        ...

    def delete(self, key: str) -> bool:
        """Remove the key, and break its fences even if it has no entry; return whether it had one."""
        ...

    def clear(self) -> bool:
        """Remove everything, break every fence, and return True."""
        ...

    def keys(self, pattern: str | None = None) -> Iterable[str]:
        """Return the keys of live entries that the regular expression matches from the start."""
        ...

    def size(self) -> int:
        """Return the number of entries. Expired ones may be among them."""
        ...

    def memory_usage(self) -> int:
        """Return the number of bytes that the entries take; the tier says of what."""
        ...

    def get_stats(self) -> CacheStats:
        """Return what has been counted; never does I/O."""
        ...

    def fence(self, key: str, tags: Tags = ()) -> Fence:
        """Return a fence to take before a value is loaded or copied, and to pass to `set_if` afterwards."""
        ...

    def set_if(self, key: str, entry: CacheEntry, fence: Fence) -> bool:
        """Store the entry if the fence, taken for this key, is current; return whether it was stored.

        Unlike `set` it breaks no fence: the value is no newer than the fence.

        Raises:
            ValueError: the fence was taken for another key, or not for all the tags of the entry.
        """
        ...

    def close(self) -> None:
        """Release memory, descriptors and background work. A second call does nothing."""
        ...


@runtime_checkable
class InvalidatesTags(Protocol):
    """A tier that can drop all entries with a tag."""

    def invalidate_by_tags(self, tags: Tags) -> int | None:
        """Drop entries with any of the tags, break fences that name one, and return how many were dropped.

        None means that the tier does not count them.
        """
        ...


@runtime_checkable
class InvalidatesPatterns(Protocol):
    """A tier that can drop all entries whose keys match."""

    def invalidate_by_pattern(self, pattern: str) -> int:
        """Drop entries that the regular expression matches from the start; return how many were dropped."""
        ...


class FencedEntry(NamedTuple):
    """The result of `DirectoryTier.look`."""

    entry: CacheEntry
    fence: SharedFence  #: taken before the entry was read, over its key and tags
    origin: ServerTokens | None  #: the server's tokens when the value was stored, if there was a server


@runtime_checkable
class DirectoryTier(Tier, InvalidatesTags, InvalidatesPatterns, Protocol):
    """A tier in a directory that the processes of one host share. Its fences can guard copies in memory.

    Every method may raise TierUnavailableError. One that writes has then changed nothing, or has removed
    the key's older entry.
    """

    @property
    def path(self) -> str:
        """The directory, absolute, on a local file system. Leases and load slots are kept in it too."""
        ...

    def peek(self, key: str) -> CacheEntry | None:
        """Do what `get` does, without counting a lookup. A cache also calls it to probe the tier."""
        ...

    def look(self, key: str) -> FencedEntry | None:
        """Do what `get` does, and return what checks a copy of the entry later; counts a lookup."""
        ...

    def fence(self, key: str, tags: Tags = ()) -> SharedFence:
        """Return a fence that writes of every process break; no I/O."""
        ...

    def put(
        self,
        key: str,
        entry: CacheEntry,
        origin: ServerTokens | None = None,
        *,
        expect: SharedFence | None = None,
        in_flux: bool = False,
    ) -> SharedFence | None:
        """Do what `set` does; return the fence over key and tags that holds from this write on.

        With `expect` it changes nothing unless that fence is current, and then returns None. With
        `in_flux` the write is in progress until `settle`: until then no copy of the value may be made.
        """
        ...

    def create(self, key: str, entry: CacheEntry, origin: ServerTokens | None = None) -> SharedFence | None:
        """Do what `put` does unless the key has a live entry, and then return None.

        Of several callers at once, in any process, one stores its entry.
        """
        ...

    def remove(self, key: str, *, in_flux: bool = False) -> tuple[bool, SharedFence]:
        """Do what `delete` does; return whether there was an entry, and the fence that holds from now on."""
        ...

    def touch(self, key: str, ttl: TTL = None) -> bool:
        """Give a live entry a new life from now, as a write of the key; return whether there is one."""
        ...

    def settle(self, fence: SharedFence) -> bool:
        """End a write that is in progress; return False if it overlapped with another write of the key."""
        ...

    def add(
        self, key: str, entry: CacheEntry, fence: SharedFence, origin: ServerTokens | None = None
    ) -> CacheEntry | bool:
        """Do what `set_if` does, but keep a live entry that was stored first, and return it."""
        ...

    def renew(self) -> None:
        """Break the fences of all keys, in every process."""
        ...

    def remove_expired(self) -> int:
        """Remove expired entries now; return how many were removed."""
        ...


class Lease(Protocol):
    """The right to load a key, until it is released, expires, or its process ends."""

    def release(self) -> None:
        """Give it back. A second call does nothing, nor does a call in a child of a fork."""
        ...


@runtime_checkable
class ServerTier(Tier, InvalidatesTags, InvalidatesPatterns, Protocol):
    """A tier that hosts share through a server, which compares the fences itself.

    Every method may raise TierUnavailableError. One that writes may then have been carried out or not.
    """

    def ping(self) -> None:
        """Return if the server answers.

        Raises:
            TierUnavailableError: it does not.
        """
        ...

    def peek(self, key: str) -> CacheEntry | None:
        """Do what `get` does, without counting a lookup."""
        ...

    def get_many(self, keys: Sequence[str]) -> dict[str, CacheEntry]:
        """Return the live entries among the keys, in one round trip; each key counts as a lookup."""
        ...

    def touch(self, key: str, ttl: TTL = None) -> bool:
        """Give a live entry a new life from now, as a write of the key; return whether there is one."""
        ...

    def origin(self, key: str, tags: frozenset[str] = frozenset()) -> ServerTokens:
        """Return the current tokens of key and tags, which are a fence for `add`; one round trip."""
        ...

    def origins(self, keys: Sequence[str], tags: frozenset[str] = frozenset()) -> dict[str, ServerTokens]:
        """Return what `origin` returns for each of several keys, in one round trip."""
        ...

    def successor(self, tags: frozenset[str] = frozenset()) -> ServerTokens:
        """Return a fresh token, which the next `put` makes the key's, and the tags' tokens.

        Without tags it does no I/O.
        """
        ...

    def put(
        self, key: str, entry: CacheEntry, origin: ServerTokens, *, expect: ServerTokens | None = None
    ) -> bool:
        """Do what `set` does, make the token of `origin` the key's, and notify the other hosts.

        With `expect` it changes nothing unless the key's token is that one, and then returns False.
        """
        ...

    def create(self, key: str, entry: CacheEntry, origin: ServerTokens) -> bool:
        """Do what `put` does unless the key has a live entry; return whether the entry was stored.

        Of several callers at once, on any host, one stores its entry.
        """
        ...

    def put_many(self, entries: Mapping[str, CacheEntry], origins: Mapping[str, ServerTokens]) -> None:
        """Do what `put` does for several keys at once."""
        ...

    def remove_many(self, keys: Sequence[str]) -> list[str]:
        """Do what `delete` does for several keys at once; return those that had an entry."""
        ...

    def add(self, key: str, entry: CacheEntry, origin: ServerTokens) -> CacheEntry | bool:
        """Store the entry if the tokens are still those of `origin`.

        Returns:
            A live entry that was stored first; or whether this one was stored.
        """
        ...

    def add_many(
        self, entries: Mapping[str, CacheEntry], origins: Mapping[str, ServerTokens]
    ) -> dict[str, CacheEntry | bool]:
        """Do what `add` does for several keys at once. If one entry cannot be stored, none is."""
        ...

    def subscribe(self, listener: BusListener) -> Callable[[], None]:
        """Notify `listener` of writes and invalidations from now on; the function returned ends that.

        Changes made through this tier itself reach it in the thread that makes them, before the call
        returns. The tier holds the listener weakly: without other holders the subscription ends.
        """
        ...

    def lease(self, key: str, seconds: float) -> Lease | None:
        """Return the lease of a key, which expires after so many seconds; None if it is taken."""
        ...


class BusListener(Protocol):
    """What a `ServerTier` notifies of changes, in a thread of the bus or in the thread that made the change.

    A cache ignores notifications of its own calls (see `coherence.notifications`). Calls may come in several
    threads at once, and more than once for one write.
    """

    def keys_changed(self, keys: Sequence[str]) -> None:
        """Handle that these keys were written or deleted."""
        ...

    def tags_changed(self, tags: frozenset[str]) -> None:
        """Handle that these tags were invalidated."""
        ...

    def pattern_changed(self, pattern: str) -> None:
        """Handle that keys which match the regular expression, or some of them, were invalidated."""
        ...

    def everything_changed(self) -> None:
        """Handle that the tier was cleared, or that messages may have been lost: trust no copy."""
        ...
