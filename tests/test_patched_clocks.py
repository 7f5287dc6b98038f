"""Tests of users move time with mock, freezegun and time-machine: TTLs follow.

time-machine leaves the monotonic clock as it is, and memory goes by that one.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from unittest.mock import patch

import freezegun
import pytest
import time_machine

from cachekit import FileCache, IntelligentCache, MemoryCache


@contextmanager
def mocked(hours: int) -> Iterator[None]:
    """Replace the functions of the module."""
    monotonic, wall = time.monotonic, time.time
    with (
        patch("time.monotonic", lambda: monotonic() + hours * 3600),
        patch("time.time", lambda: wall() + hours * 3600),
    ):
        yield


def at(hours: int) -> datetime.datetime:
    """Return a time so many hours from now."""
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours)


MOVES: dict[str, Callable[[int], AbstractContextManager[object]]] = {
    "mock": mocked,
    "freezegun": lambda hours: freezegun.freeze_time(at(hours)),
    "time-machine": lambda hours: time_machine.travel(at(hours)),
}


@pytest.mark.parametrize(
    ("tiers", "move"),
    [
        *[
            (tiers, move)
            for tiers in ("memory", "memory and files", "files")
            for move in ("mock", "freezegun")
        ],
        ("files", "time-machine"),
    ],
)
def test_ttls_follow(tmp_path: Path, move: str, tiers: str) -> None:
    """An hour later a value of a minute is loaded again; then and afterwards the cache works."""
    calls: list[int] = []
    memory = None if tiers == "files" else MemoryCache()
    file = None if tiers == "memory" else FileCache(tmp_path, max_size_mb=20)

    def load() -> int:
        calls.append(1)
        return len(calls)

    with IntelligentCache(memory, None, file) as cache:
        cached = cache.cached(ttl=60, name="load")(load)
        assert (cache.get_or_set("k", load, ttl=60), cached()) == (1, 2)
        assert (cache.get_or_set("k", load, ttl=60), cached()) == (1, 2)
        with MOVES[move](1):
            assert (cache.get_or_set("k", load, ttl=60), cached()) == (3, 4)
            assert (cache.get_or_set("k", load, ttl=60), cached()) == (3, 4)
            cache.set("other", 1, ttl=60)
            assert cache.get("other") == 1
            cache.invalidate_by_pattern("other")
            assert cache.get("other") is None
        cache.set("after", 1, ttl=60)
        assert cache.get("after") == 1
