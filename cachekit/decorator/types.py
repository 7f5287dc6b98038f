"""What cached functions look like to their callers and to type checkers.

Shapes only: at run time a cached function is a plain function with these attributes, so that
`inspect` sees what it saw before.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, NamedTuple, Never, ParamSpec, Protocol, TypeVar, overload

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")
S_contra = TypeVar("S_contra", contravariant=True)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class CacheInfo(NamedTuple):
    """What a cached function has seen in the cache that it uses now, in this process."""

    hits: int  #: calls that were answered by one of the tiers
    misses: int  #: the other ones: they called the function, waited for a call that was under way, or failed
    size: int  #: answers held in memory, expired ones that were not noticed included


class _Takes(Protocol[S_contra, Q, R_co]):
    """Whatever can be called with an instance first; mypy would bind a method to any with Concatenate."""

    def __call__(self, first: S_contra, /, *args: Q.args, **kwargs: Q.kwargs) -> R_co: ...


class CachedFunction(Protocol[P, R_co]):
    """What `cache_result` makes of a `def` function: called as before, with five questions to ask.

    A cached method is bound like any other; ask its questions through the class, with the instance as
    the first argument: `Client.fetch.invalidate(client, 1)`.
    """

    __name__: str
    __qualname__: str

    @property
    def __wrapped__(self) -> Callable[P, R_co]:
        """The function itself, uncached."""
        ...

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """The answer, from the cache or the function."""
        ...

    # Checkers ask a descriptor below @classmethod too; this is how they can tell it from a method.
    @overload
    def __get__(
        self: CachedFunction[Concatenate[type[Any], ...], R_co], instance: object, owner: type | None = None
    ) -> Callable[..., R_co]: ...
    @overload
    def __get__(self, instance: None, owner: type | None = None) -> CachedFunction[P, R_co]: ...
    @overload
    def __get__(self: _Takes[S, Q, R_co], instance: S, owner: type | None = None) -> Callable[Q, R_co]: ...
    @overload  # below @staticmethod, asked through an instance
    def __get__(self, instance: object, owner: type | None = None) -> CachedFunction[P, R_co]: ...

    def cache_info(self) -> CacheInfo:
        """Hits, misses and the number of answers held in memory."""
        ...

    def cache_clear(self) -> int:
        """Forget all answers, and refuse those being worked out; how many were held."""
        ...

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Forget the answer to this call, and refuse one being worked out; True if there was one."""
        ...

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function, and let its answer take the place of the old one, which serves meanwhile."""
        ...

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key of this call."""
        ...


class AsyncCachedFunction(Protocol[P, T_co]):
    """What `cache_result` makes of an `async def` function: `CachedFunction`, awaited.

    `cache_info` and `key` are answered at once; what may have to ask a tier is awaited.
    """

    __name__: str
    __qualname__: str

    @property
    def __wrapped__(self) -> Callable[P, Coroutine[Any, Any, T_co]]:
        """The function itself, uncached."""
        ...

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T_co]:
        """The answer, from the cache or the function."""
        ...

    @overload
    def __get__(
        self: AsyncCachedFunction[Concatenate[type[Any], ...], T_co],
        instance: object,
        owner: type | None = None,
    ) -> Callable[..., Coroutine[Any, Any, T_co]]: ...
    @overload
    def __get__(self, instance: None, owner: type | None = None) -> AsyncCachedFunction[P, T_co]: ...
    @overload
    def __get__(
        self: _Takes[S, Q, Coroutine[Any, Any, T_co]], instance: S, owner: type | None = None
    ) -> Callable[Q, Coroutine[Any, Any, T_co]]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> AsyncCachedFunction[P, T_co]: ...

    def cache_info(self) -> CacheInfo:
        """As `CachedFunction.cache_info`."""
        ...

    async def cache_clear(self) -> int:
        """As `CachedFunction.cache_clear`."""
        ...

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """As `CachedFunction.invalidate`."""
        ...

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> T_co:
        """As `CachedFunction.refresh`."""
        ...

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """As `CachedFunction.key`."""
        ...


class CacheDecorator(Protocol):
    """What `cache_result(...)` with parameters returns."""

    # As of cache_result itself: the first is for functions of Any.
    @overload
    def __call__(  # type: ignore[overload-overlap]  # as below
        self, function: Callable[P, Never], /
    ) -> CachedFunction[P, Any]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]  # a coroutine is the narrower case
        self, function: Callable[P, Coroutine[Any, Any, T]], /
    ) -> AsyncCachedFunction[P, T]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> CachedFunction[P, R]: ...
