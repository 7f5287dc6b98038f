"""Turns entries into the fields of records, and back.

A copy lives no longer than its original and the tier's own limit, whatever the clocks of its writers said.
Bytes that cannot be read are no entry. `engine.format` describes the record. This module gives the flags, the
names of the tags and the payload their meaning:

    flags      number of the codec | number of the compression << 8 | SIGNED
    names      of each tag: its token on the server, or 0; the length of its name; the name in UTF-8
    payload    the table of its classes, if the compression's number has `WITH_CLASSES`; what the codec
               returned, compressed; with a secret, then the signature

The engine's checksum covers all of a record, and so does a signature. With a secret, nothing of the payload
is read before the signature was verified.
"""

from __future__ import annotations

import pickle
from collections.abc import Collection
from math import inf
from struct import Struct
from struct import error as StructError  # noqa: N812  # it is an exception, whatever struct calls it
from typing import Any, Final, final

from cachekit.errors import UnreadableError
from cachekit.model.entry import FIRST_MOMENT, CacheEntry, checked_entry
from cachekit.model.types import NO_TAGS
from cachekit.serialization.codec import Codec, Packer, unpack_value
from cachekit.serialization.compression import THRESHOLD, Compressor
from cachekit.serialization.parts import UNBOUNDED, Payload
from cachekit.serialization.pickle_codec import PickleCodec
from cachekit.serialization.signing import Signer
from cachekit.tiers.fences import ServerTokens
from cachekit.tiers.file.engine.format import SIGNATURE_SIZE, Record

_PRECISION: Final = 6  # digits of a TTL that the difference of two times still has
_SIGNED: Final = 1 << 15
_COMPRESSION_SHIFT: Final = 8
#: Token on the server, and length of the name.
_NAME: Final = Struct("<QI")


@final
class RecordCodec:
    """Encodes and decodes for one tier. Safe in any thread.

    Args:
        codec: for the values.
        compressor: for what the codec returns.
        signer: signs records; None if there is no secret.
    """

    __slots__ = ("_codec", "_flags", "_packer", "_verify", "loads", "plain", "sign")

    def __init__(self, codec: Codec, compressor: Compressor, signer: Signer | None) -> None:
        self._codec = codec
        self._packer = Packer(codec, compressor)
        self._verify = None if signer is None else signer.verify
        #: Returns the signature of the parts of a record; None without a secret.
        self.sign = None if signer is None else signer.sign
        self._flags = codec.code | (0 if signer is None else _SIGNED)
        #: The flags of records whose payload is what a pickle codec returned; -1 if there are none.
        self.plain = codec.code if signer is None and type(codec) is PickleCodec else -1
        #: Returns the value in such a payload. If it raises anything, `value` says what that means.
        self.loads = pickle.loads if isinstance(codec, PickleCodec) and codec.trusted else codec.decode

    def encode(self, value: Any, most: int = UNBOUNDED) -> tuple[int, Payload]:
        """Return the flags and the payload for a value.

        Raises:
            SerializationError: the value would not come back as it is.
            ValueTooLargeError: it is known to take more than `most` bytes.
        """
        packer = self._packer
        least = packer.least
        payload, table = packer.encode(value, most if most > least else least)  # noqa: FURB136  # a call costs more
        if len(payload) < THRESHOLD and not table:  # stored as it is, like most values
            return self._flags, payload
        compression, payload = packer.compress(value, payload, table)
        return self._flags | compression << _COMPRESSION_SHIFT, payload

    def value(self, record: Record) -> Any:
        """Return the value in a record.

        Raises:
            UnreadableError: it has another codec or signature, or may not be read.
        """
        content, _, start, end, flags, *_ = record
        payload = memoryview(content)[start:end]
        if bool(flags & _SIGNED) != (self._verify is not None):
            which = "not signed, though" if self._verify else "signed, and"
            has = "has a" if self._verify else "has no"
            raise UnreadableError(f"{which} this cache {has} secret", "signature")
        if self._verify is not None:
            payload, seal = payload[:-SIGNATURE_SIZE], payload[-SIGNATURE_SIZE:]
            self._verify(seal, memoryview(content)[4 : end - SIGNATURE_SIZE])
        if flags & 0xFF != self._codec.code:
            raise UnreadableError(
                f"written with codec {flags & 0xFF}, not with {self._codec.name!r}", "codec"
            )
        compression = (flags & ~_SIGNED) >> _COMPRESSION_SHIFT
        return unpack_value(self._codec, compression, payload)

    def entry(self, key: str, record: Record, now: float) -> tuple[CacheEntry, ServerTokens | None]:
        """Return the entry in a record, and its origin.

        Raises:
            UnreadableError: as for `value`.
        """
        value = self.value(record)
        content, names_at, start, end, _, created, expiry, stale_until, server_token, tag_tokens = record
        # Other users may have written it, if they may write in the directory. The engine finds live records
        # only, so it has an expiry. Its creation may lie before any datetime.
        if not created >= FIRST_MOMENT:
            raise UnreadableError("a time of the record is none", "damage")
        ttl = None if expiry == inf else round(expiry - created, _PRECISION)
        stale_ttl = round(stale_until - expiry, _PRECISION) if expiry < stale_until < inf else 0.0
        names = parse_names(content[names_at:start]) if names_at != start else {}
        if len(names) != len(tag_tokens):
            raise UnreadableError("the names of the tags do not go with their tokens", "damage")
        entry = checked_entry(
            key,
            value,
            # If the clock was set back since then, the life must not become longer.
            min(now, created),
            ttl,
            frozenset(names) if names else NO_TAGS,
            end - start,
            stale_ttl,
        )
        return entry, ServerTokens(server_token, names) if server_token else None


def pack_names(tags: Collection[str], origin: ServerTokens | None) -> bytes:
    """Return the names of tags, with the tokens that the server had for them, as records keep them."""
    parts = []
    for tag in tags:
        name = tag.encode("utf-8", "surrogatepass")
        parts.append(_NAME.pack(0 if origin is None else origin.tags.get(tag, 0), len(name)))
        parts.append(name)
    return b"".join(parts)


def parse_names(packed: bytes) -> dict[str, int]:
    """Return the tags, each with its token on the server.

    Raises:
        UnreadableError: these are not bytes that `pack_names` returns.
    """
    names: dict[str, int] = {}
    at = 0
    try:
        while at < len(packed):
            token, length = _NAME.unpack_from(packed, at)
            at += _NAME.size
            if length > len(packed) - at:
                raise UnreadableError("the name of a tag is cut", "damage")
            names[packed[at : at + length].decode("utf-8", "surrogatepass")] = token
            at += length
    except (StructError, UnicodeDecodeError) as error:
        raise UnreadableError("the names of the tags are damaged", "damage") from error
    return names
