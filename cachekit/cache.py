"""IntelligentCache: one cache over its tiers. For now there is one tier, the memory of this process.

It asks tiers in order, checks what it is given, applies the cache's default TTL, and sends loads down
their path (`loads`). What an entry is, how it is evicted, and why an invalidation is never lost, is the
tiers' business; which question a key stands for is `decorators`'.
"""

from __future__ import annotations

import re
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, final, overload

from cachekit.errors import CacheClosedError
from cachekit.loads import Loads
from cachekit.model import (
    FOREVER,
    MISSING,
    NO_TAGS,
    PLAIN_TYPES,
    TTL,
    CacheLevel,
    CacheStats,
    Explanation,
    Missing,
    OptimizationReport,
    Tags,
    WarmReport,
    checked_key,
    checked_keys,
    checked_tags,
    refuse_unstorable,
    seconds,
)
from cachekit.stats import Lookups
from cachekit.tiers.memory import MemoryCache
from cachekit.tiers.memory.store import find_nothing
from cachekit.warming import warm

if TYPE_CHECKING:
    from cachekit.decorated import CacheDecorator
    from cachekit.regions import Region

V = TypeVar("V")
D = TypeVar("D")

_ALL = CacheLevel.ALL


class KnowsCache(Protocol):
    """Something that reaches entries of a cache without asking the cache."""

    def forget_cache(self) -> None:
        """The cache is closed, or another one is in use."""
        ...


@final
class IntelligentCache:
    """A cache over the tiers that it is given.

    Args:
        memory_cache: the memory tier; left out, a `MemoryCache()` of its own; None is none, and
            refused as long as there is no other tier.
        default_ttl: seconds (or a timedelta) that an entry lives when `set` does not say; None or
            `FOREVER` for no expiry.
        close_tiers: whether `close` closes the tiers too; say False for tiers that are shared.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: no tier at all, or a `default_ttl` of 0 or less.

    All methods are safe in any thread, before and after a fork. Every method raises TypeError for a key
    that is not a str, and CacheClosedError after `close`. `cache_level` says which tiers a call speaks
    to; one that names no tier of this cache is a ValueError. It pickles as its configuration: the copy
    is empty.
    """

    __slots__ = (
        "__weakref__", "_close_tiers", "_closed", "_default_ttl", "_find", "_fronts", "_functions", "_loads",
        "_lookups", "_memory", "_now", "_readers", "_store", "_touch",
    )  # fmt: skip

    def __init__(
        self,
        memory_cache: MemoryCache | Missing | None = MISSING,
        *,
        default_ttl: TTL = 3600,
        close_tiers: bool = True,
    ) -> None:
        if memory_cache is None:
            raise ValueError(
                "memory_cache=None leaves a cache without any tier; leave it out to have a default one"
            )
        if memory_cache is MISSING:
            memory_cache = MemoryCache()
        if not isinstance(memory_cache, MemoryCache):
            raise TypeError(
                f"memory_cache must be a MemoryCache, not {memory_cache!r} "
                f"of type {type(memory_cache).__name__}"
            )
        ttl = FOREVER if default_ttl is None else seconds(default_ttl, "default_ttl")
        if ttl <= 0:
            raise ValueError(
                f"default_ttl must be more than 0, not {default_ttl!r}; use FOREVER for no expiry"
            )
        if not isinstance(close_tiers, bool):
            raise TypeError(f"close_tiers must be True or False, not {close_tiers!r}")
        self._memory = memory_cache
        self._default_ttl = ttl
        self._close_tiers = close_tiers
        self._closed = False
        self._loads = Loads(memory_cache)
        # A hit bumps one counter, of whoever asked; tier and cache both read it (see `stats`).
        self._lookups = memory_cache._reader()
        self._readers = [self._lookups]
        self._functions: dict[str, Lookups] = {}
        self._fronts: weakref.WeakSet[KnowsCache] = weakref.WeakSet()
        # What a hit needs, so that it is one function with no call in between.
        self._find = memory_cache._find
        self._touch = memory_cache._touch
        self._now = memory_cache._now
        self._store = memory_cache._store

    @property
    def memory_cache(self) -> MemoryCache:
        """The memory tier."""
        return self._memory

    @property
    def default_ttl(self) -> float:
        """Seconds that an entry lives when nobody says; `FOREVER` for no expiry."""
        return self._default_ttl

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
                now = self._now()
                if now < held.deadline and held.value is value:
                    try:
                        self._touch(held.key)
                    except KeyError:
                        pass
                    held.accesses += 1
                    held.last = now
                    self._lookups.hits += 1
                    if now > self._memory._sample_due:
                        self._memory._sample_latency(held.key)
                    return value
        if cache_level is not _ALL or self._closed:
            self._check(cache_level)
        value = self._store.look_up(key if type(key) is str else checked_key(key), self._lookups)
        return default if value is MISSING else value

    def _check(self, cache_level: CacheLevel) -> None:
        if self._closed:
            raise CacheClosedError("this IntelligentCache was closed; make a new one")
        if cache_level is _ALL:
            return
        if not isinstance(cache_level, CacheLevel):
            raise TypeError(
                f"cache_level must be a CacheLevel, not {cache_level!r} of type {type(cache_level).__name__}"
            )
        if not cache_level & CacheLevel.MEMORY:
            raise ValueError(f"cache_level={cache_level} names no tier of this cache, which has: MEMORY")

    def set(
        self,
        key: str,
        value: Any,
        ttl: TTL = None,
        cache_level: CacheLevel = _ALL,
        tags: Tags | None = None,
    ) -> bool:
        """Store a value in place of whatever the key held.

        Args:
            key: where.
            value: anything; memory holds it by reference.
            ttl: its life from now, in seconds or as a timedelta; None is the cache's default, FOREVER
                no expiry; 0 or less keeps nothing and removes what was there.
            cache_level: the tiers that shall hold it; no other one holds the key afterwards.
            tags: labels by which it can be invalidated together with others.

        Returns:
            True if every tier that was asked carried it out.

        Raises:
            TypeError: a key, TTL, level or tag of the wrong type.
            ValueError: a TTL of NaN, or a level that names no tier of this cache.
            SerializationError: the value can be read or awaited only once.
        """
        if cache_level is not _ALL or self._closed:
            self._check(cache_level)
        if type(value) not in PLAIN_TYPES:
            refuse_unstorable(value)
        return self._store.put(
            key if type(key) is str else checked_key(key),
            value,
            self._default_ttl if ttl is None else seconds(ttl),
            NO_TAGS if tags is None else checked_tags(tags),
        )

    def get_or_set(
        self,
        key: str,
        loader: Callable[[], V],
        *,
        ttl: TTL = None,
        tags: Tags | None = None,
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

        Raises:
            TypeError: a key, TTL or tag of the wrong type, or a loader that is not callable.
            SerializationError: the loader returned something that can be read or awaited only once.
            Exception: whatever the loader raised.
        """
        if not callable(loader):
            raise TypeError(f"loader must be a function without arguments, not {loader!r}")
        life = self._default_ttl if ttl is None else seconds(ttl)
        labels = NO_TAGS if tags is None else checked_tags(tags)
        value = self.get(key, MISSING)
        if value is not MISSING:
            found: V = value
            return found
        return self._loads.load(checked_key(key), loader, lambda _: life, labels)

    def _life(self, ttl: TTL) -> Callable[[Any], float]:
        life = self._default_ttl if ttl is None else seconds(ttl)
        return lambda _: life

    def delete(self, key: str, cache_level: CacheLevel = _ALL) -> bool:
        """Remove the key, and refuse every load of it that is under way; True if it was there."""
        self._check(cache_level)
        return self._memory.delete(key)

    def touch(self, key: str, ttl: TTL = None) -> bool:
        """Give a live entry a new life from now (None: the default TTL); True if there is one.

        It counts as a write of the key: loads of it that are under way are not kept.
        """
        self._check(_ALL)
        return self._memory.touch(key, self._default_ttl if ttl is None else ttl)

    def contains(self, key: str) -> bool:
        """Whether some tier has a live entry; no lookup that counts."""
        self._check(_ALL)
        return key in self._memory

    __contains__ = contains

    def explain(self, key: str) -> Explanation:
        """What the cache knows about one key, for a person who wonders; no lookup that counts."""
        self._check(_ALL)
        entry = self._memory.peek(key)
        if entry is None:
            return Explanation(checked_key(key), None, None, None, NO_TAGS, 0)
        age = max(0.0, self._memory._clock.time() - entry.created_timestamp)
        ttl = inf if entry.ttl is None else entry.ttl
        return Explanation(entry.key, CacheLevel.MEMORY, age, ttl - age, entry.tags, entry.access_count)

    # -- many keys ----------------------------------------------------------------------------------

    def get_many(self, keys: Iterable[str], *, cache_level: CacheLevel = _ALL) -> dict[str, Any]:
        """The values of the keys that are there, in the order asked for; each is a lookup that counts."""
        self._check(cache_level)
        found = {}
        for key in checked_keys(keys):
            value = self.get(key, MISSING, cache_level=cache_level)
            if value is not MISSING:
                found[key] = value
        return found

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
        self._check(cache_level)
        if not isinstance(values, Mapping):
            raise TypeError(
                f"values must be a mapping from key to value, not {values!r} of type {type(values).__name__}"
            )
        life = self._default_ttl if ttl is None else seconds(ttl)
        labels = checked_tags(tags)
        checked = {checked_key(key): value for key, value in values.items()}
        for key, value in checked.items():
            refuse_unstorable(value, f"the value of {key!r}")
        done = [self._store.put(key, value, life, labels) for key, value in checked.items()]
        return all(done)

    def delete_many(self, keys: Iterable[str], cache_level: CacheLevel = _ALL) -> int:
        """`delete` each key; how many were there."""
        self._check(cache_level)
        return sum(self._memory.delete(key) for key in checked_keys(keys))

    def get_or_set_many(
        self,
        keys: Iterable[str],
        loader: Callable[[list[str]], Mapping[str, V]],
        *,
        ttl: TTL = None,
        tags: Tags | None = None,
    ) -> dict[str, V]:
        """The values of the keys; one call `loader(missing)` loads all that nobody has or is loading.

        Args:
            keys: which; one that is named twice counts once.
            loader: from a list of keys to a mapping of their values; keys that it leaves out are
                missing from the result, and nothing is stored for them.
            ttl: as for `set`, for all of them.
            tags: as for `set`, for all of them.

        Returns:
            The values in the order of `keys`.

        Raises:
            TypeError: a key, TTL or tag of the wrong type; the loader is not callable, or returned no
                mapping.
            ValueError: the loader returned keys that it was not asked for.
            Exception: whatever the loader raised.
        """
        wanted = checked_keys(keys)
        if not callable(loader):
            raise TypeError(f"loader must be a function of a list of keys, not {loader!r}")
        life, labels = self._life(ttl), checked_tags(tags)
        found = self.get_many(wanted)
        missing = [key for key in wanted if key not in found]
        if missing:
            found |= self._loads.load_many(missing, loader, life, labels)
        return {key: found[key] for key in wanted if key in found}

    def warm_cache(
        self,
        keys: Iterable[str],
        loader_func: Callable[[str], Any],
        *,
        ttl: TTL = None,
        tags: Tags | None = None,
        concurrency: int = 8,
        progress: Callable[[int, int], object] | None = None,
    ) -> WarmReport:
        """Load the keys that are not there, several at a time.

        A key that fails stops no other; it is in the report.

        Args:
            keys: which; one that is named twice counts once.
            loader_func: from a key to its value.
            ttl: as for `set`, for all of them.
            tags: as for `set`, for all of them.
            concurrency: how many threads load, at least 1.
            progress: called in this thread as `progress(done, total)` after each key.

        Raises:
            TypeError: a key, TTL or tag of the wrong type, or a function that is not callable.
            ValueError: `concurrency` is less than 1.
        """
        wanted = checked_keys(keys)
        self._check(_ALL)
        if not callable(loader_func):
            raise TypeError(f"loader_func must be a function of a key, not {loader_func!r}")
        life, labels = self._life(ttl), checked_tags(tags)

        def load(key: str) -> object:
            return self._loads.load(key, lambda: loader_func(key), life, labels)

        return warm(wanted, self._memory.__contains__, load, concurrency, progress)

    # -- invalidation -------------------------------------------------------------------------------

    def clear(self, cache_level: CacheLevel = _ALL) -> bool:
        """Remove everything, and refuse every load that is under way; True unless a tier failed."""
        self._check(cache_level)
        return self._memory.clear()

    def invalidate_by_pattern(self, pattern: str | re.Pattern[str]) -> int:
        """Remove entries whose key the regular expression matches from the start (`re.match`).

        Loads under way of keys that match are refused, whether or not the key was stored.

        Returns:
            How many entries were removed.

        Raises:
            TypeError: the pattern is not a str.
            ValueError: it is not a regular expression.
        """
        self._check(_ALL)
        return self._memory.invalidate_by_pattern(pattern)

    def invalidate_by_tags(self, tags: Tags) -> int:
        """Remove entries with any of the tags, and refuse loads under way that name one.

        Returns:
            How many entries were removed.

        Raises:
            TypeError: `tags` is not a set, list or tuple of str.
        """
        self._check(_ALL)
        return self._memory.invalidate_by_tags(tags)

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
        from cachekit.regions import Region

        return Region(self, prefix, type, ttl=ttl, tags=tags)

    # -- figures ------------------------------------------------------------------------------------

    def get_stats(self) -> dict[str, CacheStats]:
        """The figures of each tier, and "combined": their sum, with the requests of this cache."""
        memory = self._memory.get_stats()
        hits = sum(reader.hits for reader in self._readers)
        misses = sum(reader.misses for reader in self._readers)
        numbers = {name: memory[name] for name in CacheStats._STORED}
        combined = CacheStats(**numbers | {"requests": hits + misses, "request_hits": hits})
        return {"memory": memory, "combined": combined}

    def optimize_cache(self) -> OptimizationReport:
        """Remove expired entries now rather than at the next sweep, and say what that left."""
        self._check(_ALL)
        started = time.perf_counter()
        removed = self._memory.remove_expired()
        return OptimizationReport(
            removed,
            self._memory.size(),
            self._memory.memory_usage(),
            time.perf_counter() - started,
        )

    def _reader(self, function: str) -> Lookups:
        """The counters of a cached function; the same for every function of that identity."""
        lookups = self._functions.get(function)
        if lookups is None:
            # Two threads may both come here: setdefault decides, and the other's counters are unused.
            mine = self._memory._reader()
            lookups = self._functions.setdefault(function, mine)
            if lookups is mine:
                self._readers.append(lookups)
        return lookups

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
        copy: bool = False,
    ) -> CacheDecorator:
        """`cachekit.cache_result` with this cache."""
        from cachekit.decorators import cache_result

        return cache_result(
            cache=self, ttl=ttl, cache_level=cache_level, key_func=key_func, tags=tags, name=name,
            version=version, ignore=ignore, store_if=store_if, copy=copy,
        )  # fmt: skip

    # -- life ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the cache, and its tiers unless it was told not to. A second call does nothing."""
        self._closed = True
        self._find = find_nothing  # so that a hit meets the check too
        for front in list(self._fronts):
            front.forget_cache()
        self._memory._retire(self._readers)
        if self._close_tiers:
            self._memory.close()

    def __enter__(self) -> IntelligentCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _configured, (self._memory, self._default_ttl, self._close_tiers)

    def __repr__(self) -> str:
        return f"IntelligentCache({self._memory!r}, default_ttl={self._default_ttl!r})"


def _configured(memory: MemoryCache, default_ttl: float, close_tiers: bool) -> IntelligentCache:
    return IntelligentCache(memory, default_ttl=default_ttl, close_tiers=close_tiers)
