"""The nouns of cachekit: entries, levels, strategies, causes of removal, snapshots of statistics.

Plain values without behaviour of their own beyond checking what they are given; every other room may
import them, and they import only the errors. Times are floats of seconds inside (`time.time()`, the
wall clock) and aware datetimes where a person looks.
"""

from __future__ import annotations

import enum
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime, timedelta
from types import AsyncGeneratorType, CoroutineType
from typing import Any, Final, Literal, NamedTuple, TypeAlias, final

from cachekit.errors import SerializationError

#: A time to live: seconds, or a timedelta; `None` means "the default of whoever is asked".
TTL: TypeAlias = float | timedelta | None

#: A TTL that never ends: the entry goes only by eviction or invalidation.
FOREVER: Final = math.inf

#: Tags as a caller may write them.
Tags: TypeAlias = AbstractSet[str] | list[str] | tuple[str, ...]

NO_TAGS: Final[frozenset[str]] = frozenset()


class _Missing(enum.Enum):
    MISSING = "MISSING"

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> Literal[False]:
        return False


#: What a lookup yields when there is nothing; `None` is a value like any other.
MISSING: Final = _Missing.MISSING
Missing: TypeAlias = Literal[_Missing.MISSING]


class CacheLevel(enum.Flag):
    """Which tiers an operation speaks to; members combine, as in `MEMORY | FILE`."""

    MEMORY = 1
    REDIS = 2
    FILE = 4
    ALL = MEMORY | REDIS | FILE


#: The bits of `CacheLevel`: the operators of an enum cost more than a lookup in memory does.
MEMORY: Final = CacheLevel.MEMORY.value
REDIS: Final = CacheLevel.REDIS.value
FILE: Final = CacheLevel.FILE.value
ALL: Final = CacheLevel.ALL.value


class CacheStrategy(enum.Enum):
    """Which entry a full memory tier gives up; docs/eviction.md says which to choose."""

    LRU = "lru"  #: the one that was read or written longest ago
    FIFO = "fifo"  #: the one that came in first
    LFU = "lfu"  #: the one that was asked for least often since it came in
    TTL = "ttl"  #: the one whose time is over soonest
    SIEVE = "sieve"  #: one that was not asked for again, found by a hand that walks from old to new
    S3_FIFO = "s3-fifo"  #: one that was not asked for again while it was on trial, or lately
    W_TINYLFU = "w-tinylfu"  #: one that was asked for less often lately than what wants its place


class RemovalCause(enum.Enum):
    """Why an entry left the memory tier, as removal listeners are told."""

    EVICTED = "evicted"  #: to make room
    EXPIRED = "expired"  #: its time to live was over
    INVALIDATED = "invalidated"  #: asked for: delete, clear, by tag, by pattern
    REPLACED = "replaced"  #: another value was set under its key


def seconds(ttl: float | timedelta, argument: str = "ttl") -> float:
    """A TTL in seconds, as a float.

    Raises:
        TypeError: it is neither a number nor a timedelta.
        ValueError: it is NaN.
    """
    kind = type(ttl)
    if type(ttl) is float:
        value = ttl
    elif isinstance(ttl, timedelta):
        value = ttl.total_seconds()
    elif kind is int or (isinstance(ttl, (int, float)) and kind is not bool):
        try:
            value = float(ttl)
        except OverflowError:  # an int beyond all floats
            value = math.inf if ttl > 0 else -math.inf
    else:
        raise TypeError(
            f"{argument} must be seconds (int or float), a timedelta, FOREVER or None, "
            f"not {ttl!r} of type {type(ttl).__name__}"
        )
    if value != value:
        raise ValueError(f"{argument} must not be NaN; use FOREVER for no expiry, or None")
    return value


_LONGEST_STALE: Final = 1e15  # seconds; finite, so that sums with it stay numbers


def stale_seconds(stale_ttl: float | timedelta | None) -> float:
    """For how long after its life a value may still serve loads, in seconds; None is not at all.

    Raises:
        TypeError: it is neither a number nor a timedelta.
        ValueError: it is NaN, or negative.
    """
    if stale_ttl is None:
        return 0.0
    value = seconds(stale_ttl, "stale_ttl")
    if value < 0:
        raise ValueError(f"stale_ttl must be 0 or more, not {stale_ttl!r}; None is not at all")
    return min(value, _LONGEST_STALE)


def checked_key(key: object, argument: str = "key") -> str:
    """The key as an exact `str`; a subclass of str becomes a plain one.

    Raises:
        TypeError: it is not a str.
    """
    if type(key) is str:
        return key
    if isinstance(key, str):
        return str.__str__(key)
    raise TypeError(
        f"{argument} must be a str, not {key!r} of type {type(key).__name__}; "
        f"convert it first, for example with str() or an f-string"
    )


def checked_keys(keys: Iterable[str]) -> list[str]:
    """The keys, each once and in order.

    Raises:
        TypeError: a bare str (its letters would become keys), no iterable, or a key that is no str.
    """
    if isinstance(keys, str):
        raise TypeError(f"keys must be several keys, not the str {keys!r}; write [{keys!r}]")
    if not isinstance(keys, Iterable):
        raise TypeError(f"keys must be an iterable of str, not {keys!r} of type {type(keys).__name__}")
    return list(dict.fromkeys(checked_key(key, "each of keys") for key in keys))


def checked_tags(tags: Tags | None, argument: str = "tags") -> frozenset[str]:
    """The tags as a frozenset of plain str.

    Raises:
        TypeError: a bare str (its letters would become tags), another container, or a tag that is
            not a str.
    """
    if tags is None or tags is NO_TAGS:
        return NO_TAGS
    if isinstance(tags, str):
        raise TypeError(
            f"{argument} must be a set, list or tuple of str, not the str {tags!r}; write {{{tags!r}}}"
        )
    if not isinstance(tags, (AbstractSet, list, tuple)):
        raise TypeError(
            f"{argument} must be a set, list or tuple of str, not {tags!r} of type {type(tags).__name__}"
        )
    if not tags:
        return NO_TAGS
    if type(tags) is frozenset and all(type(tag) is str for tag in tags):
        return tags
    return frozenset(checked_key(tag, f"each of {argument}") for tag in tags)


def checked_pattern(pattern: str | re.Pattern[str]) -> re.Pattern[str]:
    """The regular expression, compiled.

    Raises:
        TypeError: it is neither a str nor a compiled pattern of str.
        ValueError: it is not a valid regular expression.
    """
    if not isinstance(getattr(pattern, "pattern", pattern), str):
        raise TypeError(
            f"pattern must be a regular expression as a str, not {pattern!r} of type {type(pattern).__name__}"
        )
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"pattern {pattern!r} is not a valid regular expression: {error}; "
            f"use re.escape() for text that is meant literally"
        ) from None


# Types whose values can be handed out again and again; one look here spares the closer one.
PLAIN_TYPES: Final = frozenset({str, bytes, int, float, bool, type(None), dict, list, tuple, set, frozenset})


def refuse_unstorable(value: object, source: str = "the value") -> None:
    """Refuse what can be used only once: whoever came second would find it empty.

    Raises:
        SerializationError: the value is an iterator, such as a generator or an open file, or something
            to be awaited.
        ValueError: it is MISSING.
    """
    kind = type(value)
    if value is MISSING:
        raise ValueError(f"{source} is MISSING, which stands for no value; store None, or delete the key")
    if isinstance(value, CoroutineType) or hasattr(kind, "__await__"):
        if isinstance(value, CoroutineType):
            value.close()  # dropped without this, it would warn that it was never awaited
        raise SerializationError(
            f"{source} is a {kind.__name__}, which can be awaited only once; await it, "
            f"and cache what it returns (cachekit.aio awaits loaders, and cache_result an async def)"
        )
    # A mock object has __anext__, and is a value like any other.
    if hasattr(kind, "__next__") or isinstance(value, AsyncGeneratorType):
        raise SerializationError(
            f"{source} is a {kind.__name__}, which can be read only once; "
            f"cache its contents instead, for example list(...)"
        )


# What a datetime can show, in seconds since the epoch.
_FIRST_MOMENT: Final = -62135596800.0
_LAST_MOMENT: Final = 253402300799.0


def _timestamp(moment: datetime | float | None, argument: str) -> float:
    if moment is None:
        return time.time()
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise ValueError(
                f"{argument} must be an aware datetime, not the naive {moment!r}; "
                f"use datetime.now(timezone.utc)"
            )
        return moment.timestamp()
    if isinstance(moment, bool) or not isinstance(moment, (int, float)):
        raise TypeError(
            f"{argument} must be an aware datetime, or seconds since the epoch, "
            f"not {moment!r} of type {type(moment).__name__}; leave it out for now"
        )
    if not _FIRST_MOMENT <= moment <= _LAST_MOMENT:  # NaN, too
        raise ValueError(
            f"{argument} must be a moment of the years 1 to 9999, not {moment!r} seconds since the epoch; "
            f"leave it out for now"
        )
    return float(moment)


@final
class CacheEntry:
    """A value with what a tier knows about it.

    Args:
        key: the key that it is stored under; storing it under another is a ValueError.
        value: anything, `None` included.
        created_at: an aware datetime, or seconds since the epoch; None is now.
        last_accessed: the same; None is `created_at`.
        access_count: how often the tier that it came from has served it.
        ttl: life in seconds from `created_at`, or a timedelta; `FOREVER` never ends; None leaves it to
            the default of the tier.
        tags: labels by which it can be invalidated together with others.
        size_bytes: its size in the tier that it came from; 0 where that tier does not measure.
        stale_ttl: seconds, or a timedelta, after its life in which loads may still fall back on it.

    Raises:
        TypeError: a key, TTL or tag of the wrong type.
        ValueError: a naive datetime, a TTL of NaN, or a negative `stale_ttl`.

    An entry that a tier hands out is a snapshot: changing it changes nothing in the tier.
    """

    __slots__ = (
        "_created",
        "_last",
        "access_count",
        "key",
        "size_bytes",
        "stale_ttl",
        "tags",
        "ttl",
        "value",
    )

    def __init__(
        self,
        key: str,
        value: Any,
        created_at: datetime | float | None = None,
        last_accessed: datetime | float | None = None,
        access_count: int = 0,
        ttl: TTL = None,
        tags: Tags | None = None,
        size_bytes: int = 0,
        stale_ttl: TTL = None,
    ) -> None:
        self.key = checked_key(key)
        self.value = value
        self._created = _timestamp(created_at, "created_at")
        self._last = self._created if last_accessed is None else _timestamp(last_accessed, "last_accessed")
        self.access_count = access_count
        self.ttl = None if ttl is None else seconds(ttl)
        self.tags = checked_tags(tags)
        self.size_bytes = size_bytes
        self.stale_ttl = 0.0 if stale_ttl is None else stale_seconds(stale_ttl)

    @classmethod
    def _made(
        cls,
        key: str,
        value: Any,
        created: float,
        ttl: float | None,
        tags: frozenset[str],
        size_bytes: int = 0,
        stale_ttl: float = 0.0,
    ) -> CacheEntry:
        """An entry of arguments that were checked before, by a tier: a third of the constructor's time."""
        self = cls.__new__(cls)
        self.key = key
        self.value = value
        self._created = self._last = created
        self.access_count = 0
        self.ttl = ttl
        self.tags = tags
        self.size_bytes = size_bytes
        self.stale_ttl = stale_ttl
        return self

    @property
    def created_at(self) -> datetime:
        """When the value was made, as an aware datetime."""
        return datetime.fromtimestamp(self._created, UTC)

    @property
    def last_accessed(self) -> datetime:
        """When the tier last served it, as an aware datetime."""
        return datetime.fromtimestamp(self._last, UTC)

    @property
    def created_timestamp(self) -> float:
        """When the value was made, in seconds since the epoch."""
        return self._created

    @property
    def expires_timestamp(self) -> float:
        """When its own TTL ends, in seconds since the epoch; infinity without one."""
        return math.inf if self.ttl is None else self._created + self.ttl

    @property
    def is_expired(self) -> bool:
        """Whether its own TTL is over by this machine's wall clock."""
        return time.time() >= self.expires_timestamp

    def touch(self) -> None:
        """Note an access: one more of them, now."""
        self.access_count += 1
        self._last = time.time()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CacheEntry):
            return NotImplemented
        return all(getattr(self, slot) == getattr(other, slot) for slot in self.__slots__)

    __hash__ = None  # type: ignore[assignment]  # entries are mutable

    def __repr__(self) -> str:
        # The value is left out: it may be large, or nobody's business in a log.
        return (
            f"CacheEntry(key={self.key!r}, value=<{type(self.value).__name__}>, "
            f"created_at={self.created_at.isoformat()!r}, ttl={self.ttl!r}, tags={set(self.tags) or '{}'}, "
            f"access_count={self.access_count})"
        )


@final
class CacheStats(Mapping[str, float]):
    """A frozen snapshot of what a tier, or a whole cache, has counted since it was made.

    Read `stats.hits` or `stats["hits"]`; `to_dict()` is ready for JSON. When each number moves:

    - hits: a lookup found a live entry; misses: it found none; unavailable: the tier could not answer.
      Every lookup is exactly one of the three. Looking without asking for the value (`contains`,
      `explain`, `keys`) is no lookup.
    - hit_rate: hits / (hits + misses + unavailable); 0 before the first lookup.
    - sets: an entry was stored, by whomever; a replaced one counts again, a refused write does not.
    - deletes: an entry was removed by `delete` or `delete_many`, or by a `set` that keeps nothing.
    - invalidations: an entry was removed by tag, by pattern or by `clear`.
    - evictions: removed for room. expirations: removed because its time was over; it counts when
      that is noticed, by a lookup or by the sweep.
    - promotions: a hit in a slower tier was copied into this one.
    - refusals: a value was not kept because its key was written or invalidated while it was loaded.
    - oversized: a value was not kept because it is too large for a tier that is bounded in bytes.
    - errors: the tier, or a listener of it, failed.
    - loads, load_failures, load_seconds: calls of loaders and of cached functions, those of them that raised,
      and how long all of them took, ended ones only; of a whole cache, and 0 for a tier, like the next two.
    - stale_served: a load gave the value that it found past its time.
    - lease_waits: a load had to wait for a lease or a slot (see `LoadOptions`).
    - size: entries held, expired ones that were not yet noticed included.
    - memory_usage_bytes: an estimate; each tier says of what. In a memory tier with `max_bytes` it is what
      counts towards that.
    - latency_p50, latency_p99: seconds that a hit took, from a sample of at most 100 a second; 0
      without one.
    - requests, request_hits, request_hit_rate: lookups as the caller saw them, each counted once,
      whichever tier answered; a tier's own are its lookups and hits.

    Counters move without a lock and are exact once the cache is quiet.
    """

    hits: int
    misses: int
    unavailable: int
    size: int
    memory_usage_bytes: int
    sets: int
    deletes: int
    invalidations: int
    evictions: int
    expirations: int
    promotions: int
    refusals: int
    oversized: int
    errors: int
    latency_p50: float
    latency_p99: float
    requests: int
    request_hits: int
    loads: int
    load_failures: int
    load_seconds: float
    stale_served: int
    lease_waits: int

    _STORED: Final = (
        "hits", "misses", "unavailable", "size", "memory_usage_bytes", "sets", "deletes",
        "invalidations", "evictions", "expirations", "promotions", "refusals", "oversized", "errors",
        "latency_p50", "latency_p99", "requests", "request_hits", "loads", "load_failures", "load_seconds",
        "stale_served", "lease_waits",
    )  # fmt: skip
    _DERIVED: Final = ("hit_rate", "request_hit_rate")
    __slots__ = _STORED

    def __init__(self, **numbers: float) -> None:
        for name in self._STORED:
            object.__setattr__(self, name, numbers.pop(name, 0))
        if numbers:
            raise TypeError(f"no such statistic: {sorted(numbers)}; there are {', '.join(self._STORED)}")

    @property
    def hit_rate(self) -> float:
        """The share of lookups that found a live entry, 0 to 1."""
        lookups = self.hits + self.misses + self.unavailable
        return self.hits / lookups if lookups else 0.0

    @property
    def request_hit_rate(self) -> float:
        """The share of requests that some tier answered, 0 to 1: what alerts should watch."""
        return self.request_hits / self.requests if self.requests else 0.0

    def to_dict(self) -> dict[str, float]:
        """All of it, the rates included, as a plain dict of numbers."""
        return {name: getattr(self, name) for name in self}

    def __getitem__(self, name: str) -> float:
        if name in self._STORED or name in self._DERIVED:
            number: float = getattr(self, name)
            return number
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        yield from self._STORED
        yield from self._DERIVED

    def __len__(self) -> int:
        return len(self._STORED) + len(self._DERIVED)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"CacheStats is a frozen snapshot; {name} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"CacheStats is a frozen snapshot; {name} cannot be deleted")

    def __reduce__(self) -> tuple[Any, ...]:
        return _stats_from_dict, ({name: getattr(self, name) for name in self._STORED},)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={self[name]!r}" for name in self if self[name])
        return f"CacheStats({shown})"


def _stats_from_dict(numbers: dict[str, float]) -> CacheStats:
    return CacheStats(**numbers)


class Explanation(NamedTuple):
    """What a cache knows about one key, as `IntelligentCache.explain` returns it."""

    key: str
    level: CacheLevel | None  #: the tier that would answer; None if no tier holds the key
    age: float | None  #: seconds since the value was made
    remaining: float | None  #: seconds that it has left; infinity if it does not expire
    tags: frozenset[str]
    access_count: int  #: how often that tier has served it

    def __str__(self) -> str:
        if self.level is None or self.age is None or self.remaining is None:
            return f"{self.key!r} is in no tier"
        life = "does not expire" if self.remaining == FOREVER else f"expires in {self.remaining:.1f} s"
        tags = ", ".join(sorted(self.tags)) or "none"
        return (
            f"{self.key!r} is in {self.level.name}: {self.age:.1f} s old, {life}, "
            f"tags: {tags}, served {self.access_count} times"
        )


class WarmReport(NamedTuple):
    """What `warm_cache` did with each of its keys, in the order of the call."""

    loaded: list[str]  #: loaded here, and stored
    fresh: list[str]  #: in some tier already, or loaded by somebody else meanwhile
    failed: dict[str, Exception]  #: the loader, or storing its value, raised this


class OptimizationReport(NamedTuple):
    """What `optimize_cache` did and measured, in all tiers."""

    expired_removed: int  #: entries whose time was over; a Redis removes its own by itself
    size: int  #: entries that are left
    memory_usage_bytes: int  #: what they take, about
    seconds: float  #: how long the round took
    advice: tuple[str, ...] = ()  #: what `health` finds, and what can be done about it
