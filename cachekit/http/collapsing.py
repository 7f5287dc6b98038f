"""What a request does that the cache cannot answer: it leads a flight, or waits for another request's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import final

from cachekit.http.exchange import Exchange, Reply
from cachekit.http.flights import MOST_FLIGHTS, PATIENCE, PATIENCE_WITH_CONTENT, Flight, Flights, Landing
from cachekit.http.keys import Target
from cachekit.http.store import ResponseStore
from cachekit.model.display import shown_error, shown_key
from cachekit.runtime.background import BackgroundCall, RateLimitedLog


@final
class Lead:
    """A call of the origin, and the flight of the requests that wait for it, if there is one."""

    __slots__ = ("_flight", "_flights", "_key")

    def __init__(self, flights: Flights, key: str, flight: Flight | None) -> None:
        self._flights = flights
        self._key = key
        self._flight = flight

    def response_began(self) -> None:
        """Note that the head of a response that may be stored is there."""
        if self._flight is not None:
            self._flight.response_began()

    def land(self, landing: Landing) -> None:
        """End the flight; the first end counts."""
        if self._flight is not None:
            self._flights.land(self._key, self._flight, landing)


@final
class Collapsing:
    """Lets one of the requests that come together call the origin, and the others wait for what it stores.

    Args:
        store: where responses are stored.
        log: what is told of revalidations that fail: no client gets their errors.
        collapses: whether requests wait. Of revalidations there is one at a time in any case.

    Safe in any thread and on any event loop.
    """

    __slots__ = ("_collapses", "_flights", "_log", "_store", "_tasks")

    def __init__(self, store: ResponseStore, log: RateLimitedLog, collapses: bool) -> None:
        self._store = store
        self._log = log
        self._collapses = collapses
        self._flights = Flights(store.clock)
        #: A loop holds its tasks weakly.
        self._tasks: set[asyncio.Task[None]] = set()

    # -- requests ---------------------------------------------------------------------------------------

    def lead_or_follow(self, exchange: Exchange, target: Target) -> Reply | Lead:
        """Return the response that another request has stored, or the lead of a call of the origin."""
        key, deadline = exchange.flight_key, time.monotonic() + PATIENCE
        for _ in range(self._most_flights(exchange)):
            flight, leads = self._flights.join(key)
            if flight is None or leads:
                return self._lead(exchange, target, key, flight)
            landing = flight.wait(deadline)
            if landing is Landing.STORED:
                reply, _ = exchange.from_cache(self._store.find(target))
                if reply is not None:
                    return reply
                # Another variant was stored, or something has invalidated the response.
                key = exchange.flight_key
            elif landing is not Landing.GONE:
                break
        return Lead(self._flights, key, None)

    async def lead_or_follow_async(self, exchange: Exchange, target: Target) -> Reply | Lead:
        """Do what `lead_or_follow` does, on an event loop."""
        key, deadline = exchange.flight_key, asyncio.get_running_loop().time() + PATIENCE
        for _ in range(self._most_flights(exchange)):
            flight, leads = self._flights.join(key)
            if flight is None or leads:
                return self._lead(exchange, target, key, flight)
            landing = await _landing(flight, deadline)
            if landing is Landing.STORED:
                reply, _ = exchange.from_cache(await self._store.find_async(target))
                if reply is not None:
                    return reply
                key = exchange.flight_key
            elif landing is not Landing.GONE:
                break
        return Lead(self._flights, key, None)

    def _most_flights(self, exchange: Exchange) -> int:
        return MOST_FLIGHTS if self._collapses and exchange.may_collapse else 0

    def _lead(self, exchange: Exchange, target: Target, key: str, flight: Flight | None) -> Reply | Lead:
        """Return the lead, or a reply from what was stored between the lookup of this request and now."""
        lead = Lead(self._flights, key, flight)
        newer = self._store.peek(target)
        reply = None if newer is None else exchange.from_cache(newer)[0]
        if reply is None:
            return lead
        lead.land(Landing.STORED)
        return reply

    # -- revalidations ----------------------------------------------------------------------------------

    def revalidate(self, target: Target, key: str, fetch: Callable[[Target, Lead], object]) -> None:
        """Call `fetch` in a thread, unless there is a revalidation of the key already."""
        lead = self._lead_revalidation(target, key)
        if lead is None:
            return

        def work() -> None:
            try:
                fetch(target.for_all(), lead)
            except Exception as error:  # noqa: BLE001  # no client gets it
                self._failed(target, error)

        if not BackgroundCall(work).start():
            lead.land(Landing.ALONE)

    def revalidate_async(
        self, target: Target, key: str, fetch: Callable[[Target, Lead], Awaitable[object]]
    ) -> None:
        """Do what `revalidate` does, in a task of the running loop."""
        lead = self._lead_revalidation(target, key)
        if lead is None:
            return

        async def work() -> None:
            try:
                await fetch(target.for_all(), lead)
            except Exception as error:  # noqa: BLE001  # no client gets it
                self._failed(target, error)

        task = asyncio.get_running_loop().create_task(work())
        self._tasks.add(task)

        def end(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            # A task that is cancelled before its first step runs none of its own code.
            lead.land(Landing.GONE)

        task.add_done_callback(end)

    def _lead_revalidation(self, target: Target, key: str) -> Lead | None:
        """Return the lead of a call in the background; None if there is one already, or none is of use."""
        flight, leads = self._flights.join(key, in_background=True)
        if flight is None or not leads:
            return None
        lead = Lead(self._flights, key, flight)
        # Another call may have ended between the lookup of this request and now.
        newer = self._store.peek(target)
        if newer is not None and not Exchange(self._store, target, newer).from_cache()[1]:
            lead.land(Landing.STORED)
            return None
        return lead

    def _failed(self, target: Target, error: Exception) -> None:
        self._log.add(f"revalidation of {shown_key(target.key)} failed: {shown_error(error)}")


async def _landing(flight: Flight, deadline: float) -> Landing:
    """Wait for a flight, until the time of the loop is `deadline`."""
    loop = asyncio.get_running_loop()
    landed: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        try:
            loop.call_soon_threadsafe(_set, landed)
        except RuntimeError:  # the loop was closed, and no task waits there any more
            pass

    flight.on_landing(wake)
    while flight.keeps_waiting and (left := deadline - loop.time()) > 0:
        await asyncio.wait({landed}, timeout=min(left, PATIENCE_WITH_CONTENT))
    return flight.outcome


def _set(landed: asyncio.Future[None]) -> None:
    if not landed.done():
        landed.set_result(None)
