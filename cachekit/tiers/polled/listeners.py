"""The caches over a polled tier: what they are notified of, and when their copies end."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, final

from cachekit.errors import CacheClosedError, TierUnavailableError
from cachekit.runtime import fork
from cachekit.runtime.reentrant_lock import RLock
from cachekit.runtime.scheduler import ScheduledTask, Scheduler
from cachekit.tiers.base import BusListener
from cachekit.tiers.polled.journal import Journal

#: Listeners have a thread of their own, which waits for nothing, and begins another one for each of them:
#: to drop a million entries takes seconds.
_dropping: Final = Scheduler("cachekit-polled")


@final
class Listeners:
    """The listeners of one tier, which it holds weakly. Safe in any thread.

    Args:
        interval: seconds after which they drop their copies, again and again.
        journal: what other hosts noted, or None.
        poll: seconds between two looks at it.
    """

    def __init__(self, interval: float, journal: Journal | None, poll: float) -> None:
        self._interval = interval
        self._journal = journal
        self._poll = poll
        self._looks = False
        self._looking: ScheduledTask | None = None
        self._lock = RLock()
        self._in_forks = fork.ForkSafeLock(self._lock)
        # Replaced as a whole, because writes go through it without the lock.
        self._listening: tuple[weakref.ref[BusListener], ...] = ()

    def subscribe(self, listener: BusListener) -> Callable[[], None]:
        """Let the listener drop all copies, now and at each interval; return what ends that."""
        mine = weakref.ref(listener)
        with self._lock:
            self._replace(lambda one: one() is not None, mine)
            begins = self._journal is not None and not self._looks
            self._looks = self._looks or begins
        # Not under the lock: a fork takes that of the scheduler first, and then this one.
        if begins:
            self._looking = _dropping.every(self._poll, self.look, apart=True)
        listener.everything_changed()
        task = _dropping.every(self._interval, listener.everything_changed, apart=True)

        kept = [listener]

        def end() -> None:
            kept.clear()
            task.cancel()
            with self._lock:
                self._replace(lambda one: one is not mine)
                looking = None
                if not self._listening:
                    self._looks, looking, self._looking = False, self._looking, None
            if looking is not None:
                looking.cancel()

        return end

    def look(self) -> None:
        """Notify the listeners of what other hosts noted. If the server fails, their copies end as ever."""
        try:
            if self._journal is not None:
                self._journal.look(self._tell)
        except (TierUnavailableError, CacheClosedError):
            pass

    def note(self, kind: str, names: Sequence[str]) -> None:
        """Note a change that was carried out, for other hosts."""
        if self._journal is not None:
            self._journal.note(kind, names)

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
            self._tell(call)

    def _tell(self, call: Callable[[BusListener], None]) -> None:
        for one in self._listening:
            listener = one()
            if listener is not None:
                call(listener)
