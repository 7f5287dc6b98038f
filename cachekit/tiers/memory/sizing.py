"""How many bytes an entry takes, and the bound of a memory tier in bytes.

The estimate is `size_of` the value, which is bounded in depth and time, plus the key and the overhead of
an entry. It is made once, when the value is stored, so a value that grows later does not weigh more. A
user's `weigher` replaces the estimate, in any unit.
"""

from __future__ import annotations

import gc
import sys
from collections import deque
from collections.abc import Callable, Iterable
from itertools import chain, islice
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, Final, final

from cachekit.model.display import shown_key
from cachekit.runtime.interrupts import raise_interrupt
from cachekit.tiers.memory.entry import MemoryEntry

#: The overhead of an entry beside key and value: the entry with its garbage collector header, three
#: floats, a place in the dict and a node of its order.
BOOKKEEPING: Final = sys.getsizeof(MemoryEntry()) + 16 + 3 * sys.getsizeof(0.0) + 50 + 56

_PER_TAG: Final = 80  # the place of a key in the index of a tag

#: One entry may take at most this fraction of the bound, so no value can evict more than that.
LARGEST_SHARE: Final = 4

Weigher = Callable[[str, Any], int]


def entry_size(key: str, value: Any, tags: frozenset[str]) -> int:
    """Return the estimated bytes of an entry in memory, without the data of an eviction policy."""
    return size_of(value) + sys.getsizeof(key) + BOOKKEEPING + _PER_TAG * len(tags)


@final
class ByteBound:
    """The bound of a memory tier in bytes, and the weight of each entry.

    Args:
        limit: The maximum weight of all entries, at least 1.
        weigher: Called with key and value, without any lock; returns the weight. None means an estimate
            in bytes.

    Raises:
        TypeError: the limit is not an int, or the weigher is not callable.
        ValueError: the limit is less than 1.
    """

    __slots__ = ("_weigher", "largest", "limit")

    def __init__(self, limit: int, weigher: Weigher | None) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise TypeError(f"max_bytes must be an int, not {limit!r} of type {type(limit).__name__}")
        if limit < 1:
            raise ValueError(f"max_bytes must be at least 1, not {limit}; use None for no limit")
        if weigher is not None and not callable(weigher):
            raise TypeError(f"weigher must be callable as f(key, value) -> int, not {weigher!r}")
        self.limit = limit
        #: The maximum weight of one entry.
        self.largest = -(-limit // LARGEST_SHARE)
        self._weigher = weigher

    def weigh(self, key: str, value: Any, tags: frozenset[str]) -> int:
        """Return the weight of an entry.

        Raises:
            TypeError: the user's weigher returned something other than an int.
            ValueError: it returned less than 0.
            Exception: it raised this itself.
        """
        if self._weigher is None:
            return entry_size(key, value, tags)
        weight = self._weigher(key, value)
        if isinstance(weight, bool) or not isinstance(weight, int):
            raise TypeError(
                f"weigher must return an int, not {weight!r} of type {type(weight).__name__}, "
                f"for {shown_key(key)}"
            )
        if weight < 0:
            raise ValueError(f"weigher must return 0 or more, not {weight}, for {shown_key(key)}")
        return weight


_MOST_OBJECTS: Final = 200
_MOST_PER_CONTAINER: Final = 20
_DEEPEST: Final = 6
_CONTAINERS: Final[tuple[Any, ...]] = (list, tuple, set, frozenset, deque)

# Reachable from many values, so none of them is charged for these.
_SHARED: Final = (type, ModuleType, FunctionType, BuiltinFunctionType, CodeType)


def size_of(value: object) -> int:
    """Return the estimated bytes of a value. Never raises; an object whose `__sizeof__` raises counts 0."""
    return round(_size(value, set(), _DEEPEST))


def _size(value: object, seen: set[int], depth: int) -> float:
    if id(value) in seen or len(seen) >= _MOST_OBJECTS:
        return 0.0
    seen.add(id(value))
    try:
        size = float(sys.getsizeof(value))
    except Exception as error:  # noqa: BLE001  # a user's __sizeof__ may raise anything
        raise_interrupt(error)
        return 0.0
    if depth:
        children, count = _children(value)
        try:
            sampled = [_size(child, seen, depth - 1) for child in islice(children, _MOST_PER_CONTAINER)]
        except RuntimeError as error:  # another thread changed the container at the same time
            raise_interrupt(error)
            sampled = []
        if sampled:
            size += sum(sampled) * max(count / len(sampled), 1.0)
    return size


def _children(value: Any) -> tuple[Iterable[object], int]:
    # Returns what the value holds, and how many, without running code of the value's class. So type()
    # instead of isinstance(), which also reads the value's __class__, and the methods of the builtin,
    # which a subclass may override.
    if issubclass(type(value), dict):
        return chain.from_iterable(dict.items(value)), 2 * dict.__len__(value)
    for base in _CONTAINERS:
        if issubclass(type(value), base):
            return base.__iter__(value), base.__len__(value)
    held = [child for child in gc.get_referents(value) if not issubclass(type(child), _SHARED)]
    return held, len(held)
