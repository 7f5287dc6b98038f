"""Many keys on event loops: loaded by one call, and warmed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

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
            assert len(inside.flights(cache)) == 0

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
