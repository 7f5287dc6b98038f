"""Bounds what the keys of one dict or set may cost to be compared and placed, where nothing is trusted.

This module promises two bounds for each container that it watches. No more than `MOST_ALIKE` keys share a
hash, besides floats and integers of 64 bits. And placing its keys passes few slots that are taken.

Python compares a key with each one of the same hash, so n keys that share theirs take n squared steps, in
one call that no signal interrupts. The hashes of texts, bytes and dates are random in each process. Those
of numbers, tuples and what consists of them can be computed by the writer of the stored bytes.

Floats and integers of 64 bits need no count: about 200 of them share a hash at the most. Keys with
different hashes can still take n squared steps: each walks over the slots that the others took, where all
walks meet. For `MOST_NUMBERS` keys that costs about 1 microsecond a byte. Beyond, it is prevented.

How it works
------------
The unpickler in C fills dicts and sets by itself. So each opcode that hashes is replaced by one that gives
the container and its new items to the unpickler's `persistent_load`, which looks at the hashes and fills the
container. No pickle that passes inspection has a persistent id of its own.

Hashes are counted under their decimal text, because a dict of the hashes themselves could be attacked in the
same way. Of a container with many numbers the table is simulated: which slots are taken, without the keys.
"""

from __future__ import annotations

import datetime
import itertools
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final

from cachekit.errors import UnreadableError

#: How many keys of one container may have one hash. Those that are slow to compare count as several.
MOST_ALIKE: Final = 64
#: As how many a key counts whose comparison is no single step, as that of a Decimal with an integer is.
COSTLY: Final = 8
#: How many keys with computable hashes a container may have before its table is simulated.
MOST_NUMBERS: Final = 4096

# Hashed by a secret of the process, or so few that they cannot share a hash.
_RANDOM: Final = frozenset({str, bytes, bool, type(None), datetime.date})
# With these, no more than about 200 share a hash. The same holds for integers below `_LONG_INTEGER`.
_FEW: Final = _RANDOM | {float}
_LONG_INTEGER: Final = 1 << 64
# Compared in a single step.
_CHEAP: Final = frozenset({int, float, complex}) | _RANDOM

# How many taken slots a key may pass on average. Multiples of powers of two pass up to 40.
_MOST_PASSED: Final = 64

#: Keys that a pickler hands to its reader together.
_BATCH: Final = 1000
_HASHING: Final = frozenset({dict, set, frozenset})
_CONTAINERS: Final = _HASHING | {list, tuple}
_ITEMS: Final = frozenset({str, bytes, bool, type(None), int, float})

# Opcodes that hash, and what replaces each: the items become a tuple, BINPERSID calls with it.
_REPLACED: Final[Mapping[int, bytes]] = {
    0x73: b"\x87Q",  # SETITEM: TUPLE3
    0x75: b"t\x86Q",  # SETITEMS: TUPLE, TUPLE2
    0x90: b"t\x86\x85Q",  # ADDITEMS: the same and TUPLE1
    0x91: b"t\x85\x85Q",  # FROZENSET: TUPLE, TUPLE1 and TUPLE1
}
# Opcodes with a length and so many bytes, which no expression can count: how wide the length is.
_LONG: Final[Mapping[int, int]] = {0x58: 4, 0x42: 4, 0x8B: 4, 0x8D: 8, 0x8E: 8, 0x96: 8}
_FRAME: Final = 0x95
_STOP: Final = 0x2E


class _Table:
    """Simulates the slots of a dict's or set's table, and counts the taken ones that its keys pass.

    It follows Objects/dictobject.c and Objects/setobject.c of CPython.
    """

    __slots__ = ("_hashes", "_is_set", "_passed", "_room", "_slots")

    def __init__(self, kind: type) -> None:
        self._is_set = issubclass(kind, (set, frozenset))
        self._slots = bytearray(8)
        self._room = 5
        self._hashes = array("q")
        self._passed = 0

    def add(self, keys: Iterable[Any]) -> None:
        for key in keys:
            if len(self._hashes) >= self._room:
                self._grow()
            found = hash(key)
            self._hashes.append(found)
            self._place([found])

    def _grow(self) -> None:
        used = len(self._hashes)
        if self._is_set:
            size = 1 << (used * (2 if used > 50_000 else 4)).bit_length()
            self._room = size * 3 // 5
        else:
            size = 1 << (used * 3 - 1).bit_length()
            self._room = size * 2 // 3
        self._slots = bytearray(size)
        self._place(self._hashes)

    def _place(self, hashes: Iterable[int]) -> None:
        slots, mask = self._slots, len(self._slots) - 1
        most = _MOST_PASSED * (len(self._hashes) + MOST_NUMBERS)
        for one in hashes:
            slot, perturb = one & mask, one & 0xFFFFFFFFFFFFFFFF
            while slots[slot]:
                # A set looks at the nine slots behind, too. They lie side by side, and cost little.
                if self._is_set and slot + 9 <= mask:
                    free = slots.find(0, slot, slot + 10)
                    if free >= 0:
                        slot = free
                        break
                self._passed += 1
                if self._passed > most:
                    raise UnreadableError("the keys of a dict or set collide in its table", "damage")
                perturb >>= 5
                slot = (slot * 5 + perturb + 1) & mask
            slots[slot] = 1


class Keys:
    """Counts the keys of one dict or set, as far as they were added."""

    __slots__ = ("_alike", "_numbers", "_table")

    def __init__(self) -> None:
        self._alike: Counter[str] = Counter()
        self._numbers = 0
        self._table: _Table | None = None

    def add(self, keys: Sequence[Any], before: Iterable[Any], kind: type) -> None:
        """Count keys that are about to be added.

        Args:
            keys: the keys.
            before: those that the container has.
            kind: its type.

        Raises:
            UnreadableError: too many of them share a hash, or collide in the table.
            TypeError: one cannot be hashed.
        """
        kinds = set(map(type, keys))
        if not kinds <= _RANDOM:
            count = len(keys)
            self._numbers += count
            if not kinds <= _FEW:
                self._count(keys, kinds)
        if self._table is None:
            if self._numbers <= MOST_NUMBERS:
                return
            self._table = _Table(kind)
            self._table.add(before)
        self._table.add(keys)

    def _count(self, keys: Sequence[Any], kinds: set[type]) -> None:
        if kinds == {int} and max(keys) < _LONG_INTEGER and min(keys) > -_LONG_INTEGER:
            return
        if int in kinds or kinds & _FEW:
            keys = [key for key in keys if type(key) not in _FEW and not _is_short(key)]
            if not keys:
                return
        hashes = [*map(str, map(hash, keys))]
        alike = self._alike
        alike.update(hashes)
        if max(map(alike.__getitem__, hashes)) > MOST_ALIKE // COSTLY:
            for key, found in zip(keys, hashes, strict=True):
                if alike[found] > (MOST_ALIKE if _is_cheap(key) else MOST_ALIKE // COSTLY):
                    raise UnreadableError(
                        f"more than {MOST_ALIKE} keys of a dict or set share a hash", "damage"
                    )


def _is_short(key: Any) -> bool:
    return type(key) is int and -_LONG_INTEGER < key < _LONG_INTEGER


def _is_cheap(key: Any) -> bool:
    return type(key) in _CHEAP or (type(key) is tuple and _CHEAP.issuperset(map(type, key)))


def check_within(value: Any) -> None:
    """Check the dicts and sets in a plain value, as reading its pickle does, without building them again.

    Raises:
        UnreadableError: the keys of one of them collide.
    """
    walks, seen = [_containers_in((value,))], set()
    while walks:
        container = next(walks[-1], None)
        if container is None:
            walks.pop()
        elif id(container) not in seen:
            seen.add(id(container))
            if type(container) in _HASHING:
                _check_keys(container)
            walks.append(_containers_in(container))


def _containers_in(container: Any) -> Iterator[Any]:
    """Return the containers among the items of one, without tuples that hold none."""
    items = itertools.chain(container, container.values()) if type(container) is dict else container
    for batch in _batches(items):
        if not _ITEMS.issuperset(map(type, batch)):
            for item in batch:
                kind = type(item)
                if kind in _CONTAINERS and not (kind is tuple and _ITEMS.issuperset(map(type, item))):
                    yield item


def _check_keys(container: Any) -> None:
    kind = type(container)
    if kind is frozenset:
        check(container, frozenset)  # as the reader does, which gets all of them together
        return
    keys, done = Keys(), 0
    for batch in _batches(container):
        keys.add(batch, itertools.islice(container, done), kind)
        done += len(batch)


def _batches(items: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    rest = iter(items)
    while batch := tuple(itertools.islice(rest, _BATCH)):
        yield batch


def check(keys: Sequence[Any], kind: type) -> None:
    """Raise UnreadableError where the keys of a whole container collide."""
    if len(keys) * COSTLY > MOST_ALIKE:
        Keys().add(keys, (), kind)


class HealthMonitor:
    """Fills the containers of one pickle, for its unpickler's `persistent_load`."""

    def __init__(self) -> None:
        # With the container itself, so that its id is not used for another one.
        self._watched: dict[int, tuple[object, Keys]] = {}

    def fill(self, parts: tuple[Any, ...]) -> Any:
        """Do what the opcode did that was replaced, and return what it left on the stack."""
        if len(parts) == 1:
            return self._add(*parts[0])
        container, items = parts if len(parts) == 2 else (parts[0], parts[1:])
        self._keys(container, items[::2])
        if type(container) is dict:
            container.update(zip(items[::2], items[1::2], strict=True))
        else:
            for key, value in zip(items[::2], items[1::2], strict=True):
                container[key] = value
        return container

    def _add(self, container: Any, *added: tuple[Any, ...]) -> Any:
        if not added:
            check(container, frozenset)
            return frozenset(container)
        self._keys(container, added[0])
        if type(container) is set:
            container.update(added[0])
        else:
            for item in added[0]:
                container.add(item)
        return container

    def _keys(self, container: Any, keys: tuple[Any, ...]) -> None:
        known = self._watched.get(id(container))
        if known is None:
            if _RANDOM.issuperset(map(type, keys)):
                return
            known = self._watched[id(container)] = container, Keys()
        known[1].add(keys, container, type(container))


@cache
def _quiet() -> re.Pattern[bytes]:
    """A run of opcodes that do not hash."""
    texts = b"|".join(re.escape(bytes((length,))) + b".{%d}" % length for length in range(256))
    return re.compile(
        rb"(?:[\x8cC\x8a](?:" + texts + rb")|[Kh].|M..|G.{8}|[Jj].{4}"
        rb"|[N\x88\x89\x94\]}(ae)t\x85\x86\x87\x8f01bR\x81\x92\x93]++)*+",
        re.DOTALL,
    )


def watched(pickle: bytes) -> bytes:
    """The pickle with each opcode replaced that hashes.

    Args:
        pickle: one that passed inspection, or is known to consist of plain values.
    """
    run = _quiet()
    pieces: list[bytes] = []
    begin, position = 0, 2
    while True:
        found = run.match(pickle, position)
        assert found is not None  # an empty run is one, too
        position = found.end()
        opcode = pickle[position]
        if opcode in _LONG:
            start = position + 1 + _LONG[opcode]
            position = start + int.from_bytes(pickle[position + 1 : start], "little")
        elif opcode == _FRAME:  # its length is no longer right, and readers do without
            pieces.append(pickle[begin:position])
            begin = position = position + 9
        elif opcode == _STOP:
            return b"".join((*pieces, pickle[begin:]))
        else:
            pieces += pickle[begin:position], _REPLACED[opcode]
            begin = position = position + 1
