"""One load per key: a caller of a key that is being loaded waits for that load, its flight (P7).

Threads and tasks share one table, so a thread can wait for a task's load and a task for a thread's. A caller
does not join a flight whose fence is broken, because its value is out of date. Nor does it join one that can
end only after the caller's own load: it loads by itself instead. So a load may ask for its own key, and two
loads for each other's, without a deadlock.

The idea and the name are from Go's `singleflight` (golang/groupcache). Unlike there, a leader may be
cancelled or interrupted; then the callers that wait try again.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from math import inf
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, final
from weakref import ref

from cachekit.runtime import fork
from cachekit.runtime.interrupts import raise_interrupt
from cachekit.runtime.outcome import Outcome
from cachekit.runtime.reentrant_lock import RLock
from cachekit.tiers.base import Fence

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from types import FrameType

_GLANCE: Final = 0.1  # seconds between two checks whether the loop of a flight still runs

# Guards every table and flight of the process, because two loads may wait for each other across caches. It
# is re-entrant for finalizers, so each operation under it leaves the tables consistent.
_lock = RLock()

F = TypeVar("F", bound=Fence)

#: The flight that a thread blocks on. If the thread runs an event loop, no flight of that loop ends before.
_waiting: dict[int, Flight[Any]] = {}

#: The flights whose loads hold a permit (see `permits`).
_permit_holders: set[Flight[Any]] = set()
#: Loads that outran their hard timeout, and have not ended.
_outrun: set[Flight[Any]] = set()
_MOST_OUTRUN: Final = 300
_MOST_OUTRUN_OF_KEY: Final = 3

#: Modules that hold locks while they run.
_LOCKING: Final = (__name__, "cachekit.tiers.", "cachekit.coherence.")

#: The innermost block of `loading_scope` that the current thread or task is in.
_block: ContextVar[loading_scope | None] = ContextVar("cachekit_loading", default=None)


@final
class loading_scope:  # noqa: N801  # it is used as a function; one by contextlib takes three times as long
    """Mark the current thread or task as loading these flights, inside a `with` block.

    Threads and tasks that begin there inherit the mark with the context, until the block ends.
    """

    __slots__ = ("_flights", "_outer", "_token")

    def __init__(self, *flights: Flight[Any]) -> None:
        self._flights = flights

    def __enter__(self) -> None:
        outer = _block.get()
        # Skip blocks that this context has outlived, and those that an interrupted thread left behind.
        while outer is not None and all(flight.is_over for flight in outer._flights):
            outer._flights = ()  # the context of a thread keeps the last one
            outer = outer._outer
        self._outer: loading_scope | None = outer
        self._token = _block.set(self)

    def __exit__(self, *_: object) -> None:
        # A context that holds this block may live as long as the program. The loaded value must not.
        self._flights = ()
        token = self._token
        del self._token
        try:
            _block.reset(token)
        except ValueError as error:
            raise_interrupt(error)
            # The collector closes a task of a loop that was dropped, outside the task's context


def _waits_for(thread: int, flight: Flight[Any] | None) -> None:
    """Note what a thread waits for; None is nothing."""
    with _lock:
        if flight is None:
            _waiting.pop(thread, None)
        else:
            _waiting[thread] = flight


def _flying() -> list[Flight[Any]]:
    """Return the flights that the current thread or task is loading."""
    flights: list[Flight[Any]] = []
    block = _block.get()
    while block is not None:
        flights += block._flights
        block = block._outer
    return flights


def leave_loads() -> None:
    """Note that this thread or task belongs to no load. The one that began it does not wait for it."""
    _block.set(None)


def lead_here(flights: Iterable[Flight[Any]]) -> None:
    """Note that the current thread leads these loads from now on; it does nothing for tasks."""
    with _lock:
        for flight in flights:
            if flight._loop is None:
                flight._leader = threading.get_ident()


def leave_to_another(flights: Iterable[Flight[Any]]) -> None:
    """Note that another thread leads these loads, or will, so that the current one may wait for them."""
    with _lock:
        for flight in flights:
            if flight._leader == threading.get_ident():
                flight._leader = None


def _may_hold_lock() -> bool:
    """Return whether the caller was called by a step of a tier, or of this module.

    A signal handler, a finalizer or a codec may load inside such a step. Then this thread may hold a lock
    that the load needs to end.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals is globals():  # the caller's own way in here
        frame = frame.f_back
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(_LOCKING):
            return True
        frame = frame.f_back
    return False


def holds_permit() -> bool:
    """Return whether the current thread or task is in a load that holds a permit."""
    return any(flight in _permit_holders and not flight.is_over for flight in _flying())


def blocks_a_permit_holder() -> bool:
    """Return whether a load that holds a permit waits for a load of the current thread or task."""
    mine = _flying()
    with _lock:
        return any(flight in mine for one in list(_permit_holders) for flight in one._ahead())


#: In place of the value of a flight that has none.
_NOTHING: Final = object()


class FlightCancelled(Exception):  # noqa: N818  # a signal inside the package, which no user ever sees
    """The flight has neither a value nor an error, or must not be waited for: try again."""


class FlightTimeout(Exception):  # noqa: N818  # as above
    """The flight was not over in time."""


@final
class Flight(Generic[F]):
    """One load under way. Its leader calls `set_result`, `set_exception` or `cancel`, once."""

    __slots__ = (
        "_blocked_on",
        "_ended",
        "_error",
        "_event",
        "_leader",
        "_loop",
        "_loop_thread",
        "_table",
        "_value",
        "_watchers",
        "fence",
        "is_over",
        "is_unwatched",
        "key",
    )

    def __init__(self, table: FlightTable[F], key: str, fence: F, loop: AbstractEventLoop | None) -> None:
        self._table = table
        self.key = key
        self.fence = fence
        # Where the load runs, if it is a coroutine's. Weakly, as in wait_async(): a loop may be dropped with
        # loads in progress. Their flights end with it, and so must not keep it.
        self._loop = None if loop is None else ref(loop)
        self._loop_thread = None if loop is None else threading.get_ident()
        #: The thread that must go on for the flight to end. A signal handler or finalizer that this thread
        #: runs must not wait for the flight, wherever the thread is. None for a task.
        self._leader = threading.get_ident() if loop is None else None
        #: Whether the flight has a result or an exception, or was cancelled.
        self.is_over = False
        self._value: Any = _NOTHING
        self._error: Outcome[Any] | None = None
        #: Whether no caller of its leader's gets an error any more, so that it must be logged.
        self.is_unwatched = False
        self._ended = False
        self._event: threading.Event | None = None
        # In the order of arrival. There may be thousands, and each may be cancelled.
        self._watchers: dict[Callable[[], object], None] = {}
        self._blocked_on: list[Flight[Any]] = []

    def set_result(self, value: Any) -> None:
        """Give all callers the value."""
        self._finish(value)

    def set_exception(self, error: Exception) -> None:
        """Give all callers the error."""
        self._finish(error=Outcome(error=error))

    def cancel(self) -> None:
        """Make all callers try again. Does nothing after `set_result` or `set_exception`."""
        if not self._ended:
            self._finish()

    def hold_permit(self) -> None:
        """Mark the load as one that holds a permit, until the flight is over."""
        with _lock:
            _permit_holders.add(self)

    def _finish(self, value: Any = _NOTHING, error: Outcome[Any] | None = None) -> None:
        with _lock:
            # An interrupted leader calls this again, from `cancel`, and makes up for what is left to do.
            if self._table._flights.get(self.key) is self:
                del self._table._flights[self.key]
            if _permit_holders:
                _permit_holders.discard(self)
            if _outrun:
                _outrun.discard(self)
            if not self.is_over:
                self._value, self._error = value, error
                self.is_over = True
        if self._event is not None:
            self._event.set()
        if self._watchers:
            for watcher in list(self._watchers):
                watcher()
            with _lock:  # a waiter that gives up removes its own watcher under it
                self._watchers.clear()
        self._ended = True

    def wait(self, seconds: float | None = None) -> Outcome[Any]:
        """Wait in a thread until the flight is over, and return its outcome.

        Args:
            seconds: for how long at most; None is no limit.

        Raises:
            FlightCancelled: the flight was cancelled, or cannot end before this thread is free.
            FlightTimeout: the flight was not over in time.
        """
        thread = threading.get_ident()
        outer = _waiting.get(thread)  # which this thread alone changes
        try:
            with _lock:
                if not self.is_over:
                    _waiting[thread] = self
                    if self._event is None:
                        self._event = threading.Event()
                # Again, now that other threads see what this thread waits for: of two threads that wait for
                # each other's loads, the second one to get here turns back.
                blocked = self._needs(_flying(), None)
            if blocked or (not self.is_over and _may_hold_lock()):
                raise FlightCancelled
            if self._event is not None:
                for pause in self._pauses(seconds, None):
                    if self._event.wait(pause):
                        break
                if not self.is_over:
                    raise FlightTimeout
        finally:
            try:
                _waits_for(thread, outer)
            except BaseException:
                _waits_for(thread, outer)  # a signal handler struck before the thread was taken out
                raise
            self.stop_waiting()
        return self._outcome()

    @property
    def outcome(self) -> Outcome[Any] | None:
        """The value or the error of a flight that is over; None if it was cancelled."""
        if self._value is not _NOTHING:
            return Outcome(self._value)
        return self._error

    def _outcome(self) -> Outcome[Any]:
        outcome = self.outcome
        if outcome is None:
            raise FlightCancelled
        return outcome

    async def wait_async(self, seconds: float | None = None) -> Outcome[Any]:
        """Wait in a task, as `wait`. Cancelling the task does not cancel the flight.

        Raises:
            FlightCancelled, FlightTimeout: as `wait`.
        """
        import asyncio

        loop, thread = asyncio.get_running_loop(), threading.get_ident()
        landed: asyncio.Future[None] = loop.create_future()

        waiting = ref(landed)

        def wake() -> None:
            future = waiting()
            if future is not None and not future.done():
                future.set_result(None)

        def watcher() -> None:
            future = waiting()
            if future is None:
                return  # the loop was dropped, and its tasks with it
            loop = future.get_loop()
            try:
                if threading.get_ident() == thread and asyncio.current_task(loop) is not None:
                    wake()  # the loop runs a task right here, so nothing has to wake it
                else:
                    loop.call_soon_threadsafe(wake)
            except RuntimeError as error:
                raise_interrupt(error)  # else that loop is closed, and its tasks have ended

        try:
            with _lock:
                if not self.is_over:
                    self._watchers[watcher] = None
            if not self.is_over:
                for pause in self._pauses(seconds, loop):
                    if pause is None:
                        await landed
                    else:
                        await asyncio.wait([landed], timeout=pause)
                    if self.is_over:
                        break
            if not self.is_over:
                raise FlightTimeout
        finally:
            self.stop_waiting()
            with _lock:
                self._watchers.pop(watcher, None)
        return self._outcome()

    def _pauses(self, seconds: float | None, loop: AbstractEventLoop | None) -> Iterator[float | None]:
        """Yield how long to wait, one pause after the other. Another loop may stop without a notice.

        Raises:
            FlightCancelled: the loop of the flight has stopped, and has not cancelled its tasks.
        """
        if self._runs_beside(loop):
            yield seconds
            return
        end = inf if seconds is None else time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            yield min(left, _GLANCE)
            if not self.is_over and not self._loop_runs():
                raise FlightCancelled

    def stop_waiting(self) -> None:
        """Declare that the caller does not wait for the flight; `wait` and `wait_async` end with this."""
        with _lock:
            for flight in _flying():
                if self in flight._blocked_on:
                    flight._blocked_on.remove(self)

    def _needs(self, others: Sequence[Flight[Any]], loop: AbstractEventLoop | None) -> bool:
        """Return whether the flight can end only after one of the others, or not while the caller waits.

        Args:
            others: the flights that the caller is loading.
            loop: the loop that runs while the caller waits; None if the caller blocks its thread.
        """
        thread = threading.get_ident()
        return any(
            flight in others or flight._leader == thread or flight._stands_still(loop)
            for flight in self._ahead()
        )

    def _ahead(self) -> Iterator[Flight[Any]]:
        """Yield this flight, and all that must be over before it can be."""
        seen: set[Flight[Any]] = set()
        reached = [self]
        while reached:
            flight = reached.pop()
            if flight in seen or flight.is_over:
                continue
            seen.add(flight)
            yield flight
            reached.extend(flight._blocked_on)
            if flight._loop_thread in _waiting:
                reached.append(_waiting[flight._loop_thread])

    def _stands_still(self, loop: AbstractEventLoop | None) -> bool:
        """Return whether its task cannot run: its loop has ended, or is blocked by the caller's thread."""
        if self._runs_beside(loop):
            return False
        return not self._loop_runs() or self._loop_thread == threading.get_ident()

    def _runs_beside(self, loop: AbstractEventLoop | None) -> bool:
        """Return whether a load in a thread, or on this loop, goes on while the caller waits there."""
        return self._loop is None or (loop is not None and self._loop() is loop)

    def _loop_runs(self) -> bool:
        loop = None if self._loop is None else self._loop()
        return loop is not None and loop.is_running()


@final
class FlightTable(Generic[F]):
    """The loads under way of one cache. Safe in any thread; empty in a forked child."""

    __slots__ = ("__weakref__", "_flights")

    def __init__(self) -> None:
        self._flights: dict[str, Flight[F]] = {}
        fork.register(self)

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, key: str) -> bool:
        return key in self._flights

    def join(self, key: str, fence: F, loop: AbstractEventLoop | None) -> tuple[Flight[F], bool]:
        """Return the flight to wait for, and False; or a new one for the caller to lead, and True.

        A caller that gets False must call `wait`, `wait_async` or `stop_waiting`.

        Args:
            key: what to load.
            fence: for a new flight; the caller has just taken it.
            loop: the running loop of a coroutine; None for a caller that blocks its thread.
        """
        led: Flight[F] | None = None
        try:
            if key not in self._flights:
                # Without the lock, because most keys have no flight. Threads that load key after key would
                # wait for each other nearly as often as they load.
                led = Flight(self, key, fence, loop)
                if self._flights.setdefault(key, led) is led:
                    return led, True
            mine = _flying()
            with _lock:
                flight = self._flights.get(key)
                if (
                    flight is not None
                    and flight.fence.is_current()
                    and not flight._needs(mine, loop)
                    and not (loop is None and _may_hold_lock())
                ):
                    # Under the same lock as the check: two callers that both pass the check, and then wait
                    # for each other's flights, would wait for ever.
                    for blocked in mine:
                        blocked._blocked_on.append(flight)
                    return flight, False
                led = self.lead(key, fence, loop)
            return led, True
        except BaseException:  # interrupted before the caller has the flight
            if led is not None:
                led.cancel()
            raise

    def lead(self, key: str, fence: F, loop: AbstractEventLoop | None) -> Flight[F]:
        """Return a new flight for the caller to lead, in place of one that is under way."""
        flight = Flight(self, key, fence, loop)
        try:
            with _lock:
                self._flights[key] = flight
        except BaseException:  # as in join()
            flight.cancel()
            raise
        return flight

    def give_up(self, flights: Sequence[Flight[F]]) -> None:
        """Let no further caller join these flights; they may still end, for the callers that have."""
        with _lock:
            for flight in flights:
                if self._flights.get(flight.key) is flight:
                    del self._flights[flight.key]

    def give_up_on(self, flights: Sequence[Flight[F]]) -> None:
        """Do what `give_up` does after a hard timeout, and count the flights until they end."""
        self.give_up(flights)
        with _lock:
            _outrun.update(flight for flight in flights if not flight.is_over)

    def too_many_outrun(self, keys: Iterable[str]) -> bool:
        """Return whether no further load with a hard timeout may begin until one of the earlier ones ends."""
        if not _outrun:
            return False
        with _lock:
            of_keys = Counter(flight.key for flight in _outrun if flight._table is self)
            return len(_outrun) >= _MOST_OUTRUN or any(of_keys[key] >= _MOST_OUTRUN_OF_KEY for key in keys)

    def before_fork(self) -> None:
        """Take the lock."""
        _lock.acquire()

    def after_fork(self, in_child: bool) -> None:
        """Release the lock. A child has none of the leaders, so it drops their flights."""
        if in_child:
            self._flights.clear()
            _outrun.clear()
            _waiting.clear()  # its threads are gone, and new ones may get their numbers
        _lock.release()
