"""Deep comparison that sees what `==` does not: types, signs of zero, NaN, order of dicts."""

from __future__ import annotations

import struct
from collections import OrderedDict, defaultdict, deque
from typing import Any


def same(one: Any, other: Any) -> bool:
    """Whether two values are of the same type and equal, and so are all their parts."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return struct.pack(">d", one) == struct.pack(">d", other)
    if isinstance(one, complex):
        return same(one.real, other.real) and same(one.imag, other.imag)
    if isinstance(one, (dict, OrderedDict)):
        if isinstance(one, defaultdict) and one.default_factory is not other.default_factory:
            return False
        return _sequences(list(one.items()), list(other.items()))
    if isinstance(one, deque) and one.maxlen != other.maxlen:
        return False
    if isinstance(one, (list, tuple, deque)):
        return _sequences(list(one), list(other))
    if isinstance(one, (set, frozenset)):
        return len(one) == len(other) and all(any(same(a, b) for b in other) for a in one)
    if hasattr(one, "tzinfo"):
        return (
            one.replace(tzinfo=None) == other.replace(tzinfo=None)
            and one.fold == other.fold
            and type(one.tzinfo) is type(other.tzinfo)
            and repr(one.tzinfo) == repr(other.tzinfo)
        )
    if type(one).__name__ == "Decimal":
        return str(one) == str(other)
    return bool(one == other)


def _sequences(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
