"""CircuitBreaker: an outage of a tier costs one bounded wait, and nothing afterwards.

The first failure opens it. From then on every call is refused at once, without a call of the tier. Background
probes find out whether the tier has recovered, after pauses that double with jitter ("Release It!", Nygard
2007, chapter 5; "Exponential Backoff And Jitter", Brooker 2015). The pauses go on doubling if the next outage
comes at once. This class only keeps the state; `accessor` calls and probes the tier.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeAlias, final

from cachekit.runtime import fork
from cachekit.runtime.backoff import random_fraction
from cachekit.runtime.reentrant_lock import RLock

#: `closed`: calls go through. `open`: they are refused. `probing`: refused, and the tier is being tried.
#: `closing`: refused for the last time, while the tier carries out what it missed.
BreakerState: TypeAlias = Literal["closed", "open", "probing", "closing"]

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0


@final
class CircuitBreaker:
    """The state of one tier. Every method is safe in any thread, and before and after a fork.

    Args:
        monotonic: a clock in seconds that never jumps.
        jitter: returns random numbers from 0 up to 1. They shorten pauses by up to a half, so that the
            processes of a host do not probe the tier all at once.
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
        #: Held for a few instructions, never across a call to anything else. Decisions that depend on the
        #: state are made under it (see `accessor`). Reentrant, for finalizers.
        self.lock = RLock()
        self._state: BreakerState = "closed"
        self._since = 0.0
        self._closed_at = 0.0
        self._pause = FIRST_PAUSE
        self._due = 0.0
        #: The number of outages.
        self.outages = 0
        #: Whether calls are refused: one attribute, because every call reads it.
        self.refuses = False
        fork.register(self)

    @property
    def state(self) -> BreakerState:
        """The state, in a word."""
        return self._state

    @property
    def open_for(self) -> float:
        """Seconds since it opened; 0 while it is closed."""
        with self.lock:
            return self._monotonic() - self._since if self.refuses else 0.0

    def trip(self, begun: float | None = None) -> bool:
        """Note that the tier failed; return whether this begins an outage.

        Args:
            begun: when the call that failed began, by the clock; None for now.
        """
        with self.lock:
            if self._state == "closed":
                self.outages += 1
                self._since = self._monotonic()
                # A tier that worked for no longer than the pause does not work. A probe may succeed where
                # other calls fail, for example on a read-only server.
                worked = (self._since if begun is None else begun) - self._closed_at
                again = self.outages > 1 and worked <= self._pause
                self._pause = min(2 * self._pause, LONGEST_PAUSE) if again else FIRST_PAUSE
                self._open()
                self.refuses = True
                return True
            if self._state == "closing":  # `close_if` then finds it open
                self._open()
            return False

    @property
    def is_due(self) -> bool:
        """Return whether a probe may begin now; `begin_probe` decides."""
        return self._state == "open" and self._monotonic() >= self._due

    def begin_probe(self) -> bool:
        """Return whether to probe the tier now. Only this caller does, and reports the outcome."""
        with self.lock:
            if not self.is_due:
                return False
            self._state = "probing"
            return True

    def begin_closing(self) -> bool:
        """Note that the probe succeeded; return False if there is no probe."""
        with self.lock:
            if self._state != "probing":
                return False
            self._state = "closing"
            return True

    def probe_failed(self) -> None:
        """Note that the probe failed: the next pause is twice as long."""
        with self.lock:
            if self._state != "closed":
                self._pause = min(2 * self._pause, LONGEST_PAUSE)
                self._open()

    def close_if(self, condition: Callable[[], bool]) -> float | None:
        """End the outage if nothing failed in between and the condition, checked under the lock, holds.

        Returns:
            The seconds that the outage took, or None if it goes on.
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
        """Take the lock, so that no thread holds it in the child."""
        self.lock.acquire()

    def after_fork(self, in_child: bool) -> None:
        """Release the lock; the child has no thread that probes, so a probe may begin."""
        if in_child and self._state in ("probing", "closing"):
            self._state = "open"
        self.lock.release()
