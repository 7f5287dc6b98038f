"""Calls of a cache, each of which a test interrupts at one line after another, and the caches for them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path

import pytest

import cachekit
from cachekit import FileCache, IntelligentCache, LoadOptions, MemoryCache, RedisCache

_ELSEWHERE = {"__main__", "aio", "cli", "dashboard", "http", "integrations", "testing"}
#: The modules of cachekit that a call may run.
MODULES = [
    importlib.import_module(found.name)
    for found in pkgutil.walk_packages(cachekit.__path__, "cachekit.")
    if found.name.split(".")[1] not in _ELSEWHERE
]

CALLS: dict[str, Callable[[IntelligentCache], object]] = {
    "get": lambda cache: cache.get("k"),
    "below": lambda cache: (memory_of(cache).delete("k"), cache.get("k")),
    "set": lambda cache: cache.set("k", [1], tags={"t"}),
    "set_many": lambda cache: cache.set_many({"k": 1, "j": [2]}, tags={"t"}),
    "get_many": lambda cache: (memory_of(cache).clear(), cache.get_many(["k", "j", "n"])),
    "load": lambda cache: (cache.delete("l"), cache.get_or_set("l", lambda: [1])),
    "load_many": lambda cache: (
        cache.delete("l"),
        cache.get_or_set_many(["l", "k"], lambda keys: dict.fromkeys(keys, 1)),
    ),
    "lease": lambda cache: (
        cache.delete("l"),
        cache.get_or_set(
            "l",
            lambda: 1,
            load=LoadOptions(lease="process", max_concurrent_loads=2) if cache.file_cache else None,
        ),
    ),
    "hard timeout": lambda cache: (
        cache.delete("l"),
        cache.get_or_set("l", lambda: 1, load=LoadOptions(hard_timeout=60)),
    ),
    "verified hit": lambda cache: cache.get_or_set("k", lambda: [1], load=LoadOptions(verify=1.0)),
    "delete": lambda cache: cache.delete("k"),
    "delete_many": lambda cache: cache.delete_many(["k", "j"]),
    "touch": lambda cache: cache.touch("k", 50),
    "tags": lambda cache: cache.invalidate_by_tags({"t"}),
    "pattern": lambda cache: cache.invalidate_by_pattern("k"),
    "clear": lambda cache: cache.clear(),
    "explain": lambda cache: cache.explain("k"),
    "stats": lambda cache: cache.get_stats(),
}  # fmt: skip


def memory_of(cache: IntelligentCache) -> MemoryCache:
    memory = cache.memory_cache
    assert isinstance(memory, MemoryCache)
    return memory


def a_cache(kind: str, place: Path, request: pytest.FixtureRequest) -> IntelligentCache:
    file = FileCache(place, 20, cleanup_interval=None) if kind in {"files", "all"} else None
    redis = None
    if kind in {"server", "all"}:
        redis = RedisCache(
            url=request.getfixturevalue("redis_url"),
            key_prefix=request.getfixturevalue("prefix"),
            timeout=10,  # a busy machine is no outage
        )
    cache = IntelligentCache(MemoryCache(cleanup_interval=None), redis, file)
    cache.set_many({"k": [1], "j": 2}, tags={"t"})
    return cache
