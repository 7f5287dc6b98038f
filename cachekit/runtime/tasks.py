"""Tasks: the loads of one cache that are tasks of event loops.

A task lives until its load is over, although event loops refer to tasks weakly. It does not outlive its loop:
a loop that is closed or dropped with loads in progress takes them along, and `close` of the loop ends their
flights, so that callers in other threads and loops go on at once. A flight whose task is cancelled, even
before its first step, is handed over. When the cache is closed, no task is pending.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, final
from weakref import WeakKeyDictionary

from cachekit.errors import CacheClosedError

if TYPE_CHECKING:
    import asyncio


#: The attribute of an event loop that holds its tasks.
_ATTRIBUTE: Final = "_cachekit_loads"


class _Flight(Protocol):
    def cancel(self) -> None: ...


#: The tasks of a loop, and the flights of each.
_Held: TypeAlias = "dict[asyncio.Task[object], Sequence[_Flight]]"


def _close(loop: asyncio.AbstractEventLoop, close: Callable[[], None] | None) -> None:
    """Close a loop, and end the flights of its tasks, which never run again.

    Args:
        loop: The loop.
        close: What another library had put in place of its method, if anything.
    """
    if close is None:
        type(loop).close(loop)
        vars(loop).pop("close", None)  # which refers to the loop: it is freed at once again
    else:
        close()
    held: _Held = getattr(loop, _ATTRIBUTE)
    flights = [flight for of_task in list(held.values()) for flight in of_task]
    held.clear()
    for flight in flights:
        flight.cancel()


@final
class Tasks:
    """The tasks of one cache. Safe on any loop and in any thread.

    It has no WeakSet, because another thread may add a member while the members are listed.
    """

    __slots__ = ("_closed", "_tasks")

    def __init__(self) -> None:
        self._tasks: WeakKeyDictionary[asyncio.Task[object], None] = WeakKeyDictionary()
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def begin(self, flights: Sequence[_Flight], leading: Coroutine[Any, Any, object]) -> asyncio.Task[object]:
        """Have the flights flown in a task of the running loop."""
        import asyncio

        try:
            task = asyncio.get_running_loop().create_task(leading)
        except BaseException:  # of a task factory
            leading.close()
            for flight in flights:
                flight.cancel()
            raise
        held = self._held_by(task.get_loop())
        held[task] = flights
        tasks = self._tasks
        tasks[task] = None

        def end(task: asyncio.Task[object]) -> None:
            held.pop(task, None)
            tasks.pop(task, None)
            # A task that is cancelled before its first step never gets to say so itself.
            for flight in flights:
                flight.cancel()

        task.add_done_callback(end)
        return task

    def _held_by(self, loop: asyncio.AbstractEventLoop) -> _Held:
        """Return the table that keeps the tasks of a loop alive; the loop has it, and takes it along."""
        held: _Held | None = getattr(loop, _ATTRIBUTE, None)
        if held is None:
            held = {}
            setattr(loop, _ATTRIBUTE, held)
            # Nothing else tells that a loop is closed.
            loop.close = partial(_close, loop, vars(loop).get("close"))  # type: ignore[method-assign]
        return held

    def refuse_if_closed(self) -> None:
        """Raise CacheClosedError if it is."""
        if self._closed:
            raise CacheClosedError("this cache was closed during the load; make a new one")

    def close(self) -> None:
        """Refuse further loads."""
        self._closed = True

    async def end(self) -> None:
        """Cancel all tasks, and wait for those of this loop; for after `close`."""
        import asyncio

        mine = []
        for task in [reference() for reference in self._tasks.keyrefs()]:
            if task is None:
                continue
            loop = task.get_loop()
            if loop is not asyncio.get_running_loop():
                try:
                    loop.call_soon_threadsafe(task.cancel)
                except RuntimeError:
                    pass  # that loop was closed, and its tasks with it
            elif task is not asyncio.current_task():  # a load may close the cache
                task.cancel()
                mine.append(task)
        if mine:
            await asyncio.wait(mine)
