"""Permits: leases, of which a key has one among processes or hosts, and slots, which bound concurrent loads.

One of the processes that share a tier loads a key, while the others look for the value that it stores. No
load waits for longer than `lease_timeout`; then, or if the tier that lends leases is out, it runs without a
permit. So does a load inside one that holds a permit, and a load that such a one waits for: two loads that
wait for each other, one for a value and one for a permit, would both wait until their timeouts.

Fences decide what is stored, so a lost lease costs a second load and no more. When a process is killed, its
leases and slots on the host are free at once. So are those of an event loop that has stopped with loads under
way. A process that hangs, or a host that is gone, holds others up until the timeout.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, final

from cachekit.coherence.accessor import UNAVAILABLE, TierAccessor, Unavailable
from cachekit.coherence.tier_stack import TierStack
from cachekit.errors import TierUnavailableError
from cachekit.loading.flights import blocks_a_permit_holder
from cachekit.loading.options import LeaseScope, LoadOptions
from cachekit.model.counters import LoadCounters
from cachekit.model.types import MISSING, Missing
from cachekit.runtime.background import BackgroundCall
from cachekit.runtime.interrupts import raise_interrupt
from cachekit.runtime.scheduler import ScheduledTask, scheduler
from cachekit.tiers.base import DirectoryTier, Lease

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from cachekit.loading.process_lease import ProcessLeases
    from cachekit.loading.slots import LoadSlots

#: One attempt, which does not wait. None: another load has it. UNAVAILABLE: no load can have it.
Attempt = Callable[[], Lease | Unavailable | None]

_LOOK: Final = 0.1  # seconds between two looks at the loops of tasks that hold permits

_NO_FILE: Final = "which is kept by the file tier, and this cache has none: give it file_cache=FileCache(...)"


def _runs_loop() -> bool:
    """Return whether this thread runs an event loop at the moment."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError as error:
        raise_interrupt(error)
        return False
    return True


@final
class PermitPool:
    """The leases and slots of one cache. Safe in any thread, before and after a fork."""

    __slots__ = ("_closed", "_figures", "_leases", "_slots", "_tiers", "of_tasks")

    def __init__(self, tiers: TierStack, figures: LoadCounters) -> None:
        self._closed = False
        self._tiers = tiers
        #: Those of loads that are tasks.
        self.of_tasks = TaskPermits()
        self._figures = figures
        self._leases: dict[str, ProcessLeases] = {}
        self._slots: dict[int, LoadSlots] = {}

    def check(self, options: LoadOptions) -> None:
        """Refuse options that need a tier that the cache does not have.

        Raises:
            ValueError: a tier is missing.
        """
        has_directory, has_server = self._lenders()
        if options.lease == "process" and not has_directory:
            raise ValueError(f"lease='process' needs a directory, {_NO_FILE}")
        if options.max_concurrent_loads is not None and not has_directory:
            raise ValueError(f"max_concurrent_loads needs a directory, {_NO_FILE}")
        # Import here what they need, and not in the threads of the first loads. A child that is forked in the
        # middle of an import would find the module locked for ever. It would hold up an event loop, so there
        # the first attempt imports it, in a thread.
        if options.lease == "process" and not _runs_loop():
            import cachekit.loading.process_lease
        if options.max_concurrent_loads is not None and not _runs_loop():
            import cachekit.loading.slots  # noqa: F401
        if options.lease == "fleet" and not has_server:
            raise ValueError(
                "lease='fleet' needs a server, and this cache has none: give it redis_cache=RedisCache(...)"
            )

    def widest(self) -> LeaseScope:
        """Return the widest scope of a lease that the tiers lend."""
        has_directory, has_server = self._lenders()
        return "fleet" if has_server else "process" if has_directory else "thread"

    def _lenders(self) -> tuple[bool, bool]:
        return self._tiers.file is not None, self._tiers.redis is not None

    def permit(
        self,
        key: str,
        options: LoadOptions,
        find: Callable[[], Any | Missing],
        stale: Callable[[], Any | Missing],
    ) -> LoadPermit:
        """Return a permit to load a key, which the load acquires first, and releases after storing the value.

        Args:
            key: what to load.
            options: which say what the permit consists of.
            find: finds a value that another process has stored; called after each attempt.
            stale: returns a value to take rather than wait for another process.
        """
        lease = None if options.lease == "thread" else self._lease(key, options)
        slot = None if options.max_concurrent_loads is None else self._slot(options.max_concurrent_loads)
        return LoadPermit(lease, slot, find, stale, self._figures)

    def _lease(self, key: str, options: LoadOptions) -> Attempt:
        if options.lease == "fleet":
            redis = self._tiers.redis
            assert redis is not None
            return lambda: redis.call(redis.tier.lease, key, options.lease_timeout)
        file = self._tiers.file
        assert file is not None
        return lambda: self._of_directory(file, lambda path: self._process_leases(path).try_acquire(key))

    def _process_leases(self, path: str) -> ProcessLeases:
        leases = self._leases.get(path)
        if leases is None:
            from cachekit.loading.process_lease import ProcessLeases

            # Atomic: of threads that load first together, all use the leases that `close` closes.
            leases = self._leases.setdefault(path, ProcessLeases(path))
            if self._closed:  # since `close` has listed the leases, perhaps; nothing else would close these
                leases.close()
        return leases

    def _slot(self, limit: int) -> Attempt:
        file = self._tiers.file
        assert file is not None
        return lambda: self._of_directory(file, lambda path: self._load_slots(limit, path).try_acquire())

    def _of_directory(
        self, file: TierAccessor[DirectoryTier], acquire: Callable[[str], Lease | None]
    ) -> Lease | Unavailable | None:
        """Return what the tier's directory lends, or `UNAVAILABLE`.

        A lock that cannot be made says nothing about the tier. Its files may be read, and even written, where
        no other file can be made or opened.
        """
        path = file.tier.path
        if file.breaker.refuses:
            return file.call(acquire, path)
        try:
            return acquire(path)
        except TierUnavailableError:
            if file.strict:
                raise
            return UNAVAILABLE

    def _load_slots(self, limit: int, path: str) -> LoadSlots:
        slots = self._slots.get(limit)
        if slots is None:
            from cachekit.loading.slots import LoadSlots

            slots = self._slots.setdefault(limit, LoadSlots(f"loads-{limit}", limit, path))
        return slots

    def close(self) -> None:
        """Release the leases of this process, and the slots of loops that have stopped."""
        self.of_tasks.release_abandoned()
        self._closed = True  # first: a load that adds leases after the next line closes them itself
        for leases in list(self._leases.values()):
            leases.close()


@final
class TaskPermits:
    """The permits of loads that are tasks, to be released when a loop stops and never runs its tasks again.

    A loop that goes on later has lost them. Then another load of the key may run beside its own.
    Safe in any thread. A child of a fork forgets those of its parent.
    """

    __slots__ = ("__weakref__", "_jobs", "_permits", "_process")

    def __init__(self) -> None:
        self._permits: dict[LoadPermit, weakref.ref[AbstractEventLoop]] = {}
        self._jobs: dict[int, ScheduledTask] = {}  # at most one
        self._process = os.getpid()

    def add(self, permit: LoadPermit, loop: AbstractEventLoop) -> None:
        """Release this permit if the loop stops before the task does."""
        if self._process != os.getpid():
            self._permits.clear()
            self._process = os.getpid()
        self._permits[permit] = weakref.ref(loop)
        self._keep_looking()

    def _keep_looking(self) -> None:
        if not self._jobs:
            job = scheduler.every(_LOOK, self.look)
            if self._jobs.setdefault(0, job) is not job:  # another thread was faster
                job.cancel()

    def look(self) -> None:
        """Begin to release the permits of loops that have stopped; the scheduler calls this."""
        abandoned = self._take_abandoned()
        if not self._permits:
            job = self._jobs.pop(0, None)
            if job is not None:
                job.cancel()
            if self._permits:  # added in between, by a task that saw the job
                self._keep_looking()
        # Not in this thread: a server may not answer, and upkeep must not wait for it.
        if abandoned and not BackgroundCall(partial(_release_all, abandoned)).start():
            _release_all(abandoned)

    def release_abandoned(self) -> None:
        """Release the permits of loops that have stopped."""
        _release_all(self._take_abandoned())

    def _take_abandoned(self) -> list[LoadPermit]:
        abandoned = []
        for permit, reference in list(self._permits.items()):
            loop = reference()
            if permit.is_released or loop is None or not loop.is_running():
                self._permits.pop(permit, None)
                if not permit.is_released:
                    abandoned.append(permit)
        return abandoned


def _release_all(permits: list[LoadPermit]) -> None:
    for permit in permits:
        permit.release()


@final
class LoadPermit:
    """The lease and the slot of one load, for one thread or task at a time."""

    __slots__ = ("_figures", "_find", "_held", "_lease", "_slot", "_stale", "_waited", "is_released", "value")

    def __init__(
        self,
        lease: Attempt | None,
        slot: Attempt | None,
        find: Callable[[], Any | Missing],
        stale: Callable[[], Any | Missing],
        figures: LoadCounters,
    ) -> None:
        self._lease = lease
        self._slot = slot
        self._find = find
        self._stale = stale
        self._figures = figures
        self._held: list[Lease] = []
        #: Whether the load has ended, so that nothing more may be acquired.
        self.is_released = False
        self._waited = False
        #: A value that another process has stored, or a stale one; then there is nothing to load.
        self.value: Any | Missing = MISSING

    def try_acquire(self) -> LoadPermit | None:
        """Make one attempt, which may touch a disk or a socket.

        Returns:
            The permit, if the load can go on, or there is a `value`; None to try again later.
        """
        if self._lease is not None:
            lease = self._lease()
            if lease is None:
                self.value = self._find()
                if self.value is MISSING:
                    self.value = self._stale()
                return self._later() if self.value is MISSING else self
            self._lease = None
            if lease is not UNAVAILABLE:
                self._hold(lease)
                # The last holder of the lease may have stored the value since our lookup.
                self.value = self._find()
                if self.value is not MISSING:
                    return self
        if self._slot is not None:
            slot = self._slot()
            if slot is None:
                return self._later()
            self._slot = None
            if slot is not UNAVAILABLE:
                self._hold(slot)
        return self

    def _later(self) -> LoadPermit | None:
        if blocks_a_permit_holder():
            return self  # the holder of what this load waits for may be waiting for this load
        if not self._waited:
            self._waited = True
            self._figures.lease_waits += 1
        return None

    def _hold(self, lent: Lease) -> None:
        self._held.append(lent)
        if self.is_released:  # the task was cancelled while a thread was about to acquire this
            self.release()

    def release(self) -> None:
        """Release all, also what a thread is about to acquire. A second call does nothing."""
        self.is_released = True
        while self._held:
            try:
                self._held.pop().release()
            except IndexError:  # the other thread, of the two that `_hold` speaks of, has released it
                return
            except TierUnavailableError:
                pass  # the lease ends by itself on the server
