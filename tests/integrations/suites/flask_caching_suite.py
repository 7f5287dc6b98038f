"""Flask-Caching's own tests of backends, run for ours."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_backend_cache import GenericCacheTests

from cachekit import FileCache, IntelligentCache, MemoryCache
from cachekit.integrations.flask_caching import CacheKitCache


class TestCacheKit(GenericCacheTests):
    _can_use_fast_sleep = False

    @pytest.fixture(params=["memory", "file"])
    def make_cache(self, request, tmp_path: Path):
        def make(*args, **kwargs):
            file = FileCache(tmp_path / "cache") if request.param == "file" else None
            return CacheKitCache(IntelligentCache(MemoryCache(), None, file), *args, **kwargs)

        return make
