"""Test code that caches; run this file with pytest (in this checkout, with the extra test)."""

from __future__ import annotations

import pytest

from cachekit import IntelligentCache, cache_result, disabled
from cachekit.testing import ManualClock

# A project writes `cachekit = true` into the settings of pytest, and has the marker as well.
pytest_plugins = ["cachekit.testing.pytest_plugin"]

asked: list[str] = []


@cache_result(ttl=60)
def price(item: str) -> int:
    asked.append(item)
    return len(item)


@pytest.fixture(autouse=True)
def _nothing_asked() -> None:
    asked.clear()


def test_with_a_cache_of_its_own(cachekit_cache: IntelligentCache) -> None:
    """Use an empty default cache, which the fixture makes for each test."""
    assert price("apple") == price("apple") == 5
    assert asked == ["apple"]
    assert cachekit_cache.contains(price.key("apple"))


@pytest.mark.usefixtures("cachekit_disabled")
def test_without_any_cache() -> None:
    """Run the function at every call."""
    price("apple"), price("apple")
    assert asked == ["apple", "apple"]


def test_with_one_part_uncached() -> None:
    """Disable caching for a few lines."""
    with disabled():
        price("apple"), price("apple")
    assert asked == ["apple", "apple"]


@pytest.mark.usefixtures("cachekit_cache")
def test_that_prices_are_asked_again(cachekit_clock: ManualClock) -> None:
    """Move the time of the test's cache by hand."""
    price("apple")
    cachekit_clock.advance(59)
    price("apple")
    assert asked == ["apple"]
    cachekit_clock.advance(1)
    price("apple")
    assert asked == ["apple", "apple"]


def test_the_function_itself() -> None:
    """Call the function without its cache."""
    assert price.__wrapped__("pear") == 4
