"""One load per key: whoever asks for a key that is being loaded waits for that load (P7).

Threads and tasks share one table, so a thread can wait for a task's load and a task for a thread's. A
caller does not join a flight whose fence was broken (its value is old news), nor one that could not
land before the caller's own load does: a load may ask for its own key, and two loads for each other's,
without a deadlock; such a caller loads by itself. What loading means is the caller's business.

The name and the idea are from Go's `singleflight` (golang/groupcache); that a leader may be cancelled
or interrupted, in which case its waiters try again, is ours.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, final

from cachekit.runtime import fork
from cachekit.tiers.base import Fence

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from types import TracebackType

_GLANCE: Final = 1.0  # seconds between two looks at whether the loop of a flight still runs

# Guards every table and flight of the process: two loads may wait for each other across caches. It is
# re-entrant for finalizers; each step under it leaves the tables whole.
_lock = threading.RLock()

F = TypeVar("F", bound=Fence)

#: What a thread blocks on. If it runs an event loop, no flight of that loop lands before this one.
_waiting: dict[int, Flight[Any]] = {}

#: The flights that have their turn (see `turns`).
_permit_holders: set[Flight[Any]] = set()

#: The innermost block of `loading` that the current thread or task is in.
_block: ContextVar[loading | None] = ContextVar("cachekit_loading", default=None)


@final
class loading:  # noqa: N801  # it is read as a verb; one by contextlib takes three times as long
    """Mark the current thread or task as loading these flights, inside a `with` block.

    What it begins there inherits that, with a copy of its context, until the block ends and no longer.
    """

    __slots__ = ("_flights", "_outer", "_token")

    def __init__(self, *flights: Flight[Any]) -> None:
        self._flights = flights

    def __enter__(self) -> None:
        outer = _block.get()
        # Those that this context has outlived, or of which an interrupted thread could not take note.
        while outer is not None and all(flight._done for flight in outer._flights):
            outer = outer._outer
        self._outer: loading | None = outer
        self._token = _block.set(self)

    def __exit__(self, *_: object) -> None:
        # Contexts may live as long as the program, and have this block: what was loaded shall not.
        self._flights = ()
        token = self._token
        del self._token
        _block.reset(token)


def _flying() -> list[Flight[Any]]:
    """The flights that the current thread or task is in the middle of."""
    flights: list[Flight[Any]] = []
    block = _block.get()
    while block is not None:
        flights += block._flights
        block = block._outer
    return flights


@contextmanager
def holding_permit(flight: Flight[Any]) -> Iterator[None]:
    """Mark a flight that is being loaded as one that has its turn, inside a `with` block."""
    try:
        with _lock:
            _permit_holders.add(flight)
        yield
    finally:
        with _lock:
            _permit_holders.discard(flight)


def holds_permit() -> bool:
    """Whether the current thread or task is loading something that has its turn."""
    return any(flight in _permit_holders and not flight._done for flight in _flying())


def blocks_a_permit_holder() -> bool:
    """Whether a load that has its turn waits for what the current thread or task is loading."""
    mine = _flying()
    with _lock:
        return any(flight in mine for one in list(_permit_holders) for flight in one._ahead())


class FlightCancelled(Exception):  # noqa: N818  # a signal between rooms, which no user ever sees
    """The leader was interrupted or cancelled: there is neither a value nor an error."""


class FlightTimeout(Exception):  # noqa: N818  # as Abandoned
    """It was not over in time."""


@final
class Flight(Generic[F]):
    """One load under way. The leader calls `set_result`, `set_exception` or `cancel`, once."""

    __slots__ = (
        "_blocked_on",
        "_context",
        "_done",
        "_ended",
        "_error",
        "_event",
        "_loop",
        "_loop_thread",
        "_table",
        "_traceback",
        "_value",
        "_watchers",
        "begun",
        "fence",
        "key",
    )

    def __init__(self, table: FlightTable[F], key: str, fence: F, loop: AbstractEventLoop | None) -> None:
        self._table = table
        self.key = key
        self.fence = fence
        #: Whether a thread is flying it, and will end it; until then that is for whoever made it.
        self.begun = False
        # Where the load runs, if it is a coroutine's.
        self._loop = loop
        self._loop_thread = None if loop is None else threading.get_ident()
        self._done = False
        self._ended = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._context: BaseException | None = None
        self._traceback: TracebackType | None = None
        self._event: threading.Event | None = None
        # Their order is that in which they came; there may be thousands, and each may be cancelled.
        self._watchers: dict[Callable[[], object], None] = {}
        self._blocked_on: list[Flight[Any]] = []

    @property
    def is_over(self) -> bool:
        """Whether it has landed, crashed or been abandoned."""
        return self._done

    def set_result(self, value: Any) -> None:
        """Give everyone the value."""
        self._finish(value, None)

    def set_exception(self, error: Exception) -> None:
        """Give everyone the error."""
        self._finish(None, error)

    def cancel(self) -> None:
        """Send everyone to try again. Does nothing after `set_result` or `set_exception`."""
        if not self._ended:
            self._finish(None, FlightCancelled())

    def _finish(self, value: Any, error: BaseException | None) -> None:
        with _lock:
            # An interrupted leader comes here again, by `cancel`: each step is done if it was not.
            self._table._remove(self)
            if not self._done:
                self._value, self._error = value, error
                if error is not None:
                    self._traceback, self._context = error.__traceback__, error.__context__
                self._done = True
        if self._event is not None:
            self._event.set()
        if self._watchers:
            for watcher in list(self._watchers):
                watcher()
            with _lock:  # who gives up meanwhile looks for its own under it
                self._watchers.clear()
        self._ended = True

    def result(self) -> Any:
        """The value, of a flight that is over.

        Raises:
            FlightCancelled: there is none; try again.
            Exception: what the loader raised.
        """
        error = self._error
        if error is None:
            return self._value
        try:
            # As it was: each raise adds to the traceback, and there may be thousands who wait.
            raise error.with_traceback(self._traceback)
        finally:
            # To raise it has put what this caller is in the middle of handling in place of its own context.
            error.__context__ = self._context
            # The error's traceback holds this frame: without this, the loader's locals would stay
            # until the garbage collector comes.
            del error, self

    def wait(self, seconds: float | None = None) -> Any:
        """Wait in a thread until it is over, then as `result`.

        Args:
            seconds: for how long at the most; None is no limit.

        Raises:
            FlightCancelled: as `result`; or it can no longer land before this thread comes free.
            FlightTimeout: it was not over in time.
        """
        thread = threading.get_ident()
        with _lock:
            outer = _waiting.get(thread)
            if not self._done:
                _waiting[thread] = self
                if self._event is None:
                    self._event = threading.Event()
            # Once more, now that others see what this thread waits for: whoever of two comes second
            # to this point turns back.
            blocked = self._needs(_flying(), None)
        try:
            if blocked:
                raise FlightCancelled
            if self._event is not None:
                for pause in self._pauses(seconds, None):
                    if self._event.wait(pause):
                        break
                if not self._done:
                    raise FlightTimeout
        finally:
            with _lock:
                _waiting.pop(thread, None)
                if outer is not None:
                    _waiting[thread] = outer
            self.stop_waiting()
        try:
            return self.result()
        finally:
            del self  # as in result()

    async def wait_async(self, seconds: float | None = None) -> Any:
        """Wait in a task until it is over, then as `result`. Cancelling the task leaves the flight.

        Raises:
            FlightCancelled: as `wait`.
            FlightTimeout: it was not over after so many seconds.
        """
        import asyncio

        loop = asyncio.get_running_loop()
        landed: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not landed.done():
                landed.set_result(None)

        def watcher() -> None:
            try:
                loop.call_soon_threadsafe(wake)
            except RuntimeError:
                pass  # that loop was closed: nobody waits there any more

        try:
            with _lock:
                if not self._done:
                    self._watchers[watcher] = None
            if not self._done:
                for pause in self._pauses(seconds, loop):
                    if pause is None:
                        await landed
                    else:
                        await asyncio.wait([landed], timeout=pause)
                    if self._done:
                        break
            if not self._done:
                raise FlightTimeout
        finally:
            self.stop_waiting()
            with _lock:
                self._watchers.pop(watcher, None)
        try:
            return self.result()
        finally:
            del self  # as in result()

    def _pauses(self, seconds: float | None, loop: AbstractEventLoop | None) -> Iterator[float | None]:
        """For how long to wait, one after the other: in parts where its loop may end and say nothing.

        Raises:
            FlightCancelled: it has ended, and not cancelled its tasks.
        """
        if self._loop is None or self._loop is loop:
            yield seconds
            return
        end = inf if seconds is None else time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            yield min(left, _GLANCE)
            if not self._done and not self._loop.is_running():
                raise FlightCancelled

    def stop_waiting(self) -> None:
        """Wait for it no more, or not at all; done by `wait` and `wait_async` too."""
        with _lock:
            for flight in _flying():
                if self in flight._blocked_on:
                    flight._blocked_on.remove(self)

    def _needs(self, others: Sequence[Flight[Any]], loop: AbstractEventLoop | None) -> bool:
        """Whether it can land only after one of the others, or not while the caller waits.

        Args:
            others: what the caller is loading.
            loop: the loop that goes on while the caller waits; None if the caller blocks its thread.
        """
        return any(flight in others or flight._stands_still(loop) for flight in self._ahead())

    def _ahead(self) -> Iterator[Flight[Any]]:
        """Itself, and all that must be over before it can be."""
        seen: set[Flight[Any]] = set()
        reached = [self]
        while reached:
            flight = reached.pop()
            if flight in seen or flight._done:
                continue
            seen.add(flight)
            yield flight
            reached.extend(flight._blocked_on)
            if flight._loop_thread in _waiting:
                reached.append(_waiting[flight._loop_thread])

    def _stands_still(self, loop: AbstractEventLoop | None) -> bool:
        """Whether its task takes no further step: its loop has ended, or is of the caller's thread."""
        if self._loop is None or self._loop is loop:
            return False
        return not self._loop.is_running() or self._loop_thread == threading.get_ident()


@final
class FlightTable(Generic[F]):
    """The loads under way of one cache. Safe in any thread; empty in a forked child."""

    __slots__ = ("__weakref__", "_flights")

    def __init__(self) -> None:
        self._flights: dict[str, Flight[F]] = {}
        fork.register(self)

    def __len__(self) -> int:
        return len(self._flights)

    def join(self, key: str, fence: F, loop: AbstractEventLoop | None) -> tuple[Flight[F], bool]:
        """The flight to wait for, and False; or a new one for the caller to lead, and True.

        A caller that is told to wait must call `wait`, `wait_async` or `stop_waiting`.

        Args:
            key: what is to be loaded.
            fence: taken by the caller just now; a new flight flies behind it.
            loop: the running loop, of a coroutine; None for a caller that will block its thread.
        """
        led: Flight[F] | None = None
        try:
            if key not in self._flights:
                # Most loads meet nobody, and take no lock: threads that load one key each after the other
                # would wait for each other nearly as often as they load.
                led = Flight(self, key, fence, loop)
                if self._flights.setdefault(key, led) is led:
                    return led, True
            mine = _flying()
            with _lock:
                flight = self._flights.get(key)
                if flight is not None and flight.fence.is_current() and not flight._needs(mine, loop):
                    # In the same step as the question: two callers that each find the other's flight
                    # free, and then both wait, would wait for ever.
                    for blocked in mine:
                        blocked._blocked_on.append(flight)
                    return flight, False
                led = self.lead(key, fence, loop)
            return led, True
        except BaseException:  # interrupted on its way to the caller
            if led is not None:
                led.cancel()
            raise

    def lead(self, key: str, fence: F, loop: AbstractEventLoop | None) -> Flight[F]:
        """A new flight for the caller to lead, in place of one that is under way."""
        flight = Flight(self, key, fence, loop)
        try:
            with _lock:
                self._flights[key] = flight
        except BaseException:  # as in join()
            flight.cancel()
            raise
        return flight

    def waiters(self, key: str) -> tuple[int, int]:
        """Return how many threads and how many tasks wait for the load of a key."""
        with _lock:
            flight = self._flights.get(key)
            if flight is None:
                return 0, 0
            return sum(one is flight for one in _waiting.values()), len(flight._watchers)

    def give_up(self, flight: Flight[F]) -> None:
        """Have nobody join it any more; it may land all the same, for those who have."""
        with _lock:
            self._remove(flight)

    def _remove(self, flight: Flight[F]) -> None:
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    def before_fork(self) -> None:
        """Take the lock (see `forks`)."""
        _lock.acquire()

    def after_fork(self, in_child: bool) -> None:
        """Give the lock back; in the child the leaders are gone, so forget their flights."""
        if in_child:
            self._flights.clear()
            _waiting.clear()  # by threads that are gone; others may get their numbers
        _lock.release()
