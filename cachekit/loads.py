"""The path of a load: one flight per key, look again, call the loader, keep what it returns (`levels`).

It promises one load per key and process (P7), and that a value whose key or tags were invalidated while
it was loaded goes to those who waited for it but is not kept (P4). An exception reaches everyone who
waits and is never kept; a leader that is interrupted or cancelled hands over to one of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, final

from cachekit.coherence import LoadFence
from cachekit.errors import CacheClosedError
from cachekit.levels import Levels
from cachekit.model import MISSING, PLAIN_TYPES, CacheLevel, refuse_unstorable
from cachekit.singleflight import Abandoned, Flight, FlightTable, loading

if TYPE_CHECKING:
    import asyncio

V = TypeVar("V")

_ALL = CacheLevel.ALL

#: From a loaded value to the seconds to keep it; None keeps it not at all.
Life = Callable[[Any], float | None]


@final
class Loads:
    """The loads of one cache into its levels. Safe in any thread and on any event loop."""

    __slots__ = ("_flights", "_levels", "_tasks")

    def __init__(self, levels: Levels) -> None:
        self._levels = levels
        self._flights: FlightTable[LoadFence] = FlightTable()
        # An event loop holds its tasks weakly.
        self._tasks: set[asyncio.Task[None]] = set()

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
            fence = self._levels.fence(key, tags)
            flight, leading = self._flights.join(key, fence, asyncio.get_running_loop())
            if leading:
                self._begin(flight, self._lead_async(flight, loader, life, level))
            try:
                value: V = await flight.wait_async()
            except Abandoned:
                if leading:
                    raise asyncio.CancelledError(f"the load of {key!r} was cancelled") from None
                continue
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
        self._begin(flight, self._lead_async(flight, loader, life, level, look_again=False))
        try:
            value: V = await flight.wait_async()
        except Abandoned:
            raise asyncio.CancelledError(f"the load of {key!r} was cancelled") from None
        return value

    def _begin(self, flight: Flight[LoadFence], leading: Coroutine[Any, Any, None]) -> None:
        import asyncio

        task = asyncio.get_running_loop().create_task(leading)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # A task that is cancelled before its first step never gets to say so itself.
        task.add_done_callback(lambda _: flight.abandon())

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
                    await self._off_loop(self._levels.before_load, flight.fence)
                    value = await loader()
                    value = await self._off_loop(
                        partial(self._keep, flight, value, life, level, replace=not look_again)
                    )
        except Exception as error:  # noqa: BLE001  # the flight hands it to whoever waits
            flight.crash(error)
        else:
            flight.land(value)
        finally:
            flight.abandon()  # the task was cancelled; otherwise it does nothing

    async def _off_loop(self, step: Callable[..., V], *arguments: Any) -> V:
        """Take a step that may touch a disk or a socket, without holding up the loop."""
        if not self._levels.lower:
            return step(*arguments)
        import asyncio

        return await asyncio.to_thread(step, *arguments)

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
                for flight in flights:
                    if flight.key in loaded:
                        found[flight.key] = self._keep(flight, loaded[flight.key], life, level)
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


def _check_batch(loaded: object, missing: list[str]) -> None:
    if not isinstance(loaded, Mapping):
        raise TypeError(f"loader must return a mapping from key to value, not a {type(loaded).__name__}")
    surplus = loaded.keys() - set(missing)
    if surplus:
        raise ValueError(
            f"loader returned keys that it was not asked for: {sorted(map(repr, surplus))[:5]}; "
            f"return only keys of its argument"
        )
