"""A circuit breaker: what one outage of a tier costs, which is one bounded wait and then nothing.

The first failure opens it, and from then on every call is refused at once, without a look at the tier.
Whether the tier is back is found out in the background, never by a caller, after pauses that double with
jitter ("Release It!", Nygard 2007, chapter 5; "Exponential Backoff And Jitter", Brooker 2015), from one
outage to the next, too, if that comes as soon. It only keeps the state; who calls the tier, and what is
made good before it is trusted again, is `accessor`'s.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Literal, TypeAlias, final

from cachekit.runtime import fork
from cachekit.runtime.backoff import random_fraction

#: `closed`: calls go through. `open`: they are refused. `probing`: refused, and the tier is being tried.
#: `closing`: refused for the last time, while what the tier missed is made good.
BreakerState: TypeAlias = Literal["closed", "open", "probing", "closing"]

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0


@final
class CircuitBreaker:
    """The state of one tier. Every method is safe in any thread, and before and after a fork.

    Args:
        monotonic: a clock in seconds that never jumps.
        jitter: a number from 0 up to 1, each time another; it takes up to half of a pause away, so that
            the processes of a host do not try the tier all at once.
    """

    __slots__ = (
        "__weakref__", "_closed_at", "_due", "_jitter", "_monotonic", "_pause", "_since", "_state", "lock",
        "outages", "refuses",
    )  # fmt: skip

    def __init__(
        self, monotonic: Callable[[], float], *, jitter: Callable[[], float] = random_fraction
    ) -> None:
        self._monotonic = monotonic
        self._jitter = jitter
        #: Held for a few instructions at a time, never across a call to anything else: what is decided
        #: with the state in view (see `accessor`) is decided under it. Reentrant, for finalizers.
        self.lock = threading.RLock()
        self._state: BreakerState = "closed"
        self._since = 0.0
        self._closed_at = 0.0
        self._pause = FIRST_PAUSE
        self._due = 0.0
        #: How often it has opened.
        self.outages = 0
        #: Whether calls are refused: the state as one attribute, for a caller that has no time.
        self.refuses = False
        fork.register(self)

    @property
    def state(self) -> BreakerState:
        """In a word."""
        return self._state

    @property
    def open_for(self) -> float:
        """Seconds since it opened; 0 while it is closed."""
        with self.lock:
            return self._monotonic() - self._since if self.refuses else 0.0

    @property
    def next_probe_in(self) -> float:
        """Seconds until the tier may be tried again; 0 if it may be now, or need not be."""
        with self.lock:
            return max(0.0, self._due - self._monotonic()) if self.refuses else 0.0

    def trip(self, begun: float | None = None) -> bool:
        """The tier has failed; True if this began an outage, False if there was one already.

        Args:
            begun: when the call that failed began, by the clock; None is now.
        """
        with self.lock:
            if self._state == "closed":
                self.outages += 1
                self._since = self._monotonic()
                # One that works for no longer than it was waited for does not work: a probe may well succeed
                # where callers are refused, as on a server that only reads.
                worked = (self._since if begun is None else begun) - self._closed_at
                again = self.outages > 1 and worked <= self._pause
                self._pause = min(2 * self._pause, LONGEST_PAUSE) if again else FIRST_PAUSE
                self._open()
                self.refuses = True
                return True
            if self._state == "closing":  # not to be trusted after all: `close_if` will find it open
                self._open()
            return False

    def begin_probe(self) -> bool:
        """Whether the tier is to be tried now, by the caller alone, who then says how it went."""
        with self.lock:
            if self._state != "open" or self._monotonic() < self._due:
                return False
            self._state = "probing"
            return True

    def begin_closing(self) -> bool:
        """The probe succeeded, and what was missed is being made good; False if there is no probe."""
        with self.lock:
            if self._state != "probing":
                return False
            self._state = "closing"
            return True

    def probe_failed(self) -> None:
        """Wait for twice as long."""
        with self.lock:
            if self._state != "closed":
                self._pause = min(2 * self._pause, LONGEST_PAUSE)
                self._open()

    def close_if(self, condition: Callable[[], bool]) -> float | None:
        """End the outage if nothing came in between and the condition, asked under the lock, holds.

        Returns:
            How many seconds the outage took, or None if it goes on.
        """
        with self.lock:
            if self._state != "closing" or not condition():
                return None
            self._state = "closed"
            self.refuses = False
            self._closed_at = self._monotonic()
            return self._closed_at - self._since

    def _open(self) -> None:
        self._state = "open"
        self._due = self._monotonic() + self._pause * (1 - self._jitter() / 2)

    def before_fork(self) -> None:
        """Take the lock (see `forks`)."""
        self.lock.acquire()

    def after_fork(self, in_child: bool) -> None:
        """Give the lock back; in the child nobody is probing any more, and it may begin anew."""
        if in_child and self._state in ("probing", "closing"):
            self._state = "open"
        self.lock.release()
