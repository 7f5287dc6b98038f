"""Whether the key of a call takes long to make, so that a coroutine makes it off the event loop."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

#: Plain items, or kilobytes, from which on a key takes about a millisecond.
_LARGE: Final = 2000

_SEQUENCES: Final = frozenset({list, tuple, set, frozenset, deque})
_MAPPINGS: Final = frozenset({dict, OrderedDict, defaultdict})
_TEXTS: Final = frozenset({str, bytes, bytearray})
_SMALL: Final = frozenset({int, float, bool, complex, type(None)})
_VIEWS: Final = frozenset({"dict_keys", "dict_values", "dict_items", "mappingproxy"})


def is_large(values: Iterable[Any]) -> bool:
    """Return whether the values hold so much that the loop would notice; look at no more than that."""
    left = _LARGE
    found = list(values)
    while found:
        value = found.pop()
        kind = type(value)
        if kind in _SMALL:
            continue
        if kind in _TEXTS:
            left -= len(value) >> 10
        elif kind in _SEQUENCES or kind in _MAPPINGS:
            left -= len(value)
            if left > 0:
                found.extend(value)
                if kind in _MAPPINGS:
                    found.extend(value.values())
        else:
            left -= 10 + (_bytes_of(value, kind) >> 10)  # an object costs as much as several plain items
            if kind.__name__ in _VIEWS:
                left -= len(value)
            try:
                held = getattr(value, "__dict__", None)
            except (
                ReferenceError,
                RuntimeError,
                TypeError,
                ValueError,
            ):  # a proxy that stands for nothing now; the key says so
                held = None
            if type(held) is dict and left > 0:
                found.extend(held.values())
        if left <= 0:
            return True
    return False


def _bytes_of(value: Any, kind: type) -> int:
    # Arrays say their size; an attribute of another object may be anything.
    size = getattr(value, "nbytes", 0) if kind.__module__ in {"numpy", "builtins"} else 0
    if kind.__module__ == "array":
        size = len(value) * value.itemsize
    return size if isinstance(size, int) else 0
