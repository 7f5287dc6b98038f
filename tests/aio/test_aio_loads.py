"""Loads on event loops: one per key across tasks, loops and threads, and what cancelling leaves behind."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

import inside
import pytest
from loops import Run, own_threads, settle, until
from racing import in_thread, race
from slow_loads import Slow, Way, all_wait, fails, in_both_ways, tasks_of

from cachekit import SerializationError
from cachekit.aio import IntelligentCache

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")


@pytest.fixture
def cache(awaited: IntelligentCache) -> IntelligentCache:
    """With memory alone, and with files below it."""
    return awaited


class TestLoaders:
    @in_both_ways("awaited")
    def test_coroutine_functions(self, cache: IntelligentCache, run: Run, way: Way) -> None:
        """A coroutine function is awaited on the loop of its caller, in the context of its caller."""

        async def load() -> tuple[str, int]:
            await asyncio.sleep(0)
            return variable.get(), threading.get_ident()

        async def main() -> None:
            variable.set("the caller's")
            assert await way(cache, load)() == ("the caller's", threading.get_ident())

        run(main())

    def test_plain_functions(self, cache: IntelligentCache, run: Run) -> None:
        """A plain function may block: it is called in another thread, in the context of the caller."""

        async def main() -> None:
            loop_goes_on = threading.Event()

            def load() -> tuple[str, int]:
                assert loop_goes_on.wait(60)
                return variable.get(), threading.get_ident()

            variable.set("the caller's")
            task = asyncio.create_task(cache.get_or_set("k", load))
            await until(lambda: "cachekit-step" in own_threads(), "the loader was called")
            loop_goes_on.set()
            value, thread = await task
            assert value == "the caller's"
            assert thread != threading.get_ident()

        run(main())

    def test_plain_functions_that_return_coroutines(self, cache: IntelligentCache, run: Run) -> None:
        """`lambda: load(1)` is as good as a coroutine function, and so is an object with an async call."""

        async def load(x: int) -> tuple[int, int]:
            return x, threading.get_ident()

        class Loads:
            async def __call__(self) -> int:
                return threading.get_ident()

        async def main() -> None:
            assert await cache.get_or_set("k", lambda: load(1)) == (1, threading.get_ident())
            assert await cache.get_or_set("l", Loads()) == threading.get_ident()

        run(main())

    @pytest.mark.parametrize("error", [LookupError, StopIteration])
    def test_errors_of_plain_functions(
        self, cache: IntelligentCache, run: Run, error: type[Exception]
    ) -> None:
        """What a plain function raises is raised here; StopIteration as Python does it in coroutines."""

        def load() -> int:
            raise error("x")

        async def main() -> None:
            expected = RuntimeError if error is StopIteration else LookupError
            with pytest.raises(expected):
                await cache.get_or_set("k", load)
            assert await cache.get_or_set("k", lambda: 2) == 2

        run(main())

    def test_values_that_can_be_used_once(self, cache: IntelligentCache, run: Run) -> None:
        """Iterators are refused, as everywhere."""

        async def main() -> None:
            with pytest.raises(SerializationError, match="can be read only once"):
                await cache.get_or_set("k", lambda: iter([1]))

        run(main())

    def test_arguments(self, cache: IntelligentCache, run: Run) -> None:
        """What is wrong is refused before anything is loaded."""

        async def main() -> None:
            with pytest.raises(TypeError, match=r"such as lambda: load\(1\), not 1"):
                await cache.get_or_set("k", 1)  # type: ignore[call-overload]
            with pytest.raises(TypeError, match="loader must be a function of a list of keys, not 1"):
                await cache.get_or_set_many(["k"], 1)  # type: ignore[call-overload]
            with pytest.raises(TypeError, match="loader_func must be a function of a key, not 1"):
                await cache.warm_cache(["k"], 1)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="key must be a str"):
                await cache.get_or_set(1, fails)  # type: ignore[call-overload]
            with pytest.raises(TypeError, match="tags must be a set"):
                await cache.get_or_set("k", fails, tags="t")  # type: ignore[call-overload]
            with pytest.raises(ValueError, match="concurrency must be an int of at least 1, not 0"):
                await cache.warm_cache(["k"], len, concurrency=0)

        run(main())

    def test_ttl_and_tags(self, cache: IntelligentCache, run: Run) -> None:
        """They are those of the value, whatever the loader."""

        async def main() -> None:
            await cache.get_or_set("k", lambda: 1, ttl=0)
            assert not await cache.contains("k")
            await cache.get_or_set("k", lambda: 1, tags={"t"})
            await cache.get_or_set_many(["l"], lambda keys: dict.fromkeys(keys, 1), tags={"t"})
            await cache.warm_cache(["m"], len, tags={"t"})
            await cache.invalidate_by_tags({"t"})
            assert await cache.get_many(["k", "l", "m"]) == {}

        run(main())


class TestOneLoad:
    @in_both_ways("awaited")
    def test_tasks(self, cache: IntelligentCache, run: Run, way: Way) -> None:
        """Of tasks that ask together one loads, and all get what it loaded."""

        async def main() -> None:
            slow = Slow([1])
            ask = way(cache, slow)
            tasks = tasks_of(20, ask)
            await all_wait(cache, 20)
            slow.go.set()
            values = await asyncio.gather(*tasks)
            assert all(value is values[0] for value in values)
            assert slow.begun == 1
            assert await cache.get("k") == [1]

        run(main())

    @in_both_ways("awaited")
    def test_errors(self, cache: IntelligentCache, run: Run, way: Way) -> None:
        """An exception reaches everyone who waits, and is not kept."""

        async def main() -> None:
            slow = Slow(LookupError("no"))
            ask = way(cache, slow)
            tasks = tasks_of(5, ask)
            await all_wait(cache, 5)
            slow.go.set()
            errors = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(error) for error in errors] == [LookupError] * 5
            assert slow.begun == 1
            assert not await cache.contains("k")

        run(main())

    @in_both_ways("awaited")
    def test_threads_and_tasks(self, cache: IntelligentCache, run: Run, way: Way) -> None:
        """Tasks and threads wait for the same load, whichever of them began it."""

        async def main() -> None:
            slow = Slow([1])
            ask = way(cache, slow)
            task = asyncio.create_task(ask())
            await slow.has_begun()
            thread = in_thread(lambda: cache.sync.get_or_set("k", fails))
            await until(lambda: inside.threads_waiting(cache, "k"), "the thread waits")
            slow.go.set()
            assert await task is thread()

            begun, go = threading.Event(), threading.Event()

            def load() -> list[int]:
                begun.set()
                assert go.wait(60)
                return [2]

            thread = in_thread(lambda: cache.sync.get_or_set("l", load))
            await until(begun.is_set, "the thread loads")
            task = asyncio.create_task(cache.get_or_set("l", fails))
            await all_wait(cache, 1, "l")
            go.set()
            assert await task is thread()

        run(main())

    @in_both_ways("awaited")
    def test_loops_in_threads(self, cache: IntelligentCache, run: Run, way: Way) -> None:
        """Tasks of loops in several threads share one load, whichever of them begins."""
        for _ in range(3):
            count = []

            async def load() -> list[int]:
                count.append(1)  # noqa: B023
                await until(lambda: inside.tasks_waiting(cache, "k") == 12, "all wait for the load")
                return [1]

            async def several() -> list[Any]:
                ask = way(cache, load)
                return await asyncio.gather(*[ask() for _ in range(3)])

            values = [value for answer in race(*[lambda: run(several())] * 4) for value in answer]
            assert all(value is values[0] for value in values)
            assert len(count) == 1
            cache.sync.delete("k")

    @in_both_ways("awaited")
    def test_invalidation_during_a_load(self, cache: IntelligentCache, run: Run, way: Way) -> None:
        """What is loaded while its key is deleted goes to who asked before, and is not kept."""

        async def main() -> None:
            slow = Slow("old")
            ask = way(cache, slow)
            early = asyncio.create_task(ask())
            await slow.has_begun()
            await cache.delete("k")
            assert await cache.get_or_set("k", lambda: "new") == "new"
            slow.go.set()
            assert await early == "old"
            assert await cache.get("k") == "new"

        run(main())

    def test_loads_that_need_loads(self, cache: IntelligentCache, run: Run) -> None:
        """A loader may ask for other keys, and for its own; a plain one may ask without awaiting."""

        async def outer() -> str:
            return "outer " + await cache.get_or_set("inner", lambda: cache.sync.get_or_set("core", core))

        def core() -> str:
            return cache.sync.get_or_set("core", lambda: "core again")

        async def main() -> None:
            assert await cache.get_or_set("outer", outer) == "outer core again"

        run(asyncio.wait_for(main(), 20))


class TestCancelling:
    @pytest.mark.parametrize("cancelled", [0, 1], ids=["the first", "another"])
    @in_both_ways("awaited")
    def test_a_caller(self, cache: IntelligentCache, run: Run, way: Way, cancelled: int) -> None:
        """One that is cancelled, be it the one that began, leaves the load to the others."""

        async def main() -> None:
            slow = Slow([1])
            ask = way(cache, slow)
            tasks = tasks_of(3, ask)
            await all_wait(cache, 3)
            gone = tasks.pop(cancelled)
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            slow.go.set()
            assert await asyncio.gather(*tasks) == [[1], [1]]
            assert (slow.begun, slow.ended) == (1, 1)

        run(main())

    @in_both_ways("awaited")
    def test_all_callers(self, cache: IntelligentCache, run: Run, way: Way) -> None:
        """A load whose callers are all gone finishes, and is kept."""

        async def main() -> None:
            slow = Slow("paid for")
            ask = way(cache, slow)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(ask(), 0)  # gone before it has begun
            task = asyncio.create_task(ask())
            await slow.has_begun()
            task.cancel()
            await settle()
            slow.go.set()
            await until(lambda: not inside.tasks(cache), "the load is over")
            assert await cache.get("k") == "paid for"

        run(main())

    @in_both_ways("awaited")
    def test_the_load_itself(self, cache: IntelligentCache, run: Run, way: Way) -> None:
        """If the load is cancelled, one who waits for it begins another."""

        async def main() -> None:
            slow = Slow([1])
            ask = way(cache, slow)
            first = asyncio.create_task(ask())
            await slow.has_begun()
            second = asyncio.create_task(ask())
            await all_wait(cache, 2)
            (load,) = inside.tasks(cache)
            load.cancel()
            await slow.has_begun(2)
            slow.go.set()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert await second == [1]

        run(main())

    def test_a_call_in_a_thread(self, make_awaited: Callable[[], IntelligentCache], run: Run) -> None:
        """What a caller that is cancelled had begun in a thread is carried out."""
        cache = make_awaited()

        async def main() -> None:
            begun, go = threading.Event(), threading.Event()

            def step() -> None:
                begun.set()
                assert go.wait(60)
                cache.sync.set("k", 1)

            task = asyncio.create_task(cache._run(step))
            await until(begun.is_set, "the step has begun")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            go.set()
            await until(lambda: cache.sync.contains("k"), "the step was carried out")

        run(main())

    @in_both_ways("awaited")
    def test_a_loop_that_ends(self, cache: IntelligentCache, run: Run, way: Way) -> None:
        """A loop that ends in the middle of a load leaves nothing; the next loop loads."""

        async def main() -> None:
            slow = Slow()
            ask = way(cache, slow)
            task = asyncio.create_task(ask())
            await slow.has_begun()
            del task

        run(main())
        assert not inside.tasks(cache)
        assert len(inside.flights(cache)) == 0
        assert run(cache.get_or_set("k", lambda: 2)) == 2

    def test_a_loop_that_ends_during_a_plain_load(self, cache: IntelligentCache, run: Run) -> None:
        """A plain loader goes on when its loop has ended, and is told nothing."""
        go = threading.Event()

        def load() -> int:
            assert go.wait(60)
            return 1

        async def main() -> None:
            task = asyncio.create_task(cache.get_or_set("k", load))
            await until(lambda: "cachekit-step" in own_threads(), "the loader was called")
            del task

        run(main())
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "cachekit-step"]
        go.set()
        thread.join(60)
        assert not thread.is_alive()
        assert run(cache.get_or_set("k", lambda: 2)) == 2
