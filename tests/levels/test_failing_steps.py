"""Writes of which one step fails: the others are taken all the same, for each key of several."""

from __future__ import annotations

from pathlib import Path

import pytest

from cachekit import CacheLevel, FileCache, IntelligentCache, MemoryCache, RedisCache, TierUnavailableError
from cachekit.testing import FaultyTier

ALL, REDIS, FILE, MEMORY = CacheLevel.ALL, CacheLevel.REDIS, CacheLevel.FILE, CacheLevel.MEMORY
KEYS = ["a", "b", "c"]


class TestStrictSetMany:
    """An error says that a tier failed, not that the rest of the keys was left as it was."""

    @pytest.mark.parametrize("level", [ALL, FILE])
    def test_a_full_disk(self, tmp_path: Path, level: CacheLevel) -> None:
        """Of no key is the older value left."""
        file = FaultyTier(FileCache(tmp_path, 64))
        with IntelligentCache(MemoryCache(), None, file, strict=True) as cache:  # type: ignore[arg-type]
            cache.set_many(dict.fromkeys(KEYS, "old"))
            file.fail("put", full=True)
            with pytest.raises(TierUnavailableError):
                cache.set_many(dict.fromkeys(KEYS, "new"), cache_level=level)
            expected = dict.fromkeys(KEYS, "new") if level is ALL else {}
            assert cache.get_many(KEYS) == expected

    @pytest.mark.parametrize("level", [FILE, FILE | MEMORY])
    def test_a_full_disk_for_values_of_one_host(
        self, tmp_path: Path, redis_url: str, prefix: str, level: CacheLevel
    ) -> None:
        """Neither on the server nor in the files."""
        file = FaultyTier(FileCache(tmp_path, 64))
        redis = RedisCache(url=redis_url, key_prefix=prefix, timeout=60)
        with IntelligentCache(MemoryCache(), redis, file, strict=True) as cache:  # type: ignore[arg-type]
            cache.set_many(dict.fromkeys(KEYS, "old"))
            file.fail("add", full=True)
            with pytest.raises(TierUnavailableError):
                cache.set_many(dict.fromkeys(KEYS, "new"), cache_level=level)
            assert "old" not in cache.get_many(KEYS).values()


def test_a_refresh_needs_no_token(tmp_path: Path, redis_url: str, prefix: str) -> None:
    """A server that fails when it is asked for one costs no exception, and keeps no older value."""
    redis = FaultyTier(RedisCache(url=redis_url, key_prefix=prefix, timeout=60))
    with IntelligentCache(MemoryCache(), redis, FileCache(tmp_path, 64)) as cache:  # type: ignore[arg-type]
        values = iter(["old", "new"])
        load = cache.cached(name="load")(lambda: next(values))
        assert load() == "old"
        redis.fail("successor", full=True)  # no outage, so that the server can be told what it missed
        assert load.refresh() == "new"
        assert redis.tier.get(load.key()) is None
