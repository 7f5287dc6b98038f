"""Prefetching: entries are in memory before they are asked for (`prefetch=True`).

A `Prefetcher` belongs to a cached function, a region with a loader, or a cache that only copies from its
lower tiers. It tells a `Predictor` of misses and first hits, and carries out what that predicts. All
prefetchers of a cache share its `PrefetchPool`: a few threads, the tasks of its loops, and the memory that
unproven entries may take.

A prefetch is a load like any other, which no caller waits for. So fences, tags, TTLs, leases and slots hold
for it. It does not wait for a lease or a slot. It runs in a copy of the context of the caller that it
follows, outside of the loads of that caller. What it misses in turn teaches nothing.

Keys that follow the clock are prefetched some seconds before their minute, in an empty context. The scheduler
looks for the minute that comes next, and a thread of its own finds the keys. A minute that was left out, such
as by a jump of the clock, is not made up for.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from contextvars import Context, ContextVar, copy_context
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final
from weakref import WeakSet

from cachekit.coherence.tier_stack import TierStack
from cachekit.errors import CacheClosedError
from cachekit.loading.flights import leave_loads
from cachekit.loading.options import Prefetch
from cachekit.loading.path import Blocking, Path, failed_load
from cachekit.loading.pause import pause
from cachekit.loading.predictor import Predictor, PrefetchCounters, PrefetchInfo, Unproven
from cachekit.loading.recurrence import Recurrence
from cachekit.loading.recurrence_record import KeyRecord, carried, recorded, restore, still_valid
from cachekit.loading.request import LoadRequest
from cachekit.loading.tasks_driver import AwaitedLoads
from cachekit.loading.threads_driver import Loads
from cachekit.model.counters import Lookups
from cachekit.model.types import MISSING, CacheLevel, Missing, RemovalCause
from cachekit.runtime import fork
from cachekit.runtime.background import BackgroundCall
from cachekit.runtime.reentrant_lock import RLock
from cachekit.runtime.scheduler import ScheduledTask, scheduler
from cachekit.tiers.memory.store import Store

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from cachekit.loading.hot_set import HotSet

#: The loader of a key and how it is loaded; None if the key cannot be loaded.
Job: TypeAlias = tuple[Callable[[], Any], LoadRequest] | None

_THREADS: Final = 4  # that prefetch for one cache
_TASKS: Final = 16
_IDLE: Final = 5.0  # seconds after which a thread without work ends
_ROWS: Final = 65_536
_ROWS_PER_ENTRY: Final = 4
_INTERVAL: Final = 5.0  # seconds between two looks at the clock
_AHEAD: Final = 20.0  # seconds before a minute in which its keys are prefetched
_EVICTED: Final = RemovalCause.EVICTED

#: The prefetcher whose load the current thread or task carries out.
_prefetching: ContextVar[Prefetcher | None] = ContextVar("cachekit_prefetching", default=None)


@final
class PrefetchPool:
    """What all prefetchers of one cache share. Safe in any thread, before and after a fork.

    Args:
        tiers: of the cache.
        memory: its store.
        loads, awaited: its loads, in threads and in tasks.
        hot_set: its keys that are used most, with which those that follow the clock are kept; None for none.
    """

    __slots__ = (
        "__weakref__", "_earlier", "_hot_set", "_job", "_lock", "_minute", "_owners", "_prefetchers",
        "_queue", "_round", "_running", "_tasks", "_unfinished", "_unsubscribe", "awaited", "closed",
        "counters", "loads", "memory", "tiers", "unproven",
    )  # fmt: skip

    def __init__(
        self, tiers: TierStack, memory: Store, loads: Loads, awaited: AwaitedLoads, hot_set: HotSet | None
    ) -> None:
        self._hot_set = hot_set
        #: The parts of the last record that no prefetcher has taken yet; None until it is read.
        self._earlier: dict[str, Any] | None = None
        self.tiers = tiers
        self.memory = memory
        self.loads = loads
        self.awaited = awaited
        self.counters = PrefetchCounters()
        self.unproven = Unproven(memory.max_size)
        self.closed = False
        self._prefetchers: WeakSet[Prefetcher] = WeakSet()
        #: The prefetchers of the entries in memory that no request has asked for yet.
        self._owners: dict[str, Prefetcher] = {}
        self._queue: SimpleQueue[tuple[Prefetcher, str, Context] | None] = SimpleQueue()
        self._lock = RLock()
        #: Threads, and keys that were given to them and are not over. The queue cannot tell which threads are
        #: idle: a key has left it before the thread that takes it can note so.
        self._running = self._unfinished = 0
        self._tasks = 0
        self._job: ScheduledTask | None = None
        self._round: BackgroundCall | None = None
        self._minute = -1  # for which keys were prefetched last
        self._unsubscribe = memory.on_removal(self._removed)
        fork.register(self)

    def add(self, prefetcher: Prefetcher) -> None:
        """Add a prefetcher, which the caller keeps."""
        follows = prefetcher.follows_clock
        job = scheduler.every(_INTERVAL, self.look) if follows and self._job is None else None
        with self._lock:
            self._prefetchers.add(prefetcher)
            if self._job is None and not self.closed:
                self._job, job = job, None
        if job is not None:
            job.cancel()

    def _all(self) -> list[Prefetcher]:
        with self._lock:
            return list(self._prefetchers)

    # -- the clock ----------------------------------------------------------------------------------

    def look(self) -> None:
        """Prefetch the keys of the minute that comes next, unless that is done or still under way."""
        if pause.is_on:
            return
        minute = int((self.tiers.clock.time() + _AHEAD) // 60)
        if minute != self._minute and (self._round is None or self._round.is_over):
            self._minute = minute
            self._round = BackgroundCall(partial(self._foresee, minute))
            self._round.start()

    def _foresee(self, minute: int) -> None:
        now = self.minute()
        for prefetcher in self._all():
            self._restore(prefetcher, now)
            if not self.closed:
                prefetcher.foresee(minute, now)

    def _restore(self, prefetcher: Prefetcher, now: int) -> None:
        if prefetcher.record is None or self._hot_set is None:
            return
        if self._earlier is None:
            record = self._hot_set.recurring()
            if record is None:
                return  # later: a record that was not read must not be overwritten
            self._earlier = still_valid(record, now)
        restore(self._earlier.pop(prefetcher.record.name, None), prefetcher.record, prefetcher.predictor, now)

    def minute(self) -> int:
        """Return the present minute, since 1970 in UTC."""
        return int(self.tiers.clock.time() // 60)

    def recorded(self) -> dict[str, Any]:
        """Return what is known of the keys that follow the clock, for the next process."""
        now, prefetchers = self.minute(), self._all()
        for one in prefetchers:
            self._restore(one, now)
        if self._earlier is None:
            return {}
        parts = ((one.record, one.predictor) for one in prefetchers if one.record is not None)
        return carried(self._earlier) | recorded(parts)

    # -- entries in memory --------------------------------------------------------------------------

    def watch(self, prefetcher: Prefetcher, key: str) -> None:
        """Report the first hit of a prefetched entry, or that it leaves."""
        self._owners[key] = prefetcher  # first: it may leave in between
        watched = self.memory.on_first_hit(key, partial(prefetcher.first_hit, key))
        if watched is None:  # it was invalidated, or is not to be stored
            self._owners.pop(key, None)
            prefetcher.predictor.lost(key)
        elif not watched:
            self._owners.pop(key, None)
            prefetcher.predictor.used(key)

    def unwatch(self, key: str) -> None:
        """Note that an entry was asked for."""
        self._owners.pop(key, None)

    def _removed(self, key: str, _: object, cause: RemovalCause) -> None:
        owner = self._owners.pop(key, None)
        if owner is not None:
            owner.predictor.lost(key)
        elif cause is _EVICTED:
            prefetcher = _prefetching.get()
            if prefetcher is not None and prefetcher.pool is self:
                prefetcher.predictor.pushed_out(key)

    # -- threads and tasks --------------------------------------------------------------------------

    def begin(self, prefetcher: Prefetcher, keys: Sequence[str]) -> None:
        """Prefetch keys in threads; it may be called under the lock of the store."""
        count = len(keys)
        with self._lock:
            self._unfinished += count
            for key in keys:
                self._queue.put((prefetcher, key, copy_context()))
            wanted = 0 if self.closed else min(self._unfinished, _THREADS)
            while self._running < wanted and BackgroundCall(self._work).start():
                self._running += 1

    def _work(self) -> None:
        # The caller in `begin` holds the lock, and waits until this thread runs. Without the next lines this
        # thread would go on, and take the permit or the connection that the load of the caller needs.
        with self._lock:
            pass
        while True:
            try:
                work = self._queue.get(timeout=_IDLE)
            except Empty:
                work = None
            if work is not None:
                prefetcher, key, context = work
                context.run(self._prefetch, prefetcher, key)
                del prefetcher, context
            with self._lock:
                if work is not None:
                    self._unfinished -= 1
                elif self.closed or self._queue.empty():
                    self._running -= 1
                    return
            del work

    def _prefetch(self, prefetcher: Prefetcher, key: str) -> None:
        try:
            self.loads.drive(prefetcher.path(key, None))
        except CacheClosedError:
            pass
        except BaseException as error:  # noqa: BLE001  # the thread is for the other keys, too
            prefetcher.failed(key, error)

    def begin_tasks(self, prefetcher: Prefetcher, keys: Sequence[str], loop: AbstractEventLoop) -> None:
        """Prefetch keys in tasks of the running loop."""
        for key in keys:
            if self._tasks >= _TASKS:
                prefetcher.predictor.dropped(key)
                continue
            self._tasks += 1
            task = self.loads.tasks.begin((), self._prefetch_async(prefetcher, key, loop))
            task.add_done_callback(self._task_ended)

    def _task_ended(self, _: object) -> None:
        self._tasks -= 1

    async def _prefetch_async(self, prefetcher: Prefetcher, key: str, loop: AbstractEventLoop) -> None:
        try:
            await self.awaited.drive(prefetcher.path(key, loop))
        except CacheClosedError:
            pass
        except Exception as error:  # noqa: BLE001  # no caller waits for it
            prefetcher.failed(key, error)

    # -- life ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """Begin no further prefetch, and end the threads; a load that is under way goes on."""
        self.closed = True
        self._unsubscribe()
        with self._lock:
            for _ in range(self._running):
                self._queue.put(None)
            job, self._job = self._job, None
        if job is not None:
            job.cancel()
        for prefetcher in self._all():
            prefetcher.predictor.close()
        self._owners.clear()

    def before_fork(self) -> None:
        """Take the lock."""
        self._lock.acquire()

    def after_fork(self, in_child: bool) -> None:
        """Release the lock. The threads and what they were about to do are not in a child."""
        if in_child:
            self._queue = SimpleQueue()
            self._running = self._unfinished = self._tasks = 0
            for prefetcher in list(self._prefetchers):
                prefetcher.drop_pending()
        self._lock.release()


def rows_of(options: Prefetch, size: int) -> int:
    """Return the most keys whose successors are known, for a memory tier of this size."""
    return min(_ROWS_PER_ENTRY * size, _ROWS) if options.rows is None else options.rows


@final
class Prefetcher:
    """Prefetches for one function, region or cache. Safe in any thread.

    Args:
        pool: of the cache.
        options: the numbers.
        job: Returns how to load a key; it may raise what the caller's functions raise.
        lookups: of the function or cache.
        may_begin: Returns whether the key can be prefetched.
        copies: Whether the lower tiers are asked first.
        is_async: whether the loaders are awaited, so that they run in tasks.
        record: What a record says of its keys that follow the clock; None if these are not recorded.
    """

    __slots__ = (
        "__weakref__", "_copies", "_is_async", "_job", "_lookups", "_loop", "follows_clock",
        "pool", "predictor", "record",
    )  # fmt: skip

    def __init__(
        self,
        pool: PrefetchPool,
        options: Prefetch,
        job: Callable[[str], Job],
        lookups: Lookups,
        *,
        may_begin: Callable[[str], bool] = bool,
        copies: bool = True,
        is_async: bool = False,
        record: KeyRecord | None = None,
    ) -> None:
        size = pool.memory.max_size
        self.pool = pool
        self._job = job
        self._lookups = lookups
        self._copies = copies
        self._is_async = is_async
        #: The loop of the last caller, for keys that no caller asks for at the moment.
        self._loop: weakref.ref[AbstractEventLoop] | None = None
        self.record = record
        self.follows_clock = options.clock
        self.predictor = Predictor(
            rows_of(options, size),
            options.depth,
            options.max_waste,
            size,
            pool.unproven,
            pool.counters,
            may_begin,
            Recurrence() if options.clock else None,
        )
        pool.add(self)

    # -- what callers do ----------------------------------------------------------------------------

    def missed(self, key: str) -> None:
        """Note that memory does not have a key that a caller asks for, and prefetch what follows."""
        self._begin(self.expected(key))

    def missed_unless_held(self, key: str) -> None:
        """Do what `missed` does, unless memory has the key."""
        if self.pool.memory.peek_value(key) is MISSING:
            self.missed(key)

    def expected(self, key: str) -> list[str]:
        """Note a miss, and return the keys that follow."""
        if _prefetching.get() is not None or self.pool.closed:
            return []
        lookups = self._lookups
        requests = lookups.hits + lookups.misses + lookups.skipped
        return self.predictor.missed(key, self._flow(), requests, self._minute())

    def first_hit(self, key: str) -> None:
        """Note the first hit of a prefetched entry, in the caller's thread or task; it raises nothing."""
        self.pool.unwatch(key)
        self._begin(self.predictor.hit(key, self._flow(), self._minute()))

    def _minute(self) -> int | None:
        return self.pool.minute() if self.follows_clock else None

    def find(self, key: str, level: CacheLevel) -> Any | Missing:
        """Return what `TierStack.find` returns. A server is asked for the key and what follows at once."""
        tiers, keys = self.pool.tiers, self.expected(key)
        if tiers.redis is None or not keys or level is not CacheLevel.ALL:
            self._begin(keys)
            return tiers.find(key, level)
        keys = [one for one in keys if self._is_wanted(one)]
        token = _prefetching.set(self)
        try:
            found = tiers.find_ahead(key, keys)
        finally:
            _prefetching.reset(token)
        for one in keys:
            if one in found:
                self._landed(one, False)
            else:
                self.predictor.lost(one)
        return found.get(key, MISSING)

    def _flow(self) -> int:
        if self._is_async:
            import asyncio

            try:
                task = asyncio.current_task()
                if self.follows_clock and task is not None:
                    self._loop = weakref.ref(task.get_loop())
                return id(task)
            except RuntimeError:  # a thread has hit what a task has prefetched
                pass
        return threading.get_ident()

    def _begin(self, keys: Sequence[str]) -> None:
        if not keys:
            return
        if not self._is_async:
            self.pool.begin(self, keys)
            return
        import asyncio

        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            for key in keys:
                self.predictor.dropped(key)
        else:
            self.pool.begin_tasks(self, keys, loop)

    # -- the clock ----------------------------------------------------------------------------------

    def foresee(self, minute: int, now: int) -> None:
        """Prefetch the keys that the clock foresees for the next minute."""
        tiers, flights = self.pool.tiers, self.pool.loads.flights
        due = [
            key
            for key in self.predictor.due(minute, now)
            if tiers.peek_memory(key) is MISSING and key not in flights
        ]
        keys = self.predictor.foresee(due, minute) if due else []
        if not keys:
            return
        context = Context()  # no caller asks for them, so none gives its own
        if not self._is_async:
            context.run(self.pool.begin, self, keys)
            return
        loop = None if self._loop is None else self._loop()
        try:
            if loop is not None:
                loop.call_soon_threadsafe(self.pool.begin_tasks, self, keys, loop, context=context)
                return
        except RuntimeError:  # the loop is closed
            pass
        for key in keys:
            self.predictor.dropped(key)

    def drop_pending(self) -> None:
        """Forget the prefetches that are under way, and the loop, which are those of the parent of a fork."""
        self._loop = None
        self.predictor.drop_pending()

    # -- a prefetch ---------------------------------------------------------------------------------

    def _is_wanted(self, key: str) -> bool:
        if not self.predictor.is_wanted(key):
            return False
        is_missing = self.pool.tiers.peek_memory(key) is MISSING and key not in self.pool.loads.flights
        if is_missing and not pause.is_on:
            self.predictor.begins()
            return True
        self.predictor.dropped(key)
        return False

    def path(self, key: str, loop: AbstractEventLoop | None) -> Path[None]:
        """Prefetch a key."""
        _prefetching.set(self)
        leave_loads()
        tiers = self.pool.tiers
        if not self._is_wanted(key):
            return
        if self._copies and tiers.lower and (yield Blocking(tiers.promote_quietly, key)) is not MISSING:
            self._landed(key, False)
            return
        job = self._job(key)
        if job is None:
            self.predictor.absent(key)
            return
        loader, request = job
        values: dict[str, Any] = {}
        failed = yield from self.pool.loads.path.load((key,), loader, request.unasked(False), values, loop)
        if failed is not None and failed.error is not None:
            self.failed(key, failed.error)
        elif values:
            self._landed(key, True)
        else:  # another process has the lease, or all slots are taken
            self.predictor.dropped(key)

    def _landed(self, key: str, is_load: bool) -> None:
        self.predictor.landed(key, is_load)
        self.pool.watch(self, key)

    def failed(self, key: str, error: BaseException) -> None:
        """Note that the load of a key failed, which no caller learns."""
        self.predictor.lost(key, is_load=True)
        self.pool.loads.path.log.add(failed_load(key, error))

    def info(self) -> PrefetchInfo:
        """Return what it has done."""
        return self.predictor.info()
