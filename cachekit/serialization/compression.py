"""Compression: off for small payloads, zlib at level 1 otherwise, zstd as an extra.

This module promises that a payload is never stored larger than it was, and that reading allocates
no more than `LARGEST_RAW` and no more than the stated length, whatever the bytes claim: a bomb is
damage.
"""

from __future__ import annotations

import struct
import sys
import threading
import zlib
from types import ModuleType
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

from cachekit.errors import UnreadableError
from cachekit.model.display import safe_repr
from cachekit.serialization.parts import LARGE, Parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Compression: TypeAlias = Literal["zlib", "zstd"] | None

RAW: Final = 0
ZLIB: Final = 1
ZSTD: Final = 2

#: Payloads under this many bytes stay raw: the time is worth more than the few bytes.
THRESHOLD: Final = 2048
#: Payloads over this many bytes stay raw too, so that a reader may refuse any claim above it.
LARGEST_RAW: Final = 64 << 20

#: A zstd frame may ask its reader for a window of gigabytes; ours never need more than 8 MiB.
_ZSTD_WINDOW_LOG: Final = 23
_ZSTD_LEVEL: Final = 3

_LENGTH: Final = struct.Struct("<Q")
#: Bytes of a large payload that are compressed together.
_PIECE: Final = 1 << 20


def _zstd() -> ModuleType:
    """The zstd module of this Python, loaded on first use.

    Raises:
        ModuleNotFoundError: the extra is not installed.
    """
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "compression='zstd' needs the extra zstd: pip install 'cachekit-tiered[zstd]'"
        ) from error
    module: ModuleType = zstd
    return module


class _Stream(Protocol):
    """Compresses piece by piece."""

    def compress(self, data: memoryview, /) -> bytes: ...

    def flush(self) -> bytes: ...


class _Compressors(threading.local):
    """One zstd compressor per thread: those who share one wait for each other."""

    def __init__(self) -> None:
        zstd = _zstd()
        option = zstd.CompressionParameter
        self.compressor = zstd.ZstdCompressor(
            options={option.compression_level: _ZSTD_LEVEL, option.window_log: _ZSTD_WINDOW_LOG - 2}
        )
        self.whole = zstd.ZstdCompressor.FLUSH_FRAME


def _zstd_stream() -> Callable[[], _Stream]:
    zstd = _zstd()
    option = zstd.CompressionParameter
    options = {option.compression_level: _ZSTD_LEVEL, option.window_log: _ZSTD_WINDOW_LOG - 2}

    def stream() -> _Stream:
        made: _Stream = zstd.ZstdCompressor(options=options)
        return made

    return stream


def _zlib_stream() -> _Stream:
    return zlib.compressobj(1)


def _zlib_compress(payload: bytes) -> bytes:
    return zlib.compress(payload, 1)


def _zstd_compressor() -> Callable[[bytes], bytes]:
    local = _Compressors()

    def compress(payload: bytes) -> bytes:
        packed: bytes = local.compressor.compress(payload, local.whole)
        return packed

    return compress


class Compressor:
    """Shrinks payloads on their way out. Safe to share between threads.

    Args:
        algorithm: "zlib", "zstd" (needs the extra), or None for none.

    Raises:
        ValueError: another name.
        ModuleNotFoundError: the extra is not installed.
    """

    def __init__(self, algorithm: Compression) -> None:
        self.algorithm = algorithm
        self._compress: Callable[[bytes], bytes] | None
        self._stream: Callable[[], _Stream] = _zlib_stream
        if algorithm is None:
            self._code, self._compress = RAW, None
        elif algorithm == "zlib":
            self._code, self._compress = ZLIB, _zlib_compress
        elif algorithm == "zstd":
            _zstd()  # refuse here, where the user stands, rather than at the first large value
            self._code, self._compress, self._stream = ZSTD, _zstd_compressor(), _zstd_stream()
        else:
            raise ValueError(f"compression must be 'zlib', 'zstd' or None, not {safe_repr(algorithm)}")

    def pack(self, payload: bytes) -> tuple[int, bytes]:
        """The payload as it should be stored, and the number of the algorithm that did it."""
        if self._compress is None or not THRESHOLD <= len(payload) <= LARGEST_RAW:
            return RAW, payload
        packed = self._compress(payload)
        if len(packed) + _LENGTH.size >= len(payload):
            return RAW, payload
        return self._code, _LENGTH.pack(len(payload)) + packed

    def pack_parts(self, payload: Parts) -> tuple[int, bytes | Parts] | None:
        """Do as `pack` for a large payload, and free each piece when it is compressed.

        None if it would not become smaller. Then it has to be made again, because its pieces are gone.
        """
        if self._compress is None or len(payload) > LARGEST_RAW:
            return RAW, payload
        packed = [_LENGTH.pack(len(payload))]
        left = len(payload) - _LENGTH.size
        for piece in self._compressed(payload):
            left -= len(piece)
            if left <= 0:
                return None
            packed.append(piece)
        size = len(payload) - left
        return self._code, b"".join(packed) if size <= LARGE else Parts(packed)

    def _compressed(self, payload: Parts) -> Iterator[bytes]:
        stream, pieces = self._stream(), payload.pieces
        pieces.reverse()
        while pieces:
            view = memoryview(pieces.pop())
            for start in range(0, len(view), _PIECE):
                yield stream.compress(view[start : start + _PIECE])
        yield stream.flush()


def unpack(algorithm: int, stored: bytes | memoryview) -> bytes | memoryview:
    """The payload that was packed with the algorithm.

    Raises:
        UnreadableError: it is damaged, claims to be larger than `LARGEST_RAW` or is larger than it
            claims (damage); the algorithm is unknown, or its extra is not installed (codec).
    """
    if algorithm == RAW:
        return stored
    if algorithm not in (ZLIB, ZSTD):
        raise UnreadableError(f"compressed with algorithm {algorithm}, unknown here", "codec")
    if len(stored) < _LENGTH.size:
        raise UnreadableError("the stored bytes end within the length of their payload", "damage")
    (size,) = _LENGTH.unpack_from(stored)
    if size > LARGEST_RAW:
        raise UnreadableError(f"a compressed payload claims {size} bytes", "damage")
    # One byte more than claimed: enough to meet the end of the stream, or to see that it goes on.
    payload, ended = _bounded(algorithm, stored[_LENGTH.size :], size + 1)
    if len(payload) != size or not ended:
        raise UnreadableError("a compressed payload is not as long as it claims", "damage")
    return payload


def _bounded(algorithm: int, packed: bytes | memoryview, most: int) -> tuple[bytes, bool]:
    """At most `most` bytes, and whether the stream ended there with nothing behind it."""
    if algorithm == ZLIB:
        inflater = zlib.decompressobj()
        try:
            payload = inflater.decompress(packed, most)
        except zlib.error as error:
            raise UnreadableError("a zlib payload is damaged", "damage") from error
        return payload, inflater.eof and not inflater.unused_data
    try:
        zstd = _zstd()
    except ModuleNotFoundError as error:
        raise UnreadableError(str(error), "codec") from error
    option = zstd.DecompressionParameter.window_log_max
    frame = zstd.ZstdDecompressor(options={option: _ZSTD_WINDOW_LOG})
    try:
        payload = frame.decompress(packed, most)
    except zstd.ZstdError as error:
        raise UnreadableError("a zstd payload is damaged", "damage") from error
    return payload, frame.eof and not frame.unused_data
