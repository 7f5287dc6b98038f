"""A tier that fails on request, for tests of the code that uses it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal, NamedTuple, final

from cachekit.errors import TierUnavailableError
from cachekit.model.display import safe_repr
from cachekit.model.entry import CacheEntry
from cachekit.model.stats import COUNTED, CacheStats
from cachekit.model.types import Tags
from cachekit.runtime import fork
from cachekit.runtime.reentrant_lock import RLock
from cachekit.tiers.base import Fence, Tier

#: Methods that a tier promises to keep working after every fault. They fail only if a test names them.
_DEPENDABLE: Final = frozenset({"close", "get_stats"})


class _Fault(NamedTuple):
    kind: Literal["fail", "full", "hang", "lie"]
    released: threading.Event
    timeout: float | None = None


@final
class FaultyTier:
    """A tier around another one, which works until `fail`, `hang` or `lie` is called.

    Args:
        tier: Any tier. This tier also has its further public methods, such as those of a `DirectoryTier` or a
            `ServerTier`, so `isinstance` gives the same result for both.

    `fail`, `hang` and `lie` take the names of the methods to change; without names they change all except
    `close` and `get_stats`, which no fault of a tier breaks. The last fault of a method holds until `mend`.
    All is safe in any thread, and takes effect with the next call.

    Raises:
        TypeError: `tier` does not have all methods of a `Tier`.
    """

    def __init__(self, tier: Tier) -> None:
        if not isinstance(tier, Tier):
            raise TypeError(f"tier must be a tier, such as a MemoryCache, not {safe_repr(tier)}")
        self.tier = tier  #: the tier inside, to call it without faults
        self._lock = RLock()
        self._changed = threading.Condition(self._lock)
        self._faults: dict[str, _Fault] = {}
        self._calls: Counter[str] = Counter()
        self._hanging = 0
        self._failed: Counter[str] = Counter()
        self._methods = frozenset(
            name for name in dir(tier) if not name.startswith("_") and callable(getattr(tier, name))
        )
        for name in self._methods:
            if not hasattr(FaultyTier, name):
                # In the instance, where `isinstance` with a Protocol looks, also in Python 3.12.
                setattr(self, name, self._forwarding(name))
        if hasattr(tier, "path"):
            self.path = tier.path  # no method, and yet a member of a `DirectoryTier`
        fork.register(self)

    def _forwarding(self, name: str) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            return self._forward(name, *args, **kwargs)

        return forward

    # -- faults -------------------------------------------------------------------------------------

    def fail(self, *methods: str, full: bool = False) -> None:
        """Let calls raise TierUnavailableError; with `full`, the one for a tier without space."""
        self._set("full" if full else "fail", methods)

    def hang(self, *methods: str, timeout: float | None = None) -> None:
        """Let calls block until another fault is set or the tier is mended, and then do what holds by then.

        With a `timeout`, in seconds, they fail when it is over, as a call to a frozen server does.
        """
        self._set("hang", methods, timeout)

    def lie(self, *methods: str) -> None:
        """Let calls return None and do nothing."""
        self._set("lie", methods)

    def mend(self, *methods: str) -> None:
        """End the faults. Blocked calls continue."""
        with self._lock:
            for name in methods or list(self._faults):
                self._drop(self._known(name))
            self._changed.notify_all()

    def _set(
        self,
        kind: Literal["fail", "full", "hang", "lie"],
        methods: tuple[str, ...],
        timeout: float | None = None,
    ) -> None:
        with self._lock:
            for name in methods or self._methods - _DEPENDABLE:
                self._drop(self._known(name))
                self._faults[name] = _Fault(kind, threading.Event(), timeout)

    def _known(self, name: str) -> str:
        if name not in self._methods:
            raise ValueError(
                f"a method must be one of {sorted(self._methods)} of {type(self.tier).__name__}, "
                f"not {safe_repr(name)}"
            )
        return name

    def _drop(self, name: str) -> None:
        fault = self._faults.pop(name, None)
        if fault is not None:
            fault.released.set()

    # -- what tests read ----------------------------------------------------------------------------

    @property
    def calls(self) -> Counter[str]:
        """Return how often each method was called so far, failed calls included; a copy."""
        with self._lock:
            return self._calls.copy()

    @property
    def hanging(self) -> int:
        """Return how many calls are blocked now."""
        return self._hanging

    def wait_for_hanging(self, count: int = 1, timeout: float = 10.0) -> None:
        """Return as soon as `count` calls are blocked.

        Raises:
            TimeoutError: they were not within `timeout` seconds (default 10).
        """
        with self._lock:
            if not self._changed.wait_for(lambda: self._hanging >= count, timeout):
                raise TimeoutError(f"{self._hanging} calls hang, not {count}, after {timeout} s")

    def _forward(self, name: str, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            self._calls[name] += 1
            fault = self._faults.get(name)
            while fault is not None and fault.kind == "hang" and self._hang(fault):
                fault = self._faults.get(name)
        if fault is None:
            return getattr(self.tier, name)(*args, **kwargs)
        if fault.kind == "lie":
            return None
        with self._lock:
            self._failed["errors"] += 1
            if name in {"get", "look", "get_many"}:
                lookups = len(args[0]) if name == "get_many" else 1
                self._failed["unavailable"] += lookups
                self._failed["requests"] += lookups
        if fault.kind == "hang":
            raise TierUnavailableError(f"{name}: timed out after {fault.timeout} s")
        if fault.kind == "full":
            raise TierUnavailableError(f"{name}: no space, as the test asked for", full=True)
        raise TierUnavailableError(f"{name}: out, as the test asked for")

    def _hang(self, fault: _Fault) -> bool:
        # Waits for the end of the fault. False if its timeout came first.
        self._hanging += 1
        self._changed.notify_all()
        self._lock.release()
        try:
            return fault.released.wait(fault.timeout)
        finally:
            self._lock.acquire()
            self._hanging -= 1

    # -- a tier -------------------------------------------------------------------------------------

    def get(self, key: str) -> CacheEntry | None:
        """Return what the tier inside returns, unless there is a fault, as do the methods below."""
        entry: CacheEntry | None = self._forward("get", key)
        return entry

    def set(self, key: str, entry: CacheEntry) -> bool:  # noqa: D102
        stored: bool = self._forward("set", key, entry)
        return stored

    def delete(self, key: str) -> bool:  # noqa: D102
        was_there: bool = self._forward("delete", key)
        return was_there

    def clear(self) -> bool:  # noqa: D102
        done: bool = self._forward("clear")
        return done

    def keys(self, pattern: str | None = None) -> Iterable[str]:  # noqa: D102
        keys: Iterable[str] = self._forward("keys", pattern)
        return keys

    def size(self) -> int:  # noqa: D102
        count: int = self._forward("size")
        return count

    def memory_usage(self) -> int:  # noqa: D102
        used: int = self._forward("memory_usage")
        return used

    def get_stats(self) -> CacheStats:  # noqa: D102
        stats: CacheStats = self._forward("get_stats")
        numbers = {name: stats[name] + self._failed[name] for name in COUNTED}
        return CacheStats(**numbers)

    def fence(self, key: str, tags: Tags = ()) -> Fence:  # noqa: D102
        fence: Fence = self._forward("fence", key, tags)
        return fence

    def set_if(self, key: str, entry: CacheEntry, fence: Fence) -> bool:  # noqa: D102
        stored: bool = self._forward("set_if", key, entry, fence)
        return stored

    def close(self) -> None:  # noqa: D102
        self._forward("close")

    # -- forks --------------------------------------------------------------------------------------

    def before_fork(self) -> None:  # noqa: D102
        self._lock.acquire()

    def after_fork(self, in_child: bool) -> None:  # noqa: D102
        if in_child:  # blocked calls belong to threads that are not in the child
            self._lock = RLock()
            self._changed = threading.Condition(self._lock)
            self._hanging = 0
        else:
            self._lock.release()
