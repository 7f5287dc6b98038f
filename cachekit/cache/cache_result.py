"""cache_result: the public decorator, which uses the default cache or the one that it is given."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Never, ParamSpec, TypeVar, overload

from cachekit.cache.default import DefaultSource, checked_cache
from cachekit.cache.intelligent import IntelligentCache, core_of
from cachekit.decorator.function import CachedOptions, decorator_for
from cachekit.decorator.source import FixedSource
from cachekit.decorator.types import AsyncCachedFunction, CacheDecorator, CachedFunction
from cachekit.loading.options import LoadOptions
from cachekit.model.types import TTL, CacheLevel, Tags

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


# Checkers match functions of Any with the first of these, whatever it is; no other function is of Never.
@overload
def cache_result(  # type: ignore[overload-overlap]  # as below
    function: Callable[P, Never], /
) -> CachedFunction[P, Any]: ...
@overload
def cache_result(  # type: ignore[overload-overlap]  # a coroutine is the narrower case
    function: Callable[P, Coroutine[Any, Any, T]], /
) -> AsyncCachedFunction[P, T]: ...
@overload
def cache_result(function: Callable[P, R], /) -> CachedFunction[P, R]: ...
@overload
def cache_result(
    *,
    ttl: TTL | Callable[[Any], TTL] = ...,
    cache_level: CacheLevel = ...,
    key_func: Callable[..., str] | None = ...,
    tags: Tags | Callable[..., Tags] | None = ...,
    cache: IntelligentCache | None = ...,
    name: str | None = ...,
    version: str = ...,
    ignore: tuple[str, ...] = ...,
    store_if: Callable[[Any], bool] | None = ...,
    stale_ttl: TTL = ...,
    jitter: float = ...,
    load: LoadOptions | None = ...,
    copy: bool = ...,
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
) -> Any:
    """Remember the answers of a function, bare or with parameters; for `def` and `async def`.

    A call whose answer is known returns it; otherwise one caller works it out and those who ask
    meanwhile wait for it. None is an answer. An exception reaches everyone who waits, and is not kept.
    Put it below @classmethod and @staticmethod.

    Args:
        function: what to decorate, when bare.
        ttl: how long an answer is good, in seconds or as a timedelta; or a function from the answer to
            that. None is the cache's default, FOREVER no expiry, 0 or less does not keep it.
        cache_level: the tiers to use.
        key_func: from the call's arguments to its key, which is used as it is.
        tags: labels by which answers can be invalidated; or a function from the call's arguments to them.
        cache: the cache to use; None is the default one at the time of the call.
        name: the function's identity in keys, in place of module and name; needed for closures and
            lambdas, of which there may be several with one name.
        version: "auto" is a digest of the function's code, so that an edited function never serves an
            old answer; another text is kept until you change it.
        ignore: names of parameters that are no part of the question, such as ("self",) or ("db",).
        store_if: from an answer to whether to keep it.
        stale_ttl: for how long after its life an answer may stand in for a call that fails, that takes
            longer than its soft timeout, or that another caller has begun; None is not at all.
        jitter: the share of the TTL, 0 to less than 1, that chance may take away.
        load: how the function is called; None is what the cache says. See `LoadOptions`.
        copy: hand out deep copies, for callers that change what they get.

    Raises:
        TypeError: what is decorated is not a function, or is a generator; an argument of the wrong type.
        ValueError: a closure or lambda without a name, or an `ignore` that names no parameter.

    A call raises KeyEncodingError for an argument that cannot be part of a key, and SerializationError
    for an answer that can be read or awaited only once.
    """
    options = CachedOptions(
        ttl, cache_level, key_func, tags, name, version, ignore, store_if, stale_ttl, jitter, load, copy
    )
    source = DefaultSource() if cache is None else FixedSource(core_of(checked_cache(cache)))
    decorate = decorator_for(source, options)
    return decorate if function is None else decorate(function)
