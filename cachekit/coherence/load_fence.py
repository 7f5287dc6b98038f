"""The fence of a load, which spans all tiers, and the questions that reads and writes ask of fences.

`tier_stack` lists the steps in which they are asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

from cachekit.coherence.accessor import TierAccessor
from cachekit.errors import TierUnavailableError
from cachekit.model.entry import CacheEntry
from cachekit.model.types import MISSING, NO_TAGS, Missing
from cachekit.tiers.base import DirectoryTier
from cachekit.tiers.fences import WRITING, PrivateFence, ServerTokens, SharedFence

if TYPE_CHECKING:
    from cachekit.tiers.file.store import FileStore


@final
class LoadFence:
    """What must be unchanged when a load ends, for its value to be stored.

    Attributes:
        key: the key that is loaded.
        tags: the tags that the value will carry.
        memory: P.
        file: T; None without a file tier, or while its tokens cannot be read.
        origin: RT. Only the load that calls the loader asks for it, because it costs a round trip.
    """

    __slots__ = ("file", "key", "memory", "origin", "tags")

    def __init__(
        self, key: str, tags: frozenset[str], memory: PrivateFence, file: SharedFence | None
    ) -> None:
        self.key = key
        self.tags = tags
        self.memory = memory
        self.file = file
        self.origin: ServerTokens | None = None

    def is_current(self) -> bool:
        """Return whether nothing on this host has written or invalidated the key, or a tag, since."""
        return self.memory.is_current() and (self.file is None or self.file.is_current())


@final
class AbsenceFence:
    """A fence that is current while a key has no live entry in memory, which asks it under its lock.

    Args:
        peek: Returns the live value of a key in memory, or MISSING.
        key: The key.

    Attributes:
        was_broken: whether it was asked, and there was an entry.
    """

    __slots__ = ("_key", "_peek", "was_broken")

    def __init__(self, peek: Callable[[str], Any | Missing], key: str) -> None:
        self._peek = peek
        self._key = key
        self.was_broken = False

    def is_current(self) -> bool:
        """Return whether there is no live entry."""
        self.was_broken = self._peek(self._key) is not MISSING
        return not self.was_broken


def shared_fence_of(
    file: TierAccessor[DirectoryTier] | None,
    key: str,
    tags: frozenset[str] = NO_TAGS,
    files: FileStore | None = None,
) -> SharedFence | None:
    """Return T as it is now. A copy in memory is compared with it at every hit.

    With its store, the tier checks neither key nor tags once more.
    """
    if file is None:
        return None
    try:
        return (files or file.tier).fence(key, tags)
    except TierUnavailableError:  # the directory is gone: memory may store nothing until there is a new one
        return None


def may_store(file: TierAccessor[DirectoryTier] | None, shared_fence: SharedFence | None) -> bool:
    """Return whether memory may store a copy behind this T: not while a write is in progress."""
    return file is None or (shared_fence is not None and not shared_fence.token & WRITING)


def with_tags(shared_fence: SharedFence | None, entry: CacheEntry) -> SharedFence | None:
    """Return T over the tags that the entry turned out to have."""
    return None if shared_fence is None else shared_fence.naming(entry.tags)


def same_version(stored: ServerTokens | None, now: ServerTokens) -> bool:
    """Return whether the server still has the tokens that it had when an entry was stored."""
    return (
        stored is not None
        and stored.token == now.token
        and all(now.tags.get(tag) == token for tag, token in stored.tags.items())
    )
