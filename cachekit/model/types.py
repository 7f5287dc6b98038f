"""The types that the whole package shares: TTLs, tags, cache levels, strategies and removal causes.

They have no behaviour beyond checking their arguments and import only the errors. Times are floats of
seconds since the epoch inside the package, and aware datetimes in the public API.
"""

from __future__ import annotations

import enum
from collections.abc import Set as AbstractSet

TYPE_CHECKING = False  # as in cachekit/__init__.py: the first decorated function loads this module
if TYPE_CHECKING:
    from datetime import timedelta
    from typing import Final, Literal, TypeAlias

    #: A time to live: seconds, or a timedelta. `None` means the default of the cache or tier that is called.
    TTL: TypeAlias = float | timedelta | None

#: A TTL that never ends. The entry stays until it is evicted or invalidated.
FOREVER: Final = float("inf")

#: Tags as a caller may write them.
Tags: TypeAlias = AbstractSet[str] | list[str] | tuple[str, ...]

NO_TAGS: Final[frozenset[str]] = frozenset()

#: What the implicit tag of a cached function's results begins with; its identity follows.
FUNCTION_TAG: Final = "cachekit.function:"

#: Types whose values hold nothing else.
SCALARS: Final = frozenset({str, bytes, int, float, bool, type(None), complex, bytearray})


class _Missing(enum.Enum):
    """The class of `MISSING`, the result of a lookup that found no entry. It is false."""

    MISSING = "MISSING"

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> Literal[False]:
        return False


#: The result of a lookup that found no entry. `None` is a value like any other.
MISSING: Final = _Missing.MISSING
if TYPE_CHECKING:
    Missing: TypeAlias = Literal[_Missing.MISSING]


class CacheLevel(enum.Flag):
    """The tiers that an operation uses. Members combine, as in `MEMORY | FILE`."""

    MEMORY = 1
    REDIS = 2
    FILE = 4
    ALL = MEMORY | REDIS | FILE


#: The bits of `CacheLevel` as ints: the operators of an enum cost more than a lookup in memory.
MEMORY: Final = CacheLevel.MEMORY.value
REDIS: Final = CacheLevel.REDIS.value
FILE: Final = CacheLevel.FILE.value
ALL: Final = CacheLevel.ALL.value

#: The index of the shared word that changes with every write and every invalidation, before others see it.
#: While it is unchanged, all fences that were current are current: a hit compares only this word.
CHANGES: Final = 3


class CacheStrategy(enum.Enum):
    """Which entry a full memory tier evicts; docs/eviction.md says which to choose."""

    LRU = "lru"  #: the least recently read or written entry
    FIFO = "fifo"  #: the oldest entry
    LFU = "lfu"  #: the entry with the fewest reads since it was stored
    TTL = "ttl"  #: the entry that expires first
    SIEVE = "sieve"  #: an entry without a recent read, found by a hand that moves from old to new
    S3_FIFO = "s3-fifo"  #: an entry that was not read while on probation, or not read recently
    W_TINYLFU = "w-tinylfu"  #: an entry that was read less often recently than the incoming entry
    ADAPTIVE = "adaptive"  #: what the shape of S3-FIFO or W-TinyLFU that serves most requests would evict
    COST_AWARE = "cost-aware"  #: the entry whose next load would take the least time for its size


class RemovalCause(enum.Enum):
    """Why an entry left the memory tier; removal listeners receive it."""

    EVICTED = "evicted"  #: evicted to make room for another entry
    EXPIRED = "expired"  #: its time to live ended
    INVALIDATED = "invalidated"  #: removed by delete, clear, tag or pattern
    REPLACED = "replaced"  #: another value was stored under its key


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        # The two aliases that need `datetime` and `typing`, for modules that name them.
        if name == "TTL":
            from datetime import timedelta

            return float | timedelta | None
        if name == "Missing":
            from typing import Literal

            return Literal[_Missing.MISSING]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
