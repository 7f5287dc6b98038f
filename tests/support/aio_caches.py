"""Caches for the tests of what is awaited."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cachekit.aio import FileCache, IntelligentCache, MemoryCache


@pytest.fixture
def make_awaited(tmp_path: Path) -> Iterator[Callable[[], IntelligentCache]]:
    """Makes caches over memory and files; they are closed after the test."""
    made: list[IntelligentCache] = []

    def make() -> IntelligentCache:
        made.append(IntelligentCache(MemoryCache(), None, FileCache(tmp_path / "files")))
        return made[-1]

    yield make
    for cache in made:
        cache.sync.close()


@pytest.fixture(params=["memory", "files"])
def awaited(
    request: pytest.FixtureRequest, make_awaited: Callable[[], IntelligentCache]
) -> Iterator[IntelligentCache]:
    """A cache with memory alone, and one with files below it."""
    if request.param == "files":
        yield make_awaited()
        return
    cache = IntelligentCache(file_cache=None)
    yield cache
    cache.sync.close()
