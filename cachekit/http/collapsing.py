"""What a request does that the cache cannot answer: it leads a flight, or waits for another request's."""

from __future__ import annotations

import asyncio
from typing import final

from cachekit.http.exchange import Exchange, Reply
from cachekit.http.flights import MOST_FLIGHTS, PATIENCE, PATIENCE_WITH_CONTENT, Flight, Flights, Landing
from cachekit.http.store import ResponseStore, Target


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


def lead_revalidation(store: ResponseStore, flights: Flights, target: Target, key: str) -> Lead | None:
    """Return the lead of a call in the background; None if there is a call already, or none is of use."""
    flight, leads = flights.join(key)
    if flight is None or not leads:
        return None
    lead = Lead(flights, key, flight)
    # Another call may have ended between the lookup of this request and now.
    newer = store.peek(target)
    if newer is not None and not Exchange(store, target, newer).from_cache()[1]:
        lead.land(Landing.STORED)
        return None
    return lead


def _stored_since(store: ResponseStore, exchange: Exchange, target: Target, lead: Lead) -> Reply | None:
    """Return a reply from what another call has stored between the lookup of this request and now."""
    newer = store.peek(target)
    reply = None if newer is None else exchange.from_cache(newer)[0]
    if reply is not None:
        lead.land(Landing.STORED)
    return reply


def lead_or_follow(
    store: ResponseStore, flights: Flights, exchange: Exchange, target: Target, collapses: bool
) -> Reply | Lead:
    """Return the response that another request has stored, or the lead of a call of the origin."""
    key = exchange.flight_key
    for _ in range(MOST_FLIGHTS if collapses and exchange.may_collapse else 0):
        flight, leads = flights.join(key)
        if flight is None or leads:
            lead = Lead(flights, key, flight)
            return _stored_since(store, exchange, target, lead) or lead
        landing = flight.wait()
        if landing is Landing.STORED:
            reply, _ = exchange.from_cache(store.find(target))
            if reply is not None:
                return reply
            # Another variant was stored, or something has invalidated the response.
            key = exchange.flight_key
        elif landing is not Landing.GONE:
            break
    return Lead(flights, key, None)


async def lead_or_follow_async(
    store: ResponseStore, flights: Flights, exchange: Exchange, target: Target, collapses: bool
) -> Reply | Lead:
    """Do what `lead_or_follow` does, on an event loop."""
    key = exchange.flight_key
    for _ in range(MOST_FLIGHTS if collapses and exchange.may_collapse else 0):
        flight, leads = flights.join(key)
        if flight is None or leads:
            lead = Lead(flights, key, flight)
            return _stored_since(store, exchange, target, lead) or lead
        landing = await _landing(flight)
        if landing is Landing.STORED:
            reply, _ = exchange.from_cache(await store.find_async(target))
            if reply is not None:
                return reply
            key = exchange.flight_key
        elif landing is not Landing.GONE:
            break
    return Lead(flights, key, None)


async def _landing(flight: Flight) -> Landing:
    """Wait for a flight, but no longer than a request may."""
    loop = asyncio.get_running_loop()
    landed: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        try:
            loop.call_soon_threadsafe(_set, landed)
        except RuntimeError:  # the loop was closed, and no task waits there any more
            pass

    flight.on_landing(wake)
    deadline = loop.time() + PATIENCE
    while flight.landing is None and not flight.is_slow:
        left = deadline - loop.time()
        if left <= 0:
            break
        await asyncio.wait({landed}, timeout=min(left, PATIENCE_WITH_CONTENT))
    return flight.landing or Landing.ALONE


def _set(landed: asyncio.Future[None]) -> None:
    if not landed.done():
        landed.set_result(None)
