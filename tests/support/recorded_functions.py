"""Functions whose calls the tests of cassettes count."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from cachekit import cache_result
from cachekit.decorator.source import playing

#: What was called since a test began.
calls: list[Any] = []


@pytest.fixture(autouse=True)
def no_calls() -> Iterator[None]:
    """For each test of a module that imports it: no call at the beginning, and no cassette in the end."""
    calls.clear()
    yield
    assert not playing.player


@cache_result
def price(item: str, count: int = 1) -> dict[str, Any]:
    calls.append(item)
    return {"item": item, "each": len(item), "sum": len(item) * count}


@cache_result(ttl=60, tags={"words"})
async def ask(prompt: str, *, messages: list[dict[str, str]] | None = None) -> tuple[str, int]:
    calls.append(prompt)
    await asyncio.sleep(0)
    return prompt.upper(), len(calls)


@cache_result(store_if=bool)
def attempt(number: int) -> int:
    calls.append(number)
    return len(calls) - 1


def load() -> int:
    calls.append("load")
    return len(calls)
