"""Whether a place can be trusted: who else may write there, and whether other hosts have it mounted.

As ssh does with its files: a directory is this user's own if nobody else can write in it, or put another
one in its place, which is what whoever can write in a directory above it can do. Root is believed.
"""

from __future__ import annotations

import errno
import os
import re
import stat
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


def exposure(path: str) -> str:
    """Why somebody else could change what is in the directory; empty if nobody can.

    Raises:
        OSError: it is not there, or may not be looked at.
    """
    done = "/"
    links = 0
    left = path.split("/")[::-1]
    while left:
        name = left.pop()
        if name in ("", "."):
            continue
        if name == "..":
            done = os.path.dirname(done)
            continue
        here = os.path.join(done, name)
        entry = os.lstat(here)
        above = os.lstat(done)
        # Where the sticky bit is set, only the owner of an entry can rename it.
        protected = above.st_mode & stat.S_ISVTX and _is_ours(entry)
        if not protected and (reason := _writers(done, above)):
            return f"{reason}, and so could put another directory in its place"
        if not stat.S_ISLNK(entry.st_mode):
            done = here
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        target = os.readlink(here)
        if target.startswith("/"):
            done = "/"
        left += target.split("/")[::-1]
    return _writers(done, os.lstat(done))


def _is_ours(found: os.stat_result) -> bool:
    return found.st_uid in (0, os.geteuid())


def _writers(path: str, found: os.stat_result) -> str:
    """Who else may write in the directory; empty if nobody."""
    if not _is_ours(found):
        return f"{path} belongs to user {found.st_uid}"
    if found.st_mode & stat.S_IWOTH:
        return f"everybody may write in {path}"
    if found.st_mode & stat.S_IWGRP and not _is_private_group(found.st_gid):
        return f"group {found.st_gid} may write in {path}"
    return ""


def _is_private_group(gid: int) -> bool:
    """Whether it is the group that many systems make for each user, with nobody else in it."""
    # Loaded here: most directories do not ask.
    import grp
    import pwd

    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return user.pw_gid == gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


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
