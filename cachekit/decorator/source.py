"""Which cache a cached function uses now, and whether caching is enabled.

A cached function asks its source at each call that its fast path does not serve. `disabled` or
CACHEKIT_DISABLE disables caching for the whole process. Every switch resets the fast paths.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from cachekit.runtime import fork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, Protocol

    from cachekit.loading.core import CacheCore, HoldsEntries
    from cachekit.model.reports import Explanation

    class CacheSource(Protocol):
        """Where a cached function finds its cache. Safe in any thread."""

        def current(self) -> CacheCore | None:
            """Return the cache to use now; None while caching is disabled."""
            ...

        def stored(self) -> CacheCore:
            """Return the cache that has the stored results, even while caching is disabled."""
            ...

        def is_ready(self) -> bool:
            """Return whether `current` returns at once, because the cache is built."""
            ...

    class CallObserver(Protocol):
        """What is called for each call of a cached function, in the thread of the call."""

        def __call__(
            self,
            function: Callable[..., Any],
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
            before: Explanation | None,
            after: Explanation | None,
            error: BaseException | None,
        ) -> object:
            """Note a call: what the cache had before and after it; None while caching is disabled."""
            ...


_YES: Final = frozenset({"1", "true", "yes", "on"})
_NO: Final = frozenset({"", "0", "false", "no", "off"})

#: Held while the cache in use changes.
switching = threading.RLock()
_disabled_times = 0
#: While there are any, calls take no fast path. A tuple, so that a call sees all of a change or nothing.
_observers: tuple[CallObserver, ...] = ()
_followers: weakref.WeakSet[HoldsEntries] = weakref.WeakSet()


class FixedSource:
    """The one cache that the decorator was given."""

    __slots__ = ("_core",)

    def __init__(self, core: CacheCore) -> None:
        self._core = core

    def current(self) -> CacheCore | None:
        """Return the cache; None while caching is disabled."""
        return None if is_disabled() else self._core

    def stored(self) -> CacheCore:
        """Return the cache."""
        return self._core

    def is_ready(self) -> bool:
        """Return True."""
        return True


# A child must not begin in the middle of a switch.
_fork_guard = fork.ForkSafeLock(switching)


def follow(follower: HoldsEntries) -> None:
    """Reset the follower at every switch from now on; only a weak reference to it is kept."""
    with switching:
        _followers.add(follower)


def reset_followers() -> None:
    """Let all followers drop their entries after a switch, so that they find the new cache."""
    for follower in list(_followers):
        follower.forget_cache()


def observers() -> tuple[CallObserver, ...]:
    """Return what observes calls of cached functions; nearly always nothing."""
    return _observers


@contextmanager
def observing(observer: CallObserver) -> Iterator[None]:
    """Call the observer for each call of a cached function, in every thread, inside a `with` block."""
    global _observers
    with switching:
        _observers = (*_observers, observer)
        reset_followers()
    try:
        yield
    finally:
        with switching:
            left = list(_observers)
            left.remove(observer)
            _observers = tuple(left)
            reset_followers()


@cache
def _disabled_by_environment() -> bool:
    text = os.environ.get("CACHEKIT_DISABLE", "")
    if text.strip().lower() in _YES:
        return True
    if text.strip().lower() in _NO:
        return False
    raise ValueError(f"CACHEKIT_DISABLE must be one of 1, true, yes, on, 0, false, no, off, not {text!r}")


def is_disabled() -> bool:
    """Return whether cached functions bypass the cache.

    Raises:
        ValueError: CACHEKIT_DISABLE is not one of the accepted words. The variable is read once.
    """
    return bool(_disabled_times) or _disabled_by_environment()


@contextmanager
def disabled() -> Iterator[None]:
    """Disable caching inside a `with` block: every cached function runs, nothing is looked up or stored.

    Caches that are called directly still work, and so do `invalidate` and `cache_clear` of cached functions.
    """
    global _disabled_times
    with switching:
        _disabled_times += 1
        reset_followers()
    try:
        yield
    finally:
        with switching:
            _disabled_times -= 1
            reset_followers()
