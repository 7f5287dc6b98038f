"""Which values a cache may store: none that can be read or awaited only once, or that contains such a one.

A second reader would find a generator or an open file at its end. A cache refuses them, also in containers
and in the attributes of objects.
"""

from __future__ import annotations

import sys
from types import AsyncGeneratorType, CoroutineType

from cachekit.errors import OnceOnlyError
from cachekit.model.display import shown_key
from cachekit.model.types import MISSING, SCALARS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final


# Types whose values hold no other value and can be read more than once: one lookup avoids the full check.
PLAIN_TYPES: Final = frozenset({str, bytes, int, float, bool, type(None)})
#: Types whose values can be read more than once, apart from what is in them. Encoding a value looks at that.
READABLE_TYPES: Final = PLAIN_TYPES | {dict, list, tuple, set, frozenset}

#: Objects that are looked into in one value: more take longer than a tenth of a second.
_MOST: Final = 1_000_000
_FLAT: Final = frozenset({list, tuple, set, frozenset})
#: Types that were looked at and found to be neither. Emptied when full, because it keeps classes alive.
_unremarkable: set[type] = set()
_MOST_UNREMARKABLE: Final = 256
_FEW: Final = 64  # items from which the general way is faster


def refuse_unstorable(value: object, key: str | None = None) -> None:
    """Raise if the value, or one inside it, can be used only once: the second reader would find it empty.

    Raises:
        SerializationError: a value is awaitable, or an iterator, such as a generator or an open file.
        ValueError: the value is MISSING.
    """
    if value is MISSING:
        raise ValueError(
            f"{_value_of(key)} is MISSING, which stands for no value; store None, or delete the key"
        )
    refusal = refusal_within(value)
    if refusal is not None:
        raise OnceOnlyError(f"{_value_of(key)} {refusal}")


def _value_of(key: str | None) -> str:
    return "the value" if key is None else f"the value of {shown_key(key)}"


def refusal_within(value: object) -> str | None:
    """Return what the value is or contains, if that can be read or awaited only once."""
    kind = type(value)
    if kind not in _unremarkable and _is_once_only(kind):
        return f"is {refusal_of(value)}"
    # Most values are builtin containers of scalars, or a few of such containers.
    items: Any = value
    if kind in _FLAT or (kind is dict and SCALARS.issuperset(map(type, items))):
        members = items.values() if kind is dict else items
        if SCALARS.issuperset(map(type, members)):
            return None
        if len(items) <= _FEW and all(map(_is_flat, [one for one in members if type(one) not in SCALARS])):
            return None
    from cachekit.model.contents import contents  # few values need it

    for found in contents(value, _MOST):
        once = {other for other in set(map(type, found)) - SCALARS if _is_once_only(other)}
        if once:
            return f"contains {refusal_of(next(one for one in found if type(one) in once))}"
    return None


def _is_flat(value: object) -> bool:
    """Return whether the value is a builtin container of scalars."""
    items: Any = value
    kind = type(value)
    if kind is dict:
        return SCALARS.issuperset(map(type, items.values())) and SCALARS.issuperset(map(type, items))
    return kind in _FLAT and SCALARS.issuperset(map(type, items))


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
