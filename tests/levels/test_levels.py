"""Three real tiers as one: where an entry is after each call, and who is served from where."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from three_tiers import Make, Tiers

from cachekit import (
    CacheLevel,
    FileCache,
    IntelligentCache,
    RedisCache,
    SerializationError,
    TierUnavailableError,
    ValueTooLargeError,
)

ALL, MEMORY, REDIS, FILE = CacheLevel.ALL, CacheLevel.MEMORY, CacheLevel.REDIS, CacheLevel.FILE


pytestmark = pytest.mark.usefixtures("few_buckets")


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
        """What the server lost it has again, if no write came in between."""
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
        assert tiers.cache.invalidate_by_tags({"x"}) is None
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

    @pytest.mark.parametrize("mine", [True, False])
    def test_an_invalidation_during_a_load_wins(
        self, subtests: pytest.Subtests, make: Make, mine: bool
    ) -> None:
        """By this cache, or by another one on this host: the load's value is kept nowhere."""
        rows: list[Callable[[IntelligentCache], object]] = [
            lambda cache: cache.delete("k"),
            lambda cache: cache.set("k", "newer"),
            lambda cache: cache.invalidate_by_tags({"t"}),
            lambda cache: cache.invalidate_by_pattern("k"),
            lambda cache: cache.clear(),
            lambda cache: cache.touch("k"),
        ]
        for invalidate in rows:
            with subtests.test(invalidate=invalidate):
                tiers = make()
                other = tiers if mine else make(clock=tiers.clock)

                def loader() -> str:
                    invalidate(other.cache)  # noqa: B023
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
        assert tiers.cache.invalidate_by_tags({"t"}) is None
        tiers.redis.mend()
        tiers.clock.advance(60)
        fleet = tiers.cache._core.tiers.redis
        assert fleet is not None
        while fleet.state != "closed":
            fleet.probe()
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
        assert [record.message.count("cannot hold the loaded value") for record in caplog.records] == [1]
