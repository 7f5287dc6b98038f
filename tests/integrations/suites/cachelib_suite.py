"""cachelib's own tests of caches, run for ours."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from clear import ClearTests
from common import CommonTests
from has import HasTests

from cachekit import FileCache, IntelligentCache, MemoryCache
from cachekit.integrations.cachelib import CacheKitCache

_numbers = itertools.count()


@pytest.fixture(autouse=True, params=["memory", "file"])
def cache_factory(request, tmp_path: Path):
    def _factory(self, *args, **kwargs):
        file = FileCache(tmp_path / str(next(_numbers))) if request.param == "file" else None
        return CacheKitCache(IntelligentCache(MemoryCache(), None, file), *args, **kwargs)

    request.cls.cache_factory = _factory


class TestCacheKit(CommonTests, HasTests, ClearTests):
    pass
