"""What is known of keys that follow the clock goes on after a restart, and a record is checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import inside
import pytest
from recurring_pages import BY_CLOCK, DAY, HOUR, KEYS, Clocked
from recurring_pages import looks_of_the_test_alone as looks_of_the_test_alone

from cachekit import FileCache, IntelligentCache, MemoryCache
from cachekit.loading import hot_set
from cachekit.testing import FaultyTier, ManualClock


def on_files(path: Path, clock: ManualClock, **more: Any) -> IntelligentCache:
    file = FileCache(path, 8, clock=clock, cleanup_interval=None)
    memory = MemoryCache(400, clock=clock, cleanup_interval=None)
    return IntelligentCache(memory, None, file, reload_hot=True, **more)


@pytest.mark.parametrize("period", [HOUR, DAY])
def test_it_goes_on_after_a_restart(tmp_path: Path, period: float) -> None:
    """Each time in a process of its own; the function is known from its first call on."""
    clock, missed = ManualClock(), list[int]()
    for _ in range(6):
        with on_files(tmp_path, clock) as cache:
            keys = Clocked(cache, clock)
            keys.pages.read([1_000 + len(missed)])
            missed.append(len(keys.turn(KEYS, period)))
    assert missed == [10, 10, 10, 10, 0, 0]


def test_a_run_in_which_the_function_is_not_called_keeps_the_record(tmp_path: Path) -> None:
    clock = ManualClock()
    with on_files(tmp_path, clock) as cache:
        Clocked(cache, clock).prove()
    with on_files(tmp_path, clock, prefetch=True) as cache:
        cache.get("of this run")
    with on_files(tmp_path, clock) as cache:
        keys = Clocked(cache, clock)
        keys.pages.read([1_000])
        assert keys.turn() == []


def test_calls_that_all_hit_reloaded_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The function is known from its first call on, also if no call misses."""
    clock = ManualClock()
    with on_files(tmp_path, clock) as cache:
        Clocked(cache, clock).prove()
    with on_files(tmp_path, clock) as cache:
        began = hot_set.HotSet.function_began

        def begin_and_wait(self: hot_set.HotSet, identity: str, prefix: str | None) -> None:
            began(self, identity, prefix)
            inside.wait_for_reload(cache)

        monkeypatch.setattr(hot_set.HotSet, "function_began", begin_and_wait)
        inside.wait_for_reload(cache)
        keys = Clocked(cache, clock)
        assert keys.pages.read(KEYS) == []
        assert keys.turn() == []


def test_a_restart_in_the_minute_of_the_keys(tmp_path: Path) -> None:
    """What a process has seen before it read the record is added to that."""
    clock = ManualClock()
    with on_files(tmp_path, clock) as cache:
        keys = Clocked(cache, clock)
        keys.prove()
    with on_files(tmp_path, clock) as cache:
        keys = Clocked(cache, clock)
        keys.go_to(15.4)
        keys.pages.read(KEYS)
        inside.look_at_clock(cache)
        assert keys.turn() == []


def test_an_outage_at_the_start_leaves_the_record(tmp_path: Path) -> None:
    """It is read, and stored again, when the tier is back."""
    clock = ManualClock()
    with on_files(tmp_path, clock) as cache:
        Clocked(cache, clock).prove()
    for strict in (False, True):
        file: Any = FaultyTier(FileCache(tmp_path, 8, clock=clock, cleanup_interval=None))
        memory = MemoryCache(400, clock=clock, cleanup_interval=None)
        with IntelligentCache(memory, None, file, reload_hot=True, strict=strict) as cache:
            inside.wait_for_reload(cache)
            keys = Clocked(cache, clock)
            file.fail()
            if not strict:  # an error of the tier is one of the call there
                keys.pages.read([1_000])
            inside.look_at_clock(cache)
            file.mend()
            inside.end_outage(cache)
            keys.pages.read([1_001])
            assert keys.turn() == []


@pytest.mark.parametrize(
    "options", [{"ignore": ("token",)}, {"key_func": lambda number, token: f"page {number}"}]
)
def test_arguments_that_the_key_leaves_out_are_not_recorded(tmp_path: Path, options: Any) -> None:
    """They may be secrets, and another program could change them."""
    clock = ManualClock()
    with on_files(tmp_path, clock) as cache:

        @cache.cached(prefetch=BY_CLOCK, name="page", ttl=600, **options)
        def page(number: int, token: str) -> int:
            return number

        for _ in range(3):
            clock.advance((60 * 15.4 - clock.time()) % HOUR)
            for number in KEYS:
                page(number, "a SECRET")
            inside.wait_for_prefetches(cache)
    with FileCache(tmp_path, 8, clock=clock) as stored:
        assert "SECRET" not in str(stored.get_value(hot_set.RECURRING_KEY))


def test_an_edited_function_begins_again(tmp_path: Path) -> None:
    """Its keys are others, and so are those of a function with other arguments."""
    clock = ManualClock()
    with on_files(tmp_path, clock) as cache:
        Clocked(cache, clock).prove()
    with on_files(tmp_path, clock) as cache:

        @cache.cached(prefetch=True, name="page", version="2", ttl=600)
        def page(number: int, more: int) -> int:
            return number

        page(1, 2)
        inside.look_at_clock(cache)
        hours, days = inside.clock_table(cache)
        assert set(hours) == set(days) == {page.key(1, 2)}


def test_regions_and_lower_tiers_after_a_restart(tmp_path: Path) -> None:
    """Their keys need no argument. Memory alone forgets in between."""
    clock = ManualClock()
    loads: list[str] = []

    def load(key: str) -> str:
        loads.append(key)
        return key.upper()

    for turn in range(6):
        with on_files(tmp_path, clock, prefetch=BY_CLOCK) as cache:
            inside.wait_for_reload(cache)
            users = cache.region("user:", str, loader=load, prefetch=BY_CLOCK, ttl=600)
            cache.set_many({key: key.upper() for key in "abcdefghij"}, ttl=DAY)
            clock.advance((60 * 14.7 - clock.time()) % HOUR)
            inside.memory(cache).clear()
            inside.look_at_clock(cache)
            inside.wait_for_prefetches(cache)
            clock.advance((60 * 15.4 - clock.time()) % HOUR)
            loads.clear()
            before = cache.get_stats()["memory"].misses
            for key in "abcdefghij":
                assert cache.get(key) == key.upper()
                inside.wait_for_prefetches(cache)
            copied = cache.get_stats()["memory"].misses == before
            for key in "klmnopqrst":
                assert users.get_or_set(key) == key.upper()
                inside.wait_for_prefetches(cache)
            assert (copied, not loads) == (turn > 3, turn > 3)
    info = cache.prefetch_info()
    assert info is not None
    # The keys of the region are in no lower tier any more, and tell nothing of the others.
    assert (info.clock_active, info.clock_useful, info.wasted) == (True, 10, 0)


@pytest.mark.parametrize(
    "record",
    [
        17,
        {"cache": 1},
        {"cache": {"rows": 1}},
        {"cache": {"rows": [1, [], ["a", True, [1], []], ["a", True, ["b", 1], []], [5, True, [], []]]}},
        {"cache": {"rows": [["a", True, [-1, 1], []], ["a", None, [1, 1], []]], "proof": [1, 2, 3, 4]}},
        {"cache": {"rows": [], "proof": [8, 8, 10**30, 1]}},
        {"cache": {"rows": [["a", True, [10**9, 10**9] * 50_000, []]], "proof": "1111"}},
        {1: {"rows": None}},
    ],
)
def test_a_record_of_another_writer_is_checked(tmp_path: Path, record: Any) -> None:
    """What it says that cannot be is left out."""
    clock = ManualClock()
    with FileCache(tmp_path, 8) as file:
        file.set_value(hot_set.RECURRING_KEY, record)
    with on_files(tmp_path, clock, prefetch=True) as cache:
        inside.look_at_clock(cache)
        assert inside.clock_table(cache) == [{}, {}]
        assert cache.prefetch_info() == (0, 0, 0, 0, 0, 0, 1, "", 0, 0, 0, 0, False)
        cache.get("b")
    with on_files(tmp_path, clock, prefetch=True) as cache:
        inside.look_at_clock(cache)
        assert [set(rows) for rows in inside.clock_table(cache)] == [{"b"}, {"b"}]


def test_recorded_arguments_are_those_of_the_key(tmp_path: Path) -> None:
    """A record that another program has changed calls no function with other arguments."""
    clock = ManualClock()
    with on_files(tmp_path, clock) as cache:
        Clocked(cache, clock).prove()
    with FileCache(tmp_path, 8, clock=clock) as file:
        record = file.get_value(hot_set.RECURRING_KEY)
        (part,) = record.values()
        for row in part["rows"]:
            row[1] = [[666], {}]
        file.set_value(hot_set.RECURRING_KEY, record)
    with on_files(tmp_path, clock) as cache:
        keys = Clocked(cache, clock)
        keys.pages.read([1_000])
        assert keys.turn() == list(KEYS)
        assert 666 not in keys.pages.calls
