"""The fence of the Redis tier, whose tokens only the server can compare; and checks of what goes with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, final

from cachekit.model.entry import CacheEntry
from cachekit.tiers.arguments import check_entry
from cachekit.tiers.base import Fence
from cachekit.tiers.fences import ServerTokens


class _Judge(Protocol):
    def is_current(self, key: str, origin: ServerTokens) -> bool: ...


@final
class RedisFence:
    """A fence that writes and invalidations of the whole fleet break. See `ports.Fence`.

    Args:
        key: what it is for.
        origin: the tokens of key and tags when it was taken.
        judge: who asks the server.
    """

    __slots__ = ("_judge", "key", "origin")

    def __init__(self, key: str, origin: ServerTokens, judge: _Judge) -> None:
        self.key = key
        self.origin = origin
        self._judge = judge

    def is_current(self) -> bool:
        """Whether nobody has written or invalidated the key, or one of the tags, since. One round trip.

        Raises:
            TierUnavailableError: the server did not say.
            CacheClosedError: the tier was closed.
        """
        return self._judge.is_current(self.key, self.origin)


def check_fence(fence: Fence, entry: CacheEntry) -> ServerTokens:
    """The tokens of a fence that was taken for this entry; refuse any other."""
    if not isinstance(fence, RedisFence):
        raise TypeError(f"fence must come from this tier's fence(), not {fence!r}")
    if fence.key != entry.key or not fence.origin.tags.keys() >= entry.tags:
        raise ValueError(
            f"the fence was taken for key {fence.key!r} and tags {sorted(fence.origin.tags)}, not for "
            f"key {entry.key!r} and tags {sorted(entry.tags)}; take it for the key and all the tags "
            f"that will be stored"
        )
    return fence.origin


def checked_origin(origin: ServerTokens) -> ServerTokens:
    """The origin, if it is one."""
    if not isinstance(origin, ServerTokens):
        raise TypeError(f"origin must come from this tier's origin() or successor(), not {origin!r}")
    return origin


def checked_pairs(
    entries: Mapping[str, CacheEntry], origins: Mapping[str, ServerTokens]
) -> list[tuple[CacheEntry, ServerTokens]]:
    """The entries, each with its origin."""
    pairs = []
    for key, entry in entries.items():
        check_entry(key, entry)
        if key not in origins:
            raise ValueError(f"origins has none for the key {key!r}; take one with origins([...])")
        pairs.append((entry, checked_origin(origins[key])))
    return pairs
