"""LangChain's own tests of caches, run for ours."""

from __future__ import annotations

from pathlib import Path

import pytest
from langchain_tests.integration_tests import AsyncCacheTestSuite, SyncCacheTestSuite

from cachekit import FileCache, IntelligentCache, MemoryCache
from cachekit.integrations.langchain import CacheKitCache


@pytest.fixture(params=["memory", "file"])
def ours(request, tmp_path: Path) -> CacheKitCache:
    file = FileCache(tmp_path / "cache") if request.param == "file" else None
    return CacheKitCache(IntelligentCache(MemoryCache(), None, file))


class TestSync(SyncCacheTestSuite):
    @pytest.fixture
    def cache(self, ours: CacheKitCache) -> CacheKitCache:
        return ours


class TestAsync(AsyncCacheTestSuite):
    @pytest.fixture
    async def cache(self, ours: CacheKitCache) -> CacheKitCache:
        return ours
