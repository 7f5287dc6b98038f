"""A loop that ends with loads under way: callers elsewhere go on at once, and leases and slots are free.

Other processes are played by a second cache: it has descriptors and connections of its own, and the kernel
and the server tell these apart as they do those of two processes.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import inside
import pytest
from loops import LOOPS, until
from racing import in_thread
from redis_server import wait_until

from cachekit import FileCache, IntelligentCache, LoadOptions, MemoryCache, RedisCache, aio
from cachekit.loading import flights

#: Longer than any test may take: a caller that waits so long fails the test.
FOR_EVER = 1_000.0

Make = Callable[[], IntelligentCache]


@pytest.fixture(params=["memory", "files", "redis"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes the caches of the processes."""
    made: list[IntelligentCache] = []
    url = request.getfixturevalue("redis_url") if request.param == "redis" else None

    def make() -> IntelligentCache:
        redis = None if url is None else RedisCache(url=url, key_prefix=f"{tmp_path.name}:", timeout=20)
        file = FileCache(tmp_path / "cache", 16) if request.param == "files" else None
        made.append(IntelligentCache(MemoryCache(), redis, file))
        return made[-1]

    yield make
    for cache in made:
        cache.close()


def options_of(cache: IntelligentCache) -> list[LoadOptions]:
    """The widest permits that the tiers of the cache lend."""
    if cache.file_cache is not None:
        return [
            LoadOptions(lease="process", lease_timeout=FOR_EVER),
            LoadOptions(max_concurrent_loads=1, lease_timeout=FOR_EVER),
        ]
    scope: Any = "thread" if cache.redis_cache is None else "fleet"
    return [LoadOptions(lease=scope, lease_timeout=FOR_EVER)]


class Held:
    """What a loader holds, such as a connection."""


class Begun:
    """A load of a key that never ends, and the loop that it runs on."""

    def __init__(
        self, cache: IntelligentCache, options: LoadOptions, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.loop = loop
        self.event = threading.Event()
        loop.set_exception_handler(lambda *_: None)  # it hears of tasks that are left
        held = Held()
        self.held = weakref.ref(held)

        async def load() -> Held:
            self.event.set()
            await asyncio.Event().wait()
            return held

        self._load = load
        self._awaited = aio.IntelligentCache.of(cache)
        self._options = options

    async def until(self, ready: threading.Event) -> None:
        """Begin the load, and go on until the others wait for it."""
        self.task = asyncio.ensure_future(self._awaited.get_or_set("k", self._load, load=self._options))
        await until(ready.is_set, "the others wait for the load")

    def let_go(self) -> None:
        """Drop what the program itself has of the load."""
        del self._load, self.task


# Ways to end a loop, each when `ready` is set.


def by_an_error(begun: Begun, ready: threading.Event) -> None:
    async def main() -> NoReturn:
        await begun.until(ready)
        raise RuntimeError("of another task")

    with pytest.raises(RuntimeError):
        begun.loop.run_until_complete(main())
    begun.loop.close()


def by_stop(begun: Begun, ready: threading.Event) -> None:
    async def main() -> None:
        await begun.until(ready)
        begun.loop.stop()

    begun.loop.create_task(main())
    begun.loop.run_forever()
    begun.loop.close()


def by_an_exit(begun: Begun, ready: threading.Event) -> None:
    """The exception comes out of `run_forever` at once, and nothing is closed."""

    async def main() -> NoReturn:
        await begun.until(ready)
        raise SystemExit

    with pytest.raises(SystemExit):
        begun.loop.run_until_complete(main())


def by_ctrl_c(begun: Begun, ready: threading.Event) -> None:
    """`asyncio.run` cancels the tasks, and closes the loop."""

    async def main() -> NoReturn:
        await begun.until(ready)
        raise KeyboardInterrupt

    loop = begun.loop
    with pytest.raises(KeyboardInterrupt), asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())


def with_its_thread(begun: Begun, ready: threading.Event) -> None:
    """The thread that ran it is gone, and the loop is not closed."""
    in_thread(lambda: begun.loop.run_until_complete(begun.until(ready)))()


End = Callable[[Begun, threading.Event], None]
CLOSED: list[End] = [by_an_error, by_stop, by_ctrl_c]
STOPPED: list[End] = [by_an_exit, with_its_thread]


def scenario(make: Make, end: End, factory: Callable[[], asyncio.AbstractEventLoop], which: int) -> None:
    cache, other = make(), make()
    options = options_of(cache)[which]
    loop = factory()
    begun = Begun(cache, options, loop)
    ready = threading.Event()
    ending = in_thread(lambda: end(begun, ready))
    assert begun.event.wait(60)

    async def load() -> int:
        return 1

    # A thread and a task of another loop wait for the load; neither may load before it has ended.
    in_a_thread = in_thread(lambda: cache.get_or_set("k", lambda: 1, load=options))
    awaited = aio.IntelligentCache.of(cache)
    in_a_loop = in_thread(lambda: asyncio.run(awaited.get_or_set("k", load, load=options)))
    wait_until(
        lambda: inside.threads_waiting(cache, "k") and inside.tasks_waiting(cache, "k") >= 2, "all wait"
    )
    ready.set()
    ending()
    assert in_a_thread() == 1
    assert in_a_loop() == 1
    # Another process does not wait for the lease or the slot.
    key = "k" if options.lease != "thread" else "another"
    assert other.get_or_set(key, lambda: 1, load=options) == 1
    if end in CLOSED:
        assert loop.is_closed()

        def gone() -> bool:
            gc.collect()
            return begun.held() is None

        begun.let_go()
        wait_until(gone, "what the loader holds is let go, although the program keeps the closed loop")
        assert not inside.tasks(cache)
    else:
        loop.close()
    assert len(inside.flights(cache)) == 0


@pytest.mark.parametrize("end", CLOSED + STOPPED)
def test_nothing_waits_for_an_ended_loop(make: Make, end: End) -> None:
    """Each way with one kind of loop and one kind of permit."""
    number = (CLOSED + STOPPED).index(end)
    which = number % len(options_of(make()))
    scenario(make, end, list(LOOPS.values())[number % 2], which)


@pytest.mark.soak
@pytest.mark.parametrize("factory", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("end", CLOSED + STOPPED)
@pytest.mark.parametrize("which", [0, 1])
def test_nothing_waits_for_an_ended_loop_whatever_the_permit(
    make: Make, end: End, factory: Callable[[], asyncio.AbstractEventLoop], which: int
) -> None:
    scenario(make, end, factory, min(which, len(options_of(make())) - 1))


@pytest.mark.parametrize("end", CLOSED)
def test_callers_learn_of_a_closed_loop_at_once(
    make: Make, end: End, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at their next look, which never comes here."""
    monkeypatch.setattr(flights, "_GLANCE", FOR_EVER)
    scenario(make, end, asyncio.new_event_loop, 0)


@pytest.mark.parametrize("factory", LOOPS.values(), ids=LOOPS)
def test_a_loop_is_freed_as_ever(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """What tells of its end makes no cycle that would outlive `close`; and a second `close` is none."""
    with IntelligentCache(MemoryCache(), None, None) as cache:
        awaited = aio.IntelligentCache.of(cache)

        async def load() -> int:
            return 1

        loop = factory()
        assert loop.run_until_complete(awaited.get_or_set("k", load)) == 1
        loop.close()
        loop.close()
        assert "close" not in vars(loop)
        gone = weakref.ref(loop)
        gc.collect()
        gc.disable()
        try:
            del loop
            assert gone() is None or sys.implementation.name != "cpython"
        finally:
            gc.enable()


def test_what_closes_a_loop_for_another_library_is_called() -> None:
    """Another library may have replaced `close` before."""
    closed = []
    loop = asyncio.new_event_loop()

    def close(close: Callable[[], None] = loop.close) -> None:
        closed.append(1)
        close()

    loop.close = close  # type: ignore[method-assign]
    with IntelligentCache(MemoryCache(), None, None) as cache:

        async def load() -> int:
            return 1

        loop.run_until_complete(aio.IntelligentCache.of(cache).get_or_set("k", load))
        loop.close()
    assert closed == [1]
    assert loop.is_closed()


def test_a_loop_that_goes_on_loses_its_lease_only(tmp_path: Path) -> None:
    """A loop that stood still ends its load later, and stores nothing over what was written since."""
    options = LoadOptions(lease="process", lease_timeout=FOR_EVER)
    with IntelligentCache(MemoryCache(), None, FileCache(tmp_path, 16)) as cache:
        go = asyncio.Event()
        loop = asyncio.new_event_loop()
        begun, tasks = threading.Event(), list[Any]()

        async def load() -> str:
            begun.set()
            await go.wait()
            return "late"

        async def begin() -> None:
            tasks.append(loop.create_task(aio.IntelligentCache.of(cache).get_or_set("k", load, load=options)))
            await until(begun.is_set, "the load runs")

        loop.run_until_complete(begin())
        assert cache.get_or_set("k", lambda: "first", load=options) == "first"
        go.set()
        loop.run_until_complete(tasks[0])
        loop.close()
        assert cache.get("k") == "first"
        assert cache.get_or_set("other", lambda: 1, load=options) == 1
