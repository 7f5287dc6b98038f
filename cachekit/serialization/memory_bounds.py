"""Bounds the memory of a value that a few compressed bytes describe, where nothing is trusted.

This module promises that decoding what it lets through takes at most `MOST_PER_BYTE` bytes of memory for each
stored byte, or `ALWAYS_ALLOWED`, whichever is more. The codecs bound memory per byte of their own text, and
compression would multiply that by a thousand.

What a text takes is estimated from above, without decoding it: by the opcodes that it could consist of. A
writer stores a payload that exceeds the bound without compression, so what it writes can be read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Final, Literal

#: Bytes of memory that any value may take.
ALWAYS_ALLOWED: Final = 256 << 20
#: Bytes of memory that a value may take for each byte that is stored of it.
MOST_PER_BYTE: Final = 1024

# A character takes one to four bytes, and at least one in UTF-8.
_TEXT: Final = 4

# Of a pickle: what an opcode takes for each of its bytes, what an empty set takes besides, and what a call
# does, of which a deque takes most.
_OPCODE: Final = 80
_SET: Final = 160
_CALL: Final = 704
_CALLS: Final = (b"R", b"\x81", b"\x92")  # REDUCE, NEWOBJ, NEWOBJ_EX
# Opcodes of texts and bytes whose length takes more than a byte: how wide it is.
_LONG_IN_PICKLE: Final[Mapping[int, int]] = {0x58: 4, 0x42: 4, 0x8B: 4, 0x8D: 8, 0x8E: 8, 0x96: 8}

# Of JSON: each key and each value stands behind one of these.
_BEFORE_VALUE: Final = (b"{", b"[", b",", b":")
_VALUE: Final = 120

# Of MessagePack: what an item takes for each of its bytes, and what a dict or list does that one byte begins.
_ITEM: Final = 64
_CONTAINER: Final = 80
_NO_CONTAINER: Final = bytes(byte for byte in range(256) if not 0x80 <= byte < 0xA0)
_LONG_IN_MSGPACK: Final[Mapping[int, int]] = {0xC5: 2, 0xC6: 4, 0xC8: 2, 0xC9: 4, 0xDA: 2, 0xDB: 4}


def least_stored(memory: int) -> int:
    """Return how many bytes must be stored of a value that takes so much memory; 0 for any number."""
    return 0 if memory <= ALWAYS_ALLOWED else -(-memory // MOST_PER_BYTE)


def _counted(longest: int) -> bytes:
    """A length in one byte, and so many bytes."""
    lengths = (re.escape(bytes((length,))) + b".{%d}" % length for length in range(longest + 1))
    return b"(?:" + b"|".join(lengths) + b")"


@cache
def _opcodes() -> re.Pattern[bytes]:
    """Compile a run of opcodes without the long ones."""
    return re.compile(
        rb"(?:[\x8cC\x8a]" + _counted(255) + rb"|[Kh].|M..|G.{8}|[Jj].{4}|\x95.{8}"
        rb"|[^XB\x8b\x8d\x8e\x96\x8cC\x8aKhMGJj\x95]++)*+",
        re.DOTALL,
    )


@cache
def _items() -> re.Pattern[bytes]:
    """Compile a run of items of MessagePack without the long ones."""
    texts = b"|".join(re.escape(bytes((0xA0 + length,))) + b".{%d}" % length for length in range(32))
    return re.compile(
        rb"(?:" + texts + rb"|[\xd9\xc4]" + _counted(255) + rb"|\xc7" + _counted(255) + rb"."
        rb"|[\xcc\xd0].|[\xcd\xd1\xd4\xdc\xde].{2}|\xd5.{3}|[\xca\xce\xd2\xdd\xdf].{4}|\xd6.{5}"
        rb"|[\xcb\xcf\xd3].{8}|\xd7.{9}|\xd8.{17}|[^\xa0-\xbf\xc4-\xdf]++)*+",
        re.DOTALL,
    )


def _runs(
    text: bytes, start: int, run: re.Pattern[bytes], long: Mapping[int, int], order: Literal["little", "big"]
) -> Iterator[tuple[int, int, int]]:
    """Yield where each run begins and ends, and how many bytes the long text behind it has."""
    size = len(text)
    while start < size:
        found = run.match(text, start)
        assert found is not None  # an empty run is one, too
        end = found.end()
        width = long.get(text[end]) if end < size else None
        if width is None:  # the end, or damage
            yield start, size, 0
            return
        after = end + 1 + width
        length = int.from_bytes(text[end + 1 : after], order)
        yield start, after, min(length, size)
        start = after + length


def of_pickle(pickle: bytes) -> int:
    """Return the bytes of memory that loading a pickle takes at most."""
    memory = 0
    for start, end, text in _runs(pickle, 2, _opcodes(), _LONG_IN_PICKLE, "little"):
        memory += _OPCODE * (end - start) + _SET * pickle.count(b"\x8f", start, end) + _TEXT * text
        for call in _CALLS:
            memory += _CALL * pickle.count(call, start, end)
    return memory


def of_json(text: bytes) -> int:
    """Return the bytes of memory that decoding JSON takes at most."""
    return _TEXT * len(text) + _VALUE * sum(map(text.count, _BEFORE_VALUE))


def of_msgpack(packed: bytes) -> int:
    """Return the bytes of memory that decoding MessagePack takes at most."""
    memory = 0
    for start, end, text in _runs(packed, 0, _items(), _LONG_IN_MSGPACK, "big"):
        containers = len(packed[start:end].translate(None, _NO_CONTAINER))
        memory += _ITEM * (end - start) + _CONTAINER * containers + _TEXT * text
    return memory
