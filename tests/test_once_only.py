"""What can be read only once is refused wherever it is in a value, in memory as in files."""

from __future__ import annotations

import asyncio
import gc
import io
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import pytest

from cachekit import FileCache, IntelligentCache, SerializationError
from cachekit.model import once_only


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
    """An object that the pickler looks into, and nobody else."""

    def __init__(self, body: object) -> None:
        self.body = body


def items() -> Iterator[int]:
    """Yield what a second reader does not find."""
    yield 1


async def later() -> AsyncIterator[int]:
    """Yield it to awaiting readers."""
    yield 1


ONCE: dict[str, Callable[[], object]] = {
    "generator": items,
    "iterator": lambda: iter([1]),
    "map": lambda: map(str, [1]),
    "asynchronous generator": later,
    "coroutine": lambda: asyncio.sleep(0),
    "text file": lambda: io.StringIO("x"),
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


def test_inside_an_object(tmp_path: Path) -> None:
    """Files find out what memory does not look for; then memory keeps it no more than they do."""
    with IntelligentCache(file_cache=FileCache(tmp_path, max_size_mb=20)) as cache:
        for way in (lambda value: cache.set("k", value), lambda value: cache.get_or_set("k", lambda: value)):
            with pytest.raises(SerializationError, match="only once"):
                way(Holder(items()))
            assert cache.get("k") is None


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
    monkeypatch.setattr(once_only, "_MOST", 1_000)
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
