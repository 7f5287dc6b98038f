"""Fences answer: was this key, or one of its tags, invalidated since I looked?

Whoever is about to do something slow with a key (load its value, copy it from another tier) takes a
fence first, and its result is kept only if the fence still stands. Every write and every invalidation
breaks the fences that it concerns, before it returns. This is promise P4: an invalidation is never
lost to work in flight.

`FenceTable` is the private fence of one process. It knows the fences that someone still holds, and
nothing else, so a write that meets no work in flight pays for one truth test, and a fence is broken
by its own key and tags alone. The idea of a token handed out at a miss and checked at the fill is the
lease of "Scaling Memcache at Facebook" (Nishtala et al., NSDI 2013, section 3.2.1).
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Mapping
from typing import final


@final
class PrivateFence:
    """A fence of this process; it stands until something breaks it. See `ports.Fence`."""

    __slots__ = ("__weakref__", "broken", "key", "tags")

    def __init__(self, key: str, tags: frozenset[str]) -> None:
        self.key = key
        self.tags = tags
        self.broken = False

    def is_current(self) -> bool:
        """Whether nothing has written or invalidated the key, or one of the tags, since."""
        return not self.broken


@final
class FenceTable:
    """The fences that are held at this moment, by key.

    Not locked: the owner calls every method under its own lock. Fences are held weakly, so one that its
    holder forgets needs no giving back.
    """

    __slots__ = ("_fences", "held")

    def __init__(self) -> None:
        # It removes a fence that nobody holds in one step, in whichever thread lets go of it, and never
        # a newer fence of the same key.
        self._fences: weakref.WeakValueDictionary[str, PrivateFence] = weakref.WeakValueDictionary()
        #: What is held, by key; for an owner who has no time for a call, to see that there is nothing.
        self.held: Mapping[str, object] = self._fences.data  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self.held)

    def take(self, key: str, tags: frozenset[str]) -> PrivateFence:
        """A fence for the key and the tags. Holders of one key share one, with the tags of them all."""
        fence = self._fences.get(key)
        if fence is None:
            fence = self._fences[key] = PrivateFence(key, tags)
        else:
            fence.tags |= tags
        return fence

    def break_key(self, key: str) -> None:
        """Break the fences of one key."""
        fence = self._fences.pop(key, None)
        if fence is not None:
            fence.broken = True

    def break_tags(self, tags: frozenset[str]) -> None:
        """Break the fences that name any of the tags."""
        for fence in self._standing():
            if not tags.isdisjoint(fence.tags):
                self.break_key(fence.key)

    def break_matching(self, pattern: re.Pattern[str]) -> None:
        """Break the fences of keys that the pattern matches from the start."""
        for fence in self._standing():
            if pattern.match(fence.key):
                self.break_key(fence.key)

    def break_all(self) -> None:
        """Break every fence."""
        for fence in self._standing():
            self.break_key(fence.key)

    def _standing(self) -> list[PrivateFence]:
        return list(self._fences.values())
