"""How often an operation asks the store, as the page of the memcached tier says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from polled_search import TableStore, World

from cachekit import CacheEntry, IntelligentCache
from cachekit.tiers.polled import PolledTier


def test_round_trips(subtests: pytest.Subtests) -> None:
    world = World()
    trips = [0]

    def count() -> None:
        trips[0] += 1

    with (
        PolledTier(TableStore(world)) as tier,
        PolledTier(TableStore(world), poll=5) as noting,
        IntelligentCache(None, tier, file_cache=None, close_tiers=False) as cache,
    ):
        tier.set_value("a:1", 1)
        tier.set_value("a:2", 2, tags={"t"})
        noting._listeners.look()
        entries = {f"a:{number}": CacheEntry(f"a:{number}", 1) for number in range(10)}
        rows: dict[str, tuple[int, Callable[[], object]]] = {
            "get": (2, lambda: tier.get("a:1")),
            "get, a miss": (1, lambda: tier.get("a:x")),
            "get_many": (2, lambda: tier.get_many(["a:1", "a:2", "a:x"])),
            "set": (2, lambda: tier.set_value("a:1", 1)),
            "set with tags": (3, lambda: tier.set_value("a:1", 1, tags={"t"})),
            "put_many": (11, lambda: tier.put_many(entries, dict.fromkeys(entries, tier.successor()))),
            "set_many": (11, lambda: cache.set_many(dict.fromkeys(entries, 1))),
            "set_many with tags": (12, lambda: cache.set_many(dict.fromkeys(entries, 1), tags={"t"})),
            "delete a live value": (3, lambda: tier.delete("a:1")),
            "delete": (2, lambda: tier.delete("a:1")),
            "a load": (6, lambda: cache.get_or_set("a:1", lambda: 1)),
            "a load of a new key": (7, lambda: cache.get_or_set("a:new", lambda: 1)),
            "tags": (1, lambda: tier.invalidate_by_tags({"t"})),
            "pattern": (1, lambda: tier.invalidate_by_pattern("a:")),
            "clear": (1, tier.clear),
            "set with a notice": (4, lambda: noting.set_value("a:1", 1)),
            "put_many with notices": (
                13, lambda: noting.put_many(entries, dict.fromkeys(entries, noting.successor()))
            ),
            "a look": (1, noting._listeners.look),
        }  # fmt: skip
        world.pause = count
        for name, (expected, call) in rows.items():
            with subtests.test(name=name):
                trips[0] = 0
                call()
                assert trips[0] == expected
