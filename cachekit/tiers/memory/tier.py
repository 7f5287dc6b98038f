"""MemoryCache: the tier in this process, safe under any number of threads.

It checks what it is given, and speaks entries to caches and plain values to people; `store` holds the
entries and makes the promises, and `figures` counts. Values are held and handed out by reference. What
levels, loads and keys of functions are is left to other rooms.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import inf
from typing import Any, final

from cachekit.model.entry import CacheEntry
from cachekit.model.stats import CacheStats
from cachekit.model.types import FOREVER, MISSING, NO_TAGS, TTL, CacheStrategy, Tags
from cachekit.model.validation import (
    PLAIN_TYPES,
    checked_key,
    checked_pattern,
    checked_tags,
    refuse_unstorable,
    seconds,
)
from cachekit.runtime.clock import Clock, SystemClock
from cachekit.tiers.arguments import check_entry
from cachekit.tiers.base import Fence
from cachekit.tiers.fences import CHANGES, PrivateFence
from cachekit.tiers.memory.sizing import Weigher
from cachekit.tiers.memory.stats import Figures, usage
from cachekit.tiers.memory.store import Store
from cachekit.tiers.memory.strategy import Strategy, checked_limits, refuse_to_copy, store_for
from cachekit.tiers.memory.write_lock import RemovalListener


@final
class MemoryCache:
    """The memory tier: this process's nearest and fastest.

    Args:
        max_size: the most entries that it holds, at least 1.
        strategy: which entry a full cache gives up; or an `EvictionPolicy` of your own, as a class (or
            another function) that makes one, or as one that no other cache has.
        default_ttl: seconds (or a timedelta) that it keeps any copy at the longest; an entry whose own
            TTL is shorter goes earlier. None sets no such limit.
        max_bytes: what its entries may take together; an entry that takes more than a quarter of it is
            not kept. None sets no such limit.
        weigher: called with key and value, what an entry takes, as an int of 0 or more; None estimates
            the bytes of value, key and tags. What it raises reaches whoever stores; nothing is kept.
        cleanup_interval: seconds between sweeps for expired entries; None leaves them until they are
            looked up or evicted. The sweep runs in the process's one upkeep thread.
        clock: where the time comes from; another one is for tests.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a size, TTL or interval out of range, a policy that belongs to another cache, or a
            weigher without `max_bytes`.

    All methods are safe in any thread, before and after a fork. A call from a finalizer or a signal
    handler that interrupts a write of the same thread is carried out when that write is done; it then
    returns True for a set and False or 0 for a removal. It pickles as its configuration: the copy is
    empty, and has no listeners.
    """

    __slots__ = (
        "__weakref__", "_cleanup_interval", "_clock", "_figures", "_find", "_longest", "_lookups",
        "_max_bytes", "_max_size", "_now", "_store", "_strategy", "_touch", "_weigher",
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
    ) -> None:
        cap, interval = checked_limits(max_size, default_ttl, cleanup_interval)
        self._max_size = max_size
        self._longest = cap
        self._strategy = strategy
        self._max_bytes = max_bytes
        self._weigher = weigher
        self._cleanup_interval = interval
        self._clock = clock
        self._store = store_for(strategy, max_bytes, weigher, (max_size, cap, clock, interval))
        # What a hit needs is kept here too: each dot less is 5 % of its time.
        self._find = self._store.find
        self._touch = self._store.touch
        self._now = clock.monotonic
        self._figures = Figures()
        self._lookups = self._figures.reader()

    @property
    def max_size(self) -> int:
        """The most entries that it holds."""
        return self._max_size

    @property
    def max_bytes(self) -> int | None:
        """What its entries may take together; None without such a limit."""
        return self._max_bytes

    @property
    def strategy(self) -> Strategy:
        """Which entry it gives up when it is full, as it was given."""
        return self._strategy

    @property
    def default_ttl(self) -> float | None:
        """Seconds that it keeps any copy at the longest; None without such a limit."""
        return None if self._longest == FOREVER else self._longest

    # -- looking ------------------------------------------------------------------------------------

    def get_value(self, key: str, default: Any = None) -> Any:
        """The value under the key, or `default`; a lookup that counts.

        Raises:
            TypeError: the key is not a str.
            CacheClosedError: after `close`.
        """
        # The hit path; `store` says why it needs no lock. IntelligentCache.get and the wrappers of
        # `decorators` have the same steps: change one, change all.
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
                if now > self._figures.sample_due:
                    self._figures.sample(self._store, held.key)
                return value
        value = self._store.look_up(key if type(key) is str else checked_key(key), self._lookups)
        return default if value is MISSING else value

    def get(self, key: str) -> CacheEntry | None:
        """A snapshot of the live entry under the key, or None; a lookup that counts.

        Raises:
            TypeError: the key is not a str.
            CacheClosedError: after `close`.
        """
        entry = self._store.look_up_locked(checked_key(key), self._lookups, self._store.snapshot)
        return None if entry is MISSING else entry

    def peek(self, key: str) -> CacheEntry | None:
        """Like `get`, but no lookup: nothing is counted, and the entry grows no younger.

        Raises:
            TypeError: the key is not a str.
            CacheClosedError: after `close`.
        """
        return self._store.peek_entry(checked_key(key))

    def keys(self, pattern: str | re.Pattern[str] | None = None) -> list[str]:
        """The keys of live entries, in no particular order; with a pattern those that it matches.

        Args:
            pattern: a regular expression, matched from the start of the key.

        Raises:
            TypeError: the pattern is not a str.
            ValueError: it is not a regular expression.
        """
        self._store.refuse_if_closed()
        matches = None if pattern is None else checked_pattern(pattern).match
        now = self._now()
        return [
            held.key
            for held in self._store.all_held()
            if now < held.deadline
            and (held.shared_fence is None or held.shared_fence.is_current())
            and (matches is None or matches(held.key))
        ]

    def size(self) -> int:
        """How many entries are held, ones that expired but were not yet swept included."""
        self._store.refuse_if_closed()
        return len(self._store)

    def memory_usage(self) -> int:
        """Bytes that entries, keys, values and tags take, about; with `max_bytes` what counts towards it.

        Otherwise up to 1,000 entries are measured, each as `weights.entry_size` says, and the rest are
        taken to be alike.
        """
        self._store.refuse_if_closed()
        return usage(self._store)

    def get_stats(self) -> CacheStats:
        """What has been counted until now; see `CacheStats`. It stays readable after `close`."""
        return self._figures.statistics(self._store)

    # -- writing ------------------------------------------------------------------------------------

    def set_value(self, key: str, value: Any, ttl: TTL = None, tags: Tags | None = None) -> bool:
        """Store a value in place of whatever the key held.

        Args:
            key: where.
            value: anything; it is held by reference.
            ttl: its life from now, in seconds or as a timedelta, no longer than the tier's
                `default_ttl`; 0 or less keeps nothing and removes what was there.
            tags: labels by which it can be invalidated together with others.

        Returns:
            True; False if it takes more than a quarter of `max_bytes`, so that the key holds nothing.

        Raises:
            TypeError: a key, TTL or tag of the wrong type.
            ValueError: a TTL of NaN.
            SerializationError: the value can be read or awaited only once.
            CacheClosedError: after `close`.
        """
        if type(value) not in PLAIN_TYPES:
            refuse_unstorable(value)
        return self._store.put(
            key if type(key) is str else checked_key(key),
            value,
            inf if ttl is None else seconds(ttl),
            NO_TAGS if tags is None else checked_tags(tags),
        )

    def set(self, key: str, entry: CacheEntry) -> bool:
        """Store an entry in place of whatever the key held; it keeps the age that it has.

        An entry whose time is over removes the key instead. One created in the future, by another
        machine's clock, counts as created now.

        Returns:
            True.

        Raises:
            TypeError: the key is not a str, or the entry not a CacheEntry.
            ValueError: the entry's own key is another one.
            CacheClosedError: after `close`.
        """
        check_entry(key, entry)
        return self._store.put_entry(entry)

    def set_if(self, key: str, entry: CacheEntry, fence: Fence) -> bool:
        """Store an entry if the fence, taken for this key before it was loaded, is still current.

        Returns:
            True if it was stored; False if it was refused, which counts, or its time is over.

        Raises:
            TypeError: the key is not a str, the entry not a CacheEntry, the fence not one of this tier.
            ValueError: the entry's own key is another one, or the fence was taken for another key, or
                not for all the tags of the entry.
            CacheClosedError: after `close`.
        """
        check_entry(key, entry)
        if not isinstance(fence, PrivateFence):
            raise TypeError(f"fence must come from this tier's fence(), not {fence!r}")
        if fence.key != entry.key or not fence.tags >= entry.tags:
            raise ValueError(
                f"the fence was taken for key {fence.key!r} and tags {sorted(fence.tags)}, not for "
                f"key {key!r} and tags {sorted(entry.tags)}; take it for the key and all the tags "
                f"that will be stored"
            )
        return self._store.put_entry(entry, fence)

    def fence(self, key: str, tags: Tags = ()) -> PrivateFence:
        """A fence for `set_if`; take it before the value is loaded.

        Raises:
            TypeError: the key is not a str.
            CacheClosedError: after `close`.
        """
        return self._store.fence(checked_key(key), checked_tags(tags))

    def touch(self, key: str, ttl: TTL = None) -> bool:
        """Give a live entry a new life from now, without changing its value; True if there is one.

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
        """Remove the key, and refuse every load of it that is under way; True if it was there.

        Raises:
            TypeError: the key is not a str.
            CacheClosedError: after `close`.
        """
        return self._store.delete(checked_key(key))

    def clear(self) -> bool:
        """Remove everything, and refuse every load that is under way. True.

        Raises:
            CacheClosedError: after `close`.
        """
        self._store.clear()
        return True

    def invalidate_by_tags(self, tags: Tags) -> int:
        """Remove entries with any of the tags, and refuse loads under way that name one.

        Returns:
            How many entries were removed.

        Raises:
            TypeError: `tags` is not a set, list or tuple of str.
            CacheClosedError: after `close`.
        """
        return self._store.invalidate_tags(checked_tags(tags))

    def invalidate_by_pattern(self, pattern: str | re.Pattern[str]) -> int:
        """Remove entries whose key the regular expression matches from the start.

        Loads under way of keys that match are refused, whether or not the key was stored.

        Returns:
            How many entries were removed.

        Raises:
            TypeError: the pattern is not a str.
            ValueError: it is not a regular expression.
            CacheClosedError: after `close`.
        """
        return self._store.invalidate_matching(checked_pattern(pattern))

    def remove_expired(self) -> int:
        """Remove the entries whose time is over; how many that were. Upkeep calls it by itself."""
        self._store.refuse_if_closed()
        return self._store.remove_expired()

    def on_removal(self, listener: RemovalListener) -> Callable[[], None]:
        """Have `listener(key, value, cause)` called for every entry that leaves from now on.

        It runs after the write that removed the entry, in the same thread and without any lock, so it
        may call the cache. What it raises is logged and counted as an error.

        Returns:
            A function without arguments that ends it.

        Raises:
            TypeError: the listener is not callable.
        """
        if not callable(listener):
            raise TypeError(f"listener must be callable as f(key, value, cause), not {listener!r}")
        return self._store.on_removal(listener)

    # -- life ---------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Assert that what is held agrees with every index and bound; on a quiet tier."""
        self._store.check()

    def close(self) -> None:
        """Let go of all entries and end the sweep. Listeners are not told; a second call does nothing."""
        self._store.close()

    def __contains__(self, key: str) -> bool:
        """Whether there is a live entry; no lookup."""
        return self._store.peek_value(checked_key(key)) is not MISSING

    def __len__(self) -> int:
        return self.size()

    def __enter__(self) -> MemoryCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        refuse_to_copy(self._strategy)
        names = ("max_bytes", "weigher", "cleanup_interval", "clock")
        options = {name: getattr(self, f"_{name}") for name in names}
        return _configured, (self._max_size, self._strategy, self.default_ttl, options)

    def __repr__(self) -> str:
        return (
            f"MemoryCache(max_size={self._max_size}, default_ttl={self.default_ttl}, size={len(self._store)})"
        )


def store_of(memory: MemoryCache) -> Store:
    """Return the store of a memory tier: for caches over it, which have checked their arguments."""
    return memory._store


def figures_of(memory: MemoryCache) -> Figures:
    """Return the counters of a memory tier, where a cache over it counts too."""
    return memory._figures


def memory_of_nothing() -> MemoryCache:
    """Return the stand-in for a missing memory tier: its fences work, and it stays empty."""
    memory = MemoryCache(1, cleanup_interval=None)
    memory._store.keep_nothing()
    return memory


def _configured(
    max_size: int, strategy: Strategy, default_ttl: float | None, options: dict[str, Any]
) -> MemoryCache:
    return MemoryCache(max_size, strategy, default_ttl, **options)
