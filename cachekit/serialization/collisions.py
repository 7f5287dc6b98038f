"""Bounds how many keys of one dict or set share a hash, where nothing is trusted.

This module promises that no more than `MOST_ALIKE` keys of a container that it watches have one hash.
Python compares a key with each one of the same hash, so n keys that share theirs take n squared steps, in
one call that no signal interrupts. The hashes of texts, bytes and dates are random in each process. Those
of numbers, tuples and what consists of them can be computed by the writer of a pickle.

How it works
------------
The unpickler in C fills dicts and sets by itself. So each opcode that hashes is replaced by one that gives
the container and its new items to the unpickler's `persistent_load`, which looks at the hashes and fills the
container. No pickle that passes inspection has a persistent id of its own.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final

from cachekit.errors import UnreadableError

#: How many keys of one container may have one hash. Those that are slow to compare count as several.
MOST_ALIKE: Final = 64
#: As how many a key counts whose comparison is no single step, as that of a Decimal with an integer is.
COSTLY: Final = 8

# Hashed by a secret of the process, or so few that they cannot share a hash.
_RANDOM: Final = frozenset({str, bytes, bool, type(None), datetime.date})
# Compared in a single step.
_CHEAP: Final = frozenset({int, float, complex}) | _RANDOM

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


class Keys:
    """The keys of one dict or set, as far as they were added."""

    __slots__ = ("_alike",)

    def __init__(self) -> None:
        # Keyed by bytes, because a dict of the hashes themselves could be attacked in the same way.
        self._alike: dict[bytes, int] = {}

    def add(self, keys: Iterable[Any]) -> None:
        """Count keys that are about to be added.

        Raises:
            UnreadableError: too many of them share a hash.
            TypeError: one cannot be hashed.
        """
        alike = self._alike
        for key in keys:
            kind = type(key)
            if kind in _RANDOM:
                continue
            packed = hash(key).to_bytes(8, "little", signed=True)
            cheap = kind in _CHEAP or (kind is tuple and _CHEAP.issuperset(map(type, key)))
            alike[packed] = count = alike.get(packed, 0) + (1 if cheap else COSTLY)
            if count > MOST_ALIKE:
                raise UnreadableError(f"more than {MOST_ALIKE} keys of a dict or set share a hash", "damage")


def check(keys: Iterable[Any], count: int) -> None:
    """Raise UnreadableError where too many keys of a whole container share a hash."""
    if count * COSTLY > MOST_ALIKE:
        Keys().add(keys)


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
            check(container, len(container))
            return frozenset(container)
        self._keys(container, added[0])
        if type(container) is set:
            container.update(added[0])
        else:
            for item in added[0]:
                container.add(item)
        return container

    def _keys(self, container: object, keys: tuple[Any, ...]) -> None:
        if _RANDOM.issuperset(map(type, keys)):
            return
        known = self._watched.get(id(container))
        if known is None:
            known = self._watched[id(container)] = container, Keys()
        known[1].add(keys)


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
