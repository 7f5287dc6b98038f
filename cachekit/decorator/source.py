"""Which cache a cached function uses now, and whether caching is enabled.

A cached function asks its source at each call that its fast path does not serve. `disabled` or
CACHEKIT_DISABLE disables caching for the whole process. A cassette (`cachekit.cassettes`) replaces the tiers
of all caches. Every switch resets the fast paths.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from cachekit.model.display import safe_repr
from cachekit.runtime import fork
from cachekit.runtime.reentrant_lock import RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from types import FunctionType
    from typing import Any, Final, Protocol

    from cachekit.loading.core import CacheCore, HoldsEntries
    from cachekit.loading.request import LoadRequest
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

        def given(self) -> CacheCore | None:
            """Return the cache that the decorator was given; None for the default cache."""
            ...

    class Player(Protocol):
        """What answers in place of all caches while a cassette is in use. Safe in any thread.

        A `cache` of None is the default cache, which need not be built.
        """

        @property
        def is_replaying(self) -> bool:
            """Return whether no function is called."""
            ...

        def ask(
            self,
            cache: CacheCore | None,
            key: str,
            question: Question | None,
            loader: Callable[[], Any],
            request: LoadRequest,
            *,
            again: bool = False,
        ) -> Any:
            """Return the answer to a question; `again` asks for the next one, as a refresh does.

            Without a question, the key and the name of the loader are the question.
            """
            ...

        async def ask_async(
            self,
            cache: CacheCore | None,
            key: str,
            question: Question | None,
            loader: Callable[[], Awaitable[Any]],
            request: LoadRequest,
            *,
            again: bool = False,
        ) -> Any:
            """Return what `ask` does, for a loader that is awaited."""
            ...

        def ask_many(
            self,
            cache: CacheCore,
            keys: Sequence[str],
            loader: Callable[[list[str]], Mapping[str, Any]],
            request: LoadRequest,
        ) -> dict[str, Any]:
            """Return the answers to a loader of many keys, as `get_or_set_many`."""
            ...

        async def ask_many_async(
            self,
            cache: CacheCore,
            keys: Sequence[str],
            loader: Callable[[list[str]], Awaitable[Mapping[str, Any]]],
            request: LoadRequest,
        ) -> dict[str, Any]:
            """Return what `ask_many` does, for a loader that is awaited."""
            ...

        def warming(
            self, cache: CacheCore, loader: Callable[[str], Any], request: LoadRequest
        ) -> tuple[CacheCore, Callable[[str], Any], LoadRequest]:
            """Return the cache, the loader and the request that `warm_cache` uses instead."""
            ...

        def warming_async(
            self, cache: CacheCore, loader: Callable[[str], Awaitable[Any]], request: LoadRequest
        ) -> tuple[CacheCore, Callable[[str], Awaitable[Any]], LoadRequest]:
            """Return what `warming` does, for a loader that is awaited."""
            ...

        def write(
            self, cache: CacheCore, values: Mapping[str, Any], life: float, tags: frozenset[str]
        ) -> None:
            """Answer with these values from now on, because they were stored in the cache."""
            ...

        def invalidate(self, cache: CacheCore | None, keys: Sequence[str]) -> int:
            """Forget the current answers of these keys; return how many there were."""
            ...

        def invalidate_tags(self, cache: CacheCore | None, tags: frozenset[str]) -> int:
            """Forget the current answers that have one of the tags; return how many there were."""
            ...

        def invalidate_matching(self, cache: CacheCore, pattern: re.Pattern[str]) -> None:
            """Forget the current answers of the keys that a pattern matches."""
            ...

        def clear(self, cache: CacheCore) -> None:
            """Forget all current answers."""
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


class Question:
    """What a call asks, as a cassette records it.

    Args:
        function: The name of the function, or of the loader.
        arguments: Name and value of each argument that is part of the key.
        code: The function in Python whose source is compared with that of the recording, or None.
        version: The version that the function was given; None for that of its source.
        owner: The function object, if others may share its name; None if the name identifies it.
    """

    __slots__ = ("arguments", "code", "function", "owner", "version")

    def __init__(
        self,
        function: str,
        arguments: Sequence[tuple[str, Any]],
        code: FunctionType | None,
        version: str | None = None,
        owner: object = None,
    ) -> None:
        self.function = function
        self.arguments = arguments
        self.code = code
        self.version = version
        self.owner = owner


class Playing:
    """The player of the cassette in use."""

    __slots__ = ("player",)

    def __init__(self) -> None:
        self.player: Player | None = None


playing: Final = Playing()


def named_as(loader: Callable[..., Any], wrapper: Callable[..., Any]) -> Callable[..., Any]:
    """Return the wrapper of a loader; cassettes and verifications name the loader."""
    wrapper.__wrapped__ = loader  # type: ignore[attr-defined]
    return wrapper


_YES: Final = frozenset({"1", "true", "yes", "on"})
_NO: Final = frozenset({"", "0", "false", "no", "off"})

#: Held while the cache in use changes.
switching = RLock()
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

    def given(self) -> CacheCore:
        """Return the cache."""
        return self._core


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
    raise ValueError(
        f"CACHEKIT_DISABLE must be one of 1, true, yes, on, 0, false, no, off, not {safe_repr(text)}"
    )


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
