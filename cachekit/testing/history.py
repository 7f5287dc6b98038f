"""A checker of histories: could one correct cache have returned all that several processes or threads read?

Record an `Operation` for every read and write, with the times at which it began and ended. `violations` then
names the keys whose history no order of the operations explains that respects real time: an operation that
ended before another began comes first. That is linearizability of a register (Herlihy and Wing, 1990). If
all written values differ, it can be decided per key and by sorting, as in Gibbons and Korach, "Testing
Shared Memories" (1997), section 4. All operations on one value form a zone, from the first end to the last
begin among them. In some zones the value must be present the whole time. An order exists if no two of these
overlap, and none of the other zones lies within one of these.

A write may say which value it replaced, as `update` of a cache does. Then nothing came in between: the two
values, and what they were made from, count as one that was present the whole time.

A read that found nothing is explained by an eviction, unless `evicts` is False.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from itertools import accumulate, pairwise
from math import inf
from typing import NamedTuple


class Operation(NamedTuple):
    """One read or write of one key, as its caller saw it.

    A read has the `value` found, or None. A write of None is a delete. A write whose caller died before it
    ended has an `end` of infinity. A write that depends on the value it replaces has that in `instead_of`.
    """

    key: str
    is_write: bool
    value: bytes | None
    begin: float
    end: float
    instead_of: bytes | None = None


def violations(history: Iterable[Operation], *, evicts: bool = True) -> list[str]:
    """Return what cannot have happened in a correct cache, as sentences; empty if all is explained.

    Args:
        history: The operations in any order. All values written to one key must differ.
        evicts: Whether a read may find nothing although a value was written (default True).

    Raises:
        ValueError: two writes of one key have the same value, or an operation ended before it began.
    """
    by_key: dict[str, list[Operation]] = {}
    for one in history:
        if one.end < one.begin:
            raise ValueError(f"{one} ended before it began")
        by_key.setdefault(one.key, []).append(one)
    found = []
    for key in sorted(by_key):
        found += _of_values(key, by_key[key])
        found += _of_updates(key, by_key[key])
        if not evicts:
            found += _of_misses(key, by_key[key])
    return found


def _of_values(key: str, history: list[Operation]) -> list[str]:
    writes: dict[bytes, Operation] = {}
    for one in history:
        if one.is_write and one.value is not None:
            if one.value in writes:
                raise ValueError(f"{one.value!r} was written to {key!r} twice")
            writes[one.value] = one
    found = []
    # Zones: first end and last begin of all operations on one value.
    zones: dict[bytes, tuple[float, float]] = {value: (one.end, one.begin) for value, one in writes.items()}
    for one in history:
        if one.is_write or one.value is None:
            continue
        if one.value not in writes:
            found.append(f"{key!r}: {one.value!r} was read and never written")
        elif one.end < writes[one.value].begin:
            found.append(f"{key!r}: {one.value!r} was read before it was written")
        else:
            first, last = zones[one.value]
            zones[one.value] = min(first, one.end), max(last, one.begin)
    held = sorted((first, last, value) for value, (first, last) in zones.items() if first < last)
    for (_, last, value), (first, _, other) in pairwise(held):
        if first < last:
            found.append(f"{key!r}: {other!r} was present while {value!r} must have been")
    # What must have been present only at one moment of a span: other values, and deletes.
    brief = [(last, first, repr(value)) for value, (first, last) in zones.items() if first >= last]
    brief += [(one.begin, one.end, "a delete") for one in history if one.is_write and one.value is None]
    brief.sort()
    at = 0
    for begin, end, what in brief:
        while at < len(held) and held[at][1] <= begin:
            at += 1
        if at < len(held) and held[at][0] < begin and end < held[at][1]:
            found.append(f"{key!r}: {held[at][2]!r} was read although {what} had come after it")
    return found


def _of_updates(key: str, history: list[Operation]) -> list[str]:
    replaced: dict[bytes, Operation] = {}
    begins = {one.value: one.begin for one in history if one.is_write}
    found = []
    for one in history:
        if not one.is_write or one.value is None or one.instead_of is None:
            continue
        if one.end < begins.get(one.instead_of, -inf):
            found.append(f"{key!r}: {one.instead_of!r} was replaced before it was written")
        first = replaced.setdefault(one.instead_of, one)
        if first is not one:
            found.append(f"{key!r}: {one.instead_of!r} was replaced by {first.value!r} and by {one.value!r}")
    if found or not replaced:
        return found
    before = {one.value: one.instead_of for one in replaced.values()}
    firsts: dict[bytes | None, bytes | None] = {}
    chained = []
    for one in history:
        first_value = _first(one.value, before, firsts)
        # A later value of a chain only tells that the chain was there.
        is_write = one.is_write and one.value == first_value
        chained.append(one._replace(value=first_value, is_write=is_write))
    return _of_values(key, chained)


def _first(
    value: bytes | None,
    before: Mapping[bytes | None, bytes | None],
    firsts: dict[bytes | None, bytes | None],
) -> bytes | None:
    """Return the first value of the chain of updates that a value belongs to; `firsts` are those known."""
    chain = []
    while value in before and value not in firsts:
        chain.append(value)
        firsts[value] = value  # ends a circle, which no history of distinct values has
        value = before[value]
    found = firsts.get(value, value)
    firsts.update(dict.fromkeys(chain, found))
    return found


def _of_misses(key: str, history: list[Operation]) -> list[str]:
    writes = sorted((one.end, one.begin) for one in history if one.is_write and one.value is not None)
    deletes = sorted((one.begin, one.end) for one in history if one.is_write and one.value is None)
    # The latest begin of the writes that ended first, the latest end of the deletes that began first.
    latest_begin = list(accumulate((begin for _, begin in writes), max))
    latest_end = list(accumulate((end for _, end in deletes), max))
    found = []
    for miss in history:
        if miss.is_write or miss.value is not None:
            continue
        before = bisect_left(writes, (miss.begin, -inf))
        if not before:
            continue
        # It must come after some delete, which comes after the last of those writes.
        begun = bisect_right(deletes, (miss.end, inf))
        if not begun or latest_end[begun - 1] < latest_begin[before - 1]:
            found.append(f"{key!r}: nothing was found from {miss.begin} on, and nothing was deleted")
    return found
