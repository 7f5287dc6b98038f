"""Writes of which one step fails: the others are taken all the same, for each key of several."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from unittest.mock import patch

import pytest

from cachekit import CacheLevel, FileCache, IntelligentCache, MemoryCache, RedisCache, TierUnavailableError
from cachekit.model.entry import CacheEntry
from cachekit.testing import FaultyTier
from cachekit.testing.faults import FullDisk
from cachekit.tiers.fences import WRITING
from cachekit.tiers.file.engine.engine import Engine

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


def test_a_write_that_the_files_missed_ends_no_other_one(tmp_path: Path, redis_url: str, prefix: str) -> None:
    """It was not in progress there; so the key stays in flux for the write that is."""
    neighbour = FileCache(tmp_path, 64)
    file = FaultyTier(FileCache(tmp_path, 64))
    redis = RedisCache(url=redis_url, key_prefix=prefix, timeout=60)
    with neighbour, IntelligentCache(MemoryCache(), redis, file) as cache:  # type: ignore[arg-type]
        flux = neighbour.put("k", CacheEntry("k", "v", time.time()), None, in_flux=True)
        assert flux is not None
        file.fail("put", "remove", full=True)
        assert not cache.set("k", "new")
        assert neighbour.fence("k").token & WRITING


def test_a_full_disk_leaves_no_key_in_flux(tmp_path: Path, redis_url: str, prefix: str) -> None:
    """The write that failed and the removal after it are one write in progress, not two."""
    redis = RedisCache(url=redis_url, key_prefix=prefix, timeout=60)
    effects = FullDisk()
    engines = functools.partial(Engine, effects=effects)
    with (
        patch("cachekit.tiers.file.engine_registry.Engine", engines),
        FileCache(tmp_path, 64) as file,
        IntelligentCache(MemoryCache(), redis, file) as cache,
    ):
        cache.set("k", "old")
        effects.full = True
        cache.set("k", "new" * 1000)
        assert not file.fence("k").token & WRITING
        assert cache.get("k") == "new" * 1000
