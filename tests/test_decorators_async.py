"""cache_result on `async def`: what is special about it.

That there is one load per key among tasks, loops and threads, and what cancelling leaves behind, is in
aio/test_aio_loads.py.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import pickle
import threading
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import inside
import pytest
from counting import counted_async
from racing import in_thread, race

from cachekit import IntelligentCache, MemoryCache, SerializationError, cache_result, override
from cachekit.testing import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def cache(clock: ManualClock) -> Iterator[IntelligentCache]:
    with (
        IntelligentCache(MemoryCache(clock=clock), default_ttl=100, file_cache=None) as fresh,
        override(fresh),
    ):
        yield fresh


@cache_result
async def at_module_level(x: int, y: int = 2) -> int:
    """Add."""
    return x + y


async def settle() -> None:
    """Let every task that can run come to its next wait."""
    for _ in range(10):
        await asyncio.sleep(0)


class TestAnswers:
    def test_what_can_be_used_once_is_refused(self, cache: IntelligentCache) -> None:
        """An iterator, and something that is yet to be awaited, are errors that say what to do."""

        async def one() -> int:
            return 1

        async def main() -> None:
            @cache_result(name="later")
            async def later() -> Any:
                return one()

            with pytest.raises(SerializationError, match="can be awaited only once; await it"):
                await later()
            function, _ = counted_async(lambda: iter([1]))
            with pytest.raises(SerializationError, match="can be read only once"):
                await function()

        asyncio.run(main())

    def test_left_as_it_was(self) -> None:
        """It is still a coroutine function, with its signature, and pickles by name."""
        assert inspect.iscoroutinefunction(at_module_level)
        assert str(inspect.signature(at_module_level)) == "(x: 'int', y: 'int' = 2) -> 'int'"
        assert (at_module_level.__name__, at_module_level.__doc__) == ("at_module_level", "Add.")
        assert pickle.loads(pickle.dumps(at_module_level)) is at_module_level

    def test_context_variables_reach_the_function(self, cache: IntelligentCache) -> None:
        """The load runs in the context of the call that began it."""
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

        async def main() -> None:
            function, _ = counted_async(variable.get)
            variable.set("from the caller")
            assert await function() == "from the caller"

        asyncio.run(main())

    def test_instances_are_freed(self, cache: IntelligentCache) -> None:
        """A cached coroutine method does not keep its instance alive."""

        class Client:
            def __cache_key__(self) -> int:
                return 1

            @cache_result
            async def get(self, x: int) -> int:
                return x

        async def main() -> None:
            client = Client()
            freed = weakref.ref(client)
            assert [await client.get(1), await client.get(1)] == [1, 1]
            del client
            await settle()
            gc.collect()
            assert freed() is None

        asyncio.run(main())


class Slow:
    """A coroutine function that begins, waits to be let go, and ends."""

    def __init__(self, cache: IntelligentCache, **options: Any) -> None:
        self.begun = 0
        self.ended = 0
        self.go = asyncio.Event()

        async def slow(x: int) -> list[int]:
            self.begun += 1
            await self.go.wait()
            self.ended += 1
            if x < 0:
                raise LookupError(x)
            return [x]

        self.ask = cache_result(name="slow", cache=cache, **options)(slow)


class TestOneLoad:
    def test_a_loop_that_ends_hands_over(self, cache: IntelligentCache) -> None:
        """When the loop of a load ends, a thread that waits for the answer works it out itself."""
        begun, waits = threading.Event(), threading.Event()

        @cache_result(key_func=lambda: "shared")
        async def never() -> str:
            begun.set()
            await asyncio.Event().wait()
            return "never"

        async def main() -> None:
            task = asyncio.create_task(never())
            await asyncio.to_thread(waits.wait, 60)
            task.cancel()

        loop = in_thread(lambda: asyncio.run(main()))
        assert begun.wait(60)
        waiter = in_thread(lambda: cache.get_or_set("shared", lambda: "worked out"))
        while not inside.threads_waiting(cache, "shared"):
            begun.wait(0)
        waits.set()
        loop()
        assert waiter() == "worked out"

    def test_loops_in_threads(self, cache: IntelligentCache) -> None:
        """Tasks on several loops wait for one load, too."""
        begun, go = threading.Event(), threading.Event()
        count = []

        async def load() -> list[int]:
            count.append(1)
            begun.set()
            while not go.is_set():
                await asyncio.sleep(0)
            return [1]

        function, _ = counted_async(load)

        async def several() -> list[Any]:
            return await asyncio.gather(*[function() for _ in range(3)])

        leader = in_thread(lambda: asyncio.run(several()))
        assert begun.wait(60)
        others = [in_thread(lambda: asyncio.run(several())) for _ in range(3)]
        while inside.tasks_waiting(cache, function.key()) < 12:
            go.wait(0)
        go.set()
        answers = [answer for end in (leader, *others) for answer in end()]
        assert len(answers) == 12
        assert all(answer is answers[0] for answer in answers)
        assert len(count) == 1

    def test_recursion(self, cache: IntelligentCache) -> None:
        """A coroutine function may ask itself, also twice at a time."""

        @cache_result(name="fib")
        async def fib(n: int) -> int:
            return n if n < 2 else sum(await asyncio.gather(fib(n - 1), fib(n - 2)))

        assert asyncio.run(fib(40)) == 102334155

    def test_the_same_question_from_within(self, cache: IntelligentCache) -> None:
        """A load that asks its own question works it out itself, instead of waiting for itself."""
        depth = [3]

        @cache_result(name="own")
        async def own() -> int:
            depth[0] -= 1
            return await own() + 1 if depth[0] else 0

        assert asyncio.run(own()) == 2

    def test_two_that_ask_each_other(self, cache: IntelligentCache) -> None:
        """Two loads that ask for each other's answers on one loop do not wait for ever."""

        async def main() -> None:
            met = asyncio.Barrier(2)
            outermost = {"ping", "pong"}

            async def first(name: str) -> bool:
                if name not in outermost:
                    return False
                outermost.discard(name)
                await met.wait()
                return True

            @cache_result(name="ping")
            async def ping() -> str:
                return "ping " + (await pong() if await first("ping") else "end")

            @cache_result(name="pong")
            async def pong() -> str:
                return "pong " + (await ping() if await first("pong") else "end")

            answers = await asyncio.wait_for(asyncio.gather(ping(), pong()), 10)
            assert [answer[:4] for answer in answers] == ["ping", "pong"]

        asyncio.run(main())

    def test_a_refresh_meets_callers(self, cache: IntelligentCache) -> None:
        """While an answer is refreshed the old one serves; afterwards the new one does."""

        async def main() -> None:
            slow = Slow(cache)
            slow.go.set()
            old = await slow.ask(1)
            slow.go.clear()
            refreshing = asyncio.create_task(slow.ask.refresh(1))
            await settle()
            assert await slow.ask(1) is old
            slow.go.set()
            new = await refreshing
            assert new is not old
            assert await slow.ask(1) is new

        asyncio.run(main())

    def test_nothing_is_left(self, cache: IntelligentCache) -> None:
        """After all loads no flight, task or fence remains."""

        async def main() -> None:
            function, _ = counted_async(lambda x: 1 / x)
            await asyncio.gather(*map(function, range(-3, 3)), return_exceptions=True)
            await settle()

        race(*[partial(asyncio.run, main()) for _ in range(2)])
        gc.collect()
        assert len(inside.flights(cache)) == 0
        assert not inside.tasks(cache)
        assert len(inside.fences(inside.memory(cache))) == 0
