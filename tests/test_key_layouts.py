"""Values of classes in C are told apart by all that they hold, or refused."""

from __future__ import annotations

import datetime
import random
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydantic_core import Url

from cachekit import KeyEncodingError, cache_result
from cachekit.decorator.object_state import solid_base


@cache_result
def asked(value: Any) -> Any:
    return value


@dataclass
class Dice(random.Random):
    name: str = ""


@dataclass
class Named:
    name: str


class Plain:
    pass


class Slots:
    __slots__ = ("a", "b")


class SlotsAndMore(Slots):
    __slots__ = ("__dict__", "__weakref__", "c")


class Number(int):
    pass


class Pair(tuple[int, int]):
    __slots__ = ()


class Failure(Exception):
    pass


def test_what_lays_out_an_object() -> None:
    """The nearest class in C with fields of its own, whether its attributes can be set or not."""
    assert {solid_base(kind) for kind in (Plain, Slots, SlotsAndMore)} == {object}
    assert (solid_base(Number), solid_base(Pair), solid_base(Failure)) == (int, tuple, Exception)
    assert solid_base(Dice) is random.Random.__mro__[1] is not object
    assert solid_base(Url) is Url


def test_a_dataclass_over_a_class_in_c_is_refused() -> None:
    """Its fields are not all that it holds: here the state of a generator."""
    with pytest.raises(KeyEncodingError, match=r"_random\.Random may hold more than its fields"):
        asked(Dice("a"))


def test_slots_without_a_descriptor() -> None:
    """One that was deleted still has its place in the objects, and nothing in C has."""

    class Slotted:
        __slots__ = ("a", "b")

    class Named(Slotted):
        __slots__ = "c"

    del Slotted.b  # type: ignore[attr-defined]
    assert solid_base(Named) is object


@pytest.mark.parametrize("names", ["a", ("a", "__dict__"), iter(["a", "b"]), {"a": "the first", "b": ""}, ()])
def test_how_slots_are_named(names: Any) -> None:
    """By one text, or what yields texts, which may be used up."""
    made = type("Slotted", (), {"__slots__": names})
    assert solid_base(made) is object
    assert solid_base(type("Further", (made,), {"__slots__": ()})) is object
    assert solid_base(type("Open", (made,), {})) is object


def test_attributes_of_any_name() -> None:
    """One that was set by `setattr` may look like several, and a key of `__dict__` may be no text."""
    one, other = Named("a"), Named("a")
    setattr(one, "x=1,y", 2)
    other.x, other.y = 1, 2  # type: ignore[attr-defined]
    assert asked.key(one) != asked.key(other)
    odd: Any = vars(one)
    odd[7] = 1
    assert asked.key(one) != asked.key(other)
    for name, text in (True, "True"), (b"q", "b71"), ("x y", "s3:x y"), (None, "None"), ("a b", "[s3:a b]"):
        one, other = Named("a"), Named("a")
        odd = vars(one)
        odd[name] = vars(other)[text] = 1
        assert asked.key(one) != asked.key(other), name


def test_moments_of_pandas() -> None:
    pd = pytest.importorskip("pandas")
    zone = ZoneInfo("Europe/Berlin")

    moments = [
        pd.Timestamp(1), pd.Timestamp(2), pd.Timestamp(1, tz="UTC"), pd.Timestamp(1, tz=zone),
        pd.Timestamp(1, tz=datetime.timezone(datetime.timedelta(hours=1))),
        pd.Timestamp("2020-01-01").as_unit("s"),
        pd.Timestamp("2020-01-01").as_unit("ns"), pd.NaT, pd.Timedelta(1), pd.Timedelta(2),
        *(pd.Timestamp(2020, 10, 25, 2, 30, tz=zone, fold=fold) for fold in (0, 1)),
        datetime.datetime(1970, 1, 1), datetime.timedelta(0),
    ]  # fmt: skip
    keys = [asked.key(moment) for moment in moments]
    assert len(set(keys)) == len(keys)
    assert len({asked.key([moment]) for moment in moments}) == len(keys)
    assert asked.key(pd.Timestamp(1, tz=zone)) == asked.key(pd.Timestamp(1, tz="Europe/Berlin"))
    assert asked.key(pd.Timestamp(1)) == keys[0]
    one, other = pd.Timestamp("2020-01-01").as_unit("s"), pd.Timestamp("2020-01-01").as_unit("ms")
    assert one == other
    assert asked.key(one) != asked.key(other), "what they compute may differ"
    winter = pd.Timestamp("2020-01-01", tz="Europe/Berlin"), pd.Timestamp("2020-01-01", tz="Europe/Paris")
    assert winter[0] == winter[1]
    assert asked.key(winter[0]) != asked.key(winter[1]), "the zones may differ later"
    for moment in (winter[0], pd.Timestamp(1)):
        assert asked.key(moment.replace(fold=1)) != asked.key(moment), "its `fold` may be read"
    with pytest.raises(KeyEncodingError, match="has no identity"):
        asked(pd.Index([1]))
