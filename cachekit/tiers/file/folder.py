"""The directories of a cache, opened once. Files are opened relative to their directory's descriptor.

So the directory that was checked is the one that is used, whatever another process renames. Below the cache
directory no symbolic link is followed. A file or a shard's directory counts only if this user or root owns
it, and no other user may use it. A file must also have only one name. So files that other users put into a
directory where they may write are never read, mapped, locked or written.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from contextlib import suppress
from typing import Final, final

from cachekit.runtime.interrupts import raise_interrupt
from cachekit.tiers.file.descriptor import OpenFile
from cachekit.tiers.file.descriptor_budget import descriptors
from cachekit.tiers.file.permissions import open_path, owners

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not blocking: the name may be that of a pipe.
_FILE: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: The errors of opening a link, a socket or a directory as a file.
_NO_FILE: Final = frozenset({errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EISDIR})


def remove(folder: Folder, name: str) -> None:
    """Remove a file, a link, or an empty directory; what is in a directory is no cache's."""
    try:
        os.unlink(name, dir_fd=folder.fd)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        try:
            os.rmdir(name, dir_fd=folder.fd)
        except OSError as error:
            raise_interrupt(error)


class ForeignError(PermissionError):
    """A name that a cache uses belongs to something that this user's cache did not make."""

    def __init__(self, reason: str, path: str) -> None:
        super().__init__(errno.EPERM, reason, path)


@final
class Folder:
    """A directory, open as long as this object exists. Safe in any thread.

    Readers may be under way when a cache is closed. They keep this object, so the descriptor's number is not
    used for another directory until they are done.

    Args:
        path: for messages; for a shard, its name in `above`.
        above: the cache directory, for that of a shard, which is opened at its first use.
        strict: whether files of other users are refused.
    """

    __slots__ = ("_above", "_files", "_name", "exposure", "owners", "path", "strict")

    path: str
    strict: bool
    exposure: str  #: which other users can change what is in it; empty if none can
    owners: frozenset[int]  #: the users who may own what is in it

    def __init__(self, path: str, above: Folder | None = None, *, strict: bool = True) -> None:
        # If two threads open it at once, both use the first descriptor, and both are closed at the end.
        self._files: list[OpenFile] = []
        if above is None:
            self.path, self.strict, self.exposure, self.owners = path, strict, "", owners()
        else:
            self.path = f"{above.path}/{path}"
            self.strict, self.exposure, self.owners = above.strict, above.exposure, above.owners
        self._above = above
        self._name = path

    @classmethod
    def at(cls, path: str, *, make: bool = False, strict: bool = True) -> Folder:
        """Open the directory at a path; with `make`, it and its parents are made if missing.

        Raises:
            OSError: it cannot be opened.
        """
        folder = cls(path, strict=strict)
        directory, folder.exposure = open_path(path, make=make)
        folder._files.append(directory)
        return folder

    @property
    def fd(self) -> int:
        """The descriptor.

        Raises:
            FileNotFoundError: the directory of a shard does not exist.
            ForeignError: it belongs to another user, or other users may write to it.
        """
        return self._opened().fd

    def _opened(self) -> OpenFile:
        """Return the open directory. A caller that keeps it may use its descriptor beside a `rest`."""
        files = self._files
        try:
            return files[0]
        except IndexError:
            file = self._open()
        files.append(file)
        return file

    def held(self) -> int:
        """Return how many descriptors are open."""
        return len(self._files)

    def rest(self) -> None:
        """Close the directory of a shard until it is used again."""
        if self._above is not None:
            self._files = []

    def _open(self) -> OpenFile:
        assert self._above is not None
        try:
            file = OpenFile(descriptors.attempt(os.open, self._name, _DIRECTORY, dir_fd=self._above.fd))
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENOTDIR):
                raise ForeignError(f"{self.path} is no directory", self.path) from error
            raise
        reason = self._reason(os.fstat(file.fd), directory=True)
        if reason:
            file.close()
            raise ForeignError(f"{self.path} {reason}", self.path)
        return file

    def make(self) -> None:
        """Make the directory of a shard, if it does not exist, and open it."""
        assert self._above is not None
        with suppress(FileExistsError):
            os.mkdir(self._name, 0o700, dir_fd=self._above.fd)
        self._files.insert(0, self._open())  # an open one may have been removed

    def is_there(self) -> bool:
        """Tell whether the open directory of a shard is still the one of that name; True if none is open."""
        if self._above is None or not self._files:
            return True
        here, found = self._opened(), self._above.look(self._name)
        return found is not None and os.path.samestat(found, os.fstat(here.fd))

    # -- what is in it ----------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Return the names in the directory, sorted."""
        here = self._opened()
        return sorted(descriptors.attempt(os.listdir, here.fd))

    def look(self, name: str) -> os.stat_result | None:
        """Return the status of the file of that name, without following links; None if there is none."""
        here = self._opened()
        try:
            return os.stat(name, dir_fd=here.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def objection(self, name: str, *, directory: bool = False) -> str:
        """Return why the file of that name is not this user's; empty if it is, or if there is none."""
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
        # With an ACL, the bits of the group are its mask: no user or group of the ACL may do more.
        if mode & (stat.S_IWGRP | stat.S_IWOTH if directory else stat.S_IRWXG | stat.S_IRWXO):
            return f"may be used by others (mode {stat.S_IMODE(mode):o})"
        if not directory and found.st_nlink > 1:
            return "has another name elsewhere (a hard link)"
        return ""

    # -- files ------------------------------------------------------------------------------------------

    def open(self, name: str, flags: int) -> int:
        """Open an existing file of this user; it can be the `opener` of `open`.

        Raises:
            FileNotFoundError: there is none, or the file of that name is not this user's.
            OSError: as the system call does.
        """
        here = self._opened()
        try:
            file = OpenFile(descriptors.attempt(os.open, name, flags | _FILE, dir_fd=here.fd))
        except OSError as error:
            if error.errno in _NO_FILE:
                raise FileNotFoundError(errno.ENOENT, f"{name} is no regular file", name) from error
            raise
        reason = self._reason(os.fstat(file.fd))
        if reason:
            file.close()
            raise FileNotFoundError(errno.ENOENT, f"{name} {reason}", name)
        return file.detach()

    def open_or_make(self, name: str) -> OpenFile:
        """Open a file to be locked; make it if it does not exist.

        Raises:
            ForeignError: the file of that name is not this user's.
            OSError: as the system call does; also for a symbolic link.
        """
        here = self._opened()
        flags = os.O_RDWR | os.O_CREAT | _FILE
        file = OpenFile(descriptors.attempt(os.open, name, flags, 0o600, dir_fd=here.fd))
        reason = self._reason(os.fstat(file.fd))
        if reason:
            file.close()
            raise ForeignError(f"{self.path}/{name} {reason}", name)
        return file

    def mapped(self, name: str, size: int, *, read_only: bool = False) -> memoryview:
        """Map the first `size` bytes of a file of this user.

        Raises:
            OSError: as the system calls do; also if the file is shorter, because the directory was just
            replaced.
        """
        with open(name, "rb" if read_only else "r+b", opener=self.open) as file:
            access = mmap.ACCESS_READ if read_only else mmap.ACCESS_DEFAULT
            try:
                return memoryview(descriptors.attempt(mmap.mmap, file.fileno(), size, access=access))
            except ValueError:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), name) from None
