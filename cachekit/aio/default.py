"""The default cache of the process, awaited: that of `cachekit.cache.default`.

`set_default_cache`, `override` and `disabled` are not awaited, because they touch no disk or socket.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from cachekit.aio.cache import IntelligentCache
from cachekit.aio.facade import sync_of
from cachekit.cache import default
from cachekit.cache.default import core_of
from cachekit.cache.intelligent import IntelligentCache as Core
from cachekit.loading.options import LoadOptions
from cachekit.model.reports import OptimizationReport, WarmReport
from cachekit.model.types import TTL, Tags
from cachekit.runtime.threads import in_own_thread

P = ParamSpec("P")
R = TypeVar("R")


async def get_default_cache() -> IntelligentCache:
    """Return the cache that cached functions use by default; the first call builds it."""
    if default.DefaultSource().is_ready():
        return IntelligentCache.of(default.get_default_cache())
    return IntelligentCache.of(await in_own_thread(default.get_default_cache))


def set_default_cache(cache: IntelligentCache | Core | None) -> IntelligentCache | None:
    """Set the default cache, awaited or not; see `cachekit.set_default_cache`. This is not awaited."""
    before = default.set_default_cache(sync_of(cache))
    return None if before is None else IntelligentCache.of(before)


@contextmanager
def override(cache: IntelligentCache | Core) -> Iterator[IntelligentCache]:
    """Set the default cache, awaited or not, inside a plain `with` block; see `cachekit.override`."""
    with default.override(sync_of(cache)) as sync:
        yield cache if isinstance(cache, IntelligentCache) else IntelligentCache.of(sync)


def _in_thread(function: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Return the function, awaited; it runs in a thread unless the default cache has only memory."""

    @wraps(function)
    async def awaited(*args: P.args, **kwargs: P.kwargs) -> R:
        cache = await get_default_cache()
        return await core_of(cache.sync).awaited.in_io_thread(function, *args, **kwargs)

    return awaited


get_cache_stats = _in_thread(default.get_cache_stats)
invalidate_cache_pattern = _in_thread(default.invalidate_cache_pattern)
invalidate_cache_tags = _in_thread(default.invalidate_cache_tags)
clear_all_caches = _in_thread(default.clear_all_caches)


async def optimize_cache_performance() -> OptimizationReport:
    """Remove expired entries of the default cache, as `IntelligentCache.optimize_cache` does."""
    return await (await get_default_cache()).optimize_cache()


async def warm_cache_keys(
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
    cache = await get_default_cache()
    return await cache.warm_cache(
        keys,
        loader_func,
        ttl=ttl,
        tags=tags,
        load=load,
        concurrency=concurrency,
        keep_warm=keep_warm,
        progress=progress,
    )
