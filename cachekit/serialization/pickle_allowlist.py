"""What a pickle from an untrusted place may name, and what it may do with it.

This module promises that only exact (module, name) pairs are on the list, that a standard class is
built only by a guard that accepts what pickling it produces and nothing else, and that guards
together copy no more than a small multiple of the bytes that they are given. `bytearray` and
`range` are not on the list: a few bytes of either become gigabytes (a plain bytearray needs no name
in a pickle, so bytearrays are carried all the same). Reading the pickle itself is `pickles`'
business.

Registering a class trusts its constructor and its `__setstate__` with any arguments.
"""

from __future__ import annotations

import enum
import functools
import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta, tzinfo
from types import BuiltinFunctionType, FunctionType
from typing import Any, Final, NamedTuple, TypeAlias

from cachekit.model.display import safe_repr


class Use(enum.Enum):
    """What may be done with a global that a pickle names."""

    VALUE = "value"  #: be a value, as the factory of a defaultdict is; never be called
    GUARDED = "guarded"  #: be called, through its guard; never be a value
    NEW = "new"  #: be instantiated without arguments, and given a state, once, that its guard checks
    ANY = "any"  #: whatever pickle does; the user registered it


class Allowance:
    """How much the guards of one pickle may still copy, in characters, digits or items."""

    __slots__ = ("_left",)

    def __init__(self, pickle_size: int) -> None:
        # Paths repeat their parts through the memo, two bytes for a name of any length: hence a
        # factor.
        self._left = 64 * pickle_size + 4096

    def spend(self, amount: int) -> None:
        """Note what is about to be copied, or raise ValueError."""
        self._left -= amount
        if self._left < 0:
            raise ValueError("constructors are asked to copy far more than was stored")


Guard: TypeAlias = Callable[..., Any]


class Grant(NamedTuple):
    """One entry of the list."""

    use: Use
    guard: Guard | None = None  #: called with the Allowance, the class and the arguments; NEW: see `_uuid`
    target: Any = None  #: the object, where it is registered; standard ones are imported on first use


Table: TypeAlias = Mapping[tuple[str, str], Grant]


def _expect(condition: bool, kind: type) -> None:
    if not condition:
        raise ValueError(f"not how a {kind.__name__} is pickled")


def _complex(_: Allowance, kind: type, *args: Any) -> Any:
    # Floats only: of a text or a long integer a float takes longer to make.
    _expect(len(args) == 2 and type(args[0]) is type(args[1]) is float, kind)
    return kind(*args)


def _moment(_: Allowance, kind: type, *args: Any) -> Any:
    # The packed state, and a zone.
    _expect(1 <= len(args) <= 2 and type(args[0]) is bytes and len(args[0]) <= 10, kind)
    _expect(all(isinstance(zone, tzinfo) for zone in args[1:]), kind)
    return kind(*args)


def _delta(_: Allowance, kind: type, *args: Any) -> Any:
    # Days, seconds and microseconds, each of which fits 64 bits.
    _expect(len(args) == 3 and all(type(one) is int and one.bit_length() < 64 for one in args), kind)
    return kind(*args)


def _offset(_: Allowance, kind: type, *args: Any) -> Any:
    _expect(1 <= len(args) <= 2 and type(args[0]) is timedelta, kind)
    _expect(all(type(name) is str for name in args[1:]), kind)
    return kind(*args)


def _empty(_: Allowance, kind: type, *args: Any) -> Any:
    _expect(not args, kind)
    return kind()


def _deque(_: Allowance, kind: type, *args: Any) -> Any:
    _expect(args == () or (len(args) == 2 and args[0] == () and type(args[1]) is int), kind)
    return kind(*args)


def _defaultdict(_: Allowance, kind: type, *args: Any) -> Any:
    _expect(len(args) <= 1, kind)
    return kind(*args)


def _counter(allowance: Allowance, kind: type, *args: Any) -> Any:
    _expect(len(args) == 1 and type(args[0]) is dict, kind)
    # An item takes at least two bytes in the pickle, and a hundred in memory. So the allowance suffices to
    # copy a dict once, and not many times.
    allowance.spend(128 * len(args[0]))
    return kind(args[0])


def _decimal(allowance: Allowance, kind: type, *args: Any) -> Any:
    _expect(len(args) == 1 and type(args[0]) is str, kind)
    allowance.spend(len(args[0]))
    return kind(args[0])


def _fraction(allowance: Allowance, kind: type, *args: Any) -> Any:
    # Integers only: Fraction("1e999999999") is a number of a billion digits.
    _expect(len(args) == 2 and type(args[0]) is type(args[1]) is int and args[1] > 0, kind)
    bits = args[0].bit_length(), args[1].bit_length()
    # It is reduced, which takes time by the product: as long as a copy of this many characters, about.
    allowance.spend(sum(bits) + (bits[0] * bits[1] >> 12))
    return kind(*args)


def _path(allowance: Allowance, kind: type, *args: Any) -> Any:
    _expect(all(type(part) is str for part in args), kind)
    allowance.spend(sum(map(len, args)))
    return kind(*args)


def _zone(allowance: Allowance, kind: type, *args: Any) -> Any:
    _expect(len(args) == 1 and type(args[0]) is str and len(args[0]) < 256, kind)
    # A zone that nothing holds any longer is read from its file again, which takes as long as a copy of this.
    allowance.spend(1024)
    return kind(args[0])


@functools.cache
def _uuid(kind: Any) -> Any:
    """A class whose instances become those of UUID with their state.

    UUID takes anything for its number, and hashes it: a tuple nested a million deep ends the process.
    """

    class Stored(kind):  # type: ignore[misc]  # a class is what unpickling asks for
        __slots__ = ()

        def __setstate__(self, state: Any) -> None:
            _expect(type(state) is dict and state.keys() <= {"int", "is_safe"}, kind)
            _expect(type(state["int"]) is int and state["int"] >> 128 == 0, kind)
            _expect(type(state.get("is_safe")) in (int, type(None)), kind)
            super().__setstate__(state)
            object.__setattr__(self, "__class__", kind)

    return Stored


_STANDARD: Final[dict[tuple[str, str], Grant]] = {
    **{
        ("builtins", name): Grant(Use.VALUE)
        for name in (
            "bool", "bytes", "dict", "float", "frozenset", "int", "list", "object", "set", "str",
            "tuple",
        )
    },
    ("builtins", "complex"): Grant(Use.GUARDED, _complex),
    **{("datetime", name): Grant(Use.GUARDED, _moment) for name in ("date", "datetime", "time")},
    ("datetime", "timedelta"): Grant(Use.GUARDED, _delta),
    ("datetime", "timezone"): Grant(Use.GUARDED, _offset),
    ("zoneinfo", "ZoneInfo"): Grant(Use.GUARDED, _zone),
    ("decimal", "Decimal"): Grant(Use.GUARDED, _decimal),
    ("fractions", "Fraction"): Grant(Use.GUARDED, _fraction),
    ("uuid", "UUID"): Grant(Use.NEW, _uuid),
    ("collections", "OrderedDict"): Grant(Use.GUARDED, _empty),
    ("collections", "defaultdict"): Grant(Use.GUARDED, _defaultdict),
    ("collections", "deque"): Grant(Use.GUARDED, _deque),
    ("collections", "Counter"): Grant(Use.GUARDED, _counter),
    # The module that a path names has moved between Python versions; each reads its own.
    **{
        (module, name): Grant(Use.GUARDED, _path)
        for module in ("pathlib", "pathlib._local")
        for name in ("PurePosixPath", "PosixPath", "PureWindowsPath", "WindowsPath")
    },
}  # fmt: skip

# Modules whose functions reach everything else, or run what they are given, as getattr and pickle.loads do.
_OPEN_DOORS: Final = frozenset({
    "builtins", "operator", "_operator", "posix", "nt", "io", "_io", "os", "subprocess", "importlib", "runpy",
    "pickle", "_pickle", "marshal",
})  # fmt: skip


def line_to_add(module: str, name: str) -> str:
    """The argument that would register the class, as a user would write it."""
    return f"allow=[{name if module in ('builtins', '__main__') else f'{module}.{name}'}]"


def unfit(module: str, target: object) -> str | None:
    """Why something must not be registered at all; None if it may be."""
    if target in (bytearray, range):
        return "a few stored bytes of it can become gigabytes"
    if target is type or (isinstance(target, (BuiltinFunctionType, FunctionType)) and module in _OPEN_DOORS):
        return "any program that can write where the cache stores could run code with it"
    return None


def classes(allow: Iterable[Any]) -> tuple[Any, ...]:
    """What the user registers, as a tuple.

    Raises:
        TypeError: it is no list or the like, as a class alone is not.
    """
    if isinstance(allow, (str, bytes, type)) or not isinstance(allow, Iterable):
        raise TypeError(f"allow must be a list of classes, as in allow=[MyType], not {safe_repr(allow)}")
    return tuple(allow)


def table(allow: Iterable[Any]) -> dict[tuple[str, str], Grant]:
    """The standard list with what the user registers.

    Args:
        allow: classes, or functions where pickling a type names one.

    Raises:
        TypeError: `allow` is no iterable, or something in it is neither class nor function.
        ValueError: something in it cannot be found by its name, as a local class cannot, or would
            undo the list, as getattr would.
    """
    granted = dict(_STANDARD)
    for one in classes(allow):
        if not isinstance(one, (type, FunctionType, BuiltinFunctionType)):
            raise TypeError(
                f"each of allow must be a class (or a function), not {safe_repr(one)} of type "
                f"{type(one).__name__}; write allow=[MyType], without quotes or parentheses"
            )
        module, name = getattr(one, "__module__", None), one.__qualname__
        if module is None or "<" in name:
            raise ValueError(
                f"each of allow must be defined at the top of a module, or pickle cannot find it; "
                f"{one!r} is not: move it there"
            )
        reason = unfit(module, one)
        if reason is not None:
            raise ValueError(f"{name} cannot be in allow: {reason}; give the cache a secret= instead")
        # A standard class keeps its guard.
        granted.setdefault((module, name), Grant(Use.ANY, target=one))
    return granted


def resolve(grant: Grant, module: str, name: str) -> Any:
    """The object that an entry of the list stands for.

    Raises:
        ImportError, AttributeError: this Python has no such module or name in it.
    """
    if grant.target is not None:
        return grant.target
    return getattr(sys.modules.get(module) or importlib.import_module(module), name)
