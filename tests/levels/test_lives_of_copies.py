"""A copy in memory does not outlive the entry in files, however slow the writer is between the two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cachekit import FileCache, IntelligentCache, MemoryCache
from cachekit.testing import ManualClock
from cachekit.tiers.file.store import FileStore


def slow(monkeypatch: pytest.MonkeyPatch, name: str, clock: ManualClock) -> None:
    """A second passes after each write to the files."""
    real: Callable[..., Any] = getattr(FileStore, name)

    def write(self: FileStore, *args: Any) -> Any:
        written = real(self, *args)
        clock.advance(1)
        return written

    monkeypatch.setattr(FileStore, name, write)


@pytest.mark.parametrize("name", ["write", "write_many"])
def test_a_copy_ends_with_its_entry(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another cache loads the key when the entry is over. The copy of the writer would hide that value."""
    clock = ManualClock()

    def made() -> IntelligentCache:
        return IntelligentCache(MemoryCache(clock=clock), file_cache=FileCache(tmp_path, clock=clock))

    with made() as writer, made() as other:
        with monkeypatch.context() as patch:
            slow(patch, name, clock)
            if name == "write":
                writer.set("k", "old", ttl=2)
            else:
                writer.set_many({"k": "old"}, ttl=2)
        assert writer.get("k") == "old"
        clock.advance(1.5)
        assert other.get_or_set("k", lambda: "new") == "new"
        assert writer.get("k") == "new"
