"""ProcessLeases: leases between the processes of a host. The kernel releases those of a process that dies."""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
from hashlib import blake2b
from typing import Final, Protocol, final

from cachekit.errors import CacheClosedError, TierUnavailableError
from cachekit.runtime import fork
from cachekit.runtime.interrupts import is_interrupt
from cachekit.runtime.reentrant_lock import RLock
from cachekit.tiers.file.descriptor import OpenFile

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
    """Places that one process at a time may take. They do not know which thread of it has taken one."""

    def place(self, key: str) -> int:
        """Return the place of a key."""
        ...

    def take(self, place: int) -> bool:
        """Take a place, unless another process has it; return whether that succeeded."""
        ...

    def give(self, place: int) -> None:
        """Release a place."""
        ...

    def close(self) -> None:
        """Close the files, and so release all places. The next `take` opens the files again.

        In a forked child this closes the inherited descriptors and releases nothing: a lock of this kind ends
        with the last descriptor of its open file, and the parent has one.
        """
        ...


#: Byte-range locks that belong to the open file and not to the process: fcntl(2), "Open file description
#: locks". The layout of `struct flock` below is that of Linux.
_HAS_BYTE_LOCKS = sys.platform == "linux"


@final
class _Bytes:
    """One byte of one file per key. The offset has 62 bits, so two keys practically never share one.

    A byte need not exist to be locked, so the file stays empty. It is never unlinked, because locks of the
    old file would not be seen in a new one.
    """

    _FLOCK: Final = struct.Struct("hhqqi0q")

    __slots__ = ("_file", "_path")

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, "leases.lock")
        self._file: OpenFile | None = None  # closed too when a cache is dropped without `close`

    def place(self, key: str) -> int:
        return _hash(key) >> 2

    def take(self, place: int) -> bool:
        if self._file is None:
            self._file = OpenFile(open_lock(self._path))
        try:
            self._set(self._file, fcntl.F_WRLCK, place)
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: POSIX allows either
            return False
        return True

    def give(self, place: int) -> None:
        if self._file is not None and self._file.fd >= 0:  # the collector may close it before it ends a lease
            self._set(self._file, fcntl.F_UNLCK, place)

    def _set(self, file: OpenFile, kind: int, place: int) -> None:
        # In the order of the struct; the process id must be 0.
        flock = self._FLOCK.pack(kind, os.SEEK_SET, place, 1, 0)
        fcntl.fcntl(file.fd, fcntl.F_OFD_SETLK, flock)

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


@final
class _Stripes:
    """One file per stripe of keys. Loads of keys of the same stripe wait for each other needlessly."""

    _COUNT: Final = 256

    __slots__ = ("_directory", "_files", "_lock", "_unlock")

    def __init__(self, directory: str) -> None:
        # Imported here, because importing filelock takes six times as long as starting Python.
        from filelock import lock_descriptor, unlock_descriptor

        self._directory = directory
        self._files: dict[int, OpenFile] = {}
        self._lock = lock_descriptor
        self._unlock = unlock_descriptor

    def place(self, key: str) -> int:
        return _hash(key) % self._COUNT

    def take(self, place: int) -> bool:
        file = self._files.get(place)
        if file is None:
            path = os.path.join(self._directory, f"lease-{place:02x}.lock")
            file = self._files[place] = OpenFile(open_lock(path))
        return self._lock(file.fd, blocking=False)

    def give(self, place: int) -> None:
        file = self._files.get(place)
        if file is not None and file.fd >= 0:  # as above
            self._unlock(file.fd)

    def close(self) -> None:
        while self._files:
            self._files.popitem()[1].close()


@final
class ProcessLease:
    """A lease of `ProcessLeases`; see `Lease`. It is released when nothing refers to it any more."""

    __slots__ = ("_leases", "_place", "_token")

    def __init__(self, leases: ProcessLeases, place: int) -> None:
        self._leases = leases
        self._place = place
        # The table has this token and not the lease, or the lease would never be dropped.
        self._token = object()

    def release(self) -> None:
        """Release the lease; a second call does nothing."""
        self._leases._release(self._place, self._token)

    def __del__(self) -> None:
        # As in LoadSlot.__del__(): after a signal handler's exception only this releases the lease. A
        # released one takes no lock, because this may run in any operation that a fork waits for.
        if hasattr(self, "_token") and self.is_held():
            self.release()

    def is_held(self) -> bool:
        """Return whether the lease is neither released nor lost to `close` or to a fork."""
        return self._leases._held.get(self._place) is self._token


@final
class ProcessLeases:
    """Leases between the processes that share a directory. Safe in any thread, and across forks.

    When a process dies, its leases are free. They do not expire: a process that is stopped in a loader keeps
    its lease, and others wait for as long as they choose to.

    Args:
        directory: an existing directory on a local file system.

    The kernel does not tell the threads of a process apart. So a table says which places this process has
    taken, and one descriptor serves all leases.
    """

    __slots__ = ("__weakref__", "_closed", "_held", "_lock", "_places")

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        path = os.fspath(directory)
        self._places: _Places = _Bytes(path) if _HAS_BYTE_LOCKS else _Stripes(path)
        self._held: dict[int, object] = {}
        self._lock = RLock()
        self._closed = False
        fork.register(self)

    def try_acquire(self, key: str) -> ProcessLease | None:
        """Return the lease of a key, or None if this process or another one has it. Does not wait.

        Raises:
            TierUnavailableError: the directory cannot be used.
            CacheClosedError: after `close`.
        """
        place = self._places.place(key)
        with self._lock:
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
            except BaseException as error:
                if isinstance(error, OSError) and not is_interrupt(error):
                    raise TierUnavailableError(f"no lease could be taken: {error}") from error
                # A signal handler's exception: no caller gets the lease.
                self._held.pop(place, None)
                self._places.give(place)
                raise
            return lease

    def _release(self, place: int, token: object) -> None:
        with self._lock:
            if self._held.get(place) is not token:
                return
            # In this order, so that an interrupted release can be repeated.
            self._places.give(place)
            del self._held[place]

    def close(self) -> None:
        """Release all leases. A second call does nothing."""
        with self._lock:
            self._closed = True
            self._held.clear()
            self._places.close()

    def before_fork(self) -> None:
        """Take the lock."""
        self._lock.acquire()

    def after_fork(self, in_child: bool) -> None:
        """Release the lock. The child closes the inherited descriptor.

        Otherwise it would keep the leases of a dead parent, and release those of a living one.
        """
        if in_child:
            self._held = {}
            self._places.close()
        self._lock.release()
