"""`max_bytes` holds for values, keys and tags that were made to look smaller than they are."""

from __future__ import annotations

import array
import ctypes
import gc
import itertools
import json
import pickle
import tracemalloc
from collections import OrderedDict, UserDict, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from free_threads import known_sizes
from pydantic import BaseModel

from cachekit import MemoryCache
from cachekit.tiers.memory.sizing import size_of

LIMIT = 1 << 19
#: An entry may take a quarter of the limit; these take less, so that they are stored.
LARGE = LIMIT // 8


@pytest.fixture(autouse=True)
def untraced() -> Iterator[None]:
    """Whatever a test traced is traced no longer."""
    yield
    tracemalloc.stop()


@dataclass
class Data:
    a: object
    b: object = None


@dataclass(slots=True)
class Slotted:
    a: object
    b: object = None


class Pair(NamedTuple):
    a: object
    b: object


class Model(BaseModel):
    a: Any
    b: Any = None


class Plain:
    pass


class Small(list[object]):
    def __sizeof__(self) -> int:
        return 0


class Raising:
    def __init__(self, content: object) -> None:
        self.content = content

    def __sizeof__(self) -> int:
        raise RuntimeError("no size")


class Closed:
    """An object that gives no look at its attributes."""

    def __init__(self, content: object) -> None:
        object.__setattr__(self, "content", content)

    def __getattribute__(self, name: str) -> object:
        raise RuntimeError("no attributes")


def plain(count: int, *, as_dict: bool = False) -> Plain:
    """Return an object with so many attributes, with or without a dict of them."""
    found = Plain()
    for number in range(count):
        setattr(found, f"a{number}", None)
    if as_dict:
        assert vars(found)
    return found


def nested(levels: int, content: object) -> object:
    for _ in range(levels):
        content = [content]
    return content


def pickled(value: object) -> object:
    pickle.dumps(value)  # leaves its UTF-8 in each text
    return value


def text(number: int, size: int = LARGE) -> str:
    return f"{number:08}" * (size // 8)


#: From a number to a value that no other number gives.
DECEIVING: dict[str, Callable[[int], object]] = {
    "large member late in a list": lambda n: [*range(20), text(n)],
    "late in a tuple": lambda n: (*range(300), bytearray(LARGE)),
    "late in a dict": lambda n: {**dict.fromkeys(map(str, range(50))), "z": text(n)},
    "late key": lambda n: {**dict.fromkeys(map(str, range(50))), text(n): 1},
    "late in a set": lambda n: {*range(100), text(n)},
    "late in a deque": lambda n: deque([*range(100), text(n)]),
    "late in many rows": lambda n: [*({"n": [k]} for k in range(300)), {"n": [text(n, LARGE // 2)]}],
    "deep": lambda n: nested(50, text(n)),
    "deep in objects": lambda n: Data(Slotted(Data(Slotted(Data(Slotted(Data(text(n)))))))),
    "behind many objects": lambda n: [[[]] * 500, *([[]] for _ in range(300)), text(n)],
    "floats": lambda n: [n + k * 0.5 for k in range(1_000)],
    "short bytes": lambda n: [bytes(1) + b"%d" % (n + k) for k in range(1_000)],
    "objects with attributes": lambda n: [plain(25) for _ in range(100)],
    "objects with dicts": lambda n: [plain(25, as_dict=True) for _ in range(100)],
    "objects with one attribute": lambda n: [plain(1) for _ in range(150)],
    "slots": lambda n: [Slotted(n * 1.5, k * 1.5) for k in range(500)],
    "data": lambda n: [Data(n * 1.5, f"{k}") for k in range(500)],
    "named tuples": lambda n: [Pair(n * 1.5, f"{k}") for k in range(500)],
    "models": lambda n: [Model(a=n * 1.5, b=f"{k}") for k in range(50)],
    "namespaces": lambda n: [SimpleNamespace(a=n * 1.5) for _ in range(300)],
    "attribute": lambda n: Data(text(n)),
    "slot": lambda n: Slotted(text(n)),
    "no attributes to see": lambda n: Closed(text(n)),
    "__sizeof__ of 0": lambda n: Small([text(n)]),
    "many items and __sizeof__ of 0": lambda n: [Small(range(1000, 1050)) for _ in range(50)],
    "__sizeof__ raises": lambda n: Raising(text(n)),
    "view of bytes": lambda n: memoryview(bytes(LARGE))[:3],
    "view of an array": lambda n: np.zeros(LARGE // 8)[:3],
    "view of a view": lambda n: np.zeros((64, LARGE // 512))[1:][0].T,
    "array of bytes": lambda n: np.frombuffer(bytes(LARGE), dtype=np.uint8)[5:6],
    "array of objects": lambda n: np.array([text(n, LARGE // 2), 1], dtype=object),
    "array of fields": lambda n: np.zeros(LARGE // 16, dtype=[("a", "f8"), ("b", "f8")]),
    "array": lambda n: array.array("d", bytes(LARGE)),
    "buffer of ctypes": lambda n: ctypes.create_string_buffer(LARGE),
    "integers": lambda n: [(1 << 1000) + n + k for k in range(500)],
    "one integer": lambda n: (1 << 8 * LARGE) + n,
    "text in Latin-1": lambda n: pickled("\xe9" * (LARGE // 4) + text(n, 8)),
    "texts in Chinese": lambda n: pickled([chr(0x4E00 + k) * 100 + text(n, 8) for k in range(100)]),
    "emoji": lambda n: pickled(["\U0001f600" * 500 + text(n, 8)]),
    "grown list": lambda n: list(itertools.accumulate(range(n, n + 999))),
    "emptied set": lambda n: emptied(set(range(300))),
    "emptied dict": lambda n: emptied(dict.fromkeys(range(300))),
    "emptied list": lambda n: [bytearray(LARGE)[:0], emptied(bytearray(LARGE // 2))],
    "subclass of a dict": lambda n: UserDict({"a": OrderedDict(a=text(n))}),
    "defaultdict": lambda n: defaultdict(list, {k: [n + k * 1.5] for k in range(300)}),
    "proxy": lambda n: MappingProxyType({"a": text(n)}),
    "error": lambda n: [ValueError(text(n, LARGE // 4)), KeyError(1)],
    "function": lambda n: (lambda content: lambda: content)(text(n)),
    "default value": lambda n: (lambda content: eval("lambda a=content: a", {"content": content}))(text(n)),
    "bound method": lambda n: Data([text(n)]).__eq__,
    "parsed": lambda n: json.loads(json.dumps([{"id": n + k, "name": f"n{k}"} for k in range(100)])),
}


def emptied(container: Any) -> Any:
    # Not by `clear`, which frees their tables.
    if isinstance(container, bytearray):
        del container[10:]
    else:
        for key in list(container):
            container.pop(key) if isinstance(container, dict) else container.remove(key)
    return container


def held_after(
    fill: Callable[[MemoryCache, int], object], count: int, size: int = 100_000
) -> tuple[int, int]:
    """Return the bytes that a cache holds in the end, and the bytes that it counts."""
    with MemoryCache(100_000, max_bytes=LIMIT) as cache:
        fill(cache, 0)  # what is made once
        cache.clear()
        gc.collect()
        tracemalloc.start()
        for number in range(count):
            fill(cache, number + 1)
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        cache._check()
        assert len(cache) > 3
        return held, cache.memory_usage()


@known_sizes
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.soak] if at % 3 else []) for at, name in enumerate(DECEIVING)],
)
def test_of_values(name: str) -> None:
    """Many of them take no more than the limit and a fifth, and do not count for much more than they take."""
    make = DECEIVING[name]
    each = size_of(make(1))
    held, counted = held_after(
        lambda cache, n: cache.set_value(f"k{n}", make(n)), min(LIMIT * 2 // each + 2, 999)
    )
    assert counted <= LIMIT
    assert held <= LIMIT * 1.2
    assert counted / 2 <= held


def test_of_values_that_grow_by_pickling() -> None:
    """A text that is not ASCII keeps its UTF-8 once it was pickled, also after it was stored."""

    def fill(cache: MemoryCache, number: int) -> None:
        value = ["\xe9" * (LARGE // 8) + text(number, 8)]
        cache.set_value(f"k{number}", value)
        pickle.dumps(value)

    assert held_after(fill, 100)[0] <= LIMIT * 1.2


@pytest.mark.parametrize(
    ("key", "tags"),
    [
        (lambda n: f"k{n}", lambda n: set()),
        (lambda n: f"{n:08}" * 100, lambda n: set()),
        (lambda n: f"\xe9{n:08}" * 50, lambda n: {"a"}),
        (lambda n: f"k{n}", lambda n: {f"{n:08}" * 60}),
        (lambda n: f"k{n}", lambda n: {f"{n}"}),
        (lambda n: f"k{n}", lambda n: {f"{n:030}{k}" for k in range(20)}),
        (lambda n: f"k{n}", lambda n: {f"shared tag {k}" for k in range(20)}),
    ],
    ids=["many", "long keys", "Latin-1", "long tags", "a tag each", "many tags", "shared tags"],
)
def test_of_keys_and_tags(key: Callable[[int], str], tags: Callable[[int], set[str]]) -> None:
    """They count as they are, and a tag counts for its place in the index as well."""
    held, counted = held_after(lambda cache, n: cache.set_value(key(n), n, tags=tags(n)), 1_200)
    assert counted <= LIMIT
    assert held <= LIMIT * 1.2
    assert counted / 2 <= held


def test_of_tags_that_outlive_their_first_entry() -> None:
    """The index counts for as long as any entry has the tag."""

    def fill(cache: MemoryCache, number: int) -> None:
        tags = {f"{number:030}{k}" for k in range(20)}
        cache.set_value(f"a{number}", 1, tags=tags)
        cache.set_value(f"b{number}", 1, tags=tags)
        cache.delete(f"a{number}")

    held, counted = held_after(fill, 150)
    assert counted <= LIMIT
    assert held <= LIMIT * 1.2


def test_parts_count_once() -> None:
    """Shared ones, and those that contain themselves."""
    content = bytes(1_000)
    assert size_of([content, content]) < 1_300
    assert size_of([[content, k] for k in range(100)]) < 15_000
    doubled: list[object] = [content]
    for _ in range(60):
        doubled = [doubled, doubled]
    assert size_of(doubled) < 10_000
    doubled[0] = doubled
    assert size_of(doubled) < 10_000


def test_what_a_program_shares_is_not_charged() -> None:
    """Classes, modules, functions of modules, and what a class has for all of its objects."""

    class Registered:
        registry = [bytes(1_000_000)]  # noqa: RUF012  # shared by all of its objects

        def __init__(self) -> None:
            self.registry = Registered.registry

    for value in (Registered(), [np, gc, Data, json.dumps, pytest], gc.collect):
        assert size_of(value) < 1_000


def test_a_value_that_is_too_large_is_not_looked_at_to_its_end() -> None:
    """The look ends once that is known, and takes little memory itself."""
    rows = [[number, bytes(100)] for number in range(50_000)]
    tracemalloc.start()
    assert size_of(rows, most=1_000_000) < 2_000_000
    assert tracemalloc.get_traced_memory()[1] < 3_000_000


def test_the_estimate_of_a_tier_without_a_limit() -> None:
    """It looks at some of the objects, and takes the others to be like them."""
    with MemoryCache(10) as cache:
        rows = [{"id": number + 1_000, "name": f"name {number}"} for number in range(20_000)]
        cache.set_value("rows", rows)
        assert 0.5 < cache.memory_usage() / size_of(rows) < 1.5
