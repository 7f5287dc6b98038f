"""The directory `figures` in that of a cache: private, small files only, and one lock for its readers."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, final

from cachekit.monitoring.record import parsed
from cachekit.monitoring.wanted import FIGURES, LONGEST, WATCHED, changing
from cachekit.tiers.file.descriptor import OpenFile
from cachekit.tiers.file.folder import Folder, ForeignError

#: The file that readers lock, and processes that begin a record.
LOCK: Final = "lock"
#: The sums of the processes that ended.
ENDED: Final = "ended.json"
#: The files of one process.
OF_PROCESS: Final = re.compile(r"([0-9a-f]{32})\.(?:json|lock|json\.new)")

_LARGEST: Final = 1 << 18  # bytes of a file that is read
_POLL: Final = 0.01


@final
class FiguresFolder:
    """An open directory of figures. Its files are this user's alone.

    Args:
        folder: the directory `figures`, checked.
        owner: the user and the group who own the directory above, and so get the files that root makes.
    """

    def __init__(self, folder: Folder, owner: tuple[int, int]) -> None:
        self._folder = folder
        self._owner = owner
        self.look = folder.look
        self.names = folder.names

    @classmethod
    def open(cls, path: str, *, make: bool = False, make_above: bool = False) -> FiguresFolder:
        """Open the directory `figures` at a path.

        Args:
            path: the directory above.
            make: make `figures` if it is missing.
            make_above: make the directory above, too.

        Raises:
            FileNotFoundError: there is none.
            ForeignError: it belongs to another user, or others may use it.
            OSError: it cannot be opened.
        """
        above = Folder.at(path, make=make_above)
        found = os.fstat(above.fd)
        folder = Folder(FIGURES, above)
        opened = cls(folder, (found.st_uid, found.st_gid))
        if make and above.look(FIGURES) is None:
            with suppress(FileExistsError):
                os.mkdir(FIGURES, 0o700, dir_fd=above.fd)
                opened._give_away(folder.fd)
        # A directory of this name that no cache has made is nearly always open to others.
        if stat.S_IMODE(os.fstat(folder.fd).st_mode) & 0o077:
            raise ForeignError(
                f"{folder.path} may be used by others; chmod 700 it, or remove it", folder.path
            )
        return opened

    def _give_away(self, fd: int) -> None:
        if os.geteuid() == 0 and self._owner[0] != 0:
            os.fchown(fd, *self._owner)

    def open_or_make(self, name: str) -> OpenFile:
        """Open a file to be locked; make it if it does not exist.

        Raises:
            OSError: it is not this user's, or cannot be made.
        """
        file = self._folder.open_or_make(name)
        self._give_away(file.fd)
        return file

    def replace(self, name: str, content: bytes) -> None:
        """Write a file in one step.

        Raises:
            OSError: the disk is full, or fails.
        """
        new = f"{name}.new"
        file = self.open_or_make(new)
        os.ftruncate(file.fd, 0)
        view = memoryview(content)
        while view:
            view = view[os.write(file.fd, view) :]
        file.close()
        fd = self._folder.fd
        os.replace(new, name, src_dir_fd=fd, dst_dir_fd=fd)

    def remove(self, name: str) -> None:
        """Remove a file, if there is one."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._folder.fd)

    def read(self, name: str) -> dict[str, Any] | None:
        """Return the JSON object in a file of this format; None if there is none."""
        try:
            with open(name, "rb", opener=self._folder.open) as file:
                content = file.read(_LARGEST + 1)
        except OSError:
            return None
        return None if len(content) > _LARGEST else parsed(content)

    def want(self, seconds: float) -> bool:
        """Say that figures are wanted for so long; return whether they were wanted already.

        Raises:
            OSError: the file cannot be made or changed.
        """
        file = self.open_or_make(WATCHED)
        now = time.time()
        until = os.fstat(file.fd).st_mtime
        was = now < until <= now + LONGEST
        os.utime(file.fd, (now, max(until, now + seconds) if was else now + seconds))
        return was

    @contextmanager
    def locked(self, patience: float) -> Iterator[bool]:
        """Hold the lock of the directory inside the block; False if that takes longer than `patience`.

        No fork happens while it is held.

        Raises:
            OSError: the lock file cannot be made.
        """
        deadline = time.monotonic() + patience
        while True:
            with changing:
                file = self.open_or_make(LOCK)
                if _lock_now(file.fd):
                    try:
                        yield True
                    finally:
                        fcntl.flock(file.fd, fcntl.LOCK_UN)
                    return
            if time.monotonic() >= deadline:
                yield False
                return
            time.sleep(_POLL)

    def is_alive(self, process: str) -> bool:
        """Return whether the process of a record lives. The caller holds the lock of the directory."""
        try:
            file = OpenFile(self._folder.open(f"{process}.lock", os.O_RDWR))
        except FileNotFoundError:
            return False
        return not _lock_now(file.fd)


def _lock_now(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EINTR):
            return False
        raise
    return True
