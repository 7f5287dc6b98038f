"""The path of a load whose loader is a coroutine function: as `loads`, in tasks of the loop that asks.

A loader runs in a task of its own, so that who asked first may be cancelled without ending what others wait
for. What may touch a disk or a socket happens in threads of the cache's; waiting for a turn does not.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, final

from cachekit.coherence.load_fence import LoadFence
from cachekit.loading.flights import (
    Flight,
    FlightCancelled,
    FlightTimeout,
    holding_permit,
    holds_permit,
    loading,
)
from cachekit.loading.path import Loads
from cachekit.loading.permits import LoadPermit
from cachekit.loading.request import LoadRequest
from cachekit.model.types import MISSING, Missing
from cachekit.runtime.backoff import pauses
from cachekit.runtime.threads import run_in_thread

if TYPE_CHECKING:
    import asyncio

P = ParamSpec("P")
V = TypeVar("V")


@final
class AwaitedLoads:
    """The loads of one cache that are awaited; they share its flights. Safe on any event loop."""

    __slots__ = ("_levels", "_loads")

    def __init__(self, loads: Loads) -> None:
        self._loads = loads
        self._levels = loads.levels

    async def load(
        self,
        key: str,
        loader: Callable[[], Awaitable[V]],
        request: LoadRequest,
    ) -> V:
        """`load` for a coroutine function, which is awaited in a task of its own on this loop.

        Cancelling the caller leaves the load to those who wait for it, and to the cache.

        Raises:
            SerializationError: the loader returned something that can be used only once.
            LoadTimeoutError: it took too long.
            Exception: whatever the loader raised, here or where it was waited for.
        """
        return await self.load_on(key, loader, request)  # type: ignore[return-value]  # it waits

    async def load_on(
        self, key: str, loader: Callable[[], Awaitable[V]], request: LoadRequest
    ) -> V | Missing:
        """`load_on` for a coroutine function."""
        import asyncio

        begun = time.monotonic()
        while True:
            self._loads.tasks.refuse_if_closed()
            fence = self._levels.fence(key, request.tags)
            flight, leading = self._loads.flights.join(key, fence, asyncio.get_running_loop())
            value: V | Missing = MISSING
            task = None
            try:
                if leading:
                    task = self._loads.tasks.begin([flight], self._lead(flight, loader, request))
                else:
                    value = self._loads.instead(flight, request)
                if value is MISSING:
                    value = await self.wait(flight, request, begun, leading=leading)
            except FlightCancelled:
                if task is not None:
                    await self.raise_end(task, f"the load of {key!r}")
                if not request.waits:
                    return MISSING
                continue
            except Exception as error:
                value = self._loads.fall_back(key, request, error)
                if value is MISSING:
                    raise
            finally:
                del flight, task  # as in Loads.load_on(); so below
            return value

    async def reload(
        self,
        key: str,
        loader: Callable[[], Awaitable[V]],
        request: LoadRequest,
    ) -> V:
        """`reload` for a coroutine function."""
        import asyncio

        fence = self._levels.successor(key, request.tags)
        flight = self._loads.flights.lead(key, fence, asyncio.get_running_loop())
        request = request._replace(options=request.options.shared_by("thread"), replaces=True)
        begun = time.monotonic()
        task = self._loads.tasks.begin([flight], self._lead(flight, loader, request))
        try:
            value: V = await self.wait(flight, request, begun, leading=True)
        except FlightCancelled:
            await self.raise_end(task, f"the load of {key!r}")
            raise
        finally:
            del flight, task
        return value

    def refresh(
        self,
        key: str,
        loader: Callable[[], Awaitable[Any]],
        request: LoadRequest,
    ) -> None:
        """`refresh` for a coroutine function, which is awaited in a task of its own on this loop."""
        if not self._loads.due.is_due(key, request.options.refresh_ahead):
            return
        import asyncio

        request = request._replace(replaces=True, waits=False)
        flight = self._loads.flight_alone(key, request, asyncio.get_running_loop())
        if flight is None:
            return
        if self._loads.due.begins(key, request.options.refresh_ahead):
            self._loads.tasks.begin([flight], self._lead(flight, loader, request, self._loads.complaints.add))
        else:
            flight.cancel()

    async def _lead(
        self,
        flight: Flight[LoadFence],
        loader: Callable[[], Awaitable[Any]],
        request: LoadRequest,
        failed: Callable[[str, Exception], None] | None = None,
    ) -> None:
        try:
            with loading(flight):
                value = MISSING if request.replaces else self._levels.peek_memory(flight.key)
                if value is MISSING:
                    if request.options.takes_turns and not holds_permit():
                        value = await self._load_with_permit(flight, loader, request)
                    else:
                        value = await self._load(flight.fence, loader, request)
        except FlightCancelled:
            pass  # as in _lead()
        except Exception as error:  # noqa: BLE001  # the flight hands it to whoever waits
            flight.set_exception(error)
            if failed is not None:
                failed(flight.key, error)
        else:
            flight.set_result(value)
        finally:
            flight.cancel()  # given up, or the task was cancelled; otherwise it does nothing
            del flight

    async def _load(
        self, fence: LoadFence, loader: Callable[[], Awaitable[Any]], request: LoadRequest
    ) -> Any:
        await self.in_io_thread(self._levels.before_load, fence)
        value = await self.called(loader)
        return await self.in_io_thread(self._loads.keep, fence, value, request)

    async def called(self, loader: Callable[[], Awaitable[V]]) -> V:
        """`called` for a coroutine function."""
        clock = self._levels.monotonic
        started = clock()
        try:
            return await loader()
        except Exception:
            self._loads.figures.failures += 1
            raise
        finally:
            self._loads.count(clock() - started)

    async def _load_with_permit(
        self, flight: Flight[LoadFence], loader: Callable[[], Awaitable[Any]], request: LoadRequest
    ) -> Any:
        turn = self._loads.turn(flight.key, request)
        try:
            await self.settle(turn, request)
            if turn.value is not MISSING:
                return turn.value
            fence = self._loads.refenced(flight, request)
            with holding_permit(flight):
                del flight
                return await self._load(fence, loader, request)
        finally:
            await run_in_thread(turn.release)

    async def settle(self, turn: LoadPermit, request: LoadRequest) -> None:
        """Wait until the turn is settled.

        Raises:
            FlightCancelled: another one has it, and the terms say not to wait.
        """
        import asyncio

        settled = await run_in_thread(turn.try_acquire)
        if settled is None and not request.waits:
            raise FlightCancelled
        # Between the attempts it sleeps on the loop: a pool whose threads all waited for turns would
        # have none for those who have theirs.
        for pause in pauses(time.monotonic() + request.options.lease_timeout):
            if settled is not None:
                break
            await asyncio.sleep(pause)
            settled = await run_in_thread(turn.try_acquire)

    async def wait(
        self, flight: Flight[LoadFence], request: LoadRequest, begun: float, *, leading: bool = False
    ) -> Any:
        """`wait` on an event loop."""
        try:
            for last, seconds in request.timeouts(leading, begun):
                try:
                    return await flight.wait_async(seconds)
                except FlightTimeout:
                    value = self._loads.out_of_time(flight, request, leading and last, last)
                    if value is not MISSING:
                        return value
            return await flight.wait_async()
        finally:
            del flight

    async def raise_end(self, task: asyncio.Task[None], load: str) -> None:
        """Raise what ended a load of the caller's own that brought neither a value nor an error.

        Args:
            task: of the load.
            load: what it is, for the message.

        Raises:
            CacheClosedError: the cache was closed.
            CancelledError: the load was cancelled.
            BaseException: what the loader raised and is no Exception; those who waited try again.
        """
        import asyncio

        await asyncio.wait([task])
        if task.cancelled():
            self._loads.tasks.refuse_if_closed()
            raise asyncio.CancelledError(f"{load} was cancelled") from None
        error = task.exception()
        if error is not None:
            context = error.__context__
            try:
                raise error
            finally:
                error.__context__ = context  # and not what the caller is in the middle of handling
                del error, task  # its traceback holds this frame

    async def in_io_thread(self, step: Callable[P, V], /, *args: P.args, **kwargs: P.kwargs) -> V:
        """Take a step that may touch a disk or a socket, if there is any, off the loop."""
        if not self._levels.lower:
            return step(*args, **kwargs)
        return await run_in_thread(step, *args, **kwargs)
