"""Fixtures for tests of code that caches: an own cache for each test, or no caching.

Name the module once, in the `conftest.py` at the root of your tests:

    pytest_plugins = ["cachekit.testing.pytest_plugin"]
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cachekit import disabled, override
from cachekit.cache.intelligent import IntelligentCache


@pytest.fixture
def cachekit_cache() -> Iterator[IntelligentCache]:
    """Provide an empty default cache for this test, and close it at the end."""
    with IntelligentCache(file_cache=None) as cache, override(cache):
        yield cache


@pytest.fixture
def cachekit_disabled() -> Iterator[None]:
    """Disable caching for this test: cached functions run, nothing is looked up or stored."""
    with disabled():
        yield
