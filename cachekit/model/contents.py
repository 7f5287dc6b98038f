"""What a value holds: the objects inside it, as far as pickling it would go, without running its code."""

from __future__ import annotations

import gc
import sys
from collections import OrderedDict, defaultdict, deque
from functools import partial
from types import MappingProxyType, SimpleNamespace

from cachekit.model.types import SCALARS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Final

_CONTAINERS: Final[tuple[Any, ...]] = (
    dict, list, tuple, set, frozenset, deque, OrderedDict, defaultdict, MappingProxyType, SimpleNamespace,
    partial, BaseException, type({}.keys()), type({}.values()), type({}.items()),
)  # fmt: skip
#: What the makers of classes leave in them: dataclasses, attrs, pydantic, msgspec.
_OF_DATA: Final = ("__dataclass_fields__", "__attrs_attrs__", "__pydantic_fields__", "__struct_fields__")
#: Objects of these packages serve a program, and are no answer.
_SERVING: Final = frozenset(
    {
        "logging", "threading", "asyncio", "concurrent", "multiprocessing", "queue", "weakref", "contextvars",
        "unittest",
    }
)  # fmt: skip

#: So many objects that are no data, each in an attribute of the one before, are looked into. Behind more of
#: them are a program's services rather than its answers.
_LONGEST_CHAIN: Final = 4

_CLOSED: Final = 0
_OPEN: Final = 1
_OBJECT: Final = 2
_ARRAY: Final = 3
# Emptied when full, because it keeps classes alive.
_ways: dict[type, int] = {}
_MOST_WAYS: Final = 256


def contents(value: object, most: int = sys.maxsize) -> Iterator[list[object]]:
    """Yield lists of the objects in a value, which may hold one several times.

    Containers and data classes are looked into at any depth. Other objects are looked into up to a depth of
    four of them. An object whose class has a `__getstate__` or `__reduce__` of its own is not looked into,
    because only that method knows what a copy would hold.

    Args:
        value: Any object.
        most: Look into so many objects at most.
    """
    seen = {id(value)}
    first = _way_of(type(value))
    objects = [_items_of(value) if first == _ARRAY else value] if first else []
    for _ in range(_LONGEST_CHAIN):
        level, objects = objects, []
        while level and most > 0:
            found = gc.get_referents(*level)
            yield found
            most -= len(level)
            level = []
            for one in found:
                kind = type(one)
                if kind in SCALARS:
                    continue
                way = _ways.get(kind)
                if way is None:
                    way = _way_of(kind)
                if way and id(one) not in seen:
                    seen.add(id(one))
                    if way == _ARRAY:
                        level.append(_items_of(one))
                    else:
                        (level if way == _OPEN else objects).append(one)


def kinds_within(value: object) -> list[type]:
    """Return the type of a value and the types of what it holds."""
    kinds = {id(type(value)): type(value)}
    for found in contents(value):
        kinds |= {id(kind): kind for kind in map(type, found)}
    return list(kinds.values())


def _way_of(kind: type) -> int:
    if len(_ways) >= _MOST_WAYS:
        _ways.clear()
    if kind.__name__ == "ndarray" and kind.__module__ == "numpy":
        way = _ARRAY
    else:
        way = _OPEN if _is_data(kind) else _OBJECT if _is_object(kind) else _CLOSED
    _ways[kind] = way
    return way


def _items_of(array: Any) -> list[object]:
    """Return the objects in an array of numpy, which does not tell the garbage collector of them."""
    return array.ravel().tolist() if array.dtype.hasobject else []


def _is_data(kind: type) -> bool:
    return issubclass(kind, _CONTAINERS) or any(hasattr(kind, name) for name in _OF_DATA)


def _is_object(kind: type) -> bool:
    """Return whether a class is made in Python, and does not say itself what its objects hold."""
    return (
        bool(kind.__flags__ & 1 << 9)
        and not issubclass(kind, type)
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and getattr(kind, "__getstate__", None) is getattr(object, "__getstate__", None)
        and str(kind.__module__).partition(".")[0] not in _SERVING
    )
