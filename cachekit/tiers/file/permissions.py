"""Whether a place can be trusted: who else may write there, and whether other hosts have it mounted.

As ssh does with its files: a directory is this user's own if nobody else can write in it, or put another
one in its place, which is what whoever can write in a directory above it can do. Root is believed.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import suppress
from typing import Final

#: File systems that several hosts may have mounted: shared memory and locks end at the host there.
_NETWORK: Final = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "fuse.ceph", "fuse.davfs", "fuse.gcsfuse",
        "fuse.glusterfs", "fuse.goofys", "fuse.mfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "gfs2",
        "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "pvfs2", "smb2", "smb3",
        "smbfs",
    }
)  # fmt: skip
_MOUNTS: Final = "/proc/self/mountinfo"
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")
_MOST_LINKS: Final = 40
# On Linux a directory that may only be passed through can be opened, too.
_STEP: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def owners() -> frozenset[int]:
    """The users who are believed: this one and root."""
    return frozenset({0, os.geteuid()})


def exposure(path: str) -> str:
    """Why somebody else could change what is in the directory; empty if nobody can.

    Raises:
        OSError: it is not there, or may not be looked at.
    """
    fd, reason = open_path(path)
    os.close(fd)
    return reason


def open_path(path: str, *, make: bool = False) -> tuple[int, str]:
    """Open a directory, and look at each on the way to it; its descriptor, and who else could change it.

    Every step goes from the descriptor of the directory above, so what was looked at is what is opened.
    Symbolic links on the way are the user's own, and are followed.

    Args:
        path: an absolute one.
        make: make what is missing at its end, for this user alone.

    Raises:
        OSError: it is not there, may not be looked at, or cannot be made.
    """
    reason = ""
    links = 0
    left = path.split("/")[::-1]
    own = len(left)  # so many are of the path itself; what is left beyond that is of a link
    here, done = os.open("/", _STEP), "/"
    try:
        while left:
            may_make = make and len(left) <= own
            name = left.pop()
            if name in ("", "."):
                continue
            if name == "..":
                here, done = _replaced(here, os.open("..", _STEP, dir_fd=here)), os.path.dirname(done)
                continue
            step = _step(here, name, may_make)
            try:
                above = os.fstat(here)
                entry = os.stat(name, dir_fd=here, follow_symlinks=False) if step < 0 else os.fstat(step)
                # Where the sticky bit is set, only the owners of entry and directory can rename it.
                protected = above.st_mode & stat.S_ISVTX and {above.st_uid, entry.st_uid} <= owners()
                writers = "" if protected else _writers(done, above)
                if writers:
                    reason = reason or f"{writers}, and so could put another directory in its place"
                if step < 0:
                    links += 1
                    if links > _MOST_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                    target = os.readlink(name, dir_fd=here)
                    own = min(own, len(left))
                    left += target.split("/")[::-1]
                    if target.startswith("/"):
                        step, done = os.open("/", _STEP), "/"
                else:
                    done = os.path.join(done, name)
            except BaseException:
                if step >= 0:
                    os.close(step)
                raise
            if step >= 0:
                here = _replaced(here, step)
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
        return fd, reason or _writers(done, os.fstat(fd))
    finally:
        os.close(here)


def _replaced(before: int, now: int) -> int:
    os.close(before)
    return now


def _step(here: int, name: str, make: bool) -> int:
    """A descriptor of the directory of that name; -1 if it is a symbolic link."""
    try:
        return os.open(name, _STEP, dir_fd=here)
    except FileNotFoundError:
        if not make:
            raise
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=here)
        return _step(here, name, make=False)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP, errno.EMLINK):
            raise
        if stat.S_ISLNK(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode):
            return -1
        raise


def _writers(path: str, found: os.stat_result) -> str:
    """Who else may write in the directory; empty if nobody."""
    if found.st_uid not in owners():
        return f"{path} belongs to user {found.st_uid}"
    if found.st_mode & stat.S_IWOTH:
        return f"everybody may write in {path}"
    # Of any group, however few seem to be in it: whom it has as a primary group, no list tells reliably.
    # With an ACL, these bits are its mask: without them no user in it may write either.
    if found.st_mode & stat.S_IWGRP:
        return f"group {found.st_gid} may write in {path}"
    return ""


def network_file_system(path: str) -> str:
    """The kind of network file system that the path is, or would be, on; empty if it is local.

    Systems that do not tell are believed to be local.
    """
    try:
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return ""
    real = os.path.realpath(path)
    best = kind = ""
    for line in lines:
        before, _, after = line.partition(" - ")
        mounted = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), before.split(" ")[4])
        inside = real == mounted or real.startswith(mounted.rstrip("/") + "/")
        # Of two that are mounted in one place, the later one is on top.
        if inside and len(mounted) >= len(best):
            best, kind = mounted, after.split(" ")[0]
    return kind if kind in _NETWORK else ""
