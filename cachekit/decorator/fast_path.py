"""The front of a cached function: from a call's arguments, as they are, to the entry that answers it.

Binding a call and writing its key takes microseconds. So a cached function remembers which entry of the
memory tier answered a call. An entry whose deadline is ahead, and whose value is in its place, is in the
store (see `tiers.memory.store`), whatever has been set, evicted or invalidated meanwhile: the front needs
no bookkeeping. Two things it must see to itself:

- 1 == 1.0 == True, as keys of a dict. Each spot of the front remembers the exact types, and only
  types without such siblings inside (no containers) are let in. 0.0 and -0.0 stay out.
- the cache in use may change (override, disabled), or be closed. Then every function drops its front; a
  caller in the middle of filling the old one fills what nobody reads any more.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Coroutine, Hashable
from math import inf
from typing import Any, Final, Protocol, final

from cachekit.loading.core import CacheCore
from cachekit.model.counters import Lookups
from cachekit.tiers.fences import CHANGES
from cachekit.tiers.memory.entry import MemoryEntry


@final
class _KeywordMark:
    """Stands between the positional arguments of a call and its keywords."""

    __slots__ = ()


_KEYWORD_MARK: Final = _KeywordMark()

# What a method was asked when it was called without an instance: nothing that has an answer.
_NO_CALL: Final = (object(),)

# Equal values of one of these types are one question; see the module for what is left out.
_PLAIN: Final = frozenset({str, int, float, bool, type(None), bytes, _KeywordMark})


@final
class FastPathSlot:
    """Where the front points: an entry of the store, and the exact types of the arguments."""

    __slots__ = ("double", "first", "held", "kinds", "second", "single")

    def __init__(self, held: MemoryEntry, kinds: tuple[type, ...]) -> None:
        self.held = held
        self.kinds = kinds
        # One argument, or two, is the usual case, and compared without making a tuple.
        self.first, self.second = (*kinds, None, None)[:2]
        self.single = len(kinds) == 1
        self.double = len(kinds) == 2


@final
class FastPath:
    """The front of one function, for the cache that it uses now.

    It is empty, and bound to no cache, when it takes its place; whoever fills it has taken hold of it
    before asking which cache is in use. So what is filled in late, after a switch, goes to a front that
    was replaced. Safe in any thread.
    """

    __slots__ = ("__weakref__", "_ahead", "_cache", "_limit", "_spots", "find", "lookups", "now", "touch")

    find: Callable[[tuple[Any, ...]], FastPathSlot | None]
    lookups: Lookups
    now: Callable[[], float]
    touch: Callable[[str], object]

    def __init__(self) -> None:
        self._cache: CacheCore | None = None
        self._spots: dict[tuple[Hashable, ...], FastPathSlot] = {}
        self.find = self._spots.get

    def add(
        self,
        asked: tuple[Any, ...],
        held: MemoryEntry,
        cache: CacheCore,
        lookups: Lookups,
        ahead: float = 0.0,
    ) -> None:
        """Point to the entry from what was asked, if that is of the plain sort.

        Calls that come in the last part of its life, `ahead` of all of it, are left to the cache, which has
        it reloaded.
        """
        kinds = tuple(map(type, asked))
        if not _PLAIN.issuperset(kinds) or (float in kinds and 0.0 in asked):
            return
        if self._cache is None:
            self.lookups = lookups
            self.now = cache.memory.now
            self.touch = cache.memory.touch
            self._limit = cache.memory.max_size
            if ahead:
                self._ahead = ahead
                self.find = self._find_ahead
            self._cache = cache
            cache.fast_paths[self] = None
        if len(self._spots) >= self._limit:
            # Spots whose entries have left are never asked for again; this is how they go.
            self._spots.clear()
        self._spots[asked] = FastPathSlot(held, kinds)
        if cache.closed:  # in between, so that it may not know of this front
            self._spots.clear()

    def _find_ahead(self, asked: tuple[Any, ...]) -> FastPathSlot | None:
        """A spot whose entry is not in the last part of its life."""
        spot = self._spots.get(asked)
        if spot is not None:
            held = spot.held
            if held.deadline - self.now() <= self._ahead * held.ttl and held.ttl != inf:
                return None
        return spot

    def forget_cache(self) -> None:
        """Point nowhere any more: the cache was closed."""
        self._spots.clear()


def call_key(args: tuple[Any, ...], kwargs: dict[str, Any], skips_first: bool) -> tuple[Any, ...]:
    """What a call asked, as one tuple: for `FastPath.add`, and written out in the wrappers below."""
    asked = (args[1:] if args else _NO_CALL) if skips_first else args
    return (*asked, _KEYWORD_MARK, *kwargs, *kwargs.values()) if kwargs else asked


class SlowPath(Protocol):
    """What a wrapper turns to when the front does not know."""

    front: FastPath

    def slow_path(self, front: FastPath, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The answer to a call."""
        ...

    async def slow_path_async(self, front: FastPath, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The answer to a call of a coroutine function."""
        ...


# The two below have the same steps, written out twice because a call in between would be a fifth of a
# hit; they are those of MemoryCache.get_value, after a comparison of types. Change one, change all.


def wrapper_of(cached: SlowPath, *, skips_first: bool, copies: bool) -> Callable[..., Any]:
    """A function that answers from the front, or else asks `cached`.

    Args:
        cached: whose front it is.
        skips_first: the first argument is no part of the question.
        copies: hand out deep copies.
    """

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        front = cached.front
        asked = (args[1:] if args else _NO_CALL) if skips_first else args
        if kwargs:
            asked = (*asked, _KEYWORD_MARK, *kwargs, *kwargs.values())
        try:
            spot = front.find(asked)
        except Exception:  # noqa: BLE001  # unhashable, or a proxy that stands for nothing now
            spot = None
        if spot is not None and (
            not asked
            or (
                type(asked[0]) is spot.first
                and (
                    spot.single
                    or (
                        type(asked[1]) is spot.second
                        and (spot.double or tuple(map(type, asked)) == spot.kinds)
                    )
                )
            )
        ):
            held = spot.held
            value = held.value
            shared_fence = held.shared_fence
            now = front.now()
            if (
                now < held.deadline
                and held.value is value
                and (
                    shared_fence is None
                    or shared_fence.words[CHANGES] == shared_fence.seen
                    or shared_fence.stands()
                )
            ):
                try:
                    front.touch(held.key)
                except KeyError:
                    pass
                held.accesses += 1
                held.last = now
                front.lookups.hits += 1
                return copy.deepcopy(value) if copies else value
        return cached.slow_path(front, args, kwargs)

    return wrapper


def async_wrapper_of(
    cached: SlowPath, *, skips_first: bool, copies: bool
) -> Callable[..., Coroutine[Any, Any, Any]]:
    """`wrapper_of`, for a coroutine function."""

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        front = cached.front
        asked = (args[1:] if args else _NO_CALL) if skips_first else args
        if kwargs:
            asked = (*asked, _KEYWORD_MARK, *kwargs, *kwargs.values())
        try:
            spot = front.find(asked)
        except Exception:  # noqa: BLE001  # unhashable, or a proxy that stands for nothing now
            spot = None
        if spot is not None and (
            not asked
            or (
                type(asked[0]) is spot.first
                and (
                    spot.single
                    or (
                        type(asked[1]) is spot.second
                        and (spot.double or tuple(map(type, asked)) == spot.kinds)
                    )
                )
            )
        ):
            held = spot.held
            value = held.value
            shared_fence = held.shared_fence
            now = front.now()
            if (
                now < held.deadline
                and held.value is value
                and (
                    shared_fence is None
                    or shared_fence.words[CHANGES] == shared_fence.seen
                    or shared_fence.stands()
                )
            ):
                try:
                    front.touch(held.key)
                except KeyError:
                    pass
                held.accesses += 1
                held.last = now
                front.lookups.hits += 1
                return copy.deepcopy(value) if copies else value
        return await cached.slow_path_async(front, args, kwargs)

    return wrapper
