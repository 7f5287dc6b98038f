"""prefetch: what usually comes next is in memory before it is asked for, and the waste is bounded."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import inside
import pytest
from forking import in_fork
from redis_server import wait_until

from cachekit import (
    CacheClosedError,
    CacheLevel,
    FileCache,
    IntelligentCache,
    LoadOptions,
    MemoryCache,
    Prefetch,
    PrefetchInfo,
    RedisCache,
    aio,
)
from cachekit.loading import prefetching
from cachekit.testing import ManualClock

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def memory_only(size: int = 200, **more: Any) -> IntelligentCache:
    return IntelligentCache(MemoryCache(size, **more), file_cache=None)


class Pages:
    """A cached function of one cache, with its calls; the test waits for what is prefetched."""

    def __init__(self, cache: IntelligentCache, prefetch: bool | Prefetch = True, **options: Any) -> None:
        self.cache = cache
        self.calls: list[int] = []
        self.inside: Callable[[int], object] = lambda number: None

        @cache.cached(prefetch=prefetch, name="page", version="1", **options)
        def page(number: int) -> int:
            self.calls.append(number)
            self.inside(number)
            return 10 * number

        self.page = page

    def read(self, numbers: Iterable[int]) -> list[int]:
        """Call the function, and return the numbers that were no hit in memory."""
        missed = []
        for number in numbers:
            before = self.cache.get_stats()["memory"].misses
            assert self.page(number) == 10 * number
            if self.cache.get_stats()["memory"].misses > before:
                missed.append(number)
            inside.wait_for_prefetches(self.cache)
        return missed

    def forget(self) -> None:
        assert self.page.cache_clear() is not None

    def learn(self, numbers: Iterable[int] = range(6)) -> None:
        """Let the function see a sequence until it is predicted."""
        numbers = list(numbers)
        for _ in range(2):
            self.read(numbers)
            self.forget()
        self.calls.clear()

    @property
    def info(self) -> PrefetchInfo:
        found = self.page.cache_info().prefetch
        assert found is not None
        return found


def test_the_next_page_is_there_before_it_is_asked_for() -> None:
    """From the third time on: a successor must have come twice."""
    with memory_only() as cache:
        pages = Pages(cache)
        assert pages.read(range(6)) == list(range(6))
        pages.forget()
        assert pages.read(range(6)) == list(range(6))
        assert pages.info.issued == 0
        pages.forget()
        assert pages.read(range(6)) == [0]
        assert pages.info == PrefetchInfo(5, 5, 0, 0, 0, 5, 1, "")
        combined = cache.get_stats()["combined"]
        assert (combined.prefetches, combined.prefetch_hits) == (5, 5)
        assert len(pages.calls) == combined.loads == 18


def test_also_in_the_fast_path_of_what_expired() -> None:
    """The entry of an earlier call gets a new value in place, and its next hit is the first one again."""
    clock = ManualClock()
    with memory_only(clock=clock, cleanup_interval=None) as cache:
        pages = Pages(cache, ttl=60)
        for _ in range(2):
            pages.read([0, 1, 2, 3] * 2)
            clock.advance(61)
        for _ in range(3):
            assert pages.read([0, 1, 2, 3]) == [0]
            assert pages.read([0, 1, 2, 3]) == []
            clock.advance(61)


def test_what_is_off_counts_nothing() -> None:
    """And nothing of it is made."""
    with memory_only() as cache:
        pages = Pages(cache, prefetch=False)
        pages.read([1, 2, 1, 2])
        assert pages.page.cache_info().prefetch is None
        assert cache.prefetch_info() is None
        hits, misses, size = pages.page.cache_info()
        assert (hits, misses, size) == (2, 2, 2)


def test_cache_info_stays_a_tuple_of_three() -> None:
    """With prefetching, too."""
    with memory_only() as cache:
        pages = Pages(cache)
        assert pages.page.cache_info().prefetch is None
        pages.read([1, 2, 1])
        hits, misses, size = pages.page.cache_info()
        assert (hits, misses, size, pages.page.cache_info().scope) == (1, 2, 2, "shared")
        assert "prefetch=PrefetchInfo(issued=0" in repr(pages.page.cache_info())
        own = cache.cached(prefetch=True)(lambda number: number)
        own(1)
        assert own.cache_info().scope == "process"


def test_coroutine_functions() -> None:
    """What is prefetched runs in tasks of the loop."""

    async def main() -> None:
        async with aio.IntelligentCache(MemoryCache(200), file_cache=None) as cache:
            calls = []

            @cache.cached(prefetch=True)
            async def page(number: int) -> int:
                calls.append(number)
                await asyncio.sleep(0)
                return number

            for _ in range(3):
                await page.cache_clear()
                for number in range(6):
                    assert await page(number) == number
                    while inside.tasks(cache):
                        await asyncio.sleep(0)
            info = page.cache_info().prefetch
            assert info is not None
            assert (info.issued, info.useful) == (5, 5)
            assert page.cache_info().misses == 13

    asyncio.run(main())


def test_a_region_with_a_loader() -> None:
    """Its values are checked, and have its tags."""
    with memory_only() as cache:
        calls = []

        def load(key: str) -> str:
            calls.append(key)
            return f"user {key}"

        users = cache.region("user:", str, loader=load, prefetch=True, tags=["users"])
        for _ in range(3):
            cache.invalidate_by_tags(["users"])
            for key in "abcdef":
                assert users.get_or_set(key) == f"user {key}"
                inside.wait_for_prefetches(cache)
        info = users.prefetch_info()
        assert info is not None
        assert (info.useful, info.wasted) == (5, 0)
        assert users.get_or_set("x", lambda: "given") == "given"
        plain = cache.region("user:", str)
        assert plain.prefetch_info() is None
        with pytest.raises(TypeError, match="get_or_set needs a loader"):
            plain.get_or_set("a")


def test_a_region_of_tasks() -> None:
    """Its loader may be a coroutine function, or a plain one."""

    async def main(is_async: bool) -> None:
        async with aio.IntelligentCache(MemoryCache(200), file_cache=None) as cache:

            async def load(key: str) -> str:
                return key.upper()

            users = cache.region("user:", str, loader=load if is_async else str.upper, prefetch=True)
            for _ in range(3):
                await cache.clear()
                for key in "abcdef":
                    assert await users.get_or_set(key) == key.upper()
                    while inside.tasks(cache):
                        await asyncio.sleep(0)
            info = users.prefetch_info()
            assert info is not None
            assert info.useful == 5

    asyncio.run(main(True))
    asyncio.run(main(False))


def passes(cache: IntelligentCache, keys: Iterable[str], times: int = 3) -> int:
    """Ask for the keys in turn, with an empty memory each time; return the misses of the last time."""
    misses = 0
    for _ in range(times):
        inside.memory(cache).clear()
        misses = cache.get_stats()["memory"].misses
        for key in keys:
            assert cache.get(key) == key.upper()
            inside.wait_for_prefetches(cache)
    return cache.get_stats()["memory"].misses - misses


def test_lower_tiers_without_a_loader(tmp_path: Path) -> None:
    """`get` copies what usually comes next from the file tier."""
    with IntelligentCache(MemoryCache(200), file_cache=FileCache(tmp_path, 4), prefetch=True) as cache:
        cache.set_many({key: key.upper() for key in "abcdef"})
        assert passes(cache, "abcdef") == 1
        info = cache.prefetch_info()
        assert info is not None
        assert (info.issued, info.useful, info.saved_loads_net) == (5, 5, 0)
        stats = cache.get_stats()
        assert stats["combined"].requests == stats["combined"].request_hits == 18


def test_a_server_is_asked_once(redis_url: str, prefix: str) -> None:
    """For the key and what follows it; what it does not have is wasted, and no value."""
    server = RedisCache(url=redis_url, key_prefix=prefix)
    with IntelligentCache(MemoryCache(200), server, None, prefetch=True) as cache:
        cache.set_many({key: key.upper() for key in "abcdef"})
        asked: list[list[str]] = []
        stack = cache._core.tiers
        assert stack.redis is not None
        tier: Any = stack.redis.tier
        get_many = tier.get_many

        class Counting:
            def __getattr__(self, name: str) -> Any:
                return getattr(tier, name)

            def get_many(self, keys: list[str]) -> Any:
                asked.append(list(keys))
                return get_many(keys)

        stack.redis.tier = Counting()  # type: ignore[assignment]
        try:
            assert passes(cache, "abcdef") == 1
        finally:
            stack.redis.tier = tier
        # A first hit goes on in a thread: then there is no request to join.
        assert asked == [["a", "b"]]
        stats = cache.get_stats()["combined"]
        assert stats.requests == stats.request_hits == 18
        cache.delete("b")
        inside.memory(cache).clear()
        assert cache.get("a") == "A"
        info = cache.prefetch_info()
        assert info is not None
        assert info.wasted == 1
        assert cache.get("b") is None


# -- loads -------------------------------------------------------------------------------------------


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


def test_only_short_plain_arguments_are_kept() -> None:
    """Others may change, or keep large objects alive; their calls are cached all the same."""

    class Thing:
        def __cache_key__(self) -> str:
            return "thing"

    with memory_only() as cache:

        @cache.cached(prefetch=True, name="f", version="1", ignore=("connection",))
        def f(what: Any, connection: object = None) -> int:
            return 1

        for what in ([1], "x" * 2000, Thing(), (1, 2), {"a": 1}):
            f(what)
            f(what)
        things = [Thing()]
        f(1, connection=things[0])
        reference = weakref.ref(things.pop())
        gc.collect()
        assert reference() is None
        calls = next(iter(f.__wrapped__.__closure__ or ()), None)
        assert calls is None
        info = f.cache_info().prefetch
        assert info is not None
        assert info.issued == 0


def test_methods_are_cached_and_not_prefetched() -> None:
    """An instance is no plain argument, so a row does not keep it alive."""
    with memory_only() as cache:

        class Client:
            def __cache_key__(self) -> str:
                return "client"

            @cache.cached(prefetch=True)
            def fetch(self, number: int) -> int:
                return number

        client = Client()
        for _ in range(3):
            for number in range(4):
                client.fetch(number)
        reference = weakref.ref(client)
        del client
        gc.collect()
        assert reference() is None


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


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda cache: cache.cached(prefetch=1)(len), TypeError, "prefetch must be True, False"),
        (lambda cache: cache.region("a", str, prefetch=True), ValueError, "prefetch needs a loader"),
        (lambda cache: cache.region("a", str, loader=1), TypeError, "loader"),
        (lambda cache: Prefetch(depth=0), ValueError, "depth must be from 1 to 64"),
        (lambda cache: Prefetch(depth=True), TypeError, "depth must be an int"),
        (lambda cache: Prefetch(rows=0), ValueError, "rows must be from 1"),
        (lambda cache: Prefetch(max_waste=2), ValueError, "max_waste must be a share"),
        (lambda cache: Prefetch(max_waste="1"), TypeError, "max_waste must be a number"),  # type: ignore[arg-type]
        (
            lambda cache: IntelligentCache(MemoryCache(), None, None, prefetch=True),
            ValueError,
            "prefetch needs",
        ),
    ],
)
def test_bad_arguments(make: Callable[[Any], object], error: type[Exception], message: str) -> None:
    """Each is named, with what to do."""
    with memory_only() as cache, pytest.raises(error, match=message):
        make(cache)
