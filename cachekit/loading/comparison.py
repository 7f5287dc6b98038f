"""Comparison of a cached value with a fresh one: the names of the parts that differ, never their values.

Objects are equal if `==` says so, and otherwise if they hold equal parts: attributes, and what pickle would
store of them. A value with the same parts is the same answer, also if its class defines no `==`.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import cached_property
from itertools import islice
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

from cachekit.model.display import is_plain_name, shows_keys
from cachekit.model.types import SCALARS
from cachekit.runtime.interrupts import is_no_fault_of_value, raise_interrupt

_MOST: Final = 3  # names
_DEEPEST: Final = 30  # nested containers; two values that differ only below are taken for equal
_MOST_MEMBERS: Final = 50  # of two sets, that `==` finds in one alone, and that are compared by their parts

#: The pairs that were compared, by identity. It holds them, so that no other object gets their identity.
_Seen: TypeAlias = dict[tuple[int, int], tuple[Any, Any]]


def differing(cached: object, fresh: object) -> list[str]:
    """Return the names of the first parts that differ; an empty list if the values are equal.

    Two NaN are equal. Arrays and frames are compared by their contents, and so are objects whose class does
    not define `==`.

    Raises:
        Exception: what the `==` of an object raised.
    """
    return list(islice(_differing(cached, fresh, "", 0, {}), _MOST))


def _differing(one: Any, other: Any, where: str, depth: int, seen: _Seen) -> Iterator[str]:
    if one is other or depth > _DEEPEST:
        return
    kind = type(one)
    name = where or "the result"
    if kind is not type(other):
        if not _equal(one, other):
            yield f"the type of {name} ({kind.__name__}, now {type(other).__name__})"
        return
    if kind in SCALARS:
        if one != other and not (one != one and other != other):  # two NaN are equal
            yield name
        return
    pair = id(one), id(other)
    if pair in seen:  # a part of many parts is compared once, and one that contains itself ends
        return
    seen[pair] = one, other
    if issubclass(kind, (dict, MappingProxyType)):
        yield from _of_dicts(one, other, where, depth, seen)
    elif issubclass(kind, (list, tuple, deque)):
        if len(one) != len(other):
            yield f"the length of {name}"
        else:
            for index, (mine, theirs) in enumerate(zip(one, other, strict=True)):
                yield from _differing(mine, theirs, f"{where}[{index}]", depth + 1, seen)
    elif issubclass(kind, (set, frozenset)):
        if one != other and not _same_members(one - other, other - one):
            yield name
    elif _is_of_pandas(one):
        yield from _of_frames(one, other, where, depth, seen)
    elif hasattr(one, "dtype") and hasattr(one, "shape"):
        yield from _of_arrays(one, other, where, depth, seen)
    elif not _equal(one, other):
        yield from _of_objects(one, other, where, depth, seen)


def _of_dicts(
    one: Mapping[Any, Any], other: Mapping[Any, Any], where: str, depth: int, seen: _Seen
) -> Iterator[str]:
    if one.keys() != other.keys():
        gone = [key for key in one if key not in other] + [key for key in other if key not in one]
        yield f"the key {where}{_shown(gone[0])}" if gone else f"the keys of {where or 'the result'}"
    elif isinstance(one, OrderedDict) and list(one) != list(other):
        yield f"the order of {where or 'the result'}"
    for key, value in one.items():
        if key in other:
            yield from _differing(value, other[key], f"{where}{_shown(key)}", depth + 1, seen)


def _shown(key: object) -> str:
    # A key that looks like the name of a field; any other one may be data.
    return f"[{key!r}]" if is_plain_name(key) or shows_keys() else "[...]"


def _same_members(mine: AbstractSet[Any], theirs: AbstractSet[Any]) -> bool:
    # Members without an order and without an equal one, such as NaN or an object whose class has no `==`.
    if len(mine) != len(theirs) or len(mine) > _MOST_MEMBERS:
        return False
    left = list(theirs)
    for member in mine:
        found = next((at for at, other in enumerate(left) if not differing(member, other)), None)
        if found is None:
            return False
        del left[found]
    return True


def _is_of_pandas(value: object) -> bool:
    library = type(value).__module__.partition(".")[0]
    return library in {"pandas", "polars", "pyarrow"} and callable(getattr(value, "equals", None))


def _of_frames(one: Any, other: Any, where: str, depth: int, seen: _Seen) -> Iterator[str]:
    name = where or "the result"
    if _labels(one) != _labels(other):
        yield name
        return
    try:
        if one.equals(other):
            return
    except ValueError as error:
        raise_interrupt(error)  # else of an array in a cell: then the cells are compared
    index: Any = getattr(one, "index", None)
    columns: Any = one.columns if hasattr(type(one), "columns") else None
    if hasattr(index, "equals") and not index.equals(other.index):
        yield name
    elif hasattr(columns, "equals") and hasattr(one, "iloc"):
        if not columns.equals(other.columns):
            yield f"the columns of {name}"
            return
        for at, column in enumerate(columns):
            mine, theirs = one.iloc[:, at], other.iloc[:, at]
            yield from _differing(mine, theirs, f"{where}{_shown(column)}", depth + 1, seen)
    elif _holds_objects(one) and _holds_objects(other):
        yield from _differing(one.tolist(), other.tolist(), where, depth + 1, seen)
    else:
        yield name


def _holds_objects(value: Any) -> bool:
    return getattr(getattr(value, "dtype", None), "kind", None) == "O" and hasattr(value, "tolist")


def _labels(value: Any) -> list[list[Any]]:
    """Return the names of a series, of an index, and of those of a frame, which `equals` does not compare."""
    # Of the classes: a column, or a label of a series, is an attribute of the object.
    kind = type(value)
    if hasattr(kind, "columns"):
        return [_names(getattr(value, "index", None)), _names(value.columns)]
    if hasattr(kind, "index"):
        return [[getattr(value, "name", None)], _names(value.index)]
    return [[getattr(value, "name", None)], _names(value)]


def _names(axis: object) -> list[Any]:
    return list(getattr(axis, "names", ()))


def _of_arrays(one: Any, other: Any, where: str, depth: int, seen: _Seen) -> Iterator[str]:
    name = where or "the result"
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        yield name
    elif hasattr(one, "filled") and hasattr(one, "mask"):  # masked: what is below the mask is no content
        if bool((one.mask != other.mask).any()):
            yield name
        else:
            yield from _of_arrays(one.filled(0), other.filled(0), where, depth, seen)
    elif getattr(one.dtype, "names", None):
        for field in one.dtype.names:
            yield from _of_arrays(one[field], other[field], f"{where}{_shown(field)}", depth, seen)
    elif getattr(one.dtype, "hasobject", False):
        yield from _differing(one.tolist(), other.tolist(), where, depth + 1, seen)
    else:
        same: Any = (one == other) | ((one != one) & (other != other))  # two NaN are equal
        if not bool(same.all()):
            yield name


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except ValueError as error:
        raise_interrupt(error)
        return False  # of an array inside: then the parts are compared


class _Parts(NamedTuple):
    """What an object holds."""

    named: dict[str, Any]  #: attributes
    rest: tuple[Any, ...]  #: what pickle would store besides, such as the arguments of an exception

    @property
    def are_none(self) -> bool:
        """Whether nothing is known of the object."""
        return not self.named and not self.rest


def _of_objects(one: Any, other: Any, where: str, depth: int, seen: _Seen) -> Iterator[str]:
    mine, theirs = _parts(one), _parts(other)
    name = where or "the result"
    if mine.named.keys() != theirs.named.keys():
        yield name
    elif mine.are_none and theirs.are_none:
        # Without a `==` of its own, a lock is like another one. Otherwise that `==` decides.
        equals: object = type(one).__eq__
        if equals is not object.__eq__:
            yield name
    else:
        found = False
        for part, value in mine.named.items():
            for differs in _differing(value, theirs.named[part], f"{where}.{part}", depth + 1, seen):
                found = True
                yield differs
        if not found and next(_differing(mine.rest, theirs.rest, "", depth + 1, seen), None) is not None:
            yield name


def _parts(value: object) -> _Parts:
    kind = type(value)
    named = dict(getattr(value, "__dict__", {}))
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in {"__dict__", "__weakref__"} and hasattr(value, name):
                named[name] = getattr(value, name)
    for name in list(named):  # whether it was computed depends on who has read it
        if isinstance(getattr(kind, name, None), cached_property):
            del named[name]
    try:
        reduced = value.__reduce_ex__(pickle.DEFAULT_PROTOCOL)
    except Exception as error:  # whatever a class raises as it is pickled
        if is_no_fault_of_value(error):
            raise
        return _Parts(named, ())
    if not isinstance(reduced, tuple):
        return _Parts(named, (reduced,))
    make, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
    if isinstance(state, dict):
        # Attributes have the names that users know, and are there for nearly all classes.
        named, state = named or state, None
    elif isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
        # Of a class with slots. They have the names of private ones, which no attribute has.
        named, state = state[1] | named, None
    return _Parts(named, (make, arguments, state, list(items or ()), list(pairs or ())))
