"""Codec: the interface that turns values into bytes and back."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any, Final, Protocol, final

from cachekit.errors import UnreadableError
from cachekit.model.contents import kinds_within
from cachekit.runtime.interrupts import is_no_fault_of_value
from cachekit.serialization.class_fingerprints import check, find_loaded, table_of
from cachekit.serialization.compression import LARGEST_RAW, RAW, THRESHOLD, Compressor, unpack
from cachekit.serialization.parts import LARGE, UNBOUNDED, Parts, Payload, pieces_of, too_large
from cachekit.serialization.pickle_codec import PickleCodec

#: Beside the number of the compression: the table of the value's classes stands before the payload.
WITH_CLASSES: Final = 0x40
_LENGTH: Final = Struct("<I")
#: An encoded value of fewer bytes never takes more memory than is always allowed.
_MAY_EXPAND: Final = 1 << 20
#: From this number on, codecs are the users' own, which may carry classes.
_FIRST_OWN: Final = 128
#: Types whose values take a byte at least for each of their items, in JSON and MessagePack.
_SIZED: Final = frozenset({str, bytes, bytearray})


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


@final
class Packer:
    """Encodes and compresses values for one tier. Safe in any thread.

    Args:
        codec: for the values.
        compressor: for what the codec returns.

    Attributes:
        encode: Returns a value as the codec encodes it, in at most so many bytes, and the table of its
            classes. It raises ValueTooLargeError as early as it can.
        least: The lowest bound that `encode` may get, in bytes: what is compressed may be larger before.
    """

    __slots__ = ("_codec", "_compressor", "encode", "least")

    def __init__(self, codec: Codec, compressor: Compressor) -> None:
        self._codec = codec
        self._compressor = compressor
        self.least = 0 if compressor.algorithm is None else LARGEST_RAW
        self.encode = _encode_of(codec)

    def pack(self, value: Any, most: int) -> tuple[int, Payload]:
        """Return the number of the compression, and the stored payload, for a value of at most so many bytes.

        What it returns may have more than that all the same.

        Raises:
            ValueTooLargeError: the value has more.
        """
        payload, table = self.encode(value, max(self.least, most))
        if len(payload) < THRESHOLD and not table:
            return RAW, payload
        return self.compress(value, payload, table)

    def compress(self, value: Any, payload: Payload, table: bytes) -> tuple[int, Payload]:
        """Return what `pack` does, for a value that is encoded."""
        compressor, size = self._compressor, len(payload)
        expands = self.least and size >= _MAY_EXPAND
        least_stored = _least_stored(self._codec, payload) if expands else 0
        whole = payload if least_stored else None
        if type(payload) is bytes and size <= LARGE:
            packed: tuple[int, Payload] | None = compressor.pack(payload)
        else:
            packed = compressor.pack_parts(payload if type(payload) is Parts else Parts([payload]))
        if packed is None:  # which no text and few containers meet
            packed = RAW, self.encode(value, UNBOUNDED)[0]
        if whole is not None and len(packed[1]) < least_stored:
            packed = RAW, whole
        if not table:
            return packed
        how, payload = packed
        pieces = [_LENGTH.pack(len(table)), table, *pieces_of(payload)]
        return how | WITH_CLASSES, Parts(pieces) if len(payload) > LARGE else b"".join(pieces)


def _encode_of(codec: Codec) -> Callable[[Any, int], tuple[Payload, bytes]]:
    if isinstance(codec, PickleCodec):
        return codec.encode_with_classes

    def encode(value: Any, most: int) -> tuple[Payload, bytes]:
        if codec.code >= _FIRST_OWN:  # which may make anything shorter
            return codec.encode(value), table_of(kinds_within(value))
        if type(value) in _SIZED and len(value) > most:
            raise too_large(len(value))
        return codec.encode(value), b""

    return encode


def unpack_value(codec: Codec, compression: int, payload: bytes | memoryview) -> Any:
    """Return the value in a stored payload.

    Raises:
        UnreadableError: the payload is damaged, its codec refuses it, or one of its classes has changed.
    """
    try:
        if compression & WITH_CLASSES:
            payload = _checked_classes(codec, payload)
            compression &= ~WITH_CLASSES
        raw = unpack(compression, payload)
        may_expand = compression != RAW and len(raw) >= _MAY_EXPAND
        if may_expand and len(payload) < _least_stored(codec, bytes(raw)):
            raise UnreadableError("so few stored bytes may not take so much memory", "damage")
        return codec.decode(raw)
    except UnreadableError:
        raise
    except Exception as error:
        if is_no_fault_of_value(error):
            raise
        raise UnreadableError(f"the codec {codec.name!r} failed: {type(error).__name__}", "damage") from error


def _least_stored(codec: Codec, payload: Payload) -> int:
    """Return how many bytes at least must be stored of an encoded value, for the memory that it takes."""
    # A codec of the user bounds its values itself. In parts are texts, which are small enough.
    if codec.code >= _FIRST_OWN or isinstance(payload, Parts):
        return 0
    from cachekit.serialization import memory_bounds  # rarely needed

    if isinstance(codec, PickleCodec):
        return 0 if codec.trusted else memory_bounds.least_stored(memory_bounds.of_pickle(payload))
    estimate = memory_bounds.of_json if codec.name == "json" else memory_bounds.of_msgpack
    return memory_bounds.least_stored(estimate(payload))


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
