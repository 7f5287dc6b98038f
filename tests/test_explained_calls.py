"""`explain_calls` tells of each cached call whether it hit, where, and why not."""

from __future__ import annotations

import asyncio
import io
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cachekit import FileCache, IntelligentCache, MemoryCache, cache_result, disabled, override
from cachekit.testing import explain_calls


@pytest.fixture
def cache() -> Iterator[IntelligentCache]:
    with IntelligentCache(MemoryCache(), file_cache=None) as made, override(made):
        yield made


def test_hits_and_misses(cache: IntelligentCache, capsys: pytest.CaptureFixture[str]) -> None:
    """Calls that took the fast path before the block are seen as well, and take it again afterwards."""

    @cache_result(cache=cache, name="tests.price")
    def price(item: str, day: int = 0) -> int:
        return len(item)

    price("apple"), price("apple")
    with explain_calls() as calls:
        price("apple")
        price("apple", day=1)
        price("apple", 2)
        price.invalidate("apple")
        price("apple")
    assert [call.level is not None for call in calls] == [True, False, False, False]
    lines = capsys.readouterr().out.splitlines()
    prefix = "test_hits_and_misses.<locals>.price"
    assert lines[0] == f"{prefix}('apple')  hit in MEMORY"
    assert lines[1] == f"{prefix}('apple', day=1)  miss: never stored; differs from the call before in day"
    assert lines[3].startswith(f"{prefix}('apple')  miss: invalidated 0.0 s ago by key of this cache")
    before = price.cache_info()
    cached: Any = price
    assert not cached.key.__self__.fast_path.is_observed
    price("apple")
    assert capsys.readouterr().out == ""
    assert price.cache_info().hits == before.hits + 1
    assert (before.hits, before.misses) == (2, 4)


def test_why_it_never_hits(cache: IntelligentCache) -> None:
    """An argument that is another one each time, and a value that is never stored."""
    numbers = itertools.count()

    @cache_result(cache=cache, name="tests.never", store_if=lambda value: value is not None)
    def found(key: str, now: int) -> str | None:
        return None

    told = io.StringIO()
    with explain_calls(told):
        found("a", next(numbers))
        found("a", next(numbers))
        found("a", 1)
    first, second, third = told.getvalue().splitlines()
    assert first.endswith(
        "miss: never stored; not stored now: not storable 0.0 s ago: store_if or the ttl refused it"
    )
    assert "differs from the call before in now" in second
    assert "miss: not storable 0.0 s ago" in third


def test_in_which_tier(tmp_path: Path) -> None:
    for level in ("MEMORY", "FILE"):
        with IntelligentCache(file_cache=FileCache(tmp_path)) as cache:

            @cache_result(cache=cache, name="tests.tiers")
            def one() -> int:
                return 1

            told = io.StringIO()
            with explain_calls(told):
                one(), one()
            assert f"hit in {level}" in told.getvalue()


def test_awaited_and_in_threads(cache: IntelligentCache) -> None:
    @cache_result(cache=cache, name="tests.awaited")
    async def awaited(number: int) -> int:
        return number

    @cache_result(cache=cache, name="tests.threads")
    def plain(number: int) -> int:
        return number

    async def run() -> None:
        await awaited(1)
        await awaited(1)

    with explain_calls(io.StringIO()) as calls:
        asyncio.run(run())
        threads = [threading.Thread(target=plain, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [call.level is not None for call in calls][:2] == [False, True]
    assert len(calls) == 6


def test_calls_that_raise_or_bypass(cache: IntelligentCache) -> None:
    """The exception reaches the caller, and the line names its class."""

    @cache_result(cache=cache, name="tests.raises")
    def fails(number: object) -> int:
        raise ValueError("secret")

    told = io.StringIO()
    with explain_calls(told) as calls:
        with pytest.raises(ValueError, match="secret"):
            fails(1)
        with pytest.raises(TypeError):
            fails(threading.Lock())
        with pytest.raises(TypeError):
            fails(1, 2, 3)  # type: ignore[call-arg]
        with disabled(), pytest.raises(ValueError, match="secret"):
            fails(1)
    assert [call.error for call in calls] == ["ValueError", "KeyEncodingError", "TypeError", "ValueError"]
    assert told.getvalue().splitlines()[0].endswith("miss: never stored; raised ValueError")
    assert "secret" not in told.getvalue()


def test_nested_blocks(cache: IntelligentCache) -> None:
    @cache_result(cache=cache, name="tests.nested")
    def one(number: int) -> int:
        return number

    with explain_calls(io.StringIO()) as outer:
        with explain_calls(io.StringIO()) as inner:
            one(1)
        one(1)
    assert (len(outer), len(inner)) == (2, 1)
