"""Loaders that wait to be let go, and who waits for them; a plugin, for its fixture."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from itertools import product
from typing import Any, Protocol

import inside
import pytest
from loops import LOOPS, until
from pairwise import in_suite_or_soak

from cachekit.aio import IntelligentCache


def fails() -> Any:
    """A loader that nobody should call."""
    pytest.fail("it was loaded")


class Slow:
    """A loader that begins, waits to be let go, and ends."""

    def __init__(self, value: Any = 1) -> None:
        self.value = value
        self.begun = 0
        self.ended = 0
        self.go = asyncio.Event()

    async def __call__(self) -> Any:
        self.begun += 1
        await self.go.wait()
        self.ended += 1
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    async def has_begun(self, times: int = 1) -> None:
        await until(lambda: self.begun >= times, "the loader was called")


class Way(Protocol):
    """Makes what asks for "k" from a cache and a loader, with options of `get_or_set`."""

    def __call__(
        self, cache: IntelligentCache, loader: Callable[[], Awaitable[Any]], /, **options: Any
    ) -> Callable[[], Coroutine[Any, Any, Any]]: ...


def _by_key(
    cache: IntelligentCache, loader: Callable[[], Awaitable[Any]], /, **options: Any
) -> Callable[[], Coroutine[Any, Any, Any]]:
    return lambda: cache.get_or_set("k", loader, **options)


def _by_cached_function(
    cache: IntelligentCache, loader: Callable[[], Awaitable[Any]], /, **options: Any
) -> Callable[[], Coroutine[Any, Any, Any]]:
    @cache.cached(key_func=lambda: "k", name="asked", **options)
    async def ask() -> Any:
        return await loader()

    return ask


#: One load path, driven in two ways.
WAYS: dict[str, Way] = {"get_or_set": _by_key, "a cached function": _by_cached_function}


@pytest.fixture
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


def in_both_ways(fixture: str) -> pytest.MarkDecorator:
    """Run a test in both ways, on both loops, over both caches of a fixture; some of that in the soak."""
    combinations = in_suite_or_soak(product(["memory", "files"], LOOPS, WAYS))
    return pytest.mark.parametrize((fixture, "run", "way"), combinations, indirect=True)


def tasks_of(number: int, work: Callable[[], Any]) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(work()) for _ in range(number)]


async def all_wait(cache: IntelligentCache, number: int, key: str = "k") -> None:
    """Until so many wait for the load of the key."""
    await until(lambda: inside.tasks_waiting(cache, key) >= number, "all wait for the load")


async def one_more(cache: IntelligentCache, key: str, loader: Callable[[], Any]) -> asyncio.Task[Any]:
    """A task that waits for the load of the key that is under way."""
    waiting = inside.tasks_waiting(cache, key)
    task = asyncio.create_task(cache.get_or_set(key, loader))
    await until(lambda: inside.tasks_waiting(cache, key) == waiting + 1, "the task waits")
    return task
