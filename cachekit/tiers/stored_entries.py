"""Entries and the envelopes that tiers on servers hold of them, whatever the server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from cachekit.errors import SerializationError, UnreadableError
from cachekit.model.display import shown_tags
from cachekit.model.entry import CacheEntry, checked_entry
from cachekit.model.types import NO_TAGS
from cachekit.serialization.serializer import Serializer, Stored
from cachekit.tiers.fences import ServerTokens

#: Seconds; a longer life has no end on a server.
LONGEST_LIFE: Final = 100 * 365.25 * 24 * 3600


def entry_of(key: str, stored: Stored, tags: Iterable[str], size: int, now: float) -> CacheEntry:
    """Return the entry of an envelope that was opened.

    Args:
        key: its key.
        stored: the envelope.
        tags: those of its tags that the entry has.
        size: the bytes of the envelope.
        now: the time; one made by a clock that is ahead was made now.

    Raises:
        UnreadableError: the value cannot be read, or no cache wrote these times.
    """
    created = min(stored.created, now)
    ttl = difference(stored.expires, stored.created)
    if not (created >= 0 and ttl >= 0):  # NaN, too
        raise UnreadableError("the envelope has no valid times")
    return checked_entry(
        key, stored.value(), created, ttl, frozenset(tags) or NO_TAGS, size, stored.stale_ttl
    )


def prolonged(serializer: Serializer, key: str, stored: Stored, value: Any, expires: float) -> bytes | None:
    """Return an envelope with a new end; None if no cache has stored this value, because it could not."""
    try:
        return serializer.encode(
            key,
            value,
            created=stored.created,
            expires=expires,
            stale_until=expires + stored.stale_ttl,
            tags=stored.tags,
        )
    except SerializationError:
        return None


def missing_tokens(entry: CacheEntry, origin: ServerTokens) -> ValueError:
    """Return what to raise if the origin lacks tokens for tags of the entry."""
    return ValueError(
        f"origin must have tokens for all tags of the entry, not only for {shown_tags(origin.tags)}; "
        f"take it with {shown_tags(entry.tags - origin.tags.keys())} too"
    )


def difference(later: float, earlier: float) -> float:
    """Return the seconds between two times since the epoch, which are precise to microseconds."""
    seconds = later - earlier
    # As round(seconds, 6), which takes five times as long.
    return round(seconds * 1e6) / 1e6 if 0 < seconds < LONGEST_LIFE else seconds
