"""Large values: pickled in parts, compressed piece by piece, and refused before they are built whole."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from cachekit.errors import SerializationError, ValueTooLargeError
from cachekit.serialization import pickle_codec
from cachekit.serialization.compression import LARGEST_RAW, Compression, Compressor
from cachekit.serialization.parts import LARGE, UNBOUNDED, Parts, Payload, pieces_of
from cachekit.serialization.pickle_codec import PickleCodec
from cachekit.serialization.serializer import Serializer

SIZE = LARGE + 12_345
SECRET = "s" * 16


class Holder:
    """An object with a large attribute."""

    def __init__(self, held: object) -> None:
        self.held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Holder) and other.held == self.held

    __hash__ = None  # type: ignore[assignment]


LARGE_VALUES: dict[str, Callable[[], Any]] = {
    "bytes": lambda: bytes(SIZE),
    "random bytes": lambda: os.urandom(SIZE),
    "text": lambda: "abcdefg" * (SIZE // 7),
    "text of many scripts": lambda: "aé€\U0001f600" * (SIZE // 4),
    "text with surrogates": lambda: "x" * SIZE + "\ud800\udc00" + "y" * 10,
    "surrogates at the end of a slice": lambda: "x" * ((1 << 20) - 1) + "\ud83d\ude00" + "y" * SIZE,
    "bytearray": lambda: bytearray(SIZE),
    "list of bytes": lambda: [os.urandom(LARGE // 4) for _ in range(5)],
    "list of numbers": lambda: [number / 3 for number in range(SIZE // 9 + 1)],
    "dict": lambda: {"a": "text" * (SIZE // 4), "b": [1, None], "c": bytes(SIZE)},
    "nested": lambda: [(number, [text]) for number in range(100) for text in ["x" * 60_000]],
}


def in_parts(
    serializer: Serializer, value: object, *, tags: dict[str, int] | None = None, most: int = UNBOUNDED
) -> Payload:
    """Return the envelope of a value as the tier gets it."""
    return serializer.encode_in_parts(
        "k", value, created=1.0, expires=9.0, stale_until=9.0, tags=tags or {}, most=most
    )


@pytest.mark.parametrize("name", LARGE_VALUES)
@pytest.mark.parametrize(
    ("compression", "secret"), [(None, None), ("zlib", None), ("zlib", SECRET), ("zstd", None)]
)
def test_it_comes_back(name: str, compression: Compression, secret: str | None) -> None:
    """As it went in, in one envelope; bytes and texts without a copy of all of it."""
    value = LARGE_VALUES[name]()
    serializer = Serializer("space", compression=compression, secret=secret)
    envelope = in_parts(serializer, value, tags={"t": 5})
    whole = b"".join(pieces_of(envelope))
    assert isinstance(envelope, Parts) == (len(whole) > LARGE)
    assert len(envelope) == len(whole)
    stored = serializer.decode("k", whole)
    assert stored.value() == value
    assert type(stored.value()) is type(value)
    assert stored.tags == {"t": 5}


def test_pickles_in_parts_are_pickles() -> None:
    """Any reader of pickles reads them, and they hold the value itself."""
    codec = PickleCodec(trusted=True)
    for make in LARGE_VALUES.values():
        value = make()
        payload, table = codec.encode_with_classes(value)
        assert isinstance(payload, Parts)
        assert pickle.loads(b"".join(payload.pieces)) == value
        assert table == b""
        if type(value) is bytes:
            assert any(piece is value for piece in payload.pieces)
    payload, table = codec.encode_with_classes(Holder(bytes(SIZE)))
    assert isinstance(payload, Parts)
    assert b"Holder" in table


@pytest.mark.parametrize("algorithm", ["zlib", "zstd", None])
def test_what_does_not_become_smaller(algorithm: Compression) -> None:
    """Such a payload is stored raw, and so is one that is too large to be compressed."""
    compressor = Compressor(algorithm)
    noise = os.urandom(SIZE)
    packed = compressor.pack_parts(Parts([noise[:1000], noise[1000:]]))
    if algorithm is None:
        assert packed is not None
        assert b"".join(pieces_of(packed[1])) == noise
    else:
        assert packed is None
    for value in (noise, [noise, 1], bytes(LARGEST_RAW + 1)):
        serializer = Serializer("space", compression=algorithm)
        envelope = in_parts(serializer, value)
        assert len(envelope) > SIZE
        assert serializer.decode("k", b"".join(pieces_of(envelope))).value() == value


#: Values of many small parts, with keys that may collide or tuples that may be deep.
OF_SMALL_PARTS: dict[str, Callable[[], Any]] = {
    "set of floats": lambda: {number / 3 for number in range(6_000)},
    "set of integers": lambda: {number * 7 for number in range(6_000)},
    "dict of floats": lambda: {number / 3: number for number in range(6_000)},
    "dict of tuples": lambda: {(number, number / 3): number for number in range(6_000)},
    "set of tuples": lambda: {(number, number / 3) for number in range(6_000)},
    "sets in a dict": lambda: {"a": [{number / 3 for number in range(6_000)}]},
    "frozensets": lambda: [frozenset((number / 3, number / 7)) for number in range(6_000)],
    "rows": lambda: [(number, number / 3, f"{number}") for number in range(6_000)],
    "rows in a tuple in a dict": lambda: {"rows": ([(number, number / 3) for number in range(6_000)], 1)},
}


@pytest.mark.parametrize("name", OF_SMALL_PARTS)
def test_it_is_not_built_again(name: str) -> None:
    """To verify it takes about the memory of the value at most. To read it back takes the pickle as well."""
    codec, value = PickleCodec(), OF_SMALL_PARTS[name]()
    codec._verify(value, pickle.dumps(value, 5))  # compiles expressions
    tracemalloc.start()
    try:
        value = OF_SMALL_PARTS[name]()
        (size, _), payload = tracemalloc.get_traced_memory(), pickle.dumps(value, 5)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        codec._verify(value, payload)
        assert tracemalloc.get_traced_memory()[1] - before < 1.2 * size
    finally:
        tracemalloc.stop()


TOO_LARGE: dict[str, Callable[[], Any]] = {
    "bytes": lambda: bytes(SIZE * 10),
    "text": lambda: "x" * (SIZE * 10),
    "text whose bytes are too many": lambda: "€" * (SIZE * 5),
    "list": lambda: [number / 3 for number in range(SIZE // 4)],
    "list of bytes": lambda: [bytes([number]) * (1 << 20) for number in range(50)],
    "deep": lambda: {"a": [{"b": [bytes([number]) * (1 << 20)]} for number in range(50)]},
    "object": lambda: Holder([bytes([number]) * (1 << 20) for number in range(50)]),
    "bytearray": lambda: bytearray(SIZE * 10),
}


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_will_be_refused_is_not_built(name: str, trusted: bool) -> None:
    """The pickling ends once the bound is passed, wherever the large part is."""
    codec, value, most = PickleCodec([Holder], trusted=trusted), TOO_LARGE[name](), 2 * SIZE
    tracemalloc.start()
    try:
        with pytest.raises(ValueTooLargeError, match="bytes or more"):
            codec.encode_with_classes(value, most)
        # The list is pickled up to the bound, and then the pickler's memo lives as well.
        assert tracemalloc.get_traced_memory()[1] < 2 * most
    finally:
        tracemalloc.stop()
    assert codec.decode(codec.encode([1, "a"])) == [1, "a"]


def test_the_bound_is_exact() -> None:
    """A value that takes as many bytes as it may is stored."""
    codec = PickleCodec(trusted=True)
    for value in ("x" * SIZE, bytes(SIZE), [1.5] * 100_000, {"a": bytes(SIZE)}, "é" * SIZE, [1, 2]):
        size = len(codec.encode_with_classes(value)[0])
        assert len(codec.encode_with_classes(value, size)[0]) == size
        with pytest.raises(ValueTooLargeError):
            codec.encode_with_classes(value, size - 1)


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_other_codecs(codec: Any) -> None:
    """A text that is too large is refused before the codec gets it."""
    serializer = Serializer("space", codec=codec, compression=None)
    with pytest.raises(ValueTooLargeError):
        in_parts(serializer, "x" * SIZE, most=SIZE - 1)
    envelope = in_parts(serializer, ["x" * SIZE])
    assert isinstance(envelope, Parts)
    assert serializer.decode("k", b"".join(envelope.pieces)).value() == ["x" * SIZE]


class Pickling:
    """An object that encodes another value while it is pickled, as one does that calls a cache."""

    def __reduce__(self) -> Any:
        assert pickle.loads(PickleCodec(trusted=True).encode({"inner": [1, 2]})) == {"inner": [1, 2]}
        return (Pickling, ())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pickling)

    __hash__ = None  # type: ignore[assignment]


class Failing:
    """An object that cannot be pickled."""

    def __reduce__(self) -> Any:
        raise ValueError("no")


def test_picklers_are_used_again_and_forget() -> None:
    """Within each other, after errors and after large values: none keeps what it has pickled."""
    codec = PickleCodec(trusted=True)
    held = ["an item", Pickling()]
    for _ in range(3):
        assert codec.decode(codec.encode([held, held])) == [held, held]
        with pytest.raises(SerializationError, match="no"):
            codec.encode([held, Failing()])
        codec.encode([held, bytes(SIZE)])
    assert 1 <= len(pickle_codec._free) <= 2
    assert not any(free.kinds or free.sink.pieces for free in pickle_codec._free)
    same = codec.encode(["an item"])
    assert codec.encode(["an item"]) == same == pickle.dumps(["an item"], 5)
