"""A copy on its way from files into memory gives way to what memory got in between, whatever that was."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import traced
from tracing import at_line

from cachekit import CacheLevel, CacheStrategy, FileCache, IntelligentCache, MemoryCache

CHANGES: dict[str, Callable[[IntelligentCache, str], object]] = {
    "a value for memory alone": lambda cache, key: cache.set(key, "new", cache_level=CacheLevel.MEMORY),
    "a value for all": lambda cache, key: cache.set(key, "new"),
    "the same by many": lambda cache, key: cache.set_many({"other": 1, key: "new"}),
}
READS: dict[str, Callable[[IntelligentCache, str], object]] = {
    "get": lambda cache, key: cache.get(key),
    "get_many": lambda cache, key: cache.get_many(["other", key, "third"]),
    "get_or_set": lambda cache, key: cache.get_or_set(key, lambda: "old"),
}


@pytest.mark.parametrize("strategy", [CacheStrategy.LRU, CacheStrategy.SIEVE])
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("change", CHANGES)
def test_the_newer_value_stays(tmp_path: Path, change: str, read: str, strategy: CacheStrategy) -> None:
    """Between any two steps: no copy takes the place of a newer value, which only memory may have."""
    memory = MemoryCache(100, strategy, cleanup_interval=None)
    with IntelligentCache(memory, None, FileCache(tmp_path, 1, None)) as cache:
        for number in itertools.count(1):
            key = f"k{number}"
            cache.set(key, "old")
            memory.delete(key)
            reached = at_line(
                number,
                traced.COHERENCE,
                lambda key=key: CHANGES[change](cache, key),  # type: ignore[misc]
                lambda key=key: READS[read](cache, key),  # type: ignore[misc]
            )
            if not reached:
                break
            assert cache.get(key) == "new", number
        assert number > 5, "a read has that many steps"
