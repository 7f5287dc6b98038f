"""Codec: the interface that turns values into bytes and back."""

from __future__ import annotations

from typing import Any, Protocol

from cachekit.errors import UnreadableError
from cachekit.runtime.interrupts import is_no_fault_of_value
from cachekit.serialization.compression import unpack


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


def unpack_value(codec: Codec, compression: int, payload: bytes | memoryview) -> Any:
    """Return the value in a stored payload.

    Raises:
        UnreadableError: the payload is damaged, or its codec refuses it.
    """
    try:
        return codec.decode(unpack(compression, payload))
    except UnreadableError:
        raise
    except Exception as error:
        if is_no_fault_of_value(error):
            raise
        raise UnreadableError(f"the codec {codec.name!r} failed: {type(error).__name__}", "damage") from error
