"""`cache_result`: a function that caches its results and keeps its type.

Equal calls share one cache key (`key_encoding`), and concurrent calls with one key run the function once
(`loading`). `None` is cached, exceptions are not. A hit costs little more than a dict lookup: `fast_path`
serves most hits without a key. With a `key_func`, which may read more than the arguments, it is not used.
"""

from __future__ import annotations

import sys
from functools import partial, wraps
from types import FunctionType

from cachekit.decorator.code_version import signature_source, unwrapped
from cachekit.decorator.fast_path import FastPath, ObservedPath, async_wrapper_of, call_key, wrapper_of
from cachekit.decorator.identity import COROUTINE, Subject, drop_with, identify
from cachekit.decorator.key_encoding import arguments_text, held_text
from cachekit.decorator.signature import Signature
from cachekit.decorator.source import Question, follow, observers, playing
from cachekit.model.display import safe_repr, typed_repr
from cachekit.model.types import FOREVER, FUNCTION_TAG, MISSING, NO_TAGS, CacheLevel
from cachekit.model.validation import (
    checked_jitter,
    checked_key,
    checked_tags,
    refuse_misfit,
    refuse_misfits,
    seconds,
    stale_seconds,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, TypeAlias
    from weakref import WeakSet

    from cachekit.decorator.prefetched_calls import PrefetchedCalls
    from cachekit.decorator.source import CacheSource, Player
    from cachekit.decorator.types import CacheDecorator, CacheInfo
    from cachekit.loading.core import CacheCore
    from cachekit.loading.options import LoadOptions, Prefetch
    from cachekit.loading.prefetching import Job
    from cachekit.loading.request import Life, LoadRequest
    from cachekit.model.counters import Lookups, LookupTable
    from cachekit.model.reports import Explanation
    from cachekit.model.types import TTL, Tags

    #: The arguments of `cache_result`, in its order; `CachedCall` checks them.
    CachedOptions: TypeAlias = tuple[
        TTL | Callable[[Any], TTL],  # ttl
        CacheLevel,  # cache_level
        Callable[..., str] | None,  # key_func
        Tags | Callable[..., Tags] | None,  # tags
        str | None,  # name
        str,  # version
        tuple[str, ...],  # ignore
        Callable[[Any], bool] | None,  # store_if
        TTL,  # stale_ttl
        float,  # jitter
        LoadOptions | None,  # load
        bool,  # copy
        bool | Prefetch,  # prefetch
    ]

_ALL: Final = CacheLevel.ALL


def _subject_of(called: object) -> Subject:
    if type(called) is FunctionType:
        return Subject(called, None, called)
    from cachekit.decorator.callables import adapted

    return adapted(called)


def decorator_for(source: CacheSource, options: CachedOptions) -> CacheDecorator:
    """Return the decorator that caches functions in the cache of `source`.

    The decorator raises TypeError and ValueError as `cache_result` documents.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        return CachedCall(_subject_of(function), source, options).wrapper(function)

    return decorate


class CachedCall:
    """A cached function: its checked options, and what its wrapper calls off the fast path."""

    __slots__ = (
        "__weakref__", "_caches", "_copies", "_counters", "_fixed_life", "_fixed_tags", "_function",
        "_holder", "_identity", "_implicit", "_jitter", "_key_func", "_level", "_load", "_prefetches",
        "_prefix", "_signature", "_source", "_stale_ttl", "_store_if", "_subject", "_tags", "_ttl",
        "_verifies", "_version", "fast_path",
    )  # fmt: skip

    def __init__(self, subject: Subject, source: CacheSource, options: CachedOptions) -> None:
        (
            ttl, level, key_func, tags, name, version, ignore, store_if, stale_ttl, jitter, load, copy,
            prefetch,
        ) = options  # fmt: skip
        for argument, value in (("key_func", key_func), ("store_if", store_if)):
            if value is not None and not callable(value):
                raise TypeError(
                    f"{argument} must be a function, not {safe_repr(value)}; pass it without calling it"
                )
        if getattr(getattr(store_if, "__code__", None), "co_flags", 0) & COROUTINE:
            raise TypeError(
                f"store_if must be a def function, not {safe_repr(store_if)}, which must be awaited"
            )
        if not isinstance(copy, bool):
            raise TypeError(f"copy must be True or False, not {safe_repr(copy)}")
        if not isinstance(level, CacheLevel):
            raise TypeError(f"cache_level must be a CacheLevel, not {safe_repr(level)}")
        if not isinstance(version, str):
            raise TypeError(f"version must be a str, not {typed_repr(version)}")
        self._subject = subject
        self._function = function = subject.function
        self._ttl = ttl if callable(ttl) else None
        self._fixed_life = None if callable(ttl) or ttl is None else seconds(ttl)
        if self._fixed_life is not None and self._fixed_life <= 0:
            raise ValueError(
                f"ttl must be more than 0, not {ttl!r}; leave out cache_result to store no result, or pass a "
                f"function of the result"
            )
        self._tags = tags if callable(tags) else None
        self._fixed_tags = NO_TAGS if callable(tags) else checked_tags(tags)
        self._level = level
        self._source = source
        self._key_func = key_func
        self._store_if = store_if
        self._stale_ttl = stale_seconds(stale_ttl)
        self._jitter = checked_jitter(jitter)
        self._load = None
        if load is not None:
            from cachekit.loading.options import checked_options

            self._load = checked_options(load)
        # With `store_if` a function decides about each result, and may act: only if it is asked for.
        self._verifies = load is not None or store_if is None
        self._copies = copy
        self._signature = Signature(signature_source(function), ignore)
        self._identity, is_own, self._holder = identify(subject, name, key_func is not None)
        self._version = version
        self._prefix = ""
        self._implicit = FUNCTION_TAG + self._identity
        #: Of a function object with results of its own: the caches that may have some. None for others.
        self._caches: WeakSet[CacheCore] | None = None
        if is_own:
            if not level & CacheLevel.MEMORY:
                raise ValueError(
                    f"cache_level must include memory for {function.__qualname__}, not {level}, because its "
                    f"name does not identify it in other processes; set name=... to a unique name"
                )
            self._level = CacheLevel.MEMORY
            self._caches = drop_with(self, self._implicit)
        #: The counters of this function in each cache that it has used, by the table that they belong to.
        self._counters: dict[LookupTable, Lookups] = {}
        #: The calls that are prefetched; None if that is off.
        self._prefetches: PrefetchedCalls | None = None
        if prefetch is not False:
            from cachekit.decorator.prefetched_calls import prefetched_calls

            self._prefetches = prefetched_calls(self, prefetch, self._level)
        self.forget_cache()
        follow(self)

    def __cache_key__(self) -> str:
        """Return what identifies this function when a decorator is put around it."""
        # At the first key, not at decoration, because of what it costs to import hashlib.
        if not self._prefix:
            version = self._subject.version() if self._version == "auto" else self._version
            self._prefix = f"{self._identity}@{version}"
        return self._prefix

    def forget_cache(self) -> None:
        """Replace the fast path, because the cache in use may have changed (see `source.follow`)."""
        self.fast_path = ObservedPath() if observers() else FastPath()

    # -- keys and requests --------------------------------------------------------------------------

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Return the cache key of a call."""
        if self._key_func is not None:
            try:
                key = self._key_func(*args, **kwargs)
            except TypeError:
                self._refuse_misfit("key_func", self._key_func, args, kwargs)
                raise
            return checked_key(key, "the result of key_func")
        prefix = self.__cache_key__()
        if self._holder is not None:
            prefix = f"{prefix}[{held_text(self._holder, self._function.__qualname__)}]"
        star, bound = self._bound(args, kwargs)
        return f"{prefix}({star}{arguments_text(bound)})"

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, list[tuple[str, Any]]]:
        try:
            return "", self._signature.bind(args, kwargs)
        except TypeError as error:
            # Not at the head of the module: few errors come here, and a decorated function loads less.
            from cachekit.runtime.interrupts import raise_interrupt

            raise_interrupt(error)
            if unwrapped(self._function) is self._function or self._signature.ignores:
                raise
            # A decorator below takes other arguments than the function that it wraps. The star keeps this
            # key apart from a call whose arguments are a tuple and a dict.
            return "*", [("args", args), ("kwargs", kwargs)]

    def _question(self, key: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Question:
        if self._key_func is None:
            _, arguments = self._bound(args, kwargs)
            if self._holder is not None:
                arguments.insert(0, ("callable", self._holder))
        else:
            arguments = [("key", key)]
        version = None if self._version == "auto" else self._version
        # The number in the identity of a function object is another one in each process.
        name, owner = (self._identity, None) if self._caches is None else (self._subject.name(), self)
        return Question(name, arguments, self._subject.code, version, owner)

    async def _key_async(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        # The key of large arguments takes long enough to delay other tasks. A `key_func` may need the loop.
        if self._key_func is None:
            from cachekit.decorator.large_arguments import is_large

            if is_large((*args, *kwargs.values(), self._holder)):
                from cachekit.runtime.threads import run_in_thread

                return await run_in_thread(self.key, args, kwargs)
        return self.key(args, kwargs)

    def _tags_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> frozenset[str]:
        if self._tags is None:
            tags = self._fixed_tags
        else:
            try:
                found = self._tags(*args, **kwargs)
            except TypeError:
                self._refuse_misfit("tags", self._tags, args, kwargs)
                raise
            tags = checked_tags(found, "the result of the tags function")
        return tags | {self._implicit}

    def _life(self, default_ttl: float) -> float | Life:
        if self._store_if is None and self._ttl is None:
            return default_ttl if self._fixed_life is None else self._fixed_life

        def life(value: Any) -> float | None:
            try:
                if self._store_if is not None and not self._store_if(value):
                    return None
                ttl = self._fixed_life if self._ttl is None else self._ttl(value)
            except TypeError:
                refuse_misfits(value, store_if=self._store_if, ttl=self._ttl)
                raise
            return default_ttl if ttl is None else seconds(ttl, "the result of the ttl function")

        return life

    def _refuse_misfit(
        self, option: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        name = self._function.__name__
        takes = f"with the parameter names and defaults of {name}"
        refuse_misfit(option, takes, function, *args, **kwargs)

    def _request(self, cache: CacheCore, args: tuple[Any, ...], kwargs: dict[str, Any]) -> LoadRequest:
        # How a result is loaded and stored.
        from cachekit.loading.request import LoadRequest

        options = cache.defaults.options(self._load)
        if self._caches is not None:  # no other process can ask for this function
            options = options.shared_by("thread")
        stale = cache.defaults.stale(self._stale_ttl)
        labels = self._tags_of(args, kwargs)
        return LoadRequest(self._life(cache.default_ttl), labels, self._level, stale, options, self._jitter)

    # -- calls --------------------------------------------------------------------------------------

    def slow_path(self, fast_path: FastPath, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the result of a call that the fast path did not serve."""
        # At the end of the interpreter a finalizer may still call it. Nothing can be imported or opened then,
        # and the variables of modules may be None.
        if sys is None or sys.is_finalizing():
            return self._function(*args, **kwargs)
        player = playing.player
        if player is not None:
            return self._ask(player, args, kwargs)
        if fast_path.is_observed:
            return self._observed(args, kwargs)
        cache = self._source.current()
        if cache is None:
            return self._function(*args, **kwargs)
        if cache.closed or self._level is not _ALL:
            cache.check(self._level)
        key = self.key(args, kwargs)
        lookups = self.lookups(cache)
        value = cache.look_in_memory(key, self._level, lookups)
        if value is MISSING and self._prefetches is not None:
            self._prefetches.missed(cache, key, args, kwargs)
        if value is MISSING and cache.tiers.lower and self._caches is None:
            value = cache.tiers.find(key, self._level)
            lookups.below += value is not MISSING
        if value is MISSING:
            loader = partial(self._function, *args, **kwargs)
            value = cache.loads.load(key, loader, self._request(cache, args, kwargs))
        elif (options := self._options(cache)).acts_on_hits:
            verified_as = self._verified_as(cache, fast_path)
            if verified_as is not None or options.refresh_ahead:
                loader = partial(self._function, *args, **kwargs)
                request = self._request(cache, args, kwargs)
                cache.loads.after_hit(key, value, loader, request, verified_as)
        self._add_to_fast_path(fast_path, args, kwargs, key, cache, lookups)
        return self.copied(value)

    async def slow_path_async(
        self, fast_path: FastPath, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Return what `slow_path` does, for a coroutine function."""
        if sys is None or sys.is_finalizing():
            return await self._function(*args, **kwargs)
        player = playing.player
        if player is not None:
            return await self._ask_async(player, args, kwargs)
        if fast_path.is_observed:
            return await self._observed_async(args, kwargs)
        await self._build_cache()
        cache = self._source.current()
        if cache is None:
            return await self._function(*args, **kwargs)
        cache.check(self._level)
        key = await self._key_async(args, kwargs)
        lookups = self.lookups(cache)
        value = cache.look_in_memory(key, self._level, lookups)
        if value is MISSING and self._prefetches is not None:
            self._prefetches.missed(cache, key, args, kwargs)
        if value is MISSING and cache.tiers.lower and self._caches is None:
            value = (await cache.awaited.find(key, self._level)).get()
            lookups.below += value is not MISSING
        if value is MISSING:
            loader = partial(self._function, *args, **kwargs)
            value = await cache.awaited.load(key, loader, self._request(cache, args, kwargs))
        elif (options := self._options(cache)).acts_on_hits:
            verified_as = self._verified_as(cache, fast_path)
            if verified_as is not None or options.refresh_ahead:
                loader = partial(self._function, *args, **kwargs)
                request = self._request(cache, args, kwargs)
                cache.awaited.after_hit(key, value, loader, request, verified_as)
        self._add_to_fast_path(fast_path, args, kwargs, key, cache, lookups)
        return self.copied(value)

    def _ask(
        self, player: Player, args: tuple[Any, ...], kwargs: dict[str, Any], *, again: bool = False
    ) -> Any:
        key = self.key(args, kwargs)
        return self.copied(
            player.ask(
                self._source.given(), key, self._question(key, args, kwargs),
                partial(self._function, *args, **kwargs), self._asked(args, kwargs), again=again,
            )
        )  # fmt: skip

    async def _ask_async(
        self, player: Player, args: tuple[Any, ...], kwargs: dict[str, Any], *, again: bool = False
    ) -> Any:
        key = await self._key_async(args, kwargs)
        return self.copied(
            await player.ask_async(
                self._source.given(), key, self._question(key, args, kwargs),
                partial(self._function, *args, **kwargs), self._asked(args, kwargs), again=again,
            )
        )  # fmt: skip

    def _asked(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> LoadRequest:
        # Which results a cassette asks for again.
        from cachekit.loading.request import LoadRequest

        return LoadRequest(self._life(FOREVER), self._tags_of(args, kwargs))

    def _options(self, cache: CacheCore) -> LoadOptions:
        return cache.defaults.load if self._load is None else self._load

    def _verified_as(self, cache: CacheCore, fast_path: FastPath) -> str | None:
        # The name under which this hit is to be verified; None if it is not.
        chosen, fast_path.chosen = fast_path.chosen, False
        if not cache.loads.path.is_chosen(self._options(cache), self._verifies, chosen):
            return None
        return self._identity if self._caches is None else self._subject.name()

    @property
    def is_async(self) -> bool:
        """Whether the function is a coroutine function."""
        return bool(self._function.__code__.co_flags & COROUTINE)

    @property
    def recorded_name(self) -> str:
        """Return the name under which other processes know this function; empty if they do not.

        Without one, the arguments of its calls are not recorded. Those that the key leaves out may be
        secrets, and the key does not tell whether another program has changed them.
        """
        is_whole = self._key_func is None and not self._signature.ignores
        return f"function {self._identity}" if self._caches is None and is_whole else ""

    def job(self, cache: CacheCore, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Job:
        """Return how to load the result of a call that is prefetched."""
        return partial(self._function, *args, **kwargs), self._request(cache, args, kwargs)

    def lookups(self, cache: CacheCore) -> Lookups:
        """Return the counters of this function in a cache."""
        if self._caches is not None:
            self._caches.add(cache)  # first: what is counted there is dropped with this function
        lookups = self._counters.get(cache.table)
        if lookups is None:
            for table in list(self._counters):
                if table.is_closed:
                    self._counters.pop(table, None)
            # Threads that meet the cache together get the same counters.
            lookups = self._counters[cache.table] = cache.reader(self._implicit)
            if cache.hot_set is not None and self._caches is None:
                # Its first call, so the version is known, which is part of each key.
                prefix = None if self._key_func is not None else self.__cache_key__()
                cache.hot_set.function_began(self._identity, prefix)
                if self._prefetches is not None:
                    self._prefetches.began(cache)
        return lookups

    def _add_to_fast_path(
        self,
        fast_path: FastPath,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        key: str,
        cache: CacheCore,
        lookups: Lookups,
    ) -> None:
        if self._key_func is not None or self._holder is not None or self._signature.defaults_vary:
            return  # a key may differ from the one before, though the arguments are the same
        # On a free-threaded build this finds nothing, and the fast path stays empty.
        held = cache.memory.find(key)
        if held is not None:
            called = call_key(args, kwargs, self._signature.ignores_first)
            options = self._options(cache)
            verify = options.verify if self._verifies else 0.0
            fast_path.add(called, held, cache, lookups, options.refresh_ahead, verify)

    # -- calls that are observed --------------------------------------------------------------------

    def _observed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        before = self._explained(args, kwargs)
        raises = True
        try:
            value = self.slow_path(FastPath(), args, kwargs)  # which no other call reads
            raises = False
            return value
        finally:
            failed = sys.exception() if raises else None
            self._report(args, kwargs, before, self._explained(args, kwargs), failed)
            del failed  # its traceback refers to this frame

    async def _observed_async(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        await self._build_cache()
        before = self._explained(args, kwargs)
        raises = True
        try:
            value = await self.slow_path_async(FastPath(), args, kwargs)
            raises = False
            return value
        finally:
            failed = sys.exception() if raises else None
            self._report(args, kwargs, before, self._explained(args, kwargs), failed)
            del failed  # its traceback refers to this frame

    def _explained(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Explanation | None:
        cache = self._source.current()
        if cache is None or cache.closed:
            return None
        try:
            return cache.tiers.explain(self.key(args, kwargs), self._tags_of(args, kwargs))
        except (TypeError, ValueError) as error:
            from cachekit.runtime.interrupts import raise_interrupt

            raise_interrupt(error)
            return None  # no arguments of the function, or of no key: the call says so

    def _report(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        before: Explanation | None,
        after: Explanation | None,
        error: BaseException | None,
    ) -> None:
        for observer in observers():
            observer(self._function, args, kwargs, before, after, error)

    def copied(self, value: Any) -> Any:
        """Return a deep copy if callers get copies, or else the value."""
        if not self._copies:
            return value
        from copy import deepcopy

        return deepcopy(value)

    async def _build_cache(self) -> None:
        # Off the event loop: the first use of the default cache opens a directory.
        if not self._source.is_ready():
            from cachekit.runtime.threads import in_own_thread

            await in_own_thread(self._source.current)

    # -- the methods of a cached function -------------------------------------------------------------

    def refresh(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the function and store its result, as `CachedFunction.refresh` does."""
        self._refuse_bound(args, kwargs)
        player = playing.player
        if player is not None:
            return self._ask(player, args, kwargs, again=True)
        cache = self._source.current()
        if cache is None:
            self.invalidate(*args, **kwargs)
            return self._function(*args, **kwargs)
        cache.check(self._level)
        self.lookups(cache)
        loader = partial(self._function, *args, **kwargs)
        key = self.key(args, kwargs)
        return self.copied(cache.loads.reload(key, loader, self._request(cache, args, kwargs)))

    async def refresh_async(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the function and store its result, as `AsyncCachedFunction.refresh` does."""
        self._refuse_bound(args, kwargs)
        player = playing.player
        if player is not None:
            return await self._ask_async(player, args, kwargs, again=True)
        await self._build_cache()
        cache = self._source.current()
        if cache is None:
            await self.invalidate_async(*args, **kwargs)
            return await self._function(*args, **kwargs)
        cache.check(self._level)
        self.lookups(cache)
        loader = partial(self._function, *args, **kwargs)
        key = await self._key_async(args, kwargs)
        value = await cache.awaited.reload(key, loader, self._request(cache, args, kwargs))
        return self.copied(value)

    def invalidate(self, /, *args: Any, **kwargs: Any) -> bool:
        """Remove the result of this call, as `CachedFunction.invalidate` does."""
        key, player = self.key_of(*args, **kwargs), playing.player
        dropped = 0 if player is None else player.invalidate(self._source.given(), [key])
        if player is not None and player.is_replaying:
            return bool(dropped)
        return self._delete(self._source.stored(), key) or bool(dropped)

    async def invalidate_async(self, /, *args: Any, **kwargs: Any) -> bool:
        """Remove the result of this call, as `AsyncCachedFunction.invalidate` does."""
        self._refuse_bound(args, kwargs)
        key, player = await self._key_async(args, kwargs), playing.player
        dropped = 0 if player is None else player.invalidate(self._source.given(), [key])
        if player is not None and player.is_replaying:
            return bool(dropped)
        await self._build_cache()
        cache = self._source.stored()
        return await cache.awaited.in_io_thread(self._delete, cache, key) or bool(dropped)

    def explain(self, /, *args: Any, **kwargs: Any) -> Explanation:
        """Return what the cache knows about this call, as `CachedFunction.explain` does."""
        self._refuse_bound(args, kwargs)
        cache = self._source.stored()
        cache.check()
        return cache.tiers.explain(self.key(args, kwargs), self._tags_of(args, kwargs))

    async def explain_async(self, /, *args: Any, **kwargs: Any) -> Explanation:
        """Return what the cache knows about this call, as `AsyncCachedFunction.explain` does."""
        self._refuse_bound(args, kwargs)
        await self._build_cache()
        cache = self._source.stored()
        cache.check()
        key = await self._key_async(args, kwargs)
        tags = self._tags_of(args, kwargs)
        return await cache.awaited.in_io_thread(cache.tiers.explain, key, tags)

    def _delete(self, cache: CacheCore, key: str) -> bool:
        cache.check()
        return cache.tiers.writes.delete(key, CacheLevel.ALL if self._caches is None else self._level)

    def cache_clear(self) -> int | None:
        """Remove all results, as `CachedFunction.cache_clear` does."""
        player = playing.player
        if player is not None:
            dropped = player.invalidate_tags(self._source.given(), frozenset({self._implicit}))
            if player.is_replaying:
                return dropped
        cache = self._source.stored()
        cache.check()
        if self._caches is not None:
            return cache.memory.invalidate_tags(frozenset({self._implicit}))
        return cache.tiers.writes.invalidate_tags(frozenset({self._implicit}))

    async def cache_clear_async(self) -> int | None:
        """Remove all results, as `AsyncCachedFunction.cache_clear` does."""
        player = playing.player
        if player is not None and player.is_replaying:
            return self.cache_clear()
        await self._build_cache()
        return await self._source.stored().awaited.in_io_thread(self.cache_clear)

    def cache_info(self) -> CacheInfo:
        """Return hits, misses and size, as `CachedFunction.cache_info` does."""
        from cachekit.decorator.types import CacheInfo, ProcessCacheInfo

        info: Callable[[int, int, int], CacheInfo]
        info = CacheInfo if self._caches is None else ProcessCacheInfo
        cache = self._source.current()
        if self._prefetches is not None:
            info = self._prefetches.info(cache, "shared" if self._caches is None else "process")
        if cache is None:
            return info(0, 0, 0)
        lookups = self.lookups(cache)
        size = cache.memory.tagged(self._implicit)
        below = lookups.below
        return info(lookups.hits + below, lookups.misses + lookups.skipped - below, size)

    def key_of(self, /, *args: Any, **kwargs: Any) -> str:
        """Return the cache key of this call, as `CachedFunction.key` does."""
        self._refuse_bound(args, kwargs)
        return self.key(args, kwargs)

    def _refuse_bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # `instance.method.invalidate(1)` arrives without the instance, because a function attribute is not
        # bound.
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
                    f"the first argument of {name} must be the class, because it is a class method; call "
                    f"{owner}.{name}.key({owner}, ...)"
                )
            raise TypeError(
                f"the first argument of {name} must be the instance, because it is a method; call it "
                f"through the class, as in {owner}.{name}.key(instance, ...)"
            )

    def wrapper(self, called: Callable[..., Any]) -> Any:
        """Return the function that replaces the decorated callable."""
        function = self._function
        is_async = self.is_async
        make = async_wrapper_of if is_async else wrapper_of
        if is_async:
            # Now, because an import at the first call would hold up the event loop.
            import cachekit.decorator.large_arguments  # noqa: F401
        wrapper: Any = wraps(function)(
            make(self, skips_first=self._signature.ignores_first, copies=self._copies)
        )
        wrapper.__wrapped__ = called
        wrapper.cache_info = self.cache_info
        wrapper.key = self.key_of
        wrapper.cache_clear = self.cache_clear_async if is_async else self.cache_clear
        wrapper.invalidate = self.invalidate_async if is_async else self.invalidate
        wrapper.refresh = self.refresh_async if is_async else self.refresh
        wrapper.explain = self.explain_async if is_async else self.explain
        return wrapper
