"""Fixtures and a marker for tests of code that caches: an own cache for each test, or no caching.

Turn it on in the settings of pytest:

    [tool.pytest.ini_options]
    cachekit = true

Or name the module once, in the `conftest.py` at the root of your tests:

    pytest_plugins = ["cachekit.testing.pytest_plugin"]
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cachekit.cache.default import override
from cachekit.cache.intelligent import IntelligentCache
from cachekit.decorator.source import disabled
from cachekit.runtime.clock import SystemClock
from cachekit.testing.clock import ManualClock
from cachekit.tiers.memory.tier import MemoryCache


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        "cachekit(disabled=False): give the test an empty default cache; with disabled=True, no caching",
    )


@pytest.fixture
def cachekit_clock() -> ManualClock:
    """Provide a clock that moves only on request; `cachekit_cache` goes by it if a test asks for both."""
    return ManualClock()


@pytest.fixture
def cachekit_cache(request: pytest.FixtureRequest) -> Iterator[IntelligentCache]:
    """Provide an empty default cache for this test, and close it at the end."""
    by_hand = "cachekit_clock" in request.fixturenames
    clock = request.getfixturevalue("cachekit_clock") if by_hand else SystemClock()
    with IntelligentCache(MemoryCache(clock=clock), file_cache=None) as cache, override(cache):
        yield cache


@pytest.fixture
def cachekit_disabled() -> Iterator[None]:
    """Disable caching for this test: cached functions run, nothing is looked up or stored."""
    with disabled():
        yield


@pytest.fixture(autouse=True)
def _cachekit_marker(request: pytest.FixtureRequest) -> None:
    """Do what the nearest marker says."""
    marker = request.node.get_closest_marker("cachekit")
    if marker is None:
        return
    unknown = set(marker.kwargs) - {"disabled"}
    disables = marker.kwargs.get("disabled", False)
    if marker.args or unknown or not isinstance(disables, bool):
        said = [*map(repr, marker.args), *(f"{name}={value!r}" for name, value in marker.kwargs.items())]
        pytest.fail(
            f"the marker cachekit must have no argument but disabled=True or False, not {', '.join(said)}",
            pytrace=False,
        )
    request.getfixturevalue("cachekit_disabled" if disables else "cachekit_cache")
