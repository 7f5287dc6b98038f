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

import marshal
import re
from collections.abc import Mapping
from functools import cache
from typing import Final

from cachekit.serialization.collisions import MOST_ALIKE, watched

_PROTOCOL: Final = b"\x80\x05"
_STOP: Final = 0x2E

#: In a pickle of so many bytes tuples cannot be nested too deeply.
_SHALLOW: Final = 4096

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


_TEXT: Final = rb"\x8c" + _counted(255) + rb"\x94?"
_NUMBERS: Final = rb"G.{8}|\x8a" + _counted(32)  # BINFLOAT, LONG1
# What has no argument, BININT1 and BINGET, BININT2, BININT and LONG_BINGET, SHORT_BINBYTES
_SCALAR: Final = rb"[\x88\x89N]|[Kh].|M..|[Jj].{4}|C" + _counted(255)
_FRAME: Final = rb"\x95.{8}"


@cache
def _run(more: bytes, numbers: bytes = _NUMBERS) -> re.Pattern[bytes]:
    """A run of opcodes that any plain value may have, and these."""
    return re.compile(
        # SHORT_BINUNICODE and MEMOIZE; what has no argument: MEMOIZE, NEWTRUE, NEWFALSE, NONE, EMPTY_LIST,
        # EMPTY_DICT, MARK, APPEND, APPENDS
        rb"(?:" + _TEXT + rb"|[\x94\x88\x89N\]}(ae" + more + rb"]+"
        # BININT1 and BINGET; BININT2; BINFLOAT; BININT and LONG_BINGET; SHORT_BINBYTES; LONG1; FRAME
        rb"|[Kh].|M..|[Jj].{4}|C" + _counted(255) + rb"|\x95.{8}|" + numbers + rb")*+",
        re.DOTALL,
    )


@cache
def _filled() -> re.Pattern[bytes]:
    """A run of opcodes without tuples that fill no dict or set under what may be numbers.

    Numbers are not memoised in it, so no BINGET stands for one.
    """
    scalar = rb"G.{8}(?!\x94)|" + _SCALAR + rb"|\x8a" + _counted(32) + rb"(?!\x94)"
    item = _TEXT + rb"|" + scalar
    several = rb"(?:G.{8})++(?!\x94)|" + item + rb"|" + _FRAME
    items = rb"\]\x94?(?:(?:\((?:" + several + rb")++e)++|(?:" + item + rb")a)?"
    key = _TEXT + rb"|h.|j.{4}"
    record = rb"\((?:(?:" + key + rb")(?:" + item + rb"|" + items + rb")|" + _FRAME + rb")++u"
    return re.compile(
        rb"(?:"
        + _TEXT
        + rb"(?:(?:"
        + items
        + rb")s)?|"
        + record
        + rb"|"
        + scalar
        + rb"|[\x94\]}(ae\x8f]|"
        + _FRAME
        + rb")*+",
        re.DOTALL,
    )


# EMPTY_SET, SETITEM, SETITEMS, ADDITEMS; or EMPTY_TUPLE, TUPLE, TUPLE1, TUPLE2, TUPLE3.
_HASHING: Final = rb"\x8fsu\x90"
_NOTHING: Final = rb"(?!)"
_TUPLES: Final = rb")t\x85\x86\x87"


def recognise(pickle: bytes) -> tuple[bytes | None, bool]:
    """What to load for a pickle that consists of plain values alone, and whether tuples may be nested deeply.

    What to load is the pickle itself. Where so many keys may share a hash that loading must watch them, it is
    what `collisions.watched` makes of the pickle. None is for a pickle of which that is not certain.
    """
    if pickle[:2] != _PROTOCOL:
        return None, False
    # A float takes nine bytes. An integer of fewer than five has a hash of its own, and so has no LONG1.
    if len(pickle) > 9 * MOST_ALIKE:
        if _consists_of(pickle, _run(_HASHING, _NOTHING)):
            return pickle, False
        if pickle.count(b"G") + pickle.count(b"\x8a") > MOST_ALIKE:
            if _consists_of(pickle, _filled()):
                return pickle, False
            if _consists_of(pickle, _run(_TUPLES)):
                return pickle, len(pickle) > _SHALLOW
            return (watched(pickle), False) if _consists_of(pickle, _run(_HASHING)) else (None, False)
    if _consists_of(pickle, _run(_HASHING)):
        return pickle, False
    if _consists_of(pickle, _run(_TUPLES)):
        return pickle, len(pickle) > _SHALLOW
    return None, False


def is_deep(value: object) -> bool:
    """Whether a plain value is nested more than 2,000 levels deep: hashing tuples may overflow the stack."""
    try:
        # It counts levels, and is faster than anything else that does.
        marshal.dumps(value)  # type: ignore[arg-type]
    except ValueError:
        return True
    return False


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
