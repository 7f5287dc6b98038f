"""What a compressed value may take in memory, for the bytes that are stored of it."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from cachekit.errors import UnreadableError
from cachekit.serialization import envelope, memory_bounds
from cachekit.serialization.compression import Compression
from cachekit.serialization.json_codec import JsonCodec
from cachekit.serialization.msgpack_codec import MsgpackCodec
from cachekit.serialization.parts import LARGE
from cachekit.serialization.pickle_codec import PickleCodec
from cachekit.serialization.serializer import CodecName, Serializer

CODECS: tuple[CodecName, ...] = ("pickle", "json", "msgpack")
NUMBERS = {"pickle": 1, "json": 2, "msgpack": 3}
MiB = 1 << 20


def envelope_of(codec: CodecName, payload: bytes) -> bytes:
    """Return an envelope without a secret, as anyone can write it."""
    stored = struct.pack("<Q", len(payload)) + zlib.compress(payload, 9)
    header = envelope.pack_fixed(NUMBERS[codec], 1, 0, 1.0, 1e12, 1e12, zlib.crc32(stored))
    base = zlib.crc32(envelope.CHECKED + envelope.sized(b"ns"))
    seal = zlib.crc32(header, zlib.crc32(envelope.sized(b"k"), base))
    return envelope.CHECKED + struct.pack("<I", seal) + header + stored


BOMBS: dict[str, tuple[CodecName, Callable[[int], bytes]]] = {
    "empty sets": ("pickle", lambda size: b"\x80\x05(" + b"\x8f" * size + b"t."),
    "empty dicts": ("pickle", lambda size: b"\x80\x05(" + b"}" * size + b"t."),
    "sets of numbers": (
        "pickle",
        lambda size: b"\x80\x05(" + b"\x8f(K\x01K\x02K\x03K\x04K\x05\x90" * (size // 13) + b"t.",
    ),
    "calls": (
        "pickle",
        lambda size: (
            b"\x80\x05(\x8c\x0bcollections\x8c\x05deque\x93\x94)\x94R" + b"h\x00h\x01R" * (size // 5) + b"t."
        ),
    ),
    "json dicts": ("json", lambda size: b"[" + b"{}," * (size // 3) + b"0]"),
    "json floats": ("json", lambda size: b"[" + b"1.5," * (size // 4) + b"0]"),
    "maps": ("msgpack", lambda size: b"\xdd" + struct.pack(">I", size) + b"\x80" * size),
    "short floats": (
        "msgpack",
        lambda size: b"\xdd" + struct.pack(">I", size // 5) + b"\xca\0\0\0\1" * (size // 5),
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_of_small_objects_is_damage(name: str) -> None:
    """A few kilobytes do not become gigabytes: the text is decompressed, and no object is made."""
    codec, make = BOMBS[name]
    payload = make(12 * MiB)
    stored = envelope_of(codec, payload)
    del payload
    assert len(stored) < 256 << 10
    serializer = Serializer("ns", codec=codec)
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableError, match="memory") as caught:
            serializer.decode("k", stored).value()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.reason == "damage"
    assert peak < 4 * 12 * MiB


SMALL: dict[str, Any] = {
    "records": [{"id": number, "name": f"name {number}", "on": True} for number in range(2000)],
    "long texts": ["é" * 5000, "x" * 100_000, "\N{GRINNING FACE}" * 999],
    "numbers": [*range(5000)],
    "floats": [number / 7 for number in range(5000)],
    "nested": [[[], [], {}] for _ in range(2000)],
    "keys": {f"{number}": number for number in range(5000)},
    "mappings of numbers": [dict.fromkeys(map(str, range(6)), 0) for _ in range(1000)],
}
#: Values that JSON and MessagePack carry under a tag.
TAGGED: dict[str, Any] = {
    "sets": [{number, number + 1} for number in range(2000)],
    "sets without items": [set() for _ in range(2000)],
    "large sets": [set(range(number, number + 300)) for number in range(30)],
    "numbers as keys": [dict.fromkeys(range(10), None) for _ in range(1000)],
    "decimals": [Decimal("1.5") * number for number in range(2000)],
    "bytes": [bytes(range(256)) * 400, b"x" * 30],
}
ESTIMATES: dict[CodecName, tuple[Any, Callable[[bytes], int]]] = {
    "pickle": (PickleCodec(), memory_bounds.of_pickle),
    "json": (JsonCodec(), memory_bounds.of_json),
    "msgpack": (MsgpackCodec(), memory_bounds.of_msgpack),
}


PICKLED = {"deques": [deque([number]) for number in range(1000)]}
#: Codecs, and names of values and of bombs.
ESTIMATED: list[tuple[CodecName, str]] = [
    *((codec, name) for codec in CODECS for name in (*SMALL, *TAGGED)),
    *((codec, name) for name, (codec, _) in BOMBS.items()),
    *(("pickle", name) for name in PICKLED),
]


@pytest.mark.parametrize(("codec", "name"), ESTIMATED)
def test_the_estimate_is_no_less_than_the_memory(codec: CodecName, name: str) -> None:
    decoder, estimate = ESTIMATES[codec]
    payload = BOMBS[name][1](30_000) if name in BOMBS else decoder.encode((SMALL | TAGGED | PICKLED)[name])
    decoder.decode(payload)  # what is loaded once
    # The interpreter's table of texts, where keys of dicts are, may grow during one of the two.
    assert min(held_by(decoder, payload), held_by(decoder, payload)) <= estimate(payload)


def held_by(decoder: Any, payload: bytes) -> int:
    """Return how many bytes the decoded value takes."""
    tracemalloc.start()
    try:
        value = decoder.decode(payload)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert value is not None
    return held


@pytest.mark.parametrize(
    ("codec", "compression"), [("pickle", "zlib"), ("json", "zlib"), ("msgpack", "zstd")]
)
def test_what_would_expand_too_much_is_stored_without_compression(
    codec: CodecName, compression: Compression
) -> None:
    """A writer knows the rule of its readers: such a value comes back, too."""
    value = [1] * (9 * MiB // 2)
    serializer = Serializer("ns", codec=codec, compression=compression)
    stored = serializer.encode("k", value, created=1.0)
    assert len(stored) >= 4 * MiB
    assert serializer.decode("k", stored).value() == value


def test_smaller_values_that_would_expand_too_much_are_stored_without_compression() -> None:
    """Whether the payload is compressed in one piece or in several."""
    value: list[set[int]] = [set() for _ in range(1_000_000)]
    serializer = Serializer("ns")
    stored = serializer.encode("k", value, created=1.0)
    assert 1_000_000 <= len(stored) < LARGE
    assert serializer.decode("k", stored).value() == value


@pytest.mark.parametrize("codec", CODECS)
def test_what_users_store_stays_compressed(codec: CodecName) -> None:
    """Also where much is the same: rows of a table, and pages."""
    rows = [
        {"id": number, "name": f"name {number % 50}", "price": 9.5, "tags": ["a", "b"]}
        for number in range(20_000)
    ]
    page = "".join(
        f"<li class='row'>{number}, the {{same}} text: again [and] again</li>\n" for number in range(100_000)
    )
    serializer = Serializer("ns", codec=codec)
    for value in (rows, page, {"url": "/", "body": page}):
        stored = serializer.encode("k", value, created=1.0)
        assert len(stored) < len(ESTIMATES[codec][0].encode(value)) / 3
        assert serializer.decode("k", stored).value() == value


def test_a_secret_lifts_the_bound() -> None:
    """What is signed was written by a cache."""
    value = [1] * (9 * MiB // 2)
    serializer = Serializer("ns", secret="a secret of some bytes")
    stored = serializer.encode("k", value, created=1.0)
    assert len(stored) < MiB
    assert serializer.decode("k", stored).value() == value
