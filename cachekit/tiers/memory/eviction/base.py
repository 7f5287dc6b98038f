"""The interfaces of an eviction policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable


@runtime_checkable
class EvictionPolicy(Protocol):
    """Chooses the entry that a full memory tier evicts; for `MemoryCache(strategy=...)`.

    A policy knows keys only, and exactly those that the cache holds. The cache calls every method under its
    own lock, in the order of events, so a policy needs no lock and need not consider threads or forks. A
    policy must not call the cache. Hits may be reported later, in batches, but always before the next event
    of another kind.

    If a method raises, or is interrupted by a signal handler that raises, nothing is lost. Before the next
    call the cache calls `begin` and inserts the entries that it holds, oldest first.
    """

    def begin(self, capacity: int) -> None:
        """Forget all keys. From now on the cache holds at most `capacity` entries.

        A cache that is bounded in bytes may be full with fewer entries: those that it holds when it calls
        `evict`.
        """
        ...

    def insert(self, key: str, deadline: float) -> None:
        """Add a key that was not held; the cache has room for it.

        The deadline is when the entry expires, in seconds on the cache's monotonic clock; infinity if never.
        """
        ...

    def hit(self, key: str) -> object:
        """Record that the entry of a held key was looked up, or that its value was replaced."""
        ...

    def prolong(self, key: str, deadline: float) -> None:
        """Record that the entry of a held key has a new deadline."""
        ...

    def evict(self, incoming: str) -> str:
        """Choose the entry to evict, to make room for `incoming`, forget it, and return its key.

        Called only while there are entries, and repeatedly until there is enough room. If `incoming` is
        held, it may be chosen too.
        """
        ...

    def remove(self, key: str) -> None:
        """Forget a held key whose entry was deleted, invalidated or expired."""
        ...


@runtime_checkable
class LockFreeHits(EvictionPolicy, Protocol):
    """A policy whose `hit` any thread may also call without the lock, while the GIL is held.

    It costs less than a batch, so a policy whose hit changes one attribute should offer it. It must then
    accept a key that is no longer held, or that is being added or removed.
    """

    def hit_unlocked(self, key: str) -> object:
        """Record a hit at any time. Raising KeyError is allowed."""
        ...


@runtime_checkable
class WeighsEntries(EvictionPolicy, Protocol):
    """A policy that wants to know the weight of an entry, and what its load has cost."""

    def weigh(self, key: str, weight: int, seconds: float | None) -> None:
        """Learn the weight of an entry and how long its load took.

        The cache calls it just before `insert`, and before `prolong` and `hit` of a value that replaces
        another one. The weight is 0 or 1 in a cache without `max_bytes`. The seconds are None if the cache
        did not load the value.
        """
        ...


class HasAccesses(Protocol):
    """An entry that counts its hits."""

    @property
    def accesses(self) -> int:
        """Return how often the entry was hit; 0 for a new value."""
        ...


@runtime_checkable
class ReadsAccesses(EvictionPolicy, Protocol):
    """A policy that reads from an entry how often it was hit, so that a hit need not report anything."""

    def read_accesses(self, entries: Mapping[str, HasAccesses]) -> None:
        """Read hits from these entries from now on, by key.

        The cache calls it before `begin`. It then calls `hit` for replaced values only.
        """
        ...

    def count_hits(self, key: str) -> None:
        """Count the hits of an entry that another entry under the key is going to replace."""
        ...
