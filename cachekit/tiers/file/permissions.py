"""Tells whether a directory can be trusted: which other users may write there, and if it is on a network.

The rule is that of ssh for its files. A directory is private if no other user can write to it, and no other
user can put another directory in its place. Users who can write to a directory above it can do that. Root is
trusted.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import suppress
from typing import Final

from cachekit.tiers.file.descriptor import OpenFile

#: File systems that several hosts may have mounted: there, shared memory and locks work on one host only.
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
#: What ends an error of the system in a cache directory.
_REMEDIES: Final = {
    errno.ENOSPC: "free space on its disk",
    errno.EDQUOT: "free space of this user's quota there",
    errno.EFBIG: "raise the size that a file of this process may have (ulimit -f)",
    errno.EMFILE: "raise the number of files that this process may open (ulimit -n)",
    errno.ENFILE: "end programs that have many files open",
    errno.ENOMEM: "free memory",
    errno.ENOTDIR: "name a directory, because a part of the path is a file",
    errno.EEXIST: "name a directory, because a part of the path is a file",
    errno.ENOENT: "name another directory, or make what its symbolic link names",
    errno.ENAMETOOLONG: "name a shorter path",
    errno.ELOOP: "correct the symbolic links in its path",
    errno.EROFS: "mount its file system for writing",
    errno.EIO: "check its disk",
    errno.EACCES: "make it writable for this user",
    errno.EPERM: "make it writable for this user",
}
# On Linux, this also opens a directory that this user may pass through but not read.
_STEP: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remedy_for(error: OSError) -> str:
    """Return what ends an error of the system in a cache directory."""
    return _REMEDIES.get(error.errno or 0, "see what its file system allows this user")


def owners() -> frozenset[int]:
    """Return the users who are trusted: this one and root."""
    return frozenset({0, os.geteuid()})


def exposure(path: str) -> str:
    """Return why another user can change what is in the directory; empty if no other user can.

    Raises:
        OSError: it does not exist, or this user may not look at it.
    """
    directory, reason = open_path(path)
    directory.close()
    return reason


def open_path(path: str, *, make: bool = False) -> tuple[OpenFile, str]:
    """Open a directory, and check each directory above it; return it, and why another user can change it.

    Every step starts at the descriptor of the directory above, so the directory that was checked is the one
    that is opened. Symbolic links on the way are followed.

    Args:
        path: an absolute path.
        make: make missing directories at its end, for this user alone.

    Raises:
        OSError: it does not exist, cannot be made, or this user may not look at it.
    """
    reason = ""
    links = 0
    left = path.split("/")[::-1]
    own = len(left)  # so many names are of the path itself; names beyond that come from a link
    here, done = OpenFile(os.open("/", _STEP)), "/"
    while left:
        may_make = make and len(left) <= own
        name = left.pop()
        if name in ("", "."):
            continue
        if name == "..":
            here, done = OpenFile(os.open("..", _STEP, dir_fd=here.fd)), os.path.dirname(done)
        else:
            step = _step(here, name, may_make)
            above = os.fstat(here.fd)
            entry = (
                os.stat(name, dir_fd=here.fd, follow_symlinks=False) if step is None else os.fstat(step.fd)
            )
            # With the sticky bit, only the owners of entry and directory can rename the entry.
            protected = above.st_mode & stat.S_ISVTX and {above.st_uid, entry.st_uid} <= owners()
            writers = "" if protected else _writers(done, above)
            if writers:
                reason = reason or f"{writers}, and so could put another directory in its place"
            if step is None:
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                target = os.readlink(name, dir_fd=here.fd)
                own = min(own, len(left))
                left += target.split("/")[::-1]
                if target.startswith("/"):
                    here, done = OpenFile(os.open("/", _STEP)), "/"
            else:
                here, done = step, os.path.join(done, name)
    directory = OpenFile(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here.fd))
    return directory, reason or _writers(done, os.fstat(directory.fd))


def _step(here: OpenFile, name: str, make: bool) -> OpenFile | None:
    """Return the directory of that name, opened; None if it is a symbolic link."""
    try:
        return OpenFile(os.open(name, _STEP, dir_fd=here.fd))
    except FileNotFoundError:
        if not make:
            raise
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=here.fd)
        return _step(here, name, make=False)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP, errno.EMLINK):
            raise
        if stat.S_ISLNK(os.stat(name, dir_fd=here.fd, follow_symlinks=False).st_mode):
            return None
        raise


def _writers(path: str, found: os.stat_result) -> str:
    """Return which other users may write to the directory; empty if none may."""
    if found.st_uid not in owners():
        return f"{path} belongs to user {found.st_uid}"
    if found.st_mode & stat.S_IWOTH:
        return f"everybody may write to {path}"
    # Any group counts, however few members it seems to have: no list tells reliably which users have it as
    # their primary group. With an ACL, these bits are its mask: without them no user of the ACL may write.
    if found.st_mode & stat.S_IWGRP:
        return f"group {found.st_gid} may write to {path}"
    return ""


def network_file_system(path: str) -> str:
    """Return the kind of network file system that the path is, or would be, on; empty if it is local.

    On systems that do not tell, every path counts as local.
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
        # Of two file systems mounted at one path, the later one is visible.
        if inside and len(mounted) >= len(best):
            best, kind = mounted, after.split(" ")[0]
    return kind if kind in _NETWORK else ""
