"""Everything by which the engine changes a directory, in one small object that a test can replace.

In normal use an effect costs what the system call, or the store into a memoryview, costs: the methods
are the builtins themselves, and `words` and `octets` return the view that they are given. A test puts
an object in its place that counts, and stops after the Nth effect as `kill -9` would
(`cachekit.testing.faults`).
"""

from __future__ import annotations

import errno
import mmap
import os


def _allocate(fd: int, size: int) -> None:
    """Give a new file its size and its blocks: a hole in a mapped file is SIGBUS when the disk is full."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
    else:
        zeros = bytes(1 << 16)
        for offset in range(0, size, len(zeros)):
            os.pwrite(fd, zeros[: size - offset], offset)


def _create(path: str) -> int:
    """A new file, open for writing; there must be none of that name."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def open_ours(path: str, flags: int) -> int:
    """A file that is there, for `open` too. A symbolic link is not followed, and is no file of ours.

    Raises:
        FileNotFoundError: there is none.
        OSError: as the system call does.
    """
    try:
        # Not blocking: somebody may have put a pipe there.
        return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FileNotFoundError(errno.ENOENT, "a symbolic link is not followed", path) from error
        raise


def mapped(path: str, size: int, *, read_only: bool = False) -> memoryview:
    """So much of a file of ours, in memory.

    Raises:
        OSError: as the system calls do; also if it is shorter, because the directory was just replaced.
    """
    with open(path, "rb" if read_only else "r+b", opener=open_ours) as file:
        access = mmap.ACCESS_READ if read_only else mmap.ACCESS_DEFAULT
        try:
            return memoryview(mmap.mmap(file.fileno(), size, access=access))
        except ValueError:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path) from None


def open_or_make(path: str) -> int:
    """A file to be locked, made if it is not there.

    Raises:
        OSError: as the system call does; also for a symbolic link.
    """
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)


def make_directories(path: str) -> None:
    """A directory, with those above it that are not there: each for this user alone.

    `os.makedirs` gives its mode to the last one only. Above the others anybody could then put another
    cache in place of this one, under a umask that lets them.

    Raises:
        OSError: as the system call does; NotADirectoryError where something else has the name.
    """
    missing = [path]
    above = os.path.dirname(path)
    while not os.path.isdir(above) and above != os.path.dirname(above):
        missing.append(above)
        above = os.path.dirname(above)
    for one in reversed(missing):
        try:
            os.mkdir(one, 0o700)
        except FileExistsError:
            if not os.path.isdir(one):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), one) from None


class FileOps:
    """The real ones. Each raises OSError as the system call does."""

    allocate = staticmethod(_allocate)
    create = staticmethod(_create)
    pwrite = staticmethod(os.pwrite)
    replace = staticmethod(os.replace)
    truncate = staticmethod(os.ftruncate)
    unlink = staticmethod(os.unlink)

    def words(self, view: memoryview) -> memoryview:
        """The view through which aligned 8-byte words of a mapped file are stored."""
        return view

    def octets(self, view: memoryview) -> memoryview:
        """The view through which single bytes of a mapped file are stored."""
        return view


#: The effects of normal use.
EFFECTS = FileOps()
