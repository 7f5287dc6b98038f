"""The path of a load: one flight per key, look again, take a turn, call the loader, keep what it returns.

It promises one load per key and process, and where asked per host or fleet (P7, by `turns`); and that a
value whose key or tags were invalidated while it was loaded goes to those who waited for it but is not
kept (P4, by `levels`). An exception reaches everyone who waits and is never kept; a leader that is
interrupted or cancelled hands over to one of them.

Who has a stale value to fall back on does not wait for another one's load, and is given it when an own
load fails or outruns its time. It is memory's, and is looked for only at that moment: one that was
invalidated meanwhile is not there any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, final

from cachekit.coherence.load_fence import LoadFence
from cachekit.coherence.tier_stack import TierStack
from cachekit.errors import CacheClosedError, LoadTimeoutError
from cachekit.loading.flights import (
    Flight,
    FlightCancelled,
    FlightTable,
    FlightTimeout,
    holding_permit,
    holds_permit,
    loading,
)
from cachekit.loading.permits import LoadPermit, PermitPool
from cachekit.loading.refresh_ahead import RefreshSchedule
from cachekit.loading.request import LoadRequest
from cachekit.model.counters import LoadCounters
from cachekit.model.types import MISSING, Missing
from cachekit.model.validation import PLAIN_TYPES, refuse_unstorable
from cachekit.runtime.background import BackgroundCall, RateLimitedLog
from cachekit.runtime.backoff import wait_for
from cachekit.runtime.tasks import Tasks

if TYPE_CHECKING:
    import asyncio

P = ParamSpec("P")
V = TypeVar("V")


@final
class Loads:
    """The loads of one cache into its levels. Safe in any thread and on any event loop."""

    __slots__ = ("complaints", "due", "figures", "flights", "levels", "tasks", "turns")

    def __init__(self, levels: TierStack) -> None:
        self.levels = levels
        self.flights: FlightTable[LoadFence] = FlightTable()
        self.figures = LoadCounters()
        self.turns = PermitPool(levels, self.figures)
        self.tasks = Tasks()
        self.due = RefreshSchedule(levels)
        self.complaints = RateLimitedLog(levels.monotonic)

    # -- in threads ---------------------------------------------------------------------------------

    def load(
        self,
        key: str,
        loader: Callable[[], V],
        request: LoadRequest,
    ) -> V:
        """The value of a key that a lookup did not find; waits for a load that is under way.

        Raises:
            SerializationError: the loader returned something that can be used only once.
            LoadTimeoutError: it took too long.
            Exception: whatever the loader raised, here or in the thread that was waited for.
        """
        return self.load_on(key, loader, request)  # type: ignore[return-value]  # it waits

    def load_on(self, key: str, loader: Callable[[], V], request: LoadRequest) -> V | Missing:
        """`load`; MISSING if another process has its turn and the terms say not to wait."""
        begun = time.monotonic()
        while True:
            fence = self.levels.fence(key, request.tags)
            flight, leading = self.flights.join(key, fence, None)
            value: V | Missing
            try:
                if leading:
                    value = self._lead_or_leave(flight, loader, request, begun)
                else:
                    value = self.instead(flight, request)
                    if value is MISSING:
                        value = self.wait(flight, request, begun)
            except FlightCancelled:
                if not request.waits:
                    return MISSING
                continue
            except Exception as error:
                value = self.fall_back(key, request, error)
                if value is MISSING:
                    raise
            finally:
                if leading and not flight.begun:
                    flight.cancel()  # interrupted before anybody flew it
                # A flight that crashed holds the error, whose traceback holds this frame: without this,
                # what the loader held would stay until the garbage collector comes.
                del flight
            return value

    def reload(
        self,
        key: str,
        loader: Callable[[], V],
        request: LoadRequest,
    ) -> V:
        """Load a key whether or not it is there; older loads of it are not kept.

        What was there serves until the new value has come, and no longer, even if that is not kept. Such a
        load is not shared with other processes, and knows no soft timeout.
        """
        fence = self.levels.successor(key, request.tags)
        flight = self.flights.lead(key, fence, None)
        try:
            request = request._replace(options=request.options.shared_by("thread"), replaces=True)
            value: V = self._lead_or_leave(flight, loader, request, time.monotonic())
            return value
        finally:
            if not flight.begun:
                flight.cancel()
            del flight  # as in load_on()

    def refresh(
        self,
        key: str,
        loader: Callable[[], Any],
        request: LoadRequest,
    ) -> None:
        """After a hit: begin a reload in the background if the value is in the last part of its life."""
        if not self.due.is_due(key, request.options.refresh_ahead):
            return
        request = request._replace(replaces=True, waits=False)
        flight = self.flight_alone(key, request)
        if flight is None:
            return
        started = False
        try:
            if not self.due.begins(key, request.options.refresh_ahead):
                return
            work = partial(self._lead, flight, loader, request)
            background = BackgroundCall(work, partial(self.complaints.add, key))
            background.is_unwatched = True
            started = background.start()
        finally:
            if not started and not flight.begun:
                flight.cancel()

    def reload_now(self, key: str, loader: Callable[[], Any], request: LoadRequest) -> None:
        """Reload a key now and here, unless somebody else is loading it.

        Raises:
            Exception: whatever the loader raised.
        """
        flight = self.flight_alone(key, request)
        if flight is not None:
            try:
                self._lead(flight, loader, request)
            finally:
                if not flight.begun:
                    flight.cancel()
                del flight  # as in load_on()

    def flight_alone(
        self, key: str, request: LoadRequest, loop: asyncio.AbstractEventLoop | None = None
    ) -> Flight[LoadFence] | None:
        """A flight to lead; None if there is one."""
        flight, leading = self.flights.join(key, self.levels.fence(key, request.tags), loop)
        if leading:
            return flight
        flight.stop_waiting()
        return None

    def _lead_or_leave(
        self, flight: Flight[LoadFence], loader: Callable[[], Any], request: LoadRequest, begun: float
    ) -> Any:
        if not request.in_background:
            try:
                return self._lead(flight, loader, request)
            finally:
                del flight  # as in load_on()
        key = flight.key
        background = BackgroundCall(
            partial(self._lead, flight, loader, request), partial(self.complaints.add, key)
        )
        if not background.start():
            return self._lead(flight, loader, request)
        try:
            return self.wait(flight, request, begun, leading=True)
        except FlightCancelled:
            if not flight.is_over:
                # It needs what this very thread has to go on with first: so let it be done here.
                return self._lead(self.flights.lead(key, flight.fence, None), loader, request)
            background.raise_exit()
            raise
        finally:
            background.is_unwatched = not flight.is_over
            del background, flight  # as in load_on()

    def _lead(self, flight: Flight[LoadFence], loader: Callable[[], Any], request: LoadRequest) -> Any:
        try:
            flight.begun = True
            with loading(flight):
                # Another flight may have landed between the lookup and this one's start.
                value = MISSING if request.replaces else self.levels.peek_memory(flight.key)
                if value is MISSING:
                    if request.options.takes_turns and not holds_permit():
                        value = self._load_with_permit(flight, loader, request)
                    else:
                        value = self._load(flight.fence, loader, request)
        except FlightCancelled:
            return MISSING  # given up: who waits tries again
        except Exception as error:
            flight.set_exception(error)
            raise
        else:
            flight.set_result(value)
            return value
        finally:
            flight.cancel()  # KeyboardInterrupt and the like; otherwise it does nothing
            del flight  # as in load_on()

    # From here on no frame knows the flight: they are in the traceback of an error that the flight keeps.

    def _load(self, fence: LoadFence, loader: Callable[[], Any], request: LoadRequest) -> Any:
        self.levels.before_load(fence)
        value = self.called(loader)
        return self.keep(fence, value, request)

    def _load_with_permit(
        self, flight: Flight[LoadFence], loader: Callable[[], Any], request: LoadRequest
    ) -> Any:
        turn = self.turn(flight.key, request)
        try:
            if request.waits:
                wait_for(turn.try_acquire, time.monotonic() + request.options.lease_timeout)
            elif turn.try_acquire() is None:
                raise FlightCancelled
            if turn.value is not MISSING:
                return turn.value
            fence = self.refenced(flight, request)
            with holding_permit(flight):
                del flight
                return self._load(fence, loader, request)
        finally:
            turn.release()

    def wait(
        self, flight: Flight[LoadFence], request: LoadRequest, begun: float, *, leading: bool = False
    ) -> Any:
        """The value of a flight, or in the time of the terms a stale one.

        Args:
            flight: which.
            request: of the caller.
            begun: when the caller began to ask, on the system's monotonic clock.
            leading: whether the flight is the caller's own; nobody joins it any more after its time.

        Raises:
            LoadTimeoutError: it took too long.
            Abandoned, Exception: as `Flight.wait` does.
        """
        try:
            for last, seconds in request.timeouts(leading, begun):
                try:
                    return flight.wait(seconds)
                except FlightTimeout:
                    value = self.out_of_time(flight, request, leading and last, last)
                    if value is not MISSING:
                        return value
            return flight.wait()
        finally:
            del flight  # as in load_on()

    # -- life ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """Begin no further load as a task; those that are under way may end."""
        self.turns.close()
        self.tasks.close()

    # -- steps that both ways share -----------------------------------------------------------------

    def called(self, loader: Callable[[], V]) -> V:
        """What the loader returns; the call is counted."""
        clock = self.levels.monotonic
        started = clock()
        try:
            return loader()
        except Exception:
            self.figures.failures += 1
            raise
        finally:
            self.count(clock() - started)

    def count(self, took: float) -> None:
        """A loader was called, for so many seconds."""
        self.figures.loads += 1
        self.figures.seconds += took

    def keep(self, fence: LoadFence, value: Any, request: LoadRequest) -> Any:
        """Keep what was loaded; the value, or the one that another process or host stored first."""
        if type(value) not in PLAIN_TYPES:
            refuse_unstorable(value, f"what was loaded for {fence.key!r}")
        ttl = request.life(value)
        try:
            if request.replaces:
                self.levels.writes.replace(fence, value, ttl, request.level, request.stale_ttl)
            elif ttl is not None and ttl > 0:
                return self.levels.keep(fence, value, ttl, request.level, request.stale_ttl)
        except CacheClosedError:
            pass  # closed meanwhile: there is nothing to keep it in, but it was paid for
        return value

    def keep_many(self, loaded: Iterable[tuple[LoadFence, Any]], request: LoadRequest) -> dict[str, Any]:
        """`keep` for what one loader returned for several keys."""
        values: dict[str, Any] = {}
        lasting = []
        for fence, value in loaded:
            refuse_unstorable(value, f"what was loaded for {fence.key!r}")
            values[fence.key] = value
            ttl = request.life(value)
            if ttl is not None and ttl > 0:
                lasting.append((fence, value, ttl))
        try:
            values |= self.levels.keep_many(lasting, request.level, request.stale_ttl)
        except CacheClosedError:
            pass  # as above
        return values

    def turn(self, key: str, request: LoadRequest) -> LoadPermit:
        """The turn of a load that others may share; it looks again when it has that."""

        def look() -> Any | Missing:
            if request.replaces:
                return MISSING
            return (
                self.levels.find(key, request.level) if request.is_asked else self.levels.promote_quietly(key)
            )

        return self.turns.turn(key, request.options, look, partial(self.stale, key, request))

    def refenced(self, flight: Flight[LoadFence], request: LoadRequest) -> LoadFence:
        """The flight's fence; what was invalidated while it waited for its turn does not count against it."""
        if not request.replaces and not flight.fence.is_current():
            flight.fence = self.levels.fence(flight.key, request.tags)
        return flight.fence

    def stale(self, key: str, request: LoadRequest) -> Any | Missing:
        """What memory has to fall back on, if the terms allow that; it counts as served."""
        value = self.peek_stale(key, request)
        if value is not MISSING:
            self.figures.stale_served += 1
        return value

    def peek_stale(self, key: str, request: LoadRequest) -> Any | Missing:
        """`stale`, for whoever is still to decide whether it is served."""
        return MISSING if request.replaces or not request.stale_ttl else self.levels.peek_stale(key)

    def instead(self, flight: Flight[LoadFence], request: LoadRequest) -> Any | Missing:
        """What to take rather than wait for another one's load; then the flight has been left."""
        value = self.stale(flight.key, request)
        if value is not MISSING:
            flight.stop_waiting()
        return value

    def fall_back(self, key: str, request: LoadRequest, error: Exception) -> Any | Missing:
        """What to take when a load has failed."""
        value = self.stale(key, request)
        if value is not MISSING:
            self.complaints.add(key, error)
        return value

    def out_of_time(
        self, flight: Flight[LoadFence], request: LoadRequest, leave_behind: bool, last: bool
    ) -> Any | Missing:
        """What to take when a limit has passed; MISSING if there is another one to wait for."""
        if leave_behind:
            # It may hang for ever: whoever comes from now on begins anew.
            self.flights.give_up(flight)
        value = self.stale(flight.key, request)
        if value is MISSING and last:
            raise LoadTimeoutError(
                f"the load of {flight.key!r} took longer than {request.options.hard_timeout} s; "
                f"it goes on in the background"
            )
        return value
