"""health(), on_health_change and optimize_cache: what a cache says of itself, and when."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from cachekit import CacheError, FileCache, IntelligentCache, MemoryCache
from cachekit.health import Health, HealthMonitor
from cachekit.testing import FaultyTier, ManualClock
from cachekit.tiers.base import DirectoryTier


def miss(cache: IntelligentCache, times: int) -> None:
    for number in range(times):
        cache.get(f"nowhere:{number}")


def test_a_cache_that_has_begun_is_healthy() -> None:
    with IntelligentCache(MemoryCache(), file_cache=None) as cache:
        assert cache.health() == Health("healthy", ())
        miss(cache, 99)
        assert cache.health().status == "healthy"
        miss(cache, 1)
        (reason,) = cache.health().reasons
        assert (reason.status, reason.cause, reason.tier) == ("warning", "hit_rate", "combined")


def test_thresholds_are_arguments() -> None:
    with IntelligentCache(MemoryCache(), file_cache=None) as cache:
        miss(cache, 10)
        cache.set("k", "v" * 1000)
        assert cache.health(min_requests=10).status == "warning"
        assert cache.health(min_requests=10, min_hit_rate=0).status == "healthy"
        assert cache.health(memory_bytes_warning=1, memory_bytes_critical=2).status == "critical"
        with pytest.raises(ValueError, match="min_hit_rate must be a share"):
            cache.health(min_hit_rate=2)
        with pytest.raises(TypeError, match="min_hits"):
            cache.health(min_hits=2)
    with pytest.raises(CacheError, match="closed"):
        cache.health()


def test_a_tier_that_is_out_is_said(tmp_path: Path) -> None:
    """With what states and figures tell together."""
    file = FaultyTier(FileCache(tmp_path / "d", 64))
    with IntelligentCache(MemoryCache(), file_cache=cast("DirectoryTier", file)) as cache:
        file.fail()
        cache.set("k", 1)
        (reason,) = cache.health().reasons
        assert (reason.status, reason.cause, reason.tier) == ("warning", "out", "file")
        assert "has missed" in reason.message
        assert "the file tier has been out" in cache.health().message
        assert cache.health(outage_seconds_critical=0).status == "critical"


class CallbackProgress:
    """Who is told of changes, and when."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str]] = []
        self.threads: list[str] = []
        self.told = threading.Event()

    def __call__(self, new: Health, old: Health) -> None:
        self.changes.append((new.status, old.status))
        self.threads.append(threading.current_thread().name)
        self.told.set()


def test_changes_are_told_once_and_end_with_their_cause() -> None:
    """A bad minute is a warning; a minute later all is well again, whatever came before it."""
    told = CallbackProgress()
    with IntelligentCache(MemoryCache(), file_cache=None, on_health_change=told) as cache:
        watch = cache._monitor
        assert watch is not None
        watch.check()
        assert told.changes == []
        miss(cache, 200)
        watch.check()
        watch.check()
        assert told.changes == [("warning", "healthy")]
        for _ in range(6):
            watch.check()
        assert told.changes == [("warning", "healthy"), ("healthy", "warning")]
        assert cache.health().status == "warning", "of all its life"


def test_upkeep_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself, in its own thread, until the cache is closed; what the callback raises is no end of it."""
    monkeypatch.setattr("cachekit.health._INTERVAL", 0.001)
    told = CallbackProgress()
    with IntelligentCache(MemoryCache(), file_cache=None, on_health_change=told) as cache:
        miss(cache, 200)
        assert told.told.wait(60)
        assert told.threads[0] == "cachekit-upkeep"
    assert told.changes[0] == ("warning", "healthy")


def test_the_callback_is_checked_and_stays_here() -> None:
    wrong: Any = "mail me"
    with pytest.raises(TypeError, match="on_health_change must be a function of two healths, not 'mail me'"):
        IntelligentCache(MemoryCache(), file_cache=None, on_health_change=wrong)
    told = CallbackProgress()
    with IntelligentCache(
        MemoryCache(), file_cache=None, enable_cache_warming=False, on_health_change=told
    ) as cache:
        copy = pickle.loads(pickle.dumps(cache))
        assert isinstance(cache._monitor, HealthMonitor)
        assert copy._monitor is None
        assert copy._core.keep_warm is None
        copy.close()


def test_optimizing_looks_at_all_tiers(tmp_path: Path) -> None:
    clock = ManualClock()
    file = FileCache(tmp_path / "d", 64, clock=clock)
    with IntelligentCache(MemoryCache(clock=clock), file_cache=file) as cache:
        for number in range(5):
            cache.set(f"k{number}", number, ttl=10)
        cache.set("stays", 1)
        clock.advance(10)
        report = cache.optimize_cache()
        assert report.expired_removed == 10, "five from memory and five files"
        assert report.memory_usage_bytes == cache.get_stats()["combined"].memory_usage_bytes
        assert report.advice == ()
        miss(cache, 200)
        (advice,) = cache.optimize_cache().advice
        assert "requests were hits" in advice
        assert cache.optimize_cache().expired_removed == 0
