"""Functions that a name does not identify have results of their own, for as long as they live."""

from __future__ import annotations

import asyncio
import functools
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import inside
import pytest
from free_threads import mortal_classes
from racing import in_thread

from cachekit import CacheInfo, CacheLevel, FileCache, IntelligentCache, MemoryCache, cache_result, override
from cachekit.loading.options import LoadOptions


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[IntelligentCache]:
    """A cache with files, which a closure must not touch, in use by default."""
    with IntelligentCache(MemoryCache(), file_cache=FileCache(tmp_path, 1)) as made, override(made):
        yield made


def times(n: int) -> Any:
    @cache_result
    def multiplied(x: int) -> list[int]:
        return [x * n]

    return multiplied


def times_async(n: int) -> Any:
    @cache_result
    async def multiplied(x: int) -> list[int]:
        return [x * n]

    return multiplied


def by_exec(n: int) -> Any:
    variables: dict[str, Any] = {"n": n}
    exec("def multiplied(x):\n    return [x * n]", variables)
    return cache_result(variables["multiplied"])


def of_a_method(n: int) -> Any:
    class Multiplier:
        @cache_result(ignore=("self",))
        def multiplied(self, x: int) -> list[int]:
            return [x * n]

    return Multiplier().multiplied


def below_a_decorator(n: int) -> Any:
    def around(function: Callable[..., Any]) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            return function(*args)

        return wrapper

    @cache_result
    @around
    def multiplied(x: int) -> list[int]:
        return [x * n]

    return multiplied


class Base:
    factor = 2

    def multiplied(self, x: int) -> list[int]:
        return [x * self.factor]


def with_super(n: int) -> Any:
    class Between(Base):
        factor = n

    class Child(Between):
        @cache_result(ignore=("self",))
        def multiplied(self, x: int) -> list[int]:
            return super().multiplied(x)

    return Child().multiplied


def of_a_class_that_differs(n: int) -> Any:
    class Multiplier:
        factor = n

        @cache_result(ignore=("self",))
        def multiplied(self, x: int) -> list[int]:
            return [x * self.factor]

    return Multiplier().multiplied


MAKERS: list[Callable[[int], Any]] = [
    times, by_exec, of_a_method, below_a_decorator, with_super,
    of_a_class_that_differs, lambda n: cache_result(lambda x: [x * n]),
]  # fmt: skip
MAKERS_WITH_CLASSES = [of_a_method, with_super, of_a_class_that_differs]


class TestIdentity:
    @pytest.mark.parametrize("make", MAKERS)
    def test_each_function_object_has_results_of_its_own(
        self, cache: IntelligentCache, make: Callable[[int], Any]
    ) -> None:
        """Two of one name and code that captured different values answer for themselves."""
        double, triple, again = make(2), make(3), make(2)
        assert (double(5), triple(5), again(5)) == ([10], [15], [10])
        assert double(5) is double(5)
        assert double(5) is not again(5)
        assert inside.memory(cache).size() == 3

    def test_awaited(self, cache: IntelligentCache) -> None:
        """So has a coroutine function, with all that it can be asked."""

        async def main() -> None:
            double, triple = times_async(2), times_async(3)
            assert [await double(5), await triple(5)] == [[10], [15]]
            assert await double(5) is await double(5)
            assert double.cache_info() == CacheInfo(hits=2, misses=1, size=1)
            assert await double.invalidate(5) is True
            assert await double.refresh(5) == [10]
            assert await double.cache_clear() == 1
            assert triple.cache_info().size == 1

        asyncio.run(main())

    def test_memory_alone(self, cache: IntelligentCache) -> None:
        """No other tier has its results, and what it is asked changes no other tier."""
        double = times(2)
        double(1), double(2), double.refresh(1)
        assert cache.file_cache is not None
        assert cache.file_cache.size() == 0
        assert double.invalidate(1) is True
        assert double.cache_clear() == 1

    def test_a_name_shares_it(self, cache: IntelligentCache) -> None:
        """With `name=` it is kept in every tier, and found by the next function of that name."""

        def named(n: int) -> Any:
            @cache_result(name=f"times {n}")
            def multiplied(x: int) -> list[int]:
                return [x * n]

            return multiplied

        assert cache.file_cache is not None
        named(2)(5)
        assert cache.file_cache.size() == 1
        assert named(2).cache_info().scope == "shared"
        found = named(2)
        assert found(5) == [10]
        assert found.cache_info().hits == 1

    def test_what_needs_no_name(self, cache: IntelligentCache) -> None:
        """A function inside another one that uses none of its variables is shared as before."""

        def made() -> Any:
            @cache_result
            def inner(x: int) -> list[int]:
                return [x]

            return inner

        assert made().key(1) == made().key(1)
        assert made().cache_info().scope == "shared"

    def test_cache_info_says_which_kind_it_is(self, cache: IntelligentCache) -> None:
        """As an attribute and in its text; the three numbers stay what they were."""
        info = times(2).cache_info()
        assert info.scope == "process"
        assert repr(info) == "CacheInfo(hits=0, misses=0, size=0, scope='process')"
        assert info == CacheInfo(0, 0, 0)
        assert CacheInfo(0, 0, 0).scope == "shared"

    @pytest.mark.parametrize("level", [CacheLevel.FILE, CacheLevel.REDIS])
    def test_a_level_without_memory(self, level: CacheLevel) -> None:
        """It cannot be kept there, and the error says what can be done."""
        with pytest.raises(ValueError, match=r"cache_level must include memory .*set name=\.\.\."):
            cache_result(cache_level=level)(lambda x: x)

    def test_a_cache_without_memory(self, tmp_path: Path) -> None:
        """It says so at the call, as for any level that a cache does not have."""
        with (
            IntelligentCache(None, file_cache=FileCache(tmp_path, 1)) as bare,
            pytest.raises(ValueError, match="names no tier of this cache"),
        ):
            bare.cached()(lambda x: x)(1)

    def test_leases_of_other_processes(self, tmp_path: Path) -> None:
        """No other process loads its keys, so it takes no lease on the directory."""
        options = LoadOptions(lease="process")
        with IntelligentCache(MemoryCache(), file_cache=FileCache(tmp_path, 1), load=options) as shared:
            function = shared.cached()(lambda x: [x])
            before = sorted(tmp_path.rglob("*"))
            assert function(1) == [1]
            assert sorted(tmp_path.rglob("*")) == before

    def test_a_closure_that_calls_itself(self, cache: IntelligentCache) -> None:
        """Its name is one of its variables."""

        @cache_result
        def fib(n: int) -> int:
            return n if n < 2 else fib(n - 1) + fib(n - 2)

        assert fib(50) == 12586269025
        assert fib.cache_info().misses == 51


class TestEnd:
    @pytest.mark.parametrize(
        "make",
        [pytest.param(make, marks=[mortal_classes] if make in MAKERS_WITH_CLASSES else [])
         for make in [*MAKERS, times_async]],
    )  # fmt: skip
    def test_its_entries_leave_memory_with_it(
        self, cache: IntelligentCache, make: Callable[[int], Any]
    ) -> None:
        """Entries, counters and captured values are gone when the function is; other functions' stay."""
        kept = times(2)
        kept(1)
        function = make(3)
        answer = function(1), function(2)
        if make is times_async:
            asyncio.run(_awaited(answer))
        assert inside.memory(cache).size() == 3
        counted = len(inside.functions(cache))
        requests = cache.get_stats()["combined"].requests
        gone = weakref.ref(function)
        del function, answer
        gc.collect()
        assert gone() is None
        assert inside.memory(cache).keys() == [kept.key(1)]
        assert len(inside.functions(cache)) == counted - 1
        assert cache.get_stats()["combined"].requests == requests
        assert cache.get_stats()["memory"].misses == 3

    def test_in_every_cache_that_it_used(self, cache: IntelligentCache) -> None:
        """A function that met several default caches leaves nothing in any."""
        function = times(2)
        function(1)
        with IntelligentCache(file_cache=None) as other, override(other):
            function(1)
            del function
            gc.collect()
            assert inside.memory(other).size() == inside.memory(cache).size() == 0

    def test_a_cache_that_was_closed(self) -> None:
        """It does not matter which of the two ends first."""
        with IntelligentCache(file_cache=None) as closed, override(closed):
            function = times(2)
            function(1)
        del function
        gc.collect()

    def test_a_load_that_outlives_its_caller(self, cache: IntelligentCache) -> None:
        """What it loads is not stored, because the function was dropped."""

        async def main() -> None:
            begun, go = asyncio.Event(), asyncio.Event()

            @cache_result
            async def slow(x: int) -> list[int]:
                begun.set()
                await go.wait()
                return [x]

            caller = asyncio.create_task(slow(1))
            await begun.wait()
            caller.cancel()
            gone = weakref.ref(slow)
            del slow
            with pytest.raises(asyncio.CancelledError):
                await caller
            del caller
            go.set()
            while asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.sleep(0)
            gc.collect()
            assert gone() is None

        asyncio.run(main())
        gc.collect()
        assert inside.memory(cache).size() == 0

    def test_threads_make_and_drop_them(self, cache: IntelligentCache) -> None:
        """While others do the same, nothing is lost and nothing is left."""
        wrong: list[Any] = []
        both = threading.Barrier(4)

        def work(n: int) -> None:
            both.wait(60)
            for i in range(200):
                function = times(n)
                if function(i) != [n * i] or function(i) != [n * i]:
                    wrong.append((n, i))

        ends = [in_thread(functools.partial(work, n)) for n in range(2, 6)]
        for end in ends:
            end()
        gc.collect()
        assert wrong == []
        assert inside.memory(cache).size() == 0
        assert cache.get_stats()["combined"].requests == 4 * 200 * 2


async def _awaited(answers: tuple[Any, ...]) -> None:
    for answer in answers:
        await answer
