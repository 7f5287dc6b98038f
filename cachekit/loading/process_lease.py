"""Leases between the processes of a host: locks that the kernel gives back whatever becomes of a process."""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
import threading
from hashlib import blake2b
from typing import Final, Protocol, final

from cachekit.errors import CacheClosedError, TierUnavailableError
from cachekit.runtime import fork

if sys.platform != "win32":
    import fcntl


def _hash(key: str) -> int:
    return int.from_bytes(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def open_lock(path: str, flags: int = 0) -> int:
    """A file to be locked, made if it is not there; it may be the `opener` of `open`.

    Raises:
        PermissionError: another user has put something there.
        OSError: as the system call does; also for a symbolic link.
    """
    # Not blocking: it may be a pipe.
    more = os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(path, flags & ~os.O_WRONLY | os.O_RDWR | more, 0o600)
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and found.st_uid in (0, os.geteuid()):
        return fd
    os.close(fd)
    raise PermissionError(errno.EPERM, "it is another user's, or no regular file; remove it", path)


class _Places(Protocol):
    """Things that one process at a time may take; it keeps within itself who has taken what."""

    def place(self, key: str) -> int:
        """Which one is the key's."""
        ...

    def take(self, place: int) -> bool:
        """Take it, unless another process has it."""
        ...

    def give(self, place: int) -> None:
        """Give it back."""
        ...

    def close(self) -> None:
        """Let go of the files, and so of what this process has taken; the next `take` opens them anew.

        In a forked child it lets go of the inherited descriptors alone: a lock of this kind ends when
        the last descriptor of its open file does, and the parent has one.
        """
        ...


#: Byte-range locks that belong to the open file and not to the process: fcntl(2), "Open file description
#: locks". The layout of `struct flock` below is that of Linux.
_HAS_BYTE_LOCKS = sys.platform == "linux"


@final
class _Bytes:
    """One byte of one file per key, at an offset of 62 bits, where two keys as good as never meet.

    Nothing is written: a byte need not exist to be locked, and the file stays empty. The file is never
    unlinked: whoever holds a lock of the old one would not be seen.
    """

    _FLOCK: Final = struct.Struct("hhqqi0q")

    __slots__ = ("_fd", "_path")

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, "leases.lock")
        self._fd = -1

    def place(self, key: str) -> int:
        return _hash(key) >> 2

    def take(self, place: int) -> bool:
        if self._fd < 0:
            self._fd = open_lock(self._path)
        try:
            self._set(fcntl.F_WRLCK, place)
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: POSIX allows either
            return False
        return True

    def give(self, place: int) -> None:
        if self._fd >= 0:
            self._set(fcntl.F_UNLCK, place)

    def _set(self, kind: int, place: int) -> None:
        # In the order of the struct; the process id must be 0.
        flock = self._FLOCK.pack(kind, os.SEEK_SET, place, 1, 0)
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, flock)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


@final
class _Stripes:
    """One file per stripe of keys. Keys that share one wait for each other without need."""

    _COUNT: Final = 256

    __slots__ = ("_directory", "_fds", "_lock", "_unlock")

    def __init__(self, directory: str) -> None:
        # Loaded here: importing filelock costs six times what a bare interpreter does.
        from filelock import lock_descriptor, unlock_descriptor

        self._directory = directory
        self._fds: dict[int, int] = {}
        self._lock = lock_descriptor
        self._unlock = unlock_descriptor

    def place(self, key: str) -> int:
        return _hash(key) % self._COUNT

    def take(self, place: int) -> bool:
        fd = self._fds.get(place)
        if fd is None:
            fd = self._fds[place] = open_lock(os.path.join(self._directory, f"lease-{place:02x}.lock"))
        return self._lock(fd, blocking=False)

    def give(self, place: int) -> None:
        fd = self._fds.get(place)
        if fd is not None:
            self._unlock(fd)

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.popitem()[1])


@final
class ProcessLease:
    """A lease of `ProcessLeases`; see `Lease`. One that nobody has any more is released."""

    __slots__ = ("_leases", "_place", "_token")

    def __init__(self, leases: ProcessLeases, place: int) -> None:
        self._leases = leases
        self._place = place
        # The table does not hold the lease itself, or nobody would notice that it was dropped.
        self._token = object()

    def release(self) -> None:
        """Give it back, which wakes those of this process who wait."""
        self._leases._release(self._place, self._token)

    def __del__(self) -> None:
        # For one on its way to a caller whom a signal handler's exception took away; maybe half made.
        # One that was released takes no lock: this may run in the middle of anything, and a fork that has
        # the lock may wait for the end of that.
        if hasattr(self, "_token") and self.is_held():
            self.release()

    def is_held(self) -> bool:
        """Whether it was not released, its `ProcessLeases` not closed, and this is no child of a fork."""
        return self._leases._held.get(self._place) is self._token


@final
class ProcessLeases:
    """Leases between the processes that share a directory. Safe in any thread, and across forks.

    A lease ends with its process, however that dies. It has no end of its own: a process that is stopped
    in a loader keeps it, and others wait for it as long as they want to.

    Args:
        directory: an existing one, on a local file system.

    An open file has at most one lock of a byte, whoever asks. So who has which byte within the process
    is kept in a table, and one descriptor serves all leases.
    """

    __slots__ = ("__weakref__", "_closed", "_free", "_held", "_places")

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        path = os.fspath(directory)
        self._places: _Places = _Bytes(path) if _HAS_BYTE_LOCKS else _Stripes(path)
        self._held: dict[int, object] = {}
        self._free = threading.Condition(threading.RLock())
        self._closed = False
        fork.register(self)

    def try_acquire(self, key: str) -> ProcessLease | None:
        """The lease of a key, or None if somebody, in this process or another, has it. Does not wait.

        Raises:
            TierUnavailableError: the directory cannot be used.
            CacheClosedError: after `close`.
        """
        place = self._places.place(key)
        with self._free:
            if self._closed:
                raise CacheClosedError("these leases are closed")
            if place in self._held:
                return None
            lease = ProcessLease(self, place)
            taken = False
            try:
                taken = self._places.take(place)
                if not taken:
                    return None
                self._held[place] = lease._token
            except OSError as error:
                raise TierUnavailableError(f"no lease could be taken: {error}") from error
            except BaseException:
                # A signal handler's exception: nobody will have a lease to release.
                self._held.pop(place, None)
                self._places.give(place)
                raise
            return lease

    def _release(self, place: int, token: object) -> None:
        with self._free:
            if self._held.get(place) is not token:
                return
            # In this order, so that a release that was interrupted can be made again.
            self._places.give(place)
            del self._held[place]
            self._free.notify_all()

    def wait(self, seconds: float) -> None:
        """Return when somebody of this process releases a lease, or else after so many seconds.

        What other processes release wakes nobody: they are asked again (`wait_for`).
        """
        with self._free:
            self._free.wait(seconds)

    def close(self) -> None:
        """Release everything; a second call does nothing."""
        with self._free:
            self._closed = True
            self._held.clear()
            self._places.close()
            self._free.notify_all()

    def before_fork(self) -> None:
        """Take the lock (see `forks`)."""
        self._free.acquire()

    def after_fork(self, in_child: bool) -> None:
        """Give the lock back. The child lets go of its descriptor.

        Else it would hold on to the leases of a dead parent, and release those of a living one.
        """
        if in_child:
            self._held = {}
            self._places.close()
            self._free = threading.Condition(threading.RLock())
        else:
            self._free.release()
