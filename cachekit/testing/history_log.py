"""Histories that outlive their writers: a process notes in a file what it does, before it does it.

A write that began and did not end belongs to a process that was killed. It may have happened, and the older
value may be gone all the same. The same holds for a write that a tier missed. Besides, the process of such a
write may serve the value from its memory for as long as the tier is out. So its own reads of it do not count.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path
from typing import Final, final

from cachekit.testing.history import Operation

#: How a write ended: it was done; it was not, and the older value is gone; it is not known.
DONE: Final = "done"
GONE: Final = "gone"
OPEN: Final = "open"
#: The write was not made.
VOID: Final = "void"


@final
class HistoryLog:
    """The file of one thread or task. The values that it notes are words without spaces.

    Args:
        path: The path of the new file. Files of one process have the same name up to the first dash.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def read(self, key: str, look: Callable[[], str | None]) -> None:
        """Call `look`, and note the value that it returns."""
        begin = time.monotonic()
        value = look()
        self.note_read(key, value, begin)

    def write(self, key: str, value: str | None, change: Callable[[], str]) -> None:
        """Note a write, or with None a delete, and call `change`, which returns how it ended."""
        self.begin_write(key, value, time.monotonic())
        self.end_write(change())

    def update(self, key: str, value: str, change: Callable[[], str | None]) -> None:
        """Call `change`, which returns the value that it replaced, or None, and note both."""
        begin = time.monotonic()
        self._note("U", key, value, change(), begin, time.monotonic())

    def note_read(self, key: str, value: str | None, begin: float) -> None:
        """Note a read that began then and ends now."""
        self._note("R", key, value, begin, time.monotonic())

    def begin_write(self, key: str, value: str | None, begin: float) -> None:
        """Note a write that began then. `end_write` is the next call."""
        self._note("W", key, value, begin)

    def end_write(self, how: str, replaced: str | None = None) -> None:
        """Note how the write ended, and which value it replaced, if it depends on that."""
        self._note("E", how, replaced, time.monotonic())

    def _note(self, *words: object) -> None:
        line = " ".join("-" if word is None else str(word) for word in words)
        os.write(self._fd, line.encode() + b"\n")


def logged(directory: Path) -> Iterator[Operation]:
    """Yield the operations of all logs in a directory."""
    paths = sorted(directory.iterdir())
    missed: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        missed[_process(path)].update(_missed(path))
    for path in paths:
        yield from _logged_in(path, missed[_process(path)])


def _process(path: Path) -> str:
    return path.name.partition("-")[0]


def _logged_in(path: Path, missed: set[str]) -> Iterator[Operation]:
    begun: tuple[str, bytes | None, float] | None = None
    for line in path.read_text().splitlines():
        kind, *words = line.split(" ")
        if kind == "R":
            key, value, begin, end = words
            if value not in missed:
                yield Operation(key, False, _value(value), float(begin), float(end))
        elif kind == "U":
            key, value, old, begin, end = words
            yield Operation(key, True, _value(value), float(begin), float(end), _value(old))
        elif kind == "W":
            key, value, begin = words
            begun = key, _value(value), float(begin)
        else:
            assert begun is not None
            how, old, end = words
            yield from _write(*begun, how, float(end), _value(old))
            begun = None
    if begun is not None:
        yield from _write(*begun, OPEN, inf)


def _missed(path: Path) -> Iterator[str]:
    """Yield the values that a tier may have missed."""
    value = "-"
    for line in path.read_text().splitlines():
        kind, *words = line.split(" ")
        if kind == "W":
            value = words[1]
        elif kind == "E" and words[0] == OPEN and value != "-":
            yield value


def _write(
    key: str, value: bytes | None, begin: float, how: str, end: float, replaced: bytes | None = None
) -> Iterator[Operation]:
    if how == VOID:
        return
    yield Operation(key, True, value, begin, end if how == DONE else inf, replaced)
    if how != DONE and value is not None:
        # It may come late or never, and the older value is gone, or may be.
        yield Operation(key, True, None, begin, end if how == GONE else inf)


def _value(word: str) -> bytes | None:
    return None if word == "-" else word.encode()
