"""The fast path of a cached function: from the arguments of a call to the memory entry of its result.

Binding a call and encoding its key takes microseconds, so a cached function remembers the entry of each
call. An entry that is live and has its value is in the store, whatever was set, evicted or invalidated
since (see `tiers.memory.store`), so the fast path needs no bookkeeping. It handles two things itself:

- As dict keys, 1 == 1.0 == True. So each slot remembers the exact types of the arguments. Types that could
  hide such a difference inside, such as containers, do not get a slot, and neither do 0.0 and -0.0.
- The cache in use may change (override, disabled) or close. Then every function replaces its fast path. A
  caller that is still filling the old one fills an object that no call reads any more.
"""

from __future__ import annotations

import sys
from weakref import ref

from cachekit.model.types import CHANGES, FOREVER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable
    from typing import Any, Final, Protocol

    from cachekit.loading.core import CacheCore
    from cachekit.model.counters import Lookups
    from cachekit.runtime.clock import Clock
    from cachekit.tiers.memory.entry import MemoryEntry

    class SlowPath(Protocol):
        """What a wrapper calls when the fast path has no slot for the call."""

        fast_path: FastPath

        def slow_path(self, fast_path: FastPath, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            """Return the result of a call."""
            ...

        async def slow_path_async(
            self, fast_path: FastPath, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> Any:
            """Return the result of a call of a coroutine function."""
            ...

        def copied(self, value: Any) -> Any:
            """Return a deep copy if callers get copies, or else the value."""
            ...


def raise_interrupt(error: Exception) -> None:
    """Do what `interrupts.raise_interrupt` does. It is imported after an error only.

    At the end of the interpreter nothing can be imported.
    """
    if not sys.is_finalizing():
        from cachekit.runtime import interrupts

        interrupts.raise_interrupt(error)


class _KeywordMark:
    """Separates the positional arguments of a call from its keywords."""

    __slots__ = ()


_KEYWORD_MARK: Final = _KeywordMark()

# The call key of a method that was called without an instance: it never has a slot.
_NO_CALL: Final = (object(),)

# Equal values of one of these types make equal calls; the module docstring says what is left out.
_PLAIN: Final = frozenset({str, int, float, bool, type(None), bytes, _KeywordMark})
_LONGEST: Final = 1024  # characters and bytes of all arguments of a call
_MOST_ARGUMENTS: Final = 64
_MOST_CALLS: Final = 32  # that have slots for one entry


def _extent(argument: Any) -> int:
    if isinstance(argument, (str, bytes)):
        return len(argument)
    return argument.bit_length() >> 3 if isinstance(argument, int) else 0


class FastPathSlot:
    """The memory entry of one call, and the exact types of the arguments."""

    __slots__ = ("double", "first", "held", "kinds", "second", "single")

    def __init__(self, held: MemoryEntry, kinds: tuple[type, ...]) -> None:
        self.held = held
        self.kinds = kinds
        # One or two arguments are the usual case, and are compared without creating a tuple.
        self.first, self.second = (*kinds, None, None)[:2]
        self.single = len(kinds) == 1
        self.double = len(kinds) == 2


class FastPath:
    """The fast path of one function, for the cache that it uses now.

    It starts empty and without a cache. A caller takes the fast path before it asks which cache is in use.
    So after a switch, a late caller adds its entry to a fast path that was already replaced. Safe in any
    thread.
    """

    __slots__ = (
        "__weakref__", "_ahead", "_cache", "_chance", "_limit", "_slots", "_verify", "chosen",
        "find", "lookups", "time", "touch",
    )  # fmt: skip

    #: Whether calls are observed one by one.
    is_observed = False

    find: Callable[[tuple[Any, ...]], FastPathSlot | None]
    lookups: Lookups
    time: Clock
    touch: Callable[[str], object]

    def __init__(self) -> None:
        self._cache: CacheCore | None = None
        self._slots: dict[tuple[Hashable, ...], FastPathSlot] = {}
        self.find = self._slots.get
        #: Whether a hit was left to the cache to be verified. Threads may take each other's, which is chance.
        self.chosen = False

    def add(
        self,
        call_key: tuple[Any, ...],
        held: MemoryEntry,
        cache: CacheCore,
        lookups: Lookups,
        ahead: float = 0.0,
        verify: float = 0.0,
    ) -> None:
        """Add the entry of a call, if all its arguments have plain types and are not long.

        Calls in the last `ahead` part of the entry's life go to the cache, which reloads the entry. So does
        the share `verify` of all calls, which the cache verifies.
        """
        kinds = tuple(map(type, call_key))
        if not _PLAIN.issuperset(kinds) or (float in kinds and 0.0 in call_key):
            return
        if len(call_key) > _MOST_ARGUMENTS or sum(map(_extent, call_key)) > _LONGEST:
            return  # the slot would keep the arguments, which no tier has
        if self._cache is None:
            self.lookups = lookups
            self.time = cache.memory.time
            self.touch = cache.memory.touch
            self._limit = cache.memory.max_size
            if ahead or verify:
                self._ahead = ahead
                self._verify = verify
                self._chance = cache.loads.path.random_fraction
                self.find = self._find_and_choose
            self._cache = cache
            cache.fast_paths[self] = None
        slots = self._slots
        if len(slots) >= self._limit:
            # An entry that leaves takes its slots along. But an entry has several, and does not know one of
            # two that threads add at once.
            slots.clear()
        try:
            if not self.has(call_key, held):
                calls = held.calls
                if len(calls) >= _MOST_CALLS:
                    calls = tuple(one for one in calls if (path := one[0]()) and path.has(one[1], held))
                    if len(calls) >= _MOST_CALLS:
                        return  # its calls differ in arguments that are ignored
                held.calls = (*calls, (ref(self), call_key))
            slots[call_key] = FastPathSlot(held, kinds)
        except Exception as error:  # noqa: BLE001  # `python -bb` compares no str with bytes of its hash
            raise_interrupt(error)
        if held.deadline == -FOREVER:  # it left during the lines above, and may not know this slot
            self.forget(call_key, held)
        if cache.closed:  # it closed during the lines above, and may not know this fast path
            slots.clear()

    def _find_and_choose(self, call_key: tuple[Any, ...]) -> FastPathSlot | None:
        # Finds the slot of a call unless it is to be verified, or its entry is in the last part of its life.
        slot = self._slots.get(call_key)
        if slot is not None:
            if self._verify and self._chance() < self._verify:
                self.chosen = True
                return None
            held = slot.held
            if held.deadline - self.time.monotonic() <= self._ahead * held.ttl and held.ttl != FOREVER:
                return None
        return slot

    def forget(self, call: Any, held: MemoryEntry) -> None:
        """Drop the slot of a call, if it names the entry."""
        try:
            slot = self._slots.get(call)
            if slot is not None and slot.held is held:
                self._slots.pop(call, None)
        except Exception as error:  # noqa: BLE001  # as in `add`
            raise_interrupt(error)

    def has(self, call: Any, held: MemoryEntry) -> bool:
        """Return whether the slot of a call names the entry."""
        slot = self._slots.get(call)
        return slot is not None and slot.held is held

    def forget_cache(self) -> None:
        """Drop all slots, because the cache was closed."""
        self._slots.clear()


class ObservedPath(FastPath):
    """A fast path that stays empty, because each call is observed (see `source.observing`)."""

    __slots__ = ()

    is_observed = True


def call_key(args: tuple[Any, ...], kwargs: dict[str, Any], skips_first: bool) -> tuple[Any, ...]:
    """Return the key of a call in a fast path: for `FastPath.add`, and inline in the wrappers below."""
    call_key = (args[1:] if args else _NO_CALL) if skips_first else args
    return (*call_key, _KEYWORD_MARK, *kwargs, *kwargs.values()) if kwargs else call_key


# The two wrappers below are the same except for two words, because a shared function would cost a fifth of a
# hit. After the comparison of types the steps are those of MemoryCache.get_value. Change all together.


def wrapper_of(cached: SlowPath, *, skips_first: bool, copies: bool) -> Callable[..., Any]:
    """Return a function that serves calls from the fast path, or else calls `cached.slow_path`.

    Args:
        cached: The cached function.
        skips_first: Whether the first argument is not part of the cache key.
        copies: Whether to return deep copies.
    """

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        fast_path = cached.fast_path
        call_key = (args[1:] if args else _NO_CALL) if skips_first else args
        if kwargs:
            call_key = (*call_key, _KEYWORD_MARK, *kwargs, *kwargs.values())
        try:
            slot = fast_path.find(call_key)
        except Exception as error:  # noqa: BLE001  # unhashable, or a proxy that stands for nothing now
            if raise_interrupt is not None:  # as it is for a finalizer at the end of some interpreters
                raise_interrupt(error)
            slot = None
        if slot is not None and (
            not call_key
            or (
                type(call_key[0]) is slot.first
                and (
                    slot.single
                    or (
                        type(call_key[1]) is slot.second
                        and (slot.double or tuple(map(type, call_key)) == slot.kinds)
                    )
                )
            )
        ):
            held = slot.held
            value = held.value
            shared_fence = held.shared_fence
            now = fast_path.time.monotonic()
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
                    fast_path.touch(held.key)
                except KeyError as error:
                    raise_interrupt(error)
                held.accesses += 1
                held.last = now
                fast_path.lookups.hits += 1
                return cached.copied(value) if copies else value
        return cached.slow_path(fast_path, args, kwargs)

    return wrapper


def async_wrapper_of(
    cached: SlowPath, *, skips_first: bool, copies: bool
) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Return what `wrapper_of` does, for a coroutine function."""

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        fast_path = cached.fast_path
        call_key = (args[1:] if args else _NO_CALL) if skips_first else args
        if kwargs:
            call_key = (*call_key, _KEYWORD_MARK, *kwargs, *kwargs.values())
        try:
            slot = fast_path.find(call_key)
        except Exception as error:  # noqa: BLE001  # unhashable, or a proxy that stands for nothing now
            if raise_interrupt is not None:  # as it is for a finalizer at the end of some interpreters
                raise_interrupt(error)
            slot = None
        if slot is not None and (
            not call_key
            or (
                type(call_key[0]) is slot.first
                and (
                    slot.single
                    or (
                        type(call_key[1]) is slot.second
                        and (slot.double or tuple(map(type, call_key)) == slot.kinds)
                    )
                )
            )
        ):
            held = slot.held
            value = held.value
            shared_fence = held.shared_fence
            now = fast_path.time.monotonic()
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
                    fast_path.touch(held.key)
                except KeyError as error:
                    raise_interrupt(error)
                held.accesses += 1
                held.last = now
                fast_path.lookups.hits += 1
                return cached.copied(value) if copies else value
        return await cached.slow_path_async(fast_path, args, kwargs)

    return wrapper
