"""Region, awaited: a typed view of the keys of a cache that begin with a prefix."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, final, overload

from cachekit.aio.facade import Facade, in_thread
from cachekit.aio.fill import Fill, Runner
from cachekit.aio.loaders import awaiting
from cachekit.cache.default import core_of
from cachekit.cache.region import Region as Core
from cachekit.cache.region import keys_of, loader_of, prefetcher_of, refuse_loader
from cachekit.decorator.source import named_as, playing
from cachekit.loading.options import LoadOptions
from cachekit.model.types import MISSING, TTL, Tags
from cachekit.model.validation import not_a_function

if TYPE_CHECKING:
    from cachekit.loading.core import CacheCore
    from cachekit.loading.options import Prefetch
    from cachekit.loading.predictor import PrefetchInfo
    from cachekit.loading.prefetching import Prefetcher

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

    __slots__ = ("_cache", "_keys", "_loader", "_options", "_prefetcher", "_run_in_thread")

    def __init__(
        self,
        cache: LoadingCache,
        sync: Core[V],
        run: Runner,
        loader: Callable[[str], Any] | None,
        core: CacheCore,
        prefetch: Prefetch | None,
    ) -> None:
        self._set_up(sync)
        self._cache = cache
        self._keys = keys = keys_of(sync)
        self._loader = loader
        self._options = prefetch
        self._run_in_thread = run
        self._prefetcher: Prefetcher | None = None
        if loader is not None and prefetch is not None:
            loaded = awaiting(loader)

            async def load(key: str) -> V:
                return keys.checked(await loaded(key), key)

            self._prefetcher = prefetcher_of(keys, core, prefetch, load, is_async=True)

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
        return default if value is MISSING else self._keys.checked(value, key, stored=True)

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
        loader: Callable[[], Coroutine[Any, Any, V]] | Callable[[], V] | None = None,
        *,
        ttl: TTL | Callable[[Any], TTL] = None,
        tags: Tags | None = None,
        store_if: Callable[[Any], bool] | None = None,
        stale_ttl: TTL = None,
        jitter: float = 0.0,
        load: LoadOptions | None = None,
    ) -> V:
        """Return the value of the key, loaded if it is missing. The loader may be a coroutine function.

        Without a `loader` the region's own loads the key.
        """
        keys = self._keys
        named: Callable[..., Any] | None = loader
        if loader is None:
            named = loader_of(self._sync) if self._loader is None else self._loader
            loader = partial(named, key)
            if self._prefetcher is not None and playing.player is None:
                self._prefetcher.missed_unless_held(keys.full(key))
        if not callable(loader) or named is None:
            raise not_a_function("loader", "without arguments, such as lambda: load(1)", loader)
        loaded = awaiting(loader)

        async def checked() -> V:
            return keys.checked(await loaded(), key)

        try:
            value = await self._cache.get_or_set(
                keys.full(key),
                named_as(named, checked),
                ttl=keys.ttl(ttl),
                tags=keys.tags(tags),
                store_if=store_if,
                stale_ttl=stale_ttl,
                jitter=jitter,
                load=load,
            )
        except TypeError:
            refuse_loader(named, key, of_region=named is not loader)
            raise
        return keys.checked(value, key, stored=True)

    def prefetch_info(self) -> PrefetchInfo | None:
        """Return what prefetching has done for the region; None if it is off."""
        return None if self._prefetcher is None else self._prefetcher.info()

    delete = in_thread(Core.delete)
    contains = in_thread(Core.contains)
    clear = in_thread(Core.clear)

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self._cache, self._sync, self._run_in_thread, self._loader, self._options)


def _again(
    cache: Any, sync: Core[V], run: Runner, loader: Callable[[str], Any] | None, prefetch: Prefetch | None
) -> Region[V]:
    """Return a region of a cache that was unpickled."""
    return Region(cache, sync, run, loader, core_of(cache.sync), prefetch)
