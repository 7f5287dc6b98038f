"""The types of cached functions, for callers and type checkers.

They are protocols only. At run time a cached function is a plain function with these attributes, so that
`inspect` sees the same as before.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    NamedTuple,
    Never,
    ParamSpec,
    Protocol,
    TypedDict,
    TypeVar,
    final,
    overload,
)

if TYPE_CHECKING:
    from cachekit.loading.options import LoadOptions, Prefetch
    from cachekit.loading.predictor import PrefetchInfo
    from cachekit.model.types import TTL, CacheLevel, Tags

from cachekit.model.reports import Explanation

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")
S_contra = TypeVar("S_contra", contravariant=True)
T_co = TypeVar("T_co", covariant=True)


class CacheInfo(NamedTuple):
    """The lookups of a cached function in the cache that it uses now, in this process."""

    hits: int  #: calls that a tier served
    misses: int  #: all other calls: they ran the function, waited for a running call, or failed
    size: int  #: results held in memory, expired ones included that are not yet removed

    @property
    def prefetch(self) -> PrefetchInfo | None:
        """Return what prefetching has done; None without `prefetch`, or before the first miss."""
        return None

    @property
    def scope(self) -> str:
        """Return "shared" if the name of the function identifies its results, in every tier.

        "process" means that they belong to this function object: they are kept in the memory of this process,
        and dropped with the function.
        """
        return "shared"


@final
class ProcessCacheInfo(CacheInfo):
    """The lookups of a function object that has results of its own."""

    __slots__ = ()

    @property
    def scope(self) -> str:
        """Return "process"."""
        return "process"

    def __repr__(self) -> str:
        return f"CacheInfo(hits={self.hits}, misses={self.misses}, size={self.size}, scope={self.scope!r})"


@final
class PrefetchingCacheInfo(CacheInfo):
    """The lookups of a cached function with `prefetch`, and what that has done in `prefetch`."""

    _prefetch: PrefetchInfo | None
    _scope: str

    @classmethod
    def of(
        cls, scope: str, prefetch: PrefetchInfo | None, hits: int, misses: int, size: int
    ) -> PrefetchingCacheInfo:
        """Return one; a tuple takes no further arguments."""
        info = cls(hits, misses, size)
        info.__dict__ |= {"_prefetch": prefetch, "_scope": scope}
        return info

    @property
    def prefetch(self) -> PrefetchInfo | None:
        """Return what prefetching has done; None before the first miss."""
        return self._prefetch

    @property
    def scope(self) -> str:
        """Return "shared" or "process", as `CacheInfo.scope`."""
        return self._scope

    def __repr__(self) -> str:
        return (
            f"CacheInfo(hits={self.hits}, misses={self.misses}, size={self.size}, prefetch={self.prefetch!r})"
        )


class _Takes(Protocol[S_contra, Q, R_co]):
    """A callable whose first argument is an instance. With Concatenate, mypy would bind a method to any."""

    def __call__(self, first: S_contra, /, *args: Q.args, **kwargs: Q.kwargs) -> R_co: ...


class CachedFunction(Protocol[P, R_co]):
    """A function or callable decorated with `cache_result`: called as before, with six further methods.

    A cached method is bound like any other method. Call the methods of this class through the class of the
    instance, with the instance as the first argument: `Client.fetch.invalidate(client, 1)`.
    """

    __name__: str
    __qualname__: str

    @property
    def __wrapped__(self) -> Callable[P, R_co]:
        """Return the undecorated function."""
        ...

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Return the result of this call, from the cache or the function."""
        ...

    # Type checkers use __get__ below @classmethod, too; this overload tells a descriptor from a method.
    @overload
    def __get__(
        self: CachedFunction[Concatenate[type[Any], ...], R_co], instance: object, owner: type | None = None
    ) -> Callable[..., R_co]: ...
    @overload
    def __get__(self, instance: None, owner: type | None = None) -> CachedFunction[P, R_co]: ...
    @overload
    def __get__(self: _Takes[S, Q, R_co], instance: S, owner: type | None = None) -> Callable[Q, R_co]: ...
    @overload  # below @staticmethod, called through an instance
    def __get__(self, instance: object, owner: type | None = None) -> CachedFunction[P, R_co]: ...

    def cache_info(self) -> CacheInfo:
        """Return hits, misses and the number of results held in memory."""
        ...

    # One class for `def` and `async def`, of which these two methods are awaited: where the decorator has an
    # overload for coroutines, mypy takes the type variable that a function returns for a coroutine. The first
    # overload is for functions that return Any. Only those, and functions that never return, match Never.
    @overload
    def cache_clear(self: CachedFunction[P, Never]) -> Any: ...
    @overload
    def cache_clear(  # type: ignore[overload-overlap]  # a coroutine is the narrower case
        self: CachedFunction[P, Coroutine[Any, Any, Any]],
    ) -> Coroutine[Any, Any, int | None]: ...
    @overload
    def cache_clear(self) -> int | None: ...
    def cache_clear(self) -> Any:
        """Remove all results, and refuse those of calls in progress; return how many were held.

        None means that this is not known: files and servers do not count them.
        """
        ...

    @overload
    def invalidate(self: CachedFunction[P, Never], *args: P.args, **kwargs: P.kwargs) -> Any: ...
    @overload
    def invalidate(  # type: ignore[overload-overlap]
        self: CachedFunction[P, Coroutine[Any, Any, Any]], *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, bool]: ...
    @overload
    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool: ...
    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Remove the result of this call, and refuse one in progress; return whether there was one."""
        ...

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Run the function and store its result; until then the cache serves the old result."""
        ...

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the cache key of this call."""
        ...

    @overload
    def explain(self: CachedFunction[P, Never], *args: P.args, **kwargs: P.kwargs) -> Any: ...
    @overload
    def explain(  # type: ignore[overload-overlap]
        self: CachedFunction[P, Coroutine[Any, Any, Any]], *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, Explanation]: ...
    @overload
    def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation: ...
    def explain(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Return which tier has the result of this call, or why none has it; it counts no lookup."""
        ...


class AsyncCachedFunction(CachedFunction[P, Coroutine[Any, Any, T_co]], Protocol[P, T_co]):
    """An `async def` function decorated with `cache_result`: `CachedFunction` with awaitable methods.

    `cache_info` and `key` return at once. The methods that may call a tier are awaited.
    """


class CacheOptions(TypedDict, total=False):
    """The parameters of `cache_result`, and of the `cached` of a cache, for type checkers."""

    ttl: TTL | Callable[[Any], TTL]
    cache_level: CacheLevel
    key_func: Callable[..., str] | None
    tags: Tags | Callable[..., Tags] | None
    name: str | None
    version: str
    ignore: tuple[str, ...]
    store_if: Callable[[Any], bool] | None
    stale_ttl: TTL
    jitter: float
    load: LoadOptions | None
    copy: bool
    prefetch: bool | Prefetch


class CacheDecorator(Protocol):
    """The decorator that `cache_result(...)` with parameters returns."""

    # Only Any matches Never: what has no type stays so.
    @overload
    def __call__(self, function: Never, /) -> Any: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> CachedFunction[P, R]: ...
