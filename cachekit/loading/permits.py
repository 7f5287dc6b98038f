"""Whose turn it is to load: leases between processes or hosts, and slots that bound how many load at once.

It promises that one of those who share a tier loads a key while the others look for what it brings, and
that nobody waits longer than `lease_timeout`: then, or if the tier that lends leases is out, one goes on
without. So does a load inside one that has its turn, and a load that such a one waits for: two that wait
for each other, one for a value and one for a turn, would both wait to the end. What may be kept is decided
by fences, so a lease that is lost costs a second load and no more. A process that is killed gives its
leases and slots of the host back at once; one that hangs, and a host that is gone, hold others up until
that time is over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, final

from cachekit.coherence.accessor import UNAVAILABLE, Unavailable
from cachekit.coherence.tier_stack import TierStack
from cachekit.errors import TierUnavailableError
from cachekit.loading.flights import blocks_a_permit_holder
from cachekit.loading.options import LeaseScope, LoadOptions
from cachekit.model.counters import LoadCounters
from cachekit.model.types import MISSING, Missing
from cachekit.tiers.base import Lease

if TYPE_CHECKING:
    from cachekit.loading.process_lease import ProcessLeases
    from cachekit.loading.slots import LoadSlots

#: One attempt, which does not wait: None is "somebody else has it", UNAVAILABLE "nobody can have it".
Attempt = Callable[[], Lease | Unavailable | None]

_NO_FILE: Final = "which is kept by the file tier, and this cache has none: give it file_cache=FileCache(...)"


@final
class PermitPool:
    """The leases and slots of one cache. Safe in any thread, before and after a fork."""

    __slots__ = ("_figures", "_leases", "_levels", "_slots")

    def __init__(self, levels: TierStack, figures: LoadCounters) -> None:
        self._levels = levels
        self._figures = figures
        self._leases: ProcessLeases | None = None
        self._slots: dict[int, LoadSlots] = {}

    def check(self, options: LoadOptions) -> None:
        """Refuse options that the tiers at hand cannot carry out.

        Raises:
            ValueError: a tier is missing.
        """
        has_directory, has_server = self._lenders()
        if options.lease == "process" and not has_directory:
            raise ValueError(f"lease='process' needs a directory, {_NO_FILE}")
        if options.max_concurrent_loads is not None and not has_directory:
            raise ValueError(f"max_concurrent_loads needs a directory, {_NO_FILE}")
        # What they need is loaded here, where they are asked for, and not in the threads of the first loads:
        # a child that is forked in the middle of an import finds the module locked for ever.
        if options.lease == "process":
            import cachekit.loading.process_lease
        if options.max_concurrent_loads is not None:
            import cachekit.loading.slots  # noqa: F401
        if options.lease == "fleet" and not has_server:
            raise ValueError(
                "lease='fleet' needs a server, and this cache has none: give it redis_cache=RedisCache(...)"
            )

    def widest(self) -> LeaseScope:
        """Who can share one load of a key, with the tiers at hand."""
        has_directory, has_server = self._lenders()
        return "fleet" if has_server else "process" if has_directory else "thread"

    def _lenders(self) -> tuple[bool, bool]:
        return self._levels.file is not None, self._levels.redis is not None

    def turn(
        self,
        key: str,
        options: LoadOptions,
        look: Callable[[], Any | Missing],
        fall_back: Callable[[], Any | Missing],
    ) -> LoadPermit:
        """A turn to load a key, to be settled before the load and released after what it brought is kept.

        Args:
            key: what is to be loaded.
            options: which say what the turn takes.
            look: for what another one has loaded meanwhile; asked after every attempt.
            fall_back: what to take rather than wait for another one.
        """
        lease = None if options.lease == "thread" else self._lease(key, options)
        slot = None if options.max_concurrent_loads is None else self._slot(options.max_concurrent_loads)
        return LoadPermit(lease, slot, look, fall_back, self._figures)

    def slot(self, limit: int) -> LoadPermit:
        """A turn that takes no more than a slot."""
        return LoadPermit(None, self._slot(limit), _nothing, _nothing, self._figures)

    def _lease(self, key: str, options: LoadOptions) -> Attempt:
        if options.lease == "fleet":
            redis = self._levels.redis
            assert redis is not None
            return lambda: redis.call(redis.tier.lease, key, options.lease_timeout)
        file = self._levels.file
        assert file is not None
        if self._leases is None:
            from cachekit.loading.process_lease import ProcessLeases

            self._leases = ProcessLeases(file.tier.path)
        leases = self._leases
        return lambda: file.call(leases.try_acquire, key)

    def _slot(self, limit: int) -> Attempt:
        file = self._levels.file
        assert file is not None
        slots = self._slots.get(limit)
        if slots is None:
            from cachekit.loading.slots import LoadSlots

            slots = self._slots.setdefault(limit, LoadSlots(f"loads-{limit}", limit, file.tier.path))
        return lambda: file.call(slots.try_acquire)

    def close(self) -> None:
        """Release the leases of this process."""
        if self._leases is not None:
            self._leases.close()


@final
class LoadPermit:
    """One load's lease and slot. Of one thread or task at a time."""

    __slots__ = ("_fall_back", "_figures", "_held", "_lease", "_look", "_over", "_slot", "_waited", "value")

    def __init__(
        self,
        lease: Attempt | None,
        slot: Attempt | None,
        look: Callable[[], Any | Missing],
        fall_back: Callable[[], Any | Missing],
        figures: LoadCounters,
    ) -> None:
        self._lease = lease
        self._slot = slot
        self._look = look
        self._fall_back = fall_back
        self._figures = figures
        self._held: list[Lease] = []
        self._over = False
        self._waited = False
        #: What another one has loaded, so that there is nothing to load any more.
        self.value: Any | Missing = MISSING

    def try_acquire(self) -> LoadPermit | None:
        """One attempt: itself when it is time to go on, by loading or with `value`; None to try again later.

        It may touch a disk or a socket.
        """
        if self._lease is not None:
            lease = self._lease()
            if lease is None:
                self.value = self._look()
                if self.value is MISSING:
                    self.value = self._fall_back()
                return self._later() if self.value is MISSING else self
            self._lease = None
            if lease is not UNAVAILABLE:
                self._hold(lease)
                # Whoever had it before may have stored the value between our lookup and now.
                self.value = self._look()
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
            return self  # whoever has what this one waits for may be waiting for this one
        if not self._waited:
            self._waited = True
            self._figures.lease_waits += 1
        return None

    def _hold(self, lent: Lease) -> None:
        self._held.append(lent)
        if self._over:  # its task was cancelled while a thread was about to get this
            self.release()

    def release(self) -> None:
        """Give all of it back, also what is still to come. A second call does nothing."""
        self._over = True
        while self._held:
            try:
                self._held.pop().release()
            except IndexError:  # both of the threads that `_hold` speaks of are here
                return
            except TierUnavailableError:
                pass  # the server is gone: there it ends by itself


def _nothing() -> Missing:
    return MISSING
