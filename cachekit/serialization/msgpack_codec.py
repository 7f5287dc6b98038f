"""The MessagePack codec: no pickle, smaller and faster than JSON; needs the extra `msgpack`.

This module promises, as `plain` describes, the same type and value back or a refusal. It is loaded,
and msgpack with it, only when a cache asks for it.
"""

from __future__ import annotations

import importlib
from typing import Any, final

from cachekit.errors import UnreadableError
from cachekit.runtime.interrupts import is_no_fault_of_value
from cachekit.serialization.plain_values import Plainer, decode


@final
class MsgpackCodec:
    """Values as MessagePack. Safe to share between threads.

    Raises:
        ModuleNotFoundError: the extra is not installed.
    """

    name: str = "msgpack"
    code: int = 3

    def __init__(self) -> None:
        try:
            msgpack = importlib.import_module("msgpack")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "codec='msgpack' needs the extra msgpack: pip install 'cachekit-tiered[msgpack]'"
            ) from error
        self._packb = msgpack.packb
        self._unpackb = msgpack.unpackb
        self._plainer = Plainer(self.name, binary=True)

    def encode(self, value: Any) -> bytes:
        """The value as MessagePack.

        Raises:
            SerializationError: something in it is of a type that is not carried.
        """
        packed: bytes = self._packb(self._plainer.encode(value))
        return packed

    def decode(self, payload: bytes | memoryview) -> Any:
        """The value in the MessagePack.

        Raises:
            UnreadableError: it is not what `encode` writes.
        """
        try:
            return self._unpackb(payload, object_hook=decode)
        except (ValueError, RecursionError) as error:
            if is_no_fault_of_value(error):
                raise
            raise UnreadableError(
                f"the stored MessagePack cannot be read: {type(error).__name__}", "damage"
            ) from error

    def __reduce__(self) -> tuple[type[MsgpackCodec], tuple[()]]:
        return MsgpackCodec, ()

    def __repr__(self) -> str:
        return "MsgpackCodec()"
