"""What the levels of a cache hand each other so that they stay one; `levels` has the order of steps.

Here is the fence of a load, which spans all tiers; a write's steps, which are all taken whichever fails;
and the ear of memory on the fleet's bus.
"""

from __future__ import annotations

from typing import final

from cachekit.coherence.accessor import Lower
from cachekit.errors import TierUnavailableError
from cachekit.model.entry import CacheEntry
from cachekit.model.types import NO_TAGS
from cachekit.tiers.base import DirectoryTier
from cachekit.tiers.fences import WRITING, PrivateFence, ServerTokens, SharedFence


@final
class LoadFence:
    """What a load must find unchanged for its value to be kept. See `ports.Fence`.

    Attributes:
        key: what is loaded.
        tags: what its value will carry.
        memory: P.
        file: T; None without a host tier, or while its tokens cannot be read.
        origin: RT, which the leader of the load alone asks for, because it costs a round trip.
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
        """Whether nothing on this host has written or invalidated the key, or one of the tags, since."""
        return self.memory.is_current() and (self.file is None or self.file.is_current())


def shared_fence_of(
    file: Lower[DirectoryTier] | None, key: str, tags: frozenset[str] = NO_TAGS
) -> SharedFence | None:
    """T as it is now: what a copy in memory is compared with later."""
    if file is None:
        return None
    try:
        return file.tier.fence(key, tags)
    except TierUnavailableError:  # its directory is gone: nothing may be kept until there is a new one
        return None


def may_store(file: Lower[DirectoryTier] | None, shared_fence: SharedFence | None) -> bool:
    """Whether memory may keep what this mark was taken for: not without one, nor while it is in flux."""
    return file is None or (shared_fence is not None and not shared_fence.token & WRITING)


def with_tags(shared_fence: SharedFence | None, entry: CacheEntry) -> SharedFence | None:
    """The mark, over the tags that the entry turned out to have."""
    return None if shared_fence is None else shared_fence.naming(entry.tags)


def same_version(stored: ServerTokens | None, now: ServerTokens) -> bool:
    """Whether the server has the tokens still that it had when an entry was stored."""
    return (
        stored is not None
        and stored.token == now.token
        and all(now.tags.get(tag) == token for tag, token in stored.tags.items())
    )
