"""Verification: of some hits, the value is loaded again in the background and compared with what was served.

A verification has a fence, as a load has. If the key or a tag was written or invalidated since the hit, or
the entry is not in memory any more, nothing is compared. There is one at a time for each function, at most
ten a second, and they take no more of the time than the budget. In a forked child none is running.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any, Final, NamedTuple, final

from cachekit.coherence.accessor import UNAVAILABLE
from cachekit.coherence.load_fence import LoadFence
from cachekit.coherence.tier_stack import TierStack
from cachekit.errors import CacheClosedError
from cachekit.loading.comparison import differing
from cachekit.loading.options import LoadOptions
from cachekit.loading.request import LoadRequest
from cachekit.model.counters import LoadCounters
from cachekit.model.display import shown_error, shown_key
from cachekit.model.reports import Verified
from cachekit.model.storable import PLAIN_TYPES, refuse_unstorable
from cachekit.runtime import fork
from cachekit.runtime.background import RateLimitedLog
from cachekit.runtime.clock import Clock
from cachekit.runtime.interrupts import is_interrupt

_SHORTEST: Final = 0.1  # seconds between the begins of two verifications of one function
_MOST: Final = 10_000  # functions whose results are known; beyond it they begin again


@final
class VerifiedFunction:
    """The verifications of one function: their results, and when the next one may begin."""

    __slots__ = ("due", "failures", "log", "mismatches", "turn", "verified")

    def __init__(self, clock: Clock) -> None:
        self.verified = 0
        self.mismatches = 0
        #: Empty while a verification runs. Without a lock: a signal handler may come in between.
        self.turn: deque[None] = deque((None,), maxlen=1)
        self.due = 0.0
        self.log = RateLimitedLog(clock)
        #: Apart from the differences, one of which comes before each failure to handle it.
        self.failures = RateLimitedLog(clock)


class Verification(NamedTuple):
    """One verification that has begun."""

    function: VerifiedFunction
    name: str
    fence: LoadFence
    cached: Any
    request: LoadRequest
    started: float


@final
class Verifications:
    """The verifications of one cache. Safe in any thread and on any event loop."""

    __slots__ = ("__weakref__", "_figures", "_functions", "_tiers")

    def __init__(self, tiers: TierStack, figures: LoadCounters) -> None:
        self._tiers = tiers
        self._figures = figures
        self._functions: dict[str, VerifiedFunction] = {}
        fork.register(self)

    def before_fork(self) -> None:
        """Do nothing: a verification begins and ends in one step."""

    def after_fork(self, in_child: bool) -> None:
        """In the child, end the verifications of threads and loops that only the parent has."""
        if in_child:
            for function in self._functions.values():
                function.turn.append(None)

    def results(self) -> dict[str, Verified]:
        """Return how many hits of each function were verified, and how many differed."""
        return {name: Verified(one.verified, one.mismatches) for name, one in self._functions.copy().items()}

    def begin(self, name: str, key: str, cached: Any, request: LoadRequest) -> Verification | None:
        """Return the verification of a hit; None if it is not due, or the value is not in memory any more."""
        now = self._tiers.clock.monotonic()
        function = self._functions.get(name)
        if function is None:
            if len(self._functions) >= _MOST:
                self._functions.clear()
            function = self._functions.setdefault(name, VerifiedFunction(self._tiers.clock))
        if now < function.due:
            return None
        try:
            function.turn.pop()
        except IndexError:  # it is running
            return None
        # The fence first: if the value is in memory after it, what is written later breaks the fence.
        fence = self._tiers.fence(key, request.tags)
        verification = Verification(function, name, fence, cached, request, now)
        if not self._is_served(verification):
            self.end(verification)
            return None
        return verification

    def end(self, verification: Verification) -> None:
        """Let the next verification of the function begin when its budget allows it."""
        function, started = verification.function, verification.started
        taken = self._tiers.clock.monotonic() - started
        function.due = started + max(_SHORTEST, taken / verification.request.options.verify_budget)
        function.turn.append(None)

    def compare(self, verification: Verification, fresh: Any, ttl: Callable[[], float | None]) -> None:
        """Compare a fresh value with the cached one, unless that was replaced since; tell a difference."""
        function, key, options = verification.function, verification.fence.key, verification.request.options
        if not self._is_served(verification) or not self._is_current(verification.fence):
            return
        try:
            found = _differences(verification.cached, fresh, options)
        except Exception as error:
            if is_interrupt(error):
                raise
            function.failures.add(
                f"hits of {verification.name} cannot be verified, because a comparison raised "
                f"{shown_error(error)}; pass same= to LoadOptions"
            )
            return
        function.verified += 1
        self._figures.verified += 1
        if not found:
            return
        function.mismatches += 1
        self._figures.mismatches += 1
        function.log.add(
            f"a hit of {verification.name} ({shown_key(key)}) differs from a fresh load in "
            f"{', '.join(found)}: {function.mismatches} of {function.verified} verified differ"
        )
        if options.verify_action == "replace":
            self._handle(verification, lambda: self._replace(verification, fresh, ttl()))
        if options.on_mismatch is not None:
            self._handle(verification, partial(options.on_mismatch, key, verification.cached, fresh))

    def _handle(self, verification: Verification, step: Callable[[], object]) -> None:
        # Each step on its own: a fresh value that cannot be stored is still handed to `on_mismatch`.
        try:
            step()
        except CacheClosedError:
            pass
        except Exception as error:
            if is_interrupt(error):
                raise
            verification.function.failures.add(
                f"a mismatch of {verification.name} could not be handled: {shown_error(error)}"
            )

    def _replace(self, verification: Verification, fresh: Any, ttl: float | None) -> None:
        request = verification.request
        if type(fresh) not in PLAIN_TYPES:
            refuse_unstorable(fresh, verification.fence.key)
        self._tiers.writes.replace(verification.fence, fresh, ttl, request.level, request.stale_ttl)

    def _is_served(self, verification: Verification) -> bool:
        return self._tiers.peek_memory(verification.fence.key) is verification.cached

    def _is_current(self, fence: LoadFence) -> bool:
        if not fence.is_current():
            return False
        redis = self._tiers.redis
        if redis is None:
            return True
        # Another host's write may be on its way to this one. If the server cannot say, nothing is compared.
        now = redis.call(redis.tier.origin, fence.key, fence.tags)
        return now is not UNAVAILABLE and now == fence.origin


def _differences(cached: Any, fresh: Any, options: LoadOptions) -> list[str]:
    if options.same is None:
        return differing(cached, fresh)
    return [] if options.same(cached, fresh) else differing(cached, fresh) or ["what same= compares"]


def innermost(loader: Callable[..., Any]) -> Callable[..., Any]:
    """Return what a loader calls in the end: a function in Python or C, or an object of a class."""
    called: Any = loader
    for _ in range(100):
        if isinstance(called, MethodType):
            called = called.__func__
        elif isinstance(called, partial):
            called = called.func
        elif hasattr(called, "__wrapped__"):
            called = called.__wrapped__
        else:
            break
    found: Callable[..., Any] = called
    return found


def loader_name(loader: Callable[..., Any]) -> str:
    """Return module and qualified name of what a loader calls in the end."""
    named: Any = innermost(loader)
    named = named if hasattr(named, "__qualname__") else type(named)
    return f"{named.__module__}.{named.__qualname__}"
