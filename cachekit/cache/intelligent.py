"""`IntelligentCache`: one cache over up to three tiers, the memory of this process first.

It checks arguments, serves hits from memory and applies the default TTL. `coherence` reads and writes the
other tiers, and `loading` loads values.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Never, ParamSpec, TypeVar, Unpack, final, overload

from cachekit.cache.config import tiers_of
from cachekit.cache.fill import Fill
from cachekit.cache.region import Region
from cachekit.coherence.conditional_writes import add, update
from cachekit.decorator.function import decorator_for
from cachekit.decorator.source import FixedSource, playing
from cachekit.decorator.types import CacheDecorator, CachedFunction, CacheOptions
from cachekit.health import Health, HealthMonitor, Thresholds, assess
from cachekit.loading.core import CacheCore
from cachekit.loading.options import OFF, LoadOptions, Prefetch, checked_prefetch
from cachekit.loading.predictor import PrefetchInfo
from cachekit.loading.request import Life, LoadRequest
from cachekit.loading.verification import loader_name
from cachekit.loading.warming import warm
from cachekit.model.display import safe_repr, shown_value
from cachekit.model.reports import Explanation, OptimizationReport, Verified, WarmReport
from cachekit.model.stats import CacheStats
from cachekit.model.storable import PLAIN_TYPES, READABLE_TYPES, refuse_unstorable
from cachekit.model.types import FOREVER, MISSING, NO_TAGS, TTL, CacheLevel, Missing, Tags
from cachekit.model.validation import (
    LONGEST,
    checked_def,
    checked_jitter,
    checked_key,
    checked_keys,
    checked_tags,
    not_a_function,
    pattern_to_invalidate,
    refuse_misfit,
    seconds,
    stale_seconds,
)
from cachekit.monitoring.watching import watch
from cachekit.runtime.interrupts import raise_interrupt
from cachekit.tiers.base import DirectoryTier, ServerTier
from cachekit.tiers.fences import CHANGES
from cachekit.tiers.memory.store import find_nothing
from cachekit.tiers.memory.tier import MemoryCache

P = ParamSpec("P")
V = TypeVar("V")
D = TypeVar("D")

_ALL = CacheLevel.ALL


@final
class IntelligentCache:
    """A cache over one to three tiers.

    Args:
        memory_cache: The memory tier (default: a new `MemoryCache()`); None for no memory tier.
        redis_cache: The tier that hosts share (default None: no such tier).
        file_cache: The tier that the processes of this host share; None for no such tier. The default is the
            directory of this program (see `cachekit.cache.config`). If that cannot be opened, a warning is
            logged and there is no file tier.
        default_ttl: The life of an entry when `set` gives none, in seconds or as a timedelta (default 3600).
            None or `FOREVER` means no expiry.
        enable_cache_warming: Whether `warm_cache` may keep keys warm (default True).
        load: How values are loaded unless a call or a cached function says otherwise; see `LoadOptions`.
        strict: Whether a failing tier raises TierUnavailableError. By default it is bypassed.
        on_health_change: Called as `on_health_change(new, old)` in a background thread when the status of the
            last minute differs from that of ten seconds ago (default None).
        close_tiers: Whether `close` closes the tiers too (default True); use False for shared tiers.
        reload_hot: Whether the keys that are used most are in memory again soon after a restart (default
            False). The nearest lower tier keeps them, and their entries are copied in the background.
        prefetch: Whether `get` copies the keys that usually come next from the lower tiers, too (default
            False). It calls no loader. `Prefetch(...)` is True with other numbers.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: no tier at all, a `default_ttl` of 0 or less, or a `load`, `reload_hot` or `prefetch`
            that needs another tier.
        TierUnavailableError: the default file tier cannot be opened and would be the only tier.

    All methods are safe in any thread, before and after a fork. Every method raises TypeError for a key
    that is not a str. After `close`, `get_stats`, `prefetch_info` and `verifications` still read what was
    counted, and every other method raises CacheClosedError. `cache_level` selects the tiers of a call;
    ValueError if none of them is a tier of this cache. The cache pickles as its configuration: the copy has
    the same lower tiers and an empty memory tier, keeps no keys warm, and does not call `on_health_change`.
    """

    __slots__ = (
        "__weakref__",
        "_close_tiers",
        "_core",
        "_find",
        "_lookups",
        "_monitor",
        "_prefetch",
        "_reload_hot",
        "_stats",
        "_store",
        "_strict",
        "_tiers",
        "_time",
        "_touch",
        "_watches",
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
        reload_hot: bool = False,
        prefetch: bool | Prefetch = False,
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
            ("reload_hot", reload_hot),
        ):
            if not isinstance(value, bool):
                raise TypeError(f"{argument} must be True or False, not {safe_repr(value)}")
        if on_health_change is not None and not callable(on_health_change):
            raise TypeError(
                f"on_health_change must be a function of two healths, not {safe_repr(on_health_change)}; "
                f"write def changed(new, old)"
            )
        self._tiers = tiers_of(memory_cache, redis_cache, file_cache)
        # A default file tier that cannot be opened has been logged.
        lower = file_cache is MISSING or any(tier is not None for tier in self._tiers[1:])
        self._prefetch = checked_prefetch(prefetch)
        for argument, value in (("reload_hot", reload_hot), ("prefetch", self._prefetch is not None)):
            if value and (self._tiers[0] is None or not lower):
                raise ValueError(
                    f"{argument} needs a memory tier, and a redis_cache or file_cache that keeps the entries"
                )
        self._strict = strict
        self._close_tiers = close_tiers
        self._reload_hot = reload_hot
        self._core = core = CacheCore(
            *self._tiers,
            default_ttl=ttl,
            load=load,
            keeps_warm=enable_cache_warming,
            strict=strict,
            reload_hot=reload_hot,
            prefetch=self._prefetch,
        )
        # Copies of what a hit needs, so that it makes no call in between.
        self._find = core.memory.find
        self._touch = core.memory.touch
        self._time = core.memory.time
        self._store = core.memory
        self._stats = core.memory_stats
        self._lookups = core.lookups
        self._monitor = None
        if on_health_change is not None:
            self._monitor = HealthMonitor(on_health_change, core.get_stats, self._judge)
        self._watches = watch(core)

    @property
    def memory_cache(self) -> MemoryCache | None:
        """Return the memory tier, or None."""
        return self._tiers[0]

    @property
    def redis_cache(self) -> ServerTier | None:
        """Return the tier that hosts share, or None."""
        return self._tiers[1]

    @property
    def file_cache(self) -> DirectoryTier | None:
        """Return the tier that the processes of this host share, or None."""
        return self._tiers[2]

    @property
    def default_ttl(self) -> float:
        """Return the default life of an entry in seconds; `FOREVER` for no expiry."""
        return self._core.default_ttl

    # -- one key ------------------------------------------------------------------------------------

    @overload
    def get(self, key: str, *, cache_level: CacheLevel = ...) -> Any | None: ...
    @overload
    def get(self, key: str, default: D, *, cache_level: CacheLevel = ...) -> Any | D: ...
    def get(self, key: str, default: Any = None, *, cache_level: CacheLevel = _ALL) -> Any:
        """Return the value from the nearest tier that has the key, or `default`.

        A cached None is a value. Pass another default, such as `MISSING`, to distinguish it from a miss.

        Raises:
            TypeError: the key is not a str.
            ValueError: `cache_level` names no tier of this cache.
        """
        if cache_level is _ALL:
            # The hit path: the steps of MemoryCache.get_value, where they are explained.
            try:
                held = self._find(key)
            except TypeError as error:  # unhashable
                raise_interrupt(error)
                held = None
            if held is not None:
                value = held.value
                shared_fence = held.shared_fence
                now = self._time.monotonic()
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
                    except KeyError as error:
                        raise_interrupt(error)
                    held.accesses += 1
                    held.last = now
                    self._lookups.hits += 1
                    if now > self._stats.sample_due:
                        self._stats.sample(self._store, held.key)
                    return value
        core = self._core
        if cache_level is not _ALL or core.closed:
            core.check(cache_level)
        name = key if type(key) is str and len(key) <= LONGEST else checked_key(key)
        if core.memory_tier is None and cache_level is _ALL:
            # As in look_up(), without its call.
            core.lookups.misses += 1
            value = core.find_below(name, _ALL)
        else:
            value = core.look_up(name, cache_level)
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
        """Store a value in place of any entry under the key.

        Args:
            key: The key, a str.
            value: Any object that the lower tiers can store; the memory tier holds it by reference.
            ttl: The life from now, in seconds or as a timedelta. None means the cache's default, FOREVER no
                expiry. With 0 or less the key is removed.
            cache_level: The tiers that store the value (default: all). All other tiers drop the key.
            tags: Labels by which the entry can be invalidated together with others (default: none).
            stale_ttl: Seconds, or a timedelta, after its life in which `get_or_set` and cached functions may
                use the stale value, if they set a `stale_ttl` too (default None: never).

        Returns:
            True if every tier did it. A tier that failed drops the key before it is used again.

        Raises:
            TypeError: a key, TTL, level or tag of the wrong type.
            ValueError: a TTL of NaN, or a level that names no tier of this cache.
            SerializationError: the value can be read or awaited only once, or a tier cannot store it.
            ValueTooLargeError: the value is too large for a tier. The key was removed.
        """
        core = self._core
        if cache_level is not _ALL or core.closed:
            core.check(cache_level)
        # A tier below looks into the value as it encodes it.
        if type(value) not in (READABLE_TYPES if core.tiers.lower and cache_level is _ALL else PLAIN_TYPES):
            refuse_unstorable(value)
        name = key if type(key) is str and len(key) <= LONGEST else checked_key(key)
        life = core.default_ttl if ttl is None else seconds(ttl)
        labels = NO_TAGS if tags is None else checked_tags(tags)
        if playing.player is not None:
            playing.player.write(core, {name: value}, life, labels)
        if stale_ttl is not None or core.tiers.lower:
            stale = 0.0 if stale_ttl is None else stale_seconds(stale_ttl)
            return core.tiers.writes.write_one(name, value, life, labels, cache_level, stale)
        return self._store.put(name, value, life, labels)

    def add(
        self,
        key: str,
        value: Any,
        ttl: TTL = None,
        tags: Tags | None = None,
        *,
        stale_ttl: TTL = None,
    ) -> bool:
        """Store a value if there is no live entry under the key; return whether it was stored.

        Of several callers at once one stores its value: threads, processes that share a file tier, and hosts
        that share a server. The lowest tier decides. If it is out, or cannot say whether it did it, the next
        tier above it decides: then each host, or without a file tier each process, may have a winner. When
        the server recovers, it drops the key.

        Args:
            key: The key, a str.
            value: As for `set`.
            ttl: As for `set`. With 0 or less nothing is stored.
            tags: As for `set`.
            stale_ttl: As for `set`.

        Raises:
            TypeError, ValueError: as for `set`.
            SerializationError, ValueTooLargeError: a tier cannot store the value, which is in none then.
        """
        core = self._core
        core.check(_ALL)
        if type(value) not in PLAIN_TYPES:
            refuse_unstorable(value)
        life = core.default_ttl if ttl is None else seconds(ttl)
        stale = 0.0 if stale_ttl is None else stale_seconds(stale_ttl)
        name, labels, player = checked_key(key), checked_tags(tags), playing.player
        added = add(core.tiers, name, value, life, labels, stale)
        if added and player is not None:
            player.write(core, {name: value}, life, labels)
        return added

    @overload
    def update(
        self, key: str, function: Callable[[Any], V], *, ttl: TTL = ..., tags: Tags | None = ...
    ) -> V: ...
    @overload
    def update(
        self, key: str, function: Callable[[Any], V], default: Any, *, ttl: TTL = ..., tags: Tags | None = ...
    ) -> V: ...
    def update(
        self,
        key: str,
        function: Callable[[Any], V],
        default: Any = None,
        *,
        ttl: TTL = None,
        tags: Tags | None = None,
    ) -> V:
        """Store `function(value)` in place of the value of the key, and return it; atomic.

        If another caller writes the key in between, the function is called again with the newer value. So
        `cache.update("visits", lambda n: n + 1, 0)` counts every call of all threads, processes and hosts
        that share the lowest tier. If that tier is out, what `add` says holds. A value that another caller
        loads, because the entry expired or was evicted during the call, may be replaced.

        Args:
            key: The key, a str.
            function: From the value to the new one. It may be called more than once. It must not change its
                argument, which memory may hold. If it raises, nothing is changed.
            default: What the function is called with if there is no live entry (default None).
            ttl: The life of a new entry, as for `set`, but more than 0. An entry that is there keeps what is
                left of its life.
            tags: Tags that are added to those of the entry (default: none).

        Raises:
            TypeError: an argument of the wrong type, such as a function that is not callable.
            ValueError: a TTL of NaN, or of 0 or less.
            SerializationError, ValueTooLargeError: a tier cannot store the new value. The key was removed.
            TierUnavailableError: other callers wrote the key all the time, for 10 seconds.
            Exception: what the function raised.
        """
        checked_def("function", "of a value, such as lambda n: n + 1", function)
        core = self._core
        core.check(_ALL)
        life = core.default_ttl if ttl is None else seconds(ttl)
        if life <= 0:
            raise ValueError(f"ttl must be more than 0, not {ttl!r}; use delete() to remove the key")
        name, labels, player = checked_key(key), checked_tags(tags), playing.player
        value: V = update(core.tiers, name, function, default, life, labels)
        if player is not None:
            player.write(core, {name: value}, life, labels)
        return value

    def begin(self, key: str, *, tags: Tags | None = None) -> Fill[Any]:
        """Return what stores a value that is loaded from now on, for loaders that are not functions.

        `fill = cache.begin(key)`, then load, then `fill.store(value)`: the value is stored unless the key, or
        one of the tags, was written or invalidated since `begin`. Other callers do not wait for it.

        Args:
            key: The key, a str.
            tags: The tags that the value will have (default: none).

        Raises:
            TypeError: a key or tag of the wrong type.
        """
        core = self._core
        core.check(_ALL)
        if core.tiers.is_beginning:
            core.tiers.await_beginning()
        fence = core.tiers.fence(checked_key(key), checked_tags(tags))
        core.tiers.complete_fence(fence)

        def store(value: Any, ttl: TTL, stale_ttl: TTL) -> bool:
            core.check(_ALL)
            if type(value) not in PLAIN_TYPES:
                refuse_unstorable(value)
            life = core.default_ttl if ttl is None else seconds(ttl)
            stale = 0.0 if stale_ttl is None else stale_seconds(stale_ttl)
            if life <= 0:
                core.tiers.unwanted(fence.key)
                return False
            if not core.tiers.is_current(fence):
                core.tiers.refused(fence)
                return False
            if playing.player is not None:
                playing.player.write(core, {fence.key: value}, life, fence.tags)
            return core.tiers.writes.replace(fence, value, life, _ALL, stale)

        return Fill(fence.key, store)

    def get_or_set(
        self,
        key: str,
        loader: Callable[[], V],
        *,
        ttl: TTL | Callable[[Any], TTL] = None,
        tags: Tags | None = None,
        store_if: Callable[[Any], bool] | None = None,
        stale_ttl: TTL = None,
        jitter: float = 0.0,
        load: LoadOptions | None = None,
    ) -> V:
        """Return the value of the key; on a miss, call `loader()`, store the result and return it.

        Concurrent callers wait for the first one, which loads. If the key or one of the tags is written or
        invalidated during the load, the value is returned but not stored. If another process or cache loads
        the key too, and stores its value first in the files or on the server that both use, that value is
        returned and this one dropped. If the loader raises, all waiting callers get the exception, and
        nothing is stored. A loader may get other keys, and its own key, which it then loads itself; but it
        must not wait for threads that do so.

        Args:
            key: The key, a str.
            loader: A function without arguments.
            ttl: As for `set`; or a function from the loaded value to that.
            tags: As for `set`.
            store_if: From the loaded value to whether to store it (default: store every value).
            stale_ttl: Seconds, or a timedelta, after its life in which the stale value may replace a load
                that fails, that exceeds its soft timeout, or that another caller has begun (default None:
                never). `get` never returns a stale value, and invalidation removes it. Only the memory tier
                keeps it.
            jitter: The share of the TTL, from 0 (the default) to less than 1, that is subtracted at random,
                so that values stored together do not expire together.
            load: How to load (default: the cache's `load`).

        Raises:
            TypeError: an argument of the wrong type, such as a loader that is not callable.
            ValueError: a number out of range, or a `load` that needs a tier that the cache does not have.
            SerializationError: the loader returned a value that can be read or awaited only once.
            LoadTimeoutError: the load exceeded the hard timeout.
            Exception: what the loader raised.
        """
        if not callable(loader):
            raise not_a_function("loader", "without arguments, such as lambda: load(1)", loader)
        life: float | Life
        if ttl is None and store_if is None:
            life = self._core.default_ttl
        elif store_if is None and (type(ttl) is int or type(ttl) is float):  # no call beside this one
            life = seconds(ttl)
        else:
            life = self._core.defaults.life(ttl, store_if)
        labels = NO_TAGS if tags is None else checked_tags(tags)
        stale = 0.0 if stale_ttl is None else self._core.defaults.stale(stale_ttl)
        options = self._core.defaults.load if load is None else self._core.defaults.options(load)
        if jitter != 0.0:
            checked_jitter(jitter)
        player = playing.player
        if player is not None:
            self._core.check(_ALL)
            request = LoadRequest(life, labels)
            answer: V = player.ask(self._core, checked_key(key), None, loader, request)
            return answer
        value = self.get(key, MISSING)
        if value is not MISSING:
            if options.acts_on_hits:
                loads = self._core.loads
                chosen = loads.path.is_chosen(options, load is not None or store_if is None)
                if chosen or options.refresh_ahead:
                    request = LoadRequest(life, labels, _ALL, stale, options, jitter)
                    verified_as = loader_name(loader) if chosen else None
                    loads.after_hit(checked_key(key), value, loader, request, verified_as)
            found: V = value
            return found
        request = LoadRequest(life, labels, _ALL, stale, options, jitter)
        try:
            return self._core.loads.load(
                key if type(key) is str and len(key) <= LONGEST else checked_key(key), loader, request
            )
        except TypeError:
            refuse_misfit("loader", "without arguments", loader)
            raise

    def delete(self, key: str, cache_level: CacheLevel = _ALL) -> bool:
        """Remove the key, and refuse every load of it in progress; return whether it was there.

        False also if a tier failed that may have had it. `strict=True` raises TierUnavailableError then.
        """
        self._core.check(cache_level)
        if playing.player is not None:
            playing.player.invalidate(self._core, [checked_key(key)])
        return self._core.tiers.writes.delete(checked_key(key), cache_level)

    def touch(self, key: str, ttl: TTL = None) -> bool:
        """Give a live entry a new life from now (None: the default TTL); return whether there is one.

        It counts as a write of the key: loads of it in progress are not stored.
        """
        self._core.check(_ALL)
        return self._core.tiers.writes.touch(
            checked_key(key), self._core.default_ttl if ttl is None else seconds(ttl)
        )

    def contains(self, key: str) -> bool:
        """Return whether a tier has a live entry; it counts no lookup."""
        self._core.check(_ALL)
        return self._store.peek_value(checked_key(key)) is not MISSING or (
            self._core.tiers.lower and self._core.tiers.peek(key) is not None
        )

    __contains__ = contains

    def explain(self, key: str) -> Explanation:
        """Return what the cache knows about one key, for debugging; it counts no lookup.

        If no tier has the key, `miss` says why, from the recent events of this process.
        """
        self._core.check(_ALL)
        return self._core.tiers.explain(checked_key(key))

    # -- many keys ----------------------------------------------------------------------------------

    def get_many(self, keys: Iterable[str], *, cache_level: CacheLevel = _ALL) -> dict[str, Any]:
        """Return the values of the keys that are found, in the order of `keys`; each counts as a lookup."""
        self._core.check(cache_level)
        wanted = checked_keys(keys)
        found = self._core.look_up_many_in_memory(wanted, cache_level)
        if self._core.tiers.lower and len(found) < len(wanted):
            missing = [key for key in wanted if key not in found] if found else wanted
            found |= self._core.tiers.find_many(missing, cache_level)
        return found if list(found) == wanted else {key: found[key] for key in wanted if key in found}

    def set_many(
        self,
        values: Mapping[str, Any],
        ttl: TTL = None,
        cache_level: CacheLevel = _ALL,
        tags: Tags | None = None,
    ) -> bool:
        """Store each value of the mapping as `set` does; return whether every tier did it.

        All arguments are checked before the first value is stored.
        """
        self._core.check(cache_level)
        if not isinstance(values, Mapping):
            raise TypeError(f"values must be a mapping from key to value, not {shown_value(values)}")
        life = self._core.default_ttl if ttl is None else seconds(ttl)
        labels = checked_tags(tags)
        # A dict of another class may have more to say than its table.
        checked = dict(values) if type(values) is dict else dict(values.items())
        if set(map(type, checked)) != {str} or max(map(len, checked)) > LONGEST:
            checked = {checked_key(key): value for key, value in checked.items()}
        # As in `set`.
        readable = READABLE_TYPES if self._core.tiers.lower and cache_level is _ALL else PLAIN_TYPES
        if not readable.issuperset(map(type, checked.values())):
            for key, value in checked.items():
                if type(value) not in readable:
                    refuse_unstorable(value, key)
        if playing.player is not None:
            playing.player.write(self._core, checked, life, labels)
        if self._core.tiers.lower:
            return self._core.tiers.writes.write_many(checked, life, labels, cache_level)
        done = [self._store.put(key, value, life, labels) for key, value in checked.items()]
        return all(done)

    def delete_many(self, keys: Iterable[str], cache_level: CacheLevel = _ALL) -> int | None:
        """Remove each key as `delete` does; return how many were there.

        None means that this is not known: a tier failed that may have had some of them.
        """
        self._core.check(cache_level)
        wanted = checked_keys(keys)
        if playing.player is not None:
            playing.player.invalidate(self._core, wanted)
        return self._core.tiers.writes.delete_many(wanted, cache_level)

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
        """Return the values of the keys; one call `loader(missing)` loads all keys that are missing.

        Keys that another caller is loading are not passed to the loader; this call waits for them. A value
        that another process or cache has loaded and stored first is returned in place of this loader's.

        Args:
            keys: The keys; repetitions count once.
            loader: From a list of keys to a mapping of their values. Keys that it leaves out are missing from
                the result, and nothing is stored for them.
            ttl: As for `set`, for all values.
            tags: As for `set`, for all values.
            stale_ttl: As for `get_or_set`. A failed load of several keys returns stale values only if all of
                the keys have one.
            jitter: As for `get_or_set`, for each value.
            load: As for `get_or_set`, but without a lease and without refresh-ahead.

        Returns:
            The values in the order of `keys`.

        Raises:
            TypeError: an argument of the wrong type, a loader that is not callable, or that returned no
                mapping.
            ValueError: a number out of range, a `load` that needs a tier that the cache does not have, or the
                loader returned keys that it was not called for.
            LoadTimeoutError: the load exceeded the hard timeout.
            Exception: what the loader raised.
        """
        wanted = checked_keys(keys)
        if not callable(loader):
            raise not_a_function("loader", "of a list of keys", loader)
        request = self._core.defaults.request(ttl, tags, stale_ttl, jitter, load)
        player = playing.player
        if player is not None:
            self._core.check(_ALL)
            return player.ask_many(self._core, wanted, loader, request)
        found = self.get_many(wanted)
        missing = [key for key in wanted if key not in found]
        if missing:
            try:
                found |= self._core.loads.load_many(missing, loader, request)
            except TypeError:
                refuse_misfit("loader", "of a list of keys", loader, missing)
                raise
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
        """Load the keys that no tier has, several at a time, and promote those that only lower tiers have.

        A key that fails does not stop the others; the report has its exception. Hosts or processes that share
        a tier and warm the same keys share the work by leases: each key is loaded once among all of them,
        unless `load`, or the cache's `load`, has another lease. Keeping keys warm uses the same leases.

        Args:
            keys: The keys; repetitions count once.
            loader_func: From a key to its value.
            ttl: As for `set`, for all values.
            tags: As for `set`, for all values.
            load: How to load (default: the cache's `load`; if that has no lease, with the widest lease that
                the tiers offer).
            concurrency: The number of threads that load, at least 1 (default 8).
            keep_warm: Whether to load the keys again before they expire (default False), one after the other
                in a background thread. It ends when the cache is closed, or when this method is called for
                the keys with False.
            progress: With True, show a bar on stderr if that is a terminal, else one line at the end. Or a
                function, called in this thread as `progress(done, total)` after each key.

        Raises:
            TypeError: a key, TTL or tag of the wrong type, or a function that is not callable.
            ValueError: `concurrency` is less than 1, `load` needs a tier that the cache does not have, or
                `keep_warm` with a TTL of 0 or less, or with enable_cache_warming=False.
        """
        wanted = checked_keys(keys)
        self._core.check(_ALL)
        if not callable(loader_func):
            raise not_a_function("loader_func", "of a key", loader_func)
        request = self._core.defaults.warming_request(ttl, tags, load, keep_warm)
        player = playing.player
        if player is not None:
            twin, replayed, lasting = player.warming(self._core, loader_func, request)
            return warm(twin.loads, wanted, replayed, lasting, concurrency, progress)
        kept_warm = self._core.keep_warm
        report = warm(self._core.loads, wanted, loader_func, request, concurrency, progress)
        if kept_warm is not None:
            if keep_warm:
                kept_warm.keep(wanted, loader_func, request)
            else:
                kept_warm.drop(wanted)
        return report

    # -- invalidation -------------------------------------------------------------------------------

    def clear(self, cache_level: CacheLevel = _ALL) -> bool:
        """Remove all entries, and refuse every load in progress; return False if a tier failed."""
        self._core.check(cache_level)
        if playing.player is not None:
            playing.player.clear(self._core)
        return self._core.tiers.writes.clear(cache_level)

    def invalidate_by_pattern(self, pattern: str | re.Pattern[str]) -> int | None:
        """Remove entries whose key the regular expression matches from the start (`re.match`).

        Loads in progress of matching keys are refused, whether or not the key was stored. A pattern that can
        take for ever, such as `(a+)+$`, is not run: all keys that begin like it are removed, with a warning.

        Returns:
            How many entries were removed, from the tier that had most of them; None if that is not known,
            because a tier failed.

        Raises:
            TypeError: the pattern is neither a str nor a compiled pattern of str.
            ValueError: the pattern is not a valid regular expression.
        """
        self._core.check(_ALL)
        checked = pattern_to_invalidate(pattern)
        if playing.player is not None:
            playing.player.invalidate_matching(self._core, checked)
        return self._core.tiers.writes.invalidate_matching(checked)

    def invalidate_by_tags(self, tags: Tags) -> int | None:
        """Remove entries with any of the tags, and refuse loads in progress that name one.

        Returns:
            How many entries were removed; None if that is not known. Files and servers do not count them.

        Raises:
            TypeError: `tags` is not a set, list or tuple of str.
        """
        self._core.check(_ALL)
        labels = checked_tags(tags)
        if playing.player is not None:
            playing.player.invalidate_tags(self._core, labels)
        return self._core.tiers.writes.invalidate_tags(labels)

    # -- views --------------------------------------------------------------------------------------

    def region(
        self,
        prefix: str,
        type: type[V],  # noqa: A002  # the clearest name
        *,
        ttl: TTL = None,
        tags: Tags | None = None,
        loader: Callable[[str], V] | None = None,
        prefetch: bool | Prefetch = False,
    ) -> Region[V]:
        """Return a typed view of the keys that begin with `prefix`; see `Region`.

        Args:
            prefix: The prefix of every key of the region; include a separator yourself.
            type: The class of its values; `set` refuses values of another one.
            ttl: The region's default TTL (default: the cache's).
            tags: Tags of every entry that is stored through the region (default: none).
            loader: From a key without the prefix to its value, for `get_or_set` (default: none).
            prefetch: Whether `get_or_set` loads the keys that usually come next, too (default False), in the
                background with `loader`. `Prefetch(...)` is True with other numbers.

        Raises:
            TypeError: `prefix` is not a str, `type` is not a class, `loader` is not callable, or another
                argument of the wrong type.
            ValueError: the TTL is NaN; or `prefetch` without a `loader`, or without a memory tier.
        """
        self._core.check(_ALL)
        if loader is not None:
            checked_def("loader", "of a key, such as lambda key: load(key)", loader)
        options = checked_prefetch(prefetch)
        if options is not None and (loader is None or self._tiers[0] is None):
            raise ValueError("prefetch needs a loader=..., and a cache with a memory tier")
        return Region(
            self, prefix, type, ttl=ttl, tags=tags, loader=loader, core=self._core, prefetch=options
        )

    def prefetch_info(self) -> PrefetchInfo | None:
        """Return what `prefetch=True` of this cache has done; None if it is off.

        Cached functions have theirs in `cache_info().prefetch`, regions in `prefetch_info`. The sums of all
        are in `get_stats()["combined"]`.
        """
        return None if self._core.prefetcher is None else self._core.prefetcher.info()

    # -- statistics ---------------------------------------------------------------------------------

    def get_stats(self) -> dict[str, CacheStats]:
        """Return the statistics of each tier, and their sum as "combined", with requests and loads."""
        return self._core.get_stats()

    def health(self, **thresholds: float) -> Health:
        """Return the health of the cache: a status, and reasons with a remedy each.

        It covers the time since the cache was created. Use `cachekit.health.since` and `assess` for another
        time span.

        Args:
            thresholds: The limits by name; see `cachekit.health.Thresholds` for names and defaults.

        Raises:
            TypeError: no such threshold, or one that is not a number.
            ValueError: a threshold out of range.
        """
        self._core.check(_ALL)
        return self._judge(self.get_stats(), **thresholds)

    def verifications(self) -> dict[str, Verified]:
        """Return how many hits of each function were verified, and how many differed (see `LoadOptions`)."""
        return self._core.loads.path.verifications.results()

    def _judge(self, statistics: Mapping[str, CacheStats], **thresholds: float) -> Health:
        limits = Thresholds.of(thresholds)
        sizes = self._core.estimate(statistics)
        return assess(statistics, self._core.tiers.states(), limits, self.verifications(), sizes)

    def optimize_cache(self) -> OptimizationReport:
        """Remove expired entries from all tiers now, and return what is left, with advice.

        The advice is that of `health`, and the sizes of the memory tier that would be better, as
        `MemoryCache.estimate` knows them. The background thread does the same from time to time.
        """
        self._core.check(_ALL)
        started = time.perf_counter()
        removed = self._store.remove_expired() + self._core.tiers.remove_expired()
        statistics = self.get_stats()
        advice = [f"{reason.message}: {reason.remedy}" for reason in self._judge(statistics).reasons]
        sizes = self._core.estimate(statistics)
        if sizes is not None:
            advice += sizes.advice()
        return OptimizationReport(
            removed,
            statistics["combined"].size,
            statistics["combined"].memory_usage_bytes,
            time.perf_counter() - started,
            tuple(advice),
        )

    # Only Any matches Never: what has no type stays so.
    @overload
    def cached(self, function: Never, /) -> Any: ...
    @overload
    def cached(self, function: Callable[P, V], /) -> CachedFunction[P, V]: ...
    @overload
    def cached(self, /, **options: Unpack[CacheOptions]) -> CacheDecorator: ...

    def cached(
        self,
        function: Callable[..., Any] | None = None,
        /,
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
        prefetch: bool | Prefetch = False,
    ) -> Any:
        """Decorate a function as `cachekit.cache_result` does, for this cache, with the same parameters."""
        self._core.check(_ALL)
        options = (
            ttl, cache_level, key_func, tags, name, version, ignore, store_if, stale_ttl, jitter, load, copy,
            prefetch,
        )  # fmt: skip
        decorate = decorator_for(FixedSource(self._core), options)
        return decorate if function is None else decorate(function)

    # -- life ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the cache, and its tiers unless `close_tiers` is False. A second call does nothing."""
        self._find = find_nothing  # so that hits reach the check for closed caches
        if self._monitor is not None:
            self._monitor.close()
        self._core.close()
        for one in self._watches:
            one.remove(self._core)
        for tier in self._tiers:
            if tier is not None and self._close_tiers:
                tier.close()

    def __enter__(self) -> IntelligentCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        warming = self._core.keep_warm is not None
        load, flags = self._core.defaults.load, (self._strict, self._close_tiers, self._reload_hot)
        return _configured, (*self._tiers, self._core.default_ttl, warming, load, *flags, self._prefetch)

    def __repr__(self) -> str:
        tiers = ", ".join(repr(tier) for tier in self._tiers if tier is not None)
        return f"IntelligentCache({tiers}, default_ttl={self._core.default_ttl!r})"


def closes_tiers(cache: IntelligentCache) -> bool:
    """Return whether `close` of the cache also closes its tiers."""
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
    reload_hot: bool,
    prefetch: Prefetch | None,
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
        reload_hot=reload_hot,
        prefetch=prefetch or False,
    )
