"""The shapes that cachekit's rooms ask of each other, as Protocols.

A tier is anything with the methods of `Tier`; what only some tiers can do stands in a Protocol of its
own, and a cache asks with `isinstance` before it relies on it. `cachekit.testing.TierContract` is the
test suite that goes with `Tier`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from cachekit.model import CacheEntry, CacheStats, Tags


class Clock(Protocol):
    """Where the time comes from: a parameter, so that tests move it and never sleep."""

    def time(self) -> float:
        """Seconds since the epoch: for whatever is compared between processes or after a restart."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps: for whatever stays in this process."""
        ...


class Codec(Protocol):
    """How a value becomes bytes and a value again. Both methods may be called from any thread.

    For every value, `decode(encode(value))` is of the same type and equal, or `encode` raises
    `SerializationError`.
    """

    @property
    def name(self) -> str:
        """What people call it, as in an error."""
        ...

    @property
    def code(self) -> int:
        """Its number in stored bytes: 1 to 127 are cachekit's, 128 to 255 are yours."""
        ...

    def encode(self, value: Any) -> bytes:
        """The value as bytes.

        Raises:
            SerializationError: the value would not come back as it is; the message names its type.
        """
        ...

    def decode(self, payload: bytes | memoryview) -> Any:
        """The value that `encode` was given.

        Raises:
            UnreadableError: these are not bytes that `encode` returns; any other exception is taken
                for damage.
        """
        ...


class Fence(Protocol):
    """What `Tier.fence` hands out before something slow: opaque, but for one question."""

    def is_current(self) -> bool:
        """Whether nothing has written or invalidated the key, or one of the tags, since."""
        ...


@runtime_checkable
class Tier(Protocol):
    """One place that holds entries. Every method may be called from any thread.

    Only wrong arguments raise `TypeError` or `ValueError`; after `close` every method but `close` and
    `get_stats` raises `CacheClosedError`.
    """

    def get(self, key: str) -> CacheEntry | None:
        """The live entry under the key, as a snapshot, or None; never one whose time is over."""
        ...

    def set(self, key: str, entry: CacheEntry) -> bool:
        """Store the entry in place of whatever the key held, and break its fences.

        A copy lives as long as the entry has left, and at most as long as the tier's own default. An
        entry whose time is over removes the key instead. True unless the tier failed.

        Raises:
            ValueError: the entry's own key is another one.
        """
        ...

    def delete(self, key: str) -> bool:
        """Remove the key, and break its fences whether or not it was there; True if it was."""
        ...

    def clear(self) -> bool:
        """Remove everything, and break every fence. True unless the tier failed."""
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

    def invalidate_by_tags(self, tags: Iterable[str]) -> int:
        """Drop entries with any of the tags, and break fences that name one; how many were dropped."""
        ...


@runtime_checkable
class InvalidatesPatterns(Protocol):
    """A tier that can drop all entries whose keys match."""

    def invalidate_by_pattern(self, pattern: str) -> int:
        """Drop entries that the regular expression matches from the start; how many were dropped."""
        ...
