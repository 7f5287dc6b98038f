"""Turns entries into the payloads of records, and back.

A copy lives no longer than its original and the tier's own limit, whatever the clocks of its writers said.
Bytes that cannot be read are no entry. The engine keeps the record, its tags' tokens and its expiry. The
envelope keeps when the value was made, and the names of its tags.
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
_PRECISION = 6  # digits of a TTL that the difference of two times still has


class EncodedEntry(NamedTuple):
    """An entry, ready for the engine."""

    payload: bytes
    expiry: float  #: seconds since the epoch
    server_token: int  #: the origin's token, 0 without an origin


@final
class EntryCodec:
    """Encodes and decodes for one tier. Safe in any thread.

    Args:
        serializer: for the values.
        longest: Seconds that any copy lives at most.
        clock: the wall clock that times are compared with.
    """

    __slots__ = ("_decode", "_encode", "_longest", "_time")

    def __init__(self, serializer: Serializer, longest: float, clock: Clock) -> None:
        self._encode = serializer.encode
        self._decode = serializer.decode
        self._longest = longest
        self._time = clock.time

    def encode(self, entry: CacheEntry, origin: ServerTokens | None) -> EncodedEntry | None:
        """Return the entry as bytes, or None if it is expired. One from the future counts as made now.

        Raises:
            SerializationError: the value would not come back as it is.
        """
        now = self._time()
        created, ttl, tags = entry.created_timestamp, entry.ttl, entry.tags
        if created > now:
            created = now
        expiry = now + self._longest
        if ttl is not None and created + ttl < expiry:
            expiry = created + ttl
        if expiry <= now:
            return None
        tokens = _NO_TOKENS
        if tags:
            tokens = {tag: 0 if origin is None else origin.tags.get(tag, 0) for tag in tags}
        payload = self._encode(
            entry.key,
            entry.value,
            created=created,
            expires=expiry,
            stale_until=expiry + entry.stale_ttl,
            tags=tokens,
        )
        return EncodedEntry(payload, expiry, 0 if origin is None else origin.token)

    def value(self, key: str, record: Record) -> Any | Missing:
        """Return the value in a record; MISSING if it has just expired.

        Raises:
            UnreadableError: the payload is damaged, has another codec or signature, or may not be read.
        """
        stored = self._decode(key, record.payload)
        return stored.value() if stored.expires > self._time() else MISSING

    def entry(self, key: str, record: Record) -> tuple[CacheEntry, ServerTokens | None] | None:
        """Return the entry in a record, and its origin; None if it has just expired.

        Raises:
            UnreadableError: as for `value`.
        """
        stored = self._decode(key, record.payload)
        now, expires, tokens = self._time(), stored.expires, stored.tags
        if expires <= now:
            return None
        if stored.created == -inf or len(tokens) != len(record.tags):
            raise UnreadableError("the envelope does not go with its record", "damage")
        ttl = None if expires == inf else round(expires - stored.created, _PRECISION)
        # If the clock was set back since then, the life must not become longer.
        created = min(now, stored.created)
        tags = frozenset(tokens) if tokens else NO_TAGS
        stale_ttl = 0.0 if stored.stale_until <= expires else stored.stale_ttl
        entry = checked_entry(key, stored.value(), created, ttl, tags, len(record.payload), stale_ttl)
        return entry, ServerTokens(record.server_token, tokens) if record.server_token else None
