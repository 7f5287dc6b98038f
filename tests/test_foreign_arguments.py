"""Arguments of other libraries' classes: arrays of numpy and models of pydantic are told apart by content."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
import pytest
from pydantic import AnyUrl, BaseModel, ConfigDict, HttpUrl, PrivateAttr, RootModel

from cachekit import IntelligentCache, KeyEncodingError, cache_result
from cachekit.decorator.key_encoding import encode
from cachekit.decorator.naming import Unkeyable

T = TypeVar("T")


class Message(BaseModel):
    role: str
    text: str = ""
    parts: list[Message] = []


class Reply(BaseModel):
    role: str
    text: str = ""


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    role: str = ""


class Counted(BaseModel):
    role: str = ""
    _count: int = PrivateAttr(default=0)


class MemoryEntry(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    thing: object


class Names(RootModel[list[str]]):
    pass


class Box(BaseModel, Generic[T]):
    content: T


def counted(number: int) -> Counted:
    made = Counted()
    made._count = number
    return made


RECORD = np.dtype([("x", "<f8"), ("name", "U4")])

SAME: list[Callable[[], Any]] = [
    lambda: np.array([1.0, 2.0]),
    lambda: np.arange(10_000),
    lambda: np.array([[1, 2], [3, 4]], order="F"),
    lambda: np.array([1.0, float("nan")]),
    lambda: np.array([(1.0, "a")], RECORD),
    lambda: np.int64(3),
    lambda: np.datetime64("2024-05-01"),
    lambda: Message(role="user", parts=[Message(role="a")]),
    lambda: Open.model_validate({"role": "user", "b": 1, "a": 2}),
    lambda: counted(1),
    lambda: Names(["a"]),
    lambda: Box[int](content=1),
    lambda: HttpUrl("https://example.org/"),
    lambda: {"messages": [Message(role="user")], "at": np.float32(0.5)},
]


def test_equal_ones_are_one(subtests: pytest.Subtests) -> None:
    """Made twice, they are one question."""
    for make in SAME:
        with subtests.test(make=make):
            assert encode(make()) == encode(make())


def test_layout_and_order_do_not_count() -> None:
    """Two arrays are equal in any order of memory, two models in any order of their fields."""
    rows = np.array([[1, 2], [3, 4]])
    assert encode(rows) == encode(np.asfortranarray(rows)) == encode(rows[::-1][::-1])
    assert encode(Message(role="a", text="x")) == encode(Message(text="x", role="a"))
    assert encode(Open.model_validate({"b": 1, "a": 2})) == encode(Open.model_validate({"a": 2, "b": 1}))


DIFFERENT: list[list[Any]] = [
    [
        np.array([1, 2]),
        np.array([2, 1]),
        [1, 2],
        np.array([1.0, 2.0]),
        np.array([1, 2], ">i8"),
        np.array([[1, 2]]),
    ],
    [np.arange(10_000), np.arange(10_001), np.arange(10_000)[::-1], np.arange(10_000).reshape(100, 100)],
    [np.array(["a"]), np.array([b"a"]), np.array(["a "]), "a"],
    [np.zeros(2, RECORD), np.zeros(2, [("x", "<f8"), ("nom", "U4")]), np.zeros(2, "f8")],
    [
        np.int64(1),
        np.int32(1),
        np.uint64(1),
        np.bool_(True),
        np.array(1),
        np.array([1]),
        1,
        True,
        np.float32(1),
        1.0,
    ],
    [np.datetime64("2024-05-01"), np.datetime64("2024-05-01T00"), np.timedelta64(1, "D")],
    [np.array([0.0]), np.array([-0.0])],
    [
        Message(role="a"),
        Message(role="b"),
        Message(role="a", text="x"),
        Message(role="a", text=""),
        Reply(role="a"),
        {"role": "a", "text": ""},
    ],
    [Open(), Open.model_validate({"x": 1}), Open.model_validate({"x": "1"}), Open.model_validate({"y": 1})],
    [counted(0), counted(1), Counted(role="a")],
    [Names(["a"]), Names(["b"]), ["a"]],
    [Box[int](content=1), Box[bool](content=True), Box(content=1)],
    [
        HttpUrl("https://example.org/"),
        HttpUrl("https://example.org/a"),
        AnyUrl("https://example.org/"),
        "https://example.org/",
    ],
]


def test_others_are_others(subtests: pytest.Subtests) -> None:
    """Type, type of items, shape, and contents count; so do extra and private fields."""
    for values in DIFFERENT:
        with subtests.test(values=values):
            assert len({encode(value) for value in values}) == len(values)


def test_what_holds_more_is_refused(subtests: pytest.Subtests) -> None:
    """Two of them may differ in what cannot be seen."""
    rows: list[tuple[Any, str]] = [
        (np.array([object()]), "an array of object holds more than the bytes of its items"),
        (np.zeros(1, [("x", "O")]), "holds more than the bytes of its items"),
        (np.ma.masked_array([1, 2], [True, False]), "numpy.ma.*MaskedArray has no identity"),
        (np.zeros(1).view(np.memmap), "memmap has no identity"),
        (np.random.default_rng(), "Generator has no identity"),
        (MemoryEntry(thing=object()), "object has no identity"),
        (Message.model_construct(text="x"), "the field role of a Message has no value yet"),
    ]
    for value, why in rows:
        with subtests.test(why=why):

            @cache_result(cache=IntelligentCache(file_cache=None))
            def function(x: object) -> object:
                return x

            with pytest.raises(KeyEncodingError, match=why):
                function.key(value)


def test_a_class_of_a_function_is_refused() -> None:
    """There may be several of its name, as with any class."""

    class Local(BaseModel):
        x: int

    with pytest.raises(Unkeyable, match="defined inside a function"):
        encode(Local(x=1))


def test_an_own_key_comes_first() -> None:
    """`__cache_key__` says what counts, also in a model."""

    class Keyed(BaseModel):
        x: int
        noise: object = None

        def __cache_key__(self) -> int:
            return self.x

    assert encode(Keyed(x=1, noise=object())) == encode(Keyed(x=1))


def test_neither_is_imported() -> None:
    """Keys are made without them where they are not loaded."""
    program = (
        "import sys\nfrom cachekit.decorator.key_encoding import encode\n"
        "try:\n    encode(object())\nexcept Exception as error:\n    print(type(error).__name__)\n"
        "print(sorted({'numpy', 'pydantic'} & sys.modules.keys()))"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "Unkeyable\n[]\n"
