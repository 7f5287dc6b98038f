"""IntelligentCache, awaited: memory hits on the loop, loads in tasks, disk and socket in threads.

It is a view of a `cachekit.IntelligentCache` (`sync`), which threads may use at the same time. Both share
tiers, statistics and loads in progress. A cache that has only memory never leaves the loop. A loader may be a
coroutine function, which is awaited on this loop, or a plain function, which runs in a thread made for it.
"""

from __future__ import annotations

import hashlib  # noqa: F401  # the first key of a function needs it, and is made on the loop
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, final, overload

from cachekit.aio.facade import Facade, always_in_thread, check_sync, in_thread, plain, sync_of
from cachekit.aio.fill import Fill
from cachekit.aio.loaders import awaiting, from_threads
from cachekit.aio.memory import MemoryCache
from cachekit.aio.regions import Region
from cachekit.cache.default import core_of
from cachekit.cache.intelligent import IntelligentCache as Core
from cachekit.cache.intelligent import closes_tiers
from cachekit.decorator.source import playing
from cachekit.health import Health
from cachekit.loading.options import OFF, LoadOptions, Prefetch, checked_prefetch
from cachekit.loading.read_batch import in_batch
from cachekit.loading.verification import loader_name
from cachekit.loading.warming import warm_async
from cachekit.model.reports import WarmReport
from cachekit.model.types import MISSING, TTL, CacheLevel, Missing, Tags
from cachekit.model.validation import LONGEST, checked_key, checked_keys, not_a_function, refuse_misfit
from cachekit.runtime.threads import in_own_thread, run_in_thread
from cachekit.tiers.base import DirectoryTier, ServerTier
from cachekit.tiers.memory.tier import MemoryCache as CoreMemory

if TYPE_CHECKING:
    from cachekit.aio.file import FileCache
    from cachekit.aio.polled import PolledFacade
    from cachekit.aio.redis import RedisCache

P = ParamSpec("P")
R = TypeVar("R")
V = TypeVar("V")
D = TypeVar("D")

_ALL = CacheLevel.ALL


@final
class IntelligentCache(Facade[Core]):
    """`cachekit.IntelligentCache`, awaited; see there for the arguments and the promises.

    Its tiers may be facades of `cachekit.aio`, or synchronous tiers, which it shares. If the file tier is
    left out, the constructor opens its directory. Create caches before the loop runs, so that this does not
    block it.

    Safe on any loop and in any thread. A cache may be used on several loops at once.
    """

    __slots__ = ("_core", "_facades")

    def __init__(
        self,
        memory_cache: MemoryCache | CoreMemory | Missing | None = MISSING,
        redis_cache: RedisCache | PolledFacade[Any] | ServerTier | None = None,
        file_cache: FileCache | DirectoryTier | Missing | None = MISSING,
        default_ttl: TTL = 3600,
        enable_cache_warming: bool = True,
        *,
        load: LoadOptions = OFF,
        strict: bool = False,
        on_health_change: Callable[[Health, Health], object] | None = None,
        close_tiers: bool = True,
        reload_hot: bool = False,
        prefetch: bool | Prefetch = False,
    ) -> None:
        core = Core(
            sync_of(memory_cache), sync_of(redis_cache), sync_of(file_cache), default_ttl,
            enable_cache_warming, load=load, strict=strict, on_health_change=on_health_change,
            close_tiers=close_tiers, reload_hot=reload_hot, prefetch=prefetch,
        )  # fmt: skip
        self._set_up(core)
        for place, tier in (("memory", memory_cache), ("server", redis_cache), ("file", file_cache)):
            if isinstance(tier, Facade):
                self._facades[place] = tier

    def _set_up(self, sync: Core) -> None:
        super()._set_up(sync)
        self._core = core_of(sync)
        # The facades of tiers that were passed in, or asked for, by their places.
        self._facades: dict[str, Any] = {}

    @classmethod
    def of(cls, sync: Core) -> IntelligentCache:
        """Return a view of an existing cache.

        Raises:
            TypeError: `sync` is not a `cachekit.IntelligentCache`.
        """
        check_sync(sync, Core, "an IntelligentCache")
        return cls._view(sync)

    async def _run(self, step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._core.awaited.in_io_thread(step, *args, **kwargs)

    @property
    def memory_cache(self) -> MemoryCache | None:
        """Return the memory tier, or None."""
        tier = self._sync.memory_cache
        return None if tier is None else self._facade("memory", MemoryCache, tier)

    @property
    def redis_cache(self) -> RedisCache | PolledFacade[Any] | None:
        """Return the tier that hosts share, or None."""
        from cachekit.aio.polled import PolledFacade
        from cachekit.aio.redis import RedisCache
        from cachekit.tiers.polled import PolledTier

        tier = self._sync.redis_cache
        kind = PolledFacade if isinstance(tier, PolledTier) else RedisCache
        return None if tier is None else self._facade("server", kind, tier)

    @property
    def file_cache(self) -> FileCache | None:
        """Return the tier that the processes of this host share, or None."""
        from cachekit.aio.file import FileCache

        tier = self._sync.file_cache
        return None if tier is None else self._facade("file", FileCache, tier)

    def _facade(self, place: str, kind: Any, tier: object) -> Any:
        # Two threads may both make one: setdefault decides.
        return self._facades.get(place) or self._facades.setdefault(place, kind.of(tier))

    @property
    def default_ttl(self) -> float:
        """Return how many seconds an entry lives without a `ttl`; `FOREVER` for no expiry."""
        return self._sync.default_ttl

    # -- one key ------------------------------------------------------------------------------------

    @overload
    async def get(self, key: str, *, cache_level: CacheLevel = ...) -> Any | None: ...
    @overload
    async def get(self, key: str, default: D, *, cache_level: CacheLevel = ...) -> Any | D: ...
    async def get(self, key: str, default: Any = None, *, cache_level: CacheLevel = _ALL) -> Any:
        """Return the value of the key, as `cachekit.IntelligentCache.get`. A memory hit stays on the loop."""
        core = self._core
        if cache_level is not _ALL or core.closed:
            core.check(cache_level)
        name = key if type(key) is str and len(key) <= LONGEST else checked_key(key)
        value = core.look_in_memory(name, cache_level, core.lookups)
        if value is MISSING and core.prefetcher is not None:
            core.prefetcher.missed(name)
        if value is MISSING and core.tiers.lower:
            value = (await core.awaited.find(name, cache_level)).get()
        return default if value is MISSING else value

    @overload
    async def get_or_set(
        self,
        key: str,
        loader: Callable[[], Coroutine[Any, Any, V]],
        *,
        ttl: TTL | Callable[[Any], TTL] = ...,
        tags: Tags | None = ...,
        store_if: Callable[[Any], bool] | None = ...,
        stale_ttl: TTL = ...,
        jitter: float = ...,
        load: LoadOptions | None = ...,
    ) -> V: ...
    @overload
    async def get_or_set(
        self,
        key: str,
        loader: Callable[[], V],
        *,
        ttl: TTL | Callable[[Any], TTL] = ...,
        tags: Tags | None = ...,
        store_if: Callable[[Any], bool] | None = ...,
        stale_ttl: TTL = ...,
        jitter: float = ...,
        load: LoadOptions | None = ...,
    ) -> V: ...
    async def get_or_set(
        self,
        key: str,
        loader: Callable[[], Any],
        *,
        ttl: TTL | Callable[[Any], TTL] = None,
        tags: Tags | None = None,
        store_if: Callable[[Any], bool] | None = None,
        stale_ttl: TTL = None,
        jitter: float = 0.0,
        load: LoadOptions | None = None,
    ) -> Any:
        """Return the value of the key, loaded if it is missing, as `cachekit.IntelligentCache.get_or_set`.

        The loader may be a coroutine function. Cancelling a caller, even the first one, does not cancel the
        load: the other callers get its value, and the cache stores it.
        """
        if not callable(loader):
            raise not_a_function("loader", "without arguments, such as lambda: load(1)", loader)
        core, player = self._core, playing.player
        request = core.defaults.request(ttl, tags, stale_ttl, jitter, load, store_if)
        if player is not None:
            core.check(_ALL)
            return await player.ask_async(core, checked_key(key), None, awaiting(loader), request)
        value = await self.get(key, MISSING)
        loads = self._core.awaited
        if value is MISSING:
            try:
                return await loads.load(checked_key(key), awaiting(loader), request)
            except TypeError:
                refuse_misfit("loader", "without arguments", loader)
                raise
        if request.options.acts_on_hits:
            chosen = loads.path.is_chosen(request.options, load is not None or store_if is None)
            verified_as = loader_name(loader) if chosen else None
            loads.after_hit(checked_key(key), value, awaiting(loader), request, verified_as)
        return value

    async def contains(self, key: str) -> bool:
        """Return whether a live entry exists. There is no `in`, which could not be awaited."""
        core = self._core
        core.check(_ALL)
        if core.memory.peek_value(checked_key(key)) is not MISSING:
            return True
        return core.tiers.lower and await in_batch(self._sync.contains, key)

    set = in_thread(Core.set)
    add = in_thread(Core.add)

    @overload
    async def update(
        self, key: str, function: Callable[[Any], V], *, ttl: TTL = ..., tags: Tags | None = ...
    ) -> V: ...
    @overload
    async def update(
        self, key: str, function: Callable[[Any], V], default: Any, *, ttl: TTL = ..., tags: Tags | None = ...
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
        """Store `function(value)` and return it, as `cachekit.IntelligentCache.update`.

        The function is a plain one. It runs in a thread unless the cache has only memory.
        """
        return await self._run(self._sync.update, key, function, default, ttl=ttl, tags=tags)

    async def begin(self, key: str, *, tags: Tags | None = None) -> Fill[Any]:
        """Return what stores a value that is loaded from now on, as `cachekit.IntelligentCache.begin`."""
        return Fill(await self._run(self._sync.begin, key, tags=tags), self._run)

    delete = in_thread(Core.delete)
    touch = in_thread(Core.touch)
    explain = in_thread(Core.explain)

    # -- many keys ----------------------------------------------------------------------------------

    async def get_many(self, keys: Iterable[str], *, cache_level: CacheLevel = _ALL) -> dict[str, Any]:
        """Return the values that the tiers have. If memory has all of them, this stays on the loop."""
        core = self._core
        core.check(cache_level)
        wanted = checked_keys(keys)
        found = core.look_up_many_in_memory(wanted, cache_level)
        missing = [key for key in wanted if key not in found]
        if missing and core.tiers.lower:
            found |= await in_batch(core.tiers.find_many, missing, cache_level)
        return {key: found[key] for key in wanted if key in found}

    @overload
    async def get_or_set_many(
        self,
        keys: Iterable[str],
        loader: Callable[[list[str]], Coroutine[Any, Any, Mapping[str, V]]],
        *,
        ttl: TTL = ...,
        tags: Tags | None = ...,
        stale_ttl: TTL = ...,
        jitter: float = ...,
        load: LoadOptions | None = ...,
    ) -> dict[str, V]: ...
    @overload
    async def get_or_set_many(
        self,
        keys: Iterable[str],
        loader: Callable[[list[str]], Mapping[str, V]],
        *,
        ttl: TTL = ...,
        tags: Tags | None = ...,
        stale_ttl: TTL = ...,
        jitter: float = ...,
        load: LoadOptions | None = ...,
    ) -> dict[str, V]: ...
    async def get_or_set_many(
        self,
        keys: Iterable[str],
        loader: Callable[[list[str]], Any],
        *,
        ttl: TTL = None,
        tags: Tags | None = None,
        stale_ttl: TTL = None,
        jitter: float = 0.0,
        load: LoadOptions | None = None,
    ) -> dict[str, Any]:
        """Return the values; one call loads all missing keys. The loader may be a coroutine function."""
        wanted = checked_keys(keys)
        if not callable(loader):
            raise not_a_function("loader", "of a list of keys", loader)
        core, player = self._core, playing.player
        request = core.defaults.request(ttl, tags, stale_ttl, jitter, load)
        if player is not None:
            core.check(_ALL)
            return await player.ask_many_async(core, wanted, awaiting(loader), request)
        found = await self.get_many(wanted)
        missing = [key for key in wanted if key not in found]
        if missing:
            try:
                found |= await self._core.awaited.load_many(missing, awaiting(loader), request)
            except TypeError:
                refuse_misfit("loader", "of a list of keys", loader, missing)
                raise
        return {key: found[key] for key in wanted if key in found}

    async def warm_cache(
        self,
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
        """Load the keys that no tier has, as `cachekit.IntelligentCache.warm_cache`.

        The loader may be a coroutine function. At most `concurrency` keys are loaded at once. `progress` is
        called on the loop. Keys that are kept warm are loaded on this loop, until it ends.
        """
        wanted = checked_keys(keys)
        self._core.check(_ALL)
        if not callable(loader_func):
            raise not_a_function("loader_func", "of a key", loader_func)
        core = self._core
        request, load_key = core.defaults.warming_request(ttl, tags, load, keep_warm), awaiting(loader_func)
        player = playing.player
        if player is not None:
            twin, replayed, lasting = player.warming_async(core, load_key, request)
            return await warm_async(twin.awaited, wanted, replayed, lasting, concurrency, progress)
        kept_warm = core.keep_warm
        report = await warm_async(core.awaited, wanted, load_key, request, concurrency, progress)
        if kept_warm is not None:
            if keep_warm:
                kept_warm.keep(wanted, from_threads(load_key), request)
            else:
                kept_warm.drop(wanted)
        return report

    set_many = in_thread(Core.set_many)
    delete_many = in_thread(Core.delete_many)

    # -- invalidation -------------------------------------------------------------------------------

    clear = in_thread(Core.clear)
    invalidate_by_pattern = in_thread(Core.invalidate_by_pattern)
    invalidate_by_tags = in_thread(Core.invalidate_by_tags)

    # -- views and figures --------------------------------------------------------------------------

    def region(
        self,
        prefix: str,
        type: type[V],  # noqa: A002  # the name that says it
        *,
        ttl: TTL = None,
        tags: Tags | None = None,
        loader: Callable[[str], Coroutine[Any, Any, V]] | Callable[[str], V] | None = None,
        prefetch: bool | Prefetch = False,
    ) -> Region[V]:
        """Return a typed view of the keys that begin with `prefix`. The methods of the view are awaited.

        The loader may be a coroutine function.
        """
        if loader is not None and not callable(loader):
            raise not_a_function("loader", "of a key, such as lambda key: load(key)", loader)
        options = checked_prefetch(prefetch)
        if options is not None and (loader is None or self._core.memory_tier is None):
            raise ValueError("prefetch needs a loader=..., and a cache with a memory tier")
        region = self._sync.region(prefix, type, ttl=ttl, tags=tags)
        return Region(self, region, self._run, loader, self._core, options)

    prefetch_info = plain(Core.prefetch_info)

    cached = plain(Core.cached)
    verifications = plain(Core.verifications)
    get_stats = in_thread(Core.get_stats)

    async def health(self, **thresholds: float) -> Health:
        """Return the health of the cache, as `cachekit.IntelligentCache.health`."""
        return await run_in_thread(self._sync.health, **thresholds)

    optimize_cache = always_in_thread(Core.optimize_cache)

    # -- life ---------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close the cache and its synchronous side, and the tiers unless `close_tiers` is False.

        Loads that are tasks are cancelled, and their callers get CacheClosedError. Afterwards no task is
        left, and no thread but those of plain loaders that still run. A second call does nothing.
        """
        sync = self._sync
        if self._core.tiers.lower:
            await in_own_thread(sync.close)
        else:
            sync.close()
        await self._core.loads.tasks.end()
        if closes_tiers(sync):
            for tier in list(self._facades.values()):
                await tier.close()

    aclose = close

    async def __aenter__(self) -> IntelligentCache:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
