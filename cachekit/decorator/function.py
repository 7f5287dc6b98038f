"""cache_result: a function that remembers its answers, with its types left as they were.

It promises that a question has one key (`keys`), that each is loaded once at a time (`loads`), that
None is an answer and an exception is not, and that a hit costs little more than a dict lookup.

Most hits are answered by `fronts`, from the arguments as they are, before any key is written.
With a `key_func`, which may look at more than the arguments, there is no front.
"""

from __future__ import annotations

import copy as copying
from collections.abc import Callable, Coroutine
from functools import partial, wraps
from types import FunctionType
from typing import Any, Final, Never, ParamSpec, TypeVar, final, overload

from cachekit.cache import default
from cachekit.cache.intelligent import IntelligentCache
from cachekit.decorator.code_version import signature_source, unwrapped, version_of
from cachekit.decorator.fast_path import FastPath, async_wrapper_of, call_key, wrapper_of
from cachekit.decorator.key_encoding import arguments_text, identity_of, name_of
from cachekit.decorator.signature import Signature
from cachekit.decorator.types import AsyncCachedFunction, CacheDecorator, CachedFunction, CacheInfo
from cachekit.loading.options import LoadOptions, checked_jitter, checked_options
from cachekit.loading.request import Life, LoadRequest
from cachekit.model.counters import Lookups
from cachekit.model.types import MEMORY, MISSING, NO_TAGS, TTL, CacheLevel, Tags
from cachekit.model.validation import checked_key, checked_tags, seconds, stale_seconds
from cachekit.runtime.threads import in_own_thread

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_COROUTINE: Final = 0x80
_GENERATOR: Final = 0x20
_ASYNC_GENERATOR: Final = 0x200


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

    def decorate(function: Callable[..., Any]) -> Any:
        cached = CachedCall(
            _checked_function(function), ttl, cache_level, key_func, tags, cache, name, version,
            ignore, store_if, stale_ttl, jitter, load, copy,
        )  # fmt: skip
        return cached.wrapper()

    return decorate if function is None else decorate(function)


def _checked_function(function: object) -> FunctionType:
    if isinstance(function, (classmethod, staticmethod)):
        kind = type(function).__name__
        raise TypeError(f"put @{kind} above @cache_result, not below it")
    if not isinstance(function, FunctionType):
        raise TypeError(
            f"cache_result decorates functions, not {function!r} of type {type(function).__name__}; "
            f"call it from a def, and name parameters, as in cache_result(ttl=60)"
        )
    flags = unwrapped(function).__code__.co_flags | function.__code__.co_flags
    if flags & (_GENERATOR | _ASYNC_GENERATOR):
        raise TypeError(
            f"{function.__qualname__} is a generator, whose items can be read only once, so a second "
            f"caller would find none; return a list instead"
        )
    return function


@final
class CachedCall:
    """A cached function: its options, checked, and what its wrapper does off the fast path."""

    __slots__ = (
        "__weakref__", "_cache", "_copies", "_fixed_life", "_fixed_tags", "_function",
        "_implicit", "_jitter", "_key_func", "_level", "_load", "_prefix", "_signature", "_stale_ttl",
        "_store_if", "_tags", "_ttl", "front",
    )  # fmt: skip

    def __init__(
        self,
        function: FunctionType,
        ttl: TTL | Callable[[Any], TTL],
        cache_level: CacheLevel,
        key_func: Callable[..., str] | None,
        tags: Tags | Callable[..., Tags] | None,
        cache: IntelligentCache | None,
        name: str | None,
        version: str,
        ignore: tuple[str, ...],
        store_if: Callable[[Any], bool] | None,
        stale_ttl: TTL,
        jitter: float,
        load: LoadOptions | None,
        copy: bool,
    ) -> None:
        for argument, value in (("key_func", key_func), ("store_if", store_if)):
            if value is not None and not callable(value):
                raise TypeError(f"{argument} must be a function, not {value!r}")
        if getattr(getattr(store_if, "__code__", None), "co_flags", 0) & _COROUTINE:
            raise TypeError(f"store_if must be a def function, not {store_if!r}, which has to be awaited")
        if not isinstance(copy, bool):
            raise TypeError(f"copy must be True or False, not {copy!r}")
        if not isinstance(cache_level, CacheLevel):
            raise TypeError(f"cache_level must be a CacheLevel, not {cache_level!r}")
        if cache is not None:
            default._check(cache)
        if not isinstance(version, str):
            raise TypeError(f"version must be a str, not {version!r} of type {type(version).__name__}")
        self._function = function
        self._ttl = ttl if callable(ttl) else None
        self._fixed_life = None if callable(ttl) or ttl is None else seconds(ttl)
        self._tags = tags if callable(tags) else None
        self._fixed_tags = NO_TAGS if callable(tags) else checked_tags(tags)
        self._level = cache_level
        self._cache = cache
        self._key_func = key_func
        self._store_if = store_if
        self._stale_ttl = stale_seconds(stale_ttl)
        self._jitter = checked_jitter(jitter)
        self._load = None if load is None else checked_options(load)
        self._copies = copy
        self._signature = Signature(signature_source(function), ignore)
        if name is not None:
            identity = checked_key(name, "name")
        elif key_func is not None:
            identity = name_of(function)
        else:
            identity = identity_of(function)
        self._prefix = f"{identity}@{version_of(function) if version == 'auto' else version}"
        self._implicit = f"cachekit.function:{identity}"
        self.front = FastPath()
        default.follow(self)

    def __cache_key__(self) -> str:
        """What tells one cached function from another, when a decorator was put around it."""
        return self._prefix

    def forget_cache(self) -> None:
        """The cache in use may be another one from now on (see `default.follow`)."""
        self.front = FastPath()

    # -- what a call means --------------------------------------------------------------------------

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The key of a call."""
        if self._key_func is not None:
            return checked_key(self._key_func(*args, **kwargs), "what key_func returns")
        try:
            bound = self._signature.bind(args, kwargs)
        except TypeError:
            if unwrapped(self._function) is self._function or self._signature.ignores:
                raise
            # A decorator below takes other arguments than the function that it wraps. The star keeps
            # these apart from arguments that happen to be a tuple and a dict.
            return f"{self._prefix}(*{arguments_text([('args', args), ('kwargs', kwargs)])})"
        return f"{self._prefix}({arguments_text(bound)})"

    def _labels(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> frozenset[str]:
        if self._tags is None:
            tags = self._fixed_tags
        else:
            tags = checked_tags(self._tags(*args, **kwargs), "what the tags function returns")
        return tags | {self._implicit}

    def _life(self, cache: IntelligentCache) -> float | Life:
        if self._store_if is None and self._ttl is None:
            return cache.default_ttl if self._fixed_life is None else self._fixed_life

        def life(value: Any) -> float | None:
            if self._store_if is not None and not self._store_if(value):
                return None
            ttl = self._fixed_life if self._ttl is None else self._ttl(value)
            return cache.default_ttl if ttl is None else seconds(ttl, "what the ttl function returns")

        return life

    def _request(self, cache: IntelligentCache, args: tuple[Any, ...], kwargs: dict[str, Any]) -> LoadRequest:
        """How an answer is loaded and kept."""
        options = cache._defaults.options(self._load)
        stale = cache._defaults.stale(self._stale_ttl)
        labels = self._labels(args, kwargs)
        return LoadRequest(self._life(cache), labels, self._level, stale, options, self._jitter)

    # -- answering ----------------------------------------------------------------------------------

    def slow_path(self, front: FastPath, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The answer to a call that the front did not know."""
        cache = default.active_cache(self._cache)
        if cache is None:
            return self._function(*args, **kwargs)
        key, lookups, value = self._look_up(cache, args, kwargs)
        if value is MISSING and cache._levels.lower:
            value = cache._levels.find(key, self._level)
            lookups.below += value is not MISSING
        loader = partial(self._function, *args, **kwargs)
        if value is MISSING:
            value = cache._loads.load(key, loader, self._request(cache, args, kwargs))
        elif self._refreshes(cache):
            cache._loads.refresh(key, loader, self._request(cache, args, kwargs))
        self._remember(front, args, kwargs, key, cache, lookups)
        return self._handed_out(value)

    async def slow_path_async(self, front: FastPath, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """`slow_path` for a coroutine function."""
        await self._build_default()
        cache = default.active_cache(self._cache)
        if cache is None:
            return await self._function(*args, **kwargs)
        key, lookups, value = self._look_up(cache, args, kwargs)
        if value is MISSING and cache._levels.lower:
            value = await cache._awaited.in_io_thread(cache._levels.find, key, self._level)
            lookups.below += value is not MISSING
        loader = partial(self._function, *args, **kwargs)
        if value is MISSING:
            value = await cache._awaited.load(key, loader, self._request(cache, args, kwargs))
        elif self._refreshes(cache):
            cache._awaited.refresh(key, loader, self._request(cache, args, kwargs))
        self._remember(front, args, kwargs, key, cache, lookups)
        return self._handed_out(value)

    def _refreshes(self, cache: IntelligentCache) -> float:
        """From which part of its life on a hit has an answer reloaded; 0 if that is off."""
        return (cache._defaults.load if self._load is None else self._load).refresh_ahead

    def _look_up(
        self, cache: IntelligentCache, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[str, Lookups, Any]:
        cache._check(self._level)
        key = self.key(args, kwargs)
        lookups = cache._reader(self._implicit)
        if self._level._value_ & MEMORY:
            return key, lookups, cache._memory._hit(key, lookups)
        cache._levels.skipped += 1
        lookups.skipped += 1
        return key, lookups, MISSING

    def _remember(
        self,
        front: FastPath,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        key: str,
        cache: IntelligentCache,
        lookups: Lookups,
    ) -> None:
        if self._key_func is not None:
            return
        # On a free-threaded build this finds nothing, and the front stays empty.
        held = cache._find(key)
        if held is not None:
            asked = call_key(args, kwargs, self._signature.ignores_first)
            front.add(asked, held, cache, lookups, self._refreshes(cache))

    def _handed_out(self, value: Any) -> Any:
        return copying.deepcopy(value) if self._copies else value

    async def _build_default(self) -> None:
        """Have the default cache, whose first use opens a directory, built off the loop if it is wanted."""
        if self._cache is None and not default.needs_no_building():
            await in_own_thread(default.active_cache)

    def _store_of_answers(self) -> IntelligentCache:
        """Where old answers are, even while caching is disabled: they shall not come back after it."""
        return default.get_default_cache() if self._cache is None else self._cache

    # -- the questions a cached function answers ------------------------------------------------------

    def refresh(self, /, *args: Any, **kwargs: Any) -> Any:
        """See `CachedFunction.refresh`."""
        self._refuse_bound(args, kwargs)
        cache = default.active_cache(self._cache)
        if cache is None:
            self.invalidate(*args, **kwargs)
            return self._function(*args, **kwargs)
        cache._check(self._level)
        loader = partial(self._function, *args, **kwargs)
        key = self.key(args, kwargs)
        return self._handed_out(cache._loads.reload(key, loader, self._request(cache, args, kwargs)))

    async def refresh_async(self, /, *args: Any, **kwargs: Any) -> Any:
        """See `AsyncCachedFunction.refresh`."""
        self._refuse_bound(args, kwargs)
        await self._build_default()
        cache = default.active_cache(self._cache)
        if cache is None:
            await self.invalidate_async(*args, **kwargs)
            return await self._function(*args, **kwargs)
        cache._check(self._level)
        loader = partial(self._function, *args, **kwargs)
        key = self.key(args, kwargs)
        value = await cache._awaited.reload(key, loader, self._request(cache, args, kwargs))
        return self._handed_out(value)

    def invalidate(self, /, *args: Any, **kwargs: Any) -> bool:
        """See `CachedFunction.invalidate`."""
        return self._store_of_answers().delete(self.key_of(*args, **kwargs))

    async def invalidate_async(self, /, *args: Any, **kwargs: Any) -> bool:
        """See `AsyncCachedFunction.invalidate`."""
        key = self.key_of(*args, **kwargs)
        await self._build_default()
        cache = self._store_of_answers()
        return await cache._awaited.in_io_thread(cache.delete, key)

    def cache_clear(self) -> int:
        """See `CachedFunction.cache_clear`."""
        return self._store_of_answers().invalidate_by_tags({self._implicit})

    async def cache_clear_async(self) -> int:
        """See `AsyncCachedFunction.cache_clear`."""
        await self._build_default()
        return await self._store_of_answers()._awaited.in_io_thread(self.cache_clear)

    def cache_info(self) -> CacheInfo:
        """See `CachedFunction.cache_info`."""
        cache = default.active_cache(self._cache)
        if cache is None:
            return CacheInfo(0, 0, 0)
        lookups = cache._reader(self._implicit)
        size = cache._memory._store.tagged(self._implicit)
        below = lookups.below
        return CacheInfo(lookups.hits + below, lookups.misses + lookups.skipped - below, size)

    def key_of(self, /, *args: Any, **kwargs: Any) -> str:
        """See `CachedFunction.key`."""
        self._refuse_bound(args, kwargs)
        return self.key(args, kwargs)

    def _refuse_bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse `instance.method.invalidate(1)`, which Python passes on without the instance."""
        function = unwrapped(self._function)
        owner, _, name = function.__qualname__.rpartition(".")
        if (
            not owner
            or owner.endswith("<locals>")
            or function.__code__.co_varnames[:1] not in {("self",), ("cls",)}
        ):
            return
        first = args[0] if args else kwargs.get(function.__code__.co_varnames[0])
        kind = first if isinstance(first, type) else type(first)
        if owner not in {base.__qualname__ for base in kind.__mro__}:
            if function.__code__.co_varnames[0] == "cls":
                raise TypeError(
                    f"{name} is a class method: ask with the class as the first argument, as in "
                    f"{owner}.{name}.key({owner}, ...)"
                )
            raise TypeError(
                f"{name} is a method: ask through the class, with the instance as the first argument, "
                f"as in {owner}.{name}.key(instance, ...)"
            )

    def wrapper(self) -> Any:
        """The function that takes the place of the one decorated."""
        function = self._function
        is_async = bool(function.__code__.co_flags & _COROUTINE)
        make = async_wrapper_of if is_async else wrapper_of
        wrapper: Any = wraps(function)(
            make(self, skips_first=self._signature.ignores_first, copies=self._copies)
        )
        wrapper.cache_info = self.cache_info
        wrapper.key = self.key_of
        wrapper.cache_clear = self.cache_clear_async if is_async else self.cache_clear
        wrapper.invalidate = self.invalidate_async if is_async else self.invalidate
        wrapper.refresh = self.refresh_async if is_async else self.refresh
        return wrapper
