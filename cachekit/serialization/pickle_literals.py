"""Which pickles consist of plain values alone, found out at the speed of a regular expression.

This module promises that a pickle of which it says so names no class, calls nothing, and keeps every
promise of `opcodes.inspect`, which looks at each opcode in Python and takes five to fifteen times as long. It
promises nothing of the others: those are inspected.

How it works
------------
What a pickle can do, its opcodes say. A run of opcodes that push plain values or fill plain containers is
matched by one expression; the texts and bytes whose length takes more than one byte stand between runs, and
are skipped here. The expression goes from opcode to opcode as the unpickler does, so no byte of a text is
taken for an opcode, and it knows no opcode that resolves a name, calls, or allocates by a number that it
reads.

What is left to prevent is a key that takes for ever, or too much stack, to be hashed: a tuple of tuples of
tuples. So there are two expressions: one without tuples, and one without anything that hashes. That items
are missing or of the wrong kind, the unpickler notices.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Final

_PROTOCOL: Final = b"\x80\x05"
_STOP: Final = 0x2E

# Opcodes that are followed by a length and so many bytes: how many bytes the length takes.
_LONG: Final[Mapping[int | None, int]] = {
    0x58: 4,  # BINUNICODE
    0x42: 4,  # BINBYTES
    0x8D: 8,  # BINUNICODE8
    0x8E: 8,  # BINBYTES8
}


def _counted(longest: int) -> bytes:
    """A length in one byte, and so many bytes."""
    lengths = (re.escape(bytes((length,))) + b".{%d}" % length for length in range(longest + 1))
    return b"(?:" + b"|".join(lengths) + b")"


@cache
def _run(more: bytes) -> re.Pattern[bytes]:
    """A run of opcodes that any plain value may have, and these."""
    text = _counted(255)
    return re.compile(
        # SHORT_BINUNICODE and MEMOIZE; what has no argument: MEMOIZE, NEWTRUE, NEWFALSE, NONE, EMPTY_LIST,
        # EMPTY_DICT, MARK, APPEND, APPENDS
        rb"(?:\x8c" + text + rb"\x94?|[\x94\x88\x89N\]}(ae" + more + rb"]+"
        # BININT1 and BINGET; BININT2; BINFLOAT; BININT and LONG_BINGET; SHORT_BINBYTES; LONG1; FRAME
        rb"|[Kh].|M..|G.{8}|[Jj].{4}|C" + text + rb"|\x8a" + _counted(32) + rb"|\x95.{8})*+",
        re.DOTALL,
    )


def is_literal(pickle: bytes) -> bool:
    """Whether a pickle is one of plain values alone, and safe to load; False where that is not certain."""
    if pickle[:2] != _PROTOCOL:
        return False
    # EMPTY_SET, SETITEM, SETITEMS, ADDITEMS; or EMPTY_TUPLE, TUPLE, TUPLE1, TUPLE2, TUPLE3.
    return _consists_of(pickle, _run(rb"\x8fsu\x90")) or _consists_of(pickle, _run(rb")t\x85\x86\x87"))


def _consists_of(pickle: bytes, run: re.Pattern[bytes]) -> bool:
    position, size = 2, len(pickle)
    while position < size:
        found = run.match(pickle, position)
        assert found is not None  # an empty run is one, too
        position = found.end()
        opcode = pickle[position] if position < size else None
        width = _LONG.get(opcode)
        if width is None:
            return opcode == _STOP and position + 1 == size
        start = position + 1 + width
        position = start + int.from_bytes(pickle[position + 1 : start], "little")
    return False  # cut
