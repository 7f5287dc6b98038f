"""The operations by which the engine changes a directory, in one small object that a test can replace.

The methods are the builtins themselves, and `words` and `octets` return the view that they get. So an
operation costs what the system call, or the store into a memoryview, costs. A test passes another object,
which counts, and stops after the Nth operation as `kill -9` would (`cachekit.testing.faults`).
"""

from __future__ import annotations

import mmap
import os

from cachekit.runtime.interrupts import raise_interrupt
from cachekit.tiers.file.descriptor import OpenFile
from cachekit.tiers.file.descriptor_budget import descriptors
from cachekit.tiers.file.folder import Folder


def _allocate(fd: int, size: int) -> None:
    """Give a new file its size and its blocks: on a full disk, storing into a mapped hole is SIGBUS."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
    else:
        zeros = bytes(1 << 16)
        for offset in range(0, size, len(zeros)):
            os.pwrite(fd, zeros[: size - offset], offset)


def _create(folder: Folder, name: str) -> int:
    """Return the descriptor of a new file; there must be none of that name."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return descriptors.attempt(os.open, name, flags, 0o600, dir_fd=folder.fd)


def _extend(fd: int, size: int) -> None:
    """Give a file that was cut its size back, and blocks if the disk has them. What is new reads as zeros."""
    try:
        os.posix_fallocate(fd, 0, size)
    except (AttributeError, OSError) as error:
        raise_interrupt(error)
        os.ftruncate(fd, size)


def _punch(fd: int, size: int) -> None:
    """Give the blocks of a file back, which then reads as zeros; where the system cannot do that, keep them.

    Cutting it instead would be SIGBUS in processes that have it mapped.
    """
    if hasattr(mmap, "MADV_REMOVE"):
        try:
            with mmap.mmap(fd, size) as view:
                view.madvise(mmap.MADV_REMOVE)
        except OSError as error:
            raise_interrupt(error)


def _replace(folder: Folder, old: str, new: str) -> None:
    os.replace(old, new, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)


def _unlink(folder: Folder, name: str) -> None:
    """Remove a file or a link, never a directory. The target of a link stays."""
    os.unlink(name, dir_fd=folder.fd)


class FileOps:
    """The operations of normal use. Each raises OSError as the system call does."""

    allocate = staticmethod(_allocate)
    create = staticmethod(_create)
    extend = staticmethod(_extend)
    punch = staticmethod(_punch)
    pwrite = staticmethod(os.pwrite)
    replace = staticmethod(_replace)
    truncate = staticmethod(os.ftruncate)
    unlink = staticmethod(_unlink)

    def words(self, view: memoryview) -> memoryview:
        """Return the view through which aligned 8-byte words of a mapped file are stored."""
        return view

    def octets(self, view: memoryview) -> memoryview:
        """Return the view through which single bytes of a mapped file are stored."""
        return view


def regrow(folder: Folder, name: str, size: int, effects: FileOps, *, blocks: bool = True) -> bool:
    """Give a mapped file that was cut its size back, with its blocks or as a hole; tell whether it was cut.

    Until then, the use of a page that is gone is SIGBUS. After that it is zeros, which are damage like other.
    """
    found = folder.look(name)
    if found is None or found.st_size >= size:
        return False
    try:
        file = OpenFile(folder.open(name, os.O_RDWR))
    except FileNotFoundError:
        return False  # removed just now, or replaced by what is no file: the mapped one is another
    if blocks:
        effects.extend(file.fd, size)
    else:
        effects.truncate(file.fd, size)
    return True


#: The operations of normal use.
EFFECTS = FileOps()
