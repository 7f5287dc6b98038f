"""Loads on event loops: one per key across tasks, loops and threads, and what cancelling leaves behind."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from loops import Run, no_threads, own_threads, settle, until
from racing import in_thread, race
from redis_server import wait_until

from cachekit import CacheClosedError, SerializationError
from cachekit.aio import FileCache, IntelligentCache, MemoryCache

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[], IntelligentCache]]:
    """Makes caches over memory and files; they are closed after the test."""
    made: list[IntelligentCache] = []

    def make() -> IntelligentCache:
        made.append(IntelligentCache(MemoryCache(), None, FileCache(tmp_path / "files")))
        return made[-1]

    yield make
    for cache in made:
        cache.sync.close()


@pytest.fixture(params=["memory", "files"])
def cache(request: pytest.FixtureRequest, make: Callable[[], IntelligentCache]) -> Iterator[IntelligentCache]:
    """A cache with memory alone, and one with files below it."""
    if request.param == "files":
        yield make()
        return
    cache = IntelligentCache(file_cache=None)
    yield cache
    cache.sync.close()


def fails() -> Any:
    """A loader that nobody should call."""
    pytest.fail("it was loaded")


class Slow:
    """A loader that begins, waits to be let go, and ends."""

    def __init__(self, value: Any = 1) -> None:
        self.value = value
        self.begun = 0
        self.ended = 0
        self.go = asyncio.Event()

    async def __call__(self) -> Any:
        self.begun += 1
        await self.go.wait()
        self.ended += 1
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    async def has_begun(self, times: int = 1) -> None:
        await until(lambda: self.begun >= times, "the loader was called")


def tasks_of(number: int, work: Callable[[], Any]) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(work()) for _ in range(number)]


async def all_wait(cache: IntelligentCache, number: int, key: str = "k") -> None:
    """Until so many wait for the load of the key."""
    flights = cache.sync._loads.flights._flights
    await until(lambda: key in flights and len(flights[key]._watchers) >= number, "all wait for the load")


async def one_more(cache: IntelligentCache, key: str, loader: Callable[[], Any]) -> asyncio.Task[Any]:
    """A task that waits for the load of the key that is under way."""
    flight = cache.sync._loads.flights._flights[key]
    waiting = len(flight._watchers)
    task = asyncio.create_task(cache.get_or_set(key, loader))
    await until(lambda: len(flight._watchers) == waiting + 1, "the task waits")
    return task


class TestLoaders:
    def test_coroutine_functions(self, cache: IntelligentCache, run: Run) -> None:
        """A coroutine function is awaited on the loop of its caller, in the context of its caller."""

        async def load() -> tuple[str, int]:
            await asyncio.sleep(0)
            return variable.get(), threading.get_ident()

        async def main() -> None:
            variable.set("the caller's")
            assert await cache.get_or_set("k", load) == ("the caller's", threading.get_ident())

        run(main())

    def test_plain_functions(self, cache: IntelligentCache, run: Run) -> None:
        """A plain function may block: it is called in another thread, in the context of the caller."""

        async def main() -> None:
            loop_goes_on = threading.Event()

            def load() -> tuple[str, int]:
                assert loop_goes_on.wait(20)
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

    @pytest.mark.parametrize("error", [LookupError("x"), StopIteration("x")], ids=["any", "StopIteration"])
    def test_errors_of_plain_functions(self, cache: IntelligentCache, run: Run, error: Exception) -> None:
        """What a plain function raises is raised here; StopIteration as Python does it in coroutines."""

        def load() -> int:
            raise error

        async def main() -> None:
            expected = RuntimeError if isinstance(error, StopIteration) else LookupError
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
            with pytest.raises(TypeError, match="loader must be a function without arguments, not 1"):
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
    def test_tasks(self, cache: IntelligentCache, run: Run) -> None:
        """Of tasks that ask together one loads, and all get what it loaded."""

        async def main() -> None:
            slow = Slow([1])
            tasks = tasks_of(20, lambda: cache.get_or_set("k", slow))
            await all_wait(cache, 20)
            slow.go.set()
            values = await asyncio.gather(*tasks)
            assert all(value is values[0] for value in values)
            assert slow.begun == 1
            assert await cache.get("k") == [1]

        run(main())

    def test_errors(self, cache: IntelligentCache, run: Run) -> None:
        """An exception reaches everyone who waits, and is not kept."""

        async def main() -> None:
            slow = Slow(LookupError("no"))
            tasks = tasks_of(5, lambda: cache.get_or_set("k", slow))
            await all_wait(cache, 5)
            slow.go.set()
            errors = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(error) for error in errors] == [LookupError] * 5
            assert slow.begun == 1
            assert not await cache.contains("k")

        run(main())

    def test_threads_and_tasks(self, cache: IntelligentCache, run: Run) -> None:
        """Who awaits and who does not wait for the same load, whoever began it."""

        async def main() -> None:
            slow = Slow([1])
            task = asyncio.create_task(cache.get_or_set("k", slow))
            await slow.has_begun()
            thread = in_thread(lambda: cache.sync.get_or_set("k", fails))
            flight = cache.sync._loads.flights._flights["k"]
            await until(lambda: flight._event is not None, "the thread waits")
            slow.go.set()
            assert await task is thread()

            begun, go = threading.Event(), threading.Event()

            def load() -> list[int]:
                begun.set()
                assert go.wait(20)
                return [2]

            thread = in_thread(lambda: cache.sync.get_or_set("l", load))
            await until(begun.is_set, "the thread loads")
            task = asyncio.create_task(cache.get_or_set("l", fails))
            await all_wait(cache, 1, "l")
            go.set()
            assert await task is thread()

        run(main())

    def test_loops_in_threads(self, cache: IntelligentCache, run: Run) -> None:
        """Loops in several threads share one load, whichever of them begins."""
        for number in range(10):
            count = []

            async def load() -> list[int]:
                count.append(1)  # noqa: B023
                await asyncio.sleep(0)
                return [1]

            async def several(key: str) -> list[Any]:
                return await asyncio.gather(*[cache.get_or_set(key, load) for _ in range(3)])

            key = f"k{number}"
            answers = race(*[lambda: run(several(key))] * 4)  # noqa: B023
            assert {tuple(value) for answer in answers for value in answer} == {(1,)}
            assert len(count) == 1

    def test_invalidation_during_a_load(self, cache: IntelligentCache, run: Run) -> None:
        """What is loaded while its key is deleted goes to who asked before, and is not kept."""

        async def main() -> None:
            slow = Slow("old")
            early = asyncio.create_task(cache.get_or_set("k", slow))
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
    def test_a_caller(self, cache: IntelligentCache, run: Run, cancelled: int) -> None:
        """One that is cancelled, be it the one that began, leaves the load to the others."""

        async def main() -> None:
            slow = Slow([1])
            tasks = tasks_of(3, lambda: cache.get_or_set("k", slow))
            await all_wait(cache, 3)
            gone = tasks.pop(cancelled)
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            slow.go.set()
            assert await asyncio.gather(*tasks) == [[1], [1]]
            assert (slow.begun, slow.ended) == (1, 1)

        run(main())

    def test_all_callers(self, cache: IntelligentCache, run: Run) -> None:
        """A load that nobody waits for any more finishes, and is kept."""

        async def main() -> None:
            slow = Slow("paid for")
            task = asyncio.create_task(cache.get_or_set("k", slow))
            await slow.has_begun()
            task.cancel()
            await settle()
            slow.go.set()
            await until(lambda: not cache.sync._loads.tasks._tasks, "the load is over")
            assert await cache.get("k") == "paid for"

        run(main())

    def test_the_load_itself(self, cache: IntelligentCache, run: Run) -> None:
        """If the load is cancelled, one who waits for it begins another."""

        async def main() -> None:
            slow = Slow([1])
            first = asyncio.create_task(cache.get_or_set("k", slow))
            await slow.has_begun()
            second = asyncio.create_task(cache.get_or_set("k", slow))
            await all_wait(cache, 2)
            (load,) = cache.sync._loads.tasks._tasks
            load.cancel()
            await slow.has_begun(2)
            slow.go.set()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert await second == [1]

        run(main())

    def test_a_call_in_a_thread(self, make: Callable[[], IntelligentCache], run: Run) -> None:
        """What a caller that is cancelled had begun in a thread is carried out."""
        cache = make()

        async def main() -> None:
            begun, go = threading.Event(), threading.Event()

            def step() -> None:
                begun.set()
                assert go.wait(20)
                cache.sync.set("k", 1)

            task = asyncio.create_task(cache._run(step))
            await until(begun.is_set, "the step has begun")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            go.set()
            await until(lambda: cache.sync.contains("k"), "the step was carried out")

        run(main())

    def test_a_loop_that_ends(self, cache: IntelligentCache, run: Run) -> None:
        """A loop that ends in the middle of a load leaves nothing; the next loop loads."""

        async def main() -> None:
            slow = Slow()
            task = asyncio.create_task(cache.get_or_set("k", slow))
            await slow.has_begun()
            del task

        run(main())
        assert not cache.sync._loads.tasks._tasks
        assert len(cache.sync._loads.flights) == 0
        assert run(cache.get_or_set("k", lambda: 2)) == 2

    def test_a_loop_that_ends_during_a_plain_load(self, cache: IntelligentCache, run: Run) -> None:
        """A plain loader goes on when its loop has ended, and is told nothing."""
        go = threading.Event()

        def load() -> int:
            assert go.wait(20)
            return 1

        async def main() -> None:
            task = asyncio.create_task(cache.get_or_set("k", load))
            await until(lambda: "cachekit-step" in own_threads(), "the loader was called")
            del task

        run(main())
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "cachekit-step"]
        go.set()
        thread.join(20)
        assert not thread.is_alive()
        assert run(cache.get_or_set("k", lambda: 2)) == 2


class TestMany:
    def test_one_call(self, cache: IntelligentCache, run: Run) -> None:
        """One call loads what is missing, in order; keys that it leaves out are missing from the answer."""
        asked: list[list[str]] = []

        async def load(keys: list[str]) -> dict[str, int]:
            asked.append(keys)
            return {key: ord(key) for key in keys if key != "z"}

        async def main() -> None:
            await cache.set("b", 0)
            found = await cache.get_or_set_many(["a", "b", "z", "c", "a"], load)
            assert list(found.items()) == [("a", 97), ("b", 0), ("c", 99)]
            assert asked == [["a", "z", "c"]]
            assert await cache.get_many(["a", "c", "z"]) == {"a": 97, "c": 99}

        run(main())

    def test_plain_functions(self, cache: IntelligentCache, run: Run) -> None:
        """A plain function is called in another thread."""

        def load(keys: list[str]) -> dict[str, int]:
            return dict.fromkeys(keys, threading.get_ident())

        async def main() -> None:
            found = await cache.get_or_set_many(["a", "b"], load)
            assert len(set(found.values())) == 1
            assert threading.get_ident() not in found.values()

        run(main())

    def test_what_loaders_return(self, cache: IntelligentCache, run: Run) -> None:
        """No mapping, or keys that nobody asked for, are errors; nothing is kept."""

        async def no_mapping(keys: list[str]) -> Any:
            return keys

        async def too_much(keys: list[str]) -> Mapping[str, int]:
            return dict.fromkeys([*keys, "x"], 1)

        async def main() -> None:
            with pytest.raises(TypeError, match="loader must return a mapping from key to value, not a list"):
                await cache.get_or_set_many(["a"], no_mapping)
            with pytest.raises(ValueError, match="returned keys that it was not asked for"):
                await cache.get_or_set_many(["a"], too_much)
            assert await cache.get_many(["a", "x"]) == {}
            assert len(cache.sync._loads.flights) == 0

        run(main())

    def test_batches_that_overlap(self, cache: IntelligentCache, run: Run) -> None:
        """Two batches load each key once, wait for each other's, and do not wait for ever."""
        asked: list[str] = []

        async def load(keys: list[str]) -> dict[str, str]:
            asked.extend(keys)
            await settle()
            return {key: key for key in keys}

        async def main() -> None:
            batches = [["a", "b", "c"], ["c", "b", "d"], ["d", "a"], ["a", "d", "c"]]
            found = await asyncio.gather(*[cache.get_or_set_many(keys, load) for keys in batches])
            assert found == [{key: key for key in keys} for keys in batches]
            assert sorted(asked) == ["a", "b", "c", "d"]

        run(asyncio.wait_for(main(), 20))

    def test_errors_and_handing_over(self, cache: IntelligentCache, run: Run) -> None:
        """Who waits for a key of a batch that fails sees why; of one that leaves it out, asks again."""

        async def main() -> None:
            slow = Slow(LookupError("no"))
            batch = asyncio.create_task(cache.get_or_set_many(["a", "b"], lambda keys: slow()))
            await slow.has_begun()
            waiter = await one_more(cache, "a", fails)
            slow.go.set()
            outcomes = await asyncio.gather(batch, waiter, return_exceptions=True)
            assert [type(error) for error in outcomes] == [LookupError] * 2

            slow = Slow({})
            batch = asyncio.create_task(cache.get_or_set_many(["a", "b"], lambda keys: slow()))
            await slow.has_begun()
            waiter = await one_more(cache, "a", lambda: 2)
            slow.go.set()
            assert await batch == {}
            assert await waiter == 2

        run(main())

    def test_cancelling(self, cache: IntelligentCache, run: Run) -> None:
        """A batch whose caller is cancelled finishes; one that is itself cancelled hands over."""

        async def main() -> None:
            slow = Slow({"a": 1})
            batch = asyncio.create_task(cache.get_or_set_many(["a"], lambda keys: slow()))
            await slow.has_begun()
            batch.cancel()
            with pytest.raises(asyncio.CancelledError):
                await batch
            slow.go.set()
            await until(lambda: not cache.sync._loads.tasks._tasks, "the load is over")
            assert await cache.get("a") == 1

            slow = Slow({"b": 1})
            batch = asyncio.create_task(cache.get_or_set_many(["b"], lambda keys: slow()))
            await slow.has_begun()
            waiter = await one_more(cache, "b", lambda: 2)
            (load,) = cache.sync._loads.tasks._tasks
            load.cancel()
            assert await waiter == 2
            with pytest.raises(asyncio.CancelledError, match="the load of several keys was cancelled"):
                await batch

        run(main())


class TestWarming:
    def test_report_and_progress(self, cache: IntelligentCache, run: Run) -> None:
        """Each key is loaded, fresh or failed; a key that fails stops no other."""
        asked: list[str] = []

        async def load(key: str) -> str:
            asked.append(key)
            if key == "bad":
                raise LookupError(key)
            if key == "cancelled":
                raise asyncio.CancelledError
            return key.upper()

        async def main() -> None:
            await cache.set("b", "B")
            progress: list[tuple[int, int]] = []
            report = await cache.warm_cache(
                ["a", "b", "bad", "cancelled", "c", "a"],
                load,
                progress=lambda done, total: progress.append((done, total)),
            )
            assert (report.loaded, report.fresh, set(report.failed)) == (
                ["a", "c"],
                ["b"],
                {"bad", "cancelled"},
            )
            assert progress == [(done, 5) for done in range(1, 6)]
            assert sorted(asked) == ["a", "bad", "c", "cancelled"], "each once"
            assert await cache.get_many(["a", "c"]) == {"a": "A", "c": "C"}
            assert await cache.warm_cache([], load) == ([], [], {})

        run(main())

    @pytest.mark.parametrize("concurrency", [1, 3])
    def test_concurrency(self, cache: IntelligentCache, run: Run, concurrency: int) -> None:
        """As many loads as were allowed are under way at once, and never more."""

        async def main() -> None:
            under_way, most = 0, 0
            together = asyncio.Barrier(concurrency)

            async def load(key: str) -> str:
                nonlocal under_way, most
                under_way += 1
                most = max(most, under_way)
                await together.wait()
                await settle()
                under_way -= 1
                return key

            keys = [f"k{number}" for number in range(6)]
            report = await cache.warm_cache(keys, load, concurrency=concurrency)
            assert report.loaded == keys
            assert most == concurrency

        run(asyncio.wait_for(main(), 20))

    def test_plain_functions(self, cache: IntelligentCache, run: Run) -> None:
        """Plain functions load in threads, at once as far as allowed."""

        async def main() -> None:
            together = threading.Barrier(3)

            def load(key: str) -> int:
                together.wait(20)
                return threading.get_ident()

            assert len((await cache.warm_cache(["a", "b", "c"], load, concurrency=3)).loaded) == 3

        run(main())

    def test_a_callback_that_fails(self, cache: IntelligentCache, run: Run) -> None:
        """What `progress` raises ends the warming: no further load begins, and none is forgotten."""

        async def main() -> None:
            begun = []
            both, go = asyncio.Barrier(2), asyncio.Event()

            async def load(key: str) -> str:
                begun.append(key)
                await both.wait()
                if key == "k1":
                    await go.wait()
                return key

            def stop(done: int, total: int) -> None:
                raise ValueError("of the callback")

            with pytest.raises(ValueError, match="of the callback"):
                await cache.warm_cache(["k0", "k1", "k2", "k3"], load, concurrency=2, progress=stop)
            go.set()
            await until(lambda: asyncio.all_tasks() == {asyncio.current_task()}, "all is over")
            assert sorted(begun) == ["k0", "k1"]
            assert await cache.get("k1") == "k1"

        run(main())


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
            assert not cache.sync._loads.tasks._tasks
            errors = await asyncio.gather(*tasks, batch, return_exceptions=True)
            assert [type(error) for error in errors] == [CacheClosedError] * 4
            assert slow.ended == 0
            assert asyncio.all_tasks() == {asyncio.current_task()}
            await cache.aclose()

        run(main())
        no_threads()
        assert len(cache.sync._loads.flights) == 0

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
        assert begun.wait(20)
        run(cache.close())
        other()

    def test_a_load_that_closes(self, cache: IntelligentCache, run: Run) -> None:
        """A load may close the cache: its value is not kept, but goes to who asked."""

        async def load() -> int:
            await cache.close()
            return 1

        assert run(cache.get_or_set("k", load)) == 1

    def test_nothing_is_left(self, cache: IntelligentCache, run: Run) -> None:
        """After loads that end well and badly no flight, task, fence or thread remains."""

        async def main() -> None:
            loaders = [lambda x=x: 1 / x for x in range(-3, 3)]
            await asyncio.gather(
                *[cache.get_or_set(f"k{i}", loader) for i, loader in enumerate(loaders)],
                return_exceptions=True,
            )
            await cache.get_or_set_many(["a", "b"], lambda keys: {})
            await cache.warm_cache(["c", "d"], lambda key: 1 / 0)
            await settle()
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert not cache.sync._loads.tasks._tasks

        run(main())
        assert len(cache.sync._loads.flights) == 0
        # A thread lets go of its step, whose context has the load, a moment after that is over.
        fences = cache.sync._memory._store._fences
        wait_until(lambda: gc.collect() >= 0 and len(fences) == 0, "the fences are gone")
        run(cache.close())
        no_threads()

    def test_memory_alone_has_no_threads(self, run: Run) -> None:
        """A cache that has memory alone is never off the loop, whatever it is asked."""

        async def load(key: str) -> str:
            return key

        async def main() -> None:
            async with IntelligentCache(file_cache=None) as cache:
                await cache.set("k", 1, tags={"t"})
                await cache.get_many(["k", "l"])
                await cache.warm_cache(["n"], load)
                await cache.touch("k")
                await cache.explain("k")
                await cache.invalidate_by_tags({"t"})
                await cache.invalidate_by_pattern("n")
                await cache.get_stats()
                await cache.optimize_cache()
                await cache.clear()
                assert cache.sync._loads.tasks.threads._executor is None

        run(main())


class TestFullPools:
    @pytest.mark.parametrize("kind", ["coroutine", "plain", "decorated"])
    def test_waiters_fill_the_default_executor(
        self, make: Callable[[], IntelligentCache], run: Run, kind: str
    ) -> None:
        """Threads of the loop's default executor that all wait for a load do not keep it from ending."""
        cache = make()

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
            flight = cache.sync._loads.flights._flights["k"]
            await until(lambda: flight._event is not None, "a thread waits")
            go.set()
            assert await asyncio.gather(leader, *waiters) == ["loaded"] * 5

        run(asyncio.wait_for(main(), 30))
