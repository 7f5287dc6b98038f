"""Which keys of a memory tier are simulated, when, and for how much of a core.

Notes of `sampling` wait in a deque. The background thread simulates them a few times a second, and a write
does if they become many. All of that may take two hundredths of a core, after 0.2 s of credit. If that is not
enough, the limit is halved. Single requests are never left out, because that would change the stream.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Literal, final

from cachekit.model.reports import SizeEstimate
from cachekit.model.types import CacheStrategy
from cachekit.runtime import fork
from cachekit.runtime.interrupts import raise_interrupt
from cachekit.runtime.reentrant_lock import RLock
from cachekit.runtime.scheduler import ScheduledTask, scheduler
from cachekit.tiers.memory.entry import MemoryEntry
from cachekit.tiers.memory.sampling import HITS, SPREAD, SampledFence
from cachekit.tiers.memory.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cachekit.tiers.memory.eviction.adaptive import Adaptive
    from cachekit.tiers.memory.size_simulation import ShapeChoice, Simulation

_FEWEST: Final = 80  # sampled entries, if the cache has so many
_MOST: Final = 200
_SHARE: Final = 0.05  # of the entries, between these two
_FEWEST_ADAPTIVE: Final = 100  # sampled entries for the choice of a shape
_SHARE_ADAPTIVE: Final = 0.02
_MOST_ADAPTIVE: Final = 2_000
_PER_ENTRY: Final = 20  # notes that may wait for each sampled entry: more than an entry notes in a round
_TOO_FEW: Final = 20  # sampled entries below which nothing is simulated
_WAITING: Final = 4096  # notes that may wait
_FIRST: Final = 256  # notes before the background thread is asked for
_MANY: Final = 1_000  # notes from which each write of a sampled key simulates some itself
_SOME: Final = 50  # so many, which take some 1.5 ms: the caller waits, and with it an event loop
_FEW: Final = 20_000  # entries that are marked in the thread of a round, which takes some 10 ms
_INTERVAL: Final = 0.25  # seconds between two rounds
_IDLE: Final = 2.0  # seconds after a round without a note
_BUDGET: Final = 0.02  # of a core
_CREDIT: Final = 0.2  # seconds of processor time
_TOO_FAST: Final = "too many requests a second for the share of a core that the simulation may take"
_PAUSE: Final = 60.0  # seconds without simulation after the limit became too low


@final
class KeySample:
    """The sample of the keys of one memory tier, and the time that its simulation may take.

    Args:
        store: The store of the tier; only a weak reference is kept.
        strategy: The policy of the tier.
        lookups: Returns the hits and misses of the tier.
        max_bytes: The bound of the tier in bytes; None for no bound.
        adaptive: The policy of the tier, if its shape is to be chosen.

    Notes are appended without a lock, which is one step under the GIL. One lock guards the simulation. The
    lock of the store is never taken while it is held.
    """

    __slots__ = (
        "__weakref__", "_adaptive", "_beginner", "_closed", "_credit", "_fork_guard", "_is_busy", "_limit",
        "_lock", "_lookups", "_lost", "_max_bytes", "_muted", "_paused_until", "_refilled", "_simulation",
        "_store", "_strategy", "_task", "_why", "notes", "seconds", "sleeps",
    )  # fmt: skip

    def __init__(
        self,
        store: Store,
        strategy: CacheStrategy,
        lookups: Callable[[], tuple[int, int]],
        max_bytes: int | None,
        adaptive: Adaptive[str] | None = None,
    ) -> None:
        self._adaptive = adaptive
        self._store = weakref.ref(store)
        self._strategy = strategy
        self._lookups = lookups
        self._max_bytes = max_bytes
        #: What happened to sampled keys since the last round, in order.
        self._limit = self._limit_for(store.max_size)
        waiting = max(_WAITING, round(_PER_ENTRY * store.max_size * self._limit / SPREAD))
        self.notes: deque[Any] = deque(maxlen=waiting)
        #: Whether notes were lost since the last round, because more came than are simulated.
        self._lost = False
        self._muted: dict[str, tuple[MemoryEntry, int]] = {}
        self._simulation: Simulation | None = None
        #: Whether no background thread simulates yet.
        self.sleeps = True
        #: Seconds of processor time that the simulation has taken.
        self.seconds = 0.0
        self._credit = _CREDIT
        self._refilled = store.time.monotonic()
        self._paused_until: float | None = None
        self._why = ""  # it is paused
        self._task: ScheduledTask | None = None
        #: The thread that begins again with another sample of many entries.
        self._beginner: threading.Thread | None = None
        self._closed = False
        self._is_busy = False
        self._lock = RLock()
        self._fork_guard = fork.ForkSafeLock(self._lock)
        store.sampled = self._limit

    # -- notes: called by the store -----------------------------------------------------------------

    def mute(self, key: str, mark: SampledFence) -> None:
        """Take the mark off an entry that is read often, until the next round."""
        store = self._store()
        held = None if store is None else store.held(key)
        if held is not None and held.shared_fence is mark:
            # The hit that is being noted is not in `accesses` yet.
            self._muted[key] = held, held.accesses + 1
            # Nothing runs between the next lines, so this replaces no newer fence.
            if held.shared_fence is mark:
                held.shared_fence = mark.fence

    def unmute(self, key: str) -> None:
        """Note the hits of an entry without its mark, which another entry or value is going to replace."""
        muted = self._muted.pop(key, None)
        if muted is not None:
            held, before = muted
            self.notes.append((HITS, key, held.accesses - before))

    def wake(self) -> None:
        """Simulate in the background from now on; some notes at once if there are many. No lock is held."""
        waiting = len(self.notes)
        if waiting < _FIRST or self._closed:
            return
        if waiting > _MANY:
            # Other threads are faster than a round that is under way, where they need not wait for the GIL.
            self._lost = self._lost or waiting == self.notes.maxlen
            self._simulate_some()
        if self.sleeps:
            self.sleeps = False
            task = scheduler.every(_INTERVAL, self._run)
            with self._lock:
                if self._task is None and not self._closed:
                    self._task = task
                    return
            task.cancel()

    # -- rounds -------------------------------------------------------------------------------------

    def _run(self) -> None:
        busy = bool(self.notes)
        self.simulate()
        task = self._task
        if task is not None:
            task.interval = _INTERVAL if busy else _IDLE

    def _simulate_some(self) -> None:
        """Simulate the oldest notes, with a smaller sample from now on if that takes too long."""
        store = self._store()
        if store is None or self._is_busy or self._paused_until is not None:
            return
        limit = self._exclusively(store, self._advance)
        if limit is not None:
            self._change_limit(store, limit)

    def simulate(self) -> None:
        """Simulate all notes, and mark entries again that had lost their mark."""
        store = self._store()
        muted = [held for held, _ in list(self._muted.values())]
        if muted and store is not None:
            store.mark(muted)
        if store is None:
            return
        limit = self._exclusively(store, self._round)
        if limit is not None:
            self._change_limit(store, limit)

    def _exclusively(self, store: Store, step: Callable[[Store], int | None]) -> int | None:
        """Return what a step of the simulation returns; None if another one is under way."""
        with self._lock:
            # A finalizer or signal handler in the middle of a round of this thread comes here, too.
            if self._closed or self._is_busy:
                return None
            self._is_busy = True
            try:
                return step(store)
            except BaseException:
                self._restart(store, store.sampled, store.all_held())  # half of a note may be simulated
                raise
            finally:
                self._is_busy = False

    def _change_limit(self, store: Store, limit: int) -> None:
        if len(store) <= _FEW:
            self._begin_again(limit)
        elif self._beginner is None or not self._beginner.is_alive():
            # This thread is that of all upkeep, or of a write.
            self._beginner = scheduler.run_apart(partial(self._begin_again, limit))

    def _begin_again(self, limit: int) -> None:
        """Begin with another sample, and mark its entries."""
        store = self._store()
        if store is None:
            return
        held = store.all_held()
        sampled = [one for one in held if hash(one.key) % SPREAD < limit]
        with self._lock:
            if self._closed or self._is_busy:
                return  # a later round finds out again
            self._is_busy = True
            try:
                self._restart(store, limit, sampled)
            finally:
                self._is_busy = False
        store.mark(held)

    def _advance(self, store: Store) -> int | None:
        """Simulate some notes; return the limit to begin again with, or None to go on."""
        self._run_notes(store, _SOME)
        if self._credit >= 0:
            return None
        self._credit = 0.0
        return store.sampled // 2

    def _round(self, store: Store) -> int | None:
        """Simulate the notes; return the limit to begin again with, or None to go on."""
        now = store.time.monotonic()
        if self._paused_until is not None:
            return None if now < self._paused_until else self._limit
        lost = self._lost or len(self.notes) == self.notes.maxlen
        self._credit = min(_CREDIT, self._credit + _BUDGET * (now - self._refilled))
        self._refilled = now
        self._run_notes(store, len(self.notes), self._totals(store))
        limit = store.sampled
        if self._credit < 0 or lost:
            limit //= 2
            self._credit = 0.0
        elif self._max_bytes is not None and store.counter.evictions:
            # Full with fewer entries than max_size: the sample would be too small.
            wanted = self._limit_for(len(store))
            limit = wanted if wanted > 2 * limit else limit
        return None if limit == store.sampled else limit

    def _run_notes(self, store: Store, most: int, totals: tuple[int, int, int] | None = None) -> None:
        """Simulate the oldest notes, and with totals end a round; take the time from the budget."""
        begun = time.thread_time()
        simulation = self._simulation
        if simulation is None:
            simulation = self._simulation = self._new(store, (0, 0, 0))
            if simulation is None:
                return
        simulation.run(self.notes, most)
        policy, choice = self._adaptive, simulation.choice
        if policy is not None and choice is not None and choice.shape != policy.shape:
            self._change_shape(policy, choice)
        if totals is not None:
            simulation.end_round(totals)
        used = time.thread_time() - begun
        self.seconds += used
        self._credit -= used

    def _change_shape(self, policy: Adaptive[str], choice: ShapeChoice) -> None:
        import logging

        logging.getLogger("cachekit").debug(
            "adaptive eviction: %s, instead of %s: it served %.1f points more of the requests of the sample",
            choice.shape, policy.shape, 100 * choice.lead,
        )  # fmt: skip
        policy.change(choice.shape, choice.lead)

    def _limit_for(self, entries: int) -> int:
        """Return the limit of hashes for a cache with so many entries."""
        wanted = min(max(entries * _SHARE, _FEWEST), _MOST)
        if self._adaptive is not None:
            wanted = min(max(wanted, entries * _SHARE_ADAPTIVE, _FEWEST_ADAPTIVE), _MOST_ADAPTIVE)
        return SPREAD if wanted >= entries else round(SPREAD * wanted / entries)

    def _totals(self, store: Store) -> tuple[int, int, int]:
        # An estimate is of caches that copy all hits of lower tiers.
        return *self._lookups(), store.counter.sets + store.uncopied

    def _new(self, store: Store, totals: tuple[int, int, int]) -> Simulation | None:
        try:
            from cachekit.tiers.memory.size_simulation import Simulation
        except OSError as error:
            # No descriptor is free. A caller may be storing a value, so the next round tries again.
            raise_interrupt(error)
            self._pause(store, 0.0, f"the simulation could not be loaded: {error.strerror or error}")
            return None

        share = store.sampled / SPREAD
        policy = self._adaptive
        shape = None if policy is None else policy.shape
        return Simulation(self._strategy, store.max_size, self._max_bytes, share, totals, shape)

    def _restart(self, store: Store, limit: int, held: Sequence[MemoryEntry]) -> None:
        """Forget the notes, and simulate another sample: those of the entries that are in it."""
        self.notes.clear()
        self._lost = False
        self._muted = {}
        self._paused_until = None
        if limit / SPREAD * min(store.max_size, max(len(store), 1)) < _TOO_FEW and limit < SPREAD:
            self._pause(store, _PAUSE, _TOO_FAST)
        else:
            store.sampled = limit
            self._simulation = self._new(store, self._totals(store))
            if self._simulation is not None:
                self._simulation.warm(held, limit)

    def _pause(self, store: Store, seconds: float, why: str) -> None:
        """Note and simulate nothing, until the first round after so many seconds."""
        store.sampled = 0
        self._simulation = None
        self._paused_until = store.time.monotonic() + seconds
        self._why = why

    def estimate(self, last: int | None) -> SizeEstimate:
        """Return the hit rates that other sizes would have, over the last so many requests, or all."""
        self.simulate()
        with self._lock:
            store = self._store()
            if self._simulation is not None and store is not None:
                return self._simulation.estimate(last, self._totals(store))
        size = self._max_bytes
        if size is None:
            size = 0 if store is None else store.max_size
        reason = "too few requests"
        if self._closed:
            reason = "the cache was closed"
        elif self._paused_until is not None:
            reason = self._why
        unit: Literal["entries", "bytes"] = "entries" if self._max_bytes is None else "bytes"
        return SizeEstimate(size, {}, {}, 0, 0.0, unit, reason)

    def close(self) -> None:
        """End the simulation."""
        with self._lock:
            self._closed = True
            self._simulation = None
            self.notes.clear()
            self._muted = {}
            task, self._task = self._task, None
        if task is not None:
            task.cancel()
