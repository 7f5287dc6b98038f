"""A prefetch is a load like any other: it fails, hangs, ends and is fenced as others are."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from pathlib import Path

import inside
import pytest
from forking import in_fork
from prefetched_pages import Pages, memory_only
from racing import switching_every
from redis_server import wait_until

from cachekit import (
    CacheClosedError,
    CacheLevel,
    FileCache,
    IntelligentCache,
    LoadOptions,
    MemoryCache,
    Prefetch,
    aio,
)
from cachekit.loading import prefetching

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def test_a_caller_joins_a_prefetch_under_way() -> None:
    """It counts as late, and the function runs once."""
    with memory_only() as cache:
        pages = Pages(cache)
        pages.learn()
        began, proceed = threading.Event(), threading.Event()

        def hold(number: int) -> None:
            if number == 1:
                began.set()
                proceed.wait(30)

        pages.inside = hold
        pages.page(0)
        assert began.wait(30)
        results = list[int]()
        caller = threading.Thread(target=lambda: results.append(pages.page(1)))
        caller.start()
        wait_until(lambda: pages.info.late == 1, "the caller waits")
        proceed.set()
        caller.join(30)
        inside.wait_for_prefetches(cache)
        assert results == [10]
        assert pages.calls.count(1) == 1
        assert (pages.info.late, pages.info.wasted) == (1, 0)


def test_a_prefetch_in_a_new_thread_begins_after_the_load_of_the_caller() -> None:
    """Otherwise it takes the permit or the connection that the caller needs."""
    with memory_only() as cache:
        pages = Pages(cache)
        pages.learn()
        with switching_every(1_000):  # so a thread goes on until it waits
            pages.page(0)
        inside.wait_for_prefetches(cache)
        assert pages.calls[:2] == [0, 1]


def test_a_load_that_fails_is_wasted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The caller of the key gets the error of its own call, if that fails too."""
    with memory_only() as cache:
        pages = Pages(cache)
        pages.learn()

        def fail(number: int) -> None:
            if number == 1:
                raise OSError("backend down")

        pages.inside = fail
        pages.read([0])
        assert pages.info.wasted == 1
        assert "failed" in caplog.text
        with pytest.raises(OSError, match="backend down"):
            pages.page(1)
        pages.inside = lambda number: None
        assert pages.page(1) == 10


def test_a_backend_that_is_down_is_not_asked_for_ever() -> None:
    """The budget ends: 32 loads, and one in 200 requests."""
    with memory_only() as cache:
        pages = Pages(cache)
        keys = list(range(100))
        pages.learn(keys)

        def fail(number: int) -> None:
            if threading.current_thread() is not threading.main_thread():
                raise OSError("backend down")

        pages.inside = fail
        for _ in range(3):
            pages.read(keys)
            pages.forget()
        assert pages.info.wasted == pages.info.issued <= 32 + 500 / 200
        assert pages.info.paused == "too many prefetches were wasted"


def test_a_load_that_hangs_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither callers nor `close`; and at most four threads hang, which end as soon as they can."""
    monkeypatch.setattr(prefetching, "_IDLE", 600)
    cache = memory_only()
    pages = Pages(cache, prefetch=Prefetch(depth=1))
    pages.learn(range(40))
    proceed, hung = threading.Event(), list[int]()

    def hang(number: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            hung.append(number)
            proceed.wait(30)

    pages.inside = hang
    for number in range(0, 40, 2):
        assert pages.page(number) == 10 * number
    wait_until(lambda: len(hung) == 4, "four threads hang")
    cache.close()
    proceed.set()
    wait_until(lambda: inside.prefetches(cache)._running == 0, "the threads end")
    assert len(hung) == 4


def test_a_thread_that_has_just_taken_a_key_is_not_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the next key gets a thread of its own, and does not wait for the load of the first."""
    monkeypatch.setattr(prefetching, "_IDLE", 600)
    with memory_only() as cache:
        pages = Pages(cache)
        pages.learn()
        pages.read([0])
        pages.forget()
        pool = inside.prefetches(cache)
        assert pool._running == 1
        (prefetcher,) = pool._prefetchers
        keys = [pages.page.key(number) for number in range(4)]
        assert prefetcher.expected(keys[0]) == [keys[1]]
        assert prefetcher.expected(keys[2]) == [keys[3]]
        both = threading.Barrier(2)
        pages.inside = lambda number: both.wait(30)
        with pool._lock:  # which the thread needs before it can note anything
            pool.begin(prefetcher, [keys[1]])
            wait_until(pool._queue.empty, "the thread takes the key")
            pool.begin(prefetcher, [keys[3]])
        inside.wait_for_prefetches(cache)
        assert sorted(pages.calls) == [0, 1, 1, 3]
        assert pages.info.wasted == 1  # the one before


def test_closing_cancels_tasks() -> None:
    """No task is left, and what was queued does not run."""

    async def main() -> None:
        cache = aio.IntelligentCache(MemoryCache(200), file_cache=None)
        calls, hangs = [], False

        @cache.cached(prefetch=True)
        async def page(number: int) -> int:
            calls.append(number)
            if hangs:
                await asyncio.Event().wait()
            return number

        for _ in range(2):
            await page.cache_clear()
            for number in range(6):
                await page(number)
        await page.cache_clear()
        hangs = True
        waiting = asyncio.ensure_future(page(0))
        while len(calls) < 14:
            await asyncio.sleep(0)
        assert calls[12:] == [0, 1]
        await cache.close()
        assert not inside.tasks(cache)
        with pytest.raises(Exception, match="closed"):
            await waiting

    asyncio.run(main())


def test_threads_end_with_the_cache() -> None:
    """Also those that wait for work."""
    cache = memory_only()
    pages = Pages(cache)
    pages.learn()
    pages.read(range(6))
    pool = inside.prefetches(cache)
    assert 1 <= pool._running <= 4
    cache.close()
    wait_until(lambda: pool._running == 0, "the threads end")


def test_a_closed_cache_begins_no_prefetch() -> None:
    """A region of it refuses calls, also while the memory tier is open for another cache."""
    cache = IntelligentCache(MemoryCache(200), file_cache=None, close_tiers=False)
    calls = list[str]()

    def load(key: str) -> str:
        calls.append(key)
        return key

    region = cache.region("r:", str, loader=load, prefetch=True)
    region.get_or_set("first")
    pool = inside.prefetches(cache)
    cache.close()
    for _ in range(3):
        for key in "abc":
            with pytest.raises(CacheClosedError):
                region.get_or_set(key)
    assert calls == ["first"]
    assert (pool._running, pool._queue.qsize()) == (0, 0)
    info = region.prefetch_info()
    assert info is not None
    assert info.issued == 0
    (prefetcher,) = pool._prefetchers
    pool.begin(prefetcher, ["r:a"])  # of a caller that asked before
    assert pool._running == 0


def test_a_hit_before_the_entry_is_watched_is_useful() -> None:
    """The caller comes between the store of the value and its watch."""
    with memory_only() as cache:
        pages = Pages(cache)
        pages.learn()
        pool = inside.prefetches(cache)
        (prefetcher,) = pool._prefetchers
        first, second = pages.page.key(0), pages.page.key(1)
        assert prefetcher.expected(first) == [second]
        cache.set(second, 10)
        assert cache.get(second) == 10
        prefetcher._landed(second, True)
        assert (pages.info.useful, pages.info.wasted, pages.info.saved_loads_net) == (1, 0, 1)
        assert pool.unproven.count == 0
        assert pool._owners == {}


def test_an_invalidation_during_a_prefetch_refuses_the_value() -> None:
    """As of any load."""
    with memory_only() as cache:
        pages = Pages(cache, tags=["pages"])
        pages.learn()

        def invalidate(number: int) -> None:
            if number == 1:
                cache.invalidate_by_tags(["pages"])

        pages.inside = invalidate
        pages.page(0)
        inside.wait_for_prefetches(cache)
        assert sorted(pages.calls) == [0, 1]
        assert pages.page.key(1) not in cache
        assert pages.info.wasted == 1


def test_what_is_not_to_be_stored_is_not() -> None:
    """By `store_if`, or a TTL of 0."""
    for options in ({"store_if": lambda value: value != 10}, {"ttl": lambda value: 0 if value == 10 else 9}):
        with memory_only() as cache:
            pages = Pages(cache, **options)
            pages.learn()
            pages.read([0])
            assert pages.page.key(1) not in cache
            assert pages.info.wasted == 1


def test_prefetches_wait_for_no_slot(tmp_path: Path) -> None:
    """`max_concurrent_loads` holds for them, and what finds no slot is given up."""
    load = LoadOptions(max_concurrent_loads=1)
    with IntelligentCache(MemoryCache(200), file_cache=FileCache(tmp_path, 4)) as cache:
        pages = Pages(cache, load=load)
        for _ in range(2):
            pages.read(range(6))
            cache.clear()
        pages.calls.clear()
        began = threading.Event()

        def hold(number: int) -> None:
            if number == 50:
                began.set()
                wait_until(lambda: pages.info.issued, "a prefetch begins")
                inside.wait_for_prefetches(cache)

        pages.inside = hold
        holder = threading.Thread(target=pages.page, args=(50,))
        holder.start()
        assert began.wait(30)
        assert pages.page(0) == 0
        holder.join(30)
        assert pages.calls == [50, 0]
        assert (pages.info.issued, pages.info.wasted) == (1, 0)


def test_what_another_process_has_stored_is_not_loaded(tmp_path: Path) -> None:
    """It is copied from the tier that they share."""
    with IntelligentCache(MemoryCache(200), file_cache=FileCache(tmp_path, 4)) as cache:
        pages = Pages(cache)
        for _ in range(2):
            pages.read(range(6))
            inside.memory(cache).clear()
        pages.calls.clear()
        assert pages.read(range(6)) == [0]
        assert pages.calls == []
        assert (pages.info.useful, pages.info.saved_loads_net) == (5, 0)


def test_the_level_memory_asks_no_lower_tier(tmp_path: Path) -> None:
    """And another level is refused when the function is decorated."""
    with IntelligentCache(MemoryCache(200), file_cache=FileCache(tmp_path, 4)) as cache:
        pages = Pages(cache, cache_level=CacheLevel.MEMORY)
        for _ in range(3):
            pages.read(range(6))
            inside.memory(cache).clear()
        assert pages.info.useful == 5
        assert cache.get_stats()["file"].requests == 0
        with pytest.raises(ValueError, match="prefetch needs a cache_level"):
            Pages(cache, cache_level=CacheLevel.FILE)


request: ContextVar[str] = ContextVar("request", default="none")


def test_it_runs_in_the_context_of_the_caller_that_it_follows() -> None:
    """What it misses there teaches nothing, because no caller has asked for it."""
    with memory_only() as cache:
        inner = Pages(cache)
        seen = []

        @cache.cached(prefetch=True, name="outer", version="1")
        def outer(number: int) -> int:
            seen.append((number, request.get()))
            if threading.current_thread() is not threading.main_thread():
                inner.page(100 + number)
            return number

        for turn in range(3):
            cache.clear()
            request.set(f"r{turn}")
            for number in range(4):
                outer(number)
                inside.wait_for_prefetches(cache)
        assert sorted(seen[-4:]) == [(number, "r2") for number in range(4)]
        assert inner.calls == [101, 102, 103]
        learned = [one.predictor._last for one in inside.prefetches(cache)._prefetchers]
        assert sorted(map(len, learned)) == [0, 1]


def test_it_belongs_to_no_load_of_its_caller() -> None:
    """What the caller is loading it waits for, and does not load a second time."""
    with memory_only() as cache:
        pages = Pages(cache)
        pages.learn()
        loads = list[str]()

        def load() -> str:
            loads.append(threading.current_thread().name)
            if len(loads) == 1:
                pages.page(0)
                wait_until(
                    lambda: bool(inside.threads_waiting(cache, "shared")) or len(loads) > 1,
                    "the prefetch asks for the key",
                )
            return "loaded"

        def ask(number: int) -> None:
            if number == 1:
                assert cache.get_or_set("shared", load) == "loaded"

        pages.inside = ask
        assert cache.get_or_set("shared", load) == "loaded"
        inside.wait_for_prefetches(cache)
        assert len(loads) == 1
        assert pages.info.wasted == 0


def test_a_fork_has_none_of_the_threads() -> None:
    """A child learns on, and begins threads of its own."""
    with memory_only() as cache:
        pages = Pages(cache)
        pages.learn()
        pages.read(range(6))

        def child() -> None:
            pages.forget()
            assert pages.read(range(6)) == [0]

        assert in_fork(child)() == 0
        pages.forget()
        assert pages.read(range(6)) == [0]
