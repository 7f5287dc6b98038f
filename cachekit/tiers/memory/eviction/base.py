"""The interfaces of an eviction policy."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class EvictionPolicy(Protocol):
    """Which entry a full memory tier gives up: what `MemoryCache(strategy=...)` takes beside LRU.

    A policy knows keys and nothing else, and those that it knows are those that are held. Its cache calls
    every method under the cache's own lock, in the order in which things happened, so that it needs no
    lock and need not think of threads or forks; it must not call the cache. Hits are the exception to
    "at once": they are told in batches, but always before whatever came after them.

    A method that raises, or is interrupted by a signal handler that does, loses nothing: before it is
    used again its cache calls `begin` and inserts what is held, oldest first.
    """

    def begin(self, capacity: int) -> None:
        """Forget everything; from now on at most `capacity` entries are held.

        A cache that is bounded in bytes may be full earlier: what is held when `evict` is called is then
        what fits.
        """
        ...

    def insert(self, key: str, deadline: float) -> None:
        """An entry came in, under a key that was not held; there was room.

        The deadline is when its time is over, in seconds on the cache's monotonic clock; infinity if never.
        """
        ...

    def hit(self, key: str) -> object:
        """The entry under a key that is held was looked up, or its value replaced."""
        ...

    def prolong(self, key: str, deadline: float) -> None:
        """The entry under a key that is held got another deadline."""
        ...

    def evict(self, incoming: str) -> str:
        """Choose the entry that leaves, so that `incoming` may come in or grow, and forget it.

        Called only while something is held, as many times as it takes; `incoming` itself may be chosen
        if it is held.
        """
        ...

    def remove(self, key: str) -> None:
        """The entry under a key that is held left for another reason: deleted, invalidated, expired."""
        ...


@runtime_checkable
class LockFreeHits(EvictionPolicy, Protocol):
    """A policy whose `hit` may also be called without the lock, by any thread while the GIL is held.

    It costs less than a batch, so a policy whose hit changes one attribute of what it keeps of the key
    offers this. It must then bear a key that is held no more, or is just leaving or coming in.
    """

    def hit_unlocked(self, key: str) -> object:
        """`hit`, at any time; KeyError is as good as a return."""
        ...
