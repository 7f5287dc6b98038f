"""Values as trees of what JSON and MessagePack know, without losing what they do not.

This module promises that `raise_up(lower(value))` is of the same type and equal, all the way down,
or that `encode` raises `SerializationError`. Neither format tells a tuple from a list, or knows a
datetime; here each such value becomes a dict with the single key "$", which holds the name of its
type and what it is made of. A real dict that has a key "$" is written as one of these too.

What is carried beyond the formats' own: tuple, set, frozenset, bytes, bytearray, complex, integers
and floats of every kind, any str, dicts with keys of any of these types, Decimal, Fraction, UUID,
date, time, timedelta, datetime with fixed offsets and named zones. Everything else is refused:
subclasses (named tuples, Enum members, OrderedDict), dataclasses, paths. Sharing and cycles are not
carried: a list that occurs twice comes back as two equal lists.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final
from zoneinfo import ZoneInfo

from cachekit.errors import SerializationError, UnreadableError
from cachekit.model.storable import refusal_of
from cachekit.runtime.interrupts import is_no_fault_of_value
from cachekit.serialization.collisions import check

TAG: Final = "$"

#: Levels of nesting that a value may have; each becomes at most four of the format's.
DEEPEST: Final = 100

_DOUBLE: Final = struct.Struct(">d")
_SMALLEST: Final = -(1 << 63)
_LARGEST: Final = (1 << 63) - 1
_INFINITY: Final = float("inf")

#: Product of the bits of the two sides of a fraction: reading reduces it, which takes time by this.
_HEAVIEST_FRACTION: Final = 1 << 32


class Plainer:
    """Lowers values for one format.

    Args:
        codec: the name of the codec, for errors.
        binary: whether the format has bytes of its own.
    """

    def __init__(self, codec: str, *, binary: bool) -> None:
        self._codec = codec
        self._binary = binary

    def encode(self, value: Any, depth: int = 0) -> Any:
        """The value as a tree of None, bool, 64-bit int, finite float, str, list and dict.

        Raises:
            SerializationError: something in it is of a type that is not carried, or it is nested
                deeper than `DEEPEST`, as everything that contains itself is.
        """
        kind = type(value)
        if kind is str:
            return value if value.isascii() else self._str(value)
        if kind is int:
            return value if _SMALLEST <= value <= _LARGEST else {TAG: ["int", f"{value:x}"]}
        if value is None or kind is bool:
            return value
        if kind is float:
            if -_INFINITY < value < _INFINITY:
                return value
            return {TAG: ["float", _DOUBLE.pack(value).hex()]}
        if depth > DEEPEST:
            raise SerializationError(
                f"a {kind.__name__} is nested more than {DEEPEST} levels deep; store a flatter one"
            )
        if kind is list:
            return [self.encode(item, depth + 1) for item in value]
        if kind is dict:
            return self._dict(value, depth + 1)
        if kind is bytes and self._binary:
            return value
        lowering = _LOWERINGS.get(kind)
        if lowering is None:
            raise SerializationError(self._refusal(value))
        return {TAG: [kind.__name__, *lowering(self, value, depth + 1)]}

    def _str(self, value: str) -> Any:
        try:
            value.encode()
        except UnicodeEncodeError:
            # A lone surrogate: JSON would join two of them to one character.
            return {TAG: ["str", value.encode("utf-8", "surrogatepass").hex()]}
        return value

    def _dict(self, value: dict[Any, Any], depth: int) -> Any:
        lowered = {}
        for key, item in value.items():
            if type(key) is not str or key == TAG or not (key.isascii() or self._str(key) is key):
                _check(value)
                return {TAG: ["dict", *self._pairs(value, depth)]}
            lowered[key] = self.encode(item, depth)
        return lowered

    def _pairs(self, value: dict[Any, Any], depth: int) -> list[Any]:
        return [[self.encode(key, depth), self.encode(item, depth)] for key, item in value.items()]

    def items(self, value: Any, depth: int) -> list[Any]:
        """Return what a tuple contains."""
        return [self.encode(item, depth) for item in value]

    def members(self, value: set[Any] | frozenset[Any], depth: int) -> list[Any]:
        """Return what a set contains."""
        _check(value)
        return [self.encode(item, depth) for item in value]

    def fraction(self, value: Fraction, _: int) -> list[Any]:
        """The two sides of a fraction."""
        if value.numerator.bit_length() * value.denominator.bit_length() > _HEAVIEST_FRACTION:
            raise SerializationError(
                f"a Fraction with so many digits is not carried by codec={self._codec!r}, because reading it "
                f"takes too long; store its numerator and denominator"
            )
        return [self.encode(value.numerator), self.encode(value.denominator)]

    def zone(self, zone: tzinfo | None) -> list[Any]:
        """A time zone: nothing, a fixed offset with or without a name, or a key of the database."""
        if zone is None:
            return []
        if type(zone) is timezone:
            # What it was made with; a name that was given is not told from one that was derived
            # anywhere else.
            offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
            return [[offset.days, offset.seconds, offset.microseconds], *map(self.encode, name)]
        if type(zone) is ZoneInfo and ZoneInfo(zone.key or "") is zone:
            return [zone.key]
        raise SerializationError(
            f"a time zone of type {type(zone).__name__} is not carried by codec={self._codec!r}; "
            f"use datetime.timezone or zoneinfo.ZoneInfo(key), or codec='pickle'"
        )

    def _refusal(self, value: Any) -> str:
        refusal = refusal_of(value)
        if refusal is not None:
            return f"the value contains {refusal}"
        kind = type(value)
        name = (
            kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        )
        parents = [parent.__name__ for parent in kind.__mro__ if parent in _LOWERINGS or parent in _OWN]
        if parents:
            remedy = f"convert it to a plain {parents[0]} first"
        else:
            remedy = "convert it to plain values first"
        return (
            f"codec={self._codec!r} cannot carry a value of type {name} as it is; {remedy}, "
            f"or use codec='pickle'"
        )


def decode(tagged: dict[str, Any]) -> Any:
    """A dict as the format read it, or the value that it stands for: a hook for decoders.

    Everything inside it has been through here already.

    Raises:
        UnreadableError: it has the tag, and is nothing that `encode` returns.
    """
    if TAG not in tagged:
        return tagged
    try:
        kind, *parts = tagged[TAG]
        return _RAISINGS[kind](*parts)
    except UnreadableError:
        raise
    except Exception as error:
        if is_no_fault_of_value(error):
            raise
        raise UnreadableError(f"a stored value is malformed: {type(error).__name__}", "damage") from error


def _check(container: dict[Any, Any] | set[Any] | frozenset[Any]) -> None:
    """Refuse what a reader would refuse, so that it is an error at `set` and not a miss at each `get`."""
    try:
        check([*container], type(container))
    except UnreadableError as error:
        raise SerializationError(
            f"a {type(container).__name__} cannot be stored, because {error}; store a list of its items"
        ) from error


_OWN: Final = frozenset({str, int, float, list, dict})


def _hex(_: Plainer, value: bytes | bytearray, __: int) -> list[Any]:
    return [value.hex()]


def _text(_: Plainer, value: Any, __: int) -> list[Any]:
    return [str(value)]


def _delta(_: Plainer, value: timedelta, __: int) -> list[Any]:
    return [value.days, value.seconds, value.microseconds]


def _moment(plainer: Plainer, value: Any, _: int) -> list[Any]:
    return [value.replace(tzinfo=None).isoformat(), value.fold, *plainer.zone(value.tzinfo)]


_LOWERINGS: Final[dict[type, Callable[[Plainer, Any, int], list[Any]]]] = {
    tuple: Plainer.items,
    set: Plainer.members,
    frozenset: Plainer.members,
    bytes: _hex,
    bytearray: _hex,
    complex: lambda plainer, value, _: [plainer.encode(value.real), plainer.encode(value.imag)],
    Decimal: _text,
    Fraction: Plainer.fraction,
    uuid.UUID: lambda _, value, __: [value.hex, value.is_safe.value],
    date: lambda _, value, __: [value.isoformat()],
    time: _moment,
    datetime: _moment,
    timedelta: _delta,
}


def _float(packed: str) -> float:
    (number,) = _DOUBLE.unpack(bytes.fromhex(packed))
    return float(number)


def _fraction(numerator: int, denominator: int) -> Fraction:
    # Integers only: Fraction("1e999999999") is a number of a billion digits.
    if type(numerator) is not int or type(denominator) is not int:
        raise TypeError("a fraction of something else")
    if numerator.bit_length() * denominator.bit_length() > _HEAVIEST_FRACTION:
        raise ValueError("a fraction that takes too long to be reduced")
    return Fraction(numerator, denominator)


def _complex(real: float, imaginary: float) -> complex:
    # Floats only: a complex of a text or a long integer takes longer.
    if type(real) is not float or type(imaginary) is not float:
        raise TypeError("a complex of something else")
    return complex(real, imaginary)


def _dict(*pairs: list[Any]) -> dict[Any, Any]:
    check([key for key, _ in pairs], dict)
    return dict(pairs)


def _items(kind: type[set[Any] | frozenset[Any]]) -> Callable[..., Any]:
    def container(*items: Any) -> Any:
        check(items, kind)
        return kind(items)

    return container


def _decimal(digits: str) -> Decimal:
    # Text only: an integer of a megabyte takes minutes to become digits.
    if type(digits) is not str:
        raise TypeError("a decimal of something else")
    return Decimal(digits)


def _zone(where: Any, name: tuple[str, ...]) -> tzinfo:
    if isinstance(where, str):
        return ZoneInfo(where)
    return timezone(timedelta(*where), *name)


def _raise_moment(kind: type[datetime | time]) -> Callable[..., Any]:
    def moment(iso: str, fold: int, *zone: Any) -> Any:
        tz = _zone(zone[0], zone[1:]) if zone else None
        return kind.fromisoformat(iso).replace(fold=fold, tzinfo=tz)

    return moment


_RAISINGS: Final[dict[str, Callable[..., Any]]] = {
    "int": lambda digits: int(digits, 16),
    "float": _float,
    "str": lambda packed: bytes.fromhex(packed).decode("utf-8", "surrogatepass"),
    "dict": _dict,
    "tuple": lambda *items: items,
    "set": _items(set),
    "frozenset": _items(frozenset),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "complex": _complex,
    "Decimal": _decimal,
    "Fraction": _fraction,
    "UUID": lambda digits, safe: uuid.UUID(digits, is_safe=uuid.SafeUUID(safe)),
    "date": date.fromisoformat,
    "time": _raise_moment(time),
    "datetime": _raise_moment(datetime),
    "timedelta": timedelta,
}
