"""Facade: an awaited view of a synchronous object, with one line per method.

A facade holds no entries, counters or locks, so all facades of an object and the object are one cache.
`in_thread` runs a method in a thread, `inline` on the loop. Both keep its name, parameters, types and
docstring. Methods are looked up on the object, so tiers of other classes work too.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from cachekit.loading import read_batch
from cachekit.model.display import typed_repr
from cachekit.runtime.threads import run_in_thread

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")


class Facade(Generic[C]):
    """An awaited view of `sync`. Views of one object are equal."""

    __slots__ = ("__weakref__", "_sync")

    _sync: C

    @property
    def sync(self) -> C:
        """Return the synchronous object that this one shares, for code that does not await."""
        return self._sync

    async def _run(self, step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a method of the object; on the loop, unless a subclass has a tier on a disk or a server."""
        return step(*args, **kwargs)

    @classmethod
    def _view(cls, sync: C) -> Self:
        self = cls.__new__(cls)
        self._set_up(sync)
        return self

    def _set_up(self, sync: C) -> None:
        self._sync = sync

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._sync is self._sync

    def __hash__(self) -> int:
        return hash((type(self), id(self._sync)))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self)._view, (self._sync,)

    def __repr__(self) -> str:
        return f"aio.{self._sync!r}"


def in_thread(
    method: Callable[Concatenate[Any, P], R],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]:
    """Return the method, awaited; it runs in a thread unless the object has only memory."""
    name = method.__name__

    @wraps(method)
    async def awaited(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        step: Callable[P, R] = getattr(self._sync, name)
        value: R = await self._run(step, *args, **kwargs)
        return value

    return awaited


def always_in_thread(
    method: Callable[Concatenate[Any, P], R],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]:
    """Return the method, awaited; it runs in a thread also for memory alone, because it imports or walks."""
    name = method.__name__

    @wraps(method)
    async def awaited(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        step: Callable[P, R] = getattr(self._sync, name)
        value: R = await run_in_thread(step, *args, **kwargs)
        return value

    return awaited


def in_batch(
    method: Callable[Concatenate[Any, P], R],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]:
    """Return the method, awaited; it runs in a thread, together with the other reads of this turn."""
    name = method.__name__

    @wraps(method)
    async def awaited(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        step: Callable[P, R] = getattr(self._sync, name)
        return await read_batch.in_batch(step, *args, **kwargs)

    return awaited


def inline(
    method: Callable[Concatenate[Any, P], R],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]:
    """Return the method, awaited; it runs on the loop, because it never touches a disk or a socket."""
    name = method.__name__

    @wraps(method)
    async def awaited(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        step: Callable[P, R] = getattr(self._sync, name)
        return step(*args, **kwargs)

    return awaited


def plain(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Return the method, not awaited, because it only makes a view or reads counters."""
    name = method.__name__

    @wraps(method)
    def called(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        step: Callable[P, R] = getattr(self._sync, name)
        return step(*args, **kwargs)

    return called


def sync_of(given: Any) -> Any:
    """Return the synchronous object of a facade, and anything else unchanged."""
    return given._sync if isinstance(given, Facade) else given


def check_sync(given: object, kind: type, what: str) -> None:
    """Check that a facade can be made of the object.

    Raises:
        TypeError: The object is not of the kind, or is a facade itself.
    """
    if isinstance(given, Facade):
        raise TypeError(f"of() takes {what} that is not awaited; {given!r} is awaited already, so use it")
    if not isinstance(given, kind):
        raise TypeError(f"of() takes {what} that is not awaited, not {typed_repr(given)}; pass one")
