"""Keys that are asked for in the same minute of an hour or a day are in memory before that minute."""

from __future__ import annotations

import asyncio
import pickle
import threading
from pathlib import Path
from random import Random

import inside
import pytest
from recurring_pages import BY_CLOCK, DAY, HOUR, KEYS, clocked
from recurring_pages import looks_of_the_test_alone as looks_of_the_test_alone
from redis_server import wait_until

from cachekit import MemoryCache, Prefetch, aio, cassette
from cachekit.loading.predictor import Predictor, PrefetchCounters, Unproven
from cachekit.loading.recurrence import Recurrence
from cachekit.runtime.scheduler import scheduler
from cachekit.testing import ManualClock
from cachekit.testing.processes import in_processes


@pytest.mark.parametrize("period", [HOUR, DAY])
def test_what_recurs_is_in_memory_from_the_fifth_time_on(period: float) -> None:
    """Three times teach it, and the fourth one proves it."""
    keys = clocked()
    with keys.pages.cache as cache:
        assert [len(keys.turn(KEYS, period)) for _ in range(4)] == [10] * 4
        info = keys.pages.info
        assert (info.clock_foreseen, info.clock_right, info.clock_issued) == (10, 10, 0)
        assert [keys.turn(KEYS, period) for _ in range(3)] == [[]] * 3
        info = keys.pages.info
        assert (info.clock_issued, info.clock_useful, info.clock_right) == (30, 30, 40)
        assert (info.issued, info.useful, info.wasted, info.saved_loads_net) == (30, 30, 0, 30)
        assert info.clock_active
        combined = cache.get_stats()["combined"]
        assert (combined.prefetches, combined.prefetch_hits, combined.loads) == (30, 30, 70)


def test_a_weekend_is_no_end() -> None:
    """A key that is left out twice is known after that; it is wasted once."""
    keys = clocked()
    with keys.pages.cache:
        for _ in range(4):
            keys.turn(KEYS, DAY)
        assert keys.turn(KEYS, DAY) == []
        for _ in range(2):
            keys.turn([], DAY)
        assert keys.turn(KEYS, DAY) == list(KEYS)
        assert keys.pages.info.wasted == len(KEYS)
        for _ in range(2):  # what was wasted has to be proven again
            keys.turn(KEYS, DAY)
        assert keys.turn(KEYS, DAY) == []


def test_only_what_memory_lacks_is_foreseen() -> None:
    """Of an entry that is there, there is nothing to save, and nothing to prove."""
    keys = clocked()
    with keys.pages.cache as cache:
        for _ in range(3):
            keys.turn()
        keys.go_to(14.2)
        keys.pages.read(KEYS)
        inside.look_at_clock(cache)
        assert keys.turn([]) == []
        keys.go_to(30)
        inside.look_at_clock(cache)
        assert keys.pages.info.clock_foreseen == 0


def test_it_can_be_off() -> None:
    keys = clocked(prefetch=Prefetch(rows=1, clock=False))
    with keys.pages.cache as cache:
        for _ in range(6):
            assert keys.turn() == list(KEYS)
        assert keys.pages.info[8:] == (0, 0, 0, 0, False)
        assert inside.prefetches(cache)._job is None


def test_keys_at_random_minutes_prove_nothing() -> None:
    """Some of them come in the same minute by accident. Keys of every minute do not follow the clock."""
    random = Random(2)
    predictor = Predictor(
        1, 1, 0.25, 1_000, Unproven(1_000), PrefetchCounters(), lambda _: True, Recurrence()
    )
    for minute in range(24 * 60):
        assert predictor.foresee(predictor.due(minute, minute - 1), minute) == []
        rare = random.sample(range(100, 200), 4)
        often = [number for number in range(10) if random.random() < 0.5]
        for number in ["of each minute", *rare, *often]:
            predictor.missed(str(number), 0, 0, minute)
    info = predictor.info()
    assert 0 < info.clock_foreseen < 100
    assert info.clock_right < 10
    assert not info.clock_active


def test_keys_that_come_three_times_prove_nothing() -> None:
    """Each group is foreseen once, and does not come again."""
    keys = clocked()
    with keys.pages.cache:
        for group in range(6):
            for _ in range(3):
                assert len(keys.turn(range(10 * group, 10 * group + 10))) == 10
        info = keys.pages.info
        assert (info.clock_foreseen, info.clock_right, info.clock_issued) == (50, 0, 0)


def test_keys_that_stop_once_they_are_proven() -> None:
    """What that wastes is bounded by the budget, and each proof takes twice as many keys."""
    keys = clocked()
    with keys.pages.cache as cache:
        for group in range(12):
            for _ in range(4):
                keys.turn(range(10 * group, 10 * group + 10))
        info = keys.pages.info
        requests = cache.get_stats()["combined"].requests
        assert info.wasted <= 32 + requests / 200 + 0.25 * info.useful
        assert 0 < info.clock_issued - info.clock_useful <= 20
        assert not info.clock_active


def test_the_budget_and_the_part_of_memory_hold() -> None:
    """Of a hundred keys, as many are prefetched as may be unproven."""
    keys = clocked(size=200)
    with keys.pages.cache:
        for _ in range(4):
            keys.turn(range(100))
        assert len(keys.turn(range(100))) == 80
        assert keys.pages.info.clock_issued == 20


def test_a_loader_that_fails_stops_it() -> None:
    """It is not asked for ever."""
    keys = clocked()
    with keys.pages.cache:
        keys.prove()

        def fail(_: int) -> None:
            if threading.current_thread() is not threading.main_thread():
                raise OSError("backend down")

        keys.pages.inside = fail
        for _ in range(20):
            assert keys.turn() == list(KEYS)
        info = keys.pages.info
        assert info.wasted == info.clock_issued <= 32 + 250 / 200
        assert info.paused == "too many prefetches were wasted"


def test_an_entry_that_expires_before_its_minute_is_wasted() -> None:
    """So the keys are no longer proven, though they are asked for each hour."""
    keys = clocked(ttl=20)
    with keys.pages.cache:
        keys.prove()
        for _ in range(20):
            assert keys.turn() == list(KEYS)
        info = keys.pages.info
        assert info.wasted == info.clock_issued <= 40
        assert info.clock_useful == 0


def test_an_invalidation_between_the_prefetch_and_its_use() -> None:
    """The caller gets a value that was loaded after it."""
    keys = clocked()
    with keys.pages.cache as cache:
        keys.prove()
        keys.go_to(14.7)
        inside.look_at_clock(cache)
        inside.wait_for_prefetches(cache)
        keys.pages.forget()
        assert keys.pages.info.wasted == len(KEYS)
        keys.go_to(15.4)
        keys.pages.calls.clear()
        assert keys.pages.read(KEYS) == list(KEYS)
        assert sorted(keys.pages.calls) == list(KEYS)


def test_each_minute_has_one_look() -> None:
    """What is gone again, a later look does not load."""
    keys = clocked()
    with keys.pages.cache as cache:
        keys.prove()
        for _ in range(3):
            assert keys.turn() == []
        keys.pages.calls.clear()
        keys.go_to(14.7)
        for _ in range(3):
            inside.look_at_clock(cache)
            inside.wait_for_prefetches(cache)
            keys.pages.forget()
        assert sorted(keys.pages.calls) == list(KEYS)
        assert keys.pages.info.clock_active


def test_an_invalidation_during_the_prefetch_refuses_the_value() -> None:
    keys = clocked()
    with keys.pages.cache as cache:
        keys.prove()
        proceed = keys.hold_in_the_middle()
        keys.pages.forget()
        held = [keys.pages.page.key(number) for number in keys.pages.calls[-4:]]
        proceed.set()
        inside.wait_for_prefetches(cache)
        assert not any(key in cache for key in held)
        assert keys.pages.info.wasted == 4


def test_closing_in_the_middle_begins_no_further_load() -> None:
    """What four threads load goes on, and what is queued does not begin."""
    keys = clocked()
    cache = keys.pages.cache
    keys.prove()
    keys.pages.calls.clear()
    proceed = keys.hold_in_the_middle()
    pool = inside.prefetches(cache)
    job = pool._job
    assert job in scheduler._tasks
    cache.close()
    assert job not in scheduler._tasks
    proceed.set()
    wait_until(lambda: pool._running == 0, "the threads end")
    assert len(keys.pages.calls) == 4
    assert pool._job is None
    keys.go_to(14.7)
    inside.look_at_clock(cache)
    assert pool._running == 0


@pytest.mark.parametrize("jump", [HOUR, -HOUR, 1800.0, 10 * 365 * DAY, -10 * 365 * DAY])
def test_a_jump_of_the_clock_begins_no_storm(jump: float) -> None:
    """A minute that is left out is not made up for, and the keys are learned again."""
    keys = clocked()
    with keys.pages.cache as cache:
        keys.prove()
        assert keys.turn() == []
        issued = keys.pages.info.issued
        keys.clock.jump(jump)
        for _ in range(5):
            inside.look_at_clock(cache)
            inside.wait_for_prefetches(cache)
        assert keys.pages.info.issued == issued
        assert inside.prefetches(cache).unproven.count == 0
        for _ in range(6):
            keys.turn()
        assert keys.turn() == []
        assert keys.pages.info.wasted <= len(KEYS)


def test_a_clock_that_goes_to_and_fro() -> None:
    """Between two minutes, at each look: each key is loaded once."""
    keys = clocked()
    with keys.pages.cache as cache:
        keys.prove()
        keys.pages.calls.clear()
        keys.go_to(14.7)
        for step in range(20):
            inside.look_at_clock(cache)
            inside.wait_for_prefetches(cache)
            keys.clock.jump(HOUR / 60 * (-1) ** step)
        assert sorted(keys.pages.calls) == list(KEYS)


@pytest.mark.parametrize("queued", [False, True])
def test_a_replay_loads_none_of_them(tmp_path: Path, queued: bool) -> None:
    """While a cassette answers, no loader is called, also not for keys that were queued before."""
    keys = clocked()
    with keys.pages.cache as cache:
        keys.prove()
        if queued:
            proceed = keys.hold_in_the_middle()
            keys.pages.calls.clear()
        with cassette(tmp_path / "empty.jsonl", "replay"):
            if queued:
                proceed.set()
            else:
                keys.pages.calls.clear()
                keys.go_to(14.7)
                inside.look_at_clock(cache)
            inside.wait_for_prefetches(cache)
            assert keys.pages.calls == []


def test_coroutine_functions() -> None:
    """They run in tasks of the loop of their last caller, and not after it is closed."""
    clock = ManualClock()
    memory = MemoryCache(400, clock=clock, cleanup_interval=None)
    calls: list[int] = []
    cache = aio.IntelligentCache(memory, file_cache=None)

    @cache.cached(prefetch=BY_CLOCK, ttl=600)
    async def page(number: int) -> int:
        calls.append(number)
        await asyncio.sleep(0)
        return number

    async def turn() -> int:
        clock.advance((60 * 14.7 - clock.time()) % HOUR)
        await asyncio.to_thread(inside.look_at_clock, cache)
        await asyncio.sleep(0)
        while inside.tasks(cache):
            await asyncio.sleep(0)
        clock.advance((60 * 15.4 - clock.time()) % HOUR)
        misses = page.cache_info().misses
        for number in KEYS:
            assert await page(number) == number
            while inside.tasks(cache):
                await asyncio.sleep(0)
        return page.cache_info().misses - misses

    async def main() -> None:
        assert [await turn() for _ in range(6)] == [10, 10, 10, 10, 0, 0]

    asyncio.run(main())
    clock.advance((60 * 14.7 - clock.time()) % HOUR)
    inside.look_at_clock(cache)
    info = page.cache_info().prefetch
    assert info is not None
    assert (info.clock_issued, info.clock_useful, info.wasted) == (20, 20, 0)
    assert len(calls) == 60
    asyncio.run(cache.close())


def test_a_child_has_no_loop_of_its_parent() -> None:
    async def main() -> None:
        memory = MemoryCache(400, cleanup_interval=None)
        async with aio.IntelligentCache(memory, file_cache=None) as cache:

            @cache.cached(prefetch=BY_CLOCK)
            async def page(number: int) -> int:
                return number

            await page(1)
            (prefetcher,) = inside.prefetches(cache)._prefetchers
            assert prefetcher._loop is not None
            assert in_processes(1, lambda _: prefetcher._loop is None) == [True]

    asyncio.run(main())


def test_the_option() -> None:
    """It is checked, compared, pickled and shown as the others."""
    off = Prefetch(clock=False)
    assert off != Prefetch() == Prefetch(clock=True)
    assert pickle.loads(pickle.dumps(off)) == off
    assert repr(off) == "Prefetch(depth=16, rows=None, max_waste=0.25, clock=False)"
    with pytest.raises(TypeError, match="clock must be True or False, not 1"):
        Prefetch(clock=1)  # type: ignore[arg-type]
