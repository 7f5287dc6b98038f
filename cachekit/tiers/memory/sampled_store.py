"""The part of a store that knows which of its keys are in the sample, and notes what happens to them.

`sampling` explains the sample, and `key_sample` decides on it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Final

from cachekit.tiers.fences import EntryFence
from cachekit.tiers.memory.entry import MemoryEntry
from cachekit.tiers.memory.sampling import MISSED, SPREAD, Sample, SampledFence
from cachekit.tiers.memory.write_lock import IDLE, LockedStore, Removed

_MARKED: Final = 500  # entries that get or lose a mark in one hold of the lock


class SampledStore(LockedStore):
    """The base class of a store with its entries, and the sample of their keys.

    It is a base class for the same reason as `LockedStore`: an attribute access less in `put` and in hits.

    Args:
        limit: The bytes of the entries; infinity if they are not bounded.
    """

    __slots__ = ("_entries", "_missed", "note_missed", "sample", "sampled")

    def __init__(self, limit: float) -> None:
        super().__init__(limit)
        self._entries: OrderedDict[str, MemoryEntry] = OrderedDict()
        #: The sample of keys that is simulated; None if there is none.
        self.sample: Sample | None = None
        #: Keys whose hash leaves a smaller remainder are in the sample; see `sampling`.
        self.sampled = 0
        self._missed: deque[str] = deque(maxlen=MISSED)
        #: Remember a key that was looked up and not found, for the simulation.
        self.note_missed = self._missed.append

    def is_sampled(self, key: str) -> bool:
        """Return whether the key is in the sample now."""
        limit = self.sampled
        return limit > 0 and hash(key) % SPREAD < limit

    def _note(self, *note: object) -> None:
        """Note for the simulation what happens to sampled keys."""
        sample = self.sample
        if sample is not None:
            sample.notes.append(note)

    def _sampled_fence(self, key: str, fence: EntryFence | None) -> EntryFence | None:
        sample = self.sample
        if sample is None:
            return fence
        sample.unmute(key)
        return SampledFence(sample, key, fence)

    def _wake(self) -> None:
        # Not in the middle of a write of this thread: then it has the lock.
        if self.sample is not None and self._state == IDLE:
            self.sample.wake()

    def mark(self, entries: Sequence[MemoryEntry]) -> None:
        """Let the hits of sampled entries be noted, and no longer those of others."""
        for start in range(0, len(entries), _MARKED):
            self._exclusively(self._mark, entries[start : start + _MARKED])

    def _mark(self, removed: Removed, entries: Sequence[MemoryEntry]) -> None:  # noqa: ARG002
        for held in entries:
            key, fence = held.key, held.shared_fence
            if self._entries.get(key) is not held:
                if self.sample is not None:
                    self.sample.unmute(key)
            elif not isinstance(fence, SampledFence):
                if self.is_sampled(key):
                    held.shared_fence = self._sampled_fence(key, fence)
            elif not self.is_sampled(key):
                held.shared_fence = fence.fence
