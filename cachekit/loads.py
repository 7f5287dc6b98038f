"""The path of a load: one flight per key, look again, call the loader, keep what it returns (`levels`).

It promises one load per key and process (P7), and that a value whose key or tags were invalidated while
it was loaded goes to those who waited for it but is not kept (P4). An exception reaches everyone who
waits and is never kept; a leader that is interrupted or cancelled hands over to one of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, final

from cachekit.coherence import LoadFence
from cachekit.errors import CacheClosedError
from cachekit.levels import Levels
from cachekit.model import MISSING, PLAIN_TYPES, CacheLevel, refuse_unstorable
from cachekit.offloop import Threads
from cachekit.singleflight import Abandoned, Flight, FlightTable, loading

if TYPE_CHECKING:
    import asyncio

P = ParamSpec("P")
V = TypeVar("V")

_ALL = CacheLevel.ALL

#: From a loaded value to the seconds to keep it; None keeps it not at all.
Life = Callable[[Any], float | None]


@final
class Loads:
    """The loads of one cache into its levels. Safe in any thread and on any event loop."""

    __slots__ = ("_closed", "_flights", "_levels", "_tasks", "threads")

    def __init__(self, levels: Levels) -> None:
        self._levels = levels
        self._flights: FlightTable[LoadFence] = FlightTable()
        # An event loop holds its tasks weakly.
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        #: Where tasks have the steps taken that may touch a disk or a socket.
        self.threads = Threads()

    def load(
        self, key: str, loader: Callable[[], V], life: Life, tags: frozenset[str], level: CacheLevel = _ALL
    ) -> V:
        """The value of a key that a lookup did not find; waits for a load that is under way.

        Raises:
            SerializationError: the loader returned something that can be used only once.
            Exception: whatever the loader raised, here or in the thread that was waited for.
        """
        while True:
            fence = self._levels.fence(key, tags)
            flight, leading = self._flights.join(key, fence, None)
            try:
                value: V = self._lead(flight, loader, life, level) if leading else flight.wait()
            except Abandoned:
                continue
            finally:
                # A flight that crashed holds the error, whose traceback holds this frame: without this,
                # what the loader held would stay until the garbage collector comes.
                del flight
            return value

    def reload(
        self, key: str, loader: Callable[[], V], life: Life, tags: frozenset[str], level: CacheLevel = _ALL
    ) -> V:
        """Load a key whether or not it is there; older loads of it are not kept.

        What was there serves until the new value has come, and no longer, even if that is not kept.
        """
        fence = self._levels.successor(key, tags)
        flight = self._flights.lead(key, fence, None)
        value: V = self._lead(flight, loader, life, level, look_again=False)
        return value

    def _lead(
        self,
        flight: Flight[LoadFence],
        loader: Callable[[], Any],
        life: Life,
        level: CacheLevel,
        *,
        look_again: bool = True,
    ) -> Any:
        try:
            with loading(flight):
                # Another flight may have landed between the lookup and this one's start.
                value = self._levels.look_again(flight.key) if look_again else MISSING
                if value is MISSING:
                    self._levels.before_load(flight.fence)
                    value = loader()
                    value = self._keep(flight, value, life, level, replace=not look_again)
        except Exception as error:
            flight.crash(error)
            raise
        else:
            flight.land(value)
        finally:
            flight.abandon()  # KeyboardInterrupt and the like; otherwise it does nothing
            del flight  # as in load()
        return value

    async def load_async(
        self,
        key: str,
        loader: Callable[[], Awaitable[V]],
        life: Life,
        tags: frozenset[str],
        level: CacheLevel = _ALL,
    ) -> V:
        """`load` for a coroutine function, which is awaited in a task of its own on this loop.

        Cancelling the caller leaves the load to those who wait for it, and to the cache.

        Raises:
            SerializationError: the loader returned something that can be used only once.
            Exception: whatever the loader raised, here or where it was waited for.
        """
        import asyncio

        while True:
            self._refuse_if_closed()
            fence = self._levels.fence(key, tags)
            flight, leading = self._flights.join(key, fence, asyncio.get_running_loop())
            if leading:
                self._begin([flight], self._lead_async(flight, loader, life, level))
            try:
                value: V = await flight.wait_async()
            except Abandoned:
                if leading:
                    self._refuse_if_closed()
                    raise asyncio.CancelledError(f"the load of {key!r} was cancelled") from None
                continue
            finally:
                del flight  # as in load()
            return value

    async def reload_async(
        self,
        key: str,
        loader: Callable[[], Awaitable[V]],
        life: Life,
        tags: frozenset[str],
        level: CacheLevel = _ALL,
    ) -> V:
        """`reload` for a coroutine function."""
        import asyncio

        fence = self._levels.successor(key, tags)
        flight = self._flights.lead(key, fence, asyncio.get_running_loop())
        self._begin([flight], self._lead_async(flight, loader, life, level, look_again=False))
        try:
            value: V = await flight.wait_async()
        except Abandoned:
            self._refuse_if_closed()
            raise asyncio.CancelledError(f"the load of {key!r} was cancelled") from None
        return value

    def _begin(self, flights: list[Flight[LoadFence]], leading: Coroutine[Any, Any, V]) -> asyncio.Task[V]:
        import asyncio

        task = asyncio.get_running_loop().create_task(leading)
        self._tasks.add(task)

        def end(task: asyncio.Task[V]) -> None:
            self._tasks.discard(task)
            # A task that is cancelled before its first step never gets to say so itself.
            for flight in flights:
                flight.abandon()

        task.add_done_callback(end)
        return task

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise CacheClosedError("this cache was closed during the load; make a new one")

    async def _lead_async(
        self,
        flight: Flight[LoadFence],
        loader: Callable[[], Awaitable[Any]],
        life: Life,
        level: CacheLevel,
        *,
        look_again: bool = True,
    ) -> None:
        try:
            with loading(flight):
                value = self._levels.look_again(flight.key) if look_again else MISSING
                if value is MISSING:
                    await self.off_loop(self._levels.before_load, flight.fence)
                    value = await loader()
                    value = await self.off_loop(
                        partial(self._keep, flight, value, life, level, replace=not look_again)
                    )
        except Exception as error:  # noqa: BLE001  # the flight hands it to whoever waits
            flight.crash(error)
        else:
            flight.land(value)
        finally:
            flight.abandon()  # the task was cancelled; otherwise it does nothing

    async def off_loop(self, step: Callable[P, V], /, *args: P.args, **kwargs: P.kwargs) -> V:
        """Take a step that may touch a disk or a socket, if there is any, off the loop."""
        if not self._levels.lower:
            return step(*args, **kwargs)
        return await self.threads.run(step, *args, **kwargs)

    def _keep(
        self, flight: Flight[LoadFence], value: Any, life: Life, level: CacheLevel, *, replace: bool = False
    ) -> Any:
        """Keep what was loaded; the value, or the one that another process or host stored first."""
        if type(value) not in PLAIN_TYPES:
            refuse_unstorable(value, f"what was loaded for {flight.key!r}")
        ttl = life(value)
        try:
            if replace:
                self._levels.replace(flight.fence, value, ttl, level)
            elif ttl is not None and ttl > 0:
                return self._levels.keep(flight.fence, value, ttl, level)
        except CacheClosedError:
            pass  # closed meanwhile: there is nothing to keep it in, but it was paid for
        return value

    def load_many(
        self,
        keys: Sequence[str],
        loader: Callable[[list[str]], Mapping[str, V]],
        life: Life,
        tags: frozenset[str],
        level: CacheLevel = _ALL,
    ) -> dict[str, V]:
        """`load` for several distinct keys, with one call of the loader for those nobody is loading.

        Returns:
            The values; a key that the loader left out is missing.

        Raises:
            TypeError: the loader returned no mapping.
            ValueError: it returned keys that it was not asked for.
        """
        values: dict[str, V] = {}
        while keys:
            mine: list[Flight[LoadFence]] = []
            others: list[Flight[LoadFence]] = []
            try:
                for key in keys:
                    fence = self._levels.fence(key, tags)
                    flight, leading = self._flights.join(key, fence, None)
                    (mine if leading else others).append(flight)
                # Own flights land before any other is waited for, so two batches never block each other.
                values |= self._lead_many(mine, loader, life, level)
            finally:
                for flight in mine:
                    flight.abandon()  # closed or interrupted halfway; otherwise it does nothing
            again: list[str] = []
            for flight in others:
                try:
                    values[flight.key] = flight.wait()
                except Abandoned:
                    again.append(flight.key)
            keys = again
        return values

    def _lead_many(
        self,
        flights: list[Flight[LoadFence]],
        loader: Callable[[list[str]], Mapping[str, V]],
        life: Life,
        level: CacheLevel,
    ) -> dict[str, V]:
        found: dict[str, V] = {}
        try:
            for flight in flights:
                value = self._levels.look_again(flight.key)
                if value is not MISSING:
                    found[flight.key] = value
            missing = [flight.key for flight in flights if flight.key not in found]
            if missing:
                self._levels.before_loads([flight.fence for flight in flights if flight.key in missing])
                with loading(*flights):
                    loaded = loader(list(missing))
                _check_batch(loaded, missing)
                found |= self._keep_many(flights, loaded, life, level)
        except Exception as error:
            for flight in flights:
                flight.crash(error)
            raise
        else:
            for flight in flights:
                if flight.key in found:
                    flight.land(found[flight.key])
        finally:
            for flight in flights:
                flight.abandon()  # the keys that the loader left out: whoever waits asks by itself
        return found

    async def load_many_async(
        self,
        keys: Sequence[str],
        loader: Callable[[list[str]], Awaitable[Mapping[str, V]]],
        life: Life,
        tags: frozenset[str],
        level: CacheLevel = _ALL,
    ) -> dict[str, V]:
        """`load_many` for a coroutine function, which is awaited in a task of its own on this loop."""
        import asyncio

        values: dict[str, V] = {}
        while keys:
            self._refuse_if_closed()
            task: asyncio.Task[dict[str, V] | Exception] | None = None
            mine: list[Flight[LoadFence]] = []
            others: list[Flight[LoadFence]] = []
            again: list[str] = []
            try:
                for key in keys:
                    fence = self._levels.fence(key, tags)
                    flight, leading = self._flights.join(key, fence, asyncio.get_running_loop())
                    (mine if leading else others).append(flight)
                if mine:
                    task = self._begin(mine, self._lead_many_async(mine, loader, life, level))
                    await asyncio.wait([task])  # which leaves it alone if this caller is cancelled
                    if task.cancelled():
                        self._refuse_if_closed()
                        raise asyncio.CancelledError("the load of several keys was cancelled")
                    outcome = task.result()
                    if isinstance(outcome, Exception):
                        raise outcome
                    values |= outcome
                while others:
                    flight = others.pop()
                    try:
                        values[flight.key] = await flight.wait_async()
                    except Abandoned:
                        again.append(flight.key)
            finally:
                if task is None:
                    for flight in mine:
                        flight.abandon()  # closed halfway: nobody will fly it
                for flight in others:
                    flight.leave()
            keys = again
        return values

    async def _lead_many_async(
        self,
        flights: list[Flight[LoadFence]],
        loader: Callable[[list[str]], Awaitable[Mapping[str, V]]],
        life: Life,
        level: CacheLevel,
    ) -> dict[str, V] | Exception:
        """`_lead_many`, but an error is returned: nobody may be there any more to see it raised."""
        found: dict[str, V] = {}
        try:
            for flight in flights:
                value = self._levels.look_again(flight.key)
                if value is not MISSING:
                    found[flight.key] = value
            missing = [flight for flight in flights if flight.key not in found]
            if missing:
                await self.off_loop(self._levels.before_loads, [flight.fence for flight in missing])
                with loading(*flights):
                    loaded = await loader([flight.key for flight in missing])
                _check_batch(loaded, [flight.key for flight in missing])
                found |= await self.off_loop(self._keep_many, missing, loaded, life, level)
        except Exception as error:  # noqa: BLE001  # whoever waits shall have it
            for flight in flights:
                flight.crash(error)
            return error
        else:
            for flight in flights:
                if flight.key in found:
                    flight.land(found[flight.key])
        finally:
            for flight in flights:
                flight.abandon()  # as in _lead_many
        return found

    def _keep_many(
        self, flights: list[Flight[LoadFence]], loaded: Mapping[str, V], life: Life, level: CacheLevel
    ) -> dict[str, V]:
        return {
            flight.key: self._keep(flight, loaded[flight.key], life, level)
            for flight in flights
            if flight.key in loaded
        }

    def close(self) -> None:
        """Begin no further load as a task, and end the threads when their steps are done."""
        self._closed = True
        self.threads.close()

    async def end_tasks(self) -> None:
        """Cancel the loads that are tasks, and wait for those of this loop; for after `close`."""
        import asyncio

        mine = []
        for task in list(self._tasks):
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


def _check_batch(loaded: object, missing: list[str]) -> None:
    if not isinstance(loaded, Mapping):
        raise TypeError(f"loader must return a mapping from key to value, not a {type(loaded).__name__}")
    surplus = loaded.keys() - set(missing)
    if surplus:
        raise ValueError(
            f"loader returned keys that it was not asked for: {sorted(map(repr, surplus))[:5]}; "
            f"return only keys of its argument"
        )
