"""Everything by which the engine changes a directory, in one small object that a test can replace.

In normal use an effect costs what the system call, or the store into a memoryview, costs: the methods
are the builtins themselves, and `words` and `octets` return the view that they are given. A test puts
an object in its place that counts, and stops after the Nth effect as `kill -9` would
(`cachekit.testing.faults`).
"""

from __future__ import annotations

import os

from cachekit.tiers.file.folder import Folder


def _allocate(fd: int, size: int) -> None:
    """Give a new file its size and its blocks: a hole in a mapped file is SIGBUS when the disk is full."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
    else:
        zeros = bytes(1 << 16)
        for offset in range(0, size, len(zeros)):
            os.pwrite(fd, zeros[: size - offset], offset)


def _create(folder: Folder, name: str) -> int:
    """A new file, open for writing; there must be none of that name."""
    return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder.fd)


def _replace(folder: Folder, old: str, new: str) -> None:
    os.replace(old, new, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)


def _unlink(folder: Folder, name: str) -> None:
    """Remove a name, and never a directory. A link goes itself, not what it leads to."""
    os.unlink(name, dir_fd=folder.fd)


class FileOps:
    """The real ones. Each raises OSError as the system call does."""

    allocate = staticmethod(_allocate)
    create = staticmethod(_create)
    pwrite = staticmethod(os.pwrite)
    replace = staticmethod(_replace)
    truncate = staticmethod(os.ftruncate)
    unlink = staticmethod(_unlink)

    def words(self, view: memoryview) -> memoryview:
        """The view through which aligned 8-byte words of a mapped file are stored."""
        return view

    def octets(self, view: memoryview) -> memoryview:
        """The view through which single bytes of a mapped file are stored."""
        return view


#: The effects of normal use.
EFFECTS = FileOps()
