"""What the levels of a cache hand each other so that they stay one; `levels` has the order of steps.

Here is the fence of a load, which spans all tiers; a write's steps, which are all taken whichever fails;
and the ear of memory on the fleet's bus.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, final

from cachekit.accessor import UNAVAILABLE, Accessor, Unavailable
from cachekit.errors import TierUnavailableError
from cachekit.model.entry import CacheEntry
from cachekit.model.stats import CacheStats
from cachekit.model.types import NO_TAGS
from cachekit.speaking import is_speaking
from cachekit.tiers.base import FleetTier, HostTier, Tier
from cachekit.tiers.fences import FLUX, Origin, PrivateFence, SharedFence
from cachekit.tiers.memory import MemoryCache

R = TypeVar("R")
T = TypeVar("T", bound=Tier)

_FLAGS = (
    ("a", re.ASCII), ("i", re.IGNORECASE), ("m", re.MULTILINE), ("s", re.DOTALL), ("x", re.VERBOSE),
)  # fmt: skip


@final
class LoadFence:
    """What a load must find unchanged for its value to be kept. See `ports.Fence`.

    Attributes:
        key: what is loaded.
        tags: what its value will carry.
        memory: P.
        host: T; None without a host tier, or while its tokens cannot be read.
        origin: RT, which the leader of the load alone asks for, because it costs a round trip.
    """

    __slots__ = ("host", "key", "memory", "origin", "tags")

    def __init__(
        self, key: str, tags: frozenset[str], memory: PrivateFence, host: SharedFence | None
    ) -> None:
        self.key = key
        self.tags = tags
        self.memory = memory
        self.host = host
        self.origin: Origin | None = None

    def is_current(self) -> bool:
        """Whether nothing on this host has written or invalidated the key, or one of the tags, since."""
        return self.memory.is_current() and (self.host is None or self.host.is_current())


@final
class Lower(Generic[T]):
    """A tier below memory, and the accessor through which every call to it goes."""

    __slots__ = ("access", "tier")

    def __init__(self, tier: T, access: Accessor) -> None:
        self.tier = tier
        self.access = access

    def get_stats(self) -> CacheStats:
        """The tier's own figures, with the lookups that never came to it."""
        figures = self.tier.get_stats().to_dict()
        numbers = {name: figures[name] for name in CacheStats._STORED}
        never = self.access.unavailable  # once: it moves
        numbers["unavailable"] += never
        numbers["requests"] += never
        return CacheStats(**numbers)


@final
class Steps:
    """The steps of one write: all are taken, whichever fails."""

    __slots__ = ("_error", "_failed")

    def __init__(self) -> None:
        self._error: TierUnavailableError | None = None
        self._failed = False

    def take(self, step: Callable[[], R | Unavailable]) -> R | Unavailable:
        """Its result; UNAVAILABLE also if a strict accessor raised."""
        try:
            result = step()
        except TierUnavailableError as error:
            self._error = error
            result = UNAVAILABLE
        if result is UNAVAILABLE:
            self._failed = True
        return result

    def done(self) -> bool:
        """Whether none failed.

        Raises:
            TierUnavailableError: one did, and its accessor is strict.
        """
        if self._error is not None:
            raise self._error
        return not self._failed


@final
class Listener:
    """What the bus of the fleet tells, carried out on memory (see `ports.BusListener`).

    What a cache over this memory does itself is left to that cache.
    """

    __slots__ = ("__weakref__", "_memory")

    def __init__(self, memory: MemoryCache) -> None:
        self._memory = memory

    def keys_changed(self, keys: Sequence[str]) -> None:
        """Drop them."""
        if not is_speaking(self._memory):
            self._memory._store.invalidate_keys(keys)

    def tags_changed(self, tags: frozenset[str]) -> None:
        """Drop what has one of them."""
        if not is_speaking(self._memory):
            self._memory.invalidate_by_tags(tags)

    def pattern_changed(self, pattern: str) -> None:
        """Drop what matches."""
        if not is_speaking(self._memory):
            self._memory.invalidate_by_pattern(pattern)

    def everything_changed(self) -> None:
        """Drop all."""
        if not is_speaking(self._memory):
            self._memory.clear()


def marked(host: Lower[HostTier] | None, key: str, tags: frozenset[str] = NO_TAGS) -> SharedFence | None:
    """T as it is now: what a copy in memory is compared with later."""
    if host is None:
        return None
    try:
        return host.tier.fence(key, tags)
    except TierUnavailableError:  # its directory is gone: nothing may be kept until there is a new one
        return None


def may_keep(host: Lower[HostTier] | None, mark: SharedFence | None) -> bool:
    """Whether memory may keep what this mark was taken for: not without one, nor while it is in flux."""
    return host is None or (mark is not None and not mark.token & FLUX)


def named(mark: SharedFence | None, entry: CacheEntry) -> SharedFence | None:
    """The mark, over the tags that the entry turned out to have."""
    return None if mark is None else mark.naming(entry.tags)


def agree(stored: Origin | None, now: Origin) -> bool:
    """Whether the server has the tokens still that it had when an entry was stored."""
    return (
        stored is not None
        and stored.token == now.token
        and all(now.tags.get(tag) == token for tag, token in stored.tags.items())
    )


def removed(tier: FleetTier, key: str) -> bool:
    """Delete a key; True, for it is gone."""
    tier.delete(key)
    return True


def as_text(pattern: re.Pattern[str]) -> str:
    """The pattern with its flags written into it, so that it can travel."""
    flags = "".join(letter for letter, flag in _FLAGS if pattern.flags & flag)
    return f"(?{flags}){pattern.pattern}" if flags else pattern.pattern
