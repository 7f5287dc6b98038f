"""The names of the parts in which a cached value and a fresh one differ."""

from __future__ import annotations

import random
import signal
import threading
from array import array
from collections import OrderedDict, deque
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from types import MappingProxyType
from typing import Any
from xml.etree.ElementTree import fromstring

import numpy as np
import pytest
from interrupting import handled_by

from cachekit.loading.comparison import differing


@dataclass
class Record:
    name: str
    price: Any


class Plain:
    def __init__(self, **parts: Any) -> None:
        vars(self).update(parts)


class Slotted:
    __slots__ = ("x", "y")

    def __init__(self, x: int, y: int) -> None:
        self.x, self.y = x, y


class Series:
    """As pandas has it: `==` is not a truth, and `equals` compares contents."""

    __module__ = "pandas.core"

    def __init__(self, *values: float) -> None:
        self.values = values

    def __eq__(self, other: object) -> Any:
        return np.array([True, False])

    __hash__ = None  # type: ignore[assignment]

    def equals(self, other: Series) -> bool:
        return self.values == other.values


class Lazy:
    """An attribute comes when it is read first."""

    def __init__(self, x: int) -> None:
        self.x = x

    @cached_property
    def double(self) -> int:
        return 2 * self.x


class Picky:
    """Equal to nothing, and pickle does not know what it holds."""

    def __eq__(self, other: object) -> bool:
        return False

    def __reduce_ex__(self, protocol: object) -> Any:
        raise TypeError

    __hash__ = None  # type: ignore[assignment]


def read(lazy: Lazy) -> Lazy:
    assert lazy.double
    return lazy


NAN = float("nan")
OTHER_NAN = float("nan")
PAIRS = [("price", "f8"), ("n", "i4")]


@pytest.mark.parametrize(
    ("cached", "fresh", "names"),
    [
        (1, 1, []), (1, 1.0, []), (1, 2, ["the result"]), (1, "1", ["the type of the result (int, now str)"]),
        (NAN, float("nan"), []), ([NAN, {"x": NAN}], [float("nan"), {"x": float("nan")}], []),
        ({"price": 1, "b": 2}, {"price": 3, "b": 2}, ["['price']"]),
        ({"a": 1}, {"a": 1, "b": 2}, ["the key ['b']"]), ({"a": 1, "c": 2}, {"a": 1}, ["the key ['c']"]),
        ({"a b": 1, 5: 1}, {"a b": 2, 5: 2}, ["[...]", "[...]"]),
        ([1, [2, 3]], [1, [2, 4]], ["[1][1]"]), ([1], [1, 2], ["the length of the result"]),
        ({"rows": (1, 2)}, {"rows": (1,)}, ["the length of ['rows']"]),
        ({1, 2}, {2, 1}, []), ({1}, {2}, ["the result"]),
        (Record("a", 1), Record("a", 2), [".price"]), (Record("a", NAN), Record("a", float("nan")), []),
        (Record("a", np.array([1, 2])), Record("a", np.array([1, 2])), []),
        (Plain(x=1, y=[2]), Plain(x=1, y=[2]), []), (Plain(x=1, y=[2]), Plain(x=1, y=[3]), [".y[0]"]),
        (Plain(), Plain(), []), (object(), object(), []), (Slotted(1, 2), Slotted(1, 2), []),
        (Slotted(1, 2), Slotted(1, 3), [".y"]), (Plain(x=1), Plain(z=1), ["the result"]),
        (np.array([1.0, NAN]), np.array([1.0, NAN]), []), (np.array([1]), np.array([2]), ["the result"]),
        (np.array([1]), np.array([1.0]), ["the result"]), (np.zeros((2, 2)), np.zeros(4), ["the result"]),
        ({"m": [np.ones(3)]}, {"m": [np.ones(3)]}, []), ({"m": np.ones(3)}, {"m": np.zeros(3)}, ["['m']"]),
        (np.array(["a", None], dtype=object), np.array(["a", None], dtype=object), []),
        (Series(1, 2), Series(1, 2), []), ({"s": Series(1)}, {"s": Series(2)}, ["['s']"]),
        ([{"a": n} for n in range(9)], [{"a": -n} for n in range(9)], ["[1]['a']", "[2]['a']", "[3]['a']"]),
        # NaN of each kind, also where `==` compares it.
        (complex(NAN, 1), complex(OTHER_NAN, 1), []), (Decimal("NaN"), Decimal("NaN"), []),
        (deque([NAN]), deque([OTHER_NAN]), []), ({NAN, 1}, {OTHER_NAN, 1}, []),
        (array("d", [NAN]), array("d", [OTHER_NAN]), []),
        (array("d", [NAN, 1]), array("d", [NAN, 2]), ["the result"]),
        (Decimal(1), Decimal(2), ["the result"]), ({NAN, 1}, {OTHER_NAN, 2}, ["the result"]),
        # Containers of objects whose class has no `==`.
        (deque([Plain(x=1)]), deque([Plain(x=1)]), []), (deque([Plain(x=1)]), deque([Plain(x=2)]), ["[0].x"]),
        ({Plain(x=1)}, {Plain(x=1)}, []), ({Plain(x=1)}, {Plain(x=2)}, ["the result"]),
        (MappingProxyType({"a": Plain(x=1)}), MappingProxyType({"a": Plain(x=1)}), []),
        (MappingProxyType({"a": 1}), MappingProxyType({"a": 2}), ["['a']"]),
        (OrderedDict(a=1, b=2), OrderedDict(b=2, a=1), ["the order of the result"]),
        # Objects in C, whose contents are no attributes.
        (ValueError("a"), ValueError("a"), []), (ValueError("a"), ValueError("b"), ["the result"]),
        ({"e": KeyError("a")}, {"e": KeyError("b")}, ["['e']"]),
        (random.Random(1), random.Random(1), []), (random.Random(1), random.Random(2), ["the result"]),
        (fromstring("<a x='1'/>"), fromstring("<a x='1'/>"), []),
        (fromstring("<a x='1'/>"), fromstring("<a x='2'/>"), [".attrib['x']"]),
        (threading.Lock(), threading.Lock(), []), (Picky(), Picky(), ["the result"]),
        (Plain(lock=threading.Lock(), x=1), Plain(lock=threading.Lock(), x=2), [".x"]),
        (Lazy(1), read(Lazy(1)), []), (read(Lazy(1)), Lazy(2), [".x"]),
        # Arrays with a mask, with fields, with objects.
        (np.ma.array([1, 2], mask=[False, True]), np.ma.array([1, 9], mask=[False, True]), []),
        (np.ma.array([1, 2], mask=[False, True]), np.ma.array([3, 2], mask=[False, True]), ["the result"]),
        (np.ma.array([1, 2], mask=[False, True]), np.ma.array([1, 2], mask=[False, False]), ["the result"]),
        (np.ma.array([1, 2], mask=True), np.ma.array([1, 2], mask=True), []),
        (np.array([(NAN, 1)], dtype=PAIRS), np.array([(OTHER_NAN, 1)], dtype=PAIRS), []),
        (np.array([(NAN, 1)], dtype=PAIRS), np.array([(OTHER_NAN, 2)], dtype=PAIRS), ["['n']"]),
        (np.array([Plain(x=1), NAN], dtype=object), np.array([Plain(x=1), OTHER_NAN], dtype=object), []),
        (np.array([[1], np.ones(2)], dtype=object), np.array([[1], np.ones(2)], dtype=object), []),
        (np.array([Plain(x=1), None], dtype=object), np.array([Plain(x=2), None], dtype=object), ["[0].x"]),
        # A key that may be a token is no name.
        ({"sk4f9a8b7c": 1}, {"sk4f9a8b7c": 2}, ["[...]"]),
        ({"a" * 21: 1}, {"a" * 21: 2}, ["[...]"]), ({"unit_price": 1}, {"unit_price": 2}, ["['unit_price']"]),
    ],
)  # fmt: skip
def test_what_differs(cached: Any, fresh: Any, names: list[str]) -> None:
    assert differing(cached, fresh) == names


def test_private_slots() -> None:
    """Their names in the class are not those of attributes."""

    class Private:
        __slots__ = ("__x", "y")

        def __init__(self, x: int, y: int = 0) -> None:
            self.__x, self.y = x, y

    assert differing(Private(1), Private(1)) == []
    assert differing(Private(1), Private(2)) == ["._Private__x"]
    assert differing([Private(1, 2)], [Private(1, 3)]) == ["[0].y"]


def test_an_interrupt_during_a_comparison() -> None:
    """A time limit that raises ValueError is none of the arrays that cannot be compared."""

    class Slow:
        def __eq__(self, other: object) -> bool:
            signal.raise_signal(signal.SIGUSR1)
            return True

        __hash__ = None  # type: ignore[assignment]

    def handler(*_: object) -> None:
        raise ValueError("the time is over")

    with handled_by(handler), pytest.raises(ValueError, match="over"):
        differing(Slow(), Slow())


def test_values_that_contain_themselves() -> None:
    one: list[Any] = [1]
    one.append(one)
    other: list[Any] = [1]
    other.append(other)
    assert differing(one, other) == []


def test_parts_of_many_parts_are_compared_once() -> None:
    """A tree of two to the power of 25 paths has 25 objects."""
    compared = []

    class Leaf:
        def __eq__(self, other: object) -> bool:
            compared.append(other)
            return True

        __hash__ = None  # type: ignore[assignment]

    one, other = [Leaf()], [Leaf()]
    for _ in range(25):
        one, other = [one, one], [other, other]  # type: ignore[list-item]
    assert differing(one, other) == []
    assert len(compared) == 1


def test_frames_of_pandas() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"price": [1.0, NAN], "item": ["a", None]})
    objects = pd.DataFrame({"part": [Plain(x=1), np.ones(2)]})
    for cached, fresh, names in (
        (frame, frame.copy(), []),
        (frame, frame.assign(price=[1.0, 2.0]), ["['price']"]),
        (frame, frame.astype({"price": object}), ["['price']"]),
        (frame, frame.rename(columns={"price": "cost"}), ["the columns of the result"]),
        (frame, frame.set_index(pd.Index([5, 6])), ["the result"]),
        (frame, frame.rename_axis("n"), ["the result"]),
        (objects, pd.DataFrame({"part": [Plain(x=1), np.ones(2)]}), []),
        (objects, pd.DataFrame({"part": [Plain(x=2), np.ones(2)]}), ["['part'][0].x"]),
        (frame["price"], frame["price"].rename("cost"), ["the result"]),
        ({"prices": frame["price"]}, {"prices": frame["price"] + 1}, ["['prices']"]),
        (pd.Index([1.0, NAN]), pd.Index([1.0, NAN]), []),
        (pd.NaT, pd.NaT, []),
        (frame.assign(name="x", names=NAN, index=1), frame.assign(name="x", names=NAN, index=1), []),
        (frame.assign(name="x"), frame.assign(name="y"), ["['name'][0]", "['name'][1]"]),
        (pd.Series({"name": 1, "names": 2}), pd.Series({"name": 1, "names": 2}), []),
        (pd.Series({"columns": 1}), pd.Series({"columns": 2}), ["the result"]),
    ):
        assert differing(cached, fresh) == names
