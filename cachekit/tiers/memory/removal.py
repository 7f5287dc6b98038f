"""How entries leave the memory tier other than by eviction: deleted, invalidated or expired.

The order of steps is that of `store`: first the deadline, so that no hit serves the entry, then the
entry, then its tags. Fences break before anything is removed, and also if there is nothing to remove: a
load in progress is as old as the entry that it would replace (P4).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from cachekit.model.types import RemovalCause
from cachekit.runtime.clock import Clock, source_of
from cachekit.tiers.base import Fence
from cachekit.tiers.fences import FenceTable
from cachekit.tiers.memory.entry import GONE, MemoryEntry, TagIndex
from cachekit.tiers.memory.write_lock import LockedStore, Removed

_SLICE: Final = 1000  # entries that a scan handles in one hold of the lock


class RemovalMixin(LockedStore):
    """The base class of a store with its entries, tags and fences, and with the ways to remove entries.

    It is a base class for the same reason as `LockedStore`: an attribute access less in `put` and in hits.

    Args:
        clock: The source of time.
    """

    __slots__ = ("_entries", "_fenced", "_fences", "_tags", "time")

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        #: What its methods read the time from.
        self.time = source_of(clock)
        self._entries: OrderedDict[str, MemoryEntry] = OrderedDict()
        self._tags = TagIndex()
        self._fences = FenceTable()
        self._fenced = self._fences.held  # empty, and so falsy, while no load is in progress

    def all_held(self) -> list[MemoryEntry]:
        """Return every entry at one moment, expired ones included, in no particular order."""
        with self._lock:
            return list(dict.values(self._entries))

    def delete(self, key: str, fence: Fence | None = None) -> bool:
        """Remove a key, and break its fences also if it is missing; return whether it was live.

        With a fence, remove the key only if the fence is current.
        """
        return bool(self._exclusively(self._delete, key, fence))

    def _delete(self, removed: Removed, key: str, fence: Fence | None) -> bool:
        if fence is not None and not fence.is_current():
            return False
        self._fences.break_key(key)
        held = self._entries.get(key)
        if held is None:
            return False
        if self.time.monotonic() >= held.deadline:
            self._remove(removed, held, RemovalCause.EXPIRED)
            return False
        self.counter.deletes += 1
        self._remove(removed, held, RemovalCause.INVALIDATED)
        return True

    def invalidate_keys(self, keys: Iterable[str]) -> None:
        """Remove the keys, and break their fences."""
        self._exclusively(self._invalidate_keys, list(keys))

    def _invalidate_keys(self, removed: Removed, keys: list[str]) -> None:
        for key in keys:
            self._fences.break_key(key)
        found = (self._entries.get(key) for key in keys)
        self._invalidate(removed, [held for held in found if held is not None])

    def clear(self) -> None:
        """Remove all entries, and break every fence."""
        self._exclusively(self._clear)

    def _clear(self, removed: Removed) -> None:
        self._fences.break_all()
        held = list(dict.values(self._entries))
        # In place: other modules keep bound methods of this dict. `held` keeps every value alive until
        # the lock is free.
        for one in held:
            one.deadline = GONE
        self._entries.clear()
        self._tags.clear()
        count = len(held)
        self.counter.invalidations += count
        removed.extend((one, RemovalCause.INVALIDATED) for one in held)

    def invalidate_tags(self, tags: frozenset[str]) -> int:
        """Remove entries with any of the tags, and break fences that name one; return how many were live."""
        return self._exclusively(self._invalidate_tags, tags) or 0

    def _invalidate_tags(self, removed: Removed, tags: frozenset[str]) -> int:
        self._fences.break_tags(tags)
        found = (self._entries.get(key) for key in self._tags.having(tags))
        return self._invalidate(removed, [held for held in found if held is not None])

    def invalidate_matching(self, pattern: re.Pattern[str]) -> int:
        """Remove entries whose key matches, and break the fences of such keys; return how many were live."""
        # Fences first: a load that is refused from here on began before the invalidation, and a load that
        # begins now belongs after it, wherever the scan is. So the scan itself needs no lock.
        self._exclusively(self._break_matching, pattern)
        matching = [held for held in self.all_held() if pattern.match(held.key)]
        count = 0
        for start in range(0, len(matching), _SLICE):
            count += self._exclusively(self._invalidate, matching[start : start + _SLICE]) or 0
        return count

    def _break_matching(self, removed: Removed, pattern: re.Pattern[str]) -> None:  # noqa: ARG002
        self._fences.break_matching(pattern)

    def _invalidate(self, removed: Removed, condemned: list[MemoryEntry]) -> int:
        now = self.time.monotonic()
        count = 0
        for held in condemned:
            if self._entries.get(held.key) is not held:
                continue  # removed already; removing a value that was stored in place is safe, too
            if now >= held.deadline:
                self._remove(removed, held, RemovalCause.EXPIRED)
                continue
            count += 1
            self.counter.invalidations += 1
            self._remove(removed, held, RemovalCause.INVALIDATED)
        return count

    def remove_expired(self) -> int:
        """Remove entries that expired, or whose shared fence is broken; return how many."""
        everything = self.all_held()
        count = 0
        for start in range(0, len(everything), _SLICE):
            now = self.time.monotonic()
            expired = [
                held
                for held in everything[start : start + _SLICE]
                if held.deadline + held.stale <= now
                or (held.shared_fence is not None and not held.shared_fence.is_current())
            ]
            if expired:
                count += self._exclusively(self._remove_expired, expired, now) or 0
        return count

    def _remove_expired(self, removed: Removed, condemned: list[MemoryEntry], now: float) -> int:
        before = len(removed)
        for held in condemned:
            # Checked again under the lock: the entry may have been replaced or touched.
            if self._entries.get(held.key) is not held:
                continue
            if held.deadline + held.stale <= now:
                self._remove(removed, held, RemovalCause.EXPIRED)
            elif held.shared_fence is not None and not held.shared_fence.is_current():
                self.counter.invalidations += 1
                self._remove(removed, held, RemovalCause.INVALIDATED)
        return len(removed) - before

    def _remove(self, removed: Removed, held: MemoryEntry, cause: RemovalCause) -> None:
        held.deadline = GONE
        del self._entries[held.key]
        if held.tags:
            self._tags.unlink(held.key, held.tags)
        if cause is RemovalCause.EXPIRED:
            self.counter.expirations += 1
        removed.append((held, cause))
