"""Which classes a stored value has, and whether each is still defined as it was when the value was stored.

An object of a class that got a field since would come back without that field. So the classes of a value go
with it, each with a fingerprint of what it says about the data of its objects. A value of which one class
has another fingerprint now is a miss.

What counts
-----------
Of the class and of each of its bases, by name and in order:

- fields and annotations, and whether each has a default; not the default itself, which the object holds
- slots
- the members of an Enum with their values
- the parameters of the methods that make, copy and restore objects, and the names that their code uses
- for a model of pydantic or attrs also required fields and aliases, and the arguments of a generic one

Other methods and attributes of a class do not count. Classes of the standard library and classes that are
made in C count by name. A fingerprint uses no bytecode, no hash and no address. So it is the same in each
process and each version of Python.

The table
---------
One piece for each class, in the order of the bytes: length of the module's name (4), length of the qualified
name (4), both in UTF-8, and 8 bytes of digest. Only classes that are found by their names are in it.
"""

from __future__ import annotations

import importlib
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from struct import Struct
from struct import error as StructError  # noqa: N812  # it is an exception, whatever struct calls it
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final, NamedTuple, TypeAlias

from cachekit.errors import UnreadableError
from cachekit.runtime.interrupts import is_interrupt
from cachekit.runtime.program import is_standard, real_module

#: From the names of a class to what has these names now; raises if there is nothing, or it may not be used.
Find: TypeAlias = Callable[[str, str], object]

_LENGTHS: Final = Struct("<II")
_DIGEST_SIZE: Final = 8
#: Tables up to this size are kept in parsed form.
_FREQUENT: Final = 4096

_HEAP: Final = 1 << 9
_IMMUTABLE: Final = 1 << 8


class _Known(NamedTuple):
    """What was found out about a class."""

    reference: weakref.ref[type]
    digest: bytes  #: empty if the version of Python determines the class
    piece: bytes  #: its piece of a table; empty if it is in none


# By address, because a metaclass may forbid to hash a class.
_known: dict[int, _Known] = {}


def table_of(kinds: Iterable[type]) -> bytes:
    """Return the table of these classes; empty if the version of Python determines all of them."""
    return b"".join(sorted({_look_at(kind).piece for kind in kinds}))


def check(table: bytes, find: Find) -> None:
    """Return if all classes of a table are still what they were.

    Args:
        table: what `table_of` returned once.
        find: gives the class that has these names now.

    Raises:
        UnreadableError: one is another now, or gone (class); these bytes are no table (damage).
    """
    for module, name, digest in _frequent(table) if len(table) <= _FREQUENT else _parsed(table):
        try:
            found = find(module, name)
        except Exception as error:
            if is_interrupt(error):
                raise
            raise UnreadableError(f"the class {f'{module}.{name}'!r} is gone", "class") from error
        if not isinstance(found, type) or _look_at(found).digest != digest:
            raise UnreadableError(
                f"the class {f'{module}.{name}'!r} has changed since the value was stored", "class"
            )


def find_by_import(module: str, name: str) -> object:
    """Return what has a name in a module, which is imported if need be. For trusted bytes."""
    found: object = sys.modules.get(module) or importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def find_loaded(module: str, name: str) -> object:
    """Return what has a name in a module, if that is loaded. It runs no code, so the bytes need no trust."""
    found: Any = sys.modules[module]
    for part in name.split("."):
        of: Any = type if issubclass(type(found), type) else ModuleType
        found = of.__getattribute__(found, "__dict__")[part]
    return found


def _look_at(kind: type) -> _Known:
    address = id(kind)
    known = _known.get(address)
    if known is None or known.reference() is not kind:
        digest = b"" if _is_fixed(kind) else _digest(kind)
        piece = _piece(kind, digest) if digest else b""
        known = _known[address] = _Known(weakref.ref(kind, partial(_forget, address)), digest, piece)
    return known


def _forget(address: int, _: object) -> None:
    _known.pop(address, None)


def _piece(kind: type, digest: bytes) -> bytes:
    try:
        if find_loaded(kind.__module__, kind.__qualname__) is not kind:
            return b""
        names = kind.__module__.encode(), kind.__qualname__.encode()
    except (LookupError, AttributeError, TypeError, UnicodeEncodeError):
        return b""
    return b"".join((_LENGTHS.pack(*map(len, names)), *names, digest))


@lru_cache(maxsize=256)
def _frequent(table: bytes) -> tuple[tuple[str, str, bytes], ...]:
    return tuple(_parsed(table))


def _parsed(table: bytes) -> Iterator[tuple[str, str, bytes]]:
    position = 0
    while position < len(table):
        try:
            of_module, of_name = _LENGTHS.unpack_from(table, position)
            start = position + _LENGTHS.size
            middle, end = start + of_module, start + of_module + of_name
            position = end + _DIGEST_SIZE
            if position > len(table):
                raise UnreadableError("the table of classes is cut", "damage")
            yield str(table[start:middle], "utf-8"), str(table[middle:end], "utf-8"), table[end:position]
        except (StructError, UnicodeDecodeError) as error:
            raise UnreadableError("the table of classes is damaged", "damage") from error


def _is_fixed(kind: type) -> bool:
    """Return whether the version of Python, or of a package in C, determines the class."""
    return kind.__flags__ & (_HEAP | _IMMUTABLE) != _HEAP or is_standard(str(kind.__module__))


def _digest(kind: type) -> bytes:
    from hashlib import blake2b  # most caches store no classes

    text = "\n".join(_lines(kind))
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_SIZE).digest()


def _lines(kind: type) -> Iterator[str]:
    # Not its own name: a class may have another one for a time, and the main module has two.
    for one in kind.__mro__:
        yield f"class {_name(type(one))}" if one is kind else f"base {_name(one)}"
        if _is_fixed(one):
            continue
        held = type.__getattribute__(one, "__dict__")
        for name, annotation in _annotations(one, held).items():
            value = held.get(name, _NOTHING)
            given = value is not _NOTHING and type(value).__name__ not in _DESCRIPTORS
            yield f"annotation {name}: {_text(annotation)} {given}"
        slots = [name for name, value in held.items() if type(value).__name__ == "member_descriptor"]
        yield f"slots {sorted(slots)}"
        yield from _fields(held)
        for name in _MAKING:
            function = getattr(held.get(name), "__func__", held.get(name))
            if isinstance(function, FunctionType) and not (
                function.__code__.co_filename.startswith("<") and _MADE.intersection(held)
            ):
                yield from _function(name, function)


_NOTHING: Final = object()
_DESCRIPTORS: Final = frozenset({"member_descriptor", "_tuplegetter"})

#: Classes that have one of these have methods from templates, which follow from the fields.
_MADE: Final = frozenset({"__dataclass_fields__", "__attrs_attrs__", "_fields"})
#: Methods that make, copy and restore objects: they know what an object holds.
_MAKING: Final = (
    "__init__", "__new__", "__post_init__", "__attrs_post_init__", "model_post_init", "__setstate__",
    "__getstate__", "__reduce__", "__reduce_ex__", "__getnewargs__", "__getnewargs_ex__",
)  # fmt: skip


def _annotations(kind: type, held: Mapping[str, Any]) -> dict[str, Any]:
    if sys.version_info >= (3, 14):
        import annotationlib

        return dict(annotationlib.get_annotations(kind, format=annotationlib.Format.FORWARDREF))
    found = held.get("__annotations__")
    return found if isinstance(found, dict) else {}


def _fields(held: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the makers of classes note about fields: Enum, NamedTuple, dataclass, attrs, pydantic."""
    members = held.get("_member_map_")
    if isinstance(members, dict):
        for name, member in members.items():
            yield f"member {name} = {_content(getattr(member, '_value_', None))}"
    if isinstance(held.get("_fields"), tuple):
        yield f"named tuple {held['_fields']!r} {sorted(held.get('_field_defaults') or ())!r}"
    fields = held.get("__dataclass_fields__")
    if isinstance(fields, dict):
        for name, field in fields.items():
            missing = type(field.default).__name__ == "_MISSING_TYPE"
            factory = type(field.default_factory).__name__ != "_MISSING_TYPE"
            kind = getattr(field._field_type, "name", None)
            yield f"field {name} {not missing or factory} {field.init} {kind} {_text(field.type)}"
    for field in held.get("__attrs_attrs__") or ():
        given = type(field.default).__name__ != "_Nothing"
        yield f"field {field.name} {given} {field.init} {_text(field.type)}"
    models = held.get("__pydantic_fields__", held.get("model_fields"))
    if isinstance(models, dict):
        for name, field in models.items():
            yield f"field {name} {field.is_required()} {field.alias!r}"
        yield f"private {sorted(held.get('__private_attributes__') or ())!r}"
        generic = held.get("__pydantic_generic_metadata__")
        yield f"arguments {_text((generic or {}).get('args', ()))}"


def _function(name: str, function: FunctionType) -> Iterator[str]:
    code = function.__code__
    if str(function.__module__).partition(".")[0] in _MAKERS:
        return
    count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 4) + bool(code.co_flags & 8)
    defaults = len(function.__defaults__ or ()), sorted(function.__kwdefaults__ or ())
    yield f"{name}{code.co_varnames[:count]!r} {code.co_argcount} {defaults!r} {sorted(set(_names(code)))!r}"
    for parameter, annotation in _annotations_of(function).items():
        yield f"{parameter}: {_text(annotation)}"


#: What these put into a class depends on their version.
_MAKERS: Final = frozenset({"enum", "dataclasses", "typing", "collections", "attr", "pydantic"})


def _annotations_of(function: FunctionType) -> dict[str, Any]:
    if sys.version_info >= (3, 14):
        import annotationlib

        return dict(annotationlib.get_annotations(function, format=annotationlib.Format.FORWARDREF))
    return function.__annotations__


def _names(code: CodeType) -> Iterator[str]:
    # Python 3.12 takes comprehensions into the function around them, so inner code belongs to it.
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _name(kind: Any) -> str:
    module = real_module(kind.__module__)
    return str(kind.__qualname__) if module == "builtins" else f"{module}.{kind.__qualname__}"


def _text(annotation: Any, depth: int = 20) -> str:
    """Return an annotation as text, alike in each version of Python."""
    if isinstance(annotation, str):
        return annotation
    if depth <= 0:
        return "..."
    if isinstance(annotation, (list, tuple)):
        return f"[{', '.join(_text(one, depth - 1) for one in annotation)}]"
    if annotation is None or annotation is type(None):
        return "None"
    forward = getattr(annotation, "__forward_arg__", None)
    if isinstance(forward, str):
        return forward
    arguments = getattr(annotation, "__args__", None)
    origin = getattr(annotation, "__origin__", annotation)
    if type(annotation).__name__ in {"Union", "UnionType", "_UnionGenericAlias"}:
        return " | ".join(_text(one, depth - 1) for one in annotation.__args__)
    if type(annotation).__name__ == "_LiteralGenericAlias":
        return f"Literal[{', '.join(map(_content, annotation.__args__))}]"
    if isinstance(origin, type):
        name = _name(origin)
    else:
        name = next(
            (
                found
                for found in (getattr(origin, "__name__", None), getattr(origin, "_name", None))
                if isinstance(found, str)
            ),
            type(origin).__qualname__,
        )
    if isinstance(arguments, tuple) and arguments:
        return f"{name}[{', '.join(_text(one, depth - 1) for one in arguments)}]"
    return name


def _content(value: Any, depth: int = 20) -> str:
    """Return the value of an Enum's member as text; what has no such text counts by its class."""
    kind: Any = type(value)
    if depth <= 0:
        return "..."
    if kind in {list, tuple}:
        return f"{kind.__name__}({', '.join(_content(one, depth - 1) for one in value)})"
    if kind in {set, frozenset}:
        return f"{kind.__name__}({', '.join(sorted(_content(one, depth - 1) for one in value))})"
    if kind is dict:
        pairs = (f"{_content(one, depth - 1)}: {_content(other, depth - 1)}" for one, other in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, type):
        return _name(value)
    if kind is int:
        return f"{value:x}"  # Python refuses the decimal text of a long one
    if kind.__repr__ is object.__repr__ or not _is_fixed(kind):
        attributes = getattr(value, "__dict__", None)
        return f"{_name(kind)}({_content(attributes, depth - 1) if type(attributes) is dict else ''})"
    text = repr(value)
    return _name(kind) if " at 0x" in text else text
