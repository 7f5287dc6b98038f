"""Answers: from a value or an exception to what a line of a cassette holds, and back.

A value is plain JSON where that gives it back as it is, and otherwise an envelope as on a server: signed with
a secret, or with names of the allow-list alone. A cassette comes from a repository, so its bytes are never
trusted. An exception is its class, arguments and plain attributes; the reader finds the class by itself.
"""

from __future__ import annotations

import base64
import builtins
import json
from collections.abc import Iterable
from hashlib import blake2b
from types import WrapperDescriptorType
from typing import Any, Final, NamedTuple, final

from cachekit.cassettes.recording import Recorded, canonical
from cachekit.cassettes.redaction import Redaction
from cachekit.decorator.naming import qualified_name
from cachekit.errors import SerializationError, UnreadableError
from cachekit.runtime.interrupts import raise_interrupt
from cachekit.serialization.plain_values import Plainer, decode
from cachekit.serialization.serializer import Serializer
from cachekit.serialization.signing import Secret

#: Attributes of an OSError, which are not in its `__dict__`.
_OF_SYSTEM: Final = ("errno", "strerror", "filename", "filename2")


class Raised(NamedTuple):
    """An exception that a recorded call raised."""

    error: Exception


class Absent:
    """The answer of a loader of many keys that left the key out."""


ABSENT: Final = Absent()


@final
class AnswerCodec:
    """Encodes and decodes answers. Safe to share between threads.

    Args:
        secret: Signs bytes and verifies them; None for none.
        allow: Classes that unsigned bytes may name.
        exceptions: The classes of exceptions that are recorded and raised again.
        redaction: Replaces what must not be recorded.

    Raises:
        TypeError, ValueError: as for `Serializer`.
    """

    __slots__ = ("_exceptions", "_plainer", "_redaction", "_serializer")

    def __init__(
        self,
        secret: Secret | None,
        allow: Iterable[Any],
        exceptions: tuple[type[Exception], ...],
        redaction: Redaction,
    ) -> None:
        self._plainer = Plainer("json", binary=False)
        self._serializer = Serializer("cassette", compression=None, secret=secret, allow=allow)
        self._exceptions = exceptions
        self._redaction = redaction

    def tree(self, value: Any) -> Any:
        """Return the tree of a plain value; sets are in order.

        Raises:
            SerializationError: it is not plain.
        """
        return _sorted_sets(self._plainer.encode(value))

    def encode(self, value: Any, identity: str) -> tuple[str, Any]:
        """Return the kind and the content of a line for a value; bytes are bound to the question.

        Raises:
            SerializationError: the value cannot be recorded; the message says what to do.
        """
        if value is ABSENT:
            return "absent", True
        try:
            return "value", self.tree(self._redaction.value(value))
        except SerializationError:
            pass
        try:
            envelope = self._serializer.encode(_key(identity), value, created=0.0)
        except SerializationError as error:
            raise SerializationError(
                f"the answer cannot be recorded: {error} (secret= and allow= are arguments of cassette)"
            ) from error
        self._redaction.refuse_opaque(value)
        return "bytes", base64.b64encode(envelope).decode()

    def encode_error(self, error: Exception) -> tuple[str, Any]:
        """Return the kind and the content of a line for an exception.

        Raises:
            SerializationError: an argument of the exception is not plain.
        """
        try:
            arguments = self.tree(self._redaction.value(list(error.args)))
        except SerializationError as refused:
            raise SerializationError(
                f"{type(error).__name__} cannot be recorded, because its arguments are not plain: {refused}"
            ) from error
        content = {"type": qualified_name(type(error)), "args": arguments}
        state: dict[str, Any] = {}
        parts = dict(vars(error))
        if isinstance(error, OSError):
            found = ((name, getattr(error, name)) for name in _OF_SYSTEM)
            parts |= {name: value for name, value in found if value is not None}
        for name, value in parts.items():
            try:
                state[name] = self.tree(self._redaction.argument(name, value))
            except SerializationError:
                continue  # such as the request of an HTTP client
        return "raises", content | ({"state": state} if state else {})

    def decode(self, recorded: Recorded) -> Any:
        """Return a recorded value, `ABSENT`, or an exception as `Raised`.

        Raises:
            UnreadableError: the line was changed, its bytes may not be loaded, or the class of the exception
                is not among those given.
        """
        if recorded.kind == "absent":
            return ABSENT
        if recorded.kind == "bytes":
            try:
                envelope = base64.b64decode(recorded.content, validate=True)
            except (TypeError, ValueError) as error:
                raise_interrupt(error)
                raise UnreadableError("its bytes are not in base64") from error
            return self._serializer.decode(_key(recorded.identity), envelope).value()
        content = _plain(recorded.content)
        return self._raised_error(content) if recorded.kind == "raises" else content

    def _raised_error(self, content: Any) -> Raised:
        name = content.get("type") if isinstance(content, dict) else None
        arguments, state = ((content or {}).get("args"), content.get("state", {})) if name else (None, None)
        if not (isinstance(name, str) and isinstance(arguments, list) and isinstance(state, dict)):
            raise UnreadableError("its exception is malformed")
        kind = self._exception_class(name)
        try:
            # The arguments of an `__init__` in Python need not be those that the exception keeps.
            made_in_c = isinstance(kind.__init__, WrapperDescriptorType)
            error = kind(*arguments) if made_in_c else kind.__new__(kind, *arguments)
            error.args = tuple(arguments)
            for name, value in state.items():
                if isinstance(error, OSError) and name in _OF_SYSTEM:
                    setattr(error, name, value)
                else:
                    vars(error)[name] = value
        except (TypeError, ValueError) as refused:
            raise_interrupt(refused)
            raise UnreadableError(f"{name} cannot be made of what was recorded") from refused
        return Raised(error)

    def _exception_class(self, name: str) -> type[Exception]:
        module, _, short = name.rpartition(".")
        found = getattr(builtins, short, None) if module == "builtins" else None
        if isinstance(found, type) and issubclass(found, Exception):
            return found
        # Never by an import, which a changed cassette could use to run a module.
        kinds, seen = list(self._exceptions), set(self._exceptions)
        while kinds:
            kind = kinds.pop()
            if qualified_name(kind) == name:
                return kind
            fresh = [one for one in type.__subclasses__(kind) if one not in seen]
            seen.update(fresh)
            kinds += fresh
        raise UnreadableError(
            f"it raised {name}, which is not among the exceptions= of this cassette, or is not imported",
            "class",
        )


def _key(identity: str) -> str:
    # A digest, because a prompt may be longer than a key.
    return blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _plain(tree: Any) -> Any:
    # The value of a tree, by the hook that reads stored JSON.
    try:
        return json.loads(json.dumps(tree), object_hook=decode)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"its value is malformed: {type(error).__name__}") from error


def _sorted_sets(tree: Any) -> Any:
    # The order of a set depends on the hash seed; that of the lines must not.
    if isinstance(tree, list):
        return [_sorted_sets(item) for item in tree]
    if isinstance(tree, dict):
        tagged = tree.get("$")
        if isinstance(tagged, list):
            items = [_sorted_sets(item) for item in tagged[1:]]
            if tagged[0] in ("set", "frozenset"):
                items.sort(key=canonical)
            return {"$": [tagged[0], *items]}
        return {name: _sorted_sets(item) for name, item in tree.items()}
    return tree
