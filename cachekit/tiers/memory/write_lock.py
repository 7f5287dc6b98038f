"""The one lock of the memory tier, and how its writes take it.

`with` on an RLock leaves no gap in which a signal handler's exception could strand it. It is
re-entrant because Python may run a finalizer, or a signal handler, in the middle of a write; if that
calls the cache, the call finds the state busy and is queued until the write is done. Entries that leave
are handed out of the locked part, so that listeners run, and values die, without the lock. What was
queued is carried out also if the write is refused or interrupted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias, TypeVar

from cachekit.errors import CacheClosedError
from cachekit.model.counters import TierCounters
from cachekit.model.types import RemovalCause
from cachekit.tiers.memory.entry import MemoryEntry

T = TypeVar("T")

#: The states of a store.
IDLE: Final = 0
BUSY: Final = 1
CLOSED: Final = 2

#: Entries that have left, and why.
Removed: TypeAlias = list[tuple[MemoryEntry, RemovalCause]]


class LockedStore:
    """What a store inherits: the lock, the state behind it, and the calls that wait for it.

    A base, not a part: one dot more in `Store.put` would be a fifth of its time.
    """

    __slots__ = ("__weakref__", "_deferred", "_listeners", "_lock", "_state", "counter")

    def __init__(self) -> None:
        self.counter = TierCounters()
        self._lock = threading.RLock()
        self._state = IDLE
        self._deferred: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self._listeners: tuple[RemovalListener, ...] = ()

    def _exclusively(self, change: Callable[..., T], *arguments: Any) -> T | None:
        """Call `change(gone, *arguments)` under the lock, alone; then do what must not be done there.

        Returns:
            What `change` returned; None if it was queued, because this thread is in the middle of
            another change.
        """
        gone: Removed = []
        try:
            with self._lock:
                if self._state:
                    self._defer(self._exclusively, change, *arguments)
                    return None
                try:
                    self._state = BUSY
                    result = change(gone, *arguments)
                finally:
                    self._state = IDLE
            if gone:
                if self._listeners:
                    tell(
                        self._listeners, self.counter, [(held.key, held.value, cause) for held, cause in gone]
                    )
                # Only now, and after its deadline: a reader that saw a live deadline has the value. A
                # cached function may refer to the entry for a while, and shall not keep its value alive.
                for held, _ in gone:
                    held.value = None
        finally:  # refused or interrupted, what was queued meanwhile was promised
            if self._deferred:
                self._run_deferred()
        return result

    def _defer(self, operation: Callable[..., Any], *arguments: Any) -> None:
        self.refuse_if_closed()
        self._deferred.append((operation, arguments))

    def _run_deferred(self) -> None:
        while self._state == IDLE:
            try:
                operation, arguments = self._deferred.pop(0)
            except IndexError:  # another thread took the last one
                return
            operation(*arguments)

    def refuse_if_closed(self) -> None:
        """Raise CacheClosedError after `close`."""
        if self._state == CLOSED:
            raise CacheClosedError("this MemoryCache was closed; make a new one")

    def before_fork(self) -> None:
        """Take the lock (see `forks`)."""
        self._lock.acquire()

    def after_fork(self, in_child: bool) -> None:  # noqa: ARG002
        """Give the lock back; entries, and the sweep, go on in the child."""
        self._lock.release()


#: What a removal listener is called with: key, value, cause.
RemovalListener = Callable[[str, Any, RemovalCause], object]


def tell(
    listeners: Iterable[RemovalListener],
    counter: TierCounters,
    removals: list[tuple[str, Any, RemovalCause]],
) -> None:
    """Call each with each removal; what one raises is logged and counted, and stops no other."""
    for listener in listeners:
        for removal in removals:
            try:
                listener(*removal)
            except Exception:
                import logging

                counter.errors += 1
                logging.getLogger("cachekit").exception("removal listener %r failed", listener)
