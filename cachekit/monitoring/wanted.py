"""Until when the figures of a directory are wanted, and the lock under which they change in this process.

A file `figures/watched` says it by its modification time, which lies ahead. While no reader looks, the file
is missing or its time is over, and no process writes anything.
"""

from __future__ import annotations

import os
import stat
import time
from typing import Final

from cachekit.runtime import fork
from cachekit.runtime.reentrant_lock import RLock

#: The directory of the figures, in that of a cache, and the file that says until when they are wanted.
FIGURES: Final = "figures"
WATCHED: Final = "watched"
#: The most seconds that figures are wanted ahead. A later time was written by a clock that was set back.
LONGEST: Final = 120.0
#: Seconds between two looks of a process.
INTERVAL: Final = 1.0

#: Held while totals and files of figures change, and so across a fork: a child inherits no lock on a file,
#: and nothing half done. No other lock of cachekit is taken under it, because a fork has another order.
changing: Final = RLock()
_fork_guard: Final = fork.ForkSafeLock(changing)


def is_wanted(path: str) -> bool:
    """Return whether a reader wants the figures in a directory now. It is one system call."""
    try:
        until = os.stat(f"{path}/{FIGURES}/{WATCHED}").st_mtime
    except (OSError, ValueError):
        return False
    return 0 < until - time.time() <= LONGEST + INTERVAL


def _is_of(user: int, path: str) -> bool:
    try:
        found = os.stat(path)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == user


def user_directory() -> str:
    """Return the directory of this user for the figures of caches without files.

    That is `cachekit` in the user's runtime directory. A service without a session has no XDG_RUNTIME_DIR,
    and finds the one that the user's shells name all the same.
    """
    user = os.geteuid() if hasattr(os, "geteuid") else 0
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    # Where root keeps a user's environment, as `su` does, it names that user's. What root made in it would be
    # closed to the user.
    if not os.path.isabs(runtime) or not _is_of(user, runtime):
        runtime = f"/run/user/{user}"
    if _is_of(user, runtime):
        return os.path.join(runtime, "cachekit")
    return os.path.join(os.environ.get("TMPDIR") or "/tmp", f"cachekit-{user}")  # noqa: S108  # checked when opened
