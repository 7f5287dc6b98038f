"""Functions that count their calls, to see what a cache asked them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
