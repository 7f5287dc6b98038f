"""Arguments in keys: two texts are equal exactly if the arguments are, types included (P16)."""

from __future__ import annotations

import builtins
import copy
import datetime as dt
import enum
import ipaddress
import logging
import math
import operator
import os
import re
import threading
import time
import uuid
import zoneinfo
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import InitVar, dataclass, field, make_dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath
from types import FunctionType
from typing import Any, ClassVar, NamedTuple

import pytest
from exploring import explored
from hypothesis import example, given
from hypothesis import strategies as st

from cachekit import KeyEncodingError, cache_result
from cachekit.decorator.key_encoding import arguments_text, encode


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Rank(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Right(enum.Flag):
    READ = 1
    WRITE = 2


@dataclass(frozen=True)
class Point:
    x: Any
    y: Any


@dataclass(frozen=True)
class Pixel:
    x: Any
    y: Any


class Pair(NamedTuple):
    x: Any
    y: Any


class UserId(int):
    pass


class Name(str):
    __slots__ = ()


class Keyed:
    def __init__(self, identity: Any) -> None:
        self.identity = identity

    def __cache_key__(self) -> Any:
        return self.identity


_make_tuple: Any = namedtuple  # noqa: PYI024


def _named(fields: str) -> Any:
    return _make_tuple("Made", fields)


def _stat(modified: int) -> os.stat_result:
    """Of a file that was modified in so many nanoseconds, of which the tuple has the seconds."""
    return os.stat_result(range(10), {"st_mtime_ns": modified})


class Unkeyed:
    def method(self) -> None: ...


# -- equal keys exactly if equal with types ----------------------------------------------------------

_LETTERS = "ab,:=()<>~s1'\0é\ud800"
_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.sampled_from([10**17, 10**18, 10**18 + 1, -(10**18), 2**64])
    | st.sampled_from([0.0, -0.0, 1.0, 2.0, 1e16, math.inf, -math.inf, math.nan])
    | st.sampled_from([0j, 1 + 0j, complex(-0.0, 0.0), complex(0.0, -0.0)])
    | st.text(_LETTERS, max_size=5)
    | st.binary(max_size=2)
    | st.binary(max_size=2).map(bytearray)
    | st.sampled_from([*Colour, *Rank, *Right, Right.READ | Right.WRITE, Right(0)])
    | st.sampled_from([Decimal(1), Decimal("1.0"), Fraction(1), Fraction(1, 2), UserId(1), Name("a")])
    | st.sampled_from(
        [Path("a"), PurePosixPath("a"), Path("a/b"), uuid.UUID(int=1), range(2), range(0, 2, 2)]
    )
    | st.sampled_from([dt.date(2024, 1, 1), dt.datetime(2024, 1, 1), dt.timedelta(1), dt.time(1)])
    | st.sampled_from([int, str, Colour, len, abs, operator.add, ..., slice(1), slice(0, 1)])
)
_hashable = st.recursive(
    _scalars.filter(lambda value: not isinstance(value, (bytearray, slice))),
    lambda inner: st.lists(inner, max_size=2).map(tuple) | st.frozensets(inner, max_size=2),
    max_leaves=3,
)
_values = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.lists(inner, max_size=2).map(deque)
        | st.sets(_hashable, max_size=3)
        | st.frozensets(_hashable, max_size=3)
        | st.dictionaries(_hashable, inner, max_size=2)
        | st.dictionaries(_hashable, inner, max_size=2).map(OrderedDict)
        | st.builds(Point, inner, inner)
        | st.builds(Pixel, inner, inner)
        | st.builds(Pair, inner, inner)
        | st.builds(Keyed, inner)
    ),
    max_leaves=6,
)
_arguments = st.lists(_values, max_size=3).map(tuple)


def same(a: Any, b: Any) -> bool:
    """Equal and of one type, all the way down; 0.0 and -0.0 are two, NaN is one."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (float, complex, Decimal)):
        return repr(a) == repr(b)
    if isinstance(a, (set, frozenset)):
        return len(a) == len(b) and all(any(same(x, y) for y in b) for x in a)
    if isinstance(a, (list, tuple, deque)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, OrderedDict):
        return same(list(a.items()), list(b.items()))
    if isinstance(a, dict):
        pairs = list(b.items())
        return len(a) == len(b) and all(any(same(pair, other) for other in pairs) for pair in a.items())
    if isinstance(a, (Point, Pixel)):
        return same((a.x, a.y), (b.x, b.y))
    if isinstance(a, Keyed):
        return same(a.identity, b.identity)
    if isinstance(a, range):
        return same((a.start, a.stop, a.step), (b.start, b.stop, b.step))
    if isinstance(a, type) or callable(a):
        return a is b
    return bool(a == b)


def text(*values: Any) -> str:
    return arguments_text((f"p{index}", value) for index, value in enumerate(values))


class Shouting(list[str]):
    """Hands out something else than it holds, as views of data do."""

    def __iter__(self) -> Iterator[str]:
        return iter(["!"] * len(self))


class Folded(dict[str, int]):
    """The same for a dict."""

    def keys(self) -> Any:
        return [key.upper() for key in super().__iter__()]

    def __getitem__(self, key: str) -> int:
        return 0

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())


class Rounded(float):
    """And for a number."""

    def __float__(self) -> float:
        return float(round(float.__float__(self)))


class TestEncoding:
    @given(st.data())
    @explored(examples=3)
    def test_equal_keys_exactly_if_equal_with_types(self, data: st.DataObject) -> None:
        """Two argument tuples of one length have one text exactly if they are the same, types included."""
        a = data.draw(_arguments)
        b = data.draw(
            st.lists(_values, min_size=len(a), max_size=len(a)).map(tuple) | st.just(copy.deepcopy(a))
        )

        assert same(a, b) == (text(*a) == text(*b))

    @given(_values, _values)
    @explored(examples=3)
    @example(1, True)
    @example(1, 1.0)
    @example("1", 1)
    @example(b"1", "1")
    @example((), [])
    @example(["a,sb"], ["a", "b"])
    @example(["a,s1:b"], ["a", "b"])
    @example(("a,b",), ("a", "b"))
    @example({1: 2}, {(1, 2)})
    @example([1, [2]], [[1], 2])
    def test_one_argument(self, a: Any, b: Any) -> None:
        """Two values have one text exactly if they are the same, types included."""
        assert same(a, b) == (encode(a) == encode(b))

    @given(_values)
    @explored(examples=3)
    def test_a_copy_is_the_same_question(self, value: Any) -> None:
        """What is equal and made again has the same text."""
        assert encode(value) == encode(copy.deepcopy(value))

    def test_order_where_it_does_not_count(self) -> None:
        """The order in which a dict or a set was filled is no part of the question; an OrderedDict's is."""
        assert encode({"a": 1, "b": 2}) == encode({"b": 2, "a": 1})
        assert encode({"a", "b", "c"}) == encode({"c", "b", "a"})
        assert encode(OrderedDict(a=1, b=2)) != encode(OrderedDict(b=2, a=1))

    def test_zeros_and_nan(self) -> None:
        """0.0 and -0.0 are two questions, since 1 / x answers differently; NaN is one."""
        assert encode(0.0) != encode(-0.0)
        assert encode(math.nan) == encode(float("nan"))

    def test_two_that_look_alike(self, subtests: pytest.Subtests) -> None:
        """Values that differ in what a careless text leaves out are two questions."""
        rows: list[tuple[Any, Any]] = [
            (dt.timezone(dt.timedelta(hours=1), "X"), dt.timezone(dt.timedelta(hours=2), "X")),
            (
                dt.datetime(2024, 1, 1, 12, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
                dt.datetime(2024, 1, 1, 12, tzinfo=zoneinfo.ZoneInfo("Europe/Paris")),
            ),
            (dt.datetime(2024, 10, 27, 2, 30, fold=0), dt.datetime(2024, 10, 27, 2, 30, fold=1)),
            (dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 1, tzinfo=dt.UTC)),
            (ipaddress.ip_address("10.0.0.1"), ipaddress.ip_interface("10.0.0.1")),
            (re.compile("a"), re.compile("a", re.IGNORECASE)),
            (re.compile("a"), re.compile(b"a")),
            (defaultdict(int, a=1), defaultdict(bool, a=1)),
            (Counter("ab"), {"a": 1, "b": 1}),
            (deque([1], maxlen=1), deque([1], maxlen=2)),
            ({"a": 1}.get, {"b": 1}.get),
            ([].append, [1].append),
            ("a".isalpha, "a".isdigit),
            (Keyed(1).__cache_key__, Keyed(2).__cache_key__),
            (slice(1, 2), slice(1, 2, 1)),
            (Shouting(["a"]), Shouting(["b"])),
            (Folded(a=1), Folded(a=2)),
            (Rounded(1.1), Rounded(1.2)),
            (_named("x y")(1, 2), _named("y x")(1, 2)),
            (_stat(10**18), _stat(10**18 + 1)),
            (time.localtime(0), time.struct_time([*time.localtime(0), "elsewhere", 1])),
        ]
        for a, b in rows:
            with subtests.test(a=a, b=b):
                assert encode(a) != encode(b)
                assert encode(a) == encode(a)

    def test_members_that_share_a_name(self) -> None:
        """Members of two versions of an Enum are two questions if their values differ."""
        make: Any = enum.Enum
        one, two = (make("Hue", {"RED": value}, module="nowhere", qualname="Hue") for value in "ab")
        assert encode(one.RED) != encode(two.RED)

    def test_functions_with_defaults(self) -> None:
        """Two functions of one factory that differ only in a default are two arguments."""

        def made(n: int) -> Callable[[int], int]:
            def inner(x: int, n: int = n) -> int:
                return x * n

            return inner

        assert encode(made(1)) != encode(made(2))
        assert encode(made(1)) == encode(made(1))

    def test_dataclass_fields(self) -> None:
        """InitVar and ClassVar are no fields; a field that comparison leaves out is still asked for."""
        assert encode(WithExtras(1, 5)) == f"<{__name__}.WithExtras:x=1,hidden=0>"
        assert encode(WithExtras(1, 5)) != encode(WithExtras(2, 5))

    def test_huge_and_deep(self) -> None:
        """A number of any length, and containers 40 deep, are fine."""
        assert encode(10**6000) != encode(10**6000 + 1)
        nested: Any = 1
        for _ in range(40):
            nested = [nested]
        assert encode(nested).count("[") == 40


@dataclass
class WithExtras:
    registry: ClassVar[Any] = threading.Lock()
    x: int
    seed: InitVar[int]
    hidden: int = field(default=0, compare=False)


class MoreThanPoint(Point):
    def __init__(self, x: int, y: int, z: int) -> None:
        super().__init__(x, y)
        object.__setattr__(self, "z", z)


class Proxy:
    """Says that it is what it stands for, as lazy objects and mocks do."""

    def __init__(self, of: type) -> None:
        self.of = of

    @property  # type: ignore[misc]  # to lie about it is the point
    def __class__(self) -> Any:
        return self.of


@dataclass(slots=True)
class Slotted:
    x: int


class MoreThanSlotted(Slotted):
    __slots__ = ("y",)


def _with_slot() -> MoreThanSlotted:
    value = MoreThanSlotted(1)
    value.y = 2  # type: ignore[attr-defined]  # mypy does not see what __slots__ adds
    return value


@dataclass
class Unset:
    x: int = field(init=False)


@dataclass
class Tagged(list[int]):
    """What a list holds is no field."""

    tag: str


class Labelled(str):
    label = ""


def _recursive_list() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def _local_class() -> type:
    @dataclass
    class Local:
        x: int = 1

    return Local


def _labelled() -> Labelled:
    value = Labelled("a")
    value.label = "b"
    return value


class TestUnkeyable:
    def test_it_is_refused_with_the_remedies(self, subtests: pytest.Subtests) -> None:
        """An argument without an identity is a clear error: which one, why, and three ways out."""
        rows: list[tuple[Any, str]] = [
            (Unkeyed(), "a value of type tests?.*Unkeyed has no identity except its place in memory"),
            (object(), "a value of type object has no identity"),
            (threading.Lock(), "no identity"),
            (logging.getLogger(), "no identity"),
            (iter([1]), "no identity"),
            (Unkeyed().method, "no identity"),
            ([1, {"a": (object(),)}], "no identity"),
            (lambda: 1, "is a lambda"),
            (_recursive_list(), "contains itself"),
            (_labelled(), "is a str with further attributes"),
            (MoreThanPoint(1, 2, 3), "is not a dataclass itself"),
            (_with_slot(), "is not a dataclass itself"),
            (Proxy(enum.Enum), "no identity"),
            (Proxy(type), "no identity"),
            (Proxy(FunctionType), "no identity"),
            (Unset(), "the field x of a tests?.*Unset has no value yet"),
            (Tagged("tag"), "is a list with further attributes"),
            (_local_class(), "defined inside a function"),
            (_local_class()(), "defined inside a function"),
            (make_dataclass("Made", ["x"]), "not what its module has under that name"),
            (type("Colour", (), {}), "not what its module has under that name"),
            (_make_tuple("Point", "x")(1), "not what its module has"),
        ]
        for value, why in rows:
            with subtests.test(value=value):

                @cache_result
                def asked(thing: Any) -> None: ...

                with pytest.raises(KeyEncodingError, match=why) as refused:
                    asked.key(value)
                message = str(refused.value)
                assert message.startswith("the argument 'thing' cannot be part of a key: ")
                assert "ignore=('thing',)" in message
                assert "__cache_key__" in message
                assert "key_func" in message
                assert isinstance(refused.value, TypeError)

    def test_a_closure_as_an_argument(self) -> None:
        """A function that captured something may be one of several with its name."""
        captured = 1

        def inner() -> int:
            return captured

        @cache_result
        def asked(thing: Any) -> None: ...

        with pytest.raises(KeyEncodingError, match=r"uses variables of the function around it \(captured\)"):
            asked(inner)

    def test_an_identity_of_its_own(self) -> None:
        """`__cache_key__` is asked first, and the class is part of the text."""
        assert encode(Keyed((1, "a"))) == f"<{__name__}.Keyed:(1,s1:a)>"


def test_builtins_are_told_apart() -> None:
    """Every builtin function and class has a text of its own."""
    every = {id(one): encode(one) for one in vars(builtins).values() if isinstance(one, (type, type(len)))}
    assert len(set(every.values())) == len(every)
