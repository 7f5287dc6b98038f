"""Keys, tags and patterns have one limit in every method of every cache; a refusal names it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cachekit import FileCache, IntelligentCache, MemoryCache, aio
from cachekit.model.entry import CacheEntry
from cachekit.model.validation import LONGEST, LONGEST_PATTERN, MOST_TAGS

MakeCache = Callable[..., Any]
LONG = "secret" + "x" * LONGEST
FULL = "y" * LONGEST
MANY = {f"{number}" for number in range(MOST_TAGS + 1)}

#: Every method that takes a key, of tiers and caches; those that an object does not have are left out.
WITH_KEY: dict[str, Callable[[Any, str], Any]] = {
    "get": lambda cache, key: cache.get(key),
    "get_value": lambda cache, key: cache.get_value(key),
    "peek": lambda cache, key: cache.peek(key),
    "delete": lambda cache, key: cache.delete(key),
    "delete_many": lambda cache, key: cache.delete_many([key]),
    "get_many": lambda cache, key: cache.get_many(["a", key]),
    "set_value": lambda cache, key: cache.set_value(key, 1),
    "set_many": lambda cache, key: cache.set_many({"a": 1, key: 1}),
    "touch": lambda cache, key: cache.touch(key, 5),
    "fence": lambda cache, key: cache.fence(key),
    "get_or_set": lambda cache, key: cache.get_or_set(key, lambda: 1),
    "get_or_set_many": lambda cache, key: cache.get_or_set_many([key], lambda keys: dict.fromkeys(keys, 1)),
    "warm_cache": lambda cache, key: cache.warm_cache([key], lambda key: key),
}
WITH_TAGS: dict[str, Callable[[Any, Any], Any]] = {
    "set_value": lambda cache, tags: cache.set_value("k", 1, tags=tags),
    "set_many": lambda cache, tags: cache.set_many({"k": 1}, tags=tags),
    "fence": lambda cache, tags: cache.fence("k", tags),
    "invalidate_by_tags": lambda cache, tags: cache.invalidate_by_tags(tags),
    "get_or_set": lambda cache, tags: cache.get_or_set("k", lambda: 1, tags=tags),
}


def every(tmp_path: Path, make_cache: MakeCache) -> dict[str, Any]:
    """Return one cache of each kind."""
    return {
        "memory": MemoryCache(),
        "files": FileCache(tmp_path / "tier", max_size_mb=20),
        "server": make_cache(),
        "cache": IntelligentCache(file_cache=None),
        "over files": IntelligentCache(file_cache=FileCache(tmp_path / "cache", max_size_mb=20)),
    }


def test_of_keys_and_tags(tmp_path: Path, make_cache: MakeCache, subtests: pytest.Subtests) -> None:
    """A longer text is refused, and the error has its digest. So are too many tags."""
    refusal = rf"key.* at most {LONGEST} .* \(#[0-9a-f]{{12}}\)"
    too_many = f"tags must be at most {MOST_TAGS}, not {MOST_TAGS + 1} tags"
    for kind, cache in every(tmp_path, make_cache).items():
        for name, call in WITH_KEY.items():
            if not hasattr(cache, name) or (name == "set_many" and not isinstance(cache, IntelligentCache)):
                continue
            with subtests.test(cache=kind, method=name):
                with pytest.raises(ValueError, match=refusal) as caught:
                    call(cache, LONG)
                assert "secret" not in str(caught.value)
        for name, with_tags in WITH_TAGS.items():
            if not hasattr(cache, name) or (name == "set_many" and not isinstance(cache, IntelligentCache)):
                continue
            for tags in ({LONG}, ["a", LONG], ("a", LONG)):
                with (
                    subtests.test(cache=kind, method=name, tags=type(tags)),
                    pytest.raises(ValueError, match=rf"each of tags must be at most {LONGEST}"),
                ):
                    with_tags(cache, tags)
            for tags in (MANY, list(MANY)):
                with (
                    subtests.test(cache=kind, method=name, tags=len(MANY)),
                    pytest.raises(ValueError, match=too_many),
                ):
                    with_tags(cache, tags)
        with subtests.test(cache=kind, method="invalidate_by_pattern"):
            for pattern in ("a" * (LONGEST_PATTERN + 1), re.compile("a" * (LONGEST_PATTERN + 1))):
                with pytest.raises(ValueError, match=f"pattern must be at most {LONGEST_PATTERN} characters"):
                    cache.invalidate_by_pattern(pattern)
        cache.close()


def test_of_the_limit_itself(tmp_path: Path) -> None:
    """Each kind of cache that needs no server takes what the limit allows."""
    for cache in (MemoryCache(), FileCache(tmp_path, max_size_mb=200)):
        assert cache.set_value(FULL, 1, tags={FULL})
        assert cache.get_value(FULL) == 1
        assert cache.invalidate_by_tags({FULL}) in (None, 1)
        assert cache.get_value(FULL) is None
        cache.close()


def test_awaited() -> None:
    """The same by asyncio."""

    async def run() -> None:
        async with aio.IntelligentCache(file_cache=None) as cache:

            async def load() -> int:
                return 1

            calls: list[Callable[[], Any]] = [
                lambda: cache.get(LONG), lambda: cache.set(LONG, 1), lambda: cache.get_or_set(LONG, load),
                lambda: cache.set("k", 1, tags={LONG}), lambda: cache.invalidate_by_tags({LONG}),
            ]  # fmt: skip
            for call in calls:
                with pytest.raises(ValueError, match="must be at most"):
                    await call()

    asyncio.run(run())


def test_of_entries() -> None:
    """An entry that a caller makes has the same limits."""
    with MemoryCache() as cache, pytest.raises(ValueError, match="key must be at most"):
        cache.set(LONG, CacheEntry(LONG, 1))
