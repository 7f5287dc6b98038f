"""Histories that outlive their writers: each process notes in a file what it does before it does it.

A write that was begun and not ended belongs to a process that was killed in it: it may have happened, and
what was there before may be gone all the same. So it is with one that a tier missed; and that its own process
may be served from its memory for as long as the tier is out, whatever others are served.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from cachekit.testing.history import Operation

INFINITE: Final = float("inf")

#: How a write ended: done; or not, though the older value is gone; or nobody knows.
DONE, GONE, OPEN = "done", "gone", "open"


class HistoryLog:
    """The file of one process. What it reads and writes are words without spaces."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def read(self, key: str, look: Callable[[], str | None]) -> None:
        begin = time.monotonic()
        value = look()
        self._note("R", key, value, begin, time.monotonic())

    def write(self, key: str, value: str | None, change: Callable[[], str]) -> None:
        """`change` says how it ended."""
        self._note("W", key, value, time.monotonic())
        how = change()
        self._note("E", how, time.monotonic())

    def update(self, key: str, value: str, change: Callable[[], str | None]) -> None:
        """`change` says which value it replaced, None if there was none."""
        begin = time.monotonic()
        self._note("U", key, value, change(), begin, time.monotonic())

    def _note(self, *words: object) -> None:
        line = " ".join("-" if word is None else str(word) for word in words)
        os.write(self._fd, line.encode() + b"\n")


def logged(directory: Path) -> Iterator[Operation]:
    """The operations of all logs in a directory."""
    for path in directory.iterdir():
        own = set(_missed(path))
        begun: tuple[str, bytes | None, float] | None = None
        for line in path.read_text().splitlines():
            kind, *words = line.split(" ")
            if kind == "R":
                key, value, begin, end = words
                if value not in own:
                    yield Operation(key, False, _value(value), float(begin), float(end))
            elif kind == "U":
                key, value, old, begin, end = words
                yield Operation(key, True, _value(value), float(begin), float(end), _value(old))
            elif kind == "W":
                key, value, begin = words
                begun = key, _value(value), float(begin)
            else:
                assert begun is not None
                yield from _write(*begun, words[0], float(words[1]))
                begun = None
        if begun is not None:
            yield from _write(*begun, OPEN, INFINITE)


def _missed(path: Path) -> Iterator[str]:
    """The values that a process stored while a tier was out."""
    value = "-"
    for line in path.read_text().splitlines():
        kind, *words = line.split(" ")
        if kind == "W":
            value = words[1]
        elif kind == "E" and words[0] == OPEN and value != "-":
            yield value


def _write(key: str, value: bytes | None, begin: float, how: str, end: float) -> Iterator[Operation]:
    yield Operation(key, True, value, begin, end if how == DONE else INFINITE)
    if how != DONE and value is not None:
        # It may come late or never; and what was there before it has gone, or may have.
        yield Operation(key, True, None, begin, end if how == GONE else INFINITE)


def _value(word: str) -> bytes | None:
    return None if word == "-" else word.encode()
