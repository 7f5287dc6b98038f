"""The reads that tasks ask for in one turn of a loop go to a thread together; none holds up the others."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from free_threads import HAS_GIL
from loops import LOOPS, Run, no_threads, settle, until
from racing import in_thread

from cachekit.aio import FileCache, IntelligentCache, MemoryCache, RedisCache
from cachekit.coherence.tier_stack import TierStack
from cachekit.loading.read_batch import in_batch

NAME = contextvars.ContextVar("name", default="none")


class Jobs(ThreadPoolExecutor):
    """The executor of a loop, which counts what it is given."""

    def __init__(self, workers: int = 4) -> None:
        super().__init__(workers, thread_name_prefix="job")
        self.given = 0

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        self.given += 1
        return super().submit(*args, **kwargs)


def with_jobs(workers: int = 4) -> Jobs:
    jobs = Jobs(workers)
    asyncio.get_running_loop().set_default_executor(jobs)
    return jobs


@pytest.fixture
def long_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch stays with one thread, however slow the machine is."""
    monkeypatch.setattr("cachekit.loading.read_batch._ALONE", 600.0)


@pytest.mark.usefixtures("long_alone")
class TestOneTurn:
    def test_one_job(self, run: Run) -> None:
        """All reads of a turn are one job, each with the context of its task; the next turn is another."""
        ran_in = set()

        def read(number: int) -> tuple[int, str]:
            ran_in.add(threading.current_thread().name)
            return number, NAME.get()

        async def ask(number: int) -> tuple[int, str]:
            NAME.set(f"task {number}")
            return await in_batch(read, number)

        async def main() -> None:
            jobs = with_jobs()
            for turn in (1, 2):
                found = await asyncio.gather(*map(ask, range(100)))
                assert found == [(number, f"task {number}") for number in range(100)]
                assert jobs.given == turn
            assert len(ran_in) <= 2
            assert threading.current_thread().name not in ran_in

        run(main())

    @pytest.mark.parametrize("way", ["get", "get_or_set", "get_many", "contains", "tier", "function"])
    def test_the_reads_of_a_cache(self, way: str, tmp_path: Path, run: Run) -> None:
        """However they are asked for: one job for a hundred tasks."""

        async def main() -> None:
            jobs = with_jobs()
            async with IntelligentCache(None, None, FileCache(tmp_path / "files")) as cache:

                @cache.cached(key_func=str)
                async def function(number: int) -> int:
                    raise AssertionError("it is cached")

                calls: dict[str, Callable[[int], Any]] = {
                    "get": lambda number: cache.get(str(number)),
                    "get_or_set": lambda number: cache.get_or_set(str(number), lambda: -1),
                    "get_many": lambda number: cache.get_many([str(number)]),
                    "contains": lambda number: cache.contains(str(number)),
                    "tier": lambda number: cache.file_cache.get_value(str(number)),  # type: ignore[union-attr]
                    "function": function,
                }
                expected: dict[str, Callable[[int], object]] = {
                    "get_many": lambda number: {str(number): number},
                    "contains": lambda number: True,
                }
                cache.sync.set_many({str(number): number for number in range(100)})
                found = await asyncio.gather(*map(calls[way], range(100)))
                assert found == list(map(expected.get(way, int), range(100)))
                assert jobs.given == 1

        run(main())

    def test_errors(self, run: Run) -> None:
        """Each task gets its own error, with its own traceback, and nothing keeps the error afterwards."""

        class Wrong(Exception):
            pass

        def read(number: int) -> int:
            if number % 2:
                raise Wrong(number)
            return number

        async def main() -> None:
            found = await asyncio.gather(*[in_batch(read, n) for n in range(10)], return_exceptions=True)
            assert found[::2] == [0, 2, 4, 6, 8]
            for number, error in zip(range(1, 10, 2), found[1::2], strict=True):
                assert isinstance(error, Wrong)
                assert error.args == (number,)
                assert any(entry.name == "read" for entry in _frames(error))
            kept = [weakref.ref(error) for error in found[1::2] if isinstance(error, Wrong)]
            del found, error

            def are_gone() -> bool:
                if not HAS_GIL:  # what another thread has made may stay until that thread runs again
                    gc.collect()
                return not any(one() for one in kept)

            await until(are_gone, "the errors are gone, without a collection")

        gc.disable()
        try:
            run(main())
        finally:
            gc.enable()

    def test_a_task_that_is_cancelled(self, run: Run) -> None:
        """Its read ends by itself, and the other tasks get their values."""
        go, began = threading.Event(), threading.Event()
        ended = []

        def read(number: int) -> int:
            began.set()
            assert go.wait(60)
            ended.append(number)
            return number

        async def main() -> None:
            tasks = [asyncio.create_task(in_batch(read, number)) for number in range(5)]
            await until(began.is_set, "the first read has begun")
            tasks[0].cancel()
            tasks[3].cancel()
            await settle()
            assert [task.cancelled() for task in tasks] == [True, False, False, True, False]
            go.set()
            assert await asyncio.gather(*[tasks[number] for number in (1, 2, 4)]) == [1, 2, 4]
            assert sorted(ended) == [0, 1, 2, 3, 4]

        run(main())

    def test_loops_in_threads(self) -> None:
        """Each loop has batches of its own."""

        async def main(first: int) -> list[tuple[int, int]]:
            loop = id(asyncio.get_running_loop())
            found: list[tuple[int, int]] = []
            for _ in range(20):
                found += await asyncio.gather(*[in_batch(lambda n: (loop, n), first + n) for n in range(10)])
            assert {one for one, _ in found} == {loop}
            return found

        def on(kind: str, first: int) -> list[tuple[int, int]]:
            with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
                return runner.run(main(first))

        waiting = [in_thread(partial(on, kind, number)) for number in range(0, 40, 10) for kind in LOOPS]
        for number, found in enumerate(waiting):
            first = number // len(LOOPS) * 10
            assert [n for _, n in found()] == list(range(first, first + 10)) * 20

    def test_a_loop_that_goes_on_in_another_thread(self) -> None:
        """A batch that has begun takes no more reads, also if its thread did not see it begin."""
        loop = asyncio.new_event_loop()

        async def ask() -> int:
            return await in_batch(lambda: 1)

        try:
            first = loop.create_task(ask())
            loop.call_soon(loop.stop)
            loop.run_forever()  # the read is asked for, and the batch has not begun
            assert in_thread(lambda: loop.run_until_complete(first))() == 1
            assert loop.run_until_complete(ask()) == 1
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    @pytest.mark.parametrize("kind", LOOPS)
    def test_a_loop_that_is_dropped(self, kind: str) -> None:
        """Nothing of it is left in the thread, neither with a read that has begun nor before that."""

        def drop(turns: int) -> weakref.ref[asyncio.AbstractEventLoop]:
            loop = LOOPS[kind]()
            loop.set_exception_handler(lambda *_: None)  # which is told of the task
            loop.create_task(in_batch(int))
            loop.run_until_complete(asyncio.sleep(0))
            for _ in range(turns):
                loop.run_until_complete(settle())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
            return weakref.ref(loop)

        for turns in (0, 1):
            dropped = drop(turns)
            gc.collect()
            assert dropped() is None


def _frames(error: BaseException) -> Any:
    import traceback

    return traceback.extract_tb(error.__traceback__)


class TestSlowReads:
    @pytest.mark.parametrize("slow", [{99}, {0, 2}, {20, 50}], ids=str)
    def test_a_slow_read_holds_no_other(
        self, slow: set[int], run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was read before it is handed out, and what comes after it goes on in another thread.

        Two threads are enough: a thread that waits for its second read has handed out its first one.
        """
        monkeypatch.setattr("cachekit.runtime.threads._PATIENCE", 600.0)  # so no spare threads
        go = threading.Event()

        def read(number: int) -> int:
            assert number not in slow or go.wait(60)
            return number

        async def main() -> None:
            with_jobs(3 if slow == {20, 50} else 2)
            numbers = range(3 if slow == {0, 2} else 100)
            reads = {number: asyncio.ensure_future(in_batch(read, number)) for number in numbers}
            others = [one for number, one in reads.items() if number not in slow]
            await asyncio.wait_for(asyncio.gather(*others), 30)
            assert not any(reads[number].done() for number in slow)
            go.set()
            assert await asyncio.gather(*reads.values()) == list(numbers)

        run(main())

    def test_a_slow_tier(self, run: Run) -> None:
        """Reads that are all slow run in as many threads at once as they would have had alone."""
        together = threading.Barrier(8)

        async def main() -> None:
            with_jobs(8)
            await asyncio.gather(*[in_batch(together.wait, 60) for _ in range(8)])

        run(main())

    def test_a_slow_value_of_a_file_tier(self, tmp_path: Path, run: Run) -> None:
        """The other keys of the turn are there while one is still being read."""
        go = threading.Event()

        class Json:
            name, code = "slow-json", 200

            def encode(self, value: Any) -> bytes:
                return json.dumps(value).encode()

            def decode(self, payload: bytes | memoryview) -> Any:
                value = json.loads(bytes(payload))
                assert value != "slow" or go.wait(60)
                return value

        async def main() -> None:
            file = FileCache(tmp_path / "files", codec=Json())
            async with IntelligentCache(MemoryCache(), None, file) as cache:
                values = {"slow": "slow", **{str(number): number for number in range(20)}}
                cache.sync.set_many(values)
                cache.sync.memory_cache.clear()  # type: ignore[union-attr]
                slow, *others = [asyncio.ensure_future(cache.get(key)) for key in values]
                assert await asyncio.gather(*others) == list(range(20))
                assert not slow.done()
                go.set()
                assert await slow == "slow"

        run(main())

    def test_a_full_executor(self, run: Run) -> None:
        """A batch that gets no thread of it goes to spare threads, and each of its reads runs once."""
        ran: Counter[int] = Counter()
        names: set[str] = set()

        def read(number: int) -> int:
            ran[number] += 1
            names.add(threading.current_thread().name)
            return number

        async def main() -> None:
            with_jobs(1)
            go = threading.Event()
            blocked = asyncio.create_task(asyncio.to_thread(go.wait, 60))
            await asyncio.sleep(0)
            try:
                found = await asyncio.gather(*[in_batch(read, number) for number in range(50)])
                assert found == list(range(50))
                assert await in_batch(read, 50) == 50
            finally:
                go.set()
            await blocked
            await asyncio.to_thread(no_threads)

        run(main())
        assert ran == Counter(range(51)), "the executor, free again, runs none of them a second time"
        assert names == {"cachekit-step"}

    def test_no_thread_at_all(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every task gets the error of the operating system, and none waits for ever."""

        def start(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        async def main() -> None:
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", start)
                found = await asyncio.gather(*[in_batch(int) for _ in range(3)], return_exceptions=True)
            assert [str(error) for error in found] == ["can't start new thread"] * 3
            assert await in_batch(int) == 0

        run(main())

    def test_a_loop_that_ends(self, run: Run) -> None:
        """Reads at the very end of a loop run; and results for a loop that is closed are dropped."""
        go = threading.Event()

        async def main() -> None:
            await asyncio.get_running_loop().shutdown_default_executor()
            assert await asyncio.gather(*[in_batch(lambda n: n, number) for number in range(3)]) == [0, 1, 2]

        run(main())
        loop = asyncio.new_event_loop()
        executor = ThreadPoolExecutor(1)
        loop.set_default_executor(executor)
        began = threading.Event()

        async def forgotten() -> None: ...

        def read() -> Any:
            began.set()
            assert go.wait(60)
            return forgotten()  # which would warn that it was never awaited

        task = loop.create_task(in_batch(read))
        loop.run_until_complete(until(began.is_set, "the read has begun"))
        task.cancel()
        loop.close()
        go.set()
        executor.shutdown()
        gc.collect()


@pytest.mark.usefixtures("long_alone")
class TestServers:
    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
        """How often the tiers below memory were asked, for one key and for many."""
        calls: Counter[str] = Counter()
        find, find_many = TierStack.find, TierStack.find_many

        def counted(self: TierStack, key: str, *more: Any) -> Any:
            calls["find"] += 1
            return find(self, key, *more)

        def counted_many(self: TierStack, keys: list[str], *more: Any) -> Any:
            calls["find_many"] += 1
            if "fails" in keys:
                raise LookupError("one of them")
            return find_many(self, keys, *more)

        monkeypatch.setattr(TierStack, "find", counted)
        monkeypatch.setattr(TierStack, "find_many", counted_many)
        return calls

    def test_one_round_trip(self, redis_url: str, prefix: str, calls: Counter[str], run: Run) -> None:
        """The keys of a turn are read by one call; a miss is a miss, and no two tasks share a value."""

        async def main() -> None:
            async with IntelligentCache(None, RedisCache(url=redis_url, key_prefix=prefix), None) as cache:
                cache.sync.set_many({str(number): [number] for number in range(50)})
                found = await asyncio.gather(*[cache.get(str(number), "missing") for number in range(60)])
                assert found == [[number] for number in range(50)] + ["missing"] * 10
                assert calls == {"find_many": 1}
                calls.clear()
                first, second = await asyncio.gather(cache.get("1"), cache.get("1"))
                assert first == second == [1]
                assert first is not second
                assert calls == {"find": 2}
                calls.clear()
                await asyncio.gather(*[cache.get(str(number)) for number in range(250)])
                assert calls == {"find_many": 3}

        run(main())

    def test_an_error_of_many(self, redis_url: str, prefix: str, calls: Counter[str], run: Run) -> None:
        """The error of a call for many reaches no task: each key is read again, alone."""

        async def main() -> None:
            async with IntelligentCache(None, RedisCache(url=redis_url, key_prefix=prefix), None) as cache:
                cache.sync.set_many({"fails": 1, "other": 2})
                assert await asyncio.gather(*map(cache.get, ["fails", "other"])) == [1, 2]
                assert calls == {"find_many": 1, "find": 2}

        run(main())
