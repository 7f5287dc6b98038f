"""Entries as the payloads of records, and back.

It promises that a copy lives no longer than its original and the tier's own limit, whatever the clocks of
those who wrote it said, and that bytes which cannot be read are no entry. The engine keeps the record
and its expiry; the envelope says when the value was made, and what its tags are called.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any, NamedTuple, final

from cachekit.errors import UnreadableError
from cachekit.model.entry import CacheEntry, checked_entry
from cachekit.model.types import MISSING, NO_TAGS, Missing
from cachekit.runtime.clock import Clock
from cachekit.serialization import Serializer
from cachekit.tiers.fences import ServerTokens
from cachekit.tiers.file.engine.format import Record

_NO_TOKENS: Mapping[str, int] = {}
_PRECISION = 6  # digits of a TTL: those that a difference of two moments still has


class EncodedEntry(NamedTuple):
    """An entry, ready for the engine."""

    payload: bytes
    expiry: float  #: seconds since the epoch
    rt: int  #: the origin's token, 0 without one


@final
class EntryCodec:
    """Packs and unpacks for one tier. Safe in any thread.

    Args:
        serializer: for the values.
        longest: seconds that any copy lives at the most.
        clock: whose wall clock the times are compared with.
    """

    __slots__ = ("_decode", "_encode", "_longest", "_time")

    def __init__(self, serializer: Serializer, longest: float, clock: Clock) -> None:
        self._encode = serializer.encode
        self._decode = serializer.decode
        self._longest = longest
        self._time = clock.time

    def pack(self, entry: CacheEntry, origin: ServerTokens | None) -> EncodedEntry | None:
        """The entry's record, or None if its time is over.

        Raises:
            SerializationError: the value would not come back as it is.
        """
        ttl = inf if entry.ttl is None else entry.ttl
        return self.pack_value(
            entry.key, entry.value, entry.created_timestamp, ttl, entry.tags, origin, entry.stale_ttl
        )

    def pack_value(
        self,
        key: str,
        value: Any,
        created: float | None,
        ttl: float,
        tags: frozenset[str] = NO_TAGS,
        origin: ServerTokens | None = None,
        stale_ttl: float = 0.0,
    ) -> EncodedEntry | None:
        """A value made at `created` (None and the future are now) as its record; None if its time is over.

        Raises:
            SerializationError: the value would not come back as it is.
        """
        now = self._time()
        if created is None or created > now:
            created = now
        expiry = min(created + ttl, now + self._longest)
        if expiry <= now:
            return None
        tokens = _NO_TOKENS
        if tags:
            tokens = {tag: 0 if origin is None else origin.tags.get(tag, 0) for tag in tags}
        payload = self._encode(
            key, value, created=created, expires=expiry, stale_until=expiry + stale_ttl, tags=tokens
        )
        return EncodedEntry(payload, expiry, 0 if origin is None else origin.token)

    def value(self, key: str, record: Record) -> Any | Missing:
        """The value in a record; MISSING if its time ended this moment.

        Raises:
            UnreadableError: it is damaged, of another codec or signature, or holds what may not be read.
        """
        stored = self._decode(key, record.payload)
        return stored.value() if stored.expires > self._time() else MISSING

    def entry(self, key: str, record: Record) -> tuple[CacheEntry, ServerTokens | None] | None:
        """The entry in a record, and the origin that it was stored with; None if its time ended this moment.

        Raises:
            UnreadableError: as `value` does.
        """
        stored = self._decode(key, record.payload)
        now = self._time()
        if stored.expires <= now:
            return None
        if stored.created == -inf or len(stored.tags) != len(record.tags):
            raise UnreadableError("the envelope does not go with its record", "damage")
        ttl = None if stored.expires == inf else round(stored.expires - stored.created, _PRECISION)
        # The clock may have been set back since: a life is not longer for that.
        created = min(now, stored.created)
        tags = frozenset(stored.tags) if stored.tags else NO_TAGS
        entry = checked_entry(key, stored.value(), created, ttl, tags, len(record.payload), stored.stale_ttl)
        return entry, ServerTokens(record.rt, stored.tags) if record.rt else None
