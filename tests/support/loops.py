"""Tests on event loops: asyncio's own and uvloop, each new, closed, and left with nothing pending."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import pytest
from redis_server import wait_until

P = ParamSpec("P")
T = TypeVar("T")

#: Runs a coroutine on a new loop, as `asyncio.run` does.
Run = Callable[[Coroutine[Any, Any, Any]], Any]


def _uvloop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": _uvloop}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    """Both kinds of loop; slow callbacks, forgotten coroutines and lost exceptions are errors."""

    def run(coroutine: Coroutine[Any, Any, T]) -> T:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            troubles: list[dict[str, Any]] = []
            runner.get_loop().set_exception_handler(lambda _, context: troubles.append(context))
            result = runner.run(coroutine)
        assert troubles == []
        return result

    return run


def on_a_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A coroutine function as a test, on a loop of its own."""

    @wraps(test)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return wrapper


async def settle() -> None:
    """Let every task that can run come to its next wait."""
    for _ in range(10):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object], what: str) -> None:
    """Let the loop go on until the condition holds; fail after many seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 60
    while not condition():
        assert loop.time() < deadline, f"it took too long until {what}"
        await asyncio.sleep(0.001)  # between two looks at the condition


def own_threads() -> list[str]:
    """The names of cachekit's threads that are alive, without upkeep: caches of other tests may need it."""
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("cachekit")]
    return [name for name in names if name != "cachekit-upkeep"]


def no_threads() -> None:
    """None of cachekit's threads is alive, or will be in a moment."""
    wait_until(lambda: not own_threads(), "the threads have ended")
