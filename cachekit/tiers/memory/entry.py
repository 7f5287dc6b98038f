"""What memory holds: one entry, and the index from tags to keys. The store guards both with its lock."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Any, Final, final

from cachekit.tiers.fences import SharedFence

#: The deadline of an entry that has left.
GONE: Final = -inf


class MemoryEntry:
    """One entry as memory holds it. Times are on the tier's monotonic clock.

    Made without an `__init__`, whose call would cost more than all of its assignments.
    """

    __slots__ = (
        "accesses",
        "created",
        "deadline",
        "key",
        "last",
        "shared_fence",
        "stale",
        "tags",
        "ttl",
        "value",
    )

    key: str
    value: Any
    created: float
    ttl: float
    deadline: float  # created + ttl; minus infinity from just before the entry leaves the store
    stale: float  # for how long after its deadline a load may still fall back on it; finite
    last: float
    accesses: int
    tags: frozenset[str]
    shared_fence: SharedFence | None  # what must stand for the value to be served; None asks nobody


@final
class TagIndex:
    """Which keys have a tag; a tag without keys is not there. Not locked."""

    __slots__ = ("_keys",)

    def __init__(self) -> None:
        self._keys: dict[str, set[str]] = {}

    def link(self, key: str, tags: Iterable[str]) -> None:
        """Note that the key has the tags."""
        for tag in tags:
            self._keys.setdefault(tag, set()).add(key)

    def unlink(self, key: str, tags: Iterable[str]) -> None:
        """Note that the key has the tags no more."""
        for tag in tags:
            keys = self._keys.get(tag)
            if keys is not None:
                keys.discard(key)
                if not keys:
                    del self._keys[tag]

    def count(self, tag: str) -> int:
        """How many keys have the tag."""
        return len(self._keys.get(tag, ()))

    def having(self, tags: Iterable[str]) -> set[str]:
        """The keys that have any of the tags."""
        return set[str]().union(*(self._keys.get(tag, ()) for tag in tags))

    def clear(self) -> None:
        """Forget everything."""
        self._keys.clear()

    def as_dict(self) -> dict[str, set[str]]:
        """All of it, for checks."""
        return {tag: set(keys) for tag, keys in self._keys.items()}
