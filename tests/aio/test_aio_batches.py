"""Many keys on event loops: loaded by one call, and warmed.

What threads do in the same way is in cache/test_cache_loads.py and cache/test_cache_api.py, for both.
"""

from __future__ import annotations

import asyncio
import threading

import inside
import pytest
from loops import Run, settle, until
from slow_loads import Slow, fails, one_more

from cachekit.aio import IntelligentCache


@pytest.fixture
def cache(awaited: IntelligentCache) -> IntelligentCache:
    """With memory alone, and with files below it."""
    return awaited


class TestMany:
    def test_plain_functions(self, cache: IntelligentCache, run: Run) -> None:
        """A plain function is called in another thread."""

        def load(keys: list[str]) -> dict[str, int]:
            return dict.fromkeys(keys, threading.get_ident())

        async def main() -> None:
            found = await cache.get_or_set_many(["a", "b"], load)
            assert len(set(found.values())) == 1
            assert threading.get_ident() not in found.values()

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
            await until(lambda: not inside.tasks(cache), "the load is over")
            assert await cache.get("a") == 1

            slow = Slow({"b": 1})
            batch = asyncio.create_task(cache.get_or_set_many(["b"], lambda keys: slow()))
            await slow.has_begun()
            waiter = await one_more(cache, "b", lambda: 2)
            (load,) = inside.tasks(cache)
            load.cancel()
            assert await waiter == 2
            with pytest.raises(asyncio.CancelledError, match="the load of several keys was cancelled"):
                await batch

        run(main())


class TestWarming:
    def test_a_load_that_is_cancelled_is_a_failure(self, cache: IntelligentCache, run: Run) -> None:
        """It stops no other key."""

        async def load(key: str) -> str:
            if key == "cancelled":
                raise asyncio.CancelledError
            return key

        report = run(cache.warm_cache(["a", "cancelled", "c"], load))
        assert (report.loaded, list(report.failed)) == (["a", "c"], ["cancelled"])

    def test_plain_functions(self, cache: IntelligentCache, run: Run) -> None:
        """Plain functions load in threads, at once as far as allowed."""

        async def main() -> None:
            together = threading.Barrier(3)

            def load(key: str) -> int:
                together.wait(60)
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
