"""How entries leave the memory tier, but for room: deleted, invalidated, or because their time is over.

What `store` promises of the order of steps is kept here, too: the deadline first, so that nobody serves
what is leaving; then the entry, then its tags. Fences break before anything is removed, and whether or
not there is something to remove: a load under way is as old as what it would replace (P4).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

from cachekit.model.types import RemovalCause
from cachekit.tiers.base import Fence
from cachekit.tiers.fences import FenceTable
from cachekit.tiers.memory.entry import GONE, MemoryEntry, TagIndex
from cachekit.tiers.memory.write_lock import LockedStore, Removed

_SLICE: Final = 1000  # entries that one lock hold of a scan looks at


class RemovalMixin(LockedStore):
    """What a store inherits: its entries, their tags and fences, and the ways out.

    A base, like `LockedStore`, for the sake of `Store.put` and of the hits.

    Args:
        now: the monotonic clock.
    """

    __slots__ = ("_entries", "_fenced", "_fences", "_tags", "now")

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self.now = now
        self._entries: OrderedDict[str, MemoryEntry] = OrderedDict()
        self._tags = TagIndex()
        self._fences = FenceTable()
        self._fenced = self._fences.held  # empty, and so falsy, while nothing is in flight

    def all_held(self) -> list[MemoryEntry]:
        """Every entry at one moment, expired ones included, in no particular order."""
        with self._lock:
            return list(dict.values(self._entries))

    def delete(self, key: str, fence: Fence | None = None) -> bool:
        """Remove a key, and break its fences whether or not it is there; True if it was live.

        With a fence: only if that is current.
        """
        return bool(self._exclusively(self._delete, key, fence))

    def _delete(self, gone: Removed, key: str, fence: Fence | None) -> bool:
        if fence is not None and not fence.is_current():
            return False
        self._fences.break_key(key)
        held = self._entries.get(key)
        if held is None:
            return False
        if self.now() >= held.deadline:
            self._remove(gone, held, RemovalCause.EXPIRED)
            return False
        self.counter.deletes += 1
        self._remove(gone, held, RemovalCause.INVALIDATED)
        return True

    def invalidate_keys(self, keys: Iterable[str]) -> None:
        """Remove the keys, and break their fences."""
        self._exclusively(self._invalidate_keys, list(keys))

    def _invalidate_keys(self, gone: Removed, keys: list[str]) -> None:
        for key in keys:
            self._fences.break_key(key)
        found = (self._entries.get(key) for key in keys)
        self._invalidate(gone, [held for held in found if held is not None])

    def clear(self) -> None:
        """Remove everything, and break every fence."""
        self._exclusively(self._clear)

    def _clear(self, gone: Removed) -> None:
        self._fences.break_all()
        held = list(dict.values(self._entries))
        # In place: other rooms keep the bound methods of this very dict. `held` keeps every value
        # alive until the lock is free.
        for one in held:
            one.deadline = GONE
        self._entries.clear()
        self._tags.clear()
        removed = len(held)
        self.counter.invalidations += removed
        gone.extend((one, RemovalCause.INVALIDATED) for one in held)

    def invalidate_tags(self, tags: frozenset[str]) -> int:
        """Remove entries with any of the tags, and break fences that name one; how many were live."""
        return self._exclusively(self._invalidate_tags, tags) or 0

    def _invalidate_tags(self, gone: Removed, tags: frozenset[str]) -> int:
        self._fences.break_tags(tags)
        found = (self._entries.get(key) for key in self._tags.having(tags))
        return self._invalidate(gone, [held for held in found if held is not None])

    def invalidate_matching(self, pattern: re.Pattern[str]) -> int:
        """Remove entries whose key matches, and break the fences of such keys; how many were live."""
        # Fences first: a load that is refused from here on began before; one that begins now belongs
        # after this invalidation, wherever the scan is. So the scan itself needs no lock.
        self._exclusively(self._break_matching, pattern)
        matching = [held for held in self.all_held() if pattern.match(held.key)]
        removed = 0
        for start in range(0, len(matching), _SLICE):
            removed += self._exclusively(self._invalidate, matching[start : start + _SLICE]) or 0
        return removed

    def _break_matching(self, gone: Removed, pattern: re.Pattern[str]) -> None:  # noqa: ARG002
        self._fences.break_matching(pattern)

    def _invalidate(self, gone: Removed, condemned: list[MemoryEntry]) -> int:
        now = self.now()
        removed = 0
        for held in condemned:
            if self._entries.get(held.key) is not held:
                continue  # gone; a value that was put in its place meanwhile goes too, which is safe
            if now >= held.deadline:
                self._remove(gone, held, RemovalCause.EXPIRED)
                continue
            removed += 1
            self.counter.invalidations += 1
            self._remove(gone, held, RemovalCause.INVALIDATED)
        return removed

    def remove_expired(self) -> int:
        """Remove the entries whose time is over, or whose mark does not stand; how many that were."""
        everything = self.all_held()
        removed = 0
        for start in range(0, len(everything), _SLICE):
            now = self.now()
            over = [
                held
                for held in everything[start : start + _SLICE]
                if held.deadline + held.stale <= now
                or (held.shared_fence is not None and not held.shared_fence.is_current())
            ]
            if over:
                removed += self._exclusively(self._remove_over, over, now) or 0
        return removed

    def _remove_over(self, gone: Removed, condemned: list[MemoryEntry], now: float) -> int:
        before = len(gone)
        for held in condemned:
            # Looked at again under the lock: it may have been replaced, or touched.
            if self._entries.get(held.key) is not held:
                continue
            if held.deadline + held.stale <= now:
                self._remove(gone, held, RemovalCause.EXPIRED)
            elif held.shared_fence is not None and not held.shared_fence.is_current():
                self.counter.invalidations += 1
                self._remove(gone, held, RemovalCause.INVALIDATED)
        return len(gone) - before

    def _remove(self, gone: Removed, held: MemoryEntry, cause: RemovalCause) -> None:
        held.deadline = GONE
        del self._entries[held.key]
        if held.tags:
            self._tags.unlink(held.key, held.tags)
        if cause is RemovalCause.EXPIRED:
            self.counter.expirations += 1
        gone.append((held, cause))
