"""The directories of a cache, opened once; every file in them is reached by the descriptor of its directory.

What was looked at is what is used, whatever another process renames. Below the cache directory no symbolic
link is followed. A file or a shard's directory counts only if this user or root owns it and no other user may
use it; a file also has one name only. So what others put into a directory that they may write is never read,
mapped, locked or written.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from contextlib import suppress
from typing import Final, final

from cachekit.tiers.file.permissions import open_path, owners

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not blocking: it may be a pipe.
_FILE: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: What opening something that is no regular file fails with: a link, a socket, a directory.
_NO_FILE: Final = frozenset({errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EISDIR})


class ForeignError(PermissionError):
    """What has a name of ours is none of ours."""

    def __init__(self, reason: str, path: str) -> None:
        super().__init__(errno.EPERM, reason, path)


@final
class Folder:
    """A directory, open as long as this object lives. Safe in any thread.

    Readers may be under way when a cache is closed, so nothing else closes the descriptor: its number could
    be that of another directory by then.

    Args:
        path: for messages, and for a shard its name in `above`.
        above: the cache directory, for that of a shard, which is opened at its first use.
        strict: whether files of others are refused, or only looked at.
    """

    __slots__ = ("_above", "_close", "_fds", "_name", "exposure", "owners", "path", "strict")

    path: str
    strict: bool
    exposure: str  #: who else could change what is in it; empty if no other user can
    owners: frozenset[int]  #: who may own what is in it

    def __init__(self, path: str, above: Folder | None = None, *, strict: bool = True) -> None:
        if above is None:
            self.path, self.strict, self.exposure, self.owners = path, strict, "", owners()
        else:
            self.path = f"{above.path}/{path}"
            self.strict, self.exposure, self.owners = above.strict, above.exposure, above.owners
        self._above = above
        self._name = path
        # Two threads may open it at once: both have the first one, and both are closed at the end.
        self._fds: list[int] = []
        self._close = os.close  # when an interpreter ends, names of modules go first

    @classmethod
    def at(cls, path: str, *, make: bool = False, strict: bool = True) -> Folder:
        """The directory at a path, which is followed once; made, with those above it, if that is asked for.

        Raises:
            OSError: it cannot be opened.
        """
        folder = cls(path, strict=strict)
        fd, folder.exposure = open_path(path, make=make)
        folder._fds.append(fd)
        return folder

    def __del__(self) -> None:
        for fd in self._fds:
            self._close(fd)

    @property
    def fd(self) -> int:
        """The descriptor.

        Raises:
            FileNotFoundError: the directory of a shard is not there.
            ForeignError: it is not ours.
        """
        fds = self._fds
        if not fds:
            fds.append(self._open())
        return fds[0]

    def _open(self) -> int:
        assert self._above is not None
        try:
            fd = os.open(self._name, _DIRECTORY, dir_fd=self._above.fd)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENOTDIR):
                raise ForeignError(f"{self.path} is no directory", self.path) from error
            raise
        reason = self._reason(os.fstat(fd), directory=True)
        if reason:
            os.close(fd)
            raise ForeignError(f"{self.path} {reason}", self.path)
        return fd

    def make(self) -> None:
        """Make the directory of a shard, if it is not there, and open it."""
        assert self._above is not None
        with suppress(FileExistsError):
            os.mkdir(self._name, 0o700, dir_fd=self._above.fd)
        self._fds.insert(0, self._open())  # what is open may be one that was removed

    def is_there(self) -> bool:
        """Whether the directory of a shard is still the one that we have open, if we have."""
        if not self._fds or self._above is None:
            return True
        found = self._above.look(self._name)
        return found is not None and os.path.samestat(found, os.fstat(self.fd))

    # -- what is in it ----------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """What there is, in order."""
        return sorted(os.listdir(self.fd))

    def look(self, name: str) -> os.stat_result | None:
        """What has that name, links themselves included; None if nothing has."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def objection(self, name: str, *, directory: bool = False) -> str:
        """Why what has that name is none of our files; empty if it is one, or there is nothing."""
        found = self.look(name)
        return "" if found is None else self._reason(found, directory=directory)

    def _reason(self, found: os.stat_result, *, directory: bool = False) -> str:
        mode = found.st_mode
        if not (stat.S_ISDIR(mode) if directory else stat.S_ISREG(mode)):
            return "is no directory" if directory else "is no regular file"
        if not self.strict:
            return ""
        if found.st_uid not in self.owners:
            return f"belongs to user {found.st_uid}"
        # With an ACL, the bits of the group are its mask: no user or group in it may do more.
        if mode & (stat.S_IWGRP | stat.S_IWOTH if directory else stat.S_IRWXG | stat.S_IRWXO):
            return f"may be used by others (mode {stat.S_IMODE(mode):o})"
        if not directory and found.st_nlink > 1:
            return "has another name elsewhere (a hard link)"
        return ""

    # -- files ------------------------------------------------------------------------------------------

    def open(self, name: str, flags: int) -> int:
        """A file of ours that is there; it may be the `opener` of `open`.

        Raises:
            FileNotFoundError: there is none, or what has the name is none of ours.
            OSError: as the system call does.
        """
        try:
            fd = os.open(name, flags | _FILE, dir_fd=self.fd)
        except OSError as error:
            if error.errno in _NO_FILE:
                raise FileNotFoundError(errno.ENOENT, f"{name} is no regular file", name) from error
            raise
        reason = self._reason(os.fstat(fd))
        if reason:
            os.close(fd)
            raise FileNotFoundError(errno.ENOENT, f"{name} {reason}", name)
        return fd

    def open_or_make(self, name: str) -> int:
        """A file to be locked, made if it is not there.

        Raises:
            ForeignError: what has the name is none of ours.
            OSError: as the system call does; also for a symbolic link.
        """
        fd = os.open(name, os.O_RDWR | os.O_CREAT | _FILE, 0o600, dir_fd=self.fd)
        reason = self._reason(os.fstat(fd))
        if reason:
            os.close(fd)
            raise ForeignError(f"{self.path}/{name} {reason}", name)
        return fd

    def mapped(self, name: str, size: int, *, read_only: bool = False) -> memoryview:
        """So much of a file of ours, in memory.

        Raises:
            OSError: as the system calls do; also if it is shorter, because the directory was just replaced.
        """
        with open(name, "rb" if read_only else "r+b", opener=self.open) as file:
            access = mmap.ACCESS_READ if read_only else mmap.ACCESS_DEFAULT
            try:
                return memoryview(mmap.mmap(file.fileno(), size, access=access))
            except ValueError:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), name) from None
