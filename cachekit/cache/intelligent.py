"""IntelligentCache: one cache over up to three tiers, the memory of this process first.

It checks what it is given, answers from memory, applies the cache's default TTL, and keeps the figures.
What is not in memory `levels` looks for, and writes; loads go down their path in `loads`. How entries are
evicted is the tiers' business; which question a key stands for is `decorators`'.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Any, TypeVar, final, overload

from cachekit.cache.config import tiers_of
from cachekit.cache.region import Region
from cachekit.decorator.function import CachedOptions, decorator_for
from cachekit.decorator.source import FixedSource
from cachekit.decorator.types import CacheDecorator
from cachekit.health import Health, HealthMonitor, Thresholds, assess
from cachekit.loading.core import CacheCore
from cachekit.loading.options import OFF, LoadOptions, checked_jitter
from cachekit.loading.request import LoadRequest
from cachekit.loading.warming import warm
from cachekit.model.reports import Explanation, OptimizationReport, WarmReport
from cachekit.model.stats import CacheStats
from cachekit.model.types import FOREVER, MISSING, NO_TAGS, TTL, CacheLevel, Missing, Tags
from cachekit.model.validation import (
    PLAIN_TYPES,
    checked_key,
    checked_keys,
    checked_pattern,
    checked_tags,
    refuse_unstorable,
    seconds,
    stale_seconds,
)
from cachekit.tiers.base import DirectoryTier, ServerTier
from cachekit.tiers.fences import CHANGES
from cachekit.tiers.memory import MemoryCache
from cachekit.tiers.memory.store import find_nothing

V = TypeVar("V")
D = TypeVar("D")

_ALL = CacheLevel.ALL


@final
class IntelligentCache:
    """A cache over the tiers that it is given.

    Args:
        memory_cache: the memory tier; left out, a `MemoryCache()` of its own; None for none.
        redis_cache: the tier that hosts share; left out or None, there is none.
        file_cache: the tier that the processes of this host share; left out, the program's own (see
            `cachekit.cache.config`), or none, with a warning, if that cannot be opened; None for none.
        default_ttl: seconds (or a timedelta) that an entry lives when `set` does not say; None or
            `FOREVER` for no expiry.
        enable_cache_warming: whether `warm_cache` may keep keys warm.
        load: how values are loaded where a call or a cached function does not say; see `LoadOptions`.
        strict: raise TierUnavailableError where a tier fails, rather than going on without it.
        on_health_change: called as `on_health_change(new, old)`, in a thread of the cache's, when the
            status of its health is another one than ten seconds before; it is judged on the last minute.
        close_tiers: whether `close` closes the tiers too; say False for tiers that are shared.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: no tier at all, a `default_ttl` of 0 or less, or a `load` that needs another tier.
        TierUnavailableError: the file tier was left out, cannot be opened, and would be the only one.

    All methods are safe in any thread, before and after a fork. Every method raises TypeError for a key
    that is not a str, and CacheClosedError after `close`. `cache_level` says which tiers a call speaks
    to; one that names no tier of this cache is a ValueError. It pickles as its configuration: the copy
    has the same lower tiers and an empty memory, keeps nothing warm, and tells nobody of its health.
    """

    __slots__ = (
        "__weakref__", "_close_tiers", "_core", "_find", "_lookups", "_monitor", "_now", "_stats", "_store",
        "_strict", "_tiers", "_touch",
    )  # fmt: skip

    def __init__(
        self,
        memory_cache: MemoryCache | Missing | None = MISSING,
        redis_cache: ServerTier | None = None,
        file_cache: DirectoryTier | Missing | None = MISSING,
        default_ttl: TTL = 3600,
        enable_cache_warming: bool = True,
        *,
        load: LoadOptions = OFF,
        strict: bool = False,
        on_health_change: Callable[[Health, Health], object] | None = None,
        close_tiers: bool = True,
    ) -> None:
        ttl = FOREVER if default_ttl is None else seconds(default_ttl, "default_ttl")
        if ttl <= 0:
            raise ValueError(
                f"default_ttl must be more than 0, not {default_ttl!r}; use FOREVER for no expiry"
            )
        for argument, value in (
            ("enable_cache_warming", enable_cache_warming),
            ("strict", strict),
            ("close_tiers", close_tiers),
        ):
            if not isinstance(value, bool):
                raise TypeError(f"{argument} must be True or False, not {value!r}")
        if on_health_change is not None and not callable(on_health_change):
            raise TypeError(f"on_health_change must be a function of two healths, not {on_health_change!r}")
        self._tiers = tiers_of(memory_cache, redis_cache, file_cache)
        self._strict = strict
        self._close_tiers = close_tiers
        self._core = core = CacheCore(
            *self._tiers, default_ttl=ttl, load=load, keeps_warm=enable_cache_warming, strict=strict
        )
        # What a hit needs, so that it is one function with no call in between.
        self._find = core.memory.find
        self._touch = core.memory.touch
        self._now = core.memory.now
        self._store = core.memory
        self._stats = core.figures
        self._lookups = core.lookups
        self._monitor = None
        if on_health_change is not None:
            self._monitor = HealthMonitor(on_health_change, core.get_stats, self._judge)

    @property
    def memory_cache(self) -> MemoryCache | None:
        """The memory tier, if there is one."""
        return self._tiers[0]

    @property
    def redis_cache(self) -> ServerTier | None:
        """The tier that hosts share, if there is one."""
        return self._tiers[1]

    @property
    def file_cache(self) -> DirectoryTier | None:
        """The tier that the processes of this host share, if there is one."""
        return self._tiers[2]

    @property
    def default_ttl(self) -> float:
        """Seconds that an entry lives when nobody says; `FOREVER` for no expiry."""
        return self._core.default_ttl

    # -- one key ------------------------------------------------------------------------------------

    @overload
    def get(self, key: str, *, cache_level: CacheLevel = ...) -> Any | None: ...
    @overload
    def get(self, key: str, default: D, *, cache_level: CacheLevel = ...) -> Any | D: ...
    def get(self, key: str, default: Any = None, *, cache_level: CacheLevel = _ALL) -> Any:
        """The value of the nearest tier that has the key, or `default`.

        A cached None is a value; ask with another default to tell it from a miss.

        Raises:
            TypeError: the key is not a str.
            ValueError: `cache_level` names no tier of this cache.
        """
        if cache_level is _ALL:
            # The hit path: the steps of MemoryCache.get_value, which says what they are.
            try:
                held = self._find(key)
            except TypeError:  # unhashable
                held = None
            if held is not None:
                value = held.value
                shared_fence = held.shared_fence
                now = self._now()
                if (
                    now < held.deadline
                    and held.value is value
                    and (
                        shared_fence is None
                        or shared_fence.words[CHANGES] == shared_fence.seen
                        or shared_fence.stands()
                    )
                ):
                    try:
                        self._touch(held.key)
                    except KeyError:
                        pass
                    held.accesses += 1
                    held.last = now
                    self._lookups.hits += 1
                    if now > self._stats.sample_due:
                        self._stats.sample(self._store, held.key)
                    return value
        if cache_level is not _ALL or self._core.closed:
            self._core.check(cache_level)
        name = key if type(key) is str else checked_key(key)
        value = self._core.look_up(name, cache_level)
        return default if value is MISSING else value

    def set(
        self,
        key: str,
        value: Any,
        ttl: TTL = None,
        cache_level: CacheLevel = _ALL,
        tags: Tags | None = None,
        *,
        stale_ttl: TTL = None,
    ) -> bool:
        """Store a value in place of whatever the key held.

        Args:
            key: where.
            value: anything that the lower tiers can store; memory holds it by reference.
            ttl: its life from now, in seconds or as a timedelta; None is the cache's default, FOREVER
                no expiry; 0 or less keeps nothing and removes what was there.
            cache_level: the tiers that shall hold it; no other one holds the key afterwards.
            tags: labels by which it can be invalidated together with others.
            stale_ttl: for how long after its life `get_or_set` and cached functions may still fall back on
                it, if they name a `stale_ttl` too; None is not at all.

        Returns:
            True if every tier carried it out. If one failed, it will have dropped the key before it
            is used again.

        Raises:
            TypeError: a key, TTL, level or tag of the wrong type.
            ValueError: a TTL of NaN, or a level that names no tier of this cache.
            SerializationError: the value can be read or awaited only once, or a tier cannot store it.
            ValueTooLargeError: it is larger than a tier has room for. The key is gone.
        """
        if cache_level is not _ALL or self._core.closed:
            self._core.check(cache_level)
        if type(value) not in PLAIN_TYPES:
            refuse_unstorable(value)
        name = key if type(key) is str else checked_key(key)
        life = self._core.default_ttl if ttl is None else seconds(ttl)
        labels = NO_TAGS if tags is None else checked_tags(tags)
        if stale_ttl is not None:
            return self._core.tiers.writes.write(
                name, value, life, labels, cache_level, stale_seconds(stale_ttl)
            )
        if self._core.tiers.lower:
            return self._core.tiers.writes.write(name, value, life, labels, cache_level)
        return self._store.put(name, value, life, labels)

    def get_or_set(
        self,
        key: str,
        loader: Callable[[], V],
        *,
        ttl: TTL = None,
        tags: Tags | None = None,
        stale_ttl: TTL = None,
        jitter: float = 0.0,
        load: LoadOptions | None = None,
    ) -> V:
        """The value of the key; if there is none, that of `loader()`, which is stored.

        One caller loads, others who ask meanwhile wait for it. If the key, or one of the tags, is
        written or invalidated during the load, its value is returned but not stored. An exception of
        the loader reaches everyone who waits; nothing is stored. A loader may ask for other keys, and
        even for its own, which it then loads itself; but not from threads that it starts and waits for.

        Args:
            key: where.
            loader: a function without arguments.
            ttl: as for `set`.
            tags: as for `set`.
            stale_ttl: for how long after its life the value may stand in for a load that fails, that
                takes longer than its soft timeout, or that another caller has begun; None is not at
                all. `get` never returns it, and invalidation removes it. It is kept in memory.
            jitter: the share of the TTL, 0 to less than 1, that chance may take away, so that values
                stored together do not expire together.
            load: how to load; None is the cache's `load`.

        Raises:
            TypeError: an argument of the wrong type, such as a loader that is not callable.
            ValueError: a number out of range, or a `load` that needs a tier that is not there.
            SerializationError: the loader returned something that can be read or awaited only once.
            LoadTimeoutError: it took longer than the hard timeout.
            Exception: whatever the loader raised.
        """
        if not callable(loader):
            raise TypeError(
                f"loader must be a function without arguments, such as lambda: load(1), not {loader!r}"
            )
        life = self._core.default_ttl if ttl is None else seconds(ttl)
        labels = NO_TAGS if tags is None else checked_tags(tags)
        stale = 0.0 if stale_ttl is None else self._core.defaults.stale(stale_ttl)
        options = self._core.defaults.load if load is None else self._core.defaults.options(load)
        if jitter != 0.0:
            checked_jitter(jitter)
        value = self.get(key, MISSING)
        if value is not MISSING:
            if options.refresh_ahead:
                request = LoadRequest(
                    self._core.defaults.spread(lambda _: life, jitter), labels, _ALL, stale, options
                )
                self._core.loads.refresh(checked_key(key), loader, request)
            found: V = value
            return found
        spread = self._core.defaults.spread(lambda _: life, jitter)
        return self._core.loads.load(
            checked_key(key), loader, LoadRequest(spread, labels, _ALL, stale, options)
        )

    def delete(self, key: str, cache_level: CacheLevel = _ALL) -> bool:
        """Remove the key, and refuse every load of it that is under way; True if it was there."""
        self._core.check(cache_level)
        return self._core.tiers.writes.delete(checked_key(key), cache_level)

    def touch(self, key: str, ttl: TTL = None) -> bool:
        """Give a live entry a new life from now (None: the default TTL); True if there is one.

        It counts as a write of the key: loads of it that are under way are not kept.
        """
        self._core.check(_ALL)
        return self._core.tiers.writes.touch(
            checked_key(key), self._core.default_ttl if ttl is None else seconds(ttl)
        )

    def contains(self, key: str) -> bool:
        """Whether some tier has a live entry; no lookup that counts."""
        self._core.check(_ALL)
        return self._store.peek_value(checked_key(key)) is not MISSING or (
            self._core.tiers.lower and self._core.tiers.peek(key) is not None
        )

    __contains__ = contains

    def explain(self, key: str) -> Explanation:
        """What the cache knows about one key, for a person who wonders; no lookup that counts."""
        self._core.check(_ALL)
        entry, level = self._store.peek_entry(checked_key(key)), CacheLevel.MEMORY
        if entry is None:
            below = self._core.tiers.peek(key) if self._core.tiers.lower else None
            if below is None:
                return Explanation(checked_key(key), None, None, None, NO_TAGS, 0)
            entry, level = below
        age = max(0.0, self._store.clock.time() - entry.created_timestamp)
        ttl = inf if entry.ttl is None else entry.ttl
        return Explanation(entry.key, level, age, ttl - age, entry.tags, entry.access_count)

    # -- many keys ----------------------------------------------------------------------------------

    def get_many(self, keys: Iterable[str], *, cache_level: CacheLevel = _ALL) -> dict[str, Any]:
        """The values of the keys that are there, in the order asked for; each is a lookup that counts."""
        self._core.check(cache_level)
        wanted = checked_keys(keys)
        found = self._core.look_up_many_in_memory(wanted, cache_level)
        if self._core.tiers.lower and len(found) < len(wanted):
            found |= self._core.tiers.find_many([key for key in wanted if key not in found], cache_level)
        return {key: found[key] for key in wanted if key in found}

    def set_many(
        self,
        values: Mapping[str, Any],
        ttl: TTL = None,
        cache_level: CacheLevel = _ALL,
        tags: Tags | None = None,
    ) -> bool:
        """`set` each key of the mapping, with one TTL and the same tags; True if all were carried out.

        Arguments are checked before the first is stored.
        """
        self._core.check(cache_level)
        if not isinstance(values, Mapping):
            raise TypeError(
                f"values must be a mapping from key to value, not {values!r} of type {type(values).__name__}"
            )
        life = self._core.default_ttl if ttl is None else seconds(ttl)
        labels = checked_tags(tags)
        checked = {checked_key(key): value for key, value in values.items()}
        for key, value in checked.items():
            refuse_unstorable(value, f"the value of {key!r}")
        if self._core.tiers.lower:
            return self._core.tiers.writes.write_many(checked, life, labels, cache_level)
        done = [self._store.put(key, value, life, labels) for key, value in checked.items()]
        return all(done)

    def delete_many(self, keys: Iterable[str], cache_level: CacheLevel = _ALL) -> int:
        """`delete` each key; how many were there."""
        self._core.check(cache_level)
        return self._core.tiers.writes.delete_many(checked_keys(keys), cache_level)

    def get_or_set_many(
        self,
        keys: Iterable[str],
        loader: Callable[[list[str]], Mapping[str, V]],
        *,
        ttl: TTL = None,
        tags: Tags | None = None,
        stale_ttl: TTL = None,
        jitter: float = 0.0,
        load: LoadOptions | None = None,
    ) -> dict[str, V]:
        """The values of the keys; one call `loader(missing)` loads all that nobody has or is loading.

        Args:
            keys: which; one that is named twice counts once.
            loader: from a list of keys to a mapping of their values; keys that it leaves out are
                missing from the result, and nothing is stored for them.
            ttl: as for `set`, for all of them.
            tags: as for `set`, for all of them.
            stale_ttl: as for `get_or_set`; a load of several keys that fails falls back only if all of them
                have a value.
            jitter: as for `get_or_set`, for each of them.
            load: as for `get_or_set`; but many keys take no lease, and are not refreshed ahead.

        Returns:
            The values in the order of `keys`.

        Raises:
            TypeError: an argument of the wrong type; the loader is not callable, or returned no mapping.
            ValueError: a number out of range, a `load` that needs a tier that is not there; or the
                loader returned keys that it was not asked for.
            LoadTimeoutError: it took longer than the hard timeout.
            Exception: whatever the loader raised.
        """
        wanted = checked_keys(keys)
        if not callable(loader):
            raise TypeError(f"loader must be a function of a list of keys, not {loader!r}")
        request = self._core.defaults.request(ttl, tags, stale_ttl, jitter, load)
        found = self.get_many(wanted)
        missing = [key for key in wanted if key not in found]
        if missing:
            found |= self._core.batches.load(missing, loader, request)
        return {key: found[key] for key in wanted if key in found}

    def warm_cache(
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
        """Load the keys that no tier has, several at a time; those that only lower tiers have, into memory.

        A key that fails stops no other; it is in the report. Unless `load` or the cache's own says something
        else, others who share a tier and warm the same keys do so together: each key is loaded once among
        the hosts on the server, or the processes on the directory. What is kept warm is loaded likewise.

        Args:
            keys: which; one that is named twice counts once.
            loader_func: from a key to its value.
            ttl: as for `set`, for all of them.
            tags: as for `set`, for all of them.
            load: how to load; None is the cache's `load`, and if that has no lease, with the widest that the
                tiers lend.
            concurrency: how many threads load, at least 1.
            keep_warm: load them again, one after the other and in a thread of the cache's, before their
                time is over, until the cache is closed or this is called for them without it.
            progress: True shows a bar on stderr, if that is a terminal, and else one line at the end; or a
                function, called in this thread as `progress(done, total)` after each key.

        Raises:
            TypeError: a key, TTL or tag of the wrong type, or a function that is not callable.
            ValueError: `concurrency` is less than 1; `load` needs a tier that is not there; or `keep_warm`
                with a TTL of 0 or less, or if the cache was made with enable_cache_warming=False.
        """
        wanted = checked_keys(keys)
        self._core.check(_ALL)
        if not callable(loader_func):
            raise TypeError(f"loader_func must be a function of a key, not {loader_func!r}")
        request = self._core.defaults.warming_request(ttl, tags, load, keep_warm)
        kept_warm = self._core.keep_warm
        report = warm(self._core.tiers, self._core.loads, wanted, loader_func, request, concurrency, progress)
        if kept_warm is not None:
            if keep_warm:
                kept_warm.keep(wanted, loader_func, request)
            else:
                kept_warm.drop(wanted)
        return report

    # -- invalidation -------------------------------------------------------------------------------

    def clear(self, cache_level: CacheLevel = _ALL) -> bool:
        """Remove everything, and refuse every load that is under way; True unless a tier failed."""
        self._core.check(cache_level)
        return self._core.tiers.writes.clear(cache_level)

    def invalidate_by_pattern(self, pattern: str | re.Pattern[str]) -> int:
        """Remove entries whose key the regular expression matches from the start (`re.match`).

        Loads under way of keys that match are refused, whether or not the key was stored.

        Returns:
            How many entries were removed, from the tier that had most of them.

        Raises:
            TypeError: the pattern is not a str.
            ValueError: it is not a regular expression.
        """
        self._core.check(_ALL)
        return self._core.tiers.writes.invalidate_matching(checked_pattern(pattern))

    def invalidate_by_tags(self, tags: Tags) -> int:
        """Remove entries with any of the tags, and refuse loads under way that name one.

        Returns:
            How many entries are known to be removed: lower tiers do not count theirs.

        Raises:
            TypeError: `tags` is not a set, list or tuple of str.
        """
        self._core.check(_ALL)
        return self._core.tiers.writes.invalidate_tags(checked_tags(tags))

    # -- views --------------------------------------------------------------------------------------

    def region(
        self,
        prefix: str,
        type: type[V],  # noqa: A002  # the name that says it
        *,
        ttl: TTL = None,
        tags: Tags | None = None,
    ) -> Region[V]:
        """A typed view of the keys that begin with `prefix`; see `Region`.

        Args:
            prefix: what every key of the region begins with; a separator is yours to include.
            type: what its values are; another type is refused at `set`.
            ttl: the region's own default; None is the cache's.
            tags: what every entry stored through the region carries.
        """
        return Region(self, prefix, type, ttl=ttl, tags=tags)

    # -- figures ------------------------------------------------------------------------------------

    def get_stats(self) -> dict[str, CacheStats]:
        """The figures of each tier, and "combined": their sum, with the requests and loads of this cache."""
        return self._core.get_stats()

    def health(self, **thresholds: float) -> Health:
        """How the cache is, in one word, with reasons and what can be done about each.

        It is judged from the figures since the cache was made; `cachekit.health.since` and `assess` judge a
        span of time.

        Args:
            thresholds: from where on something is a reason; see `cachekit.health.Thresholds`.

        Raises:
            TypeError: no such threshold, or one that is not a number.
            ValueError: a threshold that makes no sense.
        """
        self._core.check(_ALL)
        return self._judge(self.get_stats(), **thresholds)

    def _judge(self, statistics: Mapping[str, CacheStats], **thresholds: float) -> Health:
        limits: Any = thresholds  # `checked` looks at each
        return assess(statistics, self._core.tiers.states(), Thresholds(**limits))

    def optimize_cache(self) -> OptimizationReport:
        """Do now what is done in the background from time to time, and say what that left.

        Expired entries are removed from all tiers; what is advised is what `health` says.
        """
        self._core.check(_ALL)
        started = time.perf_counter()
        removed = self._store.remove_expired() + self._core.tiers.remove_expired()
        statistics = self.get_stats()
        advice = [f"{reason.message}: {reason.remedy}" for reason in self._judge(statistics).reasons]
        return OptimizationReport(
            removed,
            statistics["combined"].size,
            statistics["combined"].memory_usage_bytes,
            time.perf_counter() - started,
            tuple(advice),
        )

    def cached(
        self,
        *,
        ttl: TTL | Callable[[Any], TTL] = None,
        cache_level: CacheLevel = _ALL,
        key_func: Callable[..., str] | None = None,
        tags: Tags | Callable[..., Tags] | None = None,
        name: str | None = None,
        version: str = "auto",
        ignore: tuple[str, ...] = (),
        store_if: Callable[[Any], bool] | None = None,
        stale_ttl: TTL = None,
        jitter: float = 0.0,
        load: LoadOptions | None = None,
        copy: bool = False,
    ) -> CacheDecorator:
        """`cachekit.cache_result` with this cache."""
        options = CachedOptions(
            ttl, cache_level, key_func, tags, name, version, ignore, store_if, stale_ttl, jitter, load, copy
        )
        return decorator_for(FixedSource(self._core), options)

    # -- life ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the cache, and its tiers unless it was told not to. A second call does nothing."""
        self._find = find_nothing  # so that a hit meets the check too
        if self._monitor is not None:
            self._monitor.close()
        self._core.close()
        for tier in self._tiers:
            if tier is not None and self._close_tiers:
                tier.close()

    def __enter__(self) -> IntelligentCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        warming = self._core.keep_warm is not None
        options = self._core.default_ttl, warming, self._core.defaults.load, self._strict, self._close_tiers
        return _configured, (*self._tiers, *options)

    def __repr__(self) -> str:
        tiers = ", ".join(repr(tier) for tier in self._tiers if tier is not None)
        return f"IntelligentCache({tiers}, default_ttl={self._core.default_ttl!r})"


def core_of(cache: IntelligentCache) -> CacheCore:
    """Return the inside of a cache: for its other views."""
    return cache._core


def closes_tiers(cache: IntelligentCache) -> bool:
    """Return whether `close` of the cache closes its tiers too."""
    return cache._close_tiers


def _configured(
    memory: MemoryCache | None,
    redis: ServerTier | None,
    file: DirectoryTier | None,
    default_ttl: float,
    enable_cache_warming: bool,
    load: LoadOptions,
    strict: bool,
    close_tiers: bool,
) -> IntelligentCache:
    return IntelligentCache(
        memory,
        redis,
        file,
        default_ttl,
        enable_cache_warming,
        load=load,
        strict=strict,
        close_tiers=close_tiers,
    )
