"""Faults of the file tier's engine: a stop after the Nth effect, as by `kill -9`, and a full disk."""

from __future__ import annotations

import errno
import os
from typing import Any, cast, final

from cachekit.tiers.file.engine.file_ops import FileOps
from cachekit.tiers.file.folder import Folder


class CrashError(BaseException):
    """The process "died" here. It is not an Exception, so that no code handles it."""


class StoppingEffects(FileOps):
    """Counts effects, and stops after the first `allowed` of them.

    An effect is a system call that changes a directory, or one store into a mapped file. The first effect
    beyond the limit, and every later one, raises CrashError. A pwrite may then have written a part.

    Args:
        allowed: The number of effects that happen; None (the default) for all, which only counts them.
        torn: The share of the stopped pwrite that still happens, 0 (the default) to 1.
    """

    def __init__(self, allowed: int | None = None, torn: float = 0.0) -> None:
        self.allowed = allowed
        self.torn = torn
        self.count = 0

    def _happen(self) -> None:
        if self.allowed is not None and self.count >= self.allowed:
            self.count += 1
            raise CrashError(f"after {self.allowed} effects")
        self.count += 1

    def allocate(self, fd: int, size: int) -> None:
        """Set the size of a new file, and allocate its blocks."""
        self._happen()
        FileOps.allocate(fd, size)

    def create(self, folder: Folder, name: str) -> int:
        """Create a new file."""
        self._happen()
        return FileOps.create(folder, name)

    def extend(self, fd: int, size: int) -> None:
        """Give a file that was cut its size back."""
        self._happen()
        FileOps.extend(fd, size)

    def punch(self, fd: int, size: int) -> None:
        """Give the blocks of a file back."""
        self._happen()
        FileOps.punch(fd, size)

    def pwrite(self, fd: int, content: Any, offset: int) -> int:
        """Write; a stopped write writes a part."""
        if self.allowed is not None and self.count == self.allowed and self.torn:
            FileOps.pwrite(fd, bytes(content)[: int(len(content) * self.torn)], offset)
        self._happen()
        return FileOps.pwrite(fd, content, offset)

    def replace(self, folder: Folder, old: str, new: str) -> None:
        """Rename a file over another one."""
        self._happen()
        FileOps.replace(folder, old, new)

    def truncate(self, fd: int, size: int) -> None:
        """Set the size of a file."""
        self._happen()
        FileOps.truncate(fd, size)

    def unlink(self, folder: Folder, name: str) -> None:
        """Remove a file."""
        self._happen()
        FileOps.unlink(folder, name)

    def words(self, view: memoryview) -> memoryview:
        """Return a view whose stores count."""
        return cast(memoryview, _CountedView(view, self))

    def octets(self, view: memoryview) -> memoryview:
        """Return a view whose stores count."""
        return cast(memoryview, _CountedView(view, self))


class FullDisk(FileOps):
    """The effects of a disk that is full while `full` is true: no new data can be written."""

    def __init__(self) -> None:
        self.full = False

    def _check(self) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def allocate(self, fd: int, size: int) -> None:
        """Set the size of a new file, and allocate its blocks."""
        self._check()
        FileOps.allocate(fd, size)

    def pwrite(self, fd: int, content: Any, offset: int) -> int:
        """Write."""
        self._check()
        return FileOps.pwrite(fd, content, offset)


@final
class _CountedView:
    """The methods of a memoryview that the engine uses."""

    __slots__ = ("_effects", "_view")

    def __init__(self, view: memoryview, effects: StoppingEffects) -> None:
        self._view = view
        self._effects = effects

    def __getitem__(self, at: Any) -> Any:
        return self._view[at]

    def __setitem__(self, at: Any, value: Any) -> None:
        self._effects._happen()
        self._view[at] = value

    def __len__(self) -> int:
        return len(self._view)

    def __bytes__(self) -> bytes:
        return bytes(self._view)

    def tolist(self) -> list[int]:
        return self._view.tolist()
