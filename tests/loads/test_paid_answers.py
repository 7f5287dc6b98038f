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


def test_no_older_value_stays(clock: ManualClock) -> None:
    """What a reload could not store is gone, and not as it was before."""
    fails: list[bool] = []

    def once(key: str, value: Any) -> int:
        return weigh(key, value) if fails else 1

    with IntelligentCache(MemoryCache(max_bytes=99, weigher=once, clock=clock), None, None) as cache:
        answers = iter([1, 2])
        cached = cache.cached(name="f")(lambda: next(answers))
        assert cached() == 1
        fails.append(True)
        assert cached.refresh() == 2
        assert cached.cache_info().size == 0
