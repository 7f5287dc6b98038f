"""The one lock of the memory tier, and how its writes take it.

`with` on an RLock leaves no gap in which an exception of a signal handler could keep it locked. The lock
is re-entrant because Python may run a finalizer or signal handler in the middle of a write. If that calls
the cache, the call finds the state busy and is queued until the write ends, however the write ends.
Removed entries leave the locked part, so that listeners run, and values are destroyed, without the lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias, TypeVar

from cachekit.errors import CacheClosedError
from cachekit.model.counters import TierCounters
from cachekit.model.events import Events
from cachekit.model.types import RemovalCause
from cachekit.runtime.reentrant_lock import RLock

T = TypeVar("T")

#: The states of a store.
IDLE: Final = 0
BUSY: Final = 1
CLOSED: Final = 2

#: Removed entries, each followed by its cause. A tuple for each would let the garbage collector run while the
#: lock is held, and with a million entries it takes a second.
Removed: TypeAlias = list[Any]


class LockedStore:
    """The base class of a store with the lock, the state, and the queue of calls that found it busy.

    It is a base class, not an attribute: one attribute access more in `Store.put` would take a fifth of
    its time.
    """

    __slots__ = ("__weakref__", "_deferred", "_listeners", "_lock", "_state", "counter", "events")

    def __init__(self, limit: float) -> None:
        self.counter = TierCounters()
        #: Why keys may be missing; for `explain`.
        self.events = Events(limit)
        self._lock = RLock()
        self._state = IDLE
        self._deferred: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self._listeners: tuple[RemovalListener, ...] = ()

    def _exclusively(self, change: Callable[..., T], *arguments: Any) -> T | None:
        """Call `change(removed, *arguments)` under the lock, then notify listeners and drop values.

        Returns:
            The result of `change`; None if the call was queued, because this thread is in the middle of
            another change.
        """
        removed: Removed = []
        try:
            with self._lock:
                if self._state:
                    self._defer(self._exclusively, change, *arguments)
                    return None
                try:
                    self._state = BUSY
                    result = change(removed, *arguments)
                finally:
                    self._state = IDLE
            if removed:
                self._remember(removed)
                if self._listeners:
                    told = [
                        (held.key, held.value, cause)
                        for held, cause in zip(removed[::2], removed[1::2], strict=True)
                    ]
                    notify(self._listeners, self.counter, told)
                # Only now, after the deadline was set: a reader that saw a live deadline has the value.
                for held in removed[::2]:
                    held.let_go()
        finally:  # run the queued calls also if this change was refused or interrupted
            if self._deferred:
                self._run_deferred()
        return result

    def _remember(self, removed: Removed) -> None:
        """Add the entries to the events; the class with the clock does it."""

    def _is_queued(self, operation: Callable[..., Any], *arguments: Any) -> bool:
        """Queue an operation of several changes if this thread is in the middle of one; return whether."""
        with self._lock:
            if self._state:
                self._defer(operation, *arguments)
            return bool(self._state)

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


#: What a removal listener is called with: key, value, cause.
RemovalListener = Callable[[str, Any, RemovalCause], object]


def notify(
    listeners: Iterable[RemovalListener],
    counter: TierCounters,
    removals: list[tuple[str, Any, RemovalCause]],
) -> None:
    """Call each listener with each removal. An exception is logged and counted, and stops no listener.

    A time limit that strikes in a listener is raised when all of them are notified.
    """
    struck: Exception | None = None
    for listener in listeners:
        for removal in removals:
            try:
                listener(*removal)
            except Exception as error:
                import logging

                from cachekit.runtime.interrupts import is_interrupt

                if is_interrupt(error):
                    struck = error
                    continue
                counter.errors += 1
                logging.getLogger("cachekit").exception("removal listener %r failed", listener)
    if struck is not None:
        try:
            raise struck
        finally:
            del struck  # the traceback refers to this frame
