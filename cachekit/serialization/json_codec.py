"""The JSON codec: for those who want no pickle, and stored values that other programs can look at.

This module promises standard JSON in UTF-8 (no NaN, no Infinity) and, as `plain` describes, the
same type and value back or a refusal.
"""

from __future__ import annotations

import json
from typing import Any, final

from cachekit.errors import UnreadableError
from cachekit.runtime.interrupts import is_no_fault_of_value
from cachekit.serialization.plain_values import Plainer, decode


@final
class JsonCodec:
    """Values as JSON. Safe to share between threads."""

    name: str = "json"
    code: int = 2

    def __init__(self) -> None:
        self._plainer = Plainer(self.name, binary=False)
        self._encoder = json.JSONEncoder(
            ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=False
        )
        self._decoder = json.JSONDecoder(object_hook=decode)

    def encode(self, value: Any) -> bytes:
        """The value as JSON.

        Raises:
            SerializationError: something in it is of a type that is not carried.
        """
        return self._encoder.encode(self._plainer.encode(value)).encode()

    def decode(self, payload: bytes | memoryview) -> Any:
        """The value in the JSON.

        Raises:
            UnreadableError: it is not what `encode` writes.
        """
        try:
            return self._decoder.decode(str(payload, "utf-8"))
        except (ValueError, RecursionError) as error:
            if is_no_fault_of_value(error):
                raise
            raise UnreadableError(
                f"the stored JSON cannot be read: {type(error).__name__}", "damage"
            ) from error

    def __repr__(self) -> str:
        return "JsonCodec()"
