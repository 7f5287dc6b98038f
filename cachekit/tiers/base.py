"""The shapes that cachekit's rooms ask of each other, as Protocols.

A tier is anything with the methods of `Tier`; what only some tiers can do stands in a Protocol of its
own, and a cache asks with `isinstance` before it relies on it. `cachekit.testing.TierContract` is the
test suite that goes with `Tier`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from cachekit.model.entry import CacheEntry
from cachekit.model.stats import CacheStats
from cachekit.model.types import TTL, Tags
from cachekit.tiers.fences import ServerTokens, SharedFence


class Fence(Protocol):
    """What `Tier.fence` hands out before something slow: opaque, but for one question."""

    def is_current(self) -> bool:
        """Whether nothing has written or invalidated the key, or one of the tags, since."""
        ...


@runtime_checkable
class Tier(Protocol):
    """One place that holds entries. Every method may be called from any thread.

    Only wrong arguments raise `TypeError` or `ValueError`; a tier that fails raises
    `TierUnavailableError`, which a cache over it absorbs; after `close` every method but `close` and
    `get_stats` raises `CacheClosedError`.
    """

    def get(self, key: str) -> CacheEntry | None:
        """The live entry under the key, as a snapshot, or None; never one whose time is over."""
        ...

    def set(self, key: str, entry: CacheEntry) -> bool:
        """Store the entry in place of whatever the key held, and break its fences.

        A copy lives as long as the entry has left, and at most as long as the tier's own default. An
        entry whose time is over removes the key instead. True.

        Raises:
            ValueError: the entry's own key is another one.
        """
        ...

    def delete(self, key: str) -> bool:
        """Remove the key, and break its fences whether or not it was there; True if it was."""
        ...

    def clear(self) -> bool:
        """Remove everything, and break every fence. True."""
        ...

    def keys(self, pattern: str | None = None) -> Iterable[str]:
        """The keys of live entries, those that the regular expression matches from the start."""
        ...

    def size(self) -> int:
        """How many entries are held; ones that expired unnoticed may be among them."""
        ...

    def memory_usage(self) -> int:
        """How many bytes they take; the tier says of what."""
        ...

    def get_stats(self) -> CacheStats:
        """What has been counted; never does I/O."""
        ...

    def fence(self, key: str, tags: Tags = ()) -> Fence:
        """A fence to take before a value is loaded or copied, and to hand to `set_if` after it."""
        ...

    def set_if(self, key: str, entry: CacheEntry, fence: Fence) -> bool:
        """Store the entry if the fence, taken for this key, is current; True if it was stored.

        Unlike `set` it breaks no fence: it tells nobody anything new.

        Raises:
            ValueError: the fence was taken for another key, or not for all the tags of the entry.
        """
        ...

    def close(self) -> None:
        """Give back memory, descriptors and background work; a second call does nothing."""
        ...


@runtime_checkable
class InvalidatesTags(Protocol):
    """A tier that can drop all entries with a tag."""

    def invalidate_by_tags(self, tags: Tags) -> int:
        """Drop entries with any of the tags, and break fences that name one; how many were dropped."""
        ...


@runtime_checkable
class InvalidatesPatterns(Protocol):
    """A tier that can drop all entries whose keys match."""

    def invalidate_by_pattern(self, pattern: str) -> int:
        """Drop entries that the regular expression matches from the start; how many were dropped."""
        ...


class FencedEntry(NamedTuple):
    """What `DirectoryTier.look` found."""

    entry: CacheEntry
    fence: SharedFence  #: taken before the entry was read, over its key and tags
    origin: ServerTokens | None  #: what the fleet's server said when the value was stored, if there was one


@runtime_checkable
class DirectoryTier(Tier, InvalidatesTags, InvalidatesPatterns, Protocol):
    """A tier that the processes of one host share, with fences that may stand beside copies in memory.

    What the cache above it needs to keep its tiers one. Every method may raise TierUnavailableError;
    one that writes has then changed nothing, or has removed what the key had.
    """

    def peek(self, key: str) -> CacheEntry | None:
        """`get`, but no lookup: nothing is counted."""
        ...

    def look(self, key: str) -> FencedEntry | None:
        """`get`, with what a copy elsewhere needs to be checked later; a lookup that counts."""
        ...

    def fence(self, key: str, tags: Tags = ()) -> SharedFence:
        """A fence that writes of every process break; no I/O."""
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
        """`set`; the fence over key and tags that holds from this write on.

        With `expect` nothing is changed unless that fence stands; then the answer is None. With
        `in_flux` nobody may copy the value elsewhere until `settle` has ended the write.
        """
        ...

    def remove(self, key: str, *, in_flux: bool = False) -> tuple[bool, SharedFence]:
        """`delete`; whether it was there, and the fence that holds from this write on."""
        ...

    def touch(self, key: str, ttl: TTL = None) -> bool:
        """Give a live entry a new life from now, as a write of the key; True if there is one."""
        ...

    def settle(self, fence: SharedFence) -> bool:
        """End a write that was left in flux; False if another write of the key came in between."""
        ...

    def add(
        self, key: str, entry: CacheEntry, fence: SharedFence, origin: ServerTokens | None = None
    ) -> CacheEntry | bool:
        """`set_if`, but a live entry that came first stays, and is the answer."""
        ...

    def renew(self) -> None:
        """Break all fences of keys, in every process."""
        ...


@runtime_checkable
class ServerTier(Tier, InvalidatesTags, InvalidatesPatterns, Protocol):
    """A tier that hosts share through a server, which compares the fences itself.

    Every method may raise TierUnavailableError; one that writes may then have been carried out or not.
    """

    def peek(self, key: str) -> CacheEntry | None:
        """`get`, but no lookup: nothing is counted."""
        ...

    def get_many(self, keys: Sequence[str]) -> dict[str, CacheEntry]:
        """The live entries among the keys, in one round trip; each is a lookup that counts."""
        ...

    def touch(self, key: str, ttl: TTL = None) -> bool:
        """Give a live entry a new life from now, as a write that tells the hosts; True if there is one."""
        ...

    def origin(self, key: str, tags: frozenset[str] = frozenset()) -> ServerTokens:
        """The tokens of key and tags as they are now: a fence for `add`. One round trip."""
        ...

    def origins(self, keys: Sequence[str], tags: frozenset[str] = frozenset()) -> dict[str, ServerTokens]:
        """`origin` of several keys in one round trip."""
        ...

    def successor(self, tags: frozenset[str] = frozenset()) -> ServerTokens:
        """A fresh token for a key, which its next `put` makes the current one; no I/O without tags."""
        ...

    def put(
        self, key: str, entry: CacheEntry, origin: ServerTokens, *, expect: ServerTokens | None = None
    ) -> bool:
        """`set`, which makes the token of `origin` the key's, and tells the other hosts.

        With `expect` nothing is changed unless the tokens are those; then the answer is False.
        """
        ...

    def put_many(self, entries: Mapping[str, CacheEntry], origins: Mapping[str, ServerTokens]) -> None:
        """`put` of several keys at once."""
        ...

    def remove_many(self, keys: Sequence[str]) -> list[str]:
        """`delete` of several keys at once; those that were there."""
        ...

    def add(self, key: str, entry: CacheEntry, origin: ServerTokens) -> CacheEntry | bool:
        """Store the entry if the tokens are still those of `origin`.

        Returns:
            A live entry that is there already; or whether it was stored.
        """
        ...

    def add_many(
        self, entries: Mapping[str, CacheEntry], origins: Mapping[str, ServerTokens]
    ) -> dict[str, CacheEntry | bool]:
        """`add` of several keys at once; nothing is stored if one cannot be."""
        ...

    def renew(self) -> None:
        """Change the tokens of all keys, so that nothing that was read before is kept; tell the hosts."""
        ...

    def subscribe(self, listener: BusListener) -> Callable[[], None]:
        """Tell `listener` what is written and invalidated from now on; the function returned ends it.

        What is done through this tier itself it is told in the thread that does it, before the call returns.
        The listener is held by that function and its own holders, not by the tier: with them it ends.
        """
        ...


@runtime_checkable
class HasDirectory(Protocol):
    """A tier with a directory, on a local file system, that the processes of the host share."""

    @property
    def path(self) -> str:
        """The directory, absolute."""
        ...


@runtime_checkable
class Sweeps(Protocol):
    """A tier that removes by itself what is over, and can be asked to do so now."""

    def remove_expired(self) -> int:
        """Remove it; how many entries that were."""
        ...


@runtime_checkable
class Pings(Protocol):
    """A tier that can say at little cost whether it is out; others are asked for their size."""

    def ping(self) -> None:
        """Return if it answers.

        Raises:
            TierUnavailableError: it does not.
        """
        ...


class Returnable(Protocol):
    """Something that was lent."""

    def release(self) -> None:
        """Give it back. A second call does nothing."""
        ...


@runtime_checkable
class LendsLeases(Protocol):
    """A tier whose server can say who of a fleet does something."""

    def lease(self, key: str, seconds: float) -> Returnable | None:
        """The lease of a key, which ends by itself after so many seconds; None if another one has it."""
        ...


class BusListener(Protocol):
    """Who is told what others have done: by a bus thread, or by whoever does it through the same tier.

    A cache takes no notice of what its own calls tell (see `speaking`). Calls may come in several threads at
    once, and more than once for one write.
    """

    def keys_changed(self, keys: Sequence[str]) -> None:
        """These keys were written, or deleted."""
        ...

    def tags_changed(self, tags: frozenset[str]) -> None:
        """These tags were invalidated."""
        ...

    def pattern_changed(self, pattern: str) -> None:
        """Keys that match the regular expression, or some of them, were invalidated."""
        ...

    def everything_changed(self) -> None:
        """The tier was cleared; or messages may have been lost, so that nothing is to be trusted."""
        ...
