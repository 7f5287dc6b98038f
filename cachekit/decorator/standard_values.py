"""Plain values of the standard library in a cache key, by what they hold.

`text_of` gives the text of values that have one, such as dates and paths. `parts_of` decomposes the others
into plain values, which `key_encoding` encodes. Modules are looked up by name and not imported: without its
module no value of a type exists.
"""

from __future__ import annotations

from cachekit.decorator.code_version import int_text
from cachekit.decorator.naming import Unkeyable, is_python_class, qualified_name
from cachekit.decorator.object_state import attributes, solid_base
from cachekit.runtime.program import is_standard, real_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

_ZONES: Final = frozenset({"datetime", "zoneinfo"})


def text_of(value: Any, kind: type) -> str | None:
    """Return the text of a value that determines it; None for values without one."""
    module = kind.__module__
    if module == "datetime":
        if hasattr(value, "utcoffset") and not hasattr(value, "isoformat"):
            # A time zone, whose str may be only the name that it was given. `tzinfo` itself has no offset.
            return repr(value) if kind.__name__ == "timezone" else None
        zone = getattr(value, "tzinfo", None)
        # Two zones may share an offset, and `fold` distinguishes two instants.
        known = zone is None or (type(zone).__module__ in _ZONES and text_of(zone, type(zone)))
        return f"{value!s}|{getattr(value, 'fold', 0)}|{zone!r}" if known else None
    if module == "zoneinfo":
        return getattr(value, "key", None)  # None for a zone that was read from a file
    if module in {"pathlib", "pathlib._local"} and hasattr(value, "__fspath__"):
        return str(value)
    if module in {"uuid", "decimal", "ipaddress"}:
        return str(value)
    if module == "fractions":
        above, below = int_text(value.numerator), int_text(value.denominator)
        return above if below == "1" else f"{above}/{below}"
    if module == "re" and hasattr(value, "pattern"):
        return f"{value.flags}|{value.pattern!r}"
    return None


def parts_of(value: Any, kind: type) -> object:
    """Return plain values that two values of the class share exactly if they are equal; None for others.

    Raises:
        Unkeyable: a value of the class may hold more than can be read.
    """
    for base in kind.__mro__:
        read = _READERS.get((base.__module__, base.__name__))
        if read is not None:
            return read(value, kind)
    return None


def _zoned(value: Any, _: type) -> object:
    # A date or time whose zone is of another library. The zone's rules at this moment are part of it, too.
    return str(value.replace(tzinfo=None)), value.fold, *zone_of(value)


def zone_of(value: Any) -> tuple[object, ...]:
    """Return the zone of a date or time, and the rules of the zone at that moment."""
    return value.tzinfo, (value.utcoffset(), value.dst(), value.tzname())


def _zone(value: Any, kind: type) -> object:
    # `tzinfo` defines how its subclasses are reduced: what makes them, its arguments, and their state.
    from pickle import PicklingError

    try:
        reduced = value.__reduce__()
    except (PicklingError, TypeError, ValueError, AttributeError) as error:
        raise Unkeyable(f"the time zone {kind.__qualname__} does not say what it holds: {error}") from None
    return _unfolded(reduced[1:], 20) if isinstance(reduced, tuple) else str(reduced)


def _unfolded(value: Any, depth: int) -> object:
    # The state of a zone with the objects in it, such as its rules, by their attributes.
    if not depth:
        raise Unkeyable("the state of the time zone contains itself")
    kind = type(value)
    if kind is dict:
        return {name: _unfolded(part, depth - 1) for name, part in value.items()}
    if kind in (list, tuple):
        return kind(_unfolded(part, depth - 1) for part in value)
    if is_python_class(kind) and not is_standard(kind.__module__) and _has_attributes_alone(kind):
        return qualified_name(kind), _unfolded(attributes(value, kind), depth - 1)
    return value


def _has_attributes_alone(kind: type) -> bool:
    # Values of other classes say themselves what they hold.
    return solid_base(kind) is object and not (
        hasattr(kind, "__cache_key__")
        or hasattr(kind, "__members__")
        or hasattr(kind, "__dataclass_fields__")
    )


def _datetime(value: Any, kind: type) -> object:
    if kind.__module__ == "datetime" and value.tzinfo is not None:
        return _zoned(value, kind)
    return _subclass(value, kind)


def _subclass(value: Any, kind: type) -> object:
    # A class in C between the two may hold more than its base shows, such as nanoseconds.
    base: Any = solid_base(kind)
    if base is kind or base.__module__ not in {"datetime", "decimal"}:
        return None
    return base.__reduce_ex__(value, 4)[1:], attributes(value, kind)


def _alias(value: Any, _: type) -> object:
    parts = value.__origin__, getattr(value, "__args__", ()), getattr(value, "__metadata__", ())
    return *parts, bool(getattr(value, "__unpacked__", False))


def _type_variable(value: Any, _: type) -> object:
    names = ("__name__", "__bound__", "__constraints__", "__covariant__", "__contravariant__")
    default = getattr(value, "__default__", None)
    module = real_module(getattr(value, "__module__", None))
    return module, *(getattr(value, name, None) for name in names), None if _is_mark(default) else default


def _type_alias(value: Any, _: type) -> object:
    # What it stands for is evaluated now, and may be for type checkers alone.
    try:
        return value.__name__, value.__value__
    except Exception as error:  # noqa: BLE001  # evaluating it may raise anything
        from cachekit.runtime.interrupts import raise_interrupt

        raise_interrupt(error)
        return real_module(value.__module__), value.__name__


def _forward_reference(value: Any, _: type) -> object:
    return value.__forward_arg__, str(value.__forward_module__)


def _is_mark(value: object) -> bool:
    kind = type(value)  # of no module in CPython, of `typing` in typing_extensions
    return kind.__name__ == "NoDefaultType" and kind.__module__ in {"builtins", "typing"}


def _view(value: Any, _: type) -> object:
    # As for a dict, the order of its keys and items does not count. That of values alone does.
    name = type(value).__name__
    if name.startswith("odict"):
        return list(value)
    if name == "dict_keys":
        return dict.fromkeys(value)
    return dict(value) if name == "dict_items" else list(value)


def _memory(value: Any, _: type) -> object:
    try:
        return value.format, value.shape, value.tobytes()
    except ValueError as error:
        raise Unkeyable(f"the memoryview cannot be read: {error}") from None


_READERS: Final = {
    ("datetime", "datetime"): _datetime,
    ("datetime", "time"): _datetime,
    ("datetime", "date"): _subclass,
    ("datetime", "timedelta"): _subclass,
    ("decimal", "Decimal"): _subclass,
    ("datetime", "tzinfo"): _zone,
    ("types", "GenericAlias"): _alias,
    ("types", "UnionType"): lambda value, _: value.__args__,
    ("typing", "Union"): lambda value, _: value.__args__,
    ("typing", "_SpecialForm"): lambda value, _: value.__reduce__(),
    ("typing", "_SpecialGenericAlias"): lambda value, _: value.__reduce__(),
    ("typing", "_GenericAlias"): _alias,
    ("typing", "TypeVar"): _type_variable,
    ("typing", "TypeVarTuple"): _type_variable,
    ("typing", "ParamSpec"): _type_variable,
    ("typing", "ParamSpecArgs"): lambda value, _: value.__origin__,
    ("typing", "ParamSpecKwargs"): lambda value, _: value.__origin__,
    ("typing", "ForwardRef"): _forward_reference,
    ("annotationlib", "ForwardRef"): _forward_reference,  # from Python 3.14 on
    ("typing", "NewType"): lambda value, _: (
        (real_module(value.__module__), value.__qualname__, value.__supertype__)
    ),
    ("typing", "TypeAliasType"): _type_alias,
    ("typing_extensions", "TypeAliasType"): _type_alias,
    ("functools", "partial"): lambda value, kind: (
        (value.func, value.args, value.keywords, attributes(value, kind))
    ),
    ("functools", "_lru_cache_wrapper"): lambda value, _: value.__wrapped__,
    ("operator", "itemgetter"): lambda value, _: value.__reduce__()[1],
    ("operator", "attrgetter"): lambda value, _: value.__reduce__()[1],
    ("operator", "methodcaller"): lambda value, _: value.__reduce__(),
    ("array", "array"): lambda value, kind: (
        (value.typecode, value.itemsize, len(value), value.tobytes(), attributes(value, kind))
    ),
    ("builtins", "mappingproxy"): lambda value, _: value.copy(),
    ("builtins", "memoryview"): _memory,
    ("builtins", "dict_keys"): _view,
    ("builtins", "dict_values"): _view,
    ("builtins", "dict_items"): _view,
    ("builtins", "odict_keys"): _view,
    ("builtins", "odict_values"): _view,
    ("builtins", "odict_items"): _view,
    ("types", "SimpleNamespace"): attributes,
    ("argparse", "Namespace"): attributes,
    ("collections", "UserDict"): attributes,
    ("collections", "UserList"): attributes,
    ("collections", "UserString"): attributes,
    ("collections", "ChainMap"): attributes,
}
