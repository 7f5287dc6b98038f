"""The path of a load: a flight per key, a permit, the loader, the tiers. One key is a batch of one.

A path is a generator. It yields the steps that threads and tasks take differently; `threads_driver` and
`tasks_driver` take them. A value whose key or tags were invalidated during the load reaches its callers, and
is not stored (P4, see `coherence.tier_stack`). An error reaches all callers, and is never stored.

A caller that has a stale value never waits for another caller's load. If its own load fails or exceeds a
timeout, it gets the stale value. Memory is asked for it at that moment, so an invalidated one is not served.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar, final

from cachekit.coherence.load_fence import LoadFence
from cachekit.coherence.tier_stack import TierStack
from cachekit.errors import (
    CacheClosedError,
    LoadTimeoutError,
    OnceOnlyError,
    SerializationError,
    TierUnavailableError,
)
from cachekit.loading.flights import (
    Flight,
    FlightCancelled,
    FlightTable,
    FlightTimeout,
    holds_permit,
    lead_here,
    leave_to_another,
    loading_scope,
)
from cachekit.loading.options import LoadOptions
from cachekit.loading.permits import LoadPermit, PermitPool
from cachekit.loading.refresh_ahead import RefreshSchedule
from cachekit.loading.request import LoadRequest
from cachekit.loading.verification import Verification, Verifications
from cachekit.model.counters import LoadCounters
from cachekit.model.display import how_to_show, shown_error, shown_key, shown_keys
from cachekit.model.storable import PLAIN_TYPES, refuse_unstorable
from cachekit.model.types import MISSING, CacheLevel, Missing
from cachekit.runtime.background import RateLimitedLog
from cachekit.runtime.backoff import random_fraction
from cachekit.runtime.interrupts import is_interrupt
from cachekit.runtime.outcome import Outcome
from cachekit.runtime.tasks import Tasks

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

T = TypeVar("T")
Flights: TypeAlias = list[Flight[LoadFence]]

_FENCE, _KEY = attrgetter("fence"), attrgetter("key")


class Call(partial[Any]):
    """Call the loader."""

    __slots__ = ()


class Blocking(partial[Any]):
    """Call a function of the cache that may touch a disk or a socket."""

    __slots__ = ()


class Acquire(NamedTuple):
    """Try to acquire a permit, at least once and for so many seconds; None if that fails."""

    permit: LoadPermit
    seconds: float


class Wait(NamedTuple):
    """Wait for the outcome of a flight. The step raises FlightTimeout or FlightCancelled."""

    flight: Flight[LoadFence]
    seconds: float | None


class Detach(NamedTuple):
    """Begin the path that ends these flights in a thread or task of its own; None if there is no thread."""

    flights: Sequence[Flight[LoadFence]]
    path: Path[object]


class End(NamedTuple):
    """Wait for the end of a detached path, and raise what ended it if that is no Exception."""

    detached: Any
    load: str


Step: TypeAlias = Call | Blocking | Acquire | Wait | Detach | End
Path: TypeAlias = Generator[Step, Any, T]


def _not_begun(flights: Flights, why: str) -> LoadTimeoutError:
    load = "several keys" if len(flights) > 1 else shown_key(flights[0].key)
    return LoadTimeoutError(f"the load of {load}, which has a hard_timeout, was not begun: {why}")


@final
class LoadPath:
    """The path of all loads of one cache, and what they share. Safe in any thread and on any event loop.

    A `loop` is the running event loop of a caller on one, or None for a caller in a thread.
    """

    __slots__ = (
        "figures", "flights", "log", "permits", "random_fraction", "schedule", "tasks", "tiers",
        "verifications",
    )  # fmt: skip

    def __init__(self, tiers: TierStack) -> None:
        self.tiers = tiers
        self.flights: FlightTable[LoadFence] = FlightTable()
        self.figures = LoadCounters()
        self.permits = PermitPool(tiers, self.figures)
        self.schedule = RefreshSchedule(tiers)
        self.verifications = Verifications(tiers, self.figures)
        self.tasks = Tasks()
        self.log = RateLimitedLog(tiers.clock)
        #: For jitter and the choice of hits to verify; tests replace it.
        self.random_fraction: Callable[[], float] = random_fraction

    def load(
        self,
        keys: Sequence[str],
        loader: Callable[..., Any],
        request: LoadRequest,
        values: dict[str, Any],
        loop: AbstractEventLoop | None = None,
    ) -> Path[Outcome[Any] | None]:
        """Load distinct keys into `values`, or wait for loads of them that are under way.

        Returns:
            The error of a load that failed. A key is missing from `values` if the loader left it out, or if
            another process has its lease and the request does not wait.
        """
        begun, options = time.monotonic(), request.options
        if self.tiers.is_beginning:
            yield Blocking(self.tiers.await_beginning)
        outcome: Outcome[Any] | None = None
        while keys:
            if loop is not None:
                self.tasks.refuse_if_closed()
            wanted, keys = keys, []
            mine: Flights = []
            others: Flights = []
            try:
                self._join(wanted, request, loop, mine, others)
                if mine:  # before waiting for others, so that two batches never block each other
                    detached = None
                    soft = options.soft_timeout is not None and request.stale_ttl > 0
                    if options.hard_timeout is not None and self.flights.too_many_outrun(map(_KEY, mine)):
                        outcome = Outcome(error=_not_begun(mine, "too many earlier ones have not ended"))
                    elif loop is not None or soft or options.hard_timeout is not None:
                        detached = yield Detach(tuple(mine), self._run(list(mine), loader, request, {}))
                        if detached is None and options.hard_timeout is not None:
                            # In this thread it might take longer.
                            outcome = Outcome(error=_not_begun(mine, "no thread can be started for it"))
                    if outcome is not None:
                        pass
                    elif detached is None:
                        outcome = yield from self._run(mine, loader, request, values)
                    else:
                        outcome = yield from self._await_own(detached, mine, loader, request, begun, values)
                    if outcome is not None:
                        theirs = set(map(_KEY, others))
                        own = [key for key in wanted if key not in theirs]
                        stale = self._stale(own, request, outcome.error)
                        if not stale:
                            return outcome
                        values |= stale
                others.reverse()  # for `pop`
                while others:
                    flight = others.pop()
                    key = flight.key
                    if stale := self._stale([key], request):  # rather than wait
                        flight.stop_waiting()
                        values |= stale
                        continue
                    waited = yield from self._wait(flight, request, begun)
                    if waited is None:
                        keys += [key] if request.waits else []
                    elif waited.error is None:
                        values[key] = waited.value
                    elif stale := self._stale([key], request, waited.error):
                        values |= stale
                    else:
                        return waited
            finally:
                # As in _run(), no flight and no error stays here. Flights that are left have not begun.
                outcome = None
                while others:
                    others.pop().stop_waiting()
                while mine:
                    mine.pop().cancel()
        return None

    def _join(
        self,
        keys: Sequence[str],
        request: LoadRequest,
        loop: AbstractEventLoop | None,
        mine: Flights,
        others: Flights,
    ) -> None:
        flight, to = None, others
        try:
            for key in keys:
                # The fence before the flight: what is invalidated from here on refuses the loaded value.
                if request.replaces:
                    mine.append(self.flights.lead(key, self.tiers.fresh_fence(key, request.tags), loop))
                else:
                    flight, leading = self.flights.join(key, self.tiers.fence(key, request.tags), loop)
                    to = mine if leading else others
                    to.append(flight)
        except BaseException:
            if flight is not None and flight not in to:  # interrupted just before
                to.append(flight)
            raise

    def _await_own(
        self,
        detached: object,
        mine: Flights,
        loader: Callable[..., Any],
        request: LoadRequest,
        begun: float,
        values: dict[str, Any],
    ) -> Path[Outcome[Any] | None]:
        """Wait for own flights. A detached path ends these, so that `mine` is empty from now on."""
        led = tuple(mine)
        mine.clear()
        try:
            leave_to_another(led)
            for flight in led:
                outcome = yield from self._wait(flight, request, begun, leading=True)
                if outcome is not None and outcome.error is None:
                    values[flight.key] = outcome.value
                elif outcome is not None:
                    if not flight.is_over:  # too late; no further caller joins any part of this batch
                        self.flights.give_up_on(led)
                    return outcome
                elif flight.is_over:
                    load = "several keys" if request.many else shown_key(flight.key)
                    yield End(detached, f"the load of {load}")
                else:
                    # The load needs something that this very thread must do first: load here instead.
                    for one in led:
                        if one.key not in values:
                            mine.append(self.flights.lead(one.key, one.fence, None))
                    return (yield from self._run(mine, loader, request, values))
        finally:
            for flight in led:
                flight.is_unwatched = not flight.is_over
        return None

    def _wait(
        self, flight: Flight[LoadFence], request: LoadRequest, begun: float, *, leading: bool = False
    ) -> Path[Outcome[Any] | None]:
        """Wait for a flight until a timeout of the request; None if the caller must try again."""
        for seconds, last in request.timeouts(leading, begun):
            try:
                outcome: Outcome[Any] = yield Wait(flight, seconds)
                return outcome
            except FlightCancelled:
                return None
            except FlightTimeout:
                if leading and last:
                    self.flights.give_up_on([flight])  # the load may hang for ever
                stale = self._stale([flight.key], request)
                if stale:
                    return Outcome(stale[flight.key])
        late = f"the load of {shown_key(flight.key)} took longer than {request.options.hard_timeout} s"
        return Outcome(error=LoadTimeoutError(f"{late}; it goes on in the background"))

    def reload(
        self,
        key: str,
        loader: Callable[..., Any],
        request: LoadRequest,
        begin: Callable[[Sequence[Flight[LoadFence]], Path[object]], object],
        is_due: Callable[[], bool],
        loop: AbstractEventLoop | None = None,
    ) -> Outcome[Any] | None:
        """Reload a key unless it is being loaded, or is not due; `begin` detaches or drives the path.

        Only the leader asks `is_due`, because another load may have ended since the hit.
        """
        flight, leading = self.flights.join(key, self.tiers.fence(key, request.tags), loop)
        if not leading:
            flight.stop_waiting()
            return None
        begun = None
        try:
            if is_due():
                flight.is_unwatched = True
                path = self._run([flight], loader, request.of_refresh(), {})
                begun = begin([flight], path)
        finally:
            if begun is None:
                flight.cancel()
        return flight.outcome

    def is_chosen(self, options: LoadOptions, verifies: bool, already: bool = False) -> bool:
        """Return whether a hit is to be verified: chance, or the fast path before, chooses some.

        Args:
            options: Of the hit.
            verifies: Whether the function may be verified.
            already: Whether the fast path chose this hit.
        """
        return verifies and bool(options.verify) and (already or self.random_fraction() < options.verify)

    def verify(
        self,
        key: str,
        value: Any,
        loader: Callable[..., Any],
        request: LoadRequest,
        name: str,
        begin: Callable[[Path[object]], object],
    ) -> None:
        """Verify a hit, if that is due; `begin` detaches the path, or returns None if there is no thread."""
        verification = self.verifications.begin(name, key, value, request)
        if verification is None:
            return
        begun = None
        try:
            begun = begin(self._verify(verification, loader))
        finally:
            if begun is None:
                self.verifications.end(verification)

    def _verify(self, verification: Verification, loader: Callable[..., Any]) -> Path[None]:
        tiers, request, failed = self.tiers, verification.request, False
        started = tiers.clock.monotonic()
        try:
            if tiers.redis is not None:
                yield Blocking(tiers.complete_fence, verification.fence)
            try:
                fresh = yield Call(loader)
            except Exception as error:
                failed = not is_interrupt(error)
                raise
            finally:
                self.figures.ended(tiers.clock.monotonic() - started, failed)
            ttl = partial(request.life, fresh, self.random_fraction)
            yield Blocking(self.verifications.compare, verification, fresh, ttl)
        except Exception as error:  # a load that fails says nothing about the cached value
            if is_interrupt(error):
                raise
            verification.function.failures.add(
                f"a hit of {verification.name} was not verified, because its load failed: "
                f"{shown_error(error)}"
            )
        finally:
            self.verifications.end(verification)

    def _run(
        self, flights: Flights, loader: Callable[..., Any], request: LoadRequest, values: dict[str, Any]
    ) -> Path[Outcome[Any] | None]:
        """Load the keys of the flights into `values`, and end these. `flights` is for this path alone.

        Returns:
            The error, or None.
        """
        missing: Flights = []
        permit: LoadPermit | None = None
        tiers, figures = self.tiers, self.figures
        try:
            lead_here(flights)
            with loading_scope(*flights):
                missing = flights.copy() if request.replaces else self._look_again(flights, values)
                try:
                    if missing and request.options.takes_turns and not holds_permit():
                        permit = self._permit(missing[0].key, request)
                        seconds = request.options.lease_timeout if request.waits else 0.0
                        if (yield Acquire(permit, seconds)) is None and not request.waits:
                            raise FlightCancelled
                        self._with_permit(missing, permit, request, values)
                    if missing:
                        if tiers.redis is not None:
                            yield Blocking(self._complete_fences, missing)
                        started, failed = tiers.clock.monotonic(), False
                        try:
                            if request.many:
                                keys = list(map(_KEY, missing))
                                loaded = yield Call(loader, keys.copy())
                            else:
                                loaded = yield Call(loader)
                        except Exception as error:
                            failed = not is_interrupt(error)
                            raise
                        finally:
                            took = tiers.clock.monotonic() - started
                            figures.ended(took, failed)
                        if request.many:
                            _check_batch(loaded, keys)
                        else:
                            loaded = {missing[0].key: loaded}
                        yield Blocking(self._store, missing, loaded, request, values, took / len(missing))
                except GeneratorExit:
                    permit = None  # The loop is gone, and takes no step (see `TaskPermits`).
                    raise
                finally:
                    if permit is not None:
                        yield Blocking(permit.release)
            for flight in flights:
                if flight.key in values:
                    flight.set_result(values[flight.key])
            return None
        except FlightCancelled:  # another process has the lease
            return None
        except Exception as error:
            if is_interrupt(error):
                raise  # for this caller alone: the other ones try again
            return self._fail(flights, error)
        except (SystemExit, KeyboardInterrupt) as error:
            if flights[0].is_unwatched:
                self.log.add(failed_load(flights[0].key, error))
            raise
        finally:
            # Callers try again for keys that were left out, and after KeyboardInterrupt and the like. No
            # flight stays in this frame: the traceback of an error refers to it, and a flight to its error.
            missing.clear()
            while flights:
                flights.pop().cancel()

    def _look_again(self, flights: Flights, values: dict[str, Any]) -> Flights:
        """Add what other loads have stored since the lookup, and return the flights of the other keys."""
        missing = []
        for flight in flights:
            value = self.tiers.peek_memory(flight.key)
            if value is MISSING:
                missing.append(flight)
            else:
                values[flight.key] = value
        return missing

    def _permit(self, key: str, request: LoadRequest) -> LoadPermit:
        def find() -> Any | Missing:
            if request.replaces:
                return MISSING
            if request.is_asked:
                return self.tiers.find(key, request.level)
            return self.tiers.promote_quietly(key)

        def stale() -> Any | Missing:
            return self._stale([key], request).get(key, MISSING)

        return self.permits.permit(key, request.options, find, stale)

    def _with_permit(
        self, missing: Flights, permit: LoadPermit, request: LoadRequest, values: dict[str, Any]
    ) -> None:
        """Leave the flights in `missing` whose keys are still to be loaded."""
        if permit.value is not MISSING:  # another process has loaded the key; a batch has no lease
            values[missing.pop().key] = permit.value
            return
        for flight in missing:
            # What was invalidated while the load waited for its permit does not refuse the value.
            if not request.replaces and not flight.fence.is_current():
                flight.fence = self.tiers.fence(flight.key, request.tags)
        missing[0].hold_permit()

    def _complete_fences(self, flights: Flights) -> None:
        if len(flights) == 1:
            self.tiers.complete_fence(flights[0].fence)
        else:
            self.tiers.complete_fences(list(map(_FENCE, flights)))

    def _store(
        self,
        flights: Flights,
        loaded: Mapping[str, Any],
        request: LoadRequest,
        values: dict[str, Any],
        seconds: float,
    ) -> None:
        """Store what was loaded. Add it to `values`, or what another process or host stored first.

        `seconds` is how long the load of each value took.
        """
        lasting: list[tuple[LoadFence, Any, Any]] = []
        for fence in map(_FENCE, flights):  # which leaves no flight in this frame
            key = fence.key
            if key in loaded:
                fence.memory.seconds = seconds
                values[key] = value = loaded[key]
                if type(value) not in PLAIN_TYPES:
                    try:
                        refuse_unstorable(value, key)
                    except SerializationError as error:
                        self.tiers.writes.not_stored([key], error)
                        raise
                ttl: Any = request.ttl
                if request.jitter or callable(ttl):
                    ttl = request.life(value, self.random_fraction)
                if request.replaces or (ttl is not None and ttl > 0):
                    lasting.append((fence, value, ttl))
                else:
                    self.tiers.unwanted(key)
        tiers, level, stale_ttl = self.tiers, request.level, request.stale_ttl
        try:
            if tiers.redis is not None and len(lasting) > 1 and not request.replaces:
                values |= tiers.store_loaded_many(lasting, level, stale_ttl)
                return
            for fence, value, ttl in lasting:
                if request.replaces:
                    tiers.writes.replace(fence, value, ttl, level, stale_ttl)
                else:
                    values[fence.key] = tiers.store_loaded(fence, value, ttl, level, stale_ttl)
        except CacheClosedError:
            pass  # closed during the load: nothing is stored, but the callers get the values
        except (TierUnavailableError, OnceOnlyError):
            raise  # of a strict cache; what can be read once is for no second caller
        except Exception as error:
            if is_interrupt(error):
                raise
            # Whatever it was, of a codec, a weigher or a tier of the user's: the load has been paid for.
            self._could_not_store([fence.key for fence, _, _ in lasting], error)

    def _could_not_store(self, keys: Sequence[str], error: Exception) -> None:
        self.log.add(f"loaded values were not stored, {shown_key(keys[0])} among them: {shown_error(error)}")
        for key in keys:  # nor may an older value be left
            self.tiers.writes.delete(key, CacheLevel.ALL)
        self.tiers.writes.not_stored(keys, error)

    def _fail(self, flights: Flights, error: Exception) -> Outcome[Any]:
        for flight in flights:
            if flight.is_unwatched:
                self.log.add(failed_load(flight.key, error))
            flight.set_exception(error)
        return Outcome(error=error)

    def _stale(
        self, keys: Sequence[str], request: LoadRequest, error: BaseException | None = None
    ) -> dict[str, Any]:
        """Return stale values to serve, perhaps because of an error; none unless all keys have one."""
        if request.replaces or not request.stale_ttl:
            return {}
        values = {key: self.tiers.peek_stale(key) for key in keys}
        if any(value is MISSING for value in values.values()):
            return {}
        count = len(values)
        self.figures.stale_served += count
        if error is not None:
            self.log.add(failed_load(keys[0], error))
        return values


def raise_error(failed: Outcome[Any] | None) -> None:
    """Raise the error of a path that failed, as the load raised it."""
    if failed is not None:
        try:
            failed.get()
        finally:
            del failed  # the traceback of its error refers to this frame


def failed_load(key: str, error: BaseException) -> str:
    """Return the log line of a load whose error no caller gets."""
    return f"load of {shown_key(key)} failed, serving the old value if there is one: {shown_error(error)}"


def _check_batch(loaded: object, keys: Sequence[str]) -> None:
    if not isinstance(loaded, Mapping):
        raise TypeError(f"loader must return a mapping from key to value, not a {type(loaded).__name__}")
    surplus = loaded.keys() - set(keys)
    if surplus:
        raise ValueError(
            f"loader returned keys that it was not asked for: {shown_keys(list(surplus)[:5])}; "
            f"return only keys of its argument{how_to_show()}"
        )
