"""Region, awaited: a typed view of the keys of a cache that begin with a prefix."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, final, overload

from cachekit.aio.facade import Facade, in_thread
from cachekit.aio.fill import Fill, Runner
from cachekit.aio.loaders import awaiting
from cachekit.cache.region import Region as Core
from cachekit.cache.region import keys_of
from cachekit.decorator.source import named_as, playing
from cachekit.loading.options import LoadOptions
from cachekit.model.types import MISSING, TTL, Tags
from cachekit.model.validation import not_a_function

P = ParamSpec("P")
R = TypeVar("R")
V = TypeVar("V")
D = TypeVar("D")


class LoadingCache(Protocol):
    """What a region asks of its awaited cache."""

    async def get(self, key: str, default: Any, /) -> Any:
        """Return the value of the key, or `default`."""
        ...

    async def get_or_set(
        self,
        key: str,
        loader: Callable[[], Coroutine[Any, Any, V]],
        *,
        ttl: TTL | Callable[[Any], TTL],
        tags: Tags | None,
        store_if: Callable[[Any], bool] | None,
        stale_ttl: TTL,
        jitter: float,
        load: LoadOptions | None,
    ) -> V:
        """Return the value of the key, loaded if it is missing."""
        ...


@final
class Region(Facade[Core[V]], Generic[V]):
    """`cachekit.Region`, awaited. `IntelligentCache.region` returns one, and documents the arguments."""

    __slots__ = ("_cache", "_keys", "_run_in_thread")

    def __init__(self, cache: LoadingCache, sync: Core[V], run: Runner) -> None:
        self._set_up(sync)
        self._cache = cache
        self._keys = keys_of(sync)
        self._run_in_thread = run

    async def _run(self, step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._run_in_thread(step, *args, **kwargs)

    @property
    def prefix(self) -> str:
        """Return the prefix of all keys of the region."""
        return self._sync.prefix

    @overload
    async def get(self, key: str) -> V | None: ...
    @overload
    async def get(self, key: str, default: D) -> V | D: ...
    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value of the key; see `cachekit.Region.get`."""
        value = await self._cache.get(self._keys.full(key), MISSING)
        return default if value is MISSING else self._keys.checked(value, key)

    async def set(self, key: str, value: V, ttl: TTL = None, tags: Tags | None = None) -> bool:
        """Store a value; see `cachekit.Region.set`."""
        return await self._run(self._sync.set, key, value, ttl, tags)

    async def add(
        self, key: str, value: V, ttl: TTL = None, tags: Tags | None = None, *, stale_ttl: TTL = None
    ) -> bool:
        """Store a value if there is no live entry; see `cachekit.Region.add`."""
        return await self._run(self._sync.add, key, value, ttl, tags, stale_ttl=stale_ttl)

    @overload
    async def update(
        self, key: str, function: Callable[[V | None], V], *, ttl: TTL = ..., tags: Tags | None = ...
    ) -> V: ...
    @overload
    async def update(
        self,
        key: str,
        function: Callable[[V | D], V],
        default: D,
        *,
        ttl: TTL = ...,
        tags: Tags | None = ...,
    ) -> V: ...
    async def update(
        self,
        key: str,
        function: Callable[[Any], V],
        default: Any = None,
        *,
        ttl: TTL = None,
        tags: Tags | None = None,
    ) -> V:
        """Store `function(value)` in place of the value; see `cachekit.Region.update`."""
        return await self._run(self._sync.update, key, function, default, ttl=ttl, tags=tags)

    async def begin(self, key: str, *, tags: Tags | None = None) -> Fill[V]:
        """Return what stores a value that is loaded from now on; see `cachekit.Region.begin`."""
        return Fill(await self._run(self._sync.begin, key, tags=tags), self._run_in_thread)

    async def get_or_set(
        self,
        key: str,
        loader: Callable[[], Coroutine[Any, Any, V]] | Callable[[], V],
        *,
        ttl: TTL | Callable[[Any], TTL] = None,
        tags: Tags | None = None,
        store_if: Callable[[Any], bool] | None = None,
        stale_ttl: TTL = None,
        jitter: float = 0.0,
        load: LoadOptions | None = None,
    ) -> V:
        """Return the value of the key, loaded if it is missing. The loader may be a coroutine function."""
        keys = self._keys
        if not callable(loader):
            raise not_a_function("loader", "without arguments, such as lambda: load(1)", loader)
        loaded = awaiting(loader)

        async def checked() -> V:
            return keys.checked(await loaded(), key)

        if playing.player is not None:
            named_as(loader, checked)

        value = await self._cache.get_or_set(
            keys.full(key),
            checked,
            ttl=keys.ttl(ttl),
            tags=keys.tags(tags),
            store_if=store_if,
            stale_ttl=stale_ttl,
            jitter=jitter,
            load=load,
        )
        return keys.checked(value, key)

    delete = in_thread(Core.delete)
    contains = in_thread(Core.contains)
    clear = in_thread(Core.clear)

    def __reduce__(self) -> tuple[Any, ...]:
        return Region, (self._cache, self._sync, self._run_in_thread)
