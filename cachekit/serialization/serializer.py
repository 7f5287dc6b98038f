"""The one object of this package that a tier uses: values into envelopes and back.

This module promises that `decode` and `Stored.value` raise nothing but `UnreadableError`, whatever
the bytes, that nothing of a signed envelope is interpreted before its signature has been verified,
and that a value comes back as it went in or is refused by `encode`. Whether a place is trusted,
what the time is and whether a tag's token is current, its tier knows.
"""

from __future__ import annotations

import importlib
import math
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias, final

from cachekit.errors import UnreadableError
from cachekit.model.validation import checked_key
from cachekit.serialization import compression as compressing
from cachekit.serialization import envelope
from cachekit.serialization.codec import Codec
from cachekit.serialization.pickle_allowlist import classes
from cachekit.serialization.pickle_codec import PickleCodec
from cachekit.serialization.signing import Secret, Signer

#: Of an envelope of fewer bytes, copying the payload is faster than a view of it.
_SMALL: Final = 8192

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
            raise ValueError(f"codec must be 'pickle', 'json', 'msgpack' or a Codec, not {codec!r}")
        module, name = _CODECS[codec]
        made: Codec = getattr(importlib.import_module(module), name)()
        return made
    code = getattr(codec, "code", None)
    if type(code) is not int or not 0 < code < 256:
        raise TypeError(
            f"codec must be 'pickle', 'json', 'msgpack' or an object with name, code (128 to 255), "
            f"encode and decode, not {codec!r}"
        )
    return codec


def _name(key: str) -> bytes:
    """The key as the seal covers it."""
    return envelope.sized(envelope.text(key if type(key) is str else checked_key(key)))


@final
class Stored:
    """An envelope that has been opened: its header is read, its payload not yet.

    Times are seconds since the epoch, infinity for never; `tags` gives the token of each tag.
    """

    __slots__ = ("_buffer", "_header", "_serializer", "created", "expires", "stale_until", "tags")

    def __init__(self, serializer: Serializer, buffer: bytes, header: envelope.Header) -> None:
        #: When the value was made.
        self.created = header.created
        #: From when on the value is no longer fresh.
        self.expires = header.expires
        #: From when on the value is not even served stale; at least `expires` if it ever was.
        self.stale_until = header.stale_until
        #: The tags, each with the token that it had when the value was stored.
        self.tags = header.tags
        self._serializer = serializer
        self._buffer = buffer
        self._header = header

    @property
    def stale_ttl(self) -> float:
        """Seconds between `expires` and `stale_until`; 0 for a value that does not expire."""
        return stale_ttl(self.expires, self.stale_until)

    def value(self) -> Any:
        """The value; every call decodes it again.

        Raises:
            UnreadableError: the payload is damaged, or its codec refuses it.
        """
        return self._serializer.value(self._buffer, self._header)

    def __repr__(self) -> str:
        return (
            f"Stored(created={self.created!r}, expires={self.expires!r}, "
            f"stale_until={self.stale_until!r}, tags={sorted(self.tags)!r})"
        )


def stale_ttl(expires: float, stale_until: float) -> float:
    """Return the seconds between the two; 0 for a value that does not expire."""
    return 0.0 if stale_until <= expires or expires == math.inf else round(stale_until - expires, 6)


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

    __slots__ = ("_arguments", "_base", "_begin", "_code", "_codec", "_compressor", "_signer", "_start")

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
        prefix = envelope.sized(envelope.text(checked_key(namespace, "namespace")))
        allow = classes(allow)
        self._codec = codec_for(codec, allow, trusted or secret is not None)
        self._code = self._codec.code
        self._compressor = compressing.Compressor(compression)
        self._base = zlib.crc32(envelope.CHECKED + prefix)
        self._signer = None if secret is None else Signer(secret, envelope.SIGNED + prefix)
        # How envelopes begin, and where their headers do.
        self._begin = envelope.CHECKED if secret is None else envelope.SIGNED
        sealed_with = envelope.CHECKSUM_SIZE if secret is None else envelope.SIGNATURE_SIZE
        self._start = envelope.START_SIZE + sealed_with
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
        """The value and its header as an envelope, readable under the same key and namespace only.

        Args:
            key: the key that it will be stored under.
            value: anything that the codec carries.
            created: when it was made, in seconds since the epoch, as are the other times.
            expires: when its life ends; infinity is never.
            stale_until: until when it may be served stale; None is `expires`.
            tags: each of its tags with the tag's current token, 0 to 2**64 - 1.

        Raises:
            SerializationError: the value would not come back as it is; the message names its type
                and the remedy.
            TypeError, ValueError: another argument is of the wrong type, or a time is NaN.
        """
        stale = expires if stale_until is None else stale_until
        if created != created or expires != expires or stale != stale:
            raise ValueError(
                f"created, expires and stale_until must be seconds, not NaN: "
                f"{created!r}, {expires!r}, {stale!r}"
            )
        name = _name(key)
        packed_tags = envelope.pack_tags(tags) if tags else b""
        signer = self._signer
        how, payload = self._compressor.pack(self._codec.encode(value))
        checksum = 0 if signer is not None else zlib.crc32(payload)
        header = envelope.pack_fixed(self._code, how, len(packed_tags), created, expires, stale, checksum)
        if signer is not None:
            seal = signer.sign(name, header, packed_tags, payload)
            return b"".join((envelope.SIGNED, seal, header, packed_tags, payload))
        seal = envelope.CHECKSUM.pack(zlib.crc32(name + header + packed_tags, self._base))
        return b"".join((envelope.CHECKED, seal, header, packed_tags, payload))

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
        return Stored(self, data, self.open(key, data))

    def open(self, key: str, data: bytes) -> envelope.Header:
        """Do what `decode` does; the header and `value` are what a `Stored` has."""
        name, start, signer = _name(key), self._start, self._signer
        if data[: envelope.START_SIZE] != self._begin:
            raise self._unknown(data[: envelope.START_SIZE])
        if signer is not None:
            view = memoryview(data)
            signer.verify(view[envelope.START_SIZE : start], name, view[start:])
        header = envelope.parse_header(data, start)
        if signer is None:
            (seal,) = envelope.CHECKSUM.unpack_from(data, envelope.START_SIZE)
            if zlib.crc32(name + data[start : start + header.size], self._base) != seal:
                raise UnreadableError("the header does not match its checksum", "damage")
        if header.codec != self._code:
            raise UnreadableError(
                f"written with codec {header.codec}, not with {self._codec.name!r}", "codec"
            )
        return header

    def value(self, data: bytes, header: envelope.Header) -> Any:
        """Return the value of an envelope that has this header.

        Raises:
            UnreadableError: the payload is damaged, or its codec refuses it.
        """
        start = self._start + header.size
        payload: bytes | memoryview = data[start:] if len(data) < _SMALL else memoryview(data)[start:]
        if self._signer is None and zlib.crc32(payload) != header.checksum:
            raise UnreadableError("the payload does not match its checksum", "damage")
        try:
            return self._codec.decode(compressing.unpack(header.compression, payload))
        except UnreadableError:
            raise
        except Exception as error:
            raise UnreadableError(
                f"the codec {self._codec.name!r} failed: {type(error).__name__}", "damage"
            ) from error

    def _unknown(self, begin: bytes) -> UnreadableError:
        if begin == envelope.CHECKED:
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
