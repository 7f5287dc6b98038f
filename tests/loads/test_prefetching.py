"""prefetch: what usually comes next is in memory before it is asked for, and the waste is bounded."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import inside
import pytest
from prefetched_pages import Pages, memory_only

from cachekit import (
    FileCache,
    IntelligentCache,
    MemoryCache,
    Prefetch,
    PrefetchInfo,
    RedisCache,
    aio,
)
from cachekit.testing import ManualClock


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
