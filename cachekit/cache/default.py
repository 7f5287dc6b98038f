"""The cache of this process that nobody had to make, and functions that speak to it.

It is built at the first use and can be replaced: for good by `set_default_cache`, for a while by
`override`. `disabled`, or CACHEKIT_DISABLE in the environment, makes every cached function call through.
All of it is for the whole process, whatever the thread.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, final

from cachekit.cache import config
from cachekit.cache.intelligent import IntelligentCache, core_of
from cachekit.decorator.source import is_disabled, reset_followers, switching
from cachekit.loading.core import CacheCore
from cachekit.loading.options import LoadOptions
from cachekit.model.reports import OptimizationReport, WarmReport
from cachekit.model.stats import CacheStats
from cachekit.model.types import TTL, Tags
from cachekit.runtime import fork

#: How long the default cache keeps what says no ttl: over a weekend, and with Redis below the time from which
#: tagged values need another round trip.
_KEPT: Final = 7 * 24 * 3600.0

# A cache is built without `switching`: building takes locks that a fork takes before that one, and may log.
_building = threading.RLock()
_default: IntelligentCache | None = None
_overriding: list[IntelligentCache] = []


class _ForkGuard:
    """Gives a child a lock of its own: the thread that was building a cache is not in the child."""

    def before_fork(self) -> None:
        pass

    def after_fork(self, in_child: bool) -> None:
        global _building
        if in_child:
            _building = threading.RLock()


_fork_guard = _ForkGuard()
fork.register(_fork_guard)


@final
class DefaultSource:
    """The default cache, whichever that is at the time of a call."""

    __slots__ = ()

    def current(self) -> CacheCore | None:
        """Return the default cache, built at the first call; None while caching is disabled."""
        return None if is_disabled() else core_of(get_default_cache())

    def stored(self) -> CacheCore:
        """Return the default cache."""
        return core_of(get_default_cache())

    def is_ready(self) -> bool:
        """Return whether nothing has to be built."""
        return _default is not None or bool(_overriding) or is_disabled()


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
    built = IntelligentCache(redis_cache=config.redis_cache(), default_ttl=_KEPT)
    with switching:
        if _default is None:
            _default = built
            return
    built.close()  # another one was set meanwhile


def _current() -> IntelligentCache | None:
    with switching:
        return _overriding[-1] if _overriding else _default


def set_default_cache(cache: IntelligentCache | None) -> IntelligentCache | None:
    """Make `cache` the default one; None has a new one built at the next use.

    Returns:
        The one until now, for the caller to close; None if there was none.

    Raises:
        TypeError: it is not an IntelligentCache.
    """
    global _default
    if cache is not None:
        checked_cache(cache)
    with switching:
        before, _default = _default, cache
        reset_followers()
    return before


@contextmanager
def override(cache: IntelligentCache) -> Iterator[IntelligentCache]:
    """Make `cache` the default one inside a `with` block: a fresh cache for a test.

    Raises:
        TypeError: it is not an IntelligentCache.
    """
    checked_cache(cache)
    with switching:
        _overriding.append(cache)
        reset_followers()
    try:
        yield cache
    finally:
        with switching:
            # The innermost block that named this cache: blocks of several threads may end in any order.
            index = len(_overriding) - 1 - _overriding[::-1].index(cache)
            del _overriding[index]
            reset_followers()


def checked_cache(cache: object) -> IntelligentCache:
    """Return the cache; raise TypeError if it is none, or one that is awaited."""
    if hasattr(type(cache), "__aenter__"):
        raise TypeError(
            f"cache must be an IntelligentCache, and this one is awaited: {cache!r}; pass its `.sync`"
        )
    if not isinstance(cache, IntelligentCache):
        raise TypeError(f"cache must be an IntelligentCache, not {cache!r} of type {type(cache).__name__}")
    return cache


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
