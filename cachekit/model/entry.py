"""`CacheEntry`: a value with its key, times and tags."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Final, final

from cachekit.model.display import safe_repr, shown_key, shown_tags, typed_repr
from cachekit.model.types import TTL, Tags
from cachekit.model.validation import checked_key, checked_tags, seconds, stale_seconds

#: The first and the last moment of a datetime, in seconds since the epoch.
FIRST_MOMENT: Final = -62135596800.0
_LAST_MOMENT: Final = 253402300799.0


def _timestamp(moment: datetime | float | None, argument: str) -> float:
    if moment is None:
        return time.time()
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise ValueError(
                f"{argument} must be an aware datetime, not the naive {safe_repr(moment)}; "
                f"use datetime.now(timezone.utc)"
            )
        return moment.timestamp()
    if isinstance(moment, bool) or not isinstance(moment, (int, float)):
        raise TypeError(
            f"{argument} must be an aware datetime, or seconds since the epoch, "
            f"not {typed_repr(moment)}; leave it out for now"
        )
    if not FIRST_MOMENT <= moment <= _LAST_MOMENT:  # NaN, too
        raise ValueError(
            f"{argument} must be a moment of the years 1 to 9999, not {moment!r} seconds since the epoch; "
            f"leave it out for now"
        )
    return float(moment)


@final
class CacheEntry:
    """A value with its metadata.

    Args:
        key: The key of the entry. A tier raises ValueError when it is to store the entry under another key.
        value: Any object, `None` included.
        created_at: An aware datetime, or seconds since the epoch; None means now.
        last_accessed: An aware datetime, or seconds since the epoch; None means `created_at`.
        access_count: How often the tier that returned the entry has served it.
        ttl: The life from `created_at`, in seconds or as a timedelta. `FOREVER` never ends. None means the
            default of the tier.
        tags: Labels by which the entry can be invalidated together with others.
        size_bytes: Its size in the tier that returned it; 0 if that tier does not measure.
        stale_ttl: Seconds, or a timedelta, after the end of its life in which loads may still use the
            stale value.

    Raises:
        TypeError: a key, TTL, time or tag of the wrong type.
        ValueError: a naive datetime, a time outside the years 1 to 9999, a TTL of NaN, or a negative
            `stale_ttl`.

    An entry that a tier returns is a snapshot. Changing it does not change the tier.
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

    #: When the value was made, in seconds since the epoch. Every store reads it, so it costs no Python call.
    created_timestamp: float = property(attrgetter("_created"))  # type: ignore[assignment]

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

    @property
    def created_at(self) -> datetime:
        """Return when the value was created, as an aware datetime."""
        return datetime.fromtimestamp(self._created, UTC)

    @property
    def last_accessed(self) -> datetime:
        """Return when the tier last served the entry, as an aware datetime."""
        return datetime.fromtimestamp(self._last, UTC)

    @property
    def expires_timestamp(self) -> float:
        """Return when the entry's own TTL ends, in seconds since the epoch; infinity without a TTL."""
        return math.inf if self.ttl is None else self._created + self.ttl

    @property
    def is_expired(self) -> bool:
        """Return whether the entry's own TTL has ended, by the wall clock of this machine."""
        return time.time() >= self.expires_timestamp

    def touch(self) -> None:
        """Record an access now: increment `access_count` and set `last_accessed`."""
        self.access_count += 1
        self._last = time.time()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CacheEntry):
            return NotImplemented
        return all(getattr(self, slot) == getattr(other, slot) for slot in self.__slots__)

    __hash__ = None  # type: ignore[assignment]  # entries are mutable

    def __repr__(self) -> str:
        # The value is left out: it may be large or confidential.
        return (
            f"CacheEntry(key={shown_key(self.key)}, value=<{type(self.value).__name__}>, "
            f"created_at={self.created_at.isoformat()!r}, ttl={self.ttl!r}, {shown_tags(self.tags)}, "
            f"access_count={self.access_count})"
        )


def checked_entry(
    key: str,
    value: Any,
    created: float,
    ttl: float | None,
    tags: frozenset[str],
    size_bytes: int = 0,
    stale_ttl: float = 0.0,
) -> CacheEntry:
    """Return an entry of arguments that were checked before, in a third of the constructor's time."""
    entry = CacheEntry.__new__(CacheEntry)
    entry.key = key
    entry.value = value
    entry._created = entry._last = created
    entry.access_count = 0
    entry.ttl = ttl
    entry.tags = tags
    entry.size_bytes = size_bytes
    entry.stale_ttl = stale_ttl
    return entry
