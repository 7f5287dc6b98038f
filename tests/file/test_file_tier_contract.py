"""The file tier passes the suite that every tier passes, in several configurations."""

from __future__ import annotations

from pathlib import Path

import pytest

from cachekit import FileCache
from cachekit.testing import ManualClock, TierContract
from cachekit.tiers.base import DirectoryTier


class Places(TierContract):
    @pytest.fixture(autouse=True)
    def places(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path


class TestFileCache(Places):
    def make_tier(self, clock: ManualClock) -> FileCache:
        return FileCache(self.tmp_path, 16, clock=clock)

    def test_it_is_a_host_tier(self) -> None:
        """A cache may ask it for fences that stand in shared memory."""
        with self._tier() as (tier, _):
            assert isinstance(tier, DirectoryTier)


class TestSignedFileCache(Places):
    def make_tier(self, clock: ManualClock) -> FileCache:
        return FileCache(self.tmp_path, 16, clock=clock, secret="s" * 16, namespace="signed")


class TestCompressedFileCache(Places):
    def make_tier(self, clock: ManualClock) -> FileCache:
        return FileCache(self.tmp_path, 1, clock=clock, compression="zlib", codec="msgpack")
