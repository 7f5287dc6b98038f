"""The cache of this process that nobody had to make, and functions that speak to it.

It is built at the first use and can be replaced: for good by `set_default_cache`, for a while by
`override`. `disabled`, or CACHEKIT_DISABLE in the environment, makes every cached function call through.
All of it is for the whole process, whatever the thread.
"""

from __future__ import annotations

import os
import re
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

from cachekit.cache.intelligent import IntelligentCache, KnowsCache
from cachekit.loading.options import LoadOptions
from cachekit.model.reports import OptimizationReport, WarmReport
from cachekit.model.stats import CacheStats
from cachekit.model.types import TTL, Tags
from cachekit.runtime import fork

#: How long the default cache keeps what says no ttl: over a weekend, and with Redis below the time from which
#: tagged values need another round trip.
_KEPT: Final = 7 * 24 * 3600.0

_YES: Final = frozenset({"1", "true", "yes", "on"})
_NO: Final = frozenset({"", "0", "false", "no", "off"})


_lock = threading.RLock()
# A cache is built without `_lock`: building takes locks that a fork takes before that one, and may log.
_building = threading.RLock()
_default: IntelligentCache | None = None
_overriding: list[IntelligentCache] = []
_disabled_times = 0
_followers: weakref.WeakSet[KnowsCache] = weakref.WeakSet()


class _ForkGuard:
    """Nobody is in the middle of a switch when a child begins; see `forks`."""

    def before_fork(self) -> None:
        _lock.acquire()

    def after_fork(self, in_child: bool) -> None:
        global _building
        if in_child:
            _building = threading.RLock()  # whoever was building is not here: the child builds its own
        _lock.release()


_fork_guard = _ForkGuard()
fork.register(_fork_guard)


def follow(follower: KnowsCache) -> None:
    """Have the follower told of every switch; it is held weakly."""
    with _lock:
        _followers.add(follower)


def _switched() -> None:
    # After the switch itself: what a follower looks up from here on is the new answer.
    for follower in list(_followers):
        follower.forget_cache()


@cache
def _disabled_by_environment() -> bool:
    """Whether CACHEKIT_DISABLE says so; it is read once."""
    text = os.environ.get("CACHEKIT_DISABLE", "")
    if text.strip().lower() in _YES:
        return True
    if text.strip().lower() in _NO:
        return False
    raise ValueError(f"CACHEKIT_DISABLE must be one of 1, true, yes, on, 0, false, no, off, not {text!r}")


def active_cache(wanted: IntelligentCache | None = None) -> IntelligentCache | None:
    """`wanted`, or the default cache; None while caching is disabled.

    Raises:
        ValueError: CACHEKIT_DISABLE is neither a yes nor a no.
    """
    if _disabled_times or _disabled_by_environment():
        return None
    return get_default_cache() if wanted is None else wanted


def get_default_cache() -> IntelligentCache:
    """The cache that cached functions use unless told otherwise; it is built at the first call."""
    current = _current()
    if current is None:
        with _building:
            while (current := _current()) is None:
                _build()
    return current


def _build() -> None:
    global _default
    from cachekit.cache import config

    built = IntelligentCache(redis_cache=config.redis_cache(), default_ttl=_KEPT)
    with _lock:
        if _default is None:
            _default = built
            return
    built.close()  # another one was set meanwhile


def _current() -> IntelligentCache | None:
    with _lock:
        return _overriding[-1] if _overriding else _default


def needs_no_building() -> bool:
    """Whether `active_cache` would return at once."""
    return _default is not None or bool(_overriding) or bool(_disabled_times) or _disabled_by_environment()


def set_default_cache(cache: IntelligentCache | None) -> IntelligentCache | None:
    """Make `cache` the default one; None has a new one built at the next use.

    Returns:
        The one until now, for the caller to close; None if there was none.

    Raises:
        TypeError: it is not an IntelligentCache.
    """
    global _default
    if cache is not None:
        _check(cache)
    with _lock:
        before, _default = _default, cache
        _switched()
    return before


@contextmanager
def override(cache: IntelligentCache) -> Iterator[IntelligentCache]:
    """Make `cache` the default one inside a `with` block: a fresh cache for a test.

    Raises:
        TypeError: it is not an IntelligentCache.
    """
    _check(cache)
    with _lock:
        _overriding.append(cache)
        _switched()
    try:
        yield cache
    finally:
        with _lock:
            # The innermost block that named this cache: blocks of several threads may end in any order.
            index = len(_overriding) - 1 - _overriding[::-1].index(cache)
            del _overriding[index]
            _switched()


@contextmanager
def disabled() -> Iterator[None]:
    """Have every cached function call through inside a `with` block; nothing is looked up or stored.

    Caches that are used directly go on, and so do `invalidate` and `cache_clear` of cached functions.
    """
    global _disabled_times
    with _lock:
        _disabled_times += 1
        _switched()
    try:
        yield
    finally:
        with _lock:
            _disabled_times -= 1
            _switched()


def _check(cache: object) -> None:
    if hasattr(type(cache), "__aenter__"):
        raise TypeError(
            f"cache must be an IntelligentCache, and this one is awaited: {cache!r}; pass its `.sync`"
        )
    if not isinstance(cache, IntelligentCache):
        raise TypeError(f"cache must be an IntelligentCache, not {cache!r} of type {type(cache).__name__}")


def get_cache_stats() -> dict[str, CacheStats]:
    """`IntelligentCache.get_stats` of the default cache."""
    return get_default_cache().get_stats()


def invalidate_cache_pattern(pattern: str | re.Pattern[str]) -> int:
    """`IntelligentCache.invalidate_by_pattern` of the default cache."""
    return get_default_cache().invalidate_by_pattern(pattern)


def invalidate_cache_tags(tags: Tags) -> int:
    """`IntelligentCache.invalidate_by_tags` of the default cache."""
    return get_default_cache().invalidate_by_tags(tags)


def clear_all_caches() -> bool:
    """`IntelligentCache.clear` of the default cache: all of its levels."""
    return get_default_cache().clear()


def warm_cache_keys(
    keys: Iterable[str],
    loader_func: Callable[[str], Any],
    *,
    ttl: TTL = None,
    tags: Tags | None = None,
    load: LoadOptions | None = None,
    concurrency: int = 8,
    keep_warm: bool = False,
    progress: Callable[[int, int], object] | bool | None = None,
) -> WarmReport:
    """`IntelligentCache.warm_cache` of the default cache."""
    return get_default_cache().warm_cache(
        keys,
        loader_func,
        ttl=ttl,
        tags=tags,
        load=load,
        concurrency=concurrency,
        keep_warm=keep_warm,
        progress=progress,
    )


def optimize_cache_performance() -> OptimizationReport:
    """`IntelligentCache.optimize_cache` of the default cache."""
    return get_default_cache().optimize_cache()
