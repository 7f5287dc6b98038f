"""CacheCore: the inside of one cache, which all who speak for the cache share.

`IntelligentCache`, its asyncio view, regions and cached functions hold the core. The core owns the tiers,
the loads, the defaults and the counters. Callers check arguments before they call it.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, final
from weakref import ref

from cachekit.coherence.accessor import TierAccessor
from cachekit.coherence.notifications import recovery_of
from cachekit.coherence.tier_stack import TierStack
from cachekit.errors import CacheClosedError
from cachekit.loading.keep_warm import KeepWarm
from cachekit.loading.options import LoadOptions
from cachekit.loading.request import LoadDefaults
from cachekit.loading.tasks_driver import AwaitedLoads
from cachekit.loading.threads_driver import Loads
from cachekit.model.counters import Lookups
from cachekit.model.display import typed_repr
from cachekit.model.reports import SizeEstimate
from cachekit.model.stats import COUNTED, CacheStats
from cachekit.model.types import MEMORY, MISSING, CacheLevel, Missing
from cachekit.runtime.fork import ForkSafeLock
from cachekit.runtime.reentrant_lock import RLock
from cachekit.tiers.base import DirectoryTier, ServerTier
from cachekit.tiers.memory.tier import MemoryCache, memory_of_nothing, stats_of, store_of

if TYPE_CHECKING:
    from cachekit.loading.hot_set import HotSet
    from cachekit.loading.options import Prefetch
    from cachekit.loading.prefetching import Job, Prefetcher, PrefetchPool

#: Held while a cache makes what its prefetchers share, because its first two functions may meet there.
_making: Final = RLock()
_fork_guard = ForkSafeLock(_making)

_ALL: Final = CacheLevel.ALL
_LEVELS: Final = (CacheLevel.MEMORY, CacheLevel.REDIS, CacheLevel.FILE)


class HoldsEntries(Protocol):
    """An object that reaches entries of a cache without a call of the cache, such as a fast path."""

    def forget_cache(self) -> None:
        """Drop all entries: the cache is closed, or another one is in use."""
        ...


@final
class CacheCore:
    """The tiers, loads, defaults and counters of one cache. Safe in any thread, before and after a fork.

    Args:
        memory: the memory tier; None for none.
        redis: the tier that hosts share, or None.
        file: the tier that the processes of this host share, or None.
        default_ttl: seconds that an entry lives when the caller does not say; infinity for no expiry.
        load: how values are loaded when the caller does not say.
        keeps_warm: whether keys may be kept warm.
        strict: whether a tier that fails raises TierUnavailableError.
        reload_hot: whether the keys that are used most are in memory again after a restart.
        prefetch: how entries of lower tiers are copied before they are asked for; None for not at all.

    Attributes:
        memory: the store of the memory tier. A store that keeps nothing stands for a tier that is not there.
        memory_tier: the memory tier, or None.
        memory_stats: the counters of the memory tier.
        tiers: all tiers as one.
        loads, awaited: the loads of this cache, in threads and in tasks.
        defaults: how values are loaded when the caller does not say.
        keep_warm: the keys kept warm; None if that is off.
        prefetcher: copies entries of lower tiers into memory before they are asked for; None if that is off.
        hot_set: the keys that are used most, for after a restart; None if that is off.
        lookups: the counters of callers that name no function of their own.
        table: the counters of all callers.
        fast_paths: the fast paths that point into the memory tier. It is no WeakSet, because another thread
            may add one while the members are listed.
        closed: whether the cache is closed.
    """

    __slots__ = (
        "__weakref__", "_functions", "_levels", "_prefetches", "awaited", "closed", "default_ttl", "defaults",
        "fast_paths", "find_below", "hot_set", "keep_warm", "loads", "lookups", "memory", "memory_stats",
        "memory_tier", "prefetcher", "table", "tiers",
    )  # fmt: skip

    def __init__(
        self,
        memory: MemoryCache | None,
        redis: ServerTier | None,
        file: DirectoryTier | None,
        *,
        default_ttl: float,
        load: LoadOptions,
        keeps_warm: bool,
        strict: bool,
        reload_hot: bool,
        prefetch: Prefetch | None,
    ) -> None:
        self.memory_tier = memory
        self._levels: list[CacheLevel] = [
            level for level, tier in zip(_LEVELS, (memory, redis, file), strict=True) if tier is not None
        ]
        # Without a memory tier, a store that keeps nothing holds the fences.
        tier = memory_of_nothing() if memory is None else memory
        self.memory = store_of(tier)
        self.memory_stats = stats_of(tier)
        self.table = self.memory_stats.table()
        self.default_ttl = default_ttl
        self.closed = False
        # Other caches write during an outage, without a message: memory is cleared when it ends.
        recovered = self.memory.clear
        self.tiers = TierStack(
            self.memory,
            None
            if redis is None
            else TierAccessor(
                "redis", redis, strict=strict, recovered=recovery_of(redis, self.memory), actor=self.memory
            ),
            None if file is None else TierAccessor("file", file, strict=strict, recovered=recovered),
            self.table.total_hits,
        )
        self.loads = Loads(self.tiers)
        self.awaited = AwaitedLoads(self.loads)
        self.defaults = LoadDefaults(
            self.loads.path.permits, default_ttl, load, memory is not None, keeps_warm
        )
        self.keep_warm = KeepWarm(self.tiers, self.loads) if keeps_warm else None
        self.lookups = self.table.reader()
        self._functions: dict[str, ref[Lookups]] = {}
        self.fast_paths: weakref.WeakKeyDictionary[HoldsEntries, None] = weakref.WeakKeyDictionary()
        self.hot_set: HotSet | None = None
        if reload_hot and memory is not None and self.tiers.lower:
            from cachekit.loading.hot_set import HotSet

            most_bytes = None if memory.max_bytes is None else memory.max_bytes // 2
            self.hot_set = HotSet(self.tiers, self.memory, most_bytes, self.table, self.loads.path.log)
        self._prefetches: PrefetchPool | None = None
        self.prefetcher: Prefetcher | None = None
        if prefetch is not None and memory is not None and self.tiers.lower:
            from cachekit.loading.prefetching import Prefetcher
            from cachekit.loading.recurrence_record import PrefixRecord

            record = PrefixRecord("cache")
            self.prefetcher = Prefetcher(self.prefetches(), prefetch, _no_job, self.lookups, record=record)
        #: Returns what a tier below memory has.
        self.find_below = self.tiers.find if self.prefetcher is None else self.prefetcher.find

    def check(self, level: CacheLevel = CacheLevel.ALL) -> None:
        """Raise CacheClosedError, TypeError or ValueError if a call to these levels cannot be served."""
        if self.closed:
            raise CacheClosedError("this IntelligentCache was closed; make a new one")
        if level is CacheLevel.ALL:
            return
        if not isinstance(level, CacheLevel):
            raise TypeError(f"cache_level must be a CacheLevel, not {typed_repr(level)}")
        if not any(level & mine for mine in self._levels):
            names = ", ".join(str(mine.name) for mine in self._levels)
            raise ValueError(f"cache_level={level} names no tier of this cache, which has: {names}")

    def estimate(self, statistics: Mapping[str, CacheStats]) -> SizeEstimate | None:
        """Return what other sizes of the memory tier would bring, for the time that the statistics cover."""
        if self.memory_tier is None or self.closed or "memory" not in statistics:
            return None
        return self.memory_tier.estimate(max(1, statistics["memory"].requests))

    def prefetches(self) -> PrefetchPool:
        """Return what all prefetchers of this cache share."""
        if self._prefetches is None:
            from cachekit.loading.prefetching import PrefetchPool

            with _making:
                if self._prefetches is None:
                    pool = PrefetchPool(self.tiers, self.memory, self.loads, self.awaited, self.hot_set)
                    if self.hot_set is not None:
                        self.hot_set.record_recurring = pool.recorded
                    self._prefetches = pool
        return self._prefetches

    # -- lookups ------------------------------------------------------------------------------------

    def look_up(self, key: str, level: CacheLevel) -> Any | Missing:
        """Return the value from the nearest tier that has the key, after a look without the lock."""
        lookups = self.lookups
        value = self.memory.look_up(key, lookups) if level._value_ & MEMORY else self._skip_memory(lookups)
        if value is MISSING and self.tiers.lower:
            value = self.find_below(key, level)
        return value

    def look_in_memory(self, key: str, level: CacheLevel, lookups: Lookups) -> Any | Missing:
        """Return the value that memory has; a level without memory counts as a request all the same."""
        if self.memory_tier is None and level is _ALL:
            lookups.misses += 1
            return MISSING
        return self.memory.hit(key, lookups) if level._value_ & MEMORY else self._skip_memory(lookups)

    def _skip_memory(self, lookups: Lookups) -> Missing:
        self.tiers.skipped += 1
        lookups.skipped += 1
        return MISSING

    def look_up_many_in_memory(self, keys: Sequence[str], level: CacheLevel) -> dict[str, Any]:
        """Return the values that memory has."""
        if not self.memory.keeps and level._value_ & MEMORY:
            misses = len(keys)
            self.lookups.misses += misses
            return {}
        values = {key: self.look_in_memory(key, level, self.lookups) for key in keys}
        return {key: value for key, value in values.items() if value is not MISSING}

    # -- counters -----------------------------------------------------------------------------------

    def reader(self, function: str) -> Lookups:
        """Return the counters of a cached function, which it keeps; functions of one identity share them."""
        functions = self._functions
        while True:
            known = functions.get(function)
            lookups = None if known is None else known()
            if lookups is not None:
                return lookups
            mine = self.table.reader()

            def forget(gone: ref[Lookups]) -> None:
                try:
                    # Nothing runs between the next two lines (see `model.counters`).
                    if functions[function] is gone:
                        del functions[function]
                except KeyError:
                    pass

            new = ref(mine, forget)
            # Two threads may both come here. One of them decides, and the other one takes its counters.
            if known is not None:
                forget(known)
            if functions.setdefault(function, new) is new:
                return mine

    def forget_function(self, function: str) -> None:
        """Drop the results of a cached function that is gone.

        A finalizer calls it, so at any point of any thread.
        """
        if not self.closed:
            self.memory.invalidate_tags(frozenset({function}))

    def requests(self) -> int:
        """Return how many lookups callers have begun."""
        return sum(self.table.totals()) + self.tiers.skipped

    def get_stats(self, used: int | None = None) -> dict[str, CacheStats]:
        """Return the statistics of each tier by name, and "combined".

        Args:
            used: the bytes of the entries in memory; None (the default) measures them.
        """
        # First: a lookup counts as a request before a lower tier answers it.
        answers = self.tiers.answers
        tiers = {}
        if self.memory_tier is not None:
            tiers["memory"] = self.memory_stats.statistics(self.memory, used)
        for name, lower in (("redis", self.tiers.redis), ("file", self.tiers.file)):
            if lower is not None:
                tiers[name] = lower.get_stats()
        combined = {name: sum(tier[name] for tier in tiers.values()) for name in COUNTED}
        for quantile in ("latency_p50", "latency_p99"):  # a hit is nearly always one in the first tier
            combined[quantile] = next(iter(tiers.values()))[quantile]
        hits, misses = self.table.totals()
        combined |= self.loads.figures.as_dict()
        combined["reloaded"] = 0 if self.hot_set is None else self.hot_set.reloaded
        if self._prefetches is not None:
            combined |= self._prefetches.counters.as_dict()
        combined["requests"] = hits + misses + self.tiers.skipped
        combined["request_hits"] = hits + answers
        return tiers | {"combined": CacheStats(**combined)}

    # -- life ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """Refuse further calls, empty the fast paths and end what runs in the background."""
        if self.hot_set is not None:
            self.hot_set.close()  # first, while memory has entries and the tiers take the record
        self.closed = True
        for reference in self.fast_paths.keyrefs():
            fast_path = reference()
            if fast_path is not None:
                fast_path.forget_cache()
        if self.keep_warm is not None:
            self.keep_warm.close()
        if self._prefetches is not None:
            self._prefetches.close()
        self.tiers.close()
        self.loads.close()
        self._retire()

    def _retire(self) -> None:
        self.table.is_closed = True
        self.memory_stats.retire(self.table)

    def __del__(self) -> None:
        # A cache that is dropped without `close`: its table must not stay with functions and memory tiers.
        if hasattr(self, "table"):  # else its constructor has failed
            self._retire()


def _no_job(_: str) -> Job:
    return None
