"""Comparison of a cached value with a fresh one: the names of the parts that differ, never their values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

_MOST: Final = 3  # names
_DEEPEST: Final = 30  # nested containers; two values that differ only below are taken for equal


def differing(cached: object, fresh: object) -> list[str]:
    """Return the names of the first parts that differ; an empty list if the values are equal.

    Two NaN are equal. Arrays and frames are compared by their contents, and so are objects whose class does
    not define `==`.

    Raises:
        Exception: what the `==` of an object raised.
    """
    return list(islice(_differing(cached, fresh, "", 0), _MOST))


def _differing(one: Any, other: Any, where: str, depth: int) -> Iterator[str]:
    if one is other or depth > _DEEPEST:
        return
    kind = type(one)
    name = where or "the result"
    if kind is not type(other):
        if not _equal(one, other):
            yield f"the type of {name} ({kind.__name__}, now {type(other).__name__})"
    elif issubclass(kind, dict):
        yield from _of_dicts(one, other, where, depth)
    elif issubclass(kind, (list, tuple)):
        if len(one) != len(other):
            yield f"the length of {name}"
        else:
            for index, (mine, theirs) in enumerate(zip(one, other, strict=True)):
                yield from _differing(mine, theirs, f"{where}[{index}]", depth + 1)
    elif not _equal(one, other):
        state, now = _state(one), _state(other)
        if state is None or now is None or state.keys() != now.keys():
            yield name
        else:
            for part, value in state.items():
                yield from _differing(value, now[part], f"{where}.{part}", depth + 1)


def _of_dicts(one: Mapping[Any, Any], other: Mapping[Any, Any], where: str, depth: int) -> Iterator[str]:
    if one.keys() != other.keys():
        gone = [key for key in one if key not in other] + [key for key in other if key not in one]
        yield f"the key {where}{_shown(gone[0])}" if gone else f"the keys of {where or 'the result'}"
    for key, value in one.items():
        if key in other:
            yield from _differing(value, other[key], f"{where}{_shown(key)}", depth + 1)


def _shown(key: object) -> str:
    # A key that looks like the name of a field; any other one may be data.
    return f"[{key!r}]" if isinstance(key, str) and key.isidentifier() and len(key) <= 40 else "[...]"


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, (float, complex)) and one != one and other != other:
        return True
    compare = getattr(one, "equals", None)  # of a frame or a series
    if callable(compare) and type(one).__module__.partition(".")[0] in {"pandas", "polars", "pyarrow"}:
        return bool(compare(other))
    if hasattr(one, "dtype") and hasattr(one, "shape"):
        if (one.dtype, one.shape) != (getattr(other, "dtype", None), getattr(other, "shape", None)):
            return False
        same: Any = (one == other) | ((one != one) & (other != other))  # two NaN are equal
        return bool(same.all())
    try:
        return bool(one == other)
    except ValueError:  # of an array inside: then the parts are compared
        return False


def _state(value: object) -> dict[str, Any] | None:
    # The attributes of an object; None for one without any, such as a number.
    state = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in {"__dict__", "__weakref__"} and hasattr(value, name):
                state[name] = getattr(value, name)
    # A class without attributes and without a `==` of its own has no content either.
    return state if state or type(value).__eq__ is object.__eq__ else None
