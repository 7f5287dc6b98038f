"""`MemoryCache`, the tier in this process.

It checks arguments and converts entries; `store` holds the entries and keeps the guarantees, and `stats`
counts. Values are stored and returned by reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import inf
from typing import Any, Literal, final

from cachekit.model.display import safe_repr, shown_key, shown_tags, typed_repr
from cachekit.model.entry import CacheEntry
from cachekit.model.reports import SizeEstimate
from cachekit.model.stats import CacheStats
from cachekit.model.storable import PLAIN_TYPES, refuse_unstorable
from cachekit.model.types import FOREVER, MISSING, NO_TAGS, TTL, CacheStrategy, Tags
from cachekit.model.validation import (
    LONGEST,
    checked_key,
    checked_pattern,
    checked_tags,
    pattern_to_invalidate,
    seconds,
)
from cachekit.runtime.clock import Clock, SystemClock, checked_clock
from cachekit.runtime.interrupts import raise_interrupt
from cachekit.tiers.arguments import check_entry
from cachekit.tiers.base import Fence
from cachekit.tiers.fences import CHANGES, PrivateFence
from cachekit.tiers.memory.key_sample import KeySample
from cachekit.tiers.memory.sampling import SPREAD
from cachekit.tiers.memory.sizing import Weigher
from cachekit.tiers.memory.stats import MemoryStats, usage
from cachekit.tiers.memory.store import Store
from cachekit.tiers.memory.strategy import (
    Strategy,
    adaptive_policy_of,
    checked_limits,
    median_load_of,
    refuse_to_copy,
    store_for,
)
from cachekit.tiers.memory.write_lock import RemovalListener


@final
class MemoryCache:
    """The memory tier: the nearest and fastest tier of a cache.

    Args:
        max_size: The maximum number of entries, at least 1 (default 1000).
        strategy: Which entry a full tier evicts (default LRU): a CacheStrategy, or an `EvictionPolicy` of
            yours, as a class, as a function that creates one, or as an object that no other cache has.
        default_ttl: The maximum life of an entry, in seconds or as a timedelta. An entry with a shorter TTL
            expires earlier. None (the default) sets no limit.
        max_bytes: The maximum bytes of all entries. An entry that takes more than a quarter of it is not
            stored. None (the default) sets no limit.
        weigher: Called with key and value; returns the weight of an entry, an int of 0 or more, that counts
            towards `max_bytes`. None (the default) estimates the bytes of value, key and tags. If it
            raises, the write raises the same and nothing is stored.
        cleanup_interval: Seconds between two sweeps for expired entries (default 60). With None an expired
            entry stays until it is looked up or evicted. The sweep runs in the background thread.
        clock: The source of time (default: the system clock); tests use another one.
        estimates: Whether requests for a sample of the keys are simulated at other sizes, for `estimate`
            (default True). That takes at most two hundredths of a core, in the background thread.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a size, TTL or interval out of range, a policy that belongs to another cache, or a
            weigher without `max_bytes`.

    All methods are safe in any thread, before and after a fork. If a finalizer or signal handler
    interrupts a write of the same thread, its calls run when that write ends. Such a call returns True for
    a set, and False or 0 for a removal. The cache pickles as its configuration: the copy is empty and has
    no listeners.
    """

    __slots__ = (
        "__weakref__", "_cleanup_interval", "_clock", "_estimates", "_find", "_longest", "_lookups",
        "_max_bytes", "_max_size", "_sample", "_stats", "_store", "_strategy", "_time", "_touch", "_weigher",
    )  # fmt: skip

    def __init__(
        self,
        max_size: int = 1000,
        strategy: Strategy = CacheStrategy.LRU,
        default_ttl: TTL = None,
        *,
        max_bytes: int | None = None,
        weigher: Weigher | None = None,
        cleanup_interval: float | None = 60,
        clock: Clock = SystemClock(),  # noqa: B008  # it has no state
        estimates: bool = True,
    ) -> None:
        if not isinstance(estimates, bool):
            raise TypeError(f"estimates must be True or False, not {safe_repr(estimates)}")
        cap, interval = checked_limits(max_size, default_ttl, cleanup_interval)
        self._max_size = max_size
        self._longest = cap
        self._strategy = strategy
        self._max_bytes = max_bytes
        self._weigher = weigher
        self._cleanup_interval = interval
        self._clock = checked_clock(clock)
        self._estimates = estimates
        self._store = store_for(strategy, max_bytes, weigher, (max_size, cap, clock, interval))
        # Copies of what a hit needs: each attribute access less saves 5 % of its time.
        self._find = self._store.find
        self._touch = self._store.touch
        self._time = self._store.time
        self._stats = MemoryStats()
        self._lookups = self._stats.reader()
        self._sample: KeySample | None = None
        if estimates and interval is not None and isinstance(strategy, CacheStrategy):
            policy = adaptive_policy_of(self._store)
            self._sample = KeySample(self._store, strategy, self._stats.lookups, max_bytes, policy)
            self._store.sample = self._sample

    @property
    def max_size(self) -> int:
        """Return the maximum number of entries."""
        return self._max_size

    @property
    def max_bytes(self) -> int | None:
        """Return the maximum bytes of all entries; None for no limit."""
        return self._max_bytes

    @property
    def strategy(self) -> Strategy:
        """Return the `strategy` argument: which entry a full tier evicts."""
        return self._strategy

    @property
    def policy(self) -> str:
        """Return what decides on evictions now, in words.

        For ADAPTIVE it names the shape and how it came about; for COST_AWARE, the median of load times.
        """
        if self._strategy is CacheStrategy.COST_AWARE:
            seconds = median_load_of(self._store)
            if not seconds:
                return "cost-aware: no load times are known, so size and hits decide"
            return f"cost-aware: half of the last loads took {seconds * 1e3:.1f} ms or less"
        adaptive = adaptive_policy_of(self._store)
        if adaptive is None:
            return self._strategy.value if isinstance(self._strategy, CacheStrategy) else repr(self._strategy)
        if self._sample is None:
            return f"adaptive: {adaptive.shape}; it stays, because nothing is simulated"
        return f"adaptive: {adaptive}; {self._store.sampled / SPREAD:.2%} of the keys are simulated"

    @property
    def default_ttl(self) -> float | None:
        """Return the maximum life of an entry in seconds; None for no limit."""
        return None if self._longest == FOREVER else self._longest

    # -- lookups ------------------------------------------------------------------------------------

    def get_value(self, key: str, default: Any = None) -> Any:
        """Return the value under the key, or `default`; the lookup counts.

        Raises:
            TypeError: the key is not a str.
            CacheClosedError: after `close`.
        """
        # The hit path; `store` says why it needs no lock. Store.hit, IntelligentCache.get and the wrappers
        # of `decorator.fast_path` have the same steps, and a test compares them: change all together.
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
        value = self._store.look_up(
            key if type(key) is str and len(key) <= LONGEST else checked_key(key), self._lookups
        )
        return default if value is MISSING else value

    def get(self, key: str) -> CacheEntry | None:
        """Return a snapshot of the live entry under the key, or None; the lookup counts.

        Raises:
            TypeError: the key is not a str.
            CacheClosedError: after `close`.
        """
        entry = self._store.look_up_locked(checked_key(key), self._lookups, self._store.snapshot)
        return None if entry is MISSING else entry

    def peek(self, key: str) -> CacheEntry | None:
        """Return what `get` would, without counting a lookup or changing the order of eviction.

        Raises:
            TypeError: the key is not a str.
            CacheClosedError: after `close`.
        """
        return self._store.peek_entry(checked_key(key))

    def keys(self, pattern: str | re.Pattern[str] | None = None) -> list[str]:
        """Return the keys of live entries in no particular order.

        Args:
            pattern: A regular expression, matched from the start of the key (default: all keys).

        Raises:
            TypeError: the pattern is neither a str nor a compiled pattern of str.
            ValueError: the pattern is not a valid regular expression.
            CacheClosedError: after `close`.
        """
        self._store.refuse_if_closed()
        matches = None if pattern is None else checked_pattern(pattern).match
        now = self._time.monotonic()
        return [
            held.key
            for held in self._store.all_held()
            if now < held.deadline
            and (held.shared_fence is None or held.shared_fence.is_current())
            and (matches is None or matches(held.key))
        ]

    def size(self) -> int:
        """Return how many entries are held, expired ones included that are not yet removed.

        Raises:
            CacheClosedError: after `close`.
        """
        self._store.refuse_if_closed()
        return len(self._store)

    def memory_usage(self) -> int:
        """Return the estimated bytes of all entries; with `max_bytes`, the weight that counts towards it.

        The estimate measures up to 1,000 entries and assumes that the others are alike.

        Raises:
            CacheClosedError: after `close`.
        """
        self._store.refuse_if_closed()
        return usage(self._store)

    def get_stats(self) -> CacheStats:
        """Return the statistics, see `CacheStats`; also after `close`."""
        return self._stats.statistics(self._store)

    def estimate(self, last: int | None = None) -> SizeEstimate:
        """Return the hit rates that half, twice and ten times the size would have had; also after `close`.

        Requests for a sample of the keys are simulated. Most results are right to two points. Half the size
        is less certain where the hit rate falls steeply with the size. docs/eviction.md has the measurements.

        Args:
            last: Cover about the last so many lookups of the tier, at least 1 (default: all). Fewer lookups
                are less certain. At most about the last 64,000 lookups, or 64 times `max_size`, can be told
                from all.

        Returns:
            The estimate. It is false, and says why, if there are too few requests, with `estimates=False`,
            without the background thread (`cleanup_interval=None`), and for a policy of your own.

        Raises:
            TypeError: `last` is not an int.
            ValueError: `last` is less than 1.
        """
        if last is not None and (isinstance(last, bool) or not isinstance(last, int)):
            raise TypeError(f"last must be an int, not {typed_repr(last)}")
        if last is not None and last < 1:
            raise ValueError(f"last must be at least 1, not {last}; use None for all lookups")
        if self._sample is not None:
            return self._sample.estimate(last)
        if not self._estimates:
            reason = "estimates=False"
        elif self._cleanup_interval is None:
            reason = "cleanup_interval=None: there is no background thread"
        else:
            reason = "the strategy is a policy of yours, and only those of CacheStrategy are simulated"
        unit: Literal["entries", "bytes"] = "entries" if self._max_bytes is None else "bytes"
        return SizeEstimate(self._max_bytes or self._max_size, {}, {}, 0, 0.0, unit, reason)

    # -- writes -------------------------------------------------------------------------------------

    def set_value(self, key: str, value: Any, ttl: TTL = None, tags: Tags | None = None) -> bool:
        """Store a value in place of any entry under the key.

        Args:
            key: The key, a str.
            value: Any object; it is held by reference.
            ttl: The life from now, in seconds or as a timedelta, at most the tier's `default_ttl`, which
                None means. With 0 or less the key is removed.
            tags: Labels by which the entry can be invalidated together with others (default: none).

        Returns:
            True; False if the value takes more than a quarter of `max_bytes`, so that the key is removed.

        Raises:
            TypeError: a key, TTL or tag of the wrong type.
            ValueError: a TTL of NaN.
            SerializationError: the value can be read or awaited only once.
            CacheClosedError: after `close`.
        """
        if type(value) not in PLAIN_TYPES:
            refuse_unstorable(value)
        return self._store.put(
            key if type(key) is str and len(key) <= LONGEST else checked_key(key),
            value,
            inf if ttl is None else seconds(ttl),
            NO_TAGS if tags is None else checked_tags(tags),
        )

    def set(self, key: str, entry: CacheEntry) -> bool:
        """Store an entry in place of any entry under the key, with the age that it has.

        If the entry has expired, the key is removed instead. An entry created in the future, by the clock
        of another machine, counts as created now.

        Returns:
            True; False if the value takes more than a quarter of `max_bytes`, so that the key is removed.

        Raises:
            TypeError: the key is not a str, or the entry is not a CacheEntry.
            ValueError: the entry has another key.
            CacheClosedError: after `close`.
        """
        check_entry(key, entry)
        return self._store.put_entry(entry)

    def set_if(self, key: str, entry: CacheEntry, fence: Fence) -> bool:
        """Store an entry if the fence, taken for this key before the load, is still current.

        Returns:
            True if the entry was stored; False if it was refused, which counts, or has expired.

        Raises:
            TypeError: the key is not a str, the entry is not a CacheEntry, or the fence is not one of this
                tier.
            ValueError: the entry has another key, or the fence was taken for another key, or not for all
                tags of the entry.
            CacheClosedError: after `close`.
        """
        check_entry(key, entry)
        if not isinstance(fence, PrivateFence):
            raise TypeError(f"fence must come from this tier's fence(), not {safe_repr(fence)}")
        if fence.key != entry.key or not fence.tags >= entry.tags:
            raise ValueError(
                f"the fence was taken for {shown_key(fence.key)} and {shown_tags(fence.tags)}, not for "
                f"{shown_key(key)} and {shown_tags(entry.tags)}; take it for the key and all the tags "
                f"that will be stored"
            )
        return self._store.put_entry(entry, fence)

    def fence(self, key: str, tags: Tags = ()) -> PrivateFence:
        """Take a fence for `set_if`, before the load of a value that may have these tags.

        Raises:
            TypeError: the key is not a str, or the tags are not a set, list or tuple of str.
            CacheClosedError: after `close`.
        """
        return self._store.fence(checked_key(key), checked_tags(tags))

    def touch(self, key: str, ttl: TTL = None) -> bool:
        """Give a live entry a new life from now without changing its value; return whether there is one.

        Raises:
            TypeError: the key is not a str, or the TTL neither a number nor a timedelta.
            ValueError: the TTL is NaN.
            CacheClosedError: after `close`.
        """
        life = inf if ttl is None else seconds(ttl)
        if life <= 0:
            return self._store.delete(checked_key(key))
        return self._store.prolong(checked_key(key), life)

    def delete(self, key: str) -> bool:
        """Remove the key, and refuse every load of it in progress; return whether it was there.

        Raises:
            TypeError: the key is not a str.
            CacheClosedError: after `close`.
        """
        return self._store.delete(checked_key(key))

    def clear(self) -> bool:
        """Remove all entries, and refuse every load in progress; return True.

        Raises:
            CacheClosedError: after `close`.
        """
        self._store.clear()
        return True

    def invalidate_by_tags(self, tags: Tags) -> int:
        """Remove entries with any of the tags, and refuse loads in progress that name one.

        Returns:
            How many entries were removed.

        Raises:
            TypeError: `tags` is not a set, list or tuple of str.
            CacheClosedError: after `close`.
        """
        return self._store.invalidate_tags(checked_tags(tags))

    def invalidate_by_pattern(self, pattern: str | re.Pattern[str]) -> int:
        """Remove entries whose key the regular expression matches from the start.

        Loads in progress of matching keys are refused, whether or not the key was stored.

        Returns:
            How many entries were removed.

        Raises:
            TypeError: the pattern is neither a str nor a compiled pattern of str.
            ValueError: the pattern is not a valid regular expression.
            CacheClosedError: after `close`.
        """
        return self._store.invalidate_matching(pattern_to_invalidate(pattern))

    def remove_expired(self) -> int:
        """Remove expired entries and return how many; the sweep calls it, too.

        Raises:
            CacheClosedError: after `close`.
        """
        self._store.refuse_if_closed()
        return self._store.remove_expired()

    def on_removal(self, listener: RemovalListener) -> Callable[[], None]:
        """Call `listener(key, value, cause)` for every entry that leaves from now on.

        The listener runs after the write that removed the entry, in the same thread and without a lock, so
        it may call the cache. If it raises, the exception is logged and counted as an error.

        Returns:
            A function without arguments that ends the calls.

        Raises:
            TypeError: the listener is not callable.
            CacheClosedError: after `close`.
        """
        if not callable(listener):
            raise TypeError(f"listener must be callable as f(key, value, cause), not {safe_repr(listener)}")
        return self._store.on_removal(listener)

    # -- life ---------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Assert that what is held agrees with every index and bound; on a quiet tier."""
        self._store.check()

    def close(self) -> None:
        """Drop all entries and end the sweep. Listeners are not called. A second call does nothing."""
        self._store.close()

    def __contains__(self, key: str) -> bool:
        """Tell whether there is a live entry; no lookup, so it counts nothing."""
        return self._store.peek_value(checked_key(key)) is not MISSING

    def __len__(self) -> int:
        return self.size()

    def __enter__(self) -> MemoryCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        refuse_to_copy(self._strategy)
        names = ("max_bytes", "weigher", "cleanup_interval", "clock", "estimates")
        options = {name: getattr(self, f"_{name}") for name in names}
        return _configured, (self._max_size, self._strategy, self.default_ttl, options)

    def __repr__(self) -> str:
        return (
            f"MemoryCache(max_size={self._max_size}, default_ttl={self.default_ttl}, size={len(self._store)})"
        )


def store_of(memory: MemoryCache) -> Store:
    """Return the store of a memory tier, for caches over it, which check arguments themselves."""
    return memory._store


def stats_of(memory: MemoryCache) -> MemoryStats:
    """Return the counters of a memory tier, in which a cache over it counts, too."""
    return memory._stats


def memory_of_nothing() -> MemoryCache:
    """Return the stand-in for no memory tier: its fences work, and it stays empty."""
    memory = MemoryCache(1, cleanup_interval=None)
    memory._store.keep_nothing()
    return memory


def _configured(
    max_size: int, strategy: Strategy, default_ttl: float | None, options: dict[str, Any]
) -> MemoryCache:
    return MemoryCache(max_size, strategy, default_ttl, **options)
