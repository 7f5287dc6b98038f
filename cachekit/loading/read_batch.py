"""The reads of lower tiers that tasks ask for in one turn of an event loop, in one thread.

A hop to a thread and back costs more than a read from a file. So a batch begins in one thread when the turn
is over. Any of its reads may be slow. After 5 ms the tasks get the results that are there, and more threads
take the remaining reads, as if each had been asked for alone.

Where a cache has a server, one call of `find_many` reads the keys of a turn, in one round trip.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, ParamSpec, TypeVar, final

from cachekit.model.types import MISSING, CacheLevel
from cachekit.runtime.outcome import Outcome
from cachekit.runtime.threads import drop, land, submit

if TYPE_CHECKING:
    import asyncio

P = ParamSpec("P")
R = TypeVar("R")

_ALONE: Final = 0.005  # seconds in which one thread has a batch to itself
_MOST_THREADS: Final = 32  # that join it then: as many as the default executor of a loop has at most
_MOST_KEYS: Final = 100  # that one call of `find_many` reads


class _Read(NamedTuple):
    step: Callable[..., Any]
    args: tuple[Any, ...]
    many: Callable[[Sequence[str], CacheLevel], Mapping[str, Any]] | None
    context: Context
    landed: asyncio.Future[Outcome[Any]]


@final
class ReadBatch:
    """What the tasks of one loop ask for in one turn. Its methods run on the loop, except for `_work`."""

    __slots__ = (
        "__weakref__", "_done", "_is_landing", "_is_late", "_left", "_loop", "_queue", "_timer", "asked",
        "open_on",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        #: The loop while reads can be added; None when the turn is over.
        self.open_on: asyncio.AbstractEventLoop | None = loop
        self.asked: list[_Read] = []
        # What threads take from, and what they add to.
        self._queue: deque[dict[str, _Read]] = deque()
        self._done: deque[tuple[asyncio.Future[Outcome[Any]], Outcome[Any]]] = deque()
        self._left = 0
        self._is_late = self._is_landing = False
        self._timer: asyncio.TimerHandle | None = None
        loop.call_soon(self._begin)

    def _begin(self) -> None:
        self.open_on = None
        asked, self.asked = self.asked, []
        self._left = len(asked)
        self._queue.extend(_groups(asked))
        try:
            submit(self._work, self._loop)
        except RuntimeError as error:  # the process has no room for a thread
            self._queue.clear()
            for read in asked:
                land(read.landed, Outcome(error=error))
            return
        if self._left > 1:
            self._timer = self._loop.call_later(_ALONE, self._spread)

    def _spread(self) -> None:
        # Late before landing: a thread that finishes a read after the landing sees it, and lands the read.
        self._is_late = True
        self._land()
        for _ in range(min(len(self._queue), _MOST_THREADS)):
            try:
                submit(self._work, self._loop)
            except RuntimeError:  # no room for another thread: the first one goes on
                return

    def _work(self) -> None:
        while self._queue:
            try:
                group = self._queue.popleft()
            except IndexError:  # another thread has taken the last one
                break
            found = _outcome_of_many(group) if len(group) > 1 else None
            for key, read in group.items():
                # After an error each is read alone, so that every task gets its own value or error.
                if found is None or found.error is not None:
                    outcome = _outcome(read.context, read.step, *read.args)
                else:
                    outcome = Outcome(found.value.get(key, MISSING))
                self._done.append((read.landed, outcome))
            del group, read, outcome, found  # the traceback of an error refers to this frame
            if self._is_late:
                self._land_soon()
        self._land_soon()

    def _land_soon(self) -> None:
        if self._is_landing or not self._done:
            return
        self._is_landing = True
        try:
            self._loop.call_soon_threadsafe(self._land)
        except RuntimeError:  # that loop was closed, and no task waits there any more
            self._queue.clear()
            while self._done:
                drop(self._done.popleft()[1])

    def _land(self) -> None:
        # Before the first outcome is taken: a thread that adds one later sees it, and lands again.
        self._is_landing = False
        while self._done:
            landed, outcome = self._done.popleft()
            self._left -= 1
            land(landed, outcome)
            del landed, outcome
        if not self._left and self._timer is not None:
            self._timer.cancel()


class _Turn(threading.local):
    # A thread runs one loop at a time. The loop holds the batch: nothing is left of a loop that is dropped.
    batch: weakref.ref[ReadBatch] | None = None


_turn = _Turn()


def add(
    step: Callable[..., Any],
    args: tuple[Any, ...],
    many: Callable[[Sequence[str], CacheLevel], Mapping[str, Any]] | None = None,
) -> asyncio.Future[Outcome[Any]]:
    """Add a read to the batch of this turn; return a future of its outcome.

    Args:
        step: reads in a thread, in a copy of the context of the task that asks.
        args: the arguments of the step; a key and a level if there is a `many`.
        many: `TierStack.find_many`, if one call of it is to read the keys of a turn.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    batch = None if _turn.batch is None else _turn.batch()
    if batch is None or batch.open_on is not loop:
        batch = ReadBatch(loop)
        _turn.batch = weakref.ref(batch)
    landed: asyncio.Future[Outcome[Any]] = loop.create_future()
    batch.asked.append(_Read(step, args, many, copy_context(), landed))
    return landed


async def in_batch(step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a read of a tier in a thread, together with the other reads of this turn.

    Context variables go along. A caller that is cancelled leaves the read to run and end by itself.

    Raises:
        BaseException: whatever the read raises.
    """
    outcome: Outcome[R] = await add(partial(step, **kwargs) if kwargs else step, args)
    try:
        return outcome.get()
    finally:
        del outcome  # the traceback of an error refers to this frame


def _groups(asked: list[_Read]) -> list[dict[str, _Read]]:
    """Return the reads by key, as many together as one call can read; other reads are alone.

    A key that two tasks ask for is read twice, so that each has a value of its own.
    """
    groups: list[dict[str, _Read]] = []
    current: dict[object, dict[str, _Read]] = {}
    for read in asked:
        if read.many is None:
            groups.append({"": read})
            continue
        key, level = read.args
        kind = read.many, level
        group = current.get(kind)
        if group is None or key in group or len(group) == _MOST_KEYS:
            group = current[kind] = {}
            groups.append(group)
        group[key] = read
    return groups


def _outcome_of_many(group: dict[str, _Read]) -> Outcome[Mapping[str, Any]]:
    # In the context of the task that asked first.
    _, (_, level), find_many, context, _ = next(iter(group.values()))
    assert find_many is not None
    return _outcome(context, find_many, list(group), level)


def _outcome(context: Context, step: Callable[..., R], *args: Any) -> Outcome[R]:
    try:
        return Outcome(context.run(step, *args))
    except BaseException as error:  # noqa: BLE001  # the task gets it
        return Outcome(error=error)
