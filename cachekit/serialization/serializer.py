"""The one object of this package that a tier uses: values into envelopes and back.

This module promises that `decode` and `Stored.value` raise nothing but `UnreadableError`, whatever
the bytes, that nothing of a signed envelope is interpreted before its signature has been verified,
and that a value comes back as it went in or is refused by `encode`. Whether a place is trusted,
what the time is and whether a tag's token is current, its tier knows.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias, final

from cachekit.errors import UnreadableError
from cachekit.model.display import safe_repr
from cachekit.model.validation import checked_key
from cachekit.runtime.interrupts import is_no_fault_of_value
from cachekit.serialization import compression as compressing
from cachekit.serialization import envelope
from cachekit.serialization.checksum import crc32
from cachekit.serialization.codec import Codec, Packer, unpack_value
from cachekit.serialization.envelope import CHECKED, CHECKED_HEADER, pack_length, unpack_checked
from cachekit.serialization.parts import LARGE, UNBOUNDED, Parts, Payload, pieces_of
from cachekit.serialization.pickle_allowlist import classes
from cachekit.serialization.pickle_codec import PickleCodec
from cachekit.serialization.signing import Secret, Signer

CodecName: TypeAlias = Literal["pickle", "json", "msgpack"]

# Loaded on first use: most caches need neither.
_CODECS: Final = {
    "json": ("cachekit.serialization.json_codec", "JsonCodec"),
    "msgpack": ("cachekit.serialization.msgpack_codec", "MsgpackCodec"),
}


def codec_for(codec: CodecName | Codec, allow: Iterable[Any], trusted: bool) -> Codec:
    """Return the codec of that name, or the given one."""
    if codec == "pickle":
        return PickleCodec(allow, trusted=trusted)
    if allow:
        raise ValueError("allow is for codec='pickle' only: other codecs unpickle no classes; leave it out")
    if isinstance(codec, str):
        if codec not in _CODECS:
            raise ValueError(f"codec must be 'pickle', 'json', 'msgpack' or a Codec, not {safe_repr(codec)}")
        module, name = _CODECS[codec]
        made: Codec = getattr(importlib.import_module(module), name)()
        return made
    code = getattr(codec, "code", None)
    if type(code) is not int or not 0 < code < 256:
        raise TypeError(
            f"codec must be 'pickle', 'json', 'msgpack' or an object with name, code (128 to 255), "
            f"encode and decode, not {safe_repr(codec)}"
        )
    return codec


def _name(key: str) -> bytes:
    """The key as the seal covers it."""
    if type(key) is not str:
        key = checked_key(key)
    name = key.encode("utf-8", "surrogatepass")
    return pack_length(len(name)) + name


@final
class Stored:
    """An envelope that has been opened: its header is read, its payload not yet.

    Times are seconds since the epoch, infinity for never; `tags` gives the token of each tag.
    """

    __slots__ = (
        "_codec", "_compression", "_payload", "_sum", "created", "expires", "stale_until", "tags",
    )  # fmt: skip

    def __init__(self, header: envelope.Header, payload: memoryview, codec: Codec, verified: bool) -> None:
        _, self._compression, created, expires, stale_until, checksum, tags, _ = header
        #: When the value was made.
        self.created = created
        #: From when on the value is no longer fresh.
        self.expires = expires
        #: From when on the value is not even served stale; at least `expires` if it ever was.
        self.stale_until = stale_until
        #: The tags, each with the token that it had when the value was stored.
        self.tags = tags
        self._payload = payload
        self._codec = codec
        self._sum = None if verified else checksum

    @property
    def stale_ttl(self) -> float:
        """Seconds between `expires` and `stale_until`; 0 for a value that does not expire."""
        expires, stale_until = self.expires, self.stale_until
        return 0.0 if stale_until <= expires or expires == math.inf else round(stale_until - expires, 6)

    def value(self) -> Any:
        """The value; every call decodes it again.

        Raises:
            UnreadableError: the payload is damaged, or its codec refuses it.
        """
        payload = self._payload
        if self._sum is not None and crc32(payload) != self._sum:
            raise UnreadableError("the payload does not match its checksum", "damage")
        return unpack_value(self._codec, self._compression, payload)

    def __repr__(self) -> str:
        return (
            f"Stored(created={self.created!r}, expires={self.expires!r}, "
            f"stale_until={self.stale_until!r}, tags={sorted(self.tags)!r})"
        )


@final
class Serializer:
    """Values into envelopes and back, for one tier. Safe to share between threads.

    Args:
        namespace: what these envelopes belong to, such as a key prefix; under another they do not
            verify.
        codec: "pickle", "json", "msgpack" (needs the extra), or a `Codec` of your own.
        compression: "zlib", "zstd" (needs the extra), or None; for payloads of 2 KiB to 64 MiB.
        secret: sign with it, and read nothing that is not signed with it; at least 16 bytes. A list
            signs with the first and reads with any: put the new one in front to rotate.
        allow: classes that an unsigned pickle from an untrusted place may contain, besides the
            standard value types.
        trusted: the tier has made sure that no other user can write where these bytes come from, so
            that pickles are read without looking at what they do. A secret does that by itself.

    Raises:
        TypeError, ValueError: an argument is not one of these.
        ModuleNotFoundError: an extra is not installed; the message names it.

    A serializer pickles, unless it has a secret: then pickling it is a TypeError.
    """

    __slots__ = ("_arguments", "_base", "_code", "_codec", "_decode", "_pack", "_signer")

    def __init__(
        self,
        namespace: str,
        *,
        codec: CodecName | Codec = "pickle",
        compression: compressing.Compression = "zlib",
        secret: Secret | None = None,
        allow: Iterable[Any] = (),
        trusted: bool = False,
    ) -> None:
        prefix = envelope.sized(checked_key(namespace, "namespace").encode("utf-8", "surrogatepass"))
        allow = classes(allow)
        self._codec = codec_for(codec, allow, trusted or secret is not None)
        self._code = self._codec.code
        self._decode = self._codec.decode
        self._pack = Packer(self._codec, compressing.Compressor(compression)).pack
        self._base = crc32(CHECKED + prefix)
        self._signer = None if secret is None else Signer(secret, envelope.SIGNED + prefix)
        # Not the secret: it is kept nowhere.
        self._arguments = (namespace, codec, compression, allow, trusted)

    def encode(
        self,
        key: str,
        value: Any,
        *,
        created: float,
        expires: float = math.inf,
        stale_until: float | None = None,
        tags: Mapping[str, int] | None = None,
    ) -> bytes:
        """Return what `encode_in_parts` does, in one piece."""
        stale = expires if stale_until is None else stale_until
        parts = self.encode_in_parts(
            key, value, created=created, expires=expires, stale_until=stale, tags=tags or {}
        )
        return b"".join(pieces_of(parts))

    def encode_in_parts(
        self,
        key: str,
        value: Any,
        *,
        created: float,
        expires: float,
        stale_until: float,
        tags: Mapping[str, int],
        most: int = UNBOUNDED,
    ) -> Payload:
        """The value and its header as an envelope, readable under the same key and namespace only.

        A large one is in parts.

        Args:
            key: the key that it will be stored under.
            value: anything that the codec carries.
            created: when it was made, in seconds since the epoch, as are the other times.
            expires: when its life ends; infinity is never.
            stale_until: until when it may be served stale; `expires` if it never is.
            tags: each of its tags with the tag's current token, 0 to 2**64 - 1.
            most: bytes that the value may have in the envelope. A value that is known to have more is
                refused before it is built whole.

        Raises:
            SerializationError: the value would not come back as it is; the message names its type
                and the remedy.
            ValueTooLargeError: it has more than `most` bytes.
            TypeError, ValueError: another argument is of the wrong type, or a time is NaN.
        """
        name = _name(key)
        if created != created or expires != expires or stale_until != stale_until:
            raise ValueError(
                f"created, expires and stale_until must be seconds, not NaN: "
                f"{created!r}, {expires!r}, {stale_until!r}"
            )
        packed_tags = envelope.pack_tags(tags) if tags else b""
        signer = self._signer
        how, payload = self._pack(value, most)
        if type(payload) is not bytes or len(payload) > LARGE:
            return self._large(
                name, (how, len(packed_tags), created, expires, stale_until), packed_tags, payload
            )
        checksum = 0 if signer is not None else crc32(payload)
        header = envelope.pack_fixed(
            self._code, how, len(packed_tags), created, expires, stale_until, checksum
        )
        if signer is not None:
            seal = signer.sign(name, header, packed_tags, payload)
            return b"".join((envelope.SIGNED, seal, header, packed_tags, payload))
        seal = envelope.CHECKSUM.pack(crc32(name + header + packed_tags, self._base))
        return b"".join((CHECKED, seal, header, packed_tags, payload))

    def _large(self, name: bytes, said: tuple[Any, ...], tags: bytes, payload: Payload) -> Parts:
        """Return the envelope of a large payload in parts."""
        pieces, signer, checksum = pieces_of(payload), self._signer, 0
        if signer is None:
            for piece in pieces:
                checksum = crc32(piece, checksum)
        header = envelope.pack_fixed(self._code, *said, checksum)
        if signer is not None:
            start = envelope.SIGNED + signer.sign(name, header, tags, *pieces)
        else:
            start = CHECKED + envelope.CHECKSUM.pack(crc32(name + header + tags, self._base))
        return Parts((start + header + tags, *pieces))

    def decode(self, key: str, buffer: bytes | bytearray | memoryview) -> Stored:
        """Open an envelope: check its seal, read its header, leave the payload to `Stored.value`.

        Without a secret only the header has been read and checked when this returns. With one the
        whole envelope has been verified.

        Args:
            key: the key that it was found under.
            buffer: the envelope, to its end. `bytes` are used as they are; anything else is copied
                first, because it might change between the check and the use.

        Raises:
            UnreadableError: damage, another version or codec, a signature that does not verify.
            TypeError: the key is not a str.
        """
        data = buffer if type(buffer) is bytes else bytes(buffer)
        name = _name(key)
        begin, view = data[: envelope.START_SIZE], memoryview(data)
        if self._signer is None:
            if begin != CHECKED:
                raise self._unknown(begin)
            start = envelope.START_SIZE + envelope.CHECKSUM_SIZE
            header = envelope.parse_header(data, start)
            end = start + header.size
            (seal,) = envelope.CHECKSUM.unpack_from(data, envelope.START_SIZE)
            if crc32(view[start:end], crc32(name, self._base)) != seal:
                raise UnreadableError("the header does not match its checksum", "damage")
        else:
            if begin != envelope.SIGNED:
                raise self._unknown(begin)
            start = envelope.START_SIZE + envelope.SIGNATURE_SIZE
            self._signer.verify(view[envelope.START_SIZE : start], name, view[start:])
            header = envelope.parse_header(data, start)
            end = start + header.size
        if header.codec != self._code:
            raise UnreadableError(
                f"written with codec {header.codec}, not with {self._codec.name!r}", "codec"
            )
        return Stored(header, view[end:], self._codec, self._signer is not None)

    def read_many(
        self,
        found: Iterable[tuple[str, Any]],
        now: float,
        values: dict[str, Any],
        times: dict[str, tuple[float, float, float, int]] | None = None,
    ) -> dict[str, Any]:
        """Read frequent envelopes: unsigned, uncompressed, without tags, live and undamaged.

        This is the short way, with one look at each header.

        Args:
            found: keys, and what was found under them: an envelope to its end, anything else, or None.
            now: seconds since the epoch.
            values: takes the values.
            times: takes of each when it was made, its `expires` and `stale_until`, and the bytes of its
                envelope; None if that is not needed.

        Returns:
            What else was found but None, by key. `decode` says what it is.
        """
        others: dict[str, Any] = {}
        base, code, decode, is_unsigned = self._base, self._code, self._decode, self._signer is None
        payload_at = CHECKED_HEADER.stop
        for key, data in found:
            if data is None:
                continue
            try:
                begin, seal, codec, how, tags, created, expires, stale, checksum = unpack_checked(data)
                name = key.encode()
                if (
                    begin == CHECKED
                    and codec == code
                    and not (how or tags)
                    and 0 <= created < expires <= stale  # NaN is no such number
                    and now < expires
                    and is_unsigned
                    and crc32(pack_length(len(name)) + name + data[CHECKED_HEADER], base) == seal
                ):
                    payload = data[payload_at:]
                    if crc32(payload) == checksum:
                        values[key] = decode(payload)
                        if times is not None:
                            times[key] = created, expires, stale, len(data)
                        continue
            except Exception as error:
                if is_no_fault_of_value(error):
                    raise
            others[key] = data
        return others

    def _unknown(self, begin: bytes) -> UnreadableError:
        if begin == CHECKED:
            return UnreadableError("not signed, though this cache has a secret", "signature")
        if begin == envelope.SIGNED:
            return UnreadableError("signed, and this cache has no secret", "signature")
        if len(begin) < envelope.START_SIZE or begin[:2] != envelope.MAGIC:
            return UnreadableError("not an envelope", "damage")
        return UnreadableError(
            f"an envelope of version {begin[2]} with flags {begin[3]:#04x}, unknown here", "version"
        )

    def __repr__(self) -> str:
        namespace, _, compression, _, trusted = self._arguments
        return (
            f"Serializer({namespace!r}, codec={self._codec.name!r}, compression={compression!r}, "
            f"secret={'...' if self._signer else None}, trusted={trusted})"
        )

    def __reduce__(self) -> Any:
        if self._signer is not None:
            return self._signer.__reduce__()
        return _serializer, self._arguments


def _serializer(
    namespace: str,
    codec: CodecName | Codec,
    compression: compressing.Compression,
    allow: tuple[Any, ...],
    trusted: bool,
) -> Serializer:
    return Serializer(namespace, codec=codec, compression=compression, allow=allow, trusted=trusted)
