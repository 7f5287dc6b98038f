"""The nouns of cachekit: entries, levels, strategies, causes of removal, snapshots of statistics.

Plain values without behaviour of their own beyond checking what they are given; every other room may
import them, and they import only the errors. Times are floats of seconds inside (`time.time()`, the
wall clock) and aware datetimes where a person looks.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Set as AbstractSet
from datetime import timedelta
from typing import Final, Literal, TypeAlias

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
