"""Many keys of three tiers as one: one call of the server, and what single calls do."""

from __future__ import annotations

import time
from typing import Any

import inside
import pytest
from three_tiers import Make, Tiers

from cachekit import CacheLevel, SerializationError

ALL, MEMORY, REDIS, FILE = CacheLevel.ALL, CacheLevel.MEMORY, CacheLevel.REDIS, CacheLevel.FILE


pytestmark = pytest.mark.usefixtures("few_buckets")


class TestManyKeys:
    """The server is called once for all of them, and what comes of it is what single calls do."""

    KEYS = ("a", "b", "c")

    @pytest.mark.parametrize("level", [ALL, REDIS | MEMORY, REDIS, MEMORY])
    def test_written(self, make: Make, level: CacheLevel) -> None:
        """They are where they shall be and nowhere else, with their tags, and for as long."""
        tiers = make()
        for key in self.KEYS:
            tiers.cache.set(key, "old")
        before = tiers.redis.calls
        assert tiers.cache.set_many(dict.fromkeys(self.KEYS, 1), 60, level, {"t"})
        calls = tiers.redis.calls - before
        assert calls["put"] == calls["delete"] == 0
        assert calls["put_many"] + calls["remove_many"] == 1
        assert {tiers.where(key) for key in self.KEYS} == {level}
        assert tiers.cache.get_many(self.KEYS) == dict.fromkeys(self.KEYS, 1)
        tiers.cache.invalidate_by_tags({"t"})
        assert tiers.cache.get_many(self.KEYS) == {}
        tiers.cache.set_many(dict.fromkeys(self.KEYS, 2), 60, level)
        tiers.clock.advance(60)
        assert tiers.cache.get_many(self.KEYS) == {}

    def test_written_for_no_time(self, make: Make) -> None:
        """A TTL of 0 removes them."""
        tiers = make()
        tiers.cache.set_many(dict.fromkeys(self.KEYS, 1))
        assert tiers.cache.set_many(dict.fromkeys(self.KEYS, 2), ttl=0)
        assert [tiers.where(key) for key in self.KEYS] == [CacheLevel(0)] * 3

    def test_one_of_them_cannot_be_stored(self, make: Make) -> None:
        """None of the keys is left, the older values of the others included."""
        tiers = make()
        tiers.cache.set_many(dict.fromkeys(self.KEYS, "old"))
        with pytest.raises(SerializationError):
            tiers.cache.set_many({"a": 1, "b": lambda: None, "c": 3})
        assert [tiers.where(key) for key in self.KEYS] == [CacheLevel(0)] * 3
        assert tiers.cache.set_many(dict.fromkeys(self.KEYS, 1))
        assert {tiers.where(key) for key in self.KEYS} == {ALL}

    def test_written_while_the_server_fails(self, make: Make) -> None:
        """They are served from here, and the server does not bring the older ones back."""
        tiers = make()
        tiers.cache.set_many(dict.fromkeys(self.KEYS, "old"))
        tiers.redis.fail()
        assert not tiers.cache.set_many(dict.fromkeys(self.KEYS, "new"))
        assert tiers.cache.get_many(self.KEYS) == dict.fromkeys(self.KEYS, "new")
        tiers.redis.mend()
        recover(tiers)
        assert list(tiers.redis.tier.keys()) == []

    def test_deleted(self, make: Make) -> None:
        """How many there were at any of the levels, each counted once."""
        tiers = make()
        tiers.cache.set("a", 1)
        tiers.cache.set("b", 1, cache_level=REDIS)
        tiers.cache.set("c", 1, cache_level=MEMORY)
        before = tiers.redis.calls
        assert tiers.cache.delete_many([*self.KEYS, "none"]) == 3
        assert (tiers.redis.calls - before)["remove_many"] == 1
        assert [tiers.where(key) for key in self.KEYS] == [CacheLevel(0)] * 3

    def test_loaded(self, make: Make) -> None:
        """What one loader returned is kept by one call; what another host stored first is taken over."""
        tiers, other = make(), make("other")

        def load(keys: list[str]) -> dict[str, object]:
            other.cache.set("b", "first", tags={"t"})
            return dict.fromkeys(keys, "second")

        loaded = tiers.cache.get_or_set_many(self.KEYS, load, tags={"t"})
        assert loaded["a"] == loaded["c"] == "second"
        assert (tiers.redis.calls["add_many"], tiers.redis.calls["add"]) == (1, 0)
        assert {tiers.where(key) for key in "ac"} == {ALL}
        assert tiers.cache.get("b") == "first"
        tiers.cache.invalidate_by_tags({"t"})
        assert tiers.cache.get_many(self.KEYS) == {}

    def test_loaded_what_the_server_cannot_hold(self, make: Make) -> None:
        """The others are kept in every tier, and this one in memory."""
        tiers = make()
        value = Unlisted()
        loaded = tiers.cache.get_or_set_many(self.KEYS, lambda _: {"a": 1, "b": value, "c": 3})
        assert loaded == {"a": 1, "b": value, "c": 3}
        assert (tiers.where("a"), tiers.where("c")) == (ALL, ALL)
        assert tiers.where("b") & REDIS == CacheLevel(0)
        assert tiers.cache.get("b", cache_level=MEMORY) is value

    def test_found_in_files(self, make: Make) -> None:
        """The server is asked about all copies at once, gets them, and has its say."""
        tiers, other = make(), make("other")
        tiers.cache.set_many(dict.fromkeys(self.KEYS, "old"))
        tiers.memory.clear()
        server: Any = tiers.redis.tier
        inside.let_go(server, "a")  # it ran out of room
        other.cache.delete("b")
        other.cache.set("c", "new")
        before = tiers.redis.calls
        # Without its level the server is only asked whether the copies are good still.
        found = tiers.cache.get_many(self.KEYS, cache_level=FILE | MEMORY)
        assert found == {"a": "old"}
        calls = tiers.redis.calls - before
        assert (calls["origins"], calls["origin"], calls["add_many"]) == (1, 0, 0)
        assert tiers.cache.get_many(self.KEYS) == {"a": "old", "c": "new"}

    def test_found_in_files_alone(self, make: Make) -> None:
        """What the server evicted comes back to it, all in one call."""
        tiers = make()
        tiers.cache.set_many(dict.fromkeys(self.KEYS, 1))
        tiers.memory.clear()
        server: Any = tiers.redis.tier
        inside.let_go(server, *self.KEYS)
        assert tiers.cache.get_many(self.KEYS) == dict.fromkeys(self.KEYS, 1)
        assert tiers.redis.calls["add_many"] == 1
        assert {tiers.where(key) for key in self.KEYS} == {ALL}

    def test_found_in_files_since_an_outage(self, make: Make) -> None:
        """What was stored while the server was out is given up; the rest is still asked about at once."""
        tiers = make()
        tiers.cache.set_many({"a": 1, "b": 2}, tags={"t"})
        tiers.redis.fail()
        assert not tiers.cache.set("c", 3)
        tiers.redis.mend()
        tiers.redis.tier.delete("a")
        recover(tiers)
        for level in (FILE, ALL):
            before = tiers.redis.calls
            assert tiers.cache.get_many(self.KEYS, cache_level=level) == {"b": 2}
            calls = tiers.redis.calls - before
            assert (calls["origin"], calls["add"]) == (0, 0)


class Unlisted:
    """Not on the server's allow-list."""


def recover(tiers: Tiers) -> None:
    """Have what is out probed, until it is trusted again."""
    for state in tiers.cache._core.tiers.states().values():
        deadline = time.monotonic() + 60
        while state.is_out:
            assert time.monotonic() < deadline
            state.probe()
