"""What a reader without trust pays for each callable of the list and each format: memory and calls per byte.

The tables have a row for each callable, so a new one needs its own. Bounds are of what was decompressed.
"""

from __future__ import annotations

import json
import struct
import sys
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import hostile
import pytest

from cachekit.errors import UnreadableError
from cachekit.serialization.json_codec import JsonCodec
from cachekit.serialization.msgpack_codec import MsgpackCodec
from cachekit.serialization.pickle_allowlist import _STANDARD, Use
from cachekit.serialization.pickle_codec import PickleCodec
from cachekit.serialization.plain_values import _RAISINGS

#: Bytes of each value.
SIZE = 1 << 14
START = b"\x80\x05"

_DELTA = hostile.name("datetime", "timedelta") + b"K\x01K\x00K\x00\x87R"
_TEXT = hostile.text("a" * 200) + b"\x85"
#: Of each callable: the opcodes of its arguments, and the most bytes of memory per byte that was stored.
CALLABLES: dict[tuple[str, str], tuple[bytes, int]] = {
    ("builtins", "complex"): (b"G" + bytes(8) + b"G" + bytes(8) + b"\x86", 16),
    ("datetime", "date"): (b"C\x04\x07\xe8\x01\x01\x85", 16),
    ("datetime", "datetime"): (b"C\x0a\x07\xe8\x01\x01" + bytes(6) + b"\x85", 16),
    ("datetime", "time"): (b"C\x06" + bytes(6) + b"\x85", 16),
    ("datetime", "timedelta"): (b"K\x01K\x00K\x01\x87", 16),
    ("datetime", "timezone"): (_DELTA + b"\x85", 16),
    ("zoneinfo", "ZoneInfo"): (hostile.text("Etc/UTC") + b"\x85", 16),
    ("decimal", "Decimal"): (hostile.text("1" * 200) + b"\x85", 64),
    ("fractions", "Fraction"): (b"K\x01K\x03\x86", 24),
    ("uuid", "UUID"): (b")", 24),
    ("collections", "OrderedDict"): (b")", 48),
    ("collections", "defaultdict"): (b")", 32),
    ("collections", "deque"): (b")", 230),
    ("collections", "Counter"): (b"}\x85", 40),
    **{
        (module, name): (_TEXT, 64)
        for module in ("pathlib", "pathlib._local")
        for name in ("PurePosixPath", "PosixPath", "PureWindowsPath", "WindowsPath")
    },
}


def pickle_of(names: tuple[str, str]) -> bytes:
    """Return a pickle that calls once for every five bytes, or less."""
    arguments, _ = CALLABLES[names]
    begin = START + b"(" + hostile.name(*names) + b"\x94" + arguments + b"\x94"
    if names == ("uuid", "UUID"):
        state = b"}(" + hostile.text("int") + b"K\x05u\x94"
        return begin + b"\x81" + state + b"b" + b"h\x00h\x01\x81h\x02b" * (SIZE // 8) + b"t."
    return begin + b"R" + b"h\x00h\x01R" * (SIZE // 5) + b"t."


def cost(read: Callable[[bytes], object], stored: bytes) -> tuple[float, float]:
    """Return the peak of memory and the calls of functions, both per byte."""
    calls = 0

    def count(_: object, event: str, __: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    def tried() -> None:
        try:
            read(stored)
        except UnreadableError:
            pass

    tried()  # what is loaded once
    tracemalloc.start()
    try:
        tried()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        tried()
    finally:
        sys.setprofile(before)
    return peak / len(stored), calls / len(stored)


def test_every_callable_has_a_row() -> None:
    """Those that may be called; the others are values."""
    called = {names for names, grant in _STANDARD.items() if grant.use in (Use.GUARDED, Use.NEW)}
    assert called == CALLABLES.keys()


@pytest.mark.parametrize("names", CALLABLES, ids=lambda names: ".".join(names))
def test_of_callables(names: tuple[str, str]) -> None:
    """Each is called for every five bytes: no more memory than its row, and at most eight calls a byte."""
    memory, calls = cost(PickleCodec().decode, pickle_of(names))
    print(f"{'.'.join(names):32} {memory:7.1f} bytes {calls:6.2f} calls per byte")
    assert memory <= CALLABLES[names][1]
    assert calls <= 8


def packed(value: Any) -> bytes:
    return MsgpackCodec()._packb(value)  # type: ignore[no-any-return]


#: What stands for each kind of value in JSON and MessagePack, as short as it can be.
RAISED: dict[str, list[Any]] = {
    "int": ["f"], "float": ["0" * 16], "str": ["61"], "dict": [], "tuple": [], "set": [], "frozenset": [],
    "bytes": ["61"], "bytearray": ["61"], "complex": [1.0, 1.0], "Decimal": ["1"], "Fraction": [1, 3],
    "UUID": ["0" * 32, None], "date": ["2024-01-01"], "time": ["00:00:00", 0],
    "datetime": ["2024-01-01T00:00:00", 0, "UTC"], "timedelta": [1, 0, 0],
}  # fmt: skip


def test_every_kind_has_a_row() -> None:
    """Of the values that JSON and MessagePack carry in a form of their own."""
    assert RAISED.keys() == _RAISINGS.keys()


@pytest.mark.parametrize("kind", RAISED)
def test_of_kinds(kind: str) -> None:
    """A value of each, many times: at most 70 bytes of memory and four calls for a byte."""
    one = {"$": [kind, *RAISED[kind]]}
    many = [one] * (SIZE // len(json.dumps(one)))
    for codec, stored in ((JsonCodec(), json.dumps(many).encode()), (MsgpackCodec(), packed(many))):
        memory, calls = cost(codec.decode, stored)
        print(f"{codec.name} {kind:12} {memory:7.1f} bytes {calls:6.2f} calls per byte")
        assert memory <= 40
        assert calls <= 1


FORMATS: dict[str, tuple[Callable[[bytes], object], bytes, int]] = {
    "pickle: empty sets": (PickleCodec().decode, START + b"(" + b"\x8f" * SIZE + b"t.", 240),
    "pickle: empty dicts": (PickleCodec().decode, START + b"(" + b"}" * SIZE + b"t.", 240),
    "json: empty lists": (JsonCodec().decode, b"[" + b"[]," * (SIZE // 3) + b"0]", 30),
    "json: empty dicts": (JsonCodec().decode, b"[" + b"{}," * (SIZE // 3) + b"0]", 30),
    "msgpack: empty maps": (
        MsgpackCodec().decode, b"\xdd" + struct.pack(">I", SIZE) + b"\x80" * SIZE, 80,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_of_formats(name: str) -> None:
    """The containers that take most memory for a byte."""
    read, stored, bound = FORMATS[name]
    memory, calls = cost(read, stored)
    print(f"{name:32} {memory:7.1f} bytes {calls:6.2f} calls per byte")
    assert memory <= bound
    assert calls <= 8


def test_the_rows_are_what_is_called() -> None:
    """A pickle of a row is read, so that its cost is that of the callable."""
    value: Any = PickleCodec().decode(pickle_of(("datetime", "timedelta")))
    assert len(value) == SIZE // 5 + 1
    assert value[-1] == timedelta(1, 0, 1)
