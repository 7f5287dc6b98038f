"""The example of a tier of one's own passes the suite that it inherits, and is as short as its page says."""

from __future__ import annotations

import os
import pickle
import runpy
from pathlib import Path
from typing import Any

import pytest
from polled_hammer import hammer

from cachekit.testing import ManualClock, TierContract
from cachekit.tiers.base import ServerTier
from cachekit.tiers.polled import PolledStore, PolledTier

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_tier.py"
EXAMPLES: dict[str, Any] = runpy.run_path(str(EXAMPLE))


class TestOwnTier(TierContract):
    lists_keys = False

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.path = str(tmp_path / "cache.db")

    def make_tier(self, clock: ManualClock) -> PolledTier:
        return PolledTier(EXAMPLES["SqliteStore"](self.path), clock=clock)

    def test_it_is_a_server_tier(self) -> None:
        with self.make_tier(ManualClock()) as tier:
            assert isinstance(tier, ServerTier)
            assert isinstance(tier._store, PolledStore)
            with pytest.raises(TypeError, match="PolledTier does not pickle; make one in each process"):
                pickle.dumps(tier)


def test_no_read_is_stale(tmp_path: Path) -> None:
    """Two processes load and invalidate."""
    path = str(tmp_path / "cache.db")
    EXAMPLES["SqliteStore"](path)
    counts = hammer(lambda: PolledTier(EXAMPLES["SqliteStore"](path)), 80, processes=2)
    assert counts.reads > 100
    assert counts.stale == 0


def test_it_is_short() -> None:
    """The page says some 60 lines."""
    text = EXAMPLE.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) < 100
    begin, end = lines.index("class SqliteStore:"), lines.index("class TestSqlite(TierContract):")
    assert end - begin <= 60


def test_a_store_that_is_none() -> None:
    """It is refused by name."""
    with pytest.raises(TypeError, match="store must have the methods of PolledStore"):
        PolledTier(os)  # type: ignore[arg-type]
