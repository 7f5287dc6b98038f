"""Functions that count their calls, to see what a cache asked them; a plugin, for its fixture."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from cachekit import cache_result


class Calls:
    """A function that remembers what it was called with."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        self.seen: list[tuple[Any, ...]] = []
        self._answer = answer

    def __call__(self, *args: Any) -> Any:
        self.seen.append(args)
        return self._answer(*args)


def counted(answer: Callable[..., Any], **options: Any) -> tuple[Any, Calls]:
    """A cached function that answers as `answer` does, and what it was called with."""
    calls = Calls(answer)

    def function(*args: Any) -> Any:
        return calls(*args)

    return cache_result(**{"name": "counted"} | options)(function), calls


def counted_async(answer: Callable[..., Any], **options: Any) -> tuple[Any, Calls]:
    """`counted` for a coroutine function; `answer` may be one itself."""
    calls = Calls(answer)

    async def function(*args: Any) -> Any:
        result = calls(*args)
        return await result if hasattr(result, "__await__") else result

    return cache_result(**{"name": "counted"} | options)(function), calls


class _Blocking:
    """A cached coroutine function of which every question is awaited, each on a loop of its own."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self.key, self.cache_info = function.key, function.cache_info

    def __call__(self, *args: Any) -> Any:
        return asyncio.run(self._function(*args))

    def refresh(self, *args: Any) -> Any:
        return asyncio.run(self._function.refresh(*args))

    def invalidate(self, *args: Any) -> Any:
        return asyncio.run(self._function.invalidate(*args))

    def cache_clear(self) -> Any:
        return asyncio.run(self._function.cache_clear())


def _counted_blocking(answer: Callable[..., Any], **options: Any) -> tuple[Any, Calls]:
    function, calls = counted_async(answer, **options)
    return _Blocking(function), calls


Counts = Callable[..., tuple[Any, Calls]]


@pytest.fixture(params=[counted, _counted_blocking], ids=["def", "async def"])
def counts(request: pytest.FixtureRequest) -> Counts:
    """Makes cached functions as `counted` does: what is asked of one holds for `def` and for `async def`."""
    make: Counts = request.param
    return make
