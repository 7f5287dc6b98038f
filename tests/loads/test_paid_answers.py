"""An answer that was loaded reaches its callers, whatever its storing fails with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cachekit import FileCache, IntelligentCache, MemoryCache
from cachekit.testing import ManualClock


class Failing:
    """A codec of a user's, whose own code fails."""

    name = "failing"
    code = 200

    def encode(self, value: Any) -> bytes:
        """Fail as a library does."""
        raise LookupError("no schema")

    def decode(self, payload: bytes | memoryview) -> Any:
        """Fail likewise."""
        raise LookupError("no schema")


def weigh(key: str, value: Any) -> int:
    """Fail as a function of a user's does."""
    raise ZeroDivisionError


CACHES: dict[str, Callable[[Path], IntelligentCache]] = {
    "codec": lambda place: IntelligentCache(file_cache=FileCache(place, max_size_mb=20, codec=Failing())),
    "weigher": lambda place: IntelligentCache(MemoryCache(max_bytes=99, weigher=weigh), None, None),
    "weigher over files": lambda place: IntelligentCache(
        MemoryCache(max_bytes=99, weigher=weigh), None, FileCache(place, max_size_mb=20)
    ),
}


@pytest.mark.parametrize("name", CACHES)
def test_they_are_returned(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By each way to load; a line of the log says that they are not kept."""
    with CACHES[name](tmp_path) as cache:
        cached = cache.cached(name="f")(lambda: "f")
        assert cache.get_or_set("k", lambda: "k") == "k"
        assert cached() == "f"
        assert cached.refresh() == "f"
        assert cache.get_or_set_many(["a", "b"], lambda keys: dict.fromkeys(keys, 1)) == {"a": 1, "b": 1}
    assert "loaded values were not stored, key #" in caplog.text
    assert "schema" not in caplog.text


#: Not empty while codecs and weighers fail.
failing: list[bool] = []


class FailingLater(Failing):
    """A codec that fails when it is told to."""

    def encode(self, value: Any) -> bytes:
        """Return a text."""
        return super().encode(value) if failing else repr(value).encode()


@pytest.mark.parametrize("tiers", ["weigher", "codec"])
def test_no_older_value_stays(clock: ManualClock, tiers: str, tmp_path: Path) -> None:
    """What a load could not store is gone, and not as it was before, nor served as stale."""
    if tiers == "codec":
        memory = MemoryCache(clock=clock)
        file = FileCache(tmp_path, max_size_mb=20, codec=FailingLater(), clock=clock)
    else:
        memory = MemoryCache(max_bytes=99, weigher=lambda *of: weigh(*of) if failing else 1, clock=clock)
        file = None
    with IntelligentCache(memory, None, file) as cache:
        answers = iter([1, 2])
        cached = cache.cached(name="f")(lambda: next(answers))
        assert (cached(), cache.get_or_set("k", lambda: 1, ttl=10, stale_ttl=60)) == (1, 1)
        clock.advance(20)
        failing.append(True)
        try:
            assert (cached.refresh(), cache.get_or_set("k", lambda: 2, ttl=10, stale_ttl=60)) == (2, 2)
        finally:
            failing.clear()
        assert cached.cache_info().size == 0
        with pytest.raises(ZeroDivisionError):
            cache.get_or_set("k", lambda: 1 / 0, ttl=10, stale_ttl=60)
