"""The path of a load: one flight per key, look again, call the loader, keep what it returns.

It promises one load per key and process (P7), and that a value whose key or tags were invalidated while
it was loaded goes to those who waited for it but is not kept (P4). An exception reaches everyone who
waits and is never kept; a leader that is interrupted or cancelled hands over to one of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, final

from cachekit.errors import CacheClosedError
from cachekit.model import MISSING, PLAIN_TYPES, refuse_unstorable
from cachekit.singleflight import Abandoned, Flight, FlightTable, loading
from cachekit.tiers.memory import MemoryCache

if TYPE_CHECKING:
    import asyncio

V = TypeVar("V")

#: From a loaded value to the seconds to keep it; None keeps it not at all.
Life = Callable[[Any], float | None]


@final
class Loads:
    """The loads of one cache into its memory tier. Safe in any thread and on any event loop."""

    __slots__ = ("_flights", "_memory", "_tasks")

    def __init__(self, memory: MemoryCache) -> None:
        self._memory = memory
        self._flights = FlightTable()
        # An event loop holds its tasks weakly.
        self._tasks: set[asyncio.Task[None]] = set()

    def load(self, key: str, loader: Callable[[], V], life: Life, tags: frozenset[str]) -> V:
        """The value of a key that a lookup did not find; waits for a load that is under way.

        Raises:
            SerializationError: the loader returned something that can be used only once.
            Exception: whatever the loader raised, here or in the thread that was waited for.
        """
        while True:
            fence = self._memory.fence(key, tags)
            flight, leading = self._flights.join(key, fence, None)
            try:
                value: V = self._lead(flight, loader, life, tags) if leading else flight.wait()
            except Abandoned:
                continue
            finally:
                # A flight that crashed holds the error, whose traceback holds this frame: without this,
                # what the loader held would stay until the garbage collector comes.
                del flight
            return value

    def reload(self, key: str, loader: Callable[[], V], life: Life, tags: frozenset[str]) -> V:
        """Load a key whether or not it is there; older loads of it are not kept.

        What was there serves until the new value has come, and no longer, even if that is not kept.
        """
        fence = self._memory._successor(key, tags)
        flight = self._flights.lead(key, fence, None)
        value: V = self._lead(flight, loader, life, tags, look_again=False)
        return value

    def _lead(
        self,
        flight: Flight,
        loader: Callable[[], Any],
        life: Life,
        tags: frozenset[str],
        *,
        look_again: bool = True,
    ) -> Any:
        try:
            with loading(flight):
                # Another flight may have landed between the lookup and this one's start.
                value = self._memory._peek_value(flight.key) if look_again else MISSING
                if value is MISSING:
                    value = loader()
                    self._keep(flight, value, life, tags, ends_old=not look_again)
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
        self, key: str, loader: Callable[[], Awaitable[V]], life: Life, tags: frozenset[str]
    ) -> V:
        """`load` for a coroutine function, which is awaited in a task of its own on this loop.

        Cancelling the caller leaves the load to those who wait for it, and to the cache.

        Raises:
            SerializationError: the loader returned something that can be used only once.
            Exception: whatever the loader raised, here or where it was waited for.
        """
        import asyncio

        while True:
            fence = self._memory.fence(key, tags)
            flight, leading = self._flights.join(key, fence, asyncio.get_running_loop())
            if leading:
                self._begin(flight, self._lead_async(flight, loader, life, tags))
            try:
                value: V = await flight.wait_async()
            except Abandoned:
                if leading:
                    raise asyncio.CancelledError(f"the load of {key!r} was cancelled") from None
                continue
            return value

    async def reload_async(
        self, key: str, loader: Callable[[], Awaitable[V]], life: Life, tags: frozenset[str]
    ) -> V:
        """`reload` for a coroutine function."""
        import asyncio

        fence = self._memory._successor(key, tags)
        flight = self._flights.lead(key, fence, asyncio.get_running_loop())
        self._begin(flight, self._lead_async(flight, loader, life, tags, look_again=False))
        try:
            value: V = await flight.wait_async()
        except Abandoned:
            raise asyncio.CancelledError(f"the load of {key!r} was cancelled") from None
        return value

    def _begin(self, flight: Flight, leading: Coroutine[Any, Any, None]) -> None:
        import asyncio

        task = asyncio.get_running_loop().create_task(leading)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # A task that is cancelled before its first step never gets to say so itself.
        task.add_done_callback(lambda _: flight.abandon())

    async def _lead_async(
        self,
        flight: Flight,
        loader: Callable[[], Awaitable[Any]],
        life: Life,
        tags: frozenset[str],
        *,
        look_again: bool = True,
    ) -> None:
        try:
            with loading(flight):
                value = self._memory._peek_value(flight.key) if look_again else MISSING
                if value is MISSING:
                    value = await loader()
                    self._keep(flight, value, life, tags, ends_old=not look_again)
        except Exception as error:  # noqa: BLE001  # the flight hands it to whoever waits
            flight.crash(error)
        else:
            flight.land(value)
        finally:
            flight.abandon()  # the task was cancelled; otherwise it does nothing

    def _keep(
        self, flight: Flight, value: Any, life: Life, tags: frozenset[str], *, ends_old: bool = False
    ) -> None:
        if type(value) not in PLAIN_TYPES:
            refuse_unstorable(value, f"what was loaded for {flight.key!r}")
        ttl = life(value)
        try:
            if ttl is not None and ttl > 0:
                self._memory._store.put(flight.key, value, ttl, tags, fence=flight.fence)
            elif ends_old:
                self._memory._store.delete(flight.key, flight.fence)
        except CacheClosedError:
            pass  # closed meanwhile: there is nothing to keep it in, but it was paid for

    def load_many(
        self,
        keys: Sequence[str],
        loader: Callable[[list[str]], Mapping[str, V]],
        life: Life,
        tags: frozenset[str],
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
            mine: list[Flight] = []
            others: list[Flight] = []
            try:
                for key in keys:
                    fence = self._memory.fence(key, tags)
                    flight, leading = self._flights.join(key, fence, None)
                    (mine if leading else others).append(flight)
                # Own flights land before any other is waited for, so two batches never block each other.
                values |= self._lead_many(mine, loader, life, tags)
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
        flights: list[Flight],
        loader: Callable[[list[str]], Mapping[str, V]],
        life: Life,
        tags: frozenset[str],
    ) -> dict[str, V]:
        found: dict[str, V] = {}
        try:
            for flight in flights:
                value = self._memory._peek_value(flight.key)
                if value is not MISSING:
                    found[flight.key] = value
            missing = [flight.key for flight in flights if flight.key not in found]
            if missing:
                with loading(*flights):
                    loaded = loader(list(missing))
                _check_batch(loaded, missing)
                for flight in flights:
                    if flight.key in loaded:
                        self._keep(flight, loaded[flight.key], life, tags)
                        found[flight.key] = loaded[flight.key]
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
