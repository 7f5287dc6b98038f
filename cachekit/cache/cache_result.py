"""`cache_result`, the public decorator: it uses the default cache, or the cache that it is given."""

from __future__ import annotations

from cachekit.cache.default import DefaultSource, checked_cache, core_of
from cachekit.decorator.function import decorator_for
from cachekit.decorator.source import FixedSource
from cachekit.model.types import CacheLevel
from cachekit.runtime.program import program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Never, ParamSpec, TypeVar, Unpack, overload

    from cachekit.cache.intelligent import IntelligentCache
    from cachekit.decorator.source import CacheSource
    from cachekit.decorator.types import CacheDecorator, CachedFunction, CacheOptions
    from cachekit.loading.options import LoadOptions, Prefetch
    from cachekit.model.types import TTL, Tags

    P = ParamSpec("P")
    R = TypeVar("R")

if TYPE_CHECKING:
    # Only Any matches Never: what has no type stays so.
    @overload
    def cache_result(function: Never, /) -> Any: ...
    @overload
    def cache_result(function: Callable[P, R], /) -> CachedFunction[P, R]: ...
    @overload
    def cache_result(
        *, cache: IntelligentCache | None = ..., **options: Unpack[CacheOptions]
    ) -> CacheDecorator: ...


def cache_result(
    function: Callable[..., Any] | None = None,
    /,
    *,
    ttl: TTL | Callable[[Any], TTL] = None,
    cache_level: CacheLevel = CacheLevel.ALL,
    key_func: Callable[..., str] | None = None,
    tags: Tags | Callable[..., Tags] | None = None,
    cache: IntelligentCache | None = None,
    name: str | None = None,
    version: str = "auto",
    ignore: tuple[str, ...] = (),
    store_if: Callable[[Any], bool] | None = None,
    stale_ttl: TTL = None,
    jitter: float = 0.0,
    load: LoadOptions | None = None,
    copy: bool = False,
    prefetch: bool | Prefetch = False,
) -> Any:
    """Cache the results of a `def`, an `async def` or another callable. Use it bare, or with parameters.

    A call returns the cached result if there is one. Otherwise one caller runs the function, and concurrent
    callers of the same call wait for it. None is cached like any result. An exception reaches all waiting
    callers and is not cached. Put the decorator below @classmethod and @staticmethod.

    Args:
        function: The function to decorate, when used bare.
        ttl: The life of a result, in seconds or as a timedelta, or a function from the result to that.
            None (the default) means the cache's default, FOREVER no expiry. A result with a TTL of 0 or
            less is not cached.
        cache_level: The tiers to use (default: all).
        key_func: From the arguments of a call to its cache key, which is used unchanged.
        tags: Labels by which results can be invalidated, or a function from the arguments to them.
        cache: The cache to use (default: the default cache at the time of the call).
        name: The identity of the function in keys, instead of module and name. Closures and lambdas, of which
            several may share one name, have results of their own without it, in the memory of this process.
        version: "auto" (the default) is a digest of the function's code, so that an edited function never
            returns a result of the old code. Any other text stays until you change it.
        ignore: Names of parameters that are not part of the cache key, such as ("self",) or ("db",).
        store_if: From a result to whether to cache it.
        stale_ttl: Seconds, or a timedelta, after its life in which a stale result may replace a call that
            fails, that exceeds its soft timeout, or that another caller has begun (default None: never).
        jitter: The share of the TTL, from 0 (the default) to less than 1, that is subtracted at random.
        load: How the function is called (default: the cache's `load`); see `LoadOptions`.
        copy: Whether to return deep copies (default False), for callers that change results.
        prefetch: Whether to run the function for calls that usually come next (default False), in the
            background. Never for functions with side effects. `Prefetch(...)` is True with other numbers.

    Raises:
        TypeError: the decorated object is not callable, a class or a generator, or an argument of the wrong
            type.
        ValueError: an `ignore` that names no parameter, a decorator below that holds what has no identity, or
            a closure without a name and with a `cache_level` without memory.

    A call raises KeyEncodingError for an argument that cannot be part of a key, and SerializationError for a
    result that can be read or awaited only once.
    """
    options = (
        ttl, cache_level, key_func, tags, name, version, ignore, store_if, stale_ttl, jitter, load, copy,
        prefetch,
    )  # fmt: skip
    source: CacheSource
    if cache is None:
        program()  # handed down now, to workers that start before the first call
        source = DefaultSource()
    else:
        source = FixedSource(core_of(checked_cache(cache)))
    decorate = decorator_for(source, options)
    return decorate if function is None else decorate(function)
