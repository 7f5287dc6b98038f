"""What the end of a task, a loop, a cache or a process leaves of loads, and threads that are all busy."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import inside
import pytest
from loops import LOOPS, Run, no_threads, settle, until
from racing import in_thread
from redis_server import wait_until
from slow_loads import Slow, all_wait, fails, one_more, tasks_of

from cachekit import CacheClosedError, LoadOptions
from cachekit.aio import IntelligentCache


@pytest.fixture
def cache(awaited: IntelligentCache) -> IntelligentCache:
    """With memory alone, and with files below it."""
    return awaited


class Held:
    """What a loader holds, such as a connection."""


class TestLoopsThatAreDropped:
    """A loop may end with tasks that were not cancelled: `loop.stop()`, or an error of another task."""

    @pytest.mark.parametrize("factory", LOOPS.values(), ids=LOOPS)
    @pytest.mark.parametrize("closed_and_kept", [False, True], ids=["dropped", "closed and kept"])
    def test_their_loads_go_with_them(
        self,
        cache: IntelligentCache,
        factory: Callable[[], asyncio.AbstractEventLoop],
        closed_and_kept: bool,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Nothing of the load is left, its lease is free, and the next caller loads at once."""
        held: list[weakref.ref[Held]] = []
        options = LoadOptions(lease="process" if cache.sync.file_cache else "thread", lease_timeout=60)

        def drop() -> asyncio.AbstractEventLoop | None:
            connection = Held()
            held.append(weakref.ref(connection))
            begun = asyncio.Event()

            async def load() -> object:
                begun.set()
                await asyncio.Event().wait()
                return connection

            loop = factory()
            loop.set_exception_handler(lambda *_: None)  # which is told of each task
            leader = loop.create_task(cache.get_or_set("k", load, load=options))
            waiter = loop.create_task(cache.get_or_set("k", load, load=options))
            loop.run_until_complete(begun.wait())
            loop.run_until_complete(settle())
            assert not leader.done()
            assert not waiter.done()
            loop.close()
            return loop if closed_and_kept else None

        loop = drop()
        if loop is not None:  # the next load lets go of what a closed loop holds
            asyncio.run(cache.get("k"))
            assert cache.sync.get_or_set("other", lambda: 0) == 0
            asyncio.run(cache.get_or_set("another", lambda: 0))

        def gone() -> bool:
            gc.collect()
            return held[0]() is None

        wait_until(gone, "a thread that took a step of the load has left it")
        assert not inside.tasks(cache)
        assert not inside.flights(cache)
        assert cache.sync.get_or_set("k", lambda: 1, load=options) == 1
        assert "failed" not in caplog.text


class TestEnd:
    def test_closing_during_loads(self, cache: IntelligentCache, run: Run) -> None:
        """Loads are cancelled when the cache is closed; who waits is told; nothing is left."""

        async def main() -> None:
            slow = Slow()
            tasks = tasks_of(3, lambda: cache.get_or_set("k", slow))
            batch = asyncio.create_task(cache.get_or_set_many(["l"], lambda keys: slow()))
            await slow.has_begun(2)
            await all_wait(cache, 3)
            await cache.aclose()
            assert not inside.tasks(cache)
            errors = await asyncio.gather(*tasks, batch, return_exceptions=True)
            assert [type(error) for error in errors] == [CacheClosedError] * 4
            assert slow.ended == 0
            assert asyncio.all_tasks() == {asyncio.current_task()}
            await cache.aclose()

        run(main())
        no_threads()
        assert len(inside.flights(cache)) == 0

    @pytest.mark.parametrize("loop_goes_on", [True, False])
    def test_what_would_be_awaited_after_the_end(
        self, cache: IntelligentCache, run: Run, loop_goes_on: bool
    ) -> None:
        """A loader that is still to say what to await says it too late; no warning is of our making."""
        begun, go_on = threading.Event(), threading.Event()

        async def fetch() -> int:
            return 1

        late = fetch()

        def load() -> Awaitable[int]:
            begun.set()
            assert go_on.wait(60)
            return late

        async def main() -> None:
            task = asyncio.create_task(cache.get_or_set("k", load))
            await until(begun.is_set, "the loader was called")
            if loop_goes_on:
                await cache.aclose()
                with pytest.raises(CacheClosedError):
                    await task
                go_on.set()
                await until(lambda: inspect.getcoroutinestate(late) == "CORO_CLOSED", "it is closed")

        run(main())
        go_on.set()
        wait_until(lambda: inspect.getcoroutinestate(late) == "CORO_CLOSED", "it is closed")

    def test_closing_from_another_loop(self, cache: IntelligentCache, run: Run) -> None:
        """Loads on other loops are cancelled too."""
        begun = threading.Event()

        async def load() -> int:
            begun.set()
            await asyncio.Event().wait()
            return 1

        async def main() -> None:
            with pytest.raises(CacheClosedError):
                await cache.get_or_set("k", load)

        other = in_thread(lambda: run(main()))
        assert begun.wait(60)
        run(cache.close())
        other()

    def test_what_is_no_exception_reaches_who_began(self, cache: IntelligentCache, run: Run) -> None:
        """As it is, as in threads: it is no cancellation, nor a batch that brought nothing."""

        class Stopped(BaseException):  # as those of test runners and other loops
            pass

        async def stops(*_: object) -> NoReturn:
            try:
                raise KeyError
            except KeyError:
                raise Stopped  # noqa: B904  # what it was handling is to be seen

        def stops_in_a_thread() -> NoReturn:
            raise Stopped

        answer: Any = cache.cached(name="answer")(stops)

        async def ends(call: Callable[[], Awaitable[object]]) -> BaseException | None:
            with pytest.raises(Stopped) as caught:
                await call()
            return caught.value.__context__

        async def main() -> None:
            calls: list[Callable[[], Awaitable[object]]] = [
                lambda: cache.get_or_set("k", stops),
                lambda: cache.get_or_set_many(["k", "l"], stops),
                lambda: cache.warm_cache(["k"], stops),
                answer,
                answer.refresh,
            ]
            for call in calls:
                assert isinstance(await ends(call), KeyError)
            assert await ends(lambda: cache.get_or_set("k", stops_in_a_thread)) is None
            await settle()
            assert not inside.tasks(cache)

        run(main())
        assert len(inside.flights(cache)) == 0

    def test_who_waits_for_a_load_that_was_stopped_tries_again(
        self, cache: IntelligentCache, run: Run
    ) -> None:
        class Stopped(BaseException):
            pass

        async def main() -> None:
            go_on = asyncio.Event()

            async def stops() -> NoReturn:
                await go_on.wait()
                raise Stopped

            async def load() -> str:
                return "loaded"

            first = asyncio.create_task(cache.get_or_set("k", stops))
            await all_wait(cache, 1)
            second = await one_more(cache, "k", load)
            go_on.set()
            assert await second == "loaded"
            with pytest.raises(Stopped):
                await first

        run(main())

    def test_a_load_that_closes(self, cache: IntelligentCache, run: Run) -> None:
        """A load may close the cache: its value is not kept, but goes to who asked."""

        async def load() -> int:
            await cache.close()
            return 1

        assert run(cache.get_or_set("k", load)) == 1

    def test_nothing_is_left(self, cache: IntelligentCache, run: Run) -> None:
        """After loads that end well and badly no flight, task, fence or thread remains."""

        async def inverse(x: int) -> float:
            return 1 / x

        async def main() -> None:
            loaders = [lambda x=x: 1 / x for x in range(-3, 3)]
            await asyncio.gather(
                *[cache.get_or_set(f"k{i}", loader) for i, loader in enumerate(loaders)],
                return_exceptions=True,
            )
            await cache.get_or_set_many(["a", "b"], lambda keys: {})
            await cache.warm_cache(["c", "d"], lambda key: 1 / 0)
            answer: Any = cache.cached(name="answer")(inverse)
            await asyncio.gather(*map(answer, range(-3, 3)), return_exceptions=True)
            await settle()
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert not inside.tasks(cache)

        run(main())
        assert len(inside.flights(cache)) == 0
        # A thread lets go of its step, whose context has the load, a moment after that is over.
        fences = inside.fences(inside.memory(cache))
        wait_until(lambda: gc.collect() >= 0 and len(fences) == 0, "the fences are gone")
        run(cache.close())
        no_threads()

    def test_memory_alone_has_no_threads(self, run: Run) -> None:
        """A cache that has memory alone is never off the loop, but for what simulates other sizes of it."""

        async def load(key: str) -> str:
            return key

        async def main() -> None:
            before = set(threading.enumerate())
            async with IntelligentCache(file_cache=None) as cache:
                await cache.set("k", 1, tags={"t"})
                await cache.get_many(["k", "l"])
                await cache.warm_cache(["n"], load)
                await cache.touch("k")
                await cache.explain("k")
                await cache.invalidate_by_tags({"t"})
                await cache.invalidate_by_pattern("n")
                await cache.get_stats()
                await cache.clear()
                begun = {thread.name for thread in set(threading.enumerate()) - before}
                assert begun <= {"cachekit-upkeep"}

        run(main())


class TestFullPools:
    @pytest.mark.parametrize("kind", ["coroutine", "plain", "decorated"])
    def test_waiters_fill_the_default_executor(
        self, make_awaited: Callable[[], IntelligentCache], run: Run, kind: str
    ) -> None:
        """Threads of the loop's default executor that all wait for a load do not keep it from ending."""
        cache = make_awaited()

        async def main() -> None:
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
            begun = threading.Event()
            go = asyncio.Event()
            loop = asyncio.get_running_loop()

            async def load() -> str:
                begun.set()
                await go.wait()
                return "loaded"

            def plain() -> str:
                return asyncio.run_coroutine_threadsafe(load(), loop).result(20)

            decorated = cache.cached(key_func=lambda: "k", name="f")(load)
            leader = asyncio.create_task(
                decorated()
                if kind == "decorated"
                else cache.get_or_set("k", plain if kind == "plain" else load)
            )
            await until(begun.is_set, "the load has begun")
            waiters = [
                asyncio.create_task(asyncio.to_thread(cache.sync.get_or_set, "k", fails)) for _ in range(4)
            ]
            await until(lambda: inside.threads_waiting(cache, "k"), "a thread waits")
            go.set()
            assert await asyncio.gather(leader, *waiters) == ["loaded"] * 5

        run(asyncio.wait_for(main(), 30))
