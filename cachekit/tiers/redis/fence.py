"""The fence of the Redis tier, whose tokens only the server can compare."""

from __future__ import annotations

from typing import Protocol, final

from cachekit.model.display import shown_key, shown_tags
from cachekit.model.entry import CacheEntry
from cachekit.tiers.base import Fence
from cachekit.tiers.fences import ServerTokens


class _Judge(Protocol):
    def is_current(self, key: str, origin: ServerTokens) -> bool: ...


@final
class RedisFence:
    """A fence that writes and invalidations of the whole fleet break.

    Args:
        key: the key that it guards.
        origin: the tokens of key and tags when it was taken.
        judge: asks the server.
    """

    __slots__ = ("_judge", "key", "origin")

    def __init__(self, key: str, origin: ServerTokens, judge: _Judge) -> None:
        self.key = key
        self.origin = origin
        self._judge = judge

    def is_current(self) -> bool:
        """Return whether nothing has written or invalidated the key, or a tag, since. One round trip.

        Raises:
            TierUnavailableError: the server did not answer.
            CacheClosedError: the tier was closed.
        """
        return self._judge.is_current(self.key, self.origin)


def check_fence(fence: Fence, entry: CacheEntry) -> ServerTokens:
    """Return the tokens of a fence that was taken for this entry; refuse any other."""
    if not isinstance(fence, RedisFence):
        raise TypeError(f"fence must come from this tier's fence(), not {fence!r}")
    if fence.key != entry.key or not fence.origin.tags.keys() >= entry.tags:
        raise ValueError(
            f"the fence was taken for {shown_key(fence.key)} and {shown_tags(fence.origin.tags)}, not for "
            f"{shown_key(entry.key)} and {shown_tags(entry.tags)}; take it for the key and all the tags that "
            f"will be stored"
        )
    return fence.origin
