"""Region, awaited: a typed view of the keys of a cache that begin with one prefix."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, final, overload

from cachekit.aio.facade import Facade, in_thread
from cachekit.aio.loaders import awaiting
from cachekit.cache.region import Region as Core
from cachekit.loading.options import LoadOptions
from cachekit.model.types import MISSING, TTL, Tags

if TYPE_CHECKING:
    from cachekit.aio.cache import IntelligentCache

P = ParamSpec("P")
R = TypeVar("R")
V = TypeVar("V")
D = TypeVar("D")


@final
class Region(Facade[Core[V]], Generic[V]):
    """`cachekit.Region`, awaited. Made by `IntelligentCache.region`, which says what the arguments are."""

    __slots__ = ("_cache",)

    def __init__(self, cache: IntelligentCache, sync: Core[V]) -> None:
        self._set_up(sync)
        self._cache = cache

    async def _run(self, step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._cache._run(step, *args, **kwargs)

    @property
    def prefix(self) -> str:
        """What every key of the region begins with."""
        return self._sync.prefix

    @overload
    async def get(self, key: str) -> V | None: ...
    @overload
    async def get(self, key: str, default: D) -> V | D: ...
    async def get(self, key: str, default: Any = None) -> Any:
        """As `cachekit.Region.get`."""
        value = await self._cache.get(self._sync._full(key), MISSING)
        return default if value is MISSING else self._sync._checked(value, key)

    async def set(self, key: str, value: V, ttl: TTL = None, tags: Tags | None = None) -> bool:
        """As `cachekit.Region.set`."""
        return await self._run(self._sync.set, key, value, ttl, tags)

    async def get_or_set(
        self,
        key: str,
        loader: Callable[[], Coroutine[Any, Any, V]] | Callable[[], V],
        *,
        ttl: TTL = None,
        tags: Tags | None = None,
        stale_ttl: TTL = None,
        jitter: float = 0.0,
        load: LoadOptions | None = None,
    ) -> V:
        """As `cachekit.Region.get_or_set`, with a loader that may be a coroutine function."""
        sync = self._sync
        if not callable(loader):
            raise TypeError(
                f"loader must be a function without arguments, such as lambda: load(1), not {loader!r}"
            )
        loaded = awaiting(loader)

        async def checked() -> V:
            return sync._checked(await loaded(), key)

        value = await self._cache.get_or_set(
            sync._full(key),
            checked,
            ttl=sync._ttl if ttl is None else ttl,
            tags=sync._all_tags(tags),
            stale_ttl=stale_ttl,
            jitter=jitter,
            load=load,
        )
        return sync._checked(value, key)

    delete = in_thread(Core.delete)
    contains = in_thread(Core.contains)
    clear = in_thread(Core.clear)

    def __reduce__(self) -> tuple[Any, ...]:
        return Region, (self._cache, self._sync)
