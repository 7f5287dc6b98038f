"""Codec: the interface that turns values into bytes and back."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any, Final, Protocol

from cachekit.errors import UnreadableError
from cachekit.model.contents import kinds_within
from cachekit.runtime.interrupts import is_no_fault_of_value
from cachekit.serialization.class_fingerprints import check, find_loaded, table_of
from cachekit.serialization.compression import Compressor, unpack
from cachekit.serialization.pickle_codec import PickleCodec

#: Beside the number of the compression: the table of the value's classes stands before the payload.
WITH_CLASSES: Final = 0x40
_LENGTH: Final = Struct("<I")
#: From this number on, codecs are the users' own, which may carry classes.
_FIRST_OWN: Final = 128


class Codec(Protocol):
    """How a value becomes bytes and a value again. Both methods may be called from any thread.

    For every value, `decode(encode(value))` is of the same type and equal, or `encode` raises
    `SerializationError`.
    """

    @property
    def name(self) -> str:
        """Return the name that users know it by, as in an error."""
        ...

    @property
    def code(self) -> int:
        """Its number in stored bytes: 1 to 127 are cachekit's, 128 to 255 are yours."""
        ...

    def encode(self, value: Any) -> bytes:
        """The value as bytes.

        Raises:
            SerializationError: the value would not come back as it is; the message names its type.
        """
        ...

    def decode(self, payload: bytes | memoryview) -> Any:
        """The value that `encode` was given.

        Raises:
            UnreadableError: these are not bytes that `encode` returns; any other exception is taken
                for damage.
        """
        ...


def packer(codec: Codec, compressor: Compressor) -> Callable[[Any], tuple[int, bytes]]:
    """Return what encodes and compresses a value: into the compression's number, and the stored payload."""
    compress = compressor.pack
    if isinstance(codec, PickleCodec):
        encode = codec.encode_with_classes
    elif codec.code < _FIRST_OWN:
        plainly = codec.encode
        return lambda value: compress(plainly(value))
    else:

        def encode(value: Any) -> tuple[bytes, bytes]:
            return codec.encode(value), table_of(kinds_within(value))

    def pack(value: Any) -> tuple[int, bytes]:
        payload, table = encode(value)
        if not table:
            return compress(payload)
        how, payload = compress(payload)
        return how | WITH_CLASSES, b"".join((_LENGTH.pack(len(table)), table, payload))

    return pack


def unpack_value(codec: Codec, compression: int, payload: bytes | memoryview) -> Any:
    """Return the value in a stored payload.

    Raises:
        UnreadableError: the payload is damaged, its codec refuses it, or one of its classes has changed.
    """
    try:
        if compression & WITH_CLASSES:
            payload = _checked_classes(codec, payload)
            compression &= ~WITH_CLASSES
        return codec.decode(unpack(compression, payload))
    except UnreadableError:
        raise
    except Exception as error:
        if is_no_fault_of_value(error):
            raise
        raise UnreadableError(f"the codec {codec.name!r} failed: {type(error).__name__}", "damage") from error


def _checked_classes(codec: Codec, payload: bytes | memoryview) -> bytes | memoryview:
    """Return the payload without its table of classes, if those are what they were."""
    if len(payload) < _LENGTH.size:
        raise UnreadableError("the stored bytes end before their table of classes", "damage")
    (size,) = _LENGTH.unpack_from(payload)
    end = _LENGTH.size + size
    if end > len(payload):
        raise UnreadableError("the table of classes is cut", "damage")
    check(bytes(payload[_LENGTH.size : end]), codec.find if isinstance(codec, PickleCodec) else find_loaded)
    return payload[end:]
