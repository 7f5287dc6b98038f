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

import itertools
import marshal
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, Final, NamedTuple

from cachekit.serialization.collisions import MOST_ALIKE, MOST_NUMBERS

_PROTOCOL: Final = b"\x80\x05"
_STOP: Final = 0x2E
_LONG1: Final = b"\x8a"

#: Items of a container that are looked at together, and the levels of containers that are split.
_PORTION: Final = 16
_SPLIT: Final = 8
_CONTAINERS: Final = frozenset({list, tuple, dict, set, frozenset})

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


_SHORT: Final = rb"G.{8}|\x8a(?:" + rb"|".join(rb"\x%02x.{%d}" % (n, n) for n in range(9)) + rb")"
_NUMBERS: Final = rb"G.{8}|\x8a" + _counted(32)  # BINFLOAT, LONG1; above, those of 64 bits alone
_FRAME: Final = rb"(?:\x95.{8})?+"


def _opcodes(more: bytes, numbers: bytes) -> bytes:
    """Return the expression of a run of opcodes that any plain value may have, and these."""
    # Those without an argument: MEMOIZE, NEWTRUE, NEWFALSE, NONE, EMPTY_LIST, EMPTY_DICT, MARK, APPEND and
    # APPENDS. They may follow any other, so that the expression goes round once for both.
    single = rb"[\x94\x88\x89N\]}(ae" + more + rb"]"
    # SHORT_BINUNICODE; BININT1 and BINGET; BININT2; BINFLOAT and LONG1; BININT and LONG_BINGET;
    # SHORT_BINBYTES; FRAME
    others = (
        rb"\x8c" + _counted(255), rb"[Kh].", rb"M..", rb"(?:" + numbers + rb")", rb"[Jj].{4}",
        rb"C" + _counted(255), rb"\x95.{8}",
    )  # fmt: skip
    return rb"(?:" + b"".join(one + single + rb"*+|" for one in others) + single + rb"++)*+"


@cache
def _run(more: bytes, numbers: bytes) -> re.Pattern[bytes]:
    return re.compile(_opcodes(more, numbers), re.DOTALL)


@cache
def _whole() -> Callable[[bytes], re.Match[bytes] | None]:
    """Return what matches a whole pickle of one run without tuples and long numbers."""
    return re.compile(re.escape(_PROTOCOL) + _opcodes(_HASHING, _SHORT) + rb"\.", re.DOTALL).fullmatch


@cache
def _records() -> re.Pattern[bytes]:
    """Compile a run in which no number is a key. Its group is a text whose value is still to come.

    Why that holds:

    - The opcode before a number pushes a text, or the number is an item of a flat list.
    - So above each MARK stand pairs of a text and its value. Only a list or dict without a text before it
      shifts the pairs behind it. Then it stands where a key should, before all numbers that do, and the
      unpickler refuses to hash it.
    - What is taken away is taken from the top. That leaves the items below where they were.
    - MEMOIZE follows only a text, a new list or a new dict. So no number comes from the memo.
    - A MARK follows only a list or dict, so those receive the items.
    - SETITEM follows a new dict, a text and one value. At the end of the pickle it takes anything, so it may
      set at most `MOST_ALIKE` numbers.
    """
    text = rb"(?:[\x8cC]" + _counted(127) + rb"\x94?|h.|j.{4})" + _FRAME
    number = rb"(?:[\x88\x89N]|K.|M..|J.{4}|" + _NUMBERS + rb")" + _FRAME
    one = rb"(?:" + text + rb"|" + number + rb")"
    pair = text + rb"(?:" + one + rb"|(?=[\]}]))"
    flat = rb"(?:\(" + _FRAME + one + rb"++e" + _FRAME + rb")++"
    lists = rb"\]\x94?+" + _FRAME + rb"(?:" + flat + rb"|" + one + rb"a|\()?+"
    dicts = rb"\}\x94?+" + _FRAME + rb"(?:" + text + one + rb"s|\()?+"
    # At the end of the pickle SETITEM takes lists and dicts as well: at most 32, and 32 behind these.
    ends = rb"[ue]" + _FRAME + rb"\(?+|a|s{1,32}+(?=[aesu]{0,32}\.)"
    return re.compile(
        rb"\x94?(?:" + b"|".join((pair, lists, dicts, ends, rb"\x95.{8}")) + rb")*+(" + text + rb")?+",
        re.DOTALL,
    )


# EMPTY_SET, SETITEM, SETITEMS, ADDITEMS; or EMPTY_TUPLE, TUPLE, TUPLE1, TUPLE2, TUPLE3.
_HASHING: Final = rb"\x8fsu\x90"
_TUPLES: Final = rb")t\x85\x86\x87"


def is_simple(pickle: bytes) -> bool:
    """Return whether a pickle consists of plain values alone, and is so short that it may be loaded at once.

    This is the short way of `recognise`, for most pickles. False says nothing.
    """
    return len(pickle) <= _FEW_NUMBERS and _whole()(pickle) is not None


class Plain(NamedTuple):
    """What is known of a pickle that consists of plain values alone."""

    may_be_deep: bool  #: so that its tuples have to be looked at, see `is_deep`
    may_collide: bool  #: so that loading must watch its keys, see `collisions`


_HARMLESS: Final = Plain(False, False)


def recognise(pickle: bytes) -> Plain | None:
    """Return what is known of a pickle of plain values; None if it is not certain that it is one."""
    if is_simple(pickle):
        return _HARMLESS
    if pickle[:2] != _PROTOCOL:
        return None
    matched = _matched(pickle, _run(_HASHING, _SHORT))
    if matched is None:
        if _matched(pickle, _run(_TUPLES, _NUMBERS)) is not None:
            return Plain(len(pickle) > _SHALLOW, False)
        matched = _matched(pickle, _run(_HASHING, _NUMBERS))
        if matched is None:
            return None
        few = pickle.count(_LONG1) <= MOST_ALIKE
    else:
        few = True
    if few and (matched <= _FEW_NUMBERS or _has_few_numbers(pickle)):
        return _HARMLESS
    if _matched(pickle, _records(), values=True) is not None:
        return _HARMLESS
    return Plain(False, True)


# A run of so many bytes has no more than MOST_NUMBERS different numbers: 256 take two bytes, others three.
_FEW_NUMBERS: Final = 3 * (MOST_NUMBERS - 256)


def _has_few_numbers(pickle: bytes) -> bool:
    """Return whether no dict or set can have more than MOST_NUMBERS different numbers."""
    left = MOST_NUMBERS - 256
    for opcode in b"G", b"M", b"J", _LONG1:
        left -= pickle.count(opcode)
        if left < 0:
            return False
    return True


def is_deep(value: object) -> bool:
    """Whether a plain value is nested more than 2,000 levels deep: hashing tuples may overflow the stack."""
    try:
        # It counts levels, and is faster than anything else that does.
        marshal.dumps(value)  # type: ignore[arg-type]
    except ValueError:
        return True
    return False


def is_deep_in_portions(value: object, size: int) -> bool:
    """Return what `is_deep` does, without a copy of all of the value.

    Args:
        value: a plain value.
        size: the bytes of its pickle. What is in several portions is looked at in each. A value that takes
            far more than that in portions is looked at as a whole.
    """
    left = 4 * size
    for portion in _portions(value, 1):
        try:
            left -= len(marshal.dumps(portion))
        except ValueError:
            return True
        if left < 0:
            return is_deep(value)
    return False


def _portions(value: Any, level: int) -> Iterator[list[Any]]:
    """Return lists that hold all of a value, each part as deep in them as it is in the value."""
    items = itertools.chain(value, value.values()) if type(value) is dict else iter(value)
    # With few items each may hold most of the value.
    large = 0 if len(value) <= _PORTION else _PORTION
    while batch := [*itertools.islice(items, _PORTION)]:
        portion = []
        for item in batch:
            if level < _SPLIT and type(item) in _CONTAINERS and len(item) > large:
                yield from _portions(item, level + 1)
            else:
                portion.append(item)
        for _ in range(level - 1):
            portion = [portion]
        yield portion


def _matched(pickle: bytes, run: re.Pattern[bytes], *, values: bool = False) -> int | None:
    """Return how many bytes the runs take of a pickle that consists of them and of long texts; else None.

    With `values`, a long text must be the value of the text in the group of the run before.
    """
    position, size, taken = 2, len(pickle), 0
    while position < size:
        found = run.match(pickle, position)
        assert found is not None  # an empty run is one, too
        taken += found.end() - position
        position = found.end()
        opcode = pickle[position] if position < size else None
        width = _LONG.get(opcode)
        if width is None:
            return taken if opcode == _STOP and position + 1 == size else None
        if values and found[1] is None:
            return None
        start = position + 1 + width
        position = start + int.from_bytes(pickle[position + 1 : start], "little")
    return None  # cut
