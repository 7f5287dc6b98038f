"""The content of a class or function that is an argument: what its definition says, not only its name.

A function may answer from the fields of a class, as a schema of structured output, or from the annotations
of a tool. So an edited definition makes another key. The definitions of the classes that it mentions, as
bases or in annotations, are part of it, each once. Classes of the standard library count by name.

Locks count by their type, loggers by their name. Classes of installed packages that a class of the program
mentions count by name and by the package's `__version__`. A class of an installed package may hold objects
without an identity, which count by type.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from types import CodeType, FunctionType, ModuleType

from cachekit.decorator.code_version import captured_values, digest_of, to_bytes, version_of
from cachekit.decorator.definition_memory import recalled, remember
from cachekit.decorator.definition_parts import (
    annotations_of,
    beyond_code,
    captured_by_itself,
    names_in_annotations,
    namespace_of,
    package_of,
)
from cachekit.decorator.homes import home_of
from cachekit.decorator.naming import Unkeyable, is_fixed, is_python_class, qualified_name
from cachekit.decorator.object_state import attributes
from cachekit.decorator.standard_values import parts_of
from cachekit.runtime.program import is_standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

_DEEPEST: Final = 30

_DESCRIPTORS: Final = (property, classmethod, staticmethod)
_FUNCTIONS: Final = ("fget", "fset", "fdel", "func", "__func__", "attrname")


def digest_of_class(kind: type, encode: Callable[[object], str]) -> str:
    """Return a digest of what the class and the classes that it mentions define.

    Args:
        kind: A class that is neither built in nor of the standard library.
        encode: From a value to its text.

    Raises:
        Unkeyable: an attribute of a class has no identity; the message names it.
    """
    digest = recalled(kind)
    if digest is None:
        definition = _Definition(kind.__module__, encode)
        digest = _digest(kind, definition, definition.reference(kind))
    return digest


def digest_of_annotations(function: FunctionType, encode: Callable[[object], str]) -> str:
    """Return a digest of the annotations and further attributes of a function; empty if it has none."""
    parts = annotations_of(function), beyond_code(function)
    if not any(parts):
        return ""
    digest = recalled(function)
    if digest is None:
        definition = _Definition(function.__module__, encode)
        text = definition.annotated(function) + definition.text(parts[1])
        digest = _digest(function, definition, text)
    return digest


def _digest(subject: Any, definition: _Definition, begin: str) -> str:
    texts = [begin]
    described = 0
    while described < len(definition.found):
        kind = definition.found[described]
        described += 1
        try:
            texts.append(definition.described(kind))
        except Unkeyable as error:
            of = "" if kind is subject else f"{kind.__module__}.{kind.__qualname__}: "
            raise Unkeyable(f"{of}{error}") from None
    digest = digest_of(to_bytes("".join(f"{len(text)}:{text}" for text in texts)), 8)
    remember(subject, definition.found, digest)
    return digest


class _Definition:
    """The text of one class or function, and the classes found in it so far, in order."""

    def __init__(self, module: str | None, encode: Callable[[object], str]) -> None:
        self._encode = encode
        self._numbers: dict[int, int] = {}  # by address: a metaclass may forbid to hash a class
        self.found: list[type] = []
        self._scope: tuple[dict[str, Any], dict[str, Any]] = {}, {}
        self._package = package_of(module)
        self._named_once: set[object] = set()  # annotations and aliases in the text that is being made

    def reference(self, kind: type) -> str:
        """Return the name of a class. Its definition follows, unless Python's version determines it."""
        if is_fixed(kind):
            return f"<class {qualified_name(kind)}>"
        package = package_of(kind.__module__)
        if package is not None and package != self._package:
            version = vars(sys.modules.get(package, sys)).get("__version__")
            return f"<class {qualified_name(kind)} {version}>"
        number = self._numbers.setdefault(id(kind), len(self._numbers))
        if number == len(self.found):
            self.found.append(kind)
        return f"<class {number} {qualified_name(kind)}>"

    def described(self, kind: type) -> str:
        """Return the text of what one class defines itself."""
        self._scope = home_of(kind), dict(vars(kind))
        parts = [self.reference(type(kind)), *map(self.reference, kind.__bases__), self.annotated(kind)]
        for name, value in sorted(namespace_of(kind).items()):
            parts.append(f"{name}={self._part(f'attribute {name!r}', self.text, value)}")
        return "\n".join(parts)

    def annotated(self, thing: Any) -> str:
        """Return the text of the annotations of a class or function."""
        if isinstance(thing, FunctionType):
            self._scope = thing.__globals__, {}
        texts = []
        for name, value in annotations_of(thing).items():
            texts.append(f"{name}:{self._part(f'annotation of {name!r}', self.annotation, value)}")
        return ",".join(texts)

    def _part(self, what: str, text: Callable[[Any], str], value: object) -> str:
        # Of an installed package, what has no identity counts by its type.
        try:
            return text(value)
        except Unkeyable as error:
            if self._package is None:
                raise Unkeyable(f"its {what}: {error}") from None
            return f"<{qualified_name(type(value))}>"

    def annotation(self, value: Any) -> str:
        """Return the text of an annotation; one that is a text also mentions the classes that it names."""
        if isinstance(value, str):
            return self._once(value, repr(value), lambda: self._named(value))
        if type(value).__name__ == "ForwardRef":
            return self.annotation(value.__forward_arg__)
        arguments = getattr(value, "__args__", None)
        if isinstance(arguments, tuple) and type(value).__name__ != "_LiteralGenericAlias":
            inner = ",".join(map(self.annotation, arguments))
            further = self.text(getattr(value, "__metadata__", ()))
            origin = getattr(value, "__origin__", None)
            return f"{type(value).__name__}({self.text(origin)};{inner};{further})"
        return self.text(value)

    def _named(self, annotation: str) -> str:
        try:
            named = eval(_compiled(annotation), *self._scope)  # noqa: S307  # as typing.get_type_hints does
        except Exception as error:  # noqa: BLE001  # a name that is for type checkers alone, or not there yet
            from cachekit.runtime.interrupts import raise_interrupt

            raise_interrupt(error)
            return repr(annotation)
        return f"{annotation!r} {repr(named) if isinstance(named, str) else self.annotation(named)}"

    def _once(self, name: object, short: str, text: Callable[[], str]) -> str:
        # The text of something with a name that others may mention, and where it is mentioned again the short
        # one. So what refers to itself has an end, and what several refer to takes no longer.
        if name in self._named_once:
            return short
        is_outermost = not self._named_once
        self._named_once.add(name)
        try:
            return text()
        finally:
            if is_outermost:
                self._named_once.clear()

    def text(self, value: Any, depth: int = _DEEPEST) -> str:
        """Return the text of a value in a definition."""
        if depth <= 0:
            raise Unkeyable("it is nested too deep, or contains itself")
        kind: Any = type(value)
        if isinstance(value, type):
            return self.reference(value)
        if kind in (list, tuple):
            return f"{kind.__name__}({','.join(self.text(item, depth - 1) for item in value)})"
        if kind in (set, frozenset):
            # Sorted by what does not depend on the hash seed before anything is described.
            items = sorted(value, key=lambda item: getattr(item, "__qualname__", None) or repr(item))
            return f"{kind.__name__}({','.join(sorted(self.text(item, depth - 1) for item in items))})"
        if kind is dict or kind.__name__ == "mappingproxy":
            pairs = [f"{self.text(k, depth - 1)}={self.text(v, depth - 1)}" for k, v in value.items()]
            return f"{kind.__name__}({','.join(pairs)})"
        if kind is FunctionType:
            return self._function(value, depth)
        if kind is ModuleType:
            return f"<module {value.__name__}>"
        if issubclass(kind, _DESCRIPTORS) or kind.__name__ == "cached_property":
            parts = [getattr(value, name, None) for name in _FUNCTIONS]
            return f"<{qualified_name(kind)}:{self.text(parts, depth - 1)}>"
        if not is_python_class(kind) and hasattr(kind, "__objclass__"):  # a slot, or a method in C
            return f"<{kind.__name__} {value.__name__}>"
        if kind.__name__ == "TypeAliasType":
            short = f"<{qualified_name(kind)} {value.__name__}>"
            return self._once(id(value), short, lambda: self._standard(value, depth))
        standard = self._standard(value, depth)
        if standard:
            return standard
        try:
            return self._encode(value)
        except Unkeyable:
            return self._object(value, kind, depth)

    def _standard(self, value: Any, depth: int) -> str:
        parts = parts_of(value, type(value))
        return "" if parts is None else f"<{qualified_name(type(value))}:{self.text(parts, depth - 1)}>"

    def _object(self, value: Any, kind: type, depth: int) -> str:
        # What a class keeps to describe itself, such as a field of a dataclass: by its attributes.
        if kind.__module__ == "logging" and hasattr(value, "name"):
            return f"<{qualified_name(kind)} {value.name}>"
        if kind.__module__ in {"_thread", "threading", "weakref", "contextvars"}:
            return f"<{qualified_name(kind)}>"  # it holds no more than the moment
        if not is_python_class(kind):
            if hasattr(value, "__wrapped__"):  # functools.lru_cache
                return f"<{qualified_name(kind)}:{self.text(value.__wrapped__, depth - 1)}>"
            if kind.__name__ == "_tuplegetter":
                return f"<{kind.__name__} {value.__reduce__()[1][0]}>"
            raise Unkeyable(f"a value of type {_shown(kind)} has no identity")
        held = attributes(value, kind)
        if not held and not is_standard(kind.__module__) and package_of(kind.__module__) is None:
            raise Unkeyable(f"a value of type {_shown(kind)} has no identity")
        return f"<{qualified_name(kind)}:{self.text(held, depth - 1)}>"

    def _function(self, value: FunctionType, depth: int) -> str:
        name = qualified_name(value)
        if is_standard(value.__module__):
            return f"<function {name}>"
        parts: list[object] = [value.__defaults__, value.__kwdefaults__]
        if not value.__code__.co_filename.startswith("<"):
            # Functions made from a template, as those of dataclasses, follow from the fields.
            parts.append(list(captured_values(value)))
            parts.append(captured_by_itself(value))
            parts.append(list(names_in_annotations(value)))
        return f"<function {name}@{version_of(value)}:{self.text(parts, depth - 1)}>"


@lru_cache(maxsize=1024)
def _compiled(annotation: str) -> CodeType:
    return compile(annotation, "<annotation>", "eval")


def _shown(kind: type) -> str:
    return qualified_name(kind).removeprefix("builtins.")
