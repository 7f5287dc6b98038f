"""Which tags an entry probably has, so that their tokens are read together with it."""

from __future__ import annotations

from typing import Final, final

from cachekit.model.types import NO_TAGS

_MOST_KEYS: Final = 1024
_MOST_TAGS: Final = 8
_MOST_CHARACTERS: Final = 512  # of all tags of an entry


@final
class ForeseenTags:
    """The tags that some keys had when they were last read; for other keys, those that were learned last.

    A wrong guess costs a round trip, or some tokens that are not needed. Safe in any thread.
    """

    __slots__ = ("_last", "_of_keys")

    def __init__(self) -> None:
        self._of_keys: dict[int, frozenset[str]] = {}  # by the hash of the key, which may be long
        self._last = NO_TAGS

    def of(self, key: str) -> frozenset[str]:
        """Return the tags that the entry of a key probably has."""
        return self._of_keys.get(hash(key), self._last)

    def learn(self, key: str, tags: frozenset[str]) -> None:
        """Remember the tags that the entry of a key has, unless they are many or long."""
        if len(tags) > _MOST_TAGS or sum(map(len, tags)) > _MOST_CHARACTERS:
            tags = NO_TAGS
        self._last = tags
        if not tags:
            self._of_keys.pop(hash(key), None)
            return
        if len(self._of_keys) >= _MOST_KEYS:
            self._of_keys.clear()
        self._of_keys[hash(key)] = tags
