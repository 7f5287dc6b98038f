"""A clock that a test moves, a default cache by it, and memory tiers of both builds; a plugin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cachekit import IntelligentCache, MemoryCache, override
from cachekit.testing import ManualClock
from cachekit.tiers.memory import store


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def default_cache(clock: ManualClock) -> Iterator[IntelligentCache]:
    """A cache with memory alone, which is the default one during the test."""
    with (
        IntelligentCache(MemoryCache(clock=clock), default_ttl=100, file_cache=None) as fresh,
        override(fresh),
    ):
        yield fresh


@pytest.fixture(params=["lock-free", "locked"])
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory tiers as they are under the GIL, and as they are without."""
    if request.param == "locked":
        monkeypatch.setattr(store, "gil_enabled", lambda: False)
