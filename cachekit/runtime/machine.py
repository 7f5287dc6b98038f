"""How much memory this process may use: that of the machine, or the limit of its control group."""

from __future__ import annotations

import os
from typing import Final

_GROUPS: Final = "/sys/fs/cgroup"


def memory_bytes() -> int | None:
    """Return the bytes of memory that this process may use at most; None if the system does not say."""
    found = [size for size in (_of_machine(), _of_group()) if size is not None]
    return min(found, default=None)


def _of_machine() -> int | None:
    try:
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows, not for some users
        return None
    return size if size > 0 else None


def _of_group() -> int | None:
    # Version 2 has one hierarchy, where each group above may limit too. Version 1 has one for memory.
    found = [_number(f"{_GROUPS}/memory.max"), _number(f"{_GROUPS}/memory/memory.limit_in_bytes")]
    for line in _text("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        while path.strip("/"):
            if not controllers:
                found.append(_number(f"{_GROUPS}{path}/memory.max"))
            elif "memory" in controllers.split(","):
                found.append(_number(f"{_GROUPS}/memory{path}/memory.limit_in_bytes"))
            path = os.path.dirname(path)
    return min((size for size in found if size is not None), default=None)


def _number(path: str) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None  # "max" is no limit


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, ValueError):
        return ""
