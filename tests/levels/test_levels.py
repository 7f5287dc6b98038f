"""Three real tiers as one: where an entry is after each call, and who is served from where."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from cachekit import (
    CacheLevel,
    FileCache,
    IntelligentCache,
    MemoryCache,
    RedisCache,
    SerializationError,
    TierUnavailableError,
    ValueTooLargeError,
)
from cachekit.coherence import Listener
from cachekit.ports import FleetTier, HostTier
from cachekit.testing import FaultyTier, ManualClock

ALL, MEMORY, REDIS, FILE = CacheLevel.ALL, CacheLevel.MEMORY, CacheLevel.REDIS, CacheLevel.FILE


class Tiers(NamedTuple):
    """A cache over tiers that can be made to fail, with the real ones for a look past it."""

    cache: IntelligentCache
    clock: ManualClock
    memory: MemoryCache
    redis: FaultyTier
    file: FaultyTier

    def where(self, key: str) -> CacheLevel:
        """The levels that have the key."""
        found = CacheLevel(0)
        for level, tier in ((MEMORY, self.memory), (REDIS, self.redis.tier), (FILE, self.file.tier)):
            if cast("Any", tier).peek(key) is not None:
                found |= level
        return found


Make = Callable[..., Tiers]


@pytest.fixture
def make(redis_url: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes caches over one server and one directory, whose bus has begun to listen; all are closed."""
    made: list[IntelligentCache] = []
    heard = threading.Semaphore(0)
    distrust = Listener.everything_changed

    def announced(listener: Listener) -> None:
        distrust(listener)
        heard.release()

    monkeypatch.setattr(Listener, "everything_changed", announced)

    def tiers(directory: str = "host", clock: ManualClock | None = None, **more: Any) -> Tiers:
        clock = clock or ManualClock()
        memory = MemoryCache(clock=clock)
        redis = FaultyTier(RedisCache(url=redis_url, key_prefix=prefix, clock=clock))
        file = FaultyTier(FileCache(tmp_path / directory, 64, clock=clock))
        cache = IntelligentCache(memory, cast("FleetTier", redis), cast("HostTier", file), **more)
        made.append(cache)
        for _ in range(2):  # as the listener's thread begins, and when the server has confirmed
            assert heard.acquire(timeout=10)
        return Tiers(cache, clock, memory, redis, file)

    yield tiers
    for cache in made:
        cache.close()


@pytest.fixture
def tiers(make: Make) -> Tiers:
    return make()


class TestWriting:
    def test_a_set_is_everywhere_it_shall_be_and_nowhere_else(self, tiers: Tiers) -> None:
        """Every combination of levels, over every combination before it."""
        every = [CacheLevel(number) for number in range(1, 8)]
        for before in every:
            for level in every:
                assert tiers.cache.set("k", "old", cache_level=before)
                assert tiers.cache.set("k", "new", cache_level=level)
                assert tiers.where("k") == level
                assert tiers.cache.get("k") == "new"

    def test_a_ttl_of_nothing_removes(self, tiers: Tiers) -> None:
        """From all tiers."""
        tiers.cache.set("k", 1)
        assert tiers.cache.set("k", 2, ttl=0) is True
        assert tiers.where("k") == CacheLevel(0)

    def test_delete(self, tiers: Tiers) -> None:
        """From the levels that are named; True if one of them had it."""
        tiers.cache.set("k", 1)
        assert tiers.cache.delete("k", MEMORY) is True
        assert tiers.where("k") == REDIS | FILE
        assert tiers.cache.delete("k") is True
        assert tiers.where("k") == CacheLevel(0)
        assert tiers.cache.delete("k") is False

    def test_many(self, tiers: Tiers) -> None:
        """Many keys are set, found and deleted at all levels."""
        values = {f"k{n}": n for n in range(20)}
        assert tiers.cache.set_many(values, tags={"t"}) is True
        assert {tiers.where(key) for key in values} == {ALL}
        tiers.memory.clear()
        assert tiers.cache.get_many([*values, "none"]) == values
        assert tiers.redis.calls["get_many"] == 1
        assert {tiers.where(key) for key in values} == {ALL}
        assert tiers.cache.delete_many(list(values)) == 20
        assert {tiers.where(key) for key in values} == {CacheLevel(0)}

    def test_what_a_tier_cannot_hold_is_nowhere(self, tiers: Tiers) -> None:
        """The error reaches the caller, and the older value is gone too."""
        for value, kind in ((lambda: 1, SerializationError), (b"x" * (66 << 20), ValueTooLargeError)):
            tiers.cache.set("k", "old")
            with pytest.raises(kind):
                tiers.cache.set("k", value)
            assert tiers.where("k") == CacheLevel(0)

    def test_touch(self, tiers: Tiers) -> None:
        """A new life at every level that has the key."""
        tiers.cache.set("k", 1, ttl=10)
        tiers.clock.advance(8)
        assert tiers.cache.touch("k", 10) is True
        tiers.clock.advance(8)
        assert tiers.cache.get("k") == 1
        assert tiers.cache.touch("absent") is False
        tiers.cache.set("m", 1, ttl=10, cache_level=MEMORY)
        assert tiers.cache.touch("m", 100) is True
        tiers.clock.advance(50)
        assert tiers.cache.get("m") == 1


class TestReading:
    def test_promotion_keeps_what_is_left_of_life(self, tiers: Tiers) -> None:
        """A copy lives no longer than its original."""
        tiers.cache.set("k", 1, ttl=10, tags={"t"})
        for lost in ((tiers.memory,), (tiers.memory, tiers.redis.tier)):
            for tier in lost:
                tier.clear()
            tiers.clock.advance(4)
            if len(lost) == 1:
                assert tiers.cache.get("k") == 1
                assert tiers.where("k") == ALL
        tiers.clock.advance(2)
        assert tiers.cache.get("k") is None
        assert tiers.where("k") == CacheLevel(0)

    def test_from_the_file_to_redis_and_memory(self, tiers: Tiers) -> None:
        """What the server lost it has again, if nobody wrote meanwhile."""
        tiers.cache.set("k", 1, tags={"t"})
        tiers.memory.clear()
        cast("RedisCache", tiers.redis.tier).clear()
        # Clearing changed the tokens: the server cannot vouch for the file's copy any more.
        assert tiers.cache.get("k") is None
        assert tiers.where("k") == CacheLevel(0)

    def test_levels_that_are_asked(self, tiers: Tiers) -> None:
        """A lookup asks, and fills, the levels that it names."""
        tiers.cache.set("k", 1, cache_level=FILE)
        assert tiers.cache.get("k", cache_level=MEMORY) is None
        assert tiers.cache.get("k", cache_level=REDIS) is None
        assert tiers.cache.get("k", cache_level=FILE) == 1
        assert not tiers.where("k") & MEMORY
        assert tiers.cache.get("k") == 1
        assert tiers.where("k") & MEMORY

    def test_statistics_add_up(self, tiers: Tiers) -> None:
        """Each tier's lookups, and what the caller saw."""
        tiers.cache.set("k", 1)
        tiers.cache.get("k")
        tiers.cache.get("none")
        tiers.memory.clear()
        tiers.cache.get("k")
        tiers.cache.get("k", cache_level=REDIS)
        stats = tiers.cache.get_stats()
        assert (stats["memory"].hits, stats["memory"].misses, stats["memory"].promotions) == (1, 2, 1)
        assert (stats["redis"].hits, stats["redis"].misses) == (2, 1)
        assert (stats["file"].hits, stats["file"].misses) == (0, 1)
        assert (stats["combined"].requests, stats["combined"].request_hits) == (4, 3)

    def test_contains_and_explain(self, tiers: Tiers) -> None:
        """They see lower tiers, and say which."""
        tiers.cache.set("k", 1, ttl=60, tags={"t"}, cache_level=FILE)
        assert "k" in tiers.cache
        explained = tiers.cache.explain("k")
        assert explained.level == FILE
        assert explained.tags == {"t"}
        assert tiers.where("k") == FILE


class TestInvalidation:
    def test_tags(self, tiers: Tiers) -> None:
        """What carries one of them is gone from every tier; the rest stays."""
        tiers.cache.set("a", 1, tags={"x", "y"})
        tiers.cache.set("b", 2, tags={"y"})
        tiers.cache.set("c", 3)
        assert tiers.cache.invalidate_by_tags({"x"}) == 1
        assert [tiers.where(key) for key in "abc"] == [CacheLevel(0), ALL, ALL]

    def test_patterns(self, tiers: Tiers) -> None:
        """Flags of a compiled pattern reach every tier."""
        for key in ("user:1", "USER:2", "page:1"):
            tiers.cache.set(key, 1)
        assert tiers.cache.invalidate_by_pattern(re.compile("user:", re.IGNORECASE)) == 2
        assert [tiers.where(key) for key in ("user:1", "USER:2")] == [CacheLevel(0)] * 2
        assert tiers.cache.get("page:1") == 1

    def test_clear(self, tiers: Tiers) -> None:
        """The levels that are named."""
        tiers.cache.set("k", 1)
        assert tiers.cache.clear(MEMORY) is True
        assert tiers.cache.get("k") == 1
        assert tiers.cache.clear() is True
        assert tiers.where("k") == CacheLevel(0)

    @pytest.mark.parametrize(
        "invalidate",
        [
            lambda cache: cache.delete("k"),
            lambda cache: cache.set("k", "newer"),
            lambda cache: cache.invalidate_by_tags({"t"}),
            lambda cache: cache.invalidate_by_pattern("k"),
            lambda cache: cache.clear(),
            lambda cache: cache.touch("k"),
        ],
    )
    @pytest.mark.parametrize("mine", [True, False])
    def test_an_invalidation_during_a_load_wins(
        self, make: Make, mine: bool, invalidate: Callable[[IntelligentCache], object]
    ) -> None:
        """By this cache, or by another one on this host: the load's value is kept nowhere."""
        tiers = make()
        other = tiers if mine else make(clock=tiers.clock)

        def loader() -> str:
            invalidate(other.cache)
            return "older"

        assert tiers.cache.get_or_set("k", loader, tags={"t"}) in {"older", "newer"}
        if invalidate(other.cache) is not False:  # a touch of nothing leaves nothing to refuse
            assert tiers.cache.get("k") in {None, "newer"}
            assert other.cache.get("k") in {None, "newer"}


class TestOtherCaches:
    def test_the_host_sees_a_write_at_once(self, make: Make) -> None:
        """Copies in the memory of a neighbour are not served after a write that has returned."""
        one, two = make(), make()
        for change, expected in (
            (lambda: one.cache.set("k", "new", tags={"t"}), "new"),
            (lambda: one.cache.invalidate_by_tags({"t"}), None),
            (lambda: one.cache.set("k", "new"), "new"),
            (lambda: one.cache.delete("k"), None),
            (lambda: one.cache.set("k", "new"), "new"),
            (lambda: one.cache.invalidate_by_pattern("k"), None),
        ):
            assert one.cache.set("other", 1)
            two.cache.get("k")
            cast("Callable[[], object]", change)()
            assert two.cache.get("k") == expected
            assert two.cache.get("k") == expected

    def test_a_value_of_memory_alone_is_its_process_s_own(self, tmp_path: Path) -> None:
        """A neighbour's write does not take it away: there is nothing below to bring it back."""
        with (
            IntelligentCache(file_cache=FileCache(tmp_path, 64)) as one,
            IntelligentCache(file_cache=FileCache(tmp_path, 64)) as two,
        ):
            two.set("k", "mine", cache_level=MEMORY)
            one.set("k", "theirs")
            assert two.get("k") == "mine"

    def test_another_host_has_the_newer_value(self, make: Make) -> None:
        """A host whose file has an older value than the server's does not serve it."""
        here, there = make("here"), make("there")
        here.cache.set("k", "old")
        there.cache.set("k", "new")
        here.memory.clear()
        assert here.cache.get("k") == "new"
        there.cache.delete("k")
        here.memory.clear()
        assert here.cache.get("k") is None


class TestFaults:
    def test_a_dead_server_costs_no_exception(self, tiers: Tiers) -> None:
        """Everything goes on with the other two; what the server missed it is told before it is used."""
        tiers.cache.set("k", "old")
        tiers.redis.fail()
        assert tiers.cache.set("k", "new") is False
        assert tiers.cache.get("k") == "new"
        tiers.memory.clear()
        assert tiers.cache.get("k") == "new"
        assert tiers.cache.get_or_set("loaded", lambda: 1) == 1
        assert tiers.cache.invalidate_by_tags({"t"}) == 0
        tiers.redis.mend()
        tiers.clock.advance(60)
        fleet = tiers.cache._levels.fleet
        assert fleet is not None
        fleet.access._clock = tiers.clock
        while fleet.access.state != "closed":
            fleet.access.probe()
        assert cast("RedisCache", tiers.redis.tier).peek("k") is None
        assert tiers.cache.get("k") is None

    def test_a_dead_disk_costs_no_exception(self, tiers: Tiers) -> None:
        """Memory and the server go on."""
        tiers.cache.set("k", "old")
        tiers.file.fail()
        assert tiers.cache.set("k", "new") is False
        assert tiers.cache.get("k") == "new"
        tiers.memory.clear()
        assert tiers.cache.get("k") == "new"

    def test_a_full_disk_is_no_outage(self, tiers: Tiers) -> None:
        """What could not be stored is removed there, and served from memory."""
        tiers.cache.set("k", "old")
        tiers.file.fail("put", "add", full=True)
        assert tiers.cache.set("k", "new") is False
        assert tiers.where("k") == MEMORY | REDIS
        assert tiers.cache.get("k") == "new"

    def test_strict_raises(self, make: Make) -> None:
        """After every other tier has been told."""
        tiers = make(strict=True)
        tiers.cache.set("k", "old")
        tiers.redis.fail()
        with pytest.raises(TierUnavailableError):
            tiers.cache.set("k", "new")
        assert tiers.cache.get("k") == "new"
        with pytest.raises(TierUnavailableError):
            tiers.cache.get("absent")


class TestWithoutMemory:
    def test_loads_and_fences_work(self, tmp_path: Path) -> None:
        """A cache without a memory tier asks the file tier each time."""
        with IntelligentCache(None, None, FileCache(tmp_path, 64)) as cache:
            assert cache.get_or_set("k", lambda: 1) == 1
            assert cache.get_or_set("k", lambda: 2) == 1
            assert (cache.get("k"), cache.memory_cache, list(cache.get_stats())) == (
                1,
                None,
                ["file", "combined"],
            )

            def loader() -> int:
                cache.delete("x")
                return 1

            assert cache.get_or_set("x", loader) == 1
            assert cache.get("x") is None


class TestDecorator:
    def test_a_neighbours_invalidation_reaches_the_front(self, make: Make) -> None:
        """A cached function that answers from its front stops when the answer is invalidated elsewhere."""
        one, two = make(), make()
        calls = []

        @one.cache.cached(name="f", tags={"t"})
        def function(x: int) -> int:
            calls.append(x)
            return x

        assert [function(1) for _ in range(3)] == [1, 1, 1]
        assert len(calls) == 1
        two.cache.delete(function.key(1))
        function(1)
        assert len(calls) == 2
        two.cache.invalidate_by_tags({"t"})
        function(1)
        assert len(calls) == 3

    def test_a_second_process_is_served(self, make: Make) -> None:
        """What one cache has loaded another one finds; also for coroutines, and for refresh."""
        one, two = make(), make()
        calls = []

        async def function(x: int) -> int:
            calls.append(x)
            return len(calls)

        first = one.cache.cached(name="f")(function)
        second = two.cache.cached(name="f")(function)

        async def main() -> None:
            assert (await first(1), await second(1)) == (1, 1)
            assert await first.refresh(1) == 2
            assert await second(1) == 2
            assert await second.invalidate(1) is True
            assert await first(1) == 3
            await first.cache_clear()
            assert await second(1) == 4

        asyncio.run(main())

    def test_an_answer_that_cannot_be_stored_is_returned_and_kept_in_memory(
        self, tiers: Tiers, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It was paid for; one warning says so."""
        calls = []

        @tiers.cache.cached(name="f")
        def function(x: int) -> Callable[[], int]:
            calls.append(x)
            return lambda: x

        assert [function(x)() for x in (1, 1, 2)] == [1, 1, 2]
        assert calls == [1, 2]
        assert len([record for record in caplog.records if "is not kept" in record.message]) == 1


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
        server._store._server.unlink([server._store._layout.value("a")])  # it ran out of room
        other.cache.delete("b")
        other.cache.set("c", "new")
        before = tiers.redis.calls
        # Without its level the server is only asked whether the copies are good still.
        found = tiers.cache.get_many(self.KEYS, cache_level=FILE | MEMORY)
        assert found == {"a": "old"}
        assert (tiers.redis.calls - before)["add_many"] == 0
        assert tiers.cache.get_many(self.KEYS) == {"a": "old", "c": "new"}

    def test_found_in_files_alone(self, make: Make) -> None:
        """What the server evicted comes back to it, all in one call."""
        tiers = make()
        tiers.cache.set_many(dict.fromkeys(self.KEYS, 1))
        tiers.memory.clear()
        server: Any = tiers.redis.tier
        server._store._server.unlink([server._store._layout.value(key) for key in self.KEYS])
        assert tiers.cache.get_many(self.KEYS) == dict.fromkeys(self.KEYS, 1)
        assert tiers.redis.calls["add_many"] == 1
        assert {tiers.where(key) for key in self.KEYS} == {ALL}


class Unlisted:
    """Not on the server's allow-list."""


def recover(tiers: Tiers) -> None:
    """Have what is out probed, until it is trusted again."""
    for state in tiers.cache._levels.states().values():
        deadline = time.monotonic() + 10
        while state.is_out:
            assert time.monotonic() < deadline
            state.probe()
