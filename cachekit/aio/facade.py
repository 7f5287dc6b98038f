"""What every facade is: an awaited view of an object of the core, and one line per method.

A facade holds no entry, figure or lock of its own, so any number of them, and the core's own object, are
one cache. `in_thread` has a method carried out where it may touch a disk or a socket, `inline` at once;
both leave its name, parameters, types and docstring as they are. Methods are found on the object, so that
a tier of another make serves too. Context variables go along to the thread. A caller that is cancelled
leaves a method that has begun to end by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")


class Facade(Generic[C]):
    """An awaited view of `sync`. Two views of one object are equal."""

    __slots__ = ("__weakref__", "_sync")

    _sync: C

    @property
    def sync(self) -> C:
        """The core's object, which this one shares: for code that does not await."""
        return self._sync

    async def _run(self, step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Take a step of the object: at once here, where nothing touches a disk or a socket."""
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
    """The method, awaited; in a thread unless the object has nothing but memory."""
    name = method.__name__

    @wraps(method)
    async def awaited(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        step: Callable[P, R] = getattr(self._sync, name)
        value: R = await self._run(step, *args, **kwargs)
        return value

    return awaited


def inline(
    method: Callable[Concatenate[Any, P], R],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]:
    """The method, awaited, and carried out at once: it never touches a disk or a socket."""
    name = method.__name__

    @wraps(method)
    async def awaited(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        step: Callable[P, R] = getattr(self._sync, name)
        return step(*args, **kwargs)

    return awaited


def plain(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """The method as it is, not awaited: it makes a view, or reads figures."""
    name = method.__name__

    @wraps(method)
    def called(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        step: Callable[P, R] = getattr(self._sync, name)
        return step(*args, **kwargs)

    return called


def sync_of(given: Any) -> Any:
    """The core's object behind a facade; anything else as it is."""
    return given._sync if isinstance(given, Facade) else given


def check_sync(given: object, kind: type, what: str) -> None:
    """Refuse what a facade cannot be made of.

    Raises:
        TypeError: it is not of the kind, or is a facade itself.
    """
    if isinstance(given, Facade) or not isinstance(given, kind):
        raise TypeError(f"of() takes {what} of the core, not {given!r} of type {type(given).__name__}")
