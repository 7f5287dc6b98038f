"""Request logs: read once, from several formats, into a file of numbers that is read many times.

A log may be larger than memory: a temporary directory takes eight bytes per request. Keys become 64-bit
hashes. Two of a billion keys share a hash with a probability of a few percent, which changes no visible
digit.
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
import zlib
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, Final, cast, final

from cachekit.model.display import safe_repr

_CHUNK: Final = 1 << 16  # requests in memory at a time
_SET: Final = 1 << 18  # distinct keys that are counted exactly
_BITS: Final = 64
_GOLDEN: Final = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio: spreads consecutive numbers


@final
class Requests:
    """The stream of requests, or a sample of it by keys, as numbers on disk.

    For a sample, a cache that is smaller by the same share has about the same hit ratio, after a correction
    for the number of requests in the sample. That number depends on whether the few most popular keys are in
    the sample, and any cache serves those (Waldspurger, Park, Garthwaite, Ahmad, "Efficient MRC Construction
    with SHARDS", FAST '15, with its adjustment).

    Args:
        path: The path of a file that does not exist yet.
        share: The share of the keys that is kept, more than 0 to 1 (default 1).
    """

    def __init__(self, path: Path, share: float = 1.0) -> None:
        self._path = path
        self._share = share
        self._limit = round(share * (1 << 32))
        self._step = 0  # only keys that end in this many zero bits are counted
        self._seen: set[int] = set()
        self.number = 0
        self.unsampled = 0  #: requests read, in the sample or not

    def hit_ratio(self, hits: int) -> float:
        """Return the hit ratio of a cache that has this many hits on these requests."""
        expected = self.unsampled * self._share
        return min(max((hits + expected - self.number) / expected, 0.0), 1.0)

    @property
    def distinct(self) -> int:
        """Return the number of distinct keys; above 262,144 it is an estimate, right to about 1 %."""
        # Flajolet, "On adaptive sampling", Computing 43 (1990).
        return len(self._seen) << self._step

    def append(self, keys: Iterable[int]) -> None:
        """Add requests at the end of the stream."""
        with self._path.open("ab") as file:
            for chunk in _chunks(keys):
                self.unsampled += len(chunk)
                if self._share < 1:
                    # The upper bits select the sample, because the lower ones count distinct keys.
                    chunk = array("Q", (key for key in chunk if key >> 32 < self._limit))
                chunk.tofile(file)
                self.number += len(chunk)
                self._count(chunk)

    def _count(self, chunk: array[int]) -> None:
        mask = (1 << self._step) - 1
        self._seen.update(key for key in chunk if not key & mask)
        while len(self._seen) > _SET:
            self._step += 1
            mask = (1 << self._step) - 1
            self._seen = {key for key in self._seen if not key & mask}

    def chunks(self) -> Iterator[array[int]]:
        """Yield the stream from its beginning, in parts that fit in memory."""
        return read_numbers(self._path)


def read_numbers(path: Path) -> Iterator[array[int]]:
    """Yield 64-bit numbers from a file, in parts that fit in memory."""
    with path.open("rb") as file:
        while True:
            chunk = array("Q")
            chunk.frombytes(file.read(_CHUNK * chunk.itemsize))
            if not chunk:
                return
            yield chunk


def _chunks(keys: Iterable[int]) -> Iterator[array[int]]:
    chunk = array("Q")
    for key in keys:
        chunk.append(key)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = array("Q")
    if chunk:
        yield chunk


def read_log(path: Path, column: str | None, seen: Callable[[int], object]) -> Iterator[int]:
    """Yield the keys of a log as numbers, in order.

    Args:
        path: The log, or a pipe: one key per line, or CSV if there is a column, or little-endian 32-bit
            numbers if the name ends in `.u32`. Each may be compressed with gzip.
        column: The CSV column with the key: a name from the first line, or a number from 1 if the first
            line has no names.
        seen: Called with the number of bytes read so far; not for a pipe, which has no size.

    Raises:
        ValueError: there is no such column, the file ends in the middle of a number, or the file is not
            valid CSV or gzip; the message names the file.
        OSError: the file cannot be read.
    """
    with path.open("rb") as raw:
        compressed = raw.peek(2)[:2] == b"\x1f\x8b"
        measured = raw.seekable()
        stream = cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if compressed else raw
        if path.name.removesuffix(".gz").endswith(".u32"):
            keys = _numbers(path, stream)
        elif column is None:
            keys = _lines(stream)
        else:
            keys = _column(path, stream, column)
        try:
            with closing(keys):
                for index, key in enumerate(keys):
                    if measured and not index & 0xFFF:
                        seen(raw.tell())
                    yield key
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        if measured:
            seen(raw.tell())


def _number(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=_BITS // 8).digest(), "little")


def _numbers(path: Path, stream: IO[bytes]) -> Generator[int, None, None]:
    rest = b""
    while block := stream.read(4 * _CHUNK):
        block = rest + block
        whole = len(block) & ~3
        chunk = array("I", block[:whole])
        rest = block[whole:]
        if sys.byteorder == "big":
            chunk.byteswap()
        for key in chunk:
            spread = (key + 1) * _GOLDEN & (1 << _BITS) - 1
            yield spread ^ spread >> 29
    if rest:
        raise ValueError(f"{path} must have whole 32-bit numbers; if it is a log of lines, rename it")


def _lines(stream: IO[bytes]) -> Generator[int, None, None]:
    for line in stream:
        key = line.strip()
        if key:
            yield _number(key)


def _column(path: Path, stream: IO[bytes], column: str) -> Generator[int, None, None]:
    text = io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="")
    rows = csv.reader(text)
    try:
        yield from _cells(path, rows, column)
    except csv.Error as error:
        raise ValueError(f"line {rows.line_num} of {path} must be CSV: {error}") from error
    finally:
        text.detach()  # otherwise it would close the stream, which belongs to the caller


def _cells(path: Path, rows: Any, column: str) -> Iterator[int]:
    if column.isdecimal():
        index = int(column) - 1
    else:
        header: list[str] | None = next(filter(None, rows), None)
        if header is None:
            raise ValueError(f"{path} is empty: its first line must name the columns")
        if column not in header:
            raise ValueError(
                f"the column must be one of {', '.join(header)} of {path}, not {safe_repr(column)}"
            )
        index = header.index(column)
    for row in rows:
        if not row:
            continue
        if not 0 <= index < len(row):
            raise ValueError(f"line {rows.line_num} of {path} has {len(row)} columns, and no column {column}")
        yield _number(row[index].encode("utf-8", "surrogateescape"))


def sizes_of(paths: Sequence[Path]) -> int:
    """Return the bytes of all files together."""
    return sum(path.stat().st_size for path in paths)
