"""TierAccessor: one lower tier behind a circuit breaker. An outage costs a bounded time and no exception.

A call that the tier fails returns `UNAVAILABLE`. It is counted, and logged once per outage. What the tier
missed is kept in `pending_invalidations` and carried out before the tier is used again. So a tier that comes
back never serves what was overwritten or invalidated.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, ParamSpec, TypeAlias, TypeVar, final

from cachekit.coherence.breaker import BreakerState, CircuitBreaker
from cachekit.coherence.notifications import acting_for
from cachekit.coherence.pattern_union import union_of
from cachekit.coherence.pending_invalidations import Invalidations, PendingInvalidations
from cachekit.errors import CacheClosedError, TierUnavailableError
from cachekit.model.entry import CacheEntry
from cachekit.model.stats import COUNTED, CacheStats
from cachekit.runtime.clock import Clock, SystemClock, source_of
from cachekit.runtime.scheduler import ScheduledTask, scheduler
from cachekit.tiers.base import DirectoryTier, ServerTier

if TYPE_CHECKING:
    import logging

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", bound=DirectoryTier | ServerTier)


class _Unavailable(enum.Enum):
    UNAVAILABLE = "UNAVAILABLE"

    def __repr__(self) -> str:
        return "UNAVAILABLE"

    def __bool__(self) -> Literal[False]:
        return False


#: What a call returns if the tier could not answer. It is false, like a write that was not done.
UNAVAILABLE: Final = _Unavailable.UNAVAILABLE
Unavailable: TypeAlias = Literal[_Unavailable.UNAVAILABLE]

#: Seconds between two checks of whether an open breaker is due; a check does no I/O unless it is.
_TICK: Final = 0.05
#: How many pending names are carried out between two acquisitions of the lock.
_BATCH: Final = 1_000
#: Seconds between two warnings about a full tier, because a tier near its limit has room now and then.
_FULL_WARNING: Final = 60.0
#: The operations of a tier that store something.
_STORING: Final = ("set", "put", "put_many", "create", "add", "add_many")
#: The operations that look up one key and count it.
_LOOKUPS: Final = ("get", "look")


def _do_nothing() -> None:
    pass


@final
class TierAccessor(Generic[T]):
    """One lower tier behind its circuit breaker. Safe in any thread, before and after a fork.

    Args:
        name: the tier's name in log lines, errors and statistics.
        tier: the tier. `close` does not close it.
        strict: whether a failure raises TierUnavailableError, instead of returning `UNAVAILABLE`.
        recovered: called when an outage ends: before calls go through again, and once more when they do. A
            background thread calls it. If it raises the first time, the outage goes on.
        actor: the object in whose name the tier is called (see `notifications.acting_for`), or None.
        clock: the clock of outages.

    After a write that returned `UNAVAILABLE`, or raised under `strict`, the caller reports what the tier
    missed: `missed_keys`, `missed_tags`, `missed_pattern` or `missed_everything`. Only then does the
    cache's own call return.
    """

    __slots__ = (
        "__weakref__", "_actor", "_closed", "_full_warned", "_get_many", "_is_server", "_job", "_lookups",
        "_pending", "_recovered", "_refused_before", "_storing", "breaker", "clock", "errors", "is_full",
        "name", "refused", "strict", "tier", "unavailable",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        tier: T,
        *,
        strict: bool = False,
        recovered: Callable[[], object] = _do_nothing,
        actor: object = None,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self.tier: T = tier
        self.strict = strict
        self._recovered = recovered
        self._actor = actor
        # Asked once: an `isinstance` with a Protocol looks at each of its members.
        self._is_server = isinstance(tier, ServerTier)
        self._storing = _methods(tier, _STORING) | {self.put_now_of()}
        self._lookups = _methods(tier, _LOOKUPS)
        self._get_many = _methods(tier, ("get_many",)) | {self.values_of()}
        clock = SystemClock() if clock is None else clock
        #: What the time of outages is read from.
        self.clock = source_of(clock)
        #: Its state. `refuses` says whether calls are refused.
        self.breaker = CircuitBreaker(clock.monotonic)
        self._pending = PendingInvalidations()
        self._job: ScheduledTask | None = None
        self._closed = False
        #: Whether the last write found no room.
        self.is_full = False
        self._full_warned: float | None = None
        self._refused_before = 0
        #: Calls that the tier failed, including those without room, and excluding probes.
        self.errors = 0
        #: Calls that the breaker refused.
        self.refused = 0
        #: Lookups that the breaker refused. The tier itself counts those that it failed.
        self.unavailable = 0

    @property
    def state(self) -> BreakerState:
        """The state of the breaker."""
        return self.breaker.state

    @property
    def outages(self) -> int:
        """The number of outages, including one in progress."""
        return self.breaker.outages

    @property
    def is_out(self) -> bool:
        """Whether calls are refused."""
        return self.breaker.refuses

    @property
    def out_for(self) -> float:
        """Seconds since the outage began; 0 without one."""
        return self.breaker.open_for

    @property
    def pending(self) -> int:
        """The number of invalidations that the tier missed; "everything" counts as one."""
        with self.breaker.lock:
            return len(self._pending)

    def get_stats(self) -> CacheStats:
        """Return the tier's own statistics, plus the lookups that the breaker refused."""
        own = self.tier.get_stats().to_dict()
        numbers = {name: own[name] for name in COUNTED}
        refused = self.unavailable  # read once: it changes
        numbers["unavailable"] += refused
        numbers["requests"] += refused
        return CacheStats(**numbers)

    # -- calls --------------------------------------------------------------------------------------

    def call(self, operation: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R | Unavailable:
        """Return the result of an operation of the tier, or `UNAVAILABLE`.

        Raises:
            TierUnavailableError: under `strict` only.
            Exception: any other that the operation raises. Those say nothing about the tier's health.
        """
        # Read once: if the breaker closed between two reads, the tier would count a refused lookup too.
        if self.breaker.refuses:
            return self._refuse(operation, args)
        begun = self.clock.monotonic()
        try:
            if self._actor is None:
                result = operation(*args, **kwargs)
            else:
                result = acting_for(self._actor, operation, *args, **kwargs)
        except TierUnavailableError as error:
            self.failed(error, begun)
            if self.strict:
                raise
            return UNAVAILABLE
        if self.is_full and operation in self._storing:
            self.is_full = False
        return result

    def values_of(self) -> Callable[[Sequence[str]], dict[str, Any]] | None:
        """Return what gets values without their entries; None where the tier has no such way."""
        if not self._is_server:
            return None
        from cachekit.tiers.server_methods import values_of  # which only tiers on servers need

        return values_of(self.tier)

    def put_now_of(self) -> Callable[[Sequence[CacheEntry]], None] | None:
        """Return what stores entries in fewer round trips than `put`; None where the tier has no such way."""
        if not self._is_server:
            return None
        from cachekit.tiers.server_methods import put_now_of

        return put_now_of(self.tier)

    def _refuse(self, operation: Callable[..., object], args: tuple[Any, ...]) -> Unavailable:
        self.refused += 1
        if operation in self._lookups:
            self.unavailable += 1
        elif operation in self._get_many:
            asked = len(args[0])
            self.unavailable += asked
        if self._job is None and not self._closed:
            # The call that began the outage was interrupted, by a fork or a signal, before it did this.
            self._probe_with(scheduler.every(_TICK, self.look))
        if self.strict:
            raise TierUnavailableError(
                f"the {self.name} tier has been unavailable for {self.breaker.open_for:.1f} s; "
                f"cachekit probes it in the background"
            )
        return UNAVAILABLE

    def failed(self, error: TierUnavailableError, begun: float) -> None:
        """Note that a call which began then, by the monotonic clock, failed."""
        self.errors += 1
        if error.full:
            self._no_room(error)
        elif self.breaker.trip(begun):
            self._began(error)

    def has_room(self) -> None:
        """Note that a write succeeded."""
        self.is_full = False

    def _no_room(self, error: TierUnavailableError) -> None:
        # The breaker stays closed: reading and removing need no room.
        now = self.clock.monotonic()
        with self.breaker.lock:
            begins, self.is_full = not self.is_full, True
            warn = begins and (self._full_warned is None or now - self._full_warned >= _FULL_WARNING)
            if warn:
                self._full_warned = now
        if warn:
            _logger().warning("%s tier has no room, reading from it without storing: %s", self.name, error)

    def _began(self, error: TierUnavailableError) -> None:
        self._refused_before = self.refused
        _logger().warning("%s tier unavailable, bypassing it until it recovers: %s", self.name, error)
        # Outside the lock: the scheduler has a lock of its own.
        self._probe_with(scheduler.every(_TICK, self.look))

    # -- missed invalidations -----------------------------------------------------------------------

    def missed_keys(self, keys: Iterable[str]) -> None:
        """Note that the tier did not learn, or may not have, that these keys were written or deleted.

        During an outage they become pending. Otherwise the tier works again, or never stopped: the keys are
        removed from it now, and become pending only if that fails.
        """
        self._missed(Invalidations(0, dict.fromkeys(keys, 0), {}, {}))

    def missed_tags(self, tags: Iterable[str]) -> None:
        """Note that the tier may have missed the invalidation of these tags."""
        self._missed(Invalidations(0, {}, dict.fromkeys(tags, 0), {}))

    def missed_pattern(self, pattern: str) -> None:
        """Note that the tier may have missed the invalidation of keys that match a regular expression."""
        self._missed(Invalidations(0, {}, {}, {pattern: 0}))

    def missed_everything(self) -> None:
        """Note that the tier may have missed the invalidation of all keys."""
        self._missed(Invalidations(1, {}, {}, {}))

    def _missed(self, missed: Invalidations) -> None:
        with self.breaker.lock:
            # While the breaker is closing nothing becomes pending, or a busy cache would never let the
            # pending invalidations run out. The tier works by then, so each caller carries out its own.
            if self.breaker.state in ("open", "probing"):
                self._note(missed)
                return
        try:
            acting_for(self._actor, self._carry_out, missed)
        except CacheClosedError:
            raise
        except BaseException as error:
            # Whatever it was, the tier still has what it must not serve.
            with self.breaker.lock:
                self._note(missed)
                began = self.breaker.trip()
            if not isinstance(error, TierUnavailableError):
                if began:
                    self._began(TierUnavailableError(f"an invalidation failed: {error}"))
                raise
            self.errors += 1
            if began:
                self._began(error)

    def _note(self, missed: Invalidations) -> None:
        self._pending.add_keys(missed.keys)
        self._pending.add_tags(missed.tags)
        for pattern in missed.patterns:
            self._pending.add_pattern(pattern)
        if missed.everything:
            self._pending.add_everything()

    def _carry_out(self, missed: Invalidations) -> None:
        tier: DirectoryTier | ServerTier = self.tier
        if missed.everything:
            tier.clear()  # which breaks every fence too
            return
        if self._is_server and missed.keys:
            tier.remove_many(list(missed.keys))  # type: ignore[union-attr]  # it is a ServerTier
        else:
            for key in missed.keys:
                tier.delete(key)
        if missed.tags:
            tier.invalidate_by_tags(list(missed.tags))
        # Each call goes through all keys of the tier, and nothing else is probed during it.
        for pattern in union_of(missed.patterns):
            tier.invalidate_by_pattern(pattern)

    # -- recovery -----------------------------------------------------------------------------------

    def look(self) -> None:
        """Begin a probe in a thread of its own, if one is due; the scheduler calls this."""
        if self._closed or not self.breaker.refuses:
            self._probe_with(None)
        elif self.breaker.is_due:
            scheduler.run_apart(self.probe)

    def probe(self) -> None:
        """Try a tier that is out, if a probe is due, and use it again if it works.

        This waits as long as the tier's timeout for a server that does not answer, and goes through all keys
        of the tier if patterns were invalidated. So no other scheduled task may wait for it.

        The order of steps:

        1. The tier answers.
        2. It carries out what it missed. Otherwise it would bring that back.
        3. `recovered` is called, and the cache drops its copies in memory: other caches wrote during the
           outage, without a message. A call that goes through from now on must not find such a copy.
        4. It carries out the rest of what it missed. Under the lock, nothing is pending: calls go through.
        5. `recovered` is called again. A call that was refused at the very end may have stored a copy that
           the tier would not have confirmed.
        """
        breaker = self.breaker
        if self._closed or not breaker.refuses:
            self._probe_with(None)
            return
        if not breaker.begin_probe():
            return
        took: float | None = None
        try:
            self._ask()
            # As many as are pending now: a busy cache may be adding to them all the time.
            self._replay()
            self._recovered()
            if breaker.begin_closing():
                self._replay()
                took = breaker.close_if(lambda: not self._pending)
            if took is not None:
                self._recovered()
        except (TierUnavailableError, CacheClosedError):
            pass  # not back yet, or closed: the next probe finds out
        finally:
            if took is None:
                breaker.probe_failed()
        if took is not None:
            refused = self.refused - self._refused_before
            _logger().warning(  # at the level of the beginning: a log must not show the one alone
                "%s tier recovered after %.1f s, using it again: %d calls were refused",
                self.name, took, refused,
            )  # fmt: skip
            self._probe_with(None)

    def _ask(self) -> None:
        """Do something cheap that fails while the tier is out."""
        tier: DirectoryTier | ServerTier = self.tier
        if self._is_server:
            tier.ping()  # type: ignore[union-attr]  # it is a ServerTier
        else:
            tier.peek("")

    def _replay(self) -> None:
        with self.breaker.lock:
            batches = len(self._pending) // _BATCH + 1
        for _ in range(batches):
            with self.breaker.lock:
                missed = self._pending.next_batch(_BATCH)
            acting_for(self._actor, self._carry_out, missed)
            with self.breaker.lock:
                self._pending.acknowledge(missed)

    def _probe_with(self, job: ScheduledTask | None) -> None:
        with self.breaker.lock:
            before, self._job = self._job, job
        if before is not None:
            before.cancel()

    def close(self) -> None:
        """End the background work. Pending invalidations are forgotten."""
        self._closed = True
        self._probe_with(None)


def _methods(tier: object, names: Iterable[str]) -> frozenset[Callable[..., object]]:
    return frozenset(getattr(tier, name) for name in names if hasattr(tier, name))


def _logger() -> logging.Logger:
    import logging

    return logging.getLogger("cachekit")
