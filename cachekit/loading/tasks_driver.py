"""AwaitedLoads: the load path, driven on the event loop of its caller.

A loader runs in a task of its own, so cancelling its first caller does not end what others wait for. Steps
that may touch a disk or a socket run in threads. Waiting for a flight or a permit does not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, final

from cachekit.coherence.load_fence import LoadFence
from cachekit.loading import read_batch
from cachekit.loading.flights import Flight
from cachekit.loading.path import Acquire, Blocking, Call, Detach, End, Path, Step, Wait, raise_error
from cachekit.loading.permits import LoadPermit
from cachekit.loading.request import LoadRequest
from cachekit.loading.threads_driver import Loads
from cachekit.model.types import MISSING, CacheLevel, Missing
from cachekit.runtime.backoff import pauses
from cachekit.runtime.outcome import Outcome
from cachekit.runtime.threads import run_in_thread

if TYPE_CHECKING:
    import asyncio

P = ParamSpec("P")
T = TypeVar("T")
V = TypeVar("V")


@final
class AwaitedLoads:
    """The loads of one cache, for callers that are tasks; they share flights with `Loads`. Safe on any loop.

    The methods are those of `Loads`, with loaders that return awaitables. Cancelling a caller leaves the load
    to the other callers, and to the cache.
    """

    __slots__ = ("_tasks", "path")

    def __init__(self, loads: Loads) -> None:
        self.path = loads.path
        self._tasks = loads.tasks

    async def load(self, key: str, loader: Callable[[], Awaitable[V]], request: LoadRequest) -> V:
        """Load a key; see `Loads.load`."""
        import asyncio

        values: dict[str, V] = {}
        path = self.path.load((key,), loader, request, values, asyncio.get_running_loop())
        raise_error(await self.drive(path))
        return values.get(key, MISSING)  # type: ignore[return-value]  # only if the request does not wait

    async def load_many(
        self,
        keys: Sequence[str],
        loader: Callable[[list[str]], Awaitable[Mapping[str, V]]],
        request: LoadRequest,
    ) -> dict[str, V]:
        """Load distinct keys; see `Loads.load_many`."""
        import asyncio

        values: dict[str, V] = {}
        path = self.path.load(keys, loader, request.of_many(), values, asyncio.get_running_loop())
        raise_error(await self.drive(path))
        return values

    async def reload(self, key: str, loader: Callable[[], Awaitable[V]], request: LoadRequest) -> V:
        """Load a key whether or not a tier has it; see `Loads.reload`."""
        return await self.load(key, loader, request.of_reload())

    def refresh(self, key: str, loader: Callable[[], Awaitable[Any]], request: LoadRequest) -> None:
        """Begin a reload after a hit if it is due; see `Loads.refresh`."""
        part, schedule = request.options.refresh_ahead, self.path.schedule
        if schedule.is_due(key, part):
            import asyncio

            loop, is_due = asyncio.get_running_loop(), partial(schedule.begins, key, part)
            self.path.reload(key, loader, request, self._detach, is_due, loop)

    def after_hit(
        self,
        key: str,
        value: Any,
        loader: Callable[[], Awaitable[Any]],
        request: LoadRequest,
        name: str | None,
    ) -> None:
        """Begin what a hit asks for; see `Loads.after_hit`."""
        if request.options.refresh_ahead:
            self.refresh(key, loader, request)
        if name is not None:
            self.path.verify(key, value, loader, request, name, partial(self._detach, ()))

    def find(self, key: str, level: CacheLevel) -> asyncio.Future[Outcome[Any | Missing]]:
        """Return a future of what `TierStack.find` returns, read together with other reads of this turn."""
        tiers = self.path.tiers
        return read_batch.add(tiers.find, (key, level), None if tiers.redis is None else tiers.find_many)

    async def in_io_thread(self, step: Callable[P, V], /, *args: P.args, **kwargs: P.kwargs) -> V:
        """Call a function that may touch a disk or a socket; in a thread, unless memory is the only tier."""
        if not self.path.tiers.lower:
            return step(*args, **kwargs)
        return await run_in_thread(step, *args, **kwargs)

    async def drive(self, path: Path[T]) -> T:
        """Take the steps of a path in this task, and return what the path returns."""
        struck = None
        while True:
            try:
                step = path.send(None) if struck is None else path.throw(struck)
                while True:
                    try:
                        value = await self._take(step)
                    except BaseException as error:  # noqa: BLE001  # the path handles it or raises it
                        step = path.throw(error)
                    else:
                        step = path.send(value)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            except BaseException as error:
                if path.gi_frame is None:  # type: ignore[attr-defined]
                    raise
                struck = error  # as in Loads.drive()

    async def _take(self, step: Step) -> Any:
        if isinstance(step, Call):
            return await step()
        if isinstance(step, Blocking):
            return await self.in_io_thread(step)
        if isinstance(step, Wait):
            return await step.flight.wait_async(step.seconds)
        if isinstance(step, Acquire):
            return await self._acquire(step.permit, step.seconds)
        if isinstance(step, Detach):
            return self._detach(step.flights, step.path)
        return await self._raise_end(step.detached, step.load) if isinstance(step, End) else None

    def _detach(self, flights: Sequence[Flight[LoadFence]], path: Path[object]) -> asyncio.Task[object]:
        return self._tasks.begin(flights, self.drive(path))

    async def _acquire(self, permit: LoadPermit, seconds: float) -> LoadPermit | None:
        import asyncio

        deadline = monotonic() + seconds
        # Before the first attempt: the loop may stop while a thread makes it.
        self.path.permits.of_tasks.add(permit, asyncio.get_running_loop())
        acquired = await self.in_io_thread(permit.try_acquire)
        # Between two attempts it sleeps on the loop. If it waited in a thread, all threads might wait for
        # permits, and the loads that hold these would find none for their steps.
        for pause in pauses(deadline):
            if acquired is not None:
                break
            await asyncio.sleep(pause)
            acquired = await self.in_io_thread(permit.try_acquire)
        return acquired

    async def _raise_end(self, task: asyncio.Task[object], load: str) -> None:
        import asyncio

        await asyncio.wait([task])
        if task.cancelled():
            self._tasks.refuse_if_closed()
            raise asyncio.CancelledError(f"{load} was cancelled")
        error = task.exception()
        if error is not None:  # no Exception, so that no flight has it
            try:
                Outcome[None](error=error).get()
            finally:
                del error  # its traceback refers to this frame
