"""PrefetchedCalls: the calls of a cached function that run before they are asked for (`prefetch=True`).

A key does not tell the arguments of its call, so those of the last calls are kept: short ones of plain
types. Others may change, or would keep large objects alive. Calls with such arguments are cached, but not
prefetched.

The arguments of calls that follow the clock are kept longer, and over a restart with `reload_hot`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, final
from weakref import WeakKeyDictionary, ref

from cachekit.decorator.types import CacheInfo, PrefetchingCacheInfo
from cachekit.loading.options import Prefetch, checked_prefetch
from cachekit.loading.prefetching import Job, Prefetcher, rows_of
from cachekit.model.types import CacheLevel
from cachekit.runtime.interrupts import raise_interrupt

if TYPE_CHECKING:
    from cachekit.loading.core import CacheCore
    from cachekit.model.counters import Lookups

_Call: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]

_PLAIN: Final = frozenset({str, int, float, bool, type(None), bytes})
_LONGEST: Final = 1024  # characters or bytes of an argument
_MOST: Final = 16  # arguments
_RECURRING: Final = 4096  # calls that follow the clock, whose arguments are kept
_RECORDED: Final = 1024  # characters of all arguments of a call in a record


class Loadable(Protocol):
    """A cached function, as its prefetches see it."""

    @property
    def is_async(self) -> bool:
        """Whether it is a coroutine function."""
        ...

    def lookups(self, cache: CacheCore) -> Lookups:
        """Return its counters in a cache."""
        ...

    @property
    def recorded_name(self) -> str:
        """Return its name in other processes; empty if it has none."""
        ...

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Return the key of a call."""
        ...

    def job(self, cache: CacheCore, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Job:
        """Return how to load the result of a call."""
        ...


def prefetched_calls(called: Loadable, prefetch: bool | Prefetch, level: CacheLevel) -> PrefetchedCalls:
    """Return the calls of a function that are prefetched.

    Raises:
        TypeError: `prefetch` is neither a bool nor a Prefetch.
        ValueError: the level is neither all tiers nor memory.
    """
    options = checked_prefetch(prefetch)
    assert options is not None, "the caller asks for prefetching"
    if level not in (CacheLevel.ALL, CacheLevel.MEMORY):
        raise ValueError(
            f"prefetch needs a cache_level of all tiers or of MEMORY, not {level}; leave one of them out"
        )
    return PrefetchedCalls(called, options, copies=level is CacheLevel.ALL)


@final
class PrefetchedCalls:
    """The calls of one cached function that are prefetched, in each cache that it uses. Safe in any thread.

    Args:
        called: the function, which keeps this object.
        options: the numbers.
        copies: whether the lower tiers are asked first.
    """

    __slots__ = ("_called", "_copies", "_in_caches", "_options")

    def __init__(self, called: Loadable, options: Prefetch, *, copies: bool) -> None:
        self._called = ref(called)
        self._options = options
        self._copies = copies
        self._in_caches: WeakKeyDictionary[CacheCore, _Calls] = WeakKeyDictionary()

    def began(self, cache: CacheCore) -> None:
        """Note the first call in a cache: an earlier process may have recorded keys that follow the clock."""
        if cache.memory_tier is not None:
            self._calls(cache)

    def missed(self, cache: CacheCore, key: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note a call whose result is not in memory, and prefetch what follows."""
        if cache.memory_tier is not None:
            calls = self._calls(cache)
            calls.keep(key, args, kwargs)
            calls.prefetcher.missed(key)

    def info(self, cache: CacheCore | None, scope: str) -> Callable[[int, int, int], CacheInfo]:
        """Return what makes a CacheInfo with the figures of prefetching."""
        calls = None if cache is None else self._in_caches.get(cache)
        return partial(PrefetchingCacheInfo.of, scope, None if calls is None else calls.prefetcher.info())

    def _calls(self, cache: CacheCore) -> _Calls:
        calls = self._in_caches.get(cache)
        if calls is None:
            called = self._called()
            assert called is not None, "it is being called"
            # Threads that meet the cache together get the same calls.
            calls = self._in_caches.setdefault(cache, _Calls(called, cache, self._options, self._copies))
        return calls


@final
class _Calls:
    """The arguments of the last calls in one cache, by key, and its prefetcher."""

    __slots__ = ("_cache", "_called", "_kept", "_limit", "_recurring", "name", "prefetcher")

    def __init__(self, called: Loadable, cache: CacheCore, options: Prefetch, copies: bool) -> None:
        self._called = ref(called)
        self._cache = ref(cache)
        self._limit = rows_of(options, cache.memory.max_size)
        self._kept: OrderedDict[str, _Call] = OrderedDict()
        #: Those that would have left `_kept`, and follow the clock.
        self._recurring: dict[str, _Call] = {}
        self.name = called.recorded_name
        self.prefetcher = Prefetcher(
            cache.prefetches(),
            options,
            self._job,
            called.lookups(cache),
            may_begin=self._has,
            copies=copies,
            is_async=called.is_async,
            record=self,
        )

    def keep(self, key: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep the arguments of a call, if they are short and plain."""
        if self._kept.pop(key, None) is None and not _are_plain((*args, *kwargs.values())):
            return
        self._kept[key] = args, kwargs
        if len(self._kept) > self._limit:
            old, call = self._kept.popitem(last=False)
            if self.prefetcher.predictor.recurs(old):
                self._keep_recurring(old, call)

    def _keep_recurring(self, key: str, call: _Call) -> None:
        self._recurring[key] = call
        if len(self._recurring) > 2 * _RECURRING:
            recurs = self.prefetcher.predictor.recurs
            self._recurring = {key: call for key, call in self._recurring.copy().items() if recurs(key)}

    def _has(self, key: str) -> bool:
        return key in self._kept or key in self._recurring

    def _call(self, key: str) -> _Call | None:
        return self._kept.get(key) or self._recurring.get(key)

    def call_of(self, key: str) -> Any:
        """Return the arguments of a call, for the record of keys that follow the clock."""
        call = self._call(key)
        if call is None:
            return None
        args, kwargs = call
        parts = (*args, *kwargs.values())
        text = sum(len(one) for one in parts if type(one) is str)
        # A text codec has no bytes.
        return None if text > _RECORDED or bytes in map(type, parts) else [list(args), dict(kwargs)]

    def take_back(self, key: str, call: Any) -> bool:
        """Keep the arguments of a call that was recorded, if the key is the one of this code for them."""
        called = self._called()
        if called is None or not isinstance(call, list) or len(call) != 2:
            return False
        args, kwargs = call
        if not isinstance(args, list) or not isinstance(kwargs, dict):
            return False
        if not all(type(name) is str for name in kwargs) or not _are_plain((*args, *kwargs.values())):
            return False
        try:
            is_same = len(self._recurring) < _RECURRING and called.key(tuple(args), kwargs) == key
        except Exception as error:  # noqa: BLE001  # of a key function, or for a signature that was edited
            raise_interrupt(error)
            return False
        if not is_same:
            return False
        self._recurring[key] = tuple(args), kwargs
        return True

    def _job(self, key: str) -> Job:
        kept, called, cache = self._call(key), self._called(), self._cache()
        if kept is None or called is None or cache is None:
            return None
        return called.job(cache, *kept)


def _are_plain(arguments: tuple[Any, ...]) -> bool:
    return (
        len(arguments) <= _MOST
        and _PLAIN.issuperset(map(type, arguments))
        and all(len(one) <= _LONGEST for one in arguments if type(one) in (str, bytes))
    )
