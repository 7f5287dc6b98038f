"""What is looked at for each kind of argument: the table of docs/decorator.md with an example of each aspect.

Each kind makes a value from content, and has variants that differ from `make(1)` in one aspect each. Run as a
program, it prints the keys of random nested values of each kind, to compare processes with each other.
"""

from __future__ import annotations

import argparse
import array
import collections
import datetime as dt
import enum
import functools
import operator
import random
import sys
import types
import typing
import zoneinfo
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, PrivateAttr

from cachekit.decorator.key_encoding import encode


class Kind(NamedTuple):
    """How to make a value that holds a content, and values that differ from that of 1 in one aspect."""

    make: Callable[[Any], Any]
    variants: dict[str, Callable[[], Any]]


def changed(value: Any, name: str, to: object) -> Any:
    """Set an attribute past all checks of the class, and return the object."""
    object.__setattr__(value, name, to)
    return value


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Shade(enum.Enum):
    RED = 1


class Planet(enum.Enum):
    EARTH = 1

    def __init__(self, mass: int) -> None:
        self.mass = mass


class _PlanetOfOthers(enum.Enum):
    EARTH = 1

    def __init__(self, mass: int) -> None:
        self.mass = mass + 1


_PlanetOfOthers.__qualname__ = "Planet"
_PlanetOfOthers.__module__ = "elsewhere"  # where nothing of that name is found


@dataclass
class Query:
    text: Any
    scale: InitVar[Any] = 1
    hidden: int = field(default=0, compare=False, repr=False)

    def __post_init__(self, scale: Any) -> None:
        self.weights = [scale]

    @functools.cached_property
    def length(self) -> int:
        return 1


@dataclass
class Other:
    text: Any


@dataclass
class Slotted:
    __slots__ = ("__private", "text")
    text: Any

    def keep(self, value: object) -> Slotted:
        self.__private = value
        return self


class Pair(NamedTuple):
    x: Any
    y: int = 0


class Couple(NamedTuple):
    x: Any
    y: int = 0


class Model(BaseModel):
    model_config = ConfigDict(extra="allow")
    x: Any
    _secret: Any = PrivateAttr(default=0)

    @functools.cached_property
    def length(self) -> int:
        return 1


class Keyed:
    def __init__(self, identity: Any) -> None:
        self.identity = identity

    def __cache_key__(self) -> Any:
        return self.identity


class KeyedToo(Keyed):
    pass


class Zone(dt.tzinfo):
    """A zone as libraries have them: its state in attributes, some of them objects."""

    def __init__(self, hours: int, rules: Any = None) -> None:
        self.hours = hours
        self.rules = Rules(rules)

    def utcoffset(self, _: dt.datetime | None) -> dt.timedelta:
        return dt.timedelta(hours=self.hours)

    def dst(self, _: dt.datetime | None) -> dt.timedelta:
        return dt.timedelta(0)

    def tzname(self, _: dt.datetime | None) -> str:
        return "Zone"


class Rules:
    def __init__(self, held: Any) -> None:
        self.held = held


class Moment(dt.datetime):
    pass


class Instant(dt.datetime):
    pass


class Amount(Decimal):
    pass


def helper(x: Any, k: Any = None) -> Any:
    return x, k


def annotated(x: str) -> int:
    return 1


def annotated_otherwise(x: int) -> int:
    return 1


annotated_otherwise.__qualname__ = annotated_otherwise.__name__ = "annotated"


class Holder:
    def __init__(self, held: Any) -> None:
        self.held = held

    def __cache_key__(self) -> Any:
        return self.held

    def method(self) -> None: ...

    def another(self) -> None: ...


def with_default(content: Any) -> Callable[..., Any]:
    """Make one of several functions of one name, which differ in a default."""

    def inner(x: Any = content) -> Any:
        return x

    return inner


def having_attribute(content: Any) -> Callable[..., Any]:
    """Make one of several functions of one name, which differ in an attribute."""

    def inner() -> None: ...

    inner.content = content  # type: ignore[attr-defined]
    return inner


def a_class(content: Any) -> type:
    """Return the one class of its name, with an attribute set to the content."""
    Changing.content = content
    return Changing


class Changing:
    content: Any = 1


class _ChangedMethod:
    content: Any = 1

    def method(self) -> None: ...


class _ChangedAnnotation:
    content: str = 1  # type: ignore[assignment]


def as_changing(kind: type) -> str:
    """Return the text of a class after it took the place of `Changing`."""
    original, (name, qualname) = Changing, (kind.__name__, kind.__qualname__)
    kind.__name__ = kind.__qualname__ = "Changing"
    sys.modules[__name__].Changing = kind  # type: ignore[attr-defined]
    try:
        return encode(kind)
    finally:
        kind.__name__, kind.__qualname__ = name, qualname
        sys.modules[__name__].Changing = original  # type: ignore[attr-defined]


def _utc(*when: int, zone: Any = dt.UTC, fold: int = 0) -> dt.datetime:
    return dt.datetime(*when, tzinfo=zone, fold=fold)  # type: ignore[arg-type,misc]


#: By the first column of the table in docs/decorator.md. "class" has its own tests in test_definitions.py.
KINDS: dict[str, Kind] = {
    "None, bool, int, float, complex, str, bytes, a date or time, Path, UUID, Decimal, Fraction, IP address, "
    "pattern": Kind(
        lambda content: (encode(content), PurePosixPath(encode(content))),
        {
            "type": lambda: (encode(1), encode(1)),
            "value": lambda: (encode(2), PurePosixPath(encode(1))),
            "type of a number": lambda: (encode(1), Decimal(1)),
            "type of a fraction": lambda: (encode(1), Fraction(1)),
        },
    ),
    "list, tuple, set, dict and related types, `UserDict`, `UserList`, `ChainMap`, mapping proxy, view of a "
    "dict": Kind(
        lambda content: (
            collections.UserDict(a=content),
            collections.UserList([content]),
            collections.ChainMap({"a": content}, {}),
            types.MappingProxyType({"a": content}),
            {"a": content}.items(),
            [content],
        ),
        {
            f"part {at}": functools.partial(
                lambda at: tuple(
                    2 if at == index else part
                    for index, part in enumerate(
                        KINDS[
                            "list, tuple, set, dict and related types, `UserDict`, `UserList`, `ChainMap`, "
                            "mapping proxy, view of a dict"
                        ].make(1)
                    )
                ),
                at,
            )
            for at in range(6)
        },
    ),
    "`array.array`, `memoryview`, array or number of numpy": Kind(
        lambda content: (
            array.array("B", encode(content).encode()),
            memoryview(encode(content).encode()),
            np.frombuffer(encode(content).encode(), np.uint8),
        ),
        {
            "type": lambda: (b"1", memoryview(b"1"), np.frombuffer(b"1", np.uint8)),
            "item type": lambda: (
                array.array("b", [49]),
                memoryview(b"1"),
                np.frombuffer(b"1", np.uint8),
            ),
            "format": lambda: (
                array.array("B", [49]),
                memoryview(b"1").cast("b"),
                np.frombuffer(b"1", np.uint8),
            ),
            "shape": lambda: (
                array.array("B", [49]),
                memoryview(b"1"),
                np.frombuffer(b"1", np.uint8).reshape(1, 1),
            ),
        },
    ),
    "date or time with a time zone of another library": Kind(
        lambda content: _utc(2024, 1, 1, zone=Zone(1, content)),
        {
            "value": lambda: _utc(2024, 1, 2, zone=Zone(1, 1)),
            "fold": lambda: _utc(2024, 1, 1, zone=Zone(1, 1), fold=1),
            "state": lambda: _utc(2024, 1, 1, zone=Zone(2, 1)),
            "class": lambda: _utc(2024, 1, 1, zone=dt.timezone(dt.timedelta(hours=1), "Zone")),
            "library": lambda: _utc(2024, 1, 1, zone=zoneinfo.ZoneInfo("Europe/Berlin")),
        },
    ),
    "date, time or Decimal of a class derived from those": Kind(
        lambda content: [changed(Moment(2024, 1, 1), "note", content), Amount("1.0")],
        {
            "class": lambda: [changed(Instant(2024, 1, 1), "note", 1), Amount("1.0")],
            "value": lambda: [changed(Moment(2024, 1, 2), "note", 1), Amount("1.0")],
            "fold": lambda: [changed(Moment(2024, 1, 1, fold=1), "note", 1), Amount("1.0")],
            "zone": lambda: [changed(Moment(2024, 1, 1, tzinfo=dt.UTC), "note", 1), Amount("1.0")],
            "digits": lambda: [changed(Moment(2024, 1, 1), "note", 1), Amount("1")],
            "attributes": lambda: [changed(Moment(2024, 1, 1), "note", 2), Amount("1.0")],
        },
    ),
    "member of an Enum": Kind(
        lambda content: changed(Colour.RED, "note", content),
        {
            "class": lambda: changed(Shade.RED, "note", 1),
            "name": lambda: changed(Colour.BLUE, "note", 1),
            "attributes": lambda: changed(Colour.RED, "note", 2),
        },
    ),
    "dataclass": Kind(
        lambda content: Query("a", content),
        {
            "class": lambda: Other("a"),
            "fields": lambda: Query("b", 1),
            "fields that are not compared": lambda: Query("a", 1, 5),
            "attributes that an InitVar made": lambda: Query("a", 2),
            "attributes that were set": lambda: changed(Query("a", 1), "more", 1),
            "private attributes": lambda: changed(Query("a", 1), "_more", 1),
        },
    ),
    "named tuple": Kind(
        lambda content: Pair(content),
        {"class": lambda: Couple(1), "fields": lambda: Pair(1, 2), "a plain tuple": lambda: (1, 0)},
    ),
    "model of pydantic (2)": Kind(
        lambda content: Model(x=content),
        {
            "fields": lambda: Model(x=2),
            "extra fields": lambda: Model.model_validate({"x": 1, "y": 1}),
            "private attributes": lambda: changed(Model(x=1), "_secret", 1),
            "attributes set past its checks": lambda: _further(Model(x=1)),
        },
    ),
    "`SimpleNamespace`, `argparse.Namespace`": Kind(
        lambda content: [types.SimpleNamespace(a=content), argparse.Namespace(a=content)],
        {
            "class": lambda: [argparse.Namespace(a=1), argparse.Namespace(a=1)],
            "attributes": lambda: [types.SimpleNamespace(a=1), argparse.Namespace(a=1, b=1)],
        },
    ),
    "`functools.partial`, getter of `operator`": Kind(
        lambda content: [functools.partial(helper, content, k=content), operator.itemgetter(encode(content))],
        {
            "function": lambda: [functools.partial(dict, 1, k=1), operator.itemgetter("1")],
            "arguments": lambda: [functools.partial(helper, 2, k=1), operator.itemgetter("1")],
            "keywords": lambda: [functools.partial(helper, 1, k=2), operator.itemgetter("1")],
            "getter": lambda: [functools.partial(helper, 1, k=1), operator.attrgetter("1")],
        },
    ),
    "`list[int]`, `Optional[int]`, `Literal`, `Annotated`, type variable, forward reference, `NewType`, "
    "`type X = ...` without X in it": Kind(
        lambda content: [
            list[int],
            int | None,
            typing.Literal[encode(content)],
            typing.Annotated[int, encode(content)],
        ],
        {
            "origin": lambda: [set[int], int | None, typing.Literal["1"], typing.Annotated[int, "1"]],
            "arguments": lambda: [list[str], int | None, typing.Literal["1"], typing.Annotated[int, "1"]],
            "members": lambda: [list[int], str | None, typing.Literal["1"], typing.Annotated[int, "1"]],
            "order": lambda: [list[int], None | int, typing.Literal["1"], typing.Annotated[int, "1"]],
            "type of a literal": lambda: [
                list[int],
                int | None,
                typing.Literal[1],
                typing.Annotated[int, "1"],
            ],
            "metadata": lambda: [list[int], int | None, typing.Literal["1"], typing.Annotated[int, "2"]],
        },
    ),
    "function": Kind(
        lambda content: [with_default(content), having_attribute(content), annotated],
        {
            "name": lambda: [helper, having_attribute(1), annotated],
            "defaults": lambda: [with_default(2), having_attribute(1), annotated],
            "attributes": lambda: [with_default(1), having_attribute(2), annotated],
            "annotations": lambda: [with_default(1), having_attribute(1), annotated_otherwise],
        },
    ),
    "bound method": Kind(
        lambda content: Holder(content).method,
        {"function": lambda: Holder(1).another, "instance": lambda: Holder(2).method},
    ),
    "class": Kind(a_class, {"an attribute": lambda: a_class(2), "name": lambda: Holder}),
    "class that is built in or of the standard library": Kind(
        lambda content: [int, Decimal, encode(content)],
        {"name": lambda: [float, Decimal, "1"]},
    ),
    "object with `__cache_key__`": Kind(Keyed, {"class": lambda: KeyedToo(1), "value": lambda: Keyed(2)}),
}


def _further(model: Model) -> Model:
    model.__dict__["more"] = 1
    return model


def random_value(chance: random.Random, depth: int = 3) -> Any:
    """Return a nested value of plain types."""
    if not depth or chance.random() < 0.3:
        return chance.choice([None, True, 0, 1, -0.0, 1.5, "a", "é", b"a", 10**20, Shade.RED, 2j])
    items = [random_value(chance, depth - 1) for _ in range(chance.randrange(4))]
    makers: list[Callable[[], Any]] = [
        lambda: items,
        lambda: tuple(items),
        lambda: {f"k{at}": item for at, item in enumerate(items)},
        lambda: {encode(item) for item in items},
        lambda: frozenset(map(encode, items)),
        lambda: Query(items, items),
        lambda: {"names": {"b", "c", encode(items)}, "kind": Pair(items)},
    ]
    return chance.choice(makers)()


if __name__ == "__main__":
    for name, kind in KINDS.items():
        chance = random.Random(name)
        for _ in range(100):
            print(encode(kind.make(random_value(chance))))
