"""The caches over a polled tier: what is written through the tier, and how often copies are dropped."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, final

from cachekit.runtime.reentrant_lock import RLock
from cachekit.runtime.scheduler import Scheduler
from cachekit.tiers.base import BusListener

#: Listeners have a thread of their own, which waits for nothing.
_dropping: Final = Scheduler("cachekit-polled")


@final
class Listeners:
    """The listeners of one tier, which it holds weakly. Safe in any thread.

    Args:
        interval: seconds after which they drop their copies, again and again.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._lock = RLock()
        # Replaced as a whole, because writes go through it without the lock.
        self._listening: tuple[weakref.ref[BusListener], ...] = ()

    def subscribe(self, listener: BusListener) -> Callable[[], None]:
        """Let the listener drop all copies, now and at each interval; return what ends that."""
        mine = weakref.ref(listener)
        with self._lock:
            self._listening = (*(one for one in self._listening if one() is not None), mine)
        listener.everything_changed()
        task = _dropping.every(self._interval, listener.everything_changed)

        kept = [listener]

        def end() -> None:
            kept.clear()
            task.cancel()
            with self._lock:
                self._listening = tuple(one for one in self._listening if one is not mine)

        return end

    @contextmanager
    def told(self, call: Callable[[BusListener], None]) -> Iterator[None]:
        """Notify all of them at the end of a block, also if it fails: the write may have been carried out."""
        try:
            yield
        finally:
            for one in self._listening:
                listener = one()
                if listener is not None:
                    call(listener)
