"""Values that can be read or awaited only once, and values with such a value in them.

A second reader would find a generator or an open file at its end. A cache refuses them, also in containers
and dataclasses.
"""

from __future__ import annotations

import sys
from collections import deque
from itertools import islice
from types import AsyncGeneratorType, CoroutineType

from cachekit.errors import SerializationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, Final


class OnceOnlyError(SerializationError):
    """A value can be read or awaited only once, or contains such a value."""


#: Types whose values hold nothing else.
_SCALARS: Final = frozenset({str, bytes, int, float, bool, type(None), complex, bytearray})
_CONTAINERS: Final[tuple[Any, ...]] = (dict, list, tuple, set, frozenset, deque)
#: Containers that are looked at in one value: those of a large value take too long.
_MOST: Final = 1_000
#: Types that were looked at and found to be neither. Emptied when full, because it keeps classes alive.
_unremarkable: set[type] = set()
_MOST_UNREMARKABLE: Final = 256


def refusal_within(value: object) -> str | None:
    """Return what the value is or contains, if that can be read or awaited only once."""
    if _is_once_only(type(value)):
        return f"is {refusal_of(value)}"
    found = _first_inside(value)
    return f"contains {refusal_of(found[0])}" if found else None


def refusal_of(value: object) -> str | None:
    """Return what the value is, and what to store instead, if it can be read or awaited only once."""
    kind = type(value)
    if not _is_once_only(kind):
        return None
    if isinstance(value, CoroutineType):
        value.close()  # an unclosed coroutine would warn that it was never awaited
    if hasattr(kind, "__await__"):
        return (
            f"a {kind.__name__}, which can be awaited only once; await it, and cache what it returns "
            f"(cachekit.aio awaits loaders, and cache_result an async def)"
        )
    remedy = "[x async for x in ...]" if isinstance(value, AsyncGeneratorType) else "list(...)"
    return f"a {kind.__name__}, which can be read only once; cache its contents instead, for example {remedy}"


def _is_once_only(kind: type) -> bool:
    """Return whether values of a type can be read or awaited only once."""
    if kind in _unremarkable:
        return False
    names = ("__next__", "__await__", "__anext__")
    if any(hasattr(kind, name) for name in names) and not _is_mock(kind):
        return True
    if len(_unremarkable) >= _MOST_UNREMARKABLE:
        _unremarkable.clear()
    _unremarkable.add(kind)
    return False


def _is_mock(kind: type) -> bool:
    # A mock has every method, so it looks like an iterator; tests cache mocks.
    mock = sys.modules.get("unittest.mock")
    return mock is not None and issubclass(kind, mock.NonCallableMock)


def _first_inside(value: object) -> list[object]:
    """Return the first once-only value inside, in a list; an empty list if there is none."""
    left = [value]
    seen: set[int] = set()
    for _ in range(_MOST):
        if not left:
            break
        container = left.pop()
        if id(container) in seen:
            continue
        seen.add(id(container))
        for items in _contents(container):
            kinds = set(map(type, items)) - _SCALARS
            if any(map(_is_once_only, kinds)):
                return [next(item for item in items if _is_once_only(type(item)))]
            if kinds:
                left += islice((item for item in items if type(item) not in _SCALARS), _MOST)
    return []


def _contents(value: Any) -> Iterator[list[object]]:
    # With the methods of the builtins: a subclass may override them with anything.
    kind = type(value)
    if issubclass(kind, dict):
        yield list(dict.values(value))
        return
    for base in _CONTAINERS:
        if issubclass(kind, base):
            yield list(base.__iter__(value))
            return
    if hasattr(kind, "__dataclass_fields__"):
        yield list(_fields(value))


def _fields(value: Any) -> Iterable[object]:
    attributes = getattr(value, "__dict__", None)
    if attributes is not None:
        return list(attributes.values())
    return [getattr(value, name, None) for name in type(value).__dataclass_fields__]
