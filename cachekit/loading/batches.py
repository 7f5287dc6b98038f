"""Loads of many keys by one call of one loader.

Each key is a flight like any other (`singleflight`), so a batch waits for what others are loading, and
others for what it loads. Own flights land before any other is waited for: two batches never block each
other. A batch knows timeouts, stale values and slots; it takes no lease, as one would be needed for each
key, and it refreshes nothing ahead.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, final

from cachekit.coherence.load_fence import LoadFence
from cachekit.errors import LoadTimeoutError
from cachekit.loading.flights import Flight, FlightCancelled, holding_permit, holds_permit, loading
from cachekit.loading.path import Loads
from cachekit.loading.request import LoadRequest
from cachekit.loading.tasks_driver import AwaitedLoads
from cachekit.model.types import MISSING
from cachekit.runtime.background import BackgroundCall
from cachekit.runtime.backoff import wait_for
from cachekit.runtime.threads import run_in_thread

if TYPE_CHECKING:
    import asyncio

V = TypeVar("V")

#: From a list of keys to their values; keys may be left out.
BatchLoader = Callable[[list[str]], Mapping[str, Any]]
AsyncBatchLoader = Callable[[list[str]], Awaitable[Mapping[str, Any]]]


@final
class Batches:
    """The batches of one cache, beside its single loads. Safe in any thread."""

    __slots__ = ("_awaited", "_levels", "_loads")

    def __init__(self, loads: Loads, awaited: AwaitedLoads) -> None:
        self._levels = loads.levels
        self._loads = loads
        self._awaited = awaited

    def load(
        self, keys: Sequence[str], loader: Callable[[list[str]], Mapping[str, V]], request: LoadRequest
    ) -> dict[str, V]:
        """`Loads.load` for several distinct keys, with one call of the loader for those nobody is loading.

        Returns:
            The values; a key that the loader left out is missing.

        Raises:
            TypeError: the loader returned no mapping.
            ValueError: it returned keys that it was not asked for.
            LoadTimeoutError: it took too long.
        """
        begun = time.monotonic()
        values: dict[str, Any] = {}
        while keys:
            mine, others = self._join(keys, request, None)
            try:
                try:
                    values |= self._lead_or_leave(mine, loader, request, begun)
                except Exception as error:  # noqa: BLE001  # it is raised again if nothing stands in for it
                    values |= self._fall_back(mine, request, error)
                keys = self._await(others, request, begun, values)
            except BaseException:
                for flight in others:
                    flight.stop_waiting()
                for flight in mine:
                    if not flight.begun:
                        flight.cancel()
                raise
        return values

    def _join(
        self, keys: Sequence[str], request: LoadRequest, loop: asyncio.AbstractEventLoop | None
    ) -> tuple[list[Flight[LoadFence]], list[Flight[LoadFence]]]:
        """The flights of the keys: those to lead, and those to wait for."""
        mine: list[Flight[LoadFence]] = []
        others: list[Flight[LoadFence]] = []
        flight: Flight[LoadFence] | None = None
        leading = False
        try:
            for key in keys:
                flight, leading = self._loads.flights.join(key, self._levels.fence(key, request.tags), loop)
                (mine if leading else others).append(flight)
        except BaseException:  # closed, or interrupted halfway
            if flight is not None:
                (mine if leading else others).append(flight)  # perhaps once more, which does no harm
            for flight in mine:
                flight.cancel()
            for flight in others:
                flight.stop_waiting()
            raise
        return mine, others

    def _await(
        self, flights: list[Flight[LoadFence]], request: LoadRequest, begun: float, values: dict[str, Any]
    ) -> list[str]:
        """Add what others are loading; the keys to ask for again. Flights are taken off as they are left."""
        again: list[str] = []
        flights.reverse()
        while flights:
            flight = flights.pop()
            try:
                value = self._loads.instead(flight, request)
                if value is MISSING:
                    value = self._loads.wait(flight, request, begun)
                values[flight.key] = value
            except FlightCancelled:
                again.append(flight.key)
            except Exception as error:
                value = self._loads.fall_back(flight.key, request, error)
                if value is MISSING:
                    raise
                values[flight.key] = value
        return again

    def _lead_or_leave(
        self, flights: list[Flight[LoadFence]], loader: BatchLoader, request: LoadRequest, begun: float
    ) -> dict[str, Any]:
        if not flights or not request.in_background:
            return self._lead(flights, loader, request)
        key = flights[0].key
        background = BackgroundCall(
            partial(self._lead, flights, loader, request), partial(self._loads.complaints.add, key)
        )
        if not background.start():
            return self._lead(flights, loader, request)
        values = {}
        try:
            for flight in flights:
                try:
                    values[flight.key] = self._loads.wait(flight, request, begun, leading=True)
                except FlightCancelled:
                    if not flight.is_over:
                        # As in `Loads`: it needs what this thread has to go on with first.
                        left = [flight for flight in flights if flight.key not in values]
                        mine = [self._loads.flights.lead(one.key, one.fence, None) for one in left]
                        return values | self._lead(mine, loader, request)
                    background.raise_exit()  # otherwise it is a key that the loader left out
        except LoadTimeoutError:
            self._give_up(flights)
            raise
        finally:
            background.is_unwatched = not all(flight.is_over for flight in flights)
        return values

    def _lead(
        self, flights: list[Flight[LoadFence]], loader: BatchLoader, request: LoadRequest
    ) -> dict[str, Any]:
        found: dict[str, Any] = {}
        try:
            for flight in flights:
                flight.begun = True
                value = self._levels.peek_memory(flight.key)
                if value is not MISSING:
                    found[flight.key] = value
            missing = [flight for flight in flights if flight.key not in found]
            if missing:
                with loading(*flights):
                    found |= self._load(missing, loader, request)
        except Exception as error:
            for flight in flights:
                flight.set_exception(error)
            raise
        else:
            for flight in flights:
                if flight.key in found:
                    flight.set_result(found[flight.key])
        finally:
            for flight in flights:
                flight.cancel()  # the keys that the loader left out: whoever waits asks by itself
        return found

    def _load(
        self, flights: list[Flight[LoadFence]], loader: BatchLoader, request: LoadRequest
    ) -> dict[str, Any]:
        keys = [flight.key for flight in flights]
        if request.options.max_concurrent_loads is None or holds_permit():
            return self._load_now(flights, keys, loader, request)
        turn = self._loads.turns.slot(request.options.max_concurrent_loads)
        try:
            wait_for(turn.try_acquire, time.monotonic() + request.options.lease_timeout)
            with holding_permit(flights[0]):
                return self._load_now(flights, keys, loader, request)
        finally:
            turn.release()

    def _load_now(
        self, flights: list[Flight[LoadFence]], keys: list[str], loader: BatchLoader, request: LoadRequest
    ) -> dict[str, Any]:
        self._levels.before_loads([flight.fence for flight in flights])
        loaded = self._loads.called(partial(loader, list(keys)))
        _check_batch(loaded, keys)
        return self._keep(flights, loaded, request)

    def _keep(
        self, flights: list[Flight[LoadFence]], loaded: Mapping[str, Any], request: LoadRequest
    ) -> dict[str, Any]:
        mine = [(flight.fence, loaded[flight.key]) for flight in flights if flight.key in loaded]
        return self._loads.keep_many(mine, request)

    # -- on event loops -----------------------------------------------------------------------------

    async def load_async(
        self,
        keys: Sequence[str],
        loader: Callable[[list[str]], Awaitable[Mapping[str, V]]],
        request: LoadRequest,
    ) -> dict[str, V]:
        """`load` for a coroutine function, which is awaited in a task of its own on this loop.

        Cancelling the caller leaves the load to those who wait for it, and to the cache.
        """
        import asyncio

        begun = time.monotonic()
        values: dict[str, Any] = {}
        while keys:
            self._loads.tasks.refuse_if_closed()
            mine, others = self._join(keys, request, asyncio.get_running_loop())
            again: list[str] = []
            try:
                try:
                    values |= await self._lead_async(mine, loader, request, begun)
                except Exception as error:  # noqa: BLE001  # it is raised again if nothing stands in for it
                    values |= self._fall_back(mine, request, error)
                while others:
                    flight = others.pop()
                    value = self._loads.instead(flight, request)
                    try:
                        if value is MISSING:
                            value = await self._awaited.wait(flight, request, begun)
                    except FlightCancelled:
                        again.append(flight.key)
                    except Exception as error:  # noqa: BLE001  # as above
                        values |= self._fall_back([flight], request, error)
                    else:
                        values[flight.key] = value
            finally:
                for flight in others:
                    flight.stop_waiting()  # cancelled halfway, or a load failed
            keys = again
        return values

    def _fall_back(
        self, flights: list[Flight[LoadFence]], request: LoadRequest, error: Exception
    ) -> dict[str, Any]:
        """Values of all of the keys to take when a load has failed; or the error is raised."""
        stale = {flight.key: self._loads.peek_stale(flight.key, request) for flight in flights}
        if any(value is MISSING for value in stale.values()):
            raise error
        count = len(stale)
        self._loads.figures.stale_served += count
        self._loads.complaints.add(flights[0].key, error)
        return stale

    async def _lead_async(
        self, flights: list[Flight[LoadFence]], loader: AsyncBatchLoader, request: LoadRequest, begun: float
    ) -> dict[str, Any]:
        if not flights:
            return {}
        task = self._loads.tasks.begin(flights, self._fly_async(flights, loader, request))
        values = {}
        for flight in flights:
            try:
                values[flight.key] = await self._awaited.wait(flight, request, begun, leading=True)
            except FlightCancelled:  # it is over: a key that the loader left out, unless something ended it
                await self._awaited.raise_end(task, "the load of several keys")
            except LoadTimeoutError:
                self._give_up(flights)
                raise
        return values

    def _give_up(self, flights: list[Flight[LoadFence]]) -> None:
        """Have nobody join a batch that took too long, not even by a key whose time was not looked at."""
        for flight in flights:
            self._loads.flights.give_up(flight)

    async def _fly_async(
        self, flights: list[Flight[LoadFence]], loader: AsyncBatchLoader, request: LoadRequest
    ) -> None:
        """`_lead`, in a task that only the flights speak for."""
        found: dict[str, Any] = {}
        try:
            for flight in flights:
                value = self._levels.peek_memory(flight.key)
                if value is not MISSING:
                    found[flight.key] = value
            missing = [flight for flight in flights if flight.key not in found]
            if missing:
                with loading(*flights):
                    found |= await self._load_async(missing, loader, request)
        except Exception as error:  # noqa: BLE001  # the flights hand it to whoever waits
            for flight in flights:
                flight.set_exception(error)
        else:
            for flight in flights:
                if flight.key in found:
                    flight.set_result(found[flight.key])
        finally:
            for flight in flights:
                flight.cancel()  # as in _lead

    async def _load_async(
        self, flights: list[Flight[LoadFence]], loader: AsyncBatchLoader, request: LoadRequest
    ) -> dict[str, Any]:
        if request.options.max_concurrent_loads is None or holds_permit():
            return await self._load_now_async(flights, loader, request)
        turn = self._loads.turns.slot(request.options.max_concurrent_loads)
        try:
            await self._awaited.settle(turn, request)
            with holding_permit(flights[0]):
                return await self._load_now_async(flights, loader, request)
        finally:
            await run_in_thread(turn.release)

    async def _load_now_async(
        self, flights: list[Flight[LoadFence]], loader: AsyncBatchLoader, request: LoadRequest
    ) -> dict[str, Any]:
        keys = [flight.key for flight in flights]
        await self._awaited.in_io_thread(self._levels.before_loads, [flight.fence for flight in flights])
        loaded = await self._awaited.called(partial(loader, list(keys)))
        _check_batch(loaded, keys)
        return await self._awaited.in_io_thread(self._keep, flights, loaded, request)


def _check_batch(loaded: object, missing: list[str]) -> None:
    if not isinstance(loaded, Mapping):
        raise TypeError(f"loader must return a mapping from key to value, not a {type(loaded).__name__}")
    surplus = loaded.keys() - set(missing)
    if surplus:
        raise ValueError(
            f"loader returned keys that it was not asked for: {sorted(map(repr, surplus))[:5]}; "
            f"return only keys of its argument"
        )
