"""The text of long containers of plain values, made by a few calls in C instead of one per item.

`packed` handles sequences of str, int, float, bool, None and bytes, and rows of them (coordinates, records,
matrices), which it takes column by column. The text starts with "=", as the text of no single value does.
It has the number of items and a digest of each part, so it is short.

The calls in C hold the interpreter, and a key may be made beside an event loop. So they take a slice at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain, repeat
from math import nan
from operator import is_

from cachekit.decorator.code_version import int_text, to_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

_WIDEST: Final = 64  # columns; wider rows are packed as one sequence
_SLICE: Final = 50_000  # items in one call


def packed(values: Sequence[Any], above: tuple[Sequence[Any], ...] = ()) -> str | None:
    """Return the text of a sequence of plain values, or of rows of them; None if it holds other values.

    Args:
        values: A list or tuple.
        above: The sequences of rows that the values are taken from.
    """
    kinds = _kinds(values)
    if len(kinds) == 1:
        (kind,) = kinds
        pack = _SCALARS.get(kind)
        if pack is not None:
            return f"={len(values)}{pack(values)}"
        rows = _ROWS.get(kind)
        if rows is None or not set(map(id, chain(*above))).isdisjoint(map(id, values)):
            return None  # the caller finds that it contains itself
        return rows(values, (*above, values))
    if not kinds <= _SCALARS.keys():
        return None
    if type(None) in kinds:  # an optional number or text: where None is, then the others
        there = packed([value for value in values if value is not None])
        return f"=o{_digest(bytes(map(is_, part, repeat(None))) for part in _slices(values))}{there}"
    # The type of each item, then the items of each type.
    items: dict[type, list[Any]] = {kind: [] for kind in sorted(kinds, key=_CODES.__getitem__)}
    append = {kind: found.append for kind, found in items.items()}
    for value in values:
        append[type(value)](value)
    codes = _digest(bytes(map(_CODES.__getitem__, map(type, part))) for part in _slices(values))
    return f"=m{len(values)}:{codes}{''.join(_SCALARS[kind](found) for kind, found in items.items())}"


def in_order(values: Collection[Any]) -> list[Any] | None:
    """Return the members of a set, or the keys of a dict, sorted; None if their types have no order."""
    members = list(values)
    kinds = _kinds(members)
    if kinds == {tuple}:
        columns = _columns(members)
        if columns is None or not all(_has_order(column, _kinds(column)) for column in columns):
            return None
    elif not _has_order(members, kinds):
        return None
    members.sort()
    return members


def _has_order(values: Sequence[Any], kinds: set[type]) -> bool:
    # A NaN has no place in an order.
    return kinds in ({str}, {int}) or (kinds == {float} and not _may_hold_nan(values))


def _may_hold_nan(values: Sequence[float]) -> bool:
    total = 0.0
    for part in _slices(values):
        total += sum(part)
    return total != total  # also if both infinities are among them


def _slices(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    if len(values) <= _SLICE:
        yield values
    else:
        for start in range(0, len(values), _SLICE):
            yield values[start : start + _SLICE]


def _kinds(values: Sequence[Any]) -> set[type]:
    found: set[type] = set()
    for part in _slices(values):
        found.update(map(type, part))
    return found


def _digest(parts: Iterable[bytes]) -> str:
    import hashlib

    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _numbers(code: str, parts: Iterable[Iterable[Any]]) -> str:
    from array import array

    def content() -> Iterator[bytes]:
        for part in parts:
            numbers = array(code, part)
            if sys.byteorder == "big":
                numbers.byteswap()
            yield numbers.tobytes()

    return _digest(content())


def _lengths(values: Sequence[Any]) -> str:
    return _numbers("Q", (map(len, part) for part in _slices(values)))


def _floats(values: Sequence[float]) -> str:
    parts: Iterable[Sequence[float]] = _slices(values)
    if _may_hold_nan(values):  # all NaNs are one, whatever their bits
        parts = ([value if value == value else nan for value in part] for part in parts)
    return f"f{_numbers('d', parts)}"


def _ints(values: Sequence[int]) -> str:
    try:
        return f"i{_numbers('q', _slices(values))}"
    except OverflowError:
        return f"I{_digest(f'{int_text(value)},'.encode() for value in values)}"


def _strings(values: Sequence[str]) -> str:
    return f"s{_lengths(values)}{_digest(to_bytes(''.join(part)) for part in _slices(values))}"


def _bytes(values: Sequence[bytes]) -> str:
    return f"b{_lengths(values)}{_digest(b''.join(part) for part in _slices(values))}"


_SCALARS: Final[dict[type, Callable[[Any], str]]] = {
    float: _floats,
    int: _ints,
    str: _strings,
    bytes: _bytes,
    bool: lambda values: f"t{_digest(bytes(part) for part in _slices(values))}",
    type(None): lambda _: "n",
}
_CODES: Final = {kind: code for code, kind in enumerate(_SCALARS)}


def _columns(rows: Sequence[Sequence[Any]]) -> list[list[Any]] | None:
    # The columns of rows of one width.
    width = len(rows[0])
    if not 0 < width <= _WIDEST or any(set(map(len, part)) != {width} for part in _slices(rows)):
        return None
    items = _chained(rows)
    return [items[at::width] for at in range(width)]


def _chained(rows: Sequence[Any]) -> list[Any]:
    items: list[Any] = []
    for part in _slices(rows):
        items.extend(chain.from_iterable(part))
    return items


def _sequences(rows: Sequence[Sequence[Any]], above: tuple[Sequence[Any], ...]) -> str | None:
    bracket = "[" if type(rows[0]) is list else "("
    columns = _columns(rows)
    if columns is None:
        items = packed(_chained(rows), above)
        return None if items is None else f"={bracket}{len(rows)}:{_lengths(rows)}{items}"
    texts = [packed(column, above) for column in columns]
    return None if None in texts else f"={bracket}{len(rows)}x{len(texts)}:{';'.join(filter(None, texts))}"


def _records(rows: Sequence[dict[Any, Any]], above: tuple[Sequence[Any], ...]) -> str | None:
    names = rows[0].keys()
    if len(names) > _WIDEST or _kinds(_chained(rows)) != {str}:
        return None
    if any(row.keys() != names for row in rows):
        return None
    ordered = sorted(names)
    texts = [packed([row[name] for row in rows], above) for name in ordered]
    if None in texts:
        return None
    return f"=dict{len(rows)}x{len(texts)}:{packed(ordered)}{';'.join(filter(None, texts))}"


_ROWS: Final[dict[type, Callable[[Any, tuple[Sequence[Any], ...]], str | None]]] = {
    list: _sequences,
    tuple: _sequences,
    dict: _records,
}
