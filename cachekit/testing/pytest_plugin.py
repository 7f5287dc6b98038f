"""Fixtures for tests of code that caches: a cache of its own for each test, or none at all.

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
    """A fresh default cache for this test, empty at its beginning and closed at its end."""
    with IntelligentCache(file_cache=None) as cache, override(cache):
        yield cache


@pytest.fixture
def cachekit_disabled() -> Iterator[None]:
    """Cached functions call through during this test; nothing is looked up or stored."""
    with disabled():
        yield
