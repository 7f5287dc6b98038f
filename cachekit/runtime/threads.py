"""Threads in which the steps of a cache that may touch a disk or a socket are taken, off the event loop.

They are not those of the loop's default executor. There user code may wait for a load, in as many threads
as there are; the load, which needs a thread for the cache's own steps, would then never end. In these
threads nobody waits for a load, so each step ends by itself. Context variables go along. What a caller
that is cancelled had begun is carried out all the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, final

from cachekit.runtime import fork
from cachekit.runtime.outcome import Outcome

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

P = ParamSpec("P")
R = TypeVar("R")


@final
class IoThreadPool:
    """The threads of one cache: none before the first step, as many as asyncio has, none after `close`.

    Safe in any thread and on any loop. In a forked child there are none, until there is a step.
    """

    __slots__ = ("__weakref__", "_closed", "_executor")

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._closed = False
        fork.register(self)

    async def run(self, step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Take the step in a thread, without holding up the loop; what it returns or raises."""
        return await _outcome_of(self._submit, partial(step, *args, **kwargs))

    def _submit(self, work: Callable[[], None]) -> None:
        from concurrent.futures import ThreadPoolExecutor

        executor = self._executor
        if executor is None and not self._closed:
            # Of two loops that come here at once one has its executor forgotten, which takes its step
            # and then ends by itself.
            executor = self._executor = ThreadPoolExecutor(thread_name_prefix="cachekit-io")
        try:
            if executor is not None:
                executor.submit(work)
                return
        except RuntimeError:
            if self._executor is executor:
                raise  # the interpreter ends
        _begin(work)  # closed meanwhile: the step will say so, or is the last one of a load

    def close(self, *, wait: bool = False) -> None:
        """End the threads when their steps are done, and wait for that if told to."""
        self._closed = True
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=wait)

    def before_fork(self) -> None:
        """Nothing is held (see `forks`)."""

    def after_fork(self, in_child: bool) -> None:
        """Forget the threads, which a child does not have."""
        if in_child:
            self._executor = None


async def in_own_thread(step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Take a step in a thread made for it: one that may wait for whatever it likes."""
    return await _outcome_of(_begin, partial(step, *args, **kwargs))


async def in_daemon_thread(step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """`in_own_thread` for a step that may hang: a process that ends does not wait for it."""
    return await _outcome_of(partial(_begin, daemon=True), partial(step, *args, **kwargs))


def _begin(work: Callable[[], None], *, daemon: bool = False) -> None:
    threading.Thread(target=work, name="cachekit-step", daemon=daemon).start()


async def _outcome_of(submit: Callable[[Callable[[], None]], None], step: Callable[[], R]) -> R:
    import asyncio
    from contextvars import copy_context

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
        loop.call_soon_threadsafe(_land, landed, outcome)
    except RuntimeError:  # that loop was closed: nobody waits there any more
        _drop(outcome)
    finally:
        del outcome, landed  # an error's traceback holds this frame


def _land(landed: asyncio.Future[Outcome[Any]], outcome: Outcome[Any]) -> None:
    if landed.done():  # whoever waited was cancelled
        _drop(outcome)
    else:
        landed.set_result(outcome)


def _drop(outcome: Outcome[Any]) -> None:
    if isinstance(outcome.value, CoroutineType):  # a warning would say that it was never awaited
        outcome.value.close()
