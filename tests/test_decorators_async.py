"""cache_result on `async def`: what is special about it.

That there is one load per key among tasks, loops and threads, and what cancelling leaves behind, is in
aio/test_aio_loads.py.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import pickle
import threading
import weakref
from typing import Any

import inside
import pytest
from counting import counted_async
from loops import settle
from racing import in_thread

from cachekit import IntelligentCache, SerializationError, cache_result


@pytest.fixture
def cache(default_cache: IntelligentCache) -> IntelligentCache:
    return default_cache


@cache_result
async def at_module_level(x: int, y: int = 2) -> int:
    """Add."""
    return x + y


class TestAnswers:
    def test_what_is_yet_to_be_awaited_is_refused(self, cache: IntelligentCache) -> None:
        """The error says what to do."""

        async def one() -> int:
            return 1

        @cache_result(name="later")
        async def later() -> Any:
            return one()

        with pytest.raises(SerializationError, match="can be awaited only once; await it"):
            asyncio.run(later())

    def test_left_as_it_was(self) -> None:
        """It is still a coroutine function, with its signature, and pickles by name."""
        assert inspect.iscoroutinefunction(at_module_level)
        assert str(inspect.signature(at_module_level)) == "(x: 'int', y: 'int' = 2) -> 'int'"
        assert (at_module_level.__name__, at_module_level.__doc__) == ("at_module_level", "Add.")
        assert pickle.loads(pickle.dumps(at_module_level)) is at_module_level

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
            go = asyncio.Event()

            async def load() -> list[int]:
                await go.wait()
                return [1]

            ask, _ = counted_async(load)
            go.set()
            old = await ask()
            go.clear()
            refreshing = asyncio.create_task(ask.refresh())
            await settle()
            assert await ask() is old
            go.set()
            new = await refreshing
            assert new is not old
            assert await ask() is new

        asyncio.run(main())
