"""The default cache of this process, and functions that use it.

It is built at the first use. `set_default_cache` replaces it for good, `override` for a `with` block.
`disabled`, or CACHEKIT_DISABLE in the environment, makes every cached function bypass the cache. All of
this applies to the whole process, in every thread.
"""

from __future__ import annotations

from contextlib import contextmanager

from cachekit.decorator.source import is_disabled, reset_followers, switching
from cachekit.model.display import safe_repr, typed_repr
from cachekit.runtime import fork
from cachekit.runtime.reentrant_lock import RLock

TYPE_CHECKING = False  # the first decorated function loads this module, and no cache
if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Final

    from cachekit.cache.intelligent import IntelligentCache
    from cachekit.loading.core import CacheCore
    from cachekit.loading.options import LoadOptions
    from cachekit.model.reports import OptimizationReport, WarmReport
    from cachekit.model.stats import CacheStats
    from cachekit.model.types import TTL, Tags

#: The default TTL of the default cache: longer than a weekend, and below the time from which Redis needs
#: another round trip for tagged values.
_DEFAULT_TTL: Final = 7 * 24 * 3600.0

# A cache is built without holding `switching`: building takes locks that a fork takes before that one.
_building = RLock()
_default: IntelligentCache | None = None
_overriding: list[IntelligentCache] = []
#: The last of `_overriding`, or else `_default`. Calls read it without the lock.
_in_use: IntelligentCache | None = None


class _ForkGuard:
    # Not a ForkSafeLock: a fork must not wait for a cache that is being built.
    def before_fork(self) -> None:
        pass

    def after_fork(self, in_child: bool) -> None:
        global _building
        if in_child:  # the thread that held the lock is not in the child
            _building = RLock()


_fork_guard = _ForkGuard()
fork.register(_fork_guard)


class DefaultSource:
    """The default cache at the time of each call."""

    __slots__ = ()

    def current(self) -> CacheCore | None:
        """Return the default cache, built at the first call; None while caching is disabled."""
        if is_disabled():
            return None
        return (_in_use or get_default_cache())._core

    def stored(self) -> CacheCore:
        """Return the default cache."""
        return core_of(get_default_cache())

    def is_ready(self) -> bool:
        """Return whether `current` need not build the cache."""
        return _in_use is not None or is_disabled()

    def given(self) -> None:
        """Return None."""


def get_default_cache() -> IntelligentCache:
    """Return the cache that cached functions use by default; it is built at the first call.

    Raises:
        ValueError: an environment variable of the configuration has an invalid value.
    """
    current = _in_use
    if current is None:
        with _building:
            while (current := _in_use) is None:
                _build()
    return current


def _build() -> None:
    global _default
    from cachekit.cache import config
    from cachekit.cache.intelligent import IntelligentCache

    memory, redis = config.memory_cache(), config.redis_cache()
    built = IntelligentCache(memory, redis, default_ttl=_DEFAULT_TTL)
    with switching:
        if _default is None:
            _default = built
            _choose()
            return
    built.close()  # another thread has set one


def _choose() -> None:
    global _in_use
    _in_use = _overriding[-1] if _overriding else _default


def set_default_cache(cache: IntelligentCache | None) -> IntelligentCache | None:
    """Make `cache` the default cache; with None, a new one is built at the next use.

    Returns:
        The previous default cache, for the caller to close; None if there was none.

    Raises:
        TypeError: `cache` is not an IntelligentCache.
    """
    global _default
    if cache is not None:
        checked_cache(cache)
    with switching:
        before, _default = _default, cache
        _choose()
        reset_followers()
    return before


@contextmanager
def override(cache: IntelligentCache) -> Iterator[IntelligentCache]:
    """Make `cache` the default cache inside a `with` block, for example in a test.

    Raises:
        TypeError: `cache` is not an IntelligentCache.
    """
    checked_cache(cache)
    with switching:
        _overriding.append(cache)
        _choose()
        reset_followers()
    try:
        yield cache
    finally:
        with switching:
            # The innermost block for this cache: blocks of several threads may end in any order.
            index = len(_overriding) - 1 - _overriding[::-1].index(cache)
            del _overriding[index]
            _choose()
            reset_followers()


def core_of(cache: IntelligentCache) -> CacheCore:
    """Return the core of a cache, for its other views."""
    return cache._core


def checked_cache(cache: object) -> IntelligentCache:
    """Return the cache; raise TypeError if it is not a synchronous IntelligentCache."""
    from cachekit.cache.intelligent import IntelligentCache

    if hasattr(type(cache), "__aenter__"):
        raise TypeError(
            f"cache must be an IntelligentCache, not the awaitable {safe_repr(cache)}; pass its `.sync`"
        )
    if not isinstance(cache, IntelligentCache):
        raise TypeError(
            f"cache must be an IntelligentCache, not {typed_repr(cache)}; "
            f"pass one, such as IntelligentCache(redis_cache=RedisCache(url=...))"
        )
    return cache


def get_cache_stats() -> dict[str, CacheStats]:
    """Return the statistics of the default cache, as `IntelligentCache.get_stats` does."""
    return get_default_cache().get_stats()


def invalidate_cache_pattern(pattern: str | re.Pattern[str]) -> int | None:
    """Remove matching keys from the default cache, as `IntelligentCache.invalidate_by_pattern` does."""
    return get_default_cache().invalidate_by_pattern(pattern)


def invalidate_cache_tags(tags: Tags) -> int | None:
    """Remove tagged entries from the default cache, as `IntelligentCache.invalidate_by_tags` does."""
    return get_default_cache().invalidate_by_tags(tags)


def clear_all_caches() -> bool:
    """Remove all entries from all tiers of the default cache, as `IntelligentCache.clear` does."""
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
    """Load keys into the default cache, as `IntelligentCache.warm_cache` does."""
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
    """Remove expired entries of the default cache, as `IntelligentCache.optimize_cache` does."""
    return get_default_cache().optimize_cache()
