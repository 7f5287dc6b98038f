"""A bounded estimate of how much memory a value takes.

`sys.getsizeof` of the value and of what its containers hold, to a depth and a number of objects that
keep the cost of one estimate under about 100 microseconds. Objects reached twice count once. Beyond
the bound the rest of a container is taken to be like the part that was seen.
"""

from __future__ import annotations

import gc
import sys
from collections import deque
from collections.abc import Iterable
from itertools import chain, islice
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, Final

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
