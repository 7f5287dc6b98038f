"""The fence that the Redis tier hands out: tokens that only the server can compare."""

from __future__ import annotations

from typing import Protocol, final

from cachekit.fences import Origin


class _Judge(Protocol):
    def is_current(self, key: str, origin: Origin) -> bool: ...


@final
class RedisFence:
    """A fence that writes and invalidations of the whole fleet break. See `ports.Fence`.

    Args:
        key: what it is for.
        origin: the tokens of key and tags when it was taken.
        judge: who asks the server.
    """

    __slots__ = ("_judge", "key", "origin")

    def __init__(self, key: str, origin: Origin, judge: _Judge) -> None:
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
