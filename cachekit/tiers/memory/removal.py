"""How entries leave the memory tier other than by eviction: deleted, invalidated or expired.

The order of steps is that of `store`: first the deadline, so that no hit serves the entry, then the
entry, then its tags. Fences break before anything is removed, and also if there is nothing to remove: a
load in progress is as old as the entry that it would replace (P4).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from cachekit.model.events import REMOVALS, hashes
from cachekit.model.types import RemovalCause
from cachekit.runtime.clock import Clock, source_of
from cachekit.tiers.base import Fence
from cachekit.tiers.fences import FenceTable
from cachekit.tiers.memory.entry import GONE, MemoryEntry, TagIndex
from cachekit.tiers.memory.sampled_store import SampledStore
from cachekit.tiers.memory.sampling import CLEAR, DROPPED, PATTERN, TAGS
from cachekit.tiers.memory.write_lock import Removed

_SLICE: Final = 500  # entries that are removed in one hold of the lock

T = TypeVar("T")


def _slices(everything: list[T]) -> Iterator[list[T]]:
    for start in range(0, len(everything), _SLICE):
        yield everything[start : start + _SLICE]


class RemovalMixin(SampledStore):
    """The base class of a store with its tags and fences, and with the ways to remove entries.

    It is a base class for the same reason as `LockedStore`: an attribute access less in `put` and in hits.

    Args:
        clock: The source of time.
        has_gil: Whether this interpreter runs one thread at a time.
        limit: The bytes of the entries; infinity if they are not bounded.
    """

    __slots__ = ("_fenced", "_fences", "_has_gil", "_tags", "time")

    def __init__(self, clock: Clock, has_gil: bool, limit: float) -> None:
        super().__init__(limit)
        #: What its methods read the time from.
        self.time = source_of(clock)
        self._has_gil = has_gil
        self._tags = TagIndex()
        self._fences = FenceTable()
        self._fenced = self._fences.held  # empty, and so falsy, while no load is in progress

    def all_held(self) -> list[MemoryEntry]:
        """Return every entry at one moment, expired ones included, in no particular order."""
        if self._has_gil:  # then it is one atomic step, which takes long enough to do without the lock
            return list(dict.values(self._entries))
        with self._lock:
            return list(dict.values(self._entries))

    def held(self, key: str) -> MemoryEntry | None:
        """Return the entry under the key, a dead one too; count and move nothing."""
        return self._entries.get(key)

    def _remember(self, removed: Removed) -> None:
        """Add the last of the removed entries to the events."""
        now, add = self.time.monotonic(), self.events.add_removal
        last = removed[-2 * REMOVALS :]
        for held, cause in zip(last[::2], last[1::2], strict=True):
            if cause is not RemovalCause.REPLACED:
                shared, tags = held.shared_fence is not None, hashes(held.tags) if held.tags else ()
                add((now, cause, hash(held.key), held.created + held.ttl, tags, shared))

    def _in_slices(self, remove: Callable[..., int], slices: Iterable[list[MemoryEntry]]) -> int:
        """Call `remove(removed, some)` for each slice, each time under the lock; return the sum.

        Other threads read and write in between, so loads must be fenced before. What makes the slices runs
        without the lock. In that time a thread that waits for it gets it.
        """
        count = 0
        for some in slices:
            count += self._exclusively(remove, some) or 0
        return count

    def delete(self, key: str, fence: Fence | None = None) -> bool:
        """Remove a key, and break its fences also if it is missing; return whether it was live.

        With a fence, remove the key only if the fence is current.
        """
        return bool(self._exclusively(self._delete, key, fence))

    def _delete(self, removed: Removed, key: str, fence: Fence | None) -> bool:
        if fence is not None and not fence.is_current():
            return False
        self._fences.break_key(key)
        if self.is_sampled(key):
            self._note(DROPPED, key)
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
            if self.is_sampled(key):
                self._note(DROPPED, key)
        found = (self._entries.get(key) for key in keys)
        self._invalidate(removed, [held for held in found if held is not None])

    def clear(self) -> None:
        """Remove all entries, and break every fence.

        An entry that is stored during the call may stay or go.
        """
        if self._is_queued(self.clear):
            return
        if len(self._entries) <= _SLICE:
            self._exclusively(self._clear)
            return
        self._exclusively(self._break_all)
        condemned = list(self._tags.condemned)  # by invalidations that are in progress, or were interrupted
        self._in_slices(self._clear_some, _slices(self.all_held()))
        self._exclusively(self._release, condemned)

    def _clear(self, removed: Removed) -> None:
        self._fences.break_all()
        self._note(CLEAR)
        held = list(dict.values(self._entries))
        # In place: other modules keep bound methods of this dict. `held` keeps every value alive until
        # the lock is free.
        for one in held:
            one.deadline = GONE
        self._entries.clear()
        self._tags.clear()
        count = len(held)
        self.counter.invalidations += count
        for one in held:
            removed.append(one)
            removed.append(RemovalCause.INVALIDATED)

    def _clear_some(self, removed: Removed, condemned: list[MemoryEntry]) -> int:
        for held in condemned:
            if self._entries.get(held.key) is held:
                self.counter.invalidations += 1
                self._remove(removed, held, RemovalCause.INVALIDATED)
        return len(removed) // 2

    def _break_all(self, removed: Removed) -> None:  # noqa: ARG002
        self._fences.break_all()
        self._note(CLEAR)

    def _release(self, removed: Removed, condemned: list[tuple[str, set[str]]]) -> None:  # noqa: ARG002
        self._tags.release(condemned)

    def invalidate_tags(self, tags: frozenset[str]) -> int:
        """Remove entries with any of the tags, and break fences that name one; return how many were live.

        An entry that is stored during the call may stay or go.
        """
        if self._is_queued(self.invalidate_tags, tags):
            return 0
        # Fences first: a load that is refused from here on began before the invalidation. A load that begins
        # now belongs after it, wherever the removal is.
        count = self._exclusively(self._invalidate_few, tags) or 0
        # Those of another thread's invalidation too: this call must not return before they are gone.
        condemned = [one for one in self._tags.condemned if one[0] in tags]
        if condemned:
            for tag, keys in condemned:
                count += self._in_slices(self._invalidate, self._tagged(tag, keys))
            self._exclusively(self._release, condemned)
        return count

    def _invalidate_few(self, removed: Removed, tags: frozenset[str]) -> int:
        """Break fences, and remove the entries if they are few; otherwise condemn their keys."""
        self._fences.break_tags(tags)
        self._note(TAGS, tags)
        if sum(map(self._tags.count, tags)) > _SLICE:
            self._tags.condemn(tags)
            return 0
        found = map(self._entries.get, self._tags.having(tags))
        condemned = [held for held in found if held is not None and not tags.isdisjoint(held.tags)]
        count = self._invalidate(removed, condemned)
        if self._tags.condemned:
            self._tags.release([one for one in self._tags.condemned if one[0] in tags])
        return count

    def _tagged(self, tag: str, keys: set[str]) -> Iterator[list[MemoryEntry]]:
        for some in _slices(list(keys)):
            found = map(self._entries.get, some)
            yield [held for held in found if held is not None and tag in held.tags]

    def invalidate_matching(self, pattern: re.Pattern[str]) -> int:
        """Remove entries whose key matches, and break the fences of such keys; return how many were live.

        An entry that is stored during the call may stay or go.
        """
        # Fences first, as above. So the scan itself needs no lock.
        self._exclusively(self._break_matching, pattern)
        matches = pattern.match
        slices = ([held for held in some if matches(held.key)] for some in _slices(self.all_held()))
        return self._in_slices(self._invalidate, slices)

    def _break_matching(self, removed: Removed, pattern: re.Pattern[str]) -> None:  # noqa: ARG002
        self._fences.break_matching(pattern)
        self._note(PATTERN, pattern)

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
        count = 0
        for some in _slices(self.all_held()):
            now = self.time.monotonic()
            expired = [
                held
                for held in some
                if held.deadline + held.stale <= now
                or (held.shared_fence is not None and not held.shared_fence.is_current())
            ]
            if expired:
                count += self._exclusively(self._remove_expired, expired, now) or 0
        return count

    def _remove_expired(self, removed: Removed, condemned: list[MemoryEntry], now: float) -> int:
        for held in condemned:
            # Checked again under the lock: the entry may have been replaced or touched.
            if self._entries.get(held.key) is not held:
                continue
            if held.deadline + held.stale <= now:
                self._remove(removed, held, RemovalCause.EXPIRED)
            elif held.shared_fence is not None and not held.shared_fence.is_current():
                self.counter.invalidations += 1
                if self.is_sampled(held.key):
                    self._note(DROPPED, held.key)
                self._remove(removed, held, RemovalCause.INVALIDATED)
        return len(removed) // 2

    def _remove(self, removed: Removed, held: MemoryEntry, cause: RemovalCause) -> None:
        held.deadline = GONE
        del self._entries[held.key]
        if held.tags:
            self._tags.unlink(held.key, held.tags)
        if cause is RemovalCause.EXPIRED:
            self.counter.expirations += 1
        removed.append(held)
        removed.append(cause)
