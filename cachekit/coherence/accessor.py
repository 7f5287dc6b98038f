"""A lower tier as a cache uses it: behind a breaker, so that an outage costs a bounded time and no exception.

A call to a tier that fails becomes `UNAVAILABLE`, is counted, and is logged once per outage. What the
tier missed meanwhile is journalled, and made good before the tier is asked anything again, so that a
failing tier never brings back what was overwritten or invalidated. Every close of the breaker is a gap in
what other caches had to say, too; `recovered` tells the cache, which stops trusting its copies.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, Literal, ParamSpec, TypeAlias, TypeVar, final

from cachekit.coherence.breaker import BreakerState, CircuitBreaker
from cachekit.coherence.notifications import acting_for
from cachekit.coherence.pending_invalidations import Invalidations, PendingInvalidations
from cachekit.errors import CacheClosedError, TierUnavailableError
from cachekit.model.counters import LatencyHistogram
from cachekit.runtime.clock import Clock, SystemClock
from cachekit.runtime.scheduler import ScheduledTask, scheduler
from cachekit.tiers.base import InvalidatesPatterns, InvalidatesTags, ServerTier, Tier

if TYPE_CHECKING:
    import logging


from typing import Generic

from cachekit.model.stats import COUNTED, CacheStats

P = ParamSpec("P")
R = TypeVar("R")


class _Unavailable(enum.Enum):
    UNAVAILABLE = "UNAVAILABLE"

    def __repr__(self) -> str:
        return "UNAVAILABLE"

    def __bool__(self) -> Literal[False]:
        return False


#: What a call returns if the tier could not answer; false, as is a write that was not done.
UNAVAILABLE: Final = _Unavailable.UNAVAILABLE
Unavailable: TypeAlias = Literal[_Unavailable.UNAVAILABLE]

#: Seconds between two looks at whether an open breaker is due; no I/O unless it is.
_TICK: Final = 0.05
#: How many names are carried out between two looks at the lock.
_BATCH: Final = 1_000
#: One call in so many is timed.
_SAMPLE: Final = 64
#: Seconds between two warnings of a tier without room: one near its limit has room now and then.
_FULL_WARNING: Final = 60.0


def _do_nothing() -> None:
    pass


@final
class Accessor:
    """One lower tier behind its breaker. Every method is safe in any thread, before and after a fork.

    Args:
        name: what people call the tier, as in a log line.
        tier: the tier. It stays the caller's: `close` does not close it.
        strict: whether a failure is raised, as TierUnavailableError, and not returned as `UNAVAILABLE`.
        recovered: called when an outage is over, before the first call goes through again and once more
            when calls do; by a background thread. If it raises the first time, the outage goes on and it
            is called again.
        probe: something cheap that fails while the tier is out, else asking for its size.
        actor: in whose name the tier is called (see `speaking`); None for nobody's.
        clock: where the time comes from.

    `call` is for operations that need no room, `store` for those that do. Whoever is told `UNAVAILABLE`
    by a write, or catches its error under `strict`, then says what was missed: `missed_keys`,
    `missed_tags`, `missed_pattern`, `missed_everything`. Only then does the cache's own call return.
    """

    __slots__ = (
        "__weakref__", "_breaker", "_calls", "_clock", "_closed", "_full_since", "_full_warned", "_job",
        "_pending", "_probe", "_recovered", "_refused_before", "_speaker", "_tier", "errors", "latency",
        "name", "refused", "strict", "unavailable",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        tier: Tier,
        *,
        strict: bool = False,
        recovered: Callable[[], object] = _do_nothing,
        probe: Callable[[], object] | None = None,
        actor: object = None,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self.strict = strict
        self._tier = tier
        self._recovered = recovered
        self._probe = tier.size if probe is None else probe
        self._speaker = actor
        self._clock: Clock = SystemClock() if clock is None else clock
        self._breaker = CircuitBreaker(self._clock.monotonic)
        self._pending = PendingInvalidations()
        self._job: ScheduledTask | None = None
        self._closed = False
        self._full_since: float | None = None
        self._full_warned: float | None = None
        self._calls = 0
        self._refused_before = 0
        #: Calls that the tier failed, without room included; probes are not counted.
        self.errors = 0
        #: Calls that the breaker refused.
        self.refused = 0
        #: Lookups that the breaker refused; those that the tier failed it counts itself.
        self.unavailable = 0
        #: Durations of successful calls, one in 64.
        self.latency = LatencyHistogram()

    @property
    def state(self) -> BreakerState:
        """Of the breaker, in a word."""
        return self._breaker.state

    @property
    def outages(self) -> int:
        """How many there have been, one under way included."""
        return self._breaker.outages

    @property
    def is_out(self) -> bool:
        """Whether calls are refused."""
        return self._breaker.refuses

    @property
    def out_for(self) -> float:
        """Seconds that an outage has lasted; 0 if there is none."""
        return self._breaker.open_for

    @property
    def is_full(self) -> bool:
        """Whether the last write found no room."""
        return self._full_since is not None

    @property
    def pending(self) -> int:
        """How many invalidations the tier still has to be told, "everything" being one."""
        with self._breaker.lock:
            return len(self._pending)

    # -- calls --------------------------------------------------------------------------------------

    def call(self, operation: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R | Unavailable:
        """The result of an operation of the tier, or `UNAVAILABLE`.

        Raises:
            TierUnavailableError: under `strict` only.
            Exception: any other that the operation raises; those say nothing about the tier's health.
        """
        return self._refuse() if self._breaker.refuses else self._carry(operation, *args, **kwargs)

    def _carry(self, operation: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R | Unavailable:
        self._calls += 1
        timed = not self._calls % _SAMPLE
        begin = time.perf_counter() if timed else 0.0
        begun = self._clock.monotonic()
        try:
            if self._speaker is None:
                result = operation(*args, **kwargs)
            else:
                result = acting_for(self._speaker, operation, *args, **kwargs)
        except TierUnavailableError as error:
            self._failed(error, begun)
            if self.strict:
                raise
            return UNAVAILABLE
        if timed:
            self.latency.record(time.perf_counter() - begin)
        return result

    def lookup(
        self, count: int, operation: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R | Unavailable:
        """`call` for something that looks up `count` keys, which are `unavailable` if it is refused."""
        # Asked once: a breaker that closed in between would have the tier count the lookup too.
        if not self._breaker.refuses:
            return self._carry(operation, *args, **kwargs)
        self.unavailable += count
        return self._refuse()

    def store(self, operation: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R | Unavailable:
        """`call` for something that needs room; when it succeeds, the tier has some."""
        result = self.call(operation, *args, **kwargs)
        if self._full_since is not None and result is not UNAVAILABLE:
            self._full_since = None
        return result

    def _refuse(self) -> Unavailable:
        self.refused += 1
        if self._job is None and not self._closed:
            # Whoever began the outage was cut off, by a fork or a signal, before it could see to this.
            self._probe_with(scheduler.every(_TICK, self.probe))
        if self.strict:
            raise TierUnavailableError(
                f"the {self.name} tier has been out for {self._breaker.open_for:.1f} s; "
                f"it is tried again in the background"
            )
        return UNAVAILABLE

    def _failed(self, error: TierUnavailableError, begun: float) -> None:
        self.errors += 1
        if error.full:
            self._no_room(error)
        elif self._breaker.trip(begun):
            self._began(error)

    def _no_room(self, error: TierUnavailableError) -> None:
        # The breaker stays closed: what is there can be read, and removing needs no room.
        now = self._clock.monotonic()
        with self._breaker.lock:
            begins = self._full_since is None
            self._full_since = now
            warn = begins and (self._full_warned is None or now - self._full_warned >= _FULL_WARNING)
            if warn:
                self._full_warned = now
        if warn:
            _logger().warning("the %s tier has no room; it is read, but not written: %s", self.name, error)

    def _began(self, error: TierUnavailableError) -> None:
        self._refused_before = self.refused
        _logger().warning("the %s tier is out; going on without it: %s", self.name, error)
        # Outside the lock: upkeep has a lock of its own.
        self._probe_with(scheduler.every(_TICK, self.probe))

    # -- what it missed -----------------------------------------------------------------------------

    def missed_keys(self, keys: Iterable[str]) -> None:
        """The tier did not learn, or may not have, that these keys were written or deleted.

        During an outage this is noted. Otherwise the call failed and the tier is in order again, or was
        never out: the keys are removed from it now, and noted only if that fails.
        """
        names = dict.fromkeys(keys, 0)
        self._missed(Invalidations(0, names, {}, {}))

    def missed_tags(self, tags: Iterable[str]) -> None:
        """The same of tags that were invalidated."""
        self._missed(Invalidations(0, {}, dict.fromkeys(tags, 0), {}))

    def missed_pattern(self, pattern: str) -> None:
        """The same of the keys that a regular expression matches."""
        self._missed(Invalidations(0, {}, {}, {pattern: 0}))

    def missed_everything(self) -> None:
        """The same of all keys."""
        self._missed(Invalidations(1, {}, {}, {}))

    def _missed(self, missed: Invalidations) -> None:
        with self._breaker.lock:
            # While it closes nobody adds to the journal, or a busy cache would keep it from ever being
            # empty: the tier works by then, so each carries out its own.
            if self._breaker.state in ("open", "probing"):
                self._note(missed)
                return
        try:
            acting_for(self._speaker, self._carry_out, missed)
        except CacheClosedError:
            raise
        except BaseException as error:
            # Whatever it was: the tier still has what it must not serve.
            with self._breaker.lock:
                self._note(missed)
                began = self._breaker.trip()
            if not isinstance(error, TierUnavailableError):
                if began:
                    self._began(TierUnavailableError(f"it could not be told what it missed: {error}"))
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
        tier = self._tier
        if missed.everything:
            tier.clear()  # which breaks every fence, too
            return
        if missed.keys:
            if isinstance(tier, ServerTier):
                tier.remove_many(list(missed.keys))
            else:
                for key in missed.keys:
                    tier.delete(key)
        if missed.tags:
            if isinstance(tier, InvalidatesTags):
                tier.invalidate_by_tags(list(missed.tags))
            else:
                tier.clear()
        for pattern in missed.patterns:
            if isinstance(tier, InvalidatesPatterns):
                tier.invalidate_by_pattern(pattern)
            else:
                tier.clear()

    # -- recovery -----------------------------------------------------------------------------------

    def probe(self) -> None:
        """Try a tier that is out, if it is time to, and trust it again if it works.

        Upkeep calls this, whose one thread waits for a server that does not answer as long as the tier's
        timeout is; other upkeep of the process is that much later.

        The order: the tier answers; it is told what it missed, or it would bring that back; the cache is
        told, and drops its copies, since nobody said what other caches wrote meanwhile, and since none
        may be kept by a call that goes through from now on; the rest of what was missed; and only when
        nothing is left, looked at under the lock, calls go through. Then the cache is told again: a call
        that was refused at the very end may have kept what the tier would not have vouched for.
        """
        breaker = self._breaker
        if self._closed or not breaker.refuses:
            self._probe_with(None)
            return
        if not breaker.begin_probe():
            return
        took: float | None = None
        try:
            self._probe()
            # As much as a full journal: a busy cache may be adding to it all the time.
            self._replay()
            self._recovered()
            if breaker.begin_closing():
                self._replay()
                took = breaker.close_if(lambda: not self._pending)
            if took is not None:
                self._recovered()
        except (TierUnavailableError, CacheClosedError):
            pass  # not back yet, or closed below us: neither is news
        finally:
            if took is None:
                breaker.probe_failed()
        if took is not None:
            refused = self.refused - self._refused_before
            _logger().info(
                "the %s tier is back after %.1f s, in which %d calls were refused", self.name, took, refused
            )
            self._probe_with(None)

    def _replay(self) -> None:
        with self._breaker.lock:
            batches = len(self._pending) // _BATCH + 1
        for _ in range(batches):
            with self._breaker.lock:
                missed = self._pending.next_batch(_BATCH)
            acting_for(self._speaker, self._carry_out, missed)
            with self._breaker.lock:
                self._pending.acknowledge(missed)

    def _probe_with(self, job: ScheduledTask | None) -> None:
        with self._breaker.lock:
            before, self._job = self._job, job
        if before is not None:
            before.cancel()

    def close(self) -> None:
        """End the background work; what the tier still had to be told is forgotten with it."""
        self._closed = True
        self._probe_with(None)


def _logger() -> logging.Logger:
    import logging

    return logging.getLogger("cachekit")


T = TypeVar("T", bound=Tier)


@final
class Lower(Generic[T]):
    """A tier below memory, and the accessor through which every call to it goes."""

    __slots__ = ("access", "tier")

    def __init__(self, tier: T, access: Accessor) -> None:
        self.tier = tier
        self.access = access

    def get_stats(self) -> CacheStats:
        """The tier's own figures, with the lookups that never came to it."""
        figures = self.tier.get_stats().to_dict()
        numbers = {name: figures[name] for name in COUNTED}
        never = self.access.unavailable  # once: it moves
        numbers["unavailable"] += never
        numbers["requests"] += never
        return CacheStats(**numbers)
