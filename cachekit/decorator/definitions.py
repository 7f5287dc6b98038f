"""The content of a class or function that is an argument: what its definition says, not only its name.

A function may answer from the fields of a class, as a schema of structured output, or from the annotations
of a tool. So an edited definition makes another key. The definitions of the classes that it mentions, as
bases or in annotations, are part of it, each once. Classes of the standard library count by name.

Classes of installed packages that a class of the program mentions count by name and by the package's
`__version__`. A class of an installed package may hold objects without an identity, which count by type.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import chain
from operator import is_
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    ModuleType,
)
from typing import Any, Final, NamedTuple, final

from cachekit.decorator.code_version import captured_values, digest_of, to_bytes, version_of, wrapper_chain
from cachekit.decorator.naming import is_fixed, is_python_class, is_standard, qualified_name
from cachekit.decorator.object_state import attributes
from cachekit.decorator.standard_values import parts_of
from cachekit.decorator.unkeyable import Unkeyable

_DEEPEST: Final = 30

#: What a namespace has besides its definition, or says twice.
_LEFT_OUT: Final = frozenset(
    {
        "__dict__", "__weakref__", "__module__", "__qualname__", "__annotations__", "__annotate__",
        "__annotate_func__", "__annotations_cache__", "__firstlineno__", "__static_attributes__",
        "__slots__", "_abc_impl", "__signature__", "__private_attributes__", "__class_vars__", "__fields__",
    }
)  # fmt: skip

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
    definition = _Definition(kind.__module__, encode)
    return _remembered(kind, definition, lambda: definition.reference(kind))


def digest_of_annotations(function: FunctionType, encode: Callable[[object], str]) -> str:
    """Return a digest of the annotations and further attributes of a function; empty if it has none."""
    parts = _annotations(function), _beyond_code(function)
    if not any(parts):
        return ""
    definition = _Definition(function.__module__, encode)
    return _remembered(
        function, definition, lambda: definition.annotated(function) + definition.text(parts[1])
    )


def _remembered(subject: Any, definition: _Definition, begin: Callable[[], str]) -> str:
    # Describing a class takes a millisecond, and every call that it is an argument of asks for it.
    known = _known.get(subject)
    if known is not None and all(map(is_, known.parts, _parts([subject, *known.classes]))):
        return known.digest
    digest = _digest(subject, definition, begin())
    if not any(map(_is_mutable, definition.found)):
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[subject] = _Known(definition.found, list(_parts([subject, *definition.found])), digest)
    return digest


class _Known(NamedTuple):
    """A digest, and what it was made from: it stands while each part is the same object."""

    classes: list[type]
    parts: list[object]
    digest: str


_MOST_KNOWN: Final = 256
_known: dict[Any, _Known] = {}


def _parts(subjects: Iterable[Any]) -> Iterator[object]:
    # What a class or function holds; and what its module has under its name, which a text of an annotation
    # means.
    for kind in subjects:
        if isinstance(kind, FunctionType):
            yield from (
                kind.__code__,
                kind.__doc__,
                kind.__name__,
                *chain.from_iterable(_annotations(kind).items()),
            )
        yield vars(sys.modules.get(kind.__module__, sys)).get(kind.__qualname__)
        for name, value in vars(kind).items():
            yield name
            yield value
            if type(value) is dict:
                yield from chain.from_iterable(value.items())
        yield None  # so that a part that was added counts


def _is_mutable(kind: type) -> bool:
    # Whether an attribute may come to hold something else without being set.
    return any(
        not (_is_constant(value) or kind in type(value).__mro__)
        for name, value in vars(kind).items()
        if not (_is_sunder(name) or name in _LEFT_OUT or name in _OF_MODELS)
    )


def _is_constant(value: object) -> bool:
    if isinstance(value, (tuple, frozenset)):
        return all(map(_is_constant, value))
    if isinstance(value, dict):  # whose items are compared, too
        return all(map(_is_constant, value.values()))
    return isinstance(value, _CONSTANT) or type(value).__name__ in _CONSTANT_NAMES


_OF_MODELS: Final = frozenset({"model_fields", "model_computed_fields"})
_CONSTANT_NAMES: Final = frozenset({"cached_property", "_tuplegetter", "_lru_cache_wrapper"})
_CONSTANT: Final = (
    type(None), int, float, complex, str, bytes, type, FunctionType, classmethod, staticmethod, property,
    MemberDescriptorType, GetSetDescriptorType, BuiltinFunctionType,
)  # fmt: skip


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
    return digest_of(to_bytes("".join(f"{len(text)}:{text}" for text in texts)), 8)


@final
class _Definition:
    """The text of one class or function, and the classes found in it so far, in order."""

    def __init__(self, module: str | None, encode: Callable[[object], str]) -> None:
        self._encode = encode
        self._numbers: dict[type, int] = {}
        self.found: list[type] = []
        self._scope: tuple[dict[str, Any], dict[str, Any]] = {}, {}
        self._package = _package(module)

    def reference(self, kind: type) -> str:
        """Return the name of a class. Its definition follows, unless Python's version determines it."""
        if is_fixed(kind):
            return f"<class {qualified_name(kind)}>"
        package = _package(kind.__module__)
        if package is not None and package != self._package:
            version = vars(sys.modules.get(package, sys)).get("__version__")
            return f"<class {qualified_name(kind)} {version}>"
        number = self._numbers.setdefault(kind, len(self._numbers))
        if number == len(self.found):
            self.found.append(kind)
        return f"<class {number} {qualified_name(kind)}>"

    def described(self, kind: type) -> str:
        """Return the text of what one class defines itself."""
        self._scope = vars(sys.modules.get(kind.__module__, sys)), dict(vars(kind))
        parts = [self.reference(type(kind)), *map(self.reference, kind.__bases__), self.annotated(kind)]
        for name, value in sorted(_namespace(kind).items()):
            try:
                parts.append(f"{name}={self.text(value)}")
            except Unkeyable as error:
                if self._package is None:
                    raise Unkeyable(f"its attribute {name!r}: {error}") from None
                parts.append(f"{name}=<{qualified_name(type(value))}>")
        return "\n".join(parts)

    def annotated(self, thing: Any) -> str:
        """Return the text of the annotations of a class or function."""
        if isinstance(thing, FunctionType):
            self._scope = thing.__globals__, {}
        texts = []
        for name, annotation in _annotations(thing).items():
            try:
                texts.append(f"{name}:{self.annotation(annotation)}")
            except Unkeyable as error:
                if self._package is None:
                    raise Unkeyable(f"its annotation of {name!r}: {error}") from None
                texts.append(f"{name}:<{qualified_name(type(annotation))}>")
        return ",".join(texts)

    def annotation(self, value: Any) -> str:
        """Return the text of an annotation; one that is a text also mentions the classes that it names."""
        if isinstance(value, str):
            try:
                named = eval(_compiled(value), *self._scope)  # noqa: S307  # as typing.get_type_hints does
            except (NameError, AttributeError, TypeError, ValueError, LookupError, SyntaxError):
                return repr(value)  # a name that exists for type checkers alone, or not yet
            return f"{value!r} {self.annotation(named) if not isinstance(named, str) else repr(named)}"
        if type(value).__name__ == "ForwardRef":
            return self.annotation(value.__forward_arg__)
        arguments = getattr(value, "__args__", None)
        if isinstance(arguments, tuple) and type(value).__name__ != "_LiteralGenericAlias":
            inner = ",".join(map(self.annotation, arguments))
            further = self.text(getattr(value, "__metadata__", ()))
            origin = getattr(value, "__origin__", None)
            return f"{type(value).__name__}({self.text(origin)};{inner};{further})"
        return self.text(value)

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
        standard = parts_of(value, kind)
        if standard is not None:
            return f"<{qualified_name(kind)}:{self.text(standard, depth - 1)}>"
        try:
            return self._encode(value)
        except Unkeyable:
            return self._object(value, kind, depth)

    def _object(self, value: Any, kind: type, depth: int) -> str:
        # What a class keeps to describe itself, such as a field of a dataclass: by its attributes.
        if not is_python_class(kind):
            if hasattr(value, "__wrapped__"):  # functools.lru_cache
                return f"<{qualified_name(kind)}:{self.text(value.__wrapped__, depth - 1)}>"
            if kind.__name__ == "_tuplegetter":
                return f"<{kind.__name__} {value.__reduce__()[1][0]}>"
            raise Unkeyable(f"a value of type {_shown(kind)} has no identity")
        held = attributes(value, kind)
        if not held and not is_standard(kind.__module__) and _package(kind.__module__) is None:
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
            parts.append([str(annotation) for annotation in _plain_annotations(value)])
        return f"<function {name}@{version_of(value)}:{self.text(parts, depth - 1)}>"


@lru_cache(maxsize=1024)
def _compiled(annotation: str) -> CodeType:
    return compile(annotation, "<annotation>", "eval")


def _plain_annotations(function: FunctionType) -> Iterable[object]:
    # The annotations of methods: their names, without the definitions that they mention.
    for name, annotation in _annotations(function).items():
        named = annotation if isinstance(annotation, str) else getattr(annotation, "__qualname__", None)
        yield name
        yield named if isinstance(named, str) else repr(annotation)


def _annotations(thing: Any) -> dict[str, Any]:
    if sys.version_info >= (3, 14):
        import annotationlib

        return dict(annotationlib.get_annotations(thing, format=annotationlib.Format.FORWARDREF))
    found = vars(thing).get("__annotations__") if isinstance(thing, type) else thing.__annotations__
    return dict(found or {})


def _beyond_code(function: FunctionType) -> dict[str, object]:
    # Attributes that were set on a function, and a name or text that is no longer that of its code.
    held = {
        name: value
        for name, value in vars(function).items()
        if name != "__wrapped__" and type(getattr(value, "__self__", None)).__module__ != _OWN
    }
    if function.__name__ != function.__qualname__.rpartition(".")[2]:
        held["__name__"] = function.__name__
    texts = [one.__code__.co_consts[:1] for one in wrapper_chain(function)]
    if function.__doc__ is not None and (function.__doc__,) not in texts:
        held["__doc__"] = function.__doc__
    return held


_OWN: Final = "cachekit.decorator.function"


def _namespace(kind: type) -> dict[str, object]:
    held = {
        name: value
        for name, value in vars(kind).items()
        if name not in _LEFT_OUT and not name.startswith("__pydantic_")
    }
    members = held.pop("_member_map_", None)
    if isinstance(members, dict):  # an Enum; its members are mentioned by their own text
        callables = (FunctionType, classmethod, staticmethod)
        held = {
            name: value
            for name, value in held.items()
            if name not in members and (not _is_sunder(name) or isinstance(value, callables))
        }
        held["members"] = [(name, member.value) for name, member in members.items()]
    if "__dataclass_fields__" in held and str(held.get("__doc__")).startswith(f"{kind.__name__}("):
        del held["__doc__"]  # made from the fields, with the addresses of defaults
    pydantic = sys.modules.get("pydantic.main")
    if pydantic is not None and issubclass(kind, pydantic.BaseModel) and kind is not pydantic.BaseModel:
        held |= _schema(kind)
    return held


def _schema(kind: Any) -> dict[str, object]:
    # A model says what it accepts by its JSON schema.
    fields: dict[str, object] = {
        name: (field.annotation, field.default_factory, field.alias, field.exclude)
        for name, field in kind.model_fields.items()
    }
    try:
        schema = kind.model_json_schema()
    except (sys.modules["pydantic.errors"].PydanticUserError, TypeError, ValueError) as error:
        raise Unkeyable(f"its JSON schema cannot be made: {error}") from None
    return {"JSON schema": schema, "fields": fields}


def _shown(kind: type) -> str:
    return qualified_name(kind).removeprefix("builtins.")


def _is_sunder(name: str) -> bool:
    return name.startswith("_") and name.endswith("_")


def _package(module: str | None) -> str | None:
    # The top package of a module, if that package is installed rather than part of the program.
    file = getattr(sys.modules.get(module or ""), "__file__", None) or ""
    return (module or "").partition(".")[0] if "site-packages" in file or "dist-packages" in file else None
