"""What passes for a pickle of plain values names no class, whatever somebody did to its bytes."""

from __future__ import annotations

import datetime
import pickle
import pickletools
from typing import Any

import hostile
import pytest
from exploring import explored
from hypothesis import example, given
from hypothesis import strategies as st

from cachekit.errors import UnreadableError
from cachekit.serialization import pickle_inspector
from cachekit.serialization.pickle_allowlist import table
from cachekit.serialization.pickle_literals import recognise


def is_literal(text: bytes) -> bool:
    return recognise(text) is not None


#: Opcodes that can do nothing but make plain values.
HARMLESS = frozenset(
    """PROTO FRAME STOP MARK MEMOIZE BINGET LONG_BINGET NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1
    BINFLOAT SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 EMPTY_LIST APPEND
    APPENDS EMPTY_DICT SETITEM SETITEMS EMPTY_SET ADDITEMS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2
    TUPLE3""".split()  # noqa: SIM905
)
HASHES = frozenset(["SETITEM", "SETITEMS", "ADDITEMS"])
TUPLES = frozenset(["EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"])

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.just("x" * 300)
)
lists: st.SearchStrategy[Any] = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.sets(st.text())
)
rows: st.SearchStrategy[Any] = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.lists(inner).map(tuple)
)


@given(lists | rows)
@example({"long": "x" * 70_000, "bytes": b"y" * 70_000, "number": 2**300})
def test_plain_values_are_literals(value: object) -> None:
    """Those without tuples, and those without anything that hashes, are recognised."""
    text = pickle.dumps(value, 5)
    assert is_literal(text) or max(numbers(value), default=0) > 2**255


def numbers(value: object) -> list[int]:
    """The integers of a value: the largest are left to the closer look."""
    if isinstance(value, dict):
        return numbers(list(value.values()))
    if isinstance(value, (list, tuple)):
        return [number for one in value for number in numbers(one)]
    return [abs(value)] if isinstance(value, int) else []


@pytest.mark.parametrize(
    "value",
    [
        datetime.date(2026, 1, 1),
        {(1, 2): 3},
        {frozenset()},
        bytearray(b"x"),
        complex(1, 2),
        print,
        int,
        [{1: 2}, ()],
    ],
    ids=repr,
)
def test_others_are_looked_at_closely(value: object) -> None:
    """Classes, what may take long to hash, and what is allocated by a number."""
    assert not is_literal(pickle.dumps(value, 5))


@pytest.mark.parametrize("protocol", range(5))
def test_older_protocols_are_not_known(protocol: int) -> None:
    """Nobody here writes them."""
    assert not is_literal(pickle.dumps(["a", 1], protocol))


@st.composite
def tampered(draw: st.DrawFn) -> bytes:
    """A pickle, of a plain value or a hostile one, of which some bytes were changed, dropped or put in."""
    text = draw(
        st.builds(lambda value: pickle.dumps(value, 5), lists | rows)
        | st.sampled_from([text for text in hostile.CORPUS.values() if len(text) < 1000])
    )
    codes = st.sampled_from([ord(one.code) for one in pickletools.opcodes]) | st.integers(0, 255)
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(2, max(2, len(text) - 1)))
        match draw(st.integers(0, 2)):
            case 0:
                text = text[:at] + bytes((draw(codes),)) + text[at + 1 :]
            case 1:
                text = text[:at] + text[at + draw(st.integers(1, 3)) :]
            case _:
                text = text[:at] + bytes(draw(st.lists(codes, max_size=4))) + text[at:]
    return text


@explored()
@given(tampered())
def test_a_literal_names_no_class(text: bytes) -> None:
    """The standard library's own reader of opcodes finds harmless ones alone, and inspection no class."""
    if not is_literal(text):
        return
    names = set()
    try:
        for opcode, _, _ in pickletools.genops(text):
            names.add(opcode.name)
    except ValueError:
        pass  # a text that is no UTF-8, which the unpickler refuses too
    assert names <= HARMLESS
    assert not (names & HASHES and names & TUPLES)
    try:
        assert pickle_inspector.inspect(text, table(())).names is False
    except pickle_inspector.RefusedClassError:
        raise
    except UnreadableError:
        pass  # the unpickler notices that as well


@pytest.mark.parametrize("end", [b"", b".", b"..", b"N", b"N.N", b"N.."], ids=repr)
def test_it_ends_with_its_stop(end: bytes) -> None:
    """Neither cut nor followed by anything."""
    assert is_literal(hostile.START + end) is (end in (b".", b"N."))


@pytest.mark.parametrize("code", [b"X", b"B", b"\x8d", b"\x8e"], ids=repr)
def test_a_length_beyond_the_end(code: bytes) -> None:
    """Nothing is read there, and nothing is found."""
    for length in (1, 5, 2**31, 2**63):
        width = 8 if code in (b"\x8d", b"\x8e") else 4
        if length < 1 << 8 * width:
            assert not is_literal(hostile.START + code + length.to_bytes(width, "little") + b"....")
