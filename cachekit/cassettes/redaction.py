"""Redaction: what must not be committed is replaced in arguments and answers before they are compared."""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable, Collection
from typing import Any, Final, TypeAlias, final

from cachekit.errors import SerializationError

#: A function from each text to the text to record; or the names of parameters and dict keys to leave out.
Redact: TypeAlias = Callable[[str], str] | Collection[str]

REDACTED: Final = "[redacted]"


@final
class Redaction:
    """Replaces texts in plain values.

    Args:
        redact: See `cassette`; None changes nothing.

    Raises:
        TypeError: it is neither a function nor a tuple, list or set of names.
    """

    __slots__ = ("_names", "_text")

    def __init__(self, redact: Redact | None) -> None:
        self._text: Callable[[str], str] | None = None
        self._names: frozenset[str] = frozenset()
        if redact is None:
            return
        if callable(redact):
            self._text = redact
        elif isinstance(redact, (tuple, list, set, frozenset)) and all(
            isinstance(one, str) for one in redact
        ):
            self._names = frozenset(map(str.casefold, redact))
        else:
            raise TypeError(
                f"redact must be a function of a text, or a tuple of names, not an object of type "
                f"{type(redact).__name__}; write redact=('api_key',)"
            )

    def _is_named(self, key: object) -> bool:
        # In any case: the names of HTTP fields have none. Those of ASGI are bytes.
        if type(key) is bytes:
            key = key.decode("latin-1")
        return type(key) is str and key.casefold() in self._names

    def argument(self, name: str, value: Any) -> Any:
        """Return an argument as it is recorded."""
        return REDACTED if self._is_named(name) else self.value(value)

    def value(self, value: Any, depth: int = 100) -> Any:
        """Return a value with replaced texts. Only plain containers are looked into."""
        if (self._text is None and not self._names) or not depth:
            return value
        kind = type(value)
        if kind is str:
            return self.text(value)
        if kind is bytes or kind is bytearray:
            return self._bytes(value)
        if kind in (list, tuple) and len(value) == 2 and self._is_named(value[0]):  # a field of HTTP
            return kind((self.value(value[0], depth - 1), REDACTED))
        if kind in (list, tuple, set, frozenset):
            return kind(self.value(item, depth - 1) for item in value)
        if kind is dict:
            return {
                self.value(key, depth - 1): REDACTED if self._is_named(key) else self.value(item, depth - 1)
                for key, item in value.items()
            }
        return value

    def text(self, text: str) -> str:
        """Return a text as it is recorded.

        Raises:
            TypeError: the function returned no str.
        """
        if self._text is None:
            return text
        redacted = self._text(text)
        if not isinstance(redacted, str):
            raise TypeError(f"redact must return a str, not an object of type {type(redacted).__name__}")
        return redacted

    def _bytes(self, value: bytes | bytearray) -> bytes | bytearray:
        try:
            text = value.decode()
        except UnicodeDecodeError:
            return value
        redacted = self.text(text)
        return value if redacted == text else type(value)(redacted.encode())

    def opaque_text(self, text: str) -> str:
        """Return the text of an argument whose parts have no names here."""
        return REDACTED if any(name in text.casefold() for name in self._names) else self.text(text)

    def refuse_opaque(self, value: Any) -> None:
        """Refuse a value that is recorded as bytes, in which nothing can be replaced.

        Raises:
            SerializationError: it holds a text that must not be recorded.
        """
        if self._text is None and not self._names:
            return
        for _, part, _ in pickletools.genops(pickle.dumps(value)):
            if self._is_named(part) or self.value(part) != part:
                raise SerializationError(
                    f"an answer of type {type(value).__name__} holds what redact= must leave out, and can be "
                    f"recorded as bytes only; return plain values, such as a dict"
                )
