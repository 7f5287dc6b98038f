"""How many bytes an entry counts for, and how many there may be in all.

The estimate is `sizing.size_of` of the value, which is bounded in depth and time, plus the key and what
an entry costs by itself. It is made once, when the value is stored: a value that grows afterwards does
not weigh more. A `weigher` of the user's takes its place, in whatever unit the user likes.
"""

from __future__ import annotations

import gc
import sys
from collections import deque
from collections.abc import Callable, Iterable
from itertools import chain, islice
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, Final, final

from cachekit.tiers.memory.entry import MemoryEntry

#: What an entry takes beside its key and value: the entry itself with its garbage collector header,
#: three floats, a place in the dict and a node of its order.
BOOKKEEPING: Final = sys.getsizeof(MemoryEntry()) + 16 + 3 * sys.getsizeof(0.0) + 50 + 56

_PER_TAG: Final = 80  # a key's place in the index of a tag

#: The part of all room that one entry may take, so that no value can push out more than that.
LARGEST_SHARE: Final = 4

Weigher = Callable[[str, Any], int]


def entry_size(key: str, value: Any, tags: frozenset[str]) -> int:
    """Bytes that an entry takes in memory, about; what an eviction policy keeps of it is left out."""
    return size_of(value) + sys.getsizeof(key) + BOOKKEEPING + _PER_TAG * len(tags)


@final
class ByteBound:
    """The most bytes that a memory tier may hold, and what each entry counts for.

    Args:
        limit: the most, at least 1.
        weigher: called with key and value, without any lock; what an entry counts for. None estimates.

    Raises:
        TypeError: the limit is not an int, or the weigher not callable.
        ValueError: the limit is less than 1.
    """

    __slots__ = ("_weigher", "largest", "limit")

    def __init__(self, limit: int, weigher: Weigher | None) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise TypeError(f"max_bytes must be an int, not {limit!r} of type {type(limit).__name__}")
        if limit < 1:
            raise ValueError(f"max_bytes must be at least 1, not {limit}; None sets no limit")
        if weigher is not None and not callable(weigher):
            raise TypeError(f"weigher must be callable as f(key, value) -> int, not {weigher!r}")
        self.limit = limit
        #: What one entry may count for at the most.
        self.largest = -(-limit // LARGEST_SHARE)
        self._weigher = weigher

    def weigh(self, key: str, value: Any, tags: frozenset[str]) -> int:
        """What an entry counts for.

        Raises:
            TypeError: the user's weigher returned something else than an int.
            ValueError: it returned less than 0.
            Exception: whatever it raised.
        """
        if self._weigher is None:
            return entry_size(key, value, tags)
        weight = self._weigher(key, value)
        if isinstance(weight, bool) or not isinstance(weight, int):
            raise TypeError(
                f"weigher must return an int, not {weight!r} of type {type(weight).__name__}, for key {key!r}"
            )
        if weight < 0:
            raise ValueError(f"weigher must return 0 or more, not {weight}, for key {key!r}")
        return weight


_MOST_OBJECTS: Final = 200
_MOST_PER_CONTAINER: Final = 20
_DEEPEST: Final = 6
_CONTAINERS: Final[tuple[Any, ...]] = (list, tuple, set, frozenset, deque)

# Reached from many values, and not held because of any one of them.
_SHARED: Final = (type, ModuleType, FunctionType, BuiltinFunctionType, CodeType)


def size_of(value: object) -> int:
    """Bytes that the value takes, about. Never raises; an object that lies about its size counts 0."""
    return round(_size(value, set(), _DEEPEST))


def _size(value: object, seen: set[int], depth: int) -> float:
    if id(value) in seen or len(seen) >= _MOST_OBJECTS:
        return 0.0
    seen.add(id(value))
    try:
        size = float(sys.getsizeof(value))
    except Exception:  # noqa: BLE001  # a __sizeof__ of the user's may raise anything
        return 0.0
    if depth:
        children, count = _children(value)
        try:
            sampled = [_size(child, seen, depth - 1) for child in islice(children, _MOST_PER_CONTAINER)]
        except RuntimeError:  # another thread changes the container meanwhile
            sampled = []
        if sampled:
            size += sum(sampled) * max(count / len(sampled), 1.0)
    return size


def _children(value: Any) -> tuple[Iterable[object], int]:
    """What the value holds, and how many that is, without running any code of the value's class."""
    # type(), because isinstance() also asks the value's __class__, which may be code; and the methods of
    # the builtin, because a subclass may have others.
    if issubclass(type(value), dict):
        return chain.from_iterable(dict.items(value)), 2 * dict.__len__(value)
    for base in _CONTAINERS:
        if issubclass(type(value), base):
            return base.__iter__(value), base.__len__(value)
    held = [child for child in gc.get_referents(value) if not issubclass(type(child), _SHARED)]
    return held, len(held)
