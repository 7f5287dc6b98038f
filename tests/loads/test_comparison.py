"""The names of the parts in which a cached value and a fresh one differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

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


NAN = float("nan")


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
        (Series(1, 2), Series(1, 2), []), ({"s": Series(1)}, {"s": Series(2)}, ["['s'].values[0]"]),
        ([{"a": n} for n in range(9)], [{"a": -n} for n in range(9)], ["[1]['a']", "[2]['a']", "[3]['a']"]),
    ],
)  # fmt: skip
def test_what_differs(cached: Any, fresh: Any, names: list[str]) -> None:
    assert differing(cached, fresh) == names


def test_values_that_contain_themselves() -> None:
    one: list[Any] = [1]
    one.append(one)
    other: list[Any] = [1]
    other.append(other)
    assert differing(one, other) == []
