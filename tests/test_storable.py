"""What can be read only once is refused wherever it is in a value, in memory as in files."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import itertools
import logging
import re
import socket
import threading
from collections import ChainMap, OrderedDict, UserDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import numpy
import pydantic
import pytest

from cachekit import FileCache, IntelligentCache, SerializationError, aio
from cachekit.model import storable


@dataclass
class Response:
    """An answer with a body."""

    body: object


@dataclass(slots=True)
class Slotted:
    """The same, without a dict."""

    body: object


class Pair(NamedTuple):
    """Two values."""

    first: object
    second: object


class Holder:
    """A plain object."""

    def __init__(self, body: object) -> None:
        self.body = body


class SlottedHolder:
    """A plain object without a dict."""

    __slots__ = ("body",)

    def __init__(self, body: object) -> None:
        self.body = body


class Rows(list[object]):
    """A list with attributes."""


class Model(pydantic.BaseModel):
    """A model of pydantic."""

    body: Any
    _private: Any = None


class Secretive:
    """An object that says itself what a copy holds."""

    def __init__(self, body: object) -> None:
        self.body = body

    def __reduce__(self) -> tuple[type[Secretive], tuple[None]]:
        return Secretive, (None,)


def with_private(once: object) -> Model:
    """Return a model with the value in a private attribute."""
    model = Model(body=1)
    model._private = once
    return model


def with_attribute(once: object) -> Rows:
    """Return a list with the value in an attribute."""
    rows = Rows([1])
    vars(rows)["cursor"] = once
    return rows


def nested(once: object, levels: int) -> object:
    """Return objects in objects."""
    for _ in range(levels):
        once = Holder(once)
    return once


def items() -> Iterator[int]:
    """Yield what a second reader does not find."""
    yield 1


async def later() -> AsyncIterator[int]:
    """Yield it to awaiting readers."""
    yield 1


def as_array(once: object) -> object:
    """Return an array of objects."""
    array = numpy.empty((1, 2), dtype=object)
    array[0, 1] = once
    return array


ONCE: dict[str, Callable[[], object]] = {
    "generator": items,
    "iterator": lambda: iter([1]),
    "map": lambda: map(str, [1]),
    "asynchronous generator": later,
    "coroutine": lambda: asyncio.sleep(0),
    "text file": lambda: io.StringIO("x"),
    "zip": lambda: zip([1], [2], strict=True),
    "count": itertools.count,
    "bytes": lambda: io.BytesIO(b"x"),
}
WITHIN: dict[str, Callable[[object], object]] = {
    "itself": lambda once: once,
    "list": lambda once: [1, "2", once],
    "dict": lambda once: {"status": 200, "body": once},
    "ordered dict": lambda once: OrderedDict(body=once),
    "tuple": lambda once: (once,),
    "named tuple": lambda once: Pair(1, once),
    "deque": lambda once: deque([once]),
    "dataclass": Response,
    "slotted dataclass": Slotted,
    "deep": lambda once: {"pages": [{"n": 1}, Response([(once,)])]},
    "dict of lists": lambda once: {"a": [1], "b": [2, once]},
    "key": lambda once: {once: 1},
    "object": Holder,
    "object with slots": SlottedHolder,
    "objects in containers": lambda once: [{"a": SlottedHolder({"b": (Holder([once]),)})}],
    "namespace": lambda once: SimpleNamespace(body=once),
    "partial": lambda once: partial(print, once),
    "user dict": lambda once: UserDict(a=once),
    "chain map": lambda once: ChainMap({}, {"a": once}),
    "view of values": lambda once: {"a": once}.values(),
    "view of pairs": lambda once: {"a": once}.items(),
    "array of objects": lambda once: as_array(once),
    "array in a dict": lambda once: {"a": as_array(once)},
    "error": ValueError,
    "model": lambda once: Model(body=[once]),
    "private attribute": with_private,
    "attribute of a list": with_attribute,
    "many rows": lambda once: [*({"n": [n]} for n in range(2_000)), {"n": [once]}],
    "data at any depth": lambda once: Response(Response(Response(Response(Response(Response([once])))))),
}


@pytest.fixture(params=["memory", "memory and files"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[IntelligentCache]:
    """With memory alone, and over files."""
    file = FileCache(tmp_path, max_size_mb=20) if "files" in request.param else None
    with IntelligentCache(file_cache=file) as cache:
        yield cache


def test_each_is_refused(cache: IntelligentCache, subtests: pytest.Subtests) -> None:
    """By every way in, and nothing is kept."""
    for within, put in WITHIN.items():
        for name, make in ONCE.items():
            with subtests.test(name, within=within):
                ways: list[Callable[[Any], object]] = [
                    lambda value: cache.set("k", value),
                    lambda value: cache.set_many({"k": value}),
                    lambda value: cache.get_or_set("k", lambda: value),
                    lambda value: cache.get_or_set_many(["k"], lambda _: {"k": value}),
                    lambda value: cache.cached(name="f")(lambda: value)(),
                ]
                for way in ways:
                    with pytest.raises(SerializationError, match="only once"):
                        way(put(make()))
                    assert cache.get("k") is None


ways_in = pytest.mark.parametrize(
    "put",
    [
        lambda cache, value: cache.set("k", value),
        lambda cache, value: cache.set_many({"k": value, "l": 1}),
        lambda cache, value: cache.get_or_set("k", lambda: value),
        lambda cache, value: cache.get_or_set_many(["k", "l"], lambda _: {"k": value, "l": 1}),
        lambda cache, value: cache.cached(name="f")(lambda: value)(),
    ],
    ids=["set", "set_many", "get_or_set", "get_or_set_many", "cached"],
)


@ways_in
def test_what_only_files_find_out(put: Callable[[IntelligentCache, object], object], tmp_path: Path) -> None:
    """Behind many objects memory does not look; it keeps such a value no more than files do."""
    with IntelligentCache(file_cache=FileCache(tmp_path, max_size_mb=20)) as cache:
        cache.set("k", "old")
        with contextlib.suppress(KeyError):
            cache.delete("k")
        with pytest.raises(SerializationError, match="only once"):
            put(cache, nested(items(), 9))
        assert cache.get("k") is None


@pytest.mark.parametrize("files", [False, True])
def test_awaited(files: bool, tmp_path: Path) -> None:
    """The same for asyncio."""

    async def run() -> None:
        file = aio.FileCache(tmp_path, max_size_mb=20) if files else None
        async with aio.IntelligentCache(file_cache=file) as cache:

            async def load() -> object:
                return {"pages": [Holder(SlottedHolder(items()))]}

            async def load_many(_: object) -> Any:
                return {"k": await load()}

            ways: list[Callable[[], Any]] = [
                lambda: cache.get_or_set("k", load),
                lambda: cache.get_or_set_many(["k"], load_many),
                lambda: cache.cached(name="f")(load)(),
                lambda: cache.set("k", Response([items()])),
                lambda: cache.set_many({"k": [SlottedHolder(later())]}),
            ]
            for way in ways:
                with pytest.raises(SerializationError, match="only once"):
                    await way()
                assert await cache.get("k") is None

    asyncio.run(run())


def test_in_what_files_cannot_hold() -> None:
    """Memory alone looks into it by itself."""
    with IntelligentCache(file_cache=None) as cache:
        for value in (MappingProxyType({"a": items()}), [lambda: 1, items()]):
            with pytest.raises(SerializationError, match="only once"):
                cache.set("k", value)


def test_what_is_no_answer_is_not_looked_into() -> None:
    """Services of a program hold streams and locks; they are cached in memory as they are."""
    left, right = socket.socketpair()
    logger = logging.getLogger("service")
    logger.addHandler(logging.StreamHandler(io.StringIO()))
    services = (
        Holder(logger), Holder(threading.Lock()), Secretive(items()), nested(items(), 9), [logging], [items],
        Holder(threading.Thread(target=print)), re.compile("a"), Holder(items), Holder(Holder(left)),
    )  # fmt: skip
    with IntelligentCache(file_cache=None) as cache:
        for service in services:
            assert cache.set("k", service)
            assert cache.get("k") is service
    left.close()
    right.close()


def test_what_can_be_read_again(cache: IntelligentCache) -> None:
    """Containers of everything else are stored, cycles and mocks among them."""
    cycle: list[object] = [1]
    cycle.append(cycle)
    for value in ({"a": [1, (2, {3})]}, Response(range(3)), cycle, [Response({"a": b"b"})] * 3):
        assert cache.set("k", value)
        assert cache.get("k") is not None


def test_mocks_are_no_iterators() -> None:
    """They have every method; tests cache them."""
    with IntelligentCache(file_cache=None) as cache:
        mock = MagicMock()
        assert cache.get_or_set("k", lambda: {"client": mock})["client"] is mock


def test_large_values_and_cycles_take_no_long_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bounded number of the objects in a value is looked into, and each of them once."""
    monkeypatch.setattr(storable, "_MOST", 1_000)
    looked: list[int] = []
    referents = gc.get_referents

    def look(*objects: object) -> list[object]:
        looked.append(len(objects))
        return referents(*objects)

    monkeypatch.setattr(gc, "get_referents", look)
    with IntelligentCache(file_cache=None) as cache:
        pages = [[[number] for number in range(900)] for _ in range(3)]
        assert cache.get_or_set("pages", lambda: pages) == pages
        assert looked == [1, 3, 2_700]
        looked.clear()
        cycle: list[object] = []
        cycle.append(cycle)
        assert cache.get_or_set("cycle", lambda: cycle) is cycle
        assert looked == [1]
