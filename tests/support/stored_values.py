"""Values to send through serializers: hand-picked awkward ones, and strategies for nested ones."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import pathlib
import uuid
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from hypothesis import strategies as st


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Bits(enum.Flag):
    A = 1
    B = 2


class Point(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass(frozen=True)
class Account:
    name: str
    balance: Decimal


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Row(list[int]):
    pass


class Mapping(dict[str, int]):
    pass


#: What needs allow= in a place that is not trusted, with the class to register.
REGISTERED: list[tuple[Any, type]] = [
    (Colour.RED, Colour),
    (Level.LOW, Level),
    (Bits.A | Bits.B, Bits),
    (Point(1, 2), Point),
    (Account("a", Decimal("1.50")), Account),
    (Text("t"), Text),
    (Number(3), Number),
    (Row([1]), Row),
    (Mapping(a=1), Mapping),
    (ValueError("no", 1), ValueError),
]

_SIX = dt.timezone(dt.timedelta(hours=6))

#: What JSON and MessagePack carry too.
PLAIN: list[Any] = [
    None, True, False, 0, 1, -1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**70, 10**5000,
    -(10**5000), 0.0, -0.0, 1.5, 5e-324, float("inf"), float("-inf"), float("nan"), "", "text",
    "ü€😀", "\ud800", "\ud800\udc00", "\0", "$", b"", b"\xff\0", bytearray(b"ab"), [], {}, (), (1,),
    ((),), set(), {1, (2,)}, frozenset({1}), [True, 1, 1.0], {"a": [1, {"b": (2, 3)}]},
    {1: "a", "1": "b"}, {True: 1}, {None: 0}, {(1, "a"): 2}, {"$": ["tuple", 1]}, {"$": 1, "b": 2},
    {"\ud800": 1}, {frozenset({1}): 1}, {1.5: 2, -0.0: 1}, {b"k": b"v"}, [[]] * 3, complex(1, -0.0),
    complex(float("nan"), 1), Decimal("1.10"), Decimal("-0"), Decimal("NaN"), Decimal("sNaN"),
    Decimal("1E+999999"), Fraction(1, 3), Fraction(-(2**70), 7), uuid.UUID(int=2**127 + 3),
    dt.date(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999999), dt.time(1, 2, 3, 4),
    dt.time(1, tzinfo=dt.UTC), dt.timedelta(-1, 5, 7), dt.datetime(2024, 2, 29, tzinfo=dt.UTC),
    dt.datetime(2024, 2, 29, tzinfo=_SIX),
    dt.datetime(2024, 2, 29, tzinfo=dt.timezone(dt.timedelta(hours=-5), "EST")),
    dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
    dt.datetime(2024, 10, 27, 2, 30, fold=1), dt.datetime.min,
    dt.datetime(2024, 1, 1, microsecond=1),
]  # fmt: skip

#: What only pickle carries, from any place.
BUILTIN: list[Any] = [
    *PLAIN,
    collections.OrderedDict(b=1, a=2),
    collections.defaultdict(list, a=[1]),
    collections.defaultdict(None, a=1),
    collections.deque([1, 2]),
    collections.deque([1], maxlen=3),
    collections.Counter("abca"),
    pathlib.Path("a/b"),
    pathlib.PurePosixPath("/x"),
    pathlib.PureWindowsPath("c:/x"),
    [int, str, dict],
    dt.UTC,
    ZoneInfo("Europe/Berlin"),
    [pathlib.Path("/usr/lib/python/site-packages") / str(n) for n in range(50)],
]


def nested() -> st.SearchStrategy[Any]:
    """Nested values of the types that every codec carries."""
    texts = st.text(st.characters(codec=None), max_size=8)
    zones = st.sampled_from([None, dt.UTC, _SIX, ZoneInfo("Europe/Berlin")])
    hashable = (
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
        | st.binary(max_size=8) | st.dates() | st.decimals(allow_nan=False) | st.uuids()
        | st.tuples(st.integers(), texts) | st.frozensets(st.integers(), max_size=3)
    )  # fmt: skip
    leaves = (
        hashable | st.floats() | st.complex_numbers() | st.binary(max_size=8).map(bytearray)
        | st.datetimes(timezones=zones) | st.times() | st.timedeltas() | st.fractions()
        | st.integers(-(2**200), 2**200)
    )  # fmt: skip
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(texts, inner, max_size=4)
            | st.dictionaries(hashable, inner, max_size=4)
            | st.lists(inner, max_size=4).map(tuple)
            | st.sets(hashable, max_size=4)
        ),
        max_leaves=12,
    )
