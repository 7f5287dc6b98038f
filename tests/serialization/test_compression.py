"""Compression: smaller or raw, and bounded on the way back."""

from __future__ import annotations

import functools
import importlib
import os
import struct
import sys
import threading
import zlib

import hostile
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachekit.errors import UnreadableError
from cachekit.serialization.compression import LARGEST_RAW, RAW, THRESHOLD, ZLIB, ZSTD, Compressor, unpack
from cachekit.serialization.serializer import Serializer

zstd = importlib.import_module("backports.zstd" if sys.version_info < (3, 14) else "compression.zstd")
BOTH = pytest.mark.parametrize(("algorithm", "code"), [("zlib", ZLIB), ("zstd", ZSTD)])


def zstd_bytes(payload: bytes, window_log: int = 0) -> bytes:
    options: dict[int, int] = {}
    if window_log:
        options[zstd.CompressionParameter.window_log] = window_log
    compressor = zstd.ZstdCompressor(options=options)
    packed: bytes = compressor.compress(payload) + compressor.flush()
    return packed


@BOTH
def test_what_shrinks_is_stored_small(algorithm: str, code: int) -> None:
    """A large text is compressed, and returns."""
    payload = b"lorem ipsum " * 1000
    how, packed = Compressor(algorithm).pack(payload)  # type: ignore[arg-type]
    assert how == code
    assert len(packed) < len(payload) // 10
    assert unpack(how, memoryview(packed)) == payload


@BOTH
def test_small_and_random_payloads_stay_raw(algorithm: str, code: int) -> None:
    """Below the threshold, and where it does not shrink, the payload itself is stored."""
    compressor = Compressor(algorithm)  # type: ignore[arg-type]
    for payload in b"", b"a" * (THRESHOLD - 1), os.urandom(THRESHOLD * 4):
        how, packed = compressor.pack(payload)
        assert (how, packed is payload) == (RAW, True)
    assert compressor.pack(b"a" * THRESHOLD)[0] == code


def test_huge_payloads_stay_raw() -> None:
    """What a reader would refuse is not compressed."""
    payload = bytes(LARGEST_RAW + 1)
    assert Compressor("zlib").pack(payload)[1] is payload


def test_none_compresses_nothing() -> None:
    """compression=None stores every payload raw."""
    payload = b"a" * 100_000
    assert Compressor(None).pack(payload) == (RAW, payload)


@given(st.binary(max_size=100).map(lambda seed: seed * 100))
def test_whatever_is_packed_unpacks(payload: bytes) -> None:
    """Packing and unpacking agree for both algorithms."""
    for compressor in Compressor("zlib"), Compressor("zstd"):
        how, packed = compressor.pack(payload)
        assert unpack(how, memoryview(packed)) == payload


@functools.cache
def bomb_of(algorithm: str) -> bytes:
    """Return 100 MiB, compressed."""
    return zlib.compress(bytes(100 << 20)) if algorithm == "zlib" else zstd_bytes(bytes(100 << 20))


@pytest.mark.parametrize("claim", [100, 1 << 20, LARGEST_RAW + 1, 2**31, 2**63, 2**64 - 1])
@BOTH
def test_bombs_are_damage(algorithm: str, code: int, claim: int) -> None:
    """A few bytes that would unpack to 100 MiB, whatever length they claim, are refused cheaply."""
    stored = memoryview(struct.pack("<Q", claim) + bomb_of(algorithm))
    with hostile.bounded_memory(), pytest.raises(UnreadableError) as caught:
        unpack(code, stored)
    assert caught.value.reason == "damage"


@pytest.mark.parametrize("claim", [0, 9, 11, 2**40])
@BOTH
def test_another_length_than_claimed_is_damage(algorithm: str, code: int, claim: int) -> None:
    """Longer, shorter or unfinished streams are refused."""
    packed = zlib.compress(b"0123456789") if algorithm == "zlib" else zstd_bytes(b"0123456789")
    for stream in packed, packed[:-1], packed + b"x", b"", b"garbage":
        with pytest.raises(UnreadableError) as caught:
            unpack(code, memoryview(struct.pack("<Q", claim) + stream))
        assert caught.value.reason == "damage"
    for stream in packed[:-1], packed + b"x", packed + packed:
        with pytest.raises(UnreadableError):
            unpack(code, memoryview(struct.pack("<Q", 10) + stream))
    assert unpack(code, memoryview(struct.pack("<Q", 10) + packed)) == b"0123456789"


def test_a_window_of_gigabytes_is_refused() -> None:
    """A zstd frame that asks for a large window is damage, whatever it contains."""
    frame = zstd_bytes(b"0123456789" * 10, window_log=27)
    with hostile.bounded_memory(), pytest.raises(UnreadableError, match="zstd payload is damaged"):
        unpack(ZSTD, memoryview(struct.pack("<Q", 100) + frame))


def test_cut_lengths_and_unknown_algorithms() -> None:
    """Both are unreadable, for their own reasons."""
    with pytest.raises(UnreadableError, match="length of their payload") as caught:
        unpack(ZLIB, memoryview(b"1234567"))
    assert caught.value.reason == "damage"
    with pytest.raises(UnreadableError, match="algorithm 9") as caught:
        unpack(9, memoryview(b"x"))
    assert caught.value.reason == "codec"


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, writing is an error that names it, and reading is a miss that names it."""
    buffer = Serializer("ns", compression="zstd").encode("k", "a" * 10_000, created=1)
    for module in "backports", "backports.zstd", "compression", "compression.zstd":
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'cachekit-tiered\[zstd\]'"):
        Serializer("ns", compression="zstd")
    with pytest.raises(UnreadableError, match=r"cachekit-tiered\[zstd\]") as caught:
        Serializer("ns").decode("k", buffer).value()
    assert caught.value.reason == "codec"


@BOTH
def test_threads_share_a_compressor(algorithm: str, code: int) -> None:
    """Many threads at once compress with one object, each its own payload."""
    compressor = Compressor(algorithm)  # type: ignore[arg-type]
    start = threading.Barrier(4)
    failures: list[object] = []

    def work(seed: int) -> None:
        payload = f"text of thread {seed} ".encode() * 5000
        start.wait(60)
        for _ in range(20):
            how, packed = compressor.pack(payload)
            if how != code or unpack(how, memoryview(packed)) != payload:
                failures.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
