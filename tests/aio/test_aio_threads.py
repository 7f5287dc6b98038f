"""Steps of awaited calls run in the default executor of the loop, or in a spare thread if that is full."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from forking import in_fork
from loops import Run, no_threads, own_threads, settle, until
from racing import in_thread
from redis_server import wait_until

from cachekit.runtime import threads
from cachekit.runtime.threads import run_in_thread

NAME = contextvars.ContextVar("name", default="none")


def test_the_program_sizes_the_threads(run: Run) -> None:
    """Steps run in the executor that the program gave to its loop, with the context of the caller."""

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1, thread_name_prefix="mine"))
        NAME.set("caller")
        thread, name = await run_in_thread(lambda: (threading.current_thread().name, NAME.get()))
        assert thread.startswith("mine")
        assert name == "caller"

    run(main())


def test_a_full_executor(run: Run) -> None:
    """Each of many steps runs once, in one of eight spare threads, and the spare threads end."""
    ran: Counter[int] = Counter()
    names: set[str] = set()
    handed_over = threading.Event()
    most = 0

    def step(number: int) -> int:
        nonlocal most
        ran[number] += 1
        names.add(threading.current_thread().name)
        most = max(most, own_threads().count("cachekit-step"))
        assert handed_over.wait(60)
        return number

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        go = threading.Event()
        blocked = [asyncio.create_task(asyncio.to_thread(go.wait, 60)) for _ in range(2)]
        await asyncio.sleep(0)
        try:
            steps = asyncio.gather(*[run_in_thread(step, number) for number in range(100)])
            await until(lambda: len(ran) + len(threads._spare._waiting) == 100, "all steps run or wait")
            handed_over.set()
            assert await steps == list(range(100))
        finally:
            go.set()
        await asyncio.gather(*blocked)
        await asyncio.to_thread(no_threads)

    run(main())
    assert ran == Counter(range(100)), "the executor, free again, runs none of them a second time"
    assert names == {"cachekit-step"}
    assert most == 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_spare_threads_of_its_own(run: Run) -> None:
    """The eight that were busy during the fork are not in the child."""
    go = threading.Event()

    async def fill(steps: int) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        await asyncio.gather(*[run_in_thread(go.wait, 60) for _ in range(steps)])

    def in_child() -> None:
        async def main() -> None:
            filling = asyncio.create_task(fill(1))
            await settle()
            try:
                name = await asyncio.wait_for(run_in_thread(lambda: threading.current_thread().name), 20)
            finally:
                go.set()
            await filling
            assert name == "cachekit-step"

        asyncio.run(main())

    filled = in_thread(lambda: run(fill(10)))
    wait_until(lambda: len(threads._spare._waiting) == 1, "eight spare threads are busy")
    child = in_fork(in_child)
    go.set()
    filled()
    assert child() == 0


def test_an_error_of_a_spare_thread(run: Run) -> None:
    """What a step raises reaches the task that waits."""

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        go = threading.Event()
        blocked = asyncio.create_task(asyncio.to_thread(go.wait, 60))
        await asyncio.sleep(0)
        try:
            with pytest.raises(ZeroDivisionError):
                await run_in_thread(lambda: 1 / 0)
        finally:
            go.set()
        await blocked

    run(main())


def test_an_executor_that_was_shut_down(run: Run) -> None:
    """A step at the very end of a loop still runs."""

    async def main() -> None:
        await asyncio.get_running_loop().shutdown_default_executor()
        assert await run_in_thread(lambda: 1) == 1

    run(main())
    no_threads()


def test_an_executor_that_gets_no_thread(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The executor keeps a step that it has no thread for; that step too runs once."""
    ran: Counter[str] = Counter()
    start = threading.Thread.start

    def start_but_one(thread: threading.Thread) -> None:
        if thread.name == "mine_1":
            raise RuntimeError("can't start new thread")
        start(thread)

    def step() -> None:
        ran[threading.current_thread().name] += 1

    async def main() -> None:
        executor = ThreadPoolExecutor(2, thread_name_prefix="mine")
        asyncio.get_running_loop().set_default_executor(executor)
        go = threading.Event()
        blocked = asyncio.create_task(asyncio.to_thread(go.wait, 60))
        await asyncio.sleep(0)
        try:
            await run_in_thread(step)
        finally:
            go.set()
        await blocked

    monkeypatch.setattr(threading.Thread, "start", start_but_one)
    run(main())  # and waits until the executor has taken all that it has
    assert ran == {"cachekit-step": 1}
