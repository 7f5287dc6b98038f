"""Requests that come together: one calls the origin, and the others wait for what it stores."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import Final, final

from cachekit.runtime import fork
from cachekit.runtime.clock import Clock
from cachekit.runtime.reentrant_lock import RLock

#: Seconds that a request waits for others, at most. Then it goes on by itself. No request waits for a flight
#: that is older.
PATIENCE: Final = 30.0
#: Seconds that it waits for the content once the head is there: the content may never end.
PATIENCE_WITH_CONTENT: Final = 1.0

#: Flights that a request waits for, one after the other, at most.
MOST_FLIGHTS: Final = 4

#: Seconds for which requests of a URL do not wait for each other after a response that is for one of them.
_PASSES: Final = 10.0
_MOST_PASSING: Final = 10_000


class Landing(Enum):
    """How a flight ended."""

    STORED = "the response is stored, and is fresh"
    ALONE = "the response is not stored, or not fresh"
    PRIVATE = "the response is not stored, and those of other requests are not either"
    GONE = "the client went away, so that another request may lead"


@final
class Flight:
    """One call of the origin for which requests wait. Safe in any thread and on any event loop."""

    __slots__ = ("_begun_at", "_clock", "_lock", "_started_at", "_wake", "landing", "patience")

    def __init__(self, clock: Clock, patience: float) -> None:
        self._clock = clock
        #: Seconds after which another call in the background takes its place.
        self.patience = patience
        self._lock = RLock()
        self._wake: list[Callable[[], object]] = []
        self._started_at = clock.monotonic()
        self._begun_at: float | None = None
        #: How it ended; None while it is under way.
        self.landing: Landing | None = None

    def on_landing(self, wake: Callable[[], object]) -> None:
        """Call `wake` once when the flight has ended, in the thread that ends it."""
        with self._lock:
            if self.landing is None:
                self._wake.append(wake)
                return
        wake()

    def response_began(self) -> None:
        """Note that the head of the response is there."""
        self._begun_at = self._clock.monotonic()

    @property
    def is_slow(self) -> bool:
        """Whether the content takes longer than a request waits for it."""
        begun = self._begun_at
        return begun is not None and self._clock.monotonic() - begun > PATIENCE_WITH_CONTENT

    @property
    def is_overdue(self) -> bool:
        """Whether it takes longer than a request waits: its call may never end."""
        return self._age >= PATIENCE

    @property
    def is_given_up(self) -> bool:
        """Whether it takes so long that another call in the background takes its place."""
        return self._age >= self.patience

    @property
    def _age(self) -> float:
        return self._clock.monotonic() - self._started_at

    @property
    def keeps_waiting(self) -> bool:
        """Whether it is of use to wait for the end."""
        return self.landing is None and not self.is_slow and not self.is_overdue

    def wait(self, deadline: float) -> Landing:
        """Wait in this thread for the end, until `time.monotonic()` is `deadline`."""
        landed = threading.Event()
        self.on_landing(landed.set)
        while self.keeps_waiting and (left := deadline - time.monotonic()) > 0:
            landed.wait(min(left, PATIENCE_WITH_CONTENT))
        return self.outcome

    @property
    def outcome(self) -> Landing:
        """How it ended for a request that no longer waits. If it is overdue, another one takes its place."""
        if self.landing is not None:
            return self.landing
        return Landing.GONE if self.is_overdue and not self.is_slow else Landing.ALONE

    def land(self, landing: Landing) -> None:
        """End the flight; the first end counts."""
        with self._lock:
            if self.landing is not None:
                return
            self.landing = landing
            wake, self._wake = self._wake, []
        for one in wake:
            one()


@final
class Flights:
    """The flights of one middleware, by the key of what they fetch. Safe in any thread."""

    __slots__ = ("__weakref__", "_clock", "_flights", "_lock", "_passing")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = RLock()
        self._flights: dict[str, Flight] = {}
        self._passing: dict[str, float] = {}
        fork.register(self)

    def before_fork(self) -> None:  # noqa: D102
        self._lock.acquire()

    def after_fork(self, in_child: bool) -> None:  # noqa: D102
        if in_child:  # where the requests are not that lead the flights
            self._flights.clear()
        self._lock.release()

    def join(self, key: str, *, in_background: bool = False) -> tuple[Flight | None, bool]:
        """Return the flight of a key, and whether the caller leads it.

        A flight that takes the place of an overdue one has twice its patience. In this way few calls hang in
        the background. Each other call has a client that waits for it.

        Returns:
            No flight if the last response of the key was for one request, so that none waits for another.
        """
        with self._lock:
            until = self._passing.get(key)
            if until is not None:
                if self._clock.monotonic() < until:
                    return None, False
                self._passing.pop(key, None)
            before = self._flights.get(key)
            if before is not None:
                if not (before.is_given_up if in_background else before.is_overdue):
                    return before, False
                self._flights.pop(key, None)
            flight = Flight(self._clock, PATIENCE if before is None else 2 * before.patience)
            led = self._flights.setdefault(key, flight)
        if before is not None:  # its requests wait for the one that takes its place
            before.land(Landing.GONE)
        return led, led is flight

    def land(self, key: str, flight: Flight, landing: Landing) -> None:
        """End a flight, so that the next request begins another one."""
        with self._lock:
            if self._flights.get(key) is flight:
                self._flights.pop(key, None)
                if landing is Landing.PRIVATE:
                    self._passing.pop(key, None)
                    while len(self._passing) >= _MOST_PASSING:
                        self._passing.pop(next(iter(self._passing)), None)
                    self._passing[key] = self._clock.monotonic() + _PASSES
        flight.land(landing)
