"""The caches over a polled tier: what is written through the tier, and how often copies are dropped."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, final

from cachekit.runtime.scheduler import Scheduler
from cachekit.tiers.base import BusListener

#: Listeners have a thread of their own, which waits for nothing, and begins another one for each of them:
#: to drop a million entries takes seconds.
_dropping: Final = Scheduler("cachekit-polled")


@final
class Listeners:
    """The listeners of one tier, which it holds weakly. Safe in any thread.

    Args:
        interval: seconds after which they drop their copies, again and again.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._lock = threading.RLock()
        # Replaced as a whole, because writes go through it without the lock.
        self._listening: tuple[weakref.ref[BusListener], ...] = ()

    def subscribe(self, listener: BusListener) -> Callable[[], None]:
        """Let the listener drop all copies, now and at each interval; return what ends that."""
        mine = weakref.ref(listener)
        self._replace(lambda one: one() is not None, mine)
        listener.everything_changed()
        task = _dropping.every(self._interval, listener.everything_changed, apart=True)

        kept = [listener]

        def end() -> None:
            kept.clear()
            task.cancel()
            self._replace(lambda one: one is not mine)

        return end

    def _replace(
        self, keeps: Callable[[weakref.ref[BusListener]], bool], *more: weakref.ref[BusListener]
    ) -> None:
        with self._lock:
            while True:
                before = self._listening
                after = (*filter(keeps, before), *more)
                # Nothing runs between the next two lines (see `model.counters`). A signal handler may
                # subscribe another one before them.
                if self._listening is before:
                    self._listening = after
                    return

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
