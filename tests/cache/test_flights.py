"""Flights that cannot land, and those who must not wait for them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextvars import copy_context
from functools import partial
from typing import Any, NoReturn

import inside
import pytest
import traced
from loops import until
from racing import in_thread
from redis_server import wait_until
from tracing import at_line

from cachekit import CacheClosedError, IntelligentCache, LoadOptions, MemoryCache, aio
from cachekit.loading import flights
from cachekit.loading.flights import Flight
from cachekit.loading.request import LoadRequest
from cachekit.model.types import NO_TAGS
from cachekit.runtime.background import BackgroundCall
from cachekit.runtime.outcome import Outcome
from cachekit.testing import ManualClock


@pytest.fixture
def cache() -> Iterator[IntelligentCache]:
    with IntelligentCache(file_cache=None) as cache:
        yield cache


async def load_async(cache: IntelligentCache, key: str, loader: object) -> object:
    return await cache._core.awaited.load(key, loader, LoadRequest(60.0, NO_TAGS))  # type: ignore[arg-type]


def test_a_load_whose_loop_ended_is_not_waited_for(cache: IntelligentCache) -> None:
    """Its task takes no further step; threads and other loops load by themselves."""

    async def never() -> None:
        await asyncio.Event().wait()

    loop = asyncio.new_event_loop()
    waiting = loop.create_task(load_async(cache, "k", never))
    for _ in range(3):  # as far as the loader's wait
        loop.call_soon(loop.stop)
        loop.run_forever()
    assert len(inside.flights(cache)) == 1

    async def prompt() -> str:
        return "loaded"

    assert asyncio.run(asyncio.wait_for(load_async(cache, "k", prompt), 10)) == "loaded"
    cache.delete("k")
    assert in_thread(lambda: cache.get_or_set("k", lambda: "by a thread"))() == "by a thread"
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.gather(waiting, return_exceptions=True))
    loop.close()


def test_who_waits_for_a_load_whose_loop_ends_begins_another(
    cache: IntelligentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop cancels nothing, so nobody says that the load is over: it is noticed."""
    monkeypatch.setattr(flights, "_GLANCE", 0.01)

    async def never() -> None:
        await asyncio.Event().wait()

    async def prompt() -> str:
        return "loaded"

    loop = asyncio.new_event_loop()
    waiting = loop.create_task(load_async(cache, "k", never))
    waiters: list[Callable[[], object]] = []

    async def until_they_wait() -> None:
        while not inside.flights(cache):
            await asyncio.sleep(0)
        waiters.append(in_thread(lambda: cache.get_or_set("k", lambda: "loaded")))
        waiters.append(in_thread(lambda: asyncio.run(load_async(cache, "k", prompt))))
        await until(
            lambda: inside.threads_waiting(cache, "k") and inside.tasks_waiting(cache, "k") == 2, "both wait"
        )

    loop.run_until_complete(until_they_wait())
    assert [waiter() for waiter in waiters] == ["loaded", "loaded"]
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.gather(waiting, return_exceptions=True))
    loop.close()


def test_the_error_that_many_get_stays_as_short_as_it_was(cache: IntelligentCache) -> None:
    """Each who waits raises it once more, and adds nothing to what the others see."""

    async def main() -> list[BaseException | object]:
        begin = asyncio.Event()

        async def fail() -> None:
            await begin.wait()
            raise ValueError

        waiters = [asyncio.ensure_future(load_async(cache, "k", fail)) for _ in range(100)]
        while inside.tasks_waiting(cache, "k") < 100:
            await asyncio.sleep(0)
        begin.set()
        return await asyncio.gather(*waiters, return_exceptions=True)

    errors = asyncio.run(main())
    assert len(errors) == 100
    assert all(isinstance(error, ValueError) for error in errors)
    assert len(traceback.extract_tb(errors[0].__traceback__)) < 20  # type: ignore[union-attr]


def test_what_a_caller_is_handling_does_not_stick_to_the_error(cache: IntelligentCache) -> None:
    """It would be shown to all the others as what led to it, and kept alive by them."""

    async def main() -> list[BaseException | object]:
        begin = asyncio.Event()

        async def fail() -> None:
            await begin.wait()
            try:
                raise KeyError("its own")
            except KeyError:
                raise ValueError  # noqa: B904  # that is the question

        async def call() -> object:
            try:
                raise RuntimeError("the caller's")
            except RuntimeError:
                return await load_async(cache, "k", fail)

        waiters = [asyncio.ensure_future(call()) for _ in range(3)]
        while inside.tasks_waiting(cache, "k") < 3:
            await asyncio.sleep(0)
        begin.set()
        return await asyncio.gather(*waiters, return_exceptions=True)

    for error in asyncio.run(main()):
        assert isinstance(error, ValueError)
        assert isinstance(error.__context__, KeyError)


@pytest.mark.parametrize("fails", [False, True])
def test_what_outlives_a_load_does_not_keep_its_value(cache: IntelligentCache, fails: bool) -> None:
    """A task that a loader has begun has a copy of its context, perhaps until the program ends."""

    class Value:
        pass

    async def main() -> None:
        values: list[weakref.ref[Value]] = []
        tasks = []

        async def load() -> Value:
            tasks.append(asyncio.create_task(asyncio.Event().wait()))
            value = Value()
            values.append(weakref.ref(value))
            if fails:
                raise ValueError
            return value

        with contextlib.suppress(ValueError):
            await load_async(cache, "k", load)
        cache.clear()
        await asyncio.sleep(0)  # the task of the load says that it has ended
        gc.collect()
        assert values[0]() is None
        tasks[0].cancel()

    asyncio.run(main())


def test_loads_that_begin_each_other_leave_no_trace(cache: IntelligentCache) -> None:
    """Each has begun the task of the next one, which inherits what was being loaded."""

    async def main() -> None:
        last = asyncio.get_running_loop().create_future()

        async def load(number: int) -> int:
            if number < 20:
                task = asyncio.create_task(load_async(cache, f"k{number + 1}", partial(load, number + 1)))
                task.add_done_callback(lambda task: task.result())
                await asyncio.sleep(0)
            else:
                depth, block = 0, flights._block.get()
                while block is not None:
                    depth, block = depth + 1, block._outer
                last.set_result(depth)
            return number

        await load_async(cache, "k0", partial(load, 0))
        assert await last < 20

    asyncio.run(main())


def test_a_blocked_loops_load_is_not_waited_for_by_what_blocks_it(cache: IntelligentCache) -> None:
    """A coroutine blocks its loop on a thread's load, which needs a load of that very loop."""
    x_begun, y_begun = threading.Event(), threading.Event()

    def load_x() -> str:
        x_begun.set()
        assert y_begun.wait(60)
        return "x with " + cache.get_or_set("y", lambda: "y of its own")

    thread = in_thread(lambda: cache.get_or_set("x", load_x))

    async def main() -> str:
        async def load_y() -> str:
            y_begun.set()
            await asyncio.Event().wait()
            return "never"

        task = asyncio.ensure_future(load_async(cache, "y", load_y))
        assert x_begun.wait(60)
        while not y_begun.is_set():
            await asyncio.sleep(0)
        found = cache.get_or_set("x", lambda: "x of the loop")  # blocks this loop's thread
        task.cancel()
        return found

    assert asyncio.run(main()).startswith("x")
    assert thread() == "x with y of its own"


@pytest.mark.parametrize("many", [False, True])
def test_a_background_load_that_needs_the_loop_which_waits_for_it(
    cache: IntelligentCache, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    """A coroutine blocks its loop on a load in a thread, which waits for a load of that loop already."""
    start = BackgroundCall.start

    def until_it_waits(background: BackgroundCall) -> bool:
        begun = start(background)
        wait_until(lambda: inside.threads_waiting(cache, "y"), "it waits for y")
        return begun

    def load(_: object = None) -> dict[str, str]:
        return {"x": cache.get_or_set("y", lambda: "y of its own")}

    async def main() -> object:
        async def never() -> None:
            await asyncio.Event().wait()

        task = asyncio.ensure_future(load_async(cache, "y", never))
        while not inside.flights(cache):
            await asyncio.sleep(0)
        monkeypatch.setattr(BackgroundCall, "start", until_it_waits)
        options = LoadOptions(hard_timeout=50)
        if many:
            found: object = cache.get_or_set_many(["x"], load, load=options)
        else:
            found = cache.get_or_set("x", load, load=options)
        task.cancel()
        return found

    assert in_thread(lambda: asyncio.run(main()))() == {"x": "y of its own"}


@pytest.mark.parametrize("number", range(1, 13))
def test_a_leader_struck_while_it_lands_strands_nobody(
    cache: IntelligentCache, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Ctrl-C at any line of landing: whoever waits gets an answer, or the lead."""
    wait, finish = Flight.wait, Flight._finish
    joined = threading.Event()
    waiters: list[Callable[[], str]] = []

    def announced(flight: Flight[Any], seconds: float | None = None) -> Outcome[Any]:
        joined.set()
        return wait(flight, seconds)

    def loader() -> str:
        waiters.append(in_thread(lambda: cache.get_or_set("k", lambda: "loaded again")))
        assert joined.wait(60)
        return "loaded"

    def strike() -> None:
        raise KeyboardInterrupt

    def struck(flight: Flight[Any], value: str, error: Outcome[Any] | None = None) -> None:
        monkeypatch.setattr(Flight, "_finish", finish)
        at_line(number, traced.FLIGHTS, strike, lambda: finish(flight, value, error))

    monkeypatch.setattr(Flight, "wait", announced)
    monkeypatch.setattr(Flight, "_finish", struck)
    try:
        cache.get_or_set("k", loader)
    except KeyboardInterrupt:
        pass
    assert waiters[0]() in {"loaded", "loaded again"}
    assert len(inside.flights(cache)) == 0


def one() -> int:
    return 1


ASK: dict[str, Callable[[IntelligentCache, str, LoadOptions], object]] = {
    "one": lambda cache, key, load: cache.get_or_set(key, lambda: 1, load=load),
    "many": lambda cache, key, load: cache.get_or_set_many([key], lambda keys: {key: 1}, load=load),
    "again": lambda cache, key, load: cache.cached(key_func=lambda: key, load=load, name=key)(one).refresh(),
}


@pytest.mark.parametrize("load", [LoadOptions(), LoadOptions(hard_timeout=50)], ids=["here", "background"])
@pytest.mark.parametrize("part", traced.LOADING)
@pytest.mark.parametrize("ask", ["one", "many", "again"])
def test_a_caller_struck_on_its_way_to_the_loader_strands_nobody(
    cache: IntelligentCache, part: str, ask: str, load: LoadOptions
) -> None:
    """Ctrl-C at any line: the key can be loaded, by any thread."""

    def strike() -> None:
        raise KeyboardInterrupt

    struck = 0
    for number in itertools.count(1):
        key = f"k{number}"
        try:
            if not at_line(number, traced.LOADING[part], strike, partial(ASK[ask], cache, key, load)):
                break
        except KeyboardInterrupt:
            struck += 1
        assert in_thread(partial(cache.get_or_set, key, lambda: 2))() in {1, 2}
    assert struck or part == "background"


def test_a_task_factory_that_fails_leaves_no_flight(cache: IntelligentCache) -> None:
    """Its error is the caller's, and the next one loads."""

    async def prompt() -> str:
        return "loaded"

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def fails(*_: object, **__: object) -> NoReturn:
            raise RuntimeError("no tasks today")

        loop.set_task_factory(fails)
        with pytest.raises(RuntimeError, match="no tasks today"):
            await load_async(cache, "k", prompt)
        loop.set_task_factory(None)
        assert await load_async(cache, "k", prompt) == "loaded"

    asyncio.run(main())


def test_a_batch_that_fails_waits_for_nothing_any_more(cache: IntelligentCache) -> None:
    """What it would have waited for next may wait for the load that it was a part of."""
    failed = threading.Event()
    began = {key: threading.Event() for key in "xy"}

    def load_x() -> NoReturn:
        began["x"].set()
        wait_until(lambda: inside.threads_waiting(cache, "x"), "the batch waits for x")
        raise ValueError("x")

    def load_y() -> str:
        began["y"].set()
        assert failed.wait(60)
        return "y after " + cache.get_or_set("a", lambda: "an a of its own")

    y = in_thread(lambda: cache.get_or_set("y", load_y))
    in_thread(lambda: cache.get_or_set("x", load_x))
    assert all(event.wait(60) for event in began.values())

    def load_a() -> str:
        with pytest.raises(ValueError, match="x"):
            cache.get_or_set_many(["x", "y"], lambda keys: dict.fromkeys(keys, ""))
        failed.set()
        wait_until(lambda: inside.threads_waiting(cache, "a"), "y waits for a")
        return "a"

    assert in_thread(lambda: cache.get_or_set("a", load_a))() == "a"
    assert y() == "y after a"


@pytest.mark.parametrize("keys", ["xy", "yx"])
def test_a_batch_that_fails_leaves_each_flight_once(keys: str) -> None:
    """A thread of the same load may wait for one of them too, and that is not to be forgotten."""
    clock = ManualClock()
    with IntelligentCache(MemoryCache(clock=clock), file_cache=None) as cache:
        cache.get_or_set("x", lambda: "stale", ttl=1, stale_ttl=10)
        clock.advance(2)
        end, begun, go_on = threading.Event(), threading.Barrier(3), threading.Event()

        def load_x() -> str:
            begun.wait(60)
            assert end.wait(60)
            return "x"

        def load_y() -> NoReturn:
            begun.wait(60)
            assert go_on.wait(60)
            raise ValueError("y")

        def fail_when_waited_for() -> None:
            wait_until(lambda: inside.threads_waiting(cache, "y"), "the batch waits for y")
            go_on.set()

        def load_a() -> list[str]:
            x = in_thread(partial(copy_context().run, cache.get_or_set, "x", str))
            wait_until(lambda: inside.waits_for(cache, "a"), "a waits for x")
            in_thread(fail_when_waited_for)
            with pytest.raises(ValueError, match="y"):
                cache.get_or_set_many(list(keys), lambda keys: {}, stale_ttl=10)
            waited_for = inside.waits_for(cache, "a")
            end.set()
            assert x() == "x"
            return waited_for

        x = in_thread(lambda: cache.get_or_set("x", load_x))
        y = in_thread(lambda: cache.get_or_set("y", load_y))
        begun.wait(60)
        assert cache.get_or_set("a", load_a) == ["x"]
        assert x() == "x"
        with pytest.raises(ValueError, match="y"):
            y()


def test_a_batch_that_ends_halfway_leaves_no_flight(
    cache: IntelligentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing the cache while a batch takes its flights strands nobody who waits for one of them."""
    memory = inside.store(inside.memory(cache))
    fence = type(memory).fence
    asked: list[str] = []

    def closing(_: object, key: str, tags: frozenset[str]) -> object:
        asked.append(key)
        if len(asked) == 3:
            memory.close()
        return fence(memory, key, tags)

    monkeypatch.setattr(type(memory), "fence", closing)
    with pytest.raises(CacheClosedError):
        cache.get_or_set_many(["a", "b", "c"], lambda keys: dict.fromkeys(keys, 1))
    assert len(inside.flights(cache)) == 0


def test_a_value_that_was_paid_for_reaches_its_caller(cache: IntelligentCache) -> None:
    """A cache that is closed during a load keeps nothing, and takes nothing away."""

    def loader() -> str:
        cache.close()
        return "paid for"

    assert cache.get_or_set("k", loader) == "paid for"


def test_warming_what_is_being_loaded(cache: IntelligentCache) -> None:
    """A load may warm its own key: the threads know what their caller is loading."""

    def loader() -> str:
        report = cache.warm_cache(["k", "other"], str.upper)
        assert report.loaded == ["k", "other"]
        return "loaded"

    assert in_thread(lambda: cache.get_or_set("k", loader))() == "loaded"


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("how", ["here", "in the background", "in a task", "in a thread for a task"])
def test_a_failed_load_leaves_no_cycle(cache: IntelligentCache, how: str, many: bool) -> None:
    """What the loader held is let go of with the exception, without the garbage collector."""

    class Held:
        pass

    gone: list[weakref.ref[Held]] = []

    def failing(*_: object) -> Any:
        held = Held()
        gone.append(weakref.ref(held))
        raise LookupError("no")

    async def failing_task(*_: object) -> Any:
        return failing()

    async def ask(loader: Callable[..., Any]) -> None:
        with contextlib.suppress(LookupError):
            view = aio.IntelligentCache.of(cache)
            await (view.get_or_set_many(["k", "l"], loader) if many else view.get_or_set("k", loader))
        await asyncio.sleep(0)  # the task of the load says that it has ended

    gc.disable()
    try:
        if how == "in a task":
            asyncio.run(ask(failing_task))
        elif how == "in a thread for a task":
            asyncio.run(ask(failing))
        else:
            load = LoadOptions(hard_timeout=20) if how == "in the background" else LoadOptions()
            with contextlib.suppress(LookupError):
                if many:
                    cache.get_or_set_many(["k", "l"], failing, load=load)
                else:
                    cache.get_or_set("k", failing, load=load)
        for thread in threading.enumerate():
            if thread.name in {"cachekit-load", "cachekit-step"}:
                thread.join(60)
        assert gone[0]() is None
    finally:
        gc.enable()
