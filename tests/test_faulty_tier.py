"""FaultyTier: a tier in order, and one that fails, is full, hangs or lies on demand."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from forking import in_fork
from racing import in_thread

from cachekit import CacheEntry, FileCache, IntelligentCache, MemoryCache, RedisCache
from cachekit.errors import TierUnavailableError
from cachekit.testing import FaultyTier, ManualClock, TierContract
from cachekit.tiers.base import DirectoryTier, InvalidatesPatterns, InvalidatesTags, ServerTier, Tier


class TestFaultyTierInOrder(TierContract):
    def make_tier(self, clock: ManualClock) -> Tier:
        return FaultyTier(MemoryCache(clock=clock))


def test_it_can_do_what_the_tier_inside_can() -> None:
    """Asked by isinstance, as caches ask, and no more than that."""
    tier = FaultyTier(MemoryCache())
    able = [port for port in (Tier, InvalidatesTags, InvalidatesPatterns, DirectoryTier, ServerTier)
            if isinstance(tier, port)]  # fmt: skip
    assert able == [Tier, InvalidatesTags, InvalidatesPatterns]


def test_it_fails_and_is_mended() -> None:
    """All methods but close and get_stats, or those that are named."""
    tier = FaultyTier(MemoryCache())
    tier.fail()
    for call in (tier.size, tier.clear, tier.memory_usage, lambda: tier.get("k")):
        with pytest.raises(TierUnavailableError) as caught:
            call()
        assert not caught.value.full
    assert tier.get_stats().hits == 0
    tier.mend()
    tier.fail("get")
    assert tier.size() == 0
    with pytest.raises(TierUnavailableError):
        tier.get("k")
    tier.mend("get")
    assert tier.get("k") is None
    assert tier.calls["get"] == 3


def test_it_is_full() -> None:
    """The error says so."""
    tier = FaultyTier(MemoryCache())
    tier.fail("set", full=True)
    with pytest.raises(TierUnavailableError) as caught:
        tier.set("k", CacheEntry("k", 1))
    assert caught.value.full


def test_it_lies() -> None:
    """None, and nothing is done."""
    tier = FaultyTier(MemoryCache())
    tier.tier.set("k", CacheEntry("k", 1))
    tier.lie("get", "delete")
    assert tier.get("k") is None
    assert tier.delete("k") is None
    tier.mend()
    assert tier.get("k") is not None


def test_it_hangs_until_it_is_mended_or_fails() -> None:
    """A call that hangs then does what holds by then."""
    tier = FaultyTier(MemoryCache())
    tier.hang("size")
    first = in_thread(tier.size)
    tier.wait_for_hanging()
    assert tier.hanging == 1
    tier.mend()
    assert first() == 0
    tier.hang("size")
    second = in_thread(tier.size)
    tier.wait_for_hanging()
    tier.fail("size")
    with pytest.raises(TierUnavailableError):
        second()
    assert tier.hanging == 0


def test_it_times_out() -> None:
    """As a call to a frozen server does."""
    tier = FaultyTier(MemoryCache())
    tier.hang("size", timeout=0.001)
    with pytest.raises(TierUnavailableError, match=r"timed out after 0\.001 s"):
        tier.size()
    with pytest.raises(TimeoutError):
        tier.wait_for_hanging(timeout=0.001)


def test_lookups_that_time_out_are_unavailable() -> None:
    """They count as those that fail at once do: hits, misses and unavailable add up to the lookups."""
    tier = FaultyTier(MemoryCache())
    tier.hang("get", timeout=0.001)
    with pytest.raises(TierUnavailableError):
        tier.get("k")
    tier.fail("get")
    with pytest.raises(TierUnavailableError):
        tier.get("k")
    tier.mend()
    tier.get("k")
    stats = tier.get_stats()
    assert (stats.requests, stats.unavailable, stats.misses, stats.errors) == (3, 2, 1, 2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_child_has_it_to_itself() -> None:
    """Nobody hangs there, whoever hangs here; and it can be mended there."""
    tier = FaultyTier(MemoryCache())
    tier.hang("size")
    finish = in_thread(tier.size)
    tier.wait_for_hanging()

    def in_child() -> None:
        assert tier.hanging == 0
        tier.mend()
        assert in_thread(tier.size)() == 0

    assert in_fork(in_child)() == 0
    assert tier.hanging == 1
    tier.mend()
    assert finish() == 0


def test_what_is_no_tier_is_refused() -> None:
    """At once, and not when it is asked for something."""
    nothing: Any = {}
    with pytest.raises(TypeError, match=r"tier must be a tier, such as a MemoryCache, not \{\}"):
        FaultyTier(nothing)


@pytest.mark.parametrize("seconds", [-1.0, math.nan])
def test_a_manual_clock_goes_forward(seconds: float) -> None:
    """One that says NaN would let nothing expire any more."""
    clock = ManualClock()
    with pytest.raises(ValueError, match="seconds must be 0 or more"):
        clock.advance(seconds)
    assert clock.time() == ManualClock().time()


def test_a_name_that_is_no_method_is_refused() -> None:
    """With the names there are."""
    with pytest.raises(ValueError, match=r"a method must be one of .* of MemoryCache, not 'gte'"):
        FaultyTier(MemoryCache()).fail("gte")


OPERATIONS: dict[str, Callable[[IntelligentCache], object]] = {
    "get": lambda cache: cache.get("missing"),
    "get_many": lambda cache: cache.get_many(["x", "y"]),
    "contains": lambda cache: cache.contains("missing"),
    "set": lambda cache: cache.set("a", 1, tags={"t"}),
    "set_many": lambda cache: cache.set_many({"b": 1, "c": 2}),
    "get_or_set": lambda cache: cache.get_or_set("loaded", lambda: 1),
    "get_or_set_many": lambda cache: cache.get_or_set_many(["k", "l"], lambda keys: dict.fromkeys(keys, 1)),
    "add": lambda cache: cache.add("added", 1),
    "update": lambda cache: cache.update("added", lambda _: 2),
    "touch": lambda cache: cache.touch("a", 60),
    "delete": lambda cache: cache.delete("a"),
    "delete_many": lambda cache: cache.delete_many(["b", "c"]),
    "invalidate_by_tags": lambda cache: cache.invalidate_by_tags({"t"}),
    "invalidate_by_pattern": lambda cache: cache.invalidate_by_pattern("k.*"),
    "clear": lambda cache: cache.clear(),
}


@pytest.mark.parametrize("kind", ["directory", "server"])
def test_the_documentation_names_the_methods(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A test that lets another method fail would change nothing."""
    page = (Path(__file__).parents[1] / "docs" / "reference" / "testing.md").read_text()
    rows = re.findall(r"^\| `(\w+)`[^|]*\| (`[^|]+) \| (`[^|]+) \|$", page, re.MULTILINE)
    assert [name for name, _, _ in rows] == list(OPERATIONS)
    if kind == "directory":
        tier = FaultyTier(FileCache(tmp_path, 1))
        cache = IntelligentCache(MemoryCache(), file_cache=cast("FileCache", tier))
    else:
        tier = FaultyTier(RedisCache(url=request.getfixturevalue("redis_url")))
        cache = IntelligentCache(MemoryCache(), cast("RedisCache", tier), None)
    with cache:
        for name, of_directory, of_server in rows:
            before = tier.calls.copy()
            OPERATIONS[name](cache)
            called = {method for method, times in tier.calls.items() if times > before[method]}
            documented = of_directory if kind == "directory" else of_server
            assert called - {"ping"} == set(re.findall(r"`(\w+)`", documented)), name
