"""The fence of a tier on a server, whose tokens only the server can compare."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import final

from cachekit.model.display import safe_repr
from cachekit.model.entry import CacheEntry
from cachekit.tiers.arguments import check_taken_for
from cachekit.tiers.base import Fence
from cachekit.tiers.fences import ServerTokens


@final
class ServerFence:
    """A fence that writes and invalidations of all hosts break.

    Args:
        key: the key that it guards.
        origin: the tokens of key and tags when it was taken.
        ask: asks the server whether they still are.
    """

    __slots__ = ("_ask", "key", "origin")

    def __init__(self, key: str, origin: ServerTokens, ask: Callable[[str, ServerTokens], bool]) -> None:
        self.key = key
        self.origin = origin
        self._ask = ask

    @property
    def names(self) -> AbstractSet[str]:
        """The tags that it guards."""
        return self.origin.tags.keys()

    def is_current(self) -> bool:
        """Return whether nothing has written or invalidated the key, or a tag, since; it asks the server.

        Raises:
            TierUnavailableError: the server did not answer.
            CacheClosedError: the tier was closed.
        """
        return self._ask(self.key, self.origin)


def check_fence(fence: Fence, entry: CacheEntry) -> ServerTokens:
    """Return the tokens of a fence that was taken for this entry; refuse any other.

    Raises:
        TypeError: it is not a fence of a tier on a server.
        ValueError: it was taken for another key, or not for all tags.
    """
    if not isinstance(fence, ServerFence):
        raise TypeError(f"fence must come from this tier's fence(), not {safe_repr(fence)}")
    check_taken_for(fence.key, fence.names, entry)
    return fence.origin
