"""Wrong arguments that a newcomer passes: the error says what is wrong and what to do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cachekit
from cachekit import FileCache, IntelligentCache, KeyEncodingError, MemoryCache, RedisCache, aio


class HalfClock:
    def __init__(self, method: str) -> None:
        setattr(self, method, lambda: 0.0)


@pytest.mark.parametrize("wrong", [5, None, "now", len, HalfClock("time"), HalfClock("monotonic")])
def test_a_clock_that_is_none(wrong: Any, tmp_path: Path) -> None:
    """Every tier says so when it is made."""
    tiers: list[Callable[..., object]] = [
        MemoryCache,
        lambda clock: FileCache(tmp_path, 1, clock=clock),
        lambda clock: RedisCache(url="redis://localhost", clock=clock),
    ]
    for tier in tiers:
        with pytest.raises(TypeError, match=r"clock must have the methods time\(\) and monotonic\(\)"):
            tier(clock=wrong)


@pytest.mark.parametrize("name", ["CachedTransport", "AsyncCachedTransport"])
def test_transports_without_httpx(name: str) -> None:
    """The error names the extra."""
    code = f"import sys; sys.modules['httpx'] = None; from cachekit.http import {name}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert ended.stderr.splitlines()[-1] == (
        f"ImportError: {name} needs httpx; install it with: pip install 'cachekit-tiered[http]'"
    )


class Item:
    @property
    def __cache_key__(self) -> str:
        return "item"


def test_a_cache_key_that_is_no_method() -> None:
    """The message names the class, and the remedy."""

    @cachekit.cache_result
    def price(item: Item) -> int:
        return 1

    with pytest.raises(KeyEncodingError, match=r"__cache_key__ of .*Item must be a method, not a property"):
        price(Item())


def test_cached_without_parentheses() -> None:
    """As `cache_result`: its options have defaults."""
    calls: list[int] = []
    with IntelligentCache(MemoryCache(), file_cache=None) as cache:
        for decorate in (cache.cached, aio.IntelligentCache.of(cache).cached):

            @decorate
            def twice(number: int) -> int:
                calls.append(number)
                return 2 * number

            assert twice(2) == twice(2) == 4
        assert len(calls) == 2
        with pytest.raises(TypeError, match="must decorate a function, not 60"):
            cache.cached(60)  # type: ignore[call-overload]
