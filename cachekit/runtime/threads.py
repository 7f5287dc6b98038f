"""Threads for steps that may touch a disk or a socket, off the event loop.

`run_in_thread` hands a step to the default executor of the loop, as `asyncio.to_thread` does, so a program
sizes its threads in one place. That executor may be full of calls that wait for a load, and the load needs
a thread to go on. So a step that has not begun after 50 ms runs in a spare thread.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, final

from cachekit.runtime import fork
from cachekit.runtime.outcome import Outcome
from cachekit.runtime.reentrant_lock import RLock

if TYPE_CHECKING:
    import asyncio

P = ParamSpec("P")
R = TypeVar("R")

_PATIENCE: Final = 0.05  # seconds that a step waits for a thread of the executor
_RESOLUTION: Final = 0.002  # seconds that the timer of a loop may be early
_MOST_SPARE: Final = 8  # spare threads of the process


async def run_in_thread(step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Run the step in a thread of the loop's default executor, or in a spare thread if none is free in time.

    Context variables go along. A caller that is cancelled leaves the step to run and end by itself.

    Raises:
        BaseException: whatever the step raises.
    """
    import asyncio

    return await _outcome_of(partial(submit, loop=asyncio.get_running_loop()), partial(step, *args, **kwargs))


def submit(work: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
    """Let the work run once, in a thread of the loop's executor or in a spare one; called on the loop.

    Raises:
        RuntimeError: the process has no room for a thread.
    """
    # The thread that pops the work runs it, so it never runs twice.
    unclaimed = [work]
    try:
        loop.run_in_executor(None, _run_unclaimed, unclaimed)
    except RuntimeError:
        # The executor was shut down, as it is at the end of asyncio.run. Or no thread could be started
        # for it: then it has the work all the same.
        claimed = _claim(unclaimed)
        if claimed is not None:
            _begin(claimed)
    else:
        watch = _here.watch
        if watch is None or watch.loop() is not loop:
            watch = _here.watch = _Watch(loop)
        watch.add(unclaimed, loop)


async def in_own_thread(step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a step in a thread made for it: the step may wait for anything."""
    return await _outcome_of(_begin, partial(step, *args, **kwargs))


async def in_daemon_thread(step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a step that may hang in a thread made for it: a process that ends does not wait for the thread."""
    return await _outcome_of(partial(_begin, daemon=True), partial(step, *args, **kwargs))


def _begin(work: Callable[[], None], *, daemon: bool = False) -> None:
    threading.Thread(target=work, name="cachekit-step", daemon=daemon).start()


def _claim(unclaimed: list[Callable[[], None]]) -> Callable[[], None] | None:
    try:
        return unclaimed.pop()
    except IndexError:  # another thread has claimed it
        return None


def _run_unclaimed(unclaimed: list[Callable[[], None]]) -> None:
    work = _claim(unclaimed)
    if work is not None:
        work()


@final
class _Watch:
    """Gives the steps of one loop that no thread takes in time to the spare threads.

    It has one timer for all steps, because a timer of its own costs a step more than its thread does.
    """

    __slots__ = ("_is_set", "_steps", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        #: Weak, because a thread keeps its watch, and nothing is to be left of a loop that is dropped.
        self.loop = weakref.ref(loop)
        self._steps: deque[tuple[float, list[Callable[[], None]]]] = deque()
        self._is_set = False

    def add(self, unclaimed: list[Callable[[], None]], loop: asyncio.AbstractEventLoop) -> None:
        """Watch a step from now on."""
        due = loop.time() + _PATIENCE
        self._steps.append((due, unclaimed))
        if not self._is_set:
            self._is_set = True
            loop.call_at(due, self._look)

    def _look(self) -> None:
        loop = self.loop()
        assert loop is not None, "it runs this"
        now = loop.time() + _RESOLUTION
        while self._steps and (self._steps[0][0] <= now or not self._steps[0][1]):
            _spare.run(self._steps.popleft()[1])
        self._is_set = bool(self._steps)
        if self._steps:
            loop.call_at(self._steps[0][0], self._look)


class _Here(threading.local):
    # Of the loop that ran last in this thread.
    watch: _Watch | None = None


_here = _Here()


@final
class _SpareThreads:
    """At most eight threads, which end when no step waits.

    Steps never wait for loads or for each other, so any number of threads makes progress.
    """

    def __init__(self) -> None:
        self._lock = RLock()  # a signal handler may submit a step in the middle of this
        self._waiting: deque[list[Callable[[], None]]] = deque()
        self._running = 0
        fork.register(self)

    def run(self, unclaimed: list[Callable[[], None]]) -> None:
        """Run a step that no other thread has claimed."""
        if not unclaimed:
            return
        with self._lock:
            self._waiting.append(unclaimed)
            if self._running == _MOST_SPARE:
                return
            self._running += 1
        try:
            _begin(self._run_waiting)
        except RuntimeError:  # the process has no room for a thread; the executor still has the step
            with self._lock:
                self._running -= 1

    def _run_waiting(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._running -= 1
                    return
                unclaimed = self._waiting.popleft()
            _run_unclaimed(unclaimed)

    def before_fork(self) -> None:
        self._lock.acquire()

    def after_fork(self, in_child: bool) -> None:
        if in_child:  # where the threads are not
            self._waiting.clear()
            self._running = 0
        self._lock.release()


_spare = _SpareThreads()


async def _outcome_of(submit: Callable[[Callable[[], None]], None], step: Callable[[], R]) -> R:
    import asyncio

    loop = asyncio.get_running_loop()
    landed: asyncio.Future[Outcome[R]] = loop.create_future()
    submit(partial(_carry_out, partial(copy_context().run, step), loop, landed))
    try:
        return (await landed).get()
    finally:
        del landed  # the traceback of an error refers to this frame


def _carry_out(
    step: Callable[[], Any], loop: asyncio.AbstractEventLoop, landed: asyncio.Future[Outcome[Any]]
) -> None:
    try:
        outcome: Outcome[Any] = Outcome(step())
    except BaseException as error:  # noqa: BLE001  # the caller gets it
        outcome = Outcome(error=error)
    try:
        loop.call_soon_threadsafe(land, landed, outcome)
    except RuntimeError:  # that loop was closed, and no task waits there any more
        drop(outcome)
    finally:
        del outcome, landed  # an error's traceback refers to this frame


def land(landed: asyncio.Future[Outcome[Any]], outcome: Outcome[Any]) -> None:
    """Give the outcome to the task that awaits the future, unless it was cancelled; called on the loop."""
    if landed.done():  # the task that waited was cancelled
        drop(outcome)
    else:
        landed.set_result(outcome)


def drop(outcome: Outcome[Any]) -> None:
    """Dispose of an outcome for which no task waits."""
    if isinstance(outcome.value, CoroutineType):  # a warning would say that it was never awaited
        outcome.value.close()
