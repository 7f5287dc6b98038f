"""A tier of your own: SQLite as the server that processes share, in some 60 lines.

`PolledTier` does the work of a tier: values, fences, tags, patterns, leases, trust and statistics. A store
has the calls that it needs of a server. `TestSqlite` runs the suite that every tier passes:

    pytest examples/own_tier.py
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cachekit import IntelligentCache, MemoryCache, TierUnavailableError
from cachekit.testing import ManualClock, TierContract
from cachekit.tiers.polled import Item, PolledTier


class SqliteStore:
    """Items in a table. Each call has its own connection, so threads and forks need no care."""

    def __init__(self, path: str) -> None:
        self._path = path
        with self._table() as table:
            table.execute("PRAGMA journal_mode = WAL")
            table.execute("CREATE TABLE IF NOT EXISTS item (name PRIMARY KEY, data, version, ends)")

    @contextmanager
    def _table(self) -> Iterator[sqlite3.Connection]:
        try:
            table = sqlite3.connect(self._path, timeout=1)
            try:
                with table:  # a transaction
                    yield table
            finally:
                table.close()
        except sqlite3.Error as error:
            raise TierUnavailableError(f"SQLite failed: {error}") from error

    def _row(self, name: str, data: bytes, life: float | None) -> tuple[object, ...]:
        # A version is random: one that counts would begin again where an item was removed.
        return name, data, os.urandom(8), None if life is None else time.time() + life

    def read(self, names: Sequence[str]) -> dict[str, Item]:
        wanted = f"name IN ({', '.join('?' * len(names))}) AND (ends IS NULL OR ends > ?)"
        with self._table() as table:
            rows = table.execute(
                f"SELECT name, data, version FROM item WHERE {wanted}", (*names, time.time())
            )
            return {name: Item(data, version) for name, data, version in rows}

    def write(self, name: str, data: bytes, life: float | None) -> None:
        with self._table() as table:
            table.execute("REPLACE INTO item VALUES (?, ?, ?, ?)", self._row(name, data, life))

    def add(self, name: str, data: bytes, life: float | None) -> bool:
        with self._table() as table:
            table.execute("DELETE FROM item WHERE name = ? AND ends <= ?", (name, time.time()))
            row = self._row(name, data, life)
            return table.execute("INSERT OR IGNORE INTO item VALUES (?, ?, ?, ?)", row).rowcount == 1

    def replace(self, name: str, data: bytes, life: float | None, version: object) -> bool:
        change = "UPDATE item SET data = ?, version = ?, ends = ? WHERE name = ? AND version = ?"
        with self._table() as table:
            return table.execute(change, (*self._row(name, data, life)[1:], name, version)).rowcount == 1

    def ping(self) -> None:
        self.read(["ping"])

    def close(self) -> None:
        """Nothing stays open."""


class TestSqlite(TierContract):
    """The suite that every tier passes."""

    lists_keys = False

    def make_tier(self, clock: ManualClock) -> PolledTier:
        return PolledTier(SqliteStore(os.path.join(tempfile.mkdtemp(), "cache.db")), clock=clock)


def main() -> None:
    path = os.path.join(tempfile.mkdtemp(), "cache.db")
    one = IntelligentCache(MemoryCache(), PolledTier(SqliteStore(path)), file_cache=None)
    two = IntelligentCache(None, PolledTier(SqliteStore(path)), file_cache=None)  # never stale
    with one, two:
        one.set("user:1", "Ada", tags={"users"})
        print(two.get("user:1"), end=" ")
        two.invalidate_by_tags({"users"})
        print(two.get("user:1"), two.get_or_set("user:1", lambda: "Grace"))


if __name__ == "__main__":
    main()
