"""What the commands about cache directories share: finding one, saying no, sizes and times for people."""

from __future__ import annotations

import os
import sys
import time
from math import inf
from typing import Final

from cachekit.errors import CacheError
from cachekit.tiers.file.inspection import Inspection

_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB")
_SPANS: Final = (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0))


class DirectoryError(Exception):
    """The directory cannot be worked on; the message is for a person."""


def inspect_directory(path: str) -> Inspection:
    """The directory, to be looked at.

    Raises:
        DirectoryError: it is none, or cannot be read.
    """
    path = os.path.abspath(os.path.expanduser(path))
    if not os.path.isdir(path):
        raise DirectoryError(f"{path} is not a directory")
    try:
        return Inspection(path)
    except FileNotFoundError as error:
        raise DirectoryError(str(error)) from error
    except CacheError as error:
        raise DirectoryError(f"{error}; `cachekit purge {path}` empties it") from error
    except OSError as error:
        raise DirectoryError(f"{path} cannot be read: {error.strerror}") from error


def refuse(error: Exception) -> int:
    """Say why a command cannot go on; its status."""
    print(f"cachekit: {error}", file=sys.stderr)
    return 1


def size(number: float) -> str:
    """Bytes, for people."""
    for unit in _UNITS[:-1]:
        if number < 1024:
            break
        number /= 1024
    else:
        unit = _UNITS[-1]
    return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:,.1f} {unit}"


def remaining(expiry: float) -> str:
    """The time until a moment, for people."""
    if expiry == inf:
        return "never"
    seconds = expiry - time.time()
    if seconds <= 0:
        return "expired"
    for unit, span in _SPANS:
        if seconds >= 2 * span:
            return f"{seconds / span:,.0f} {unit}"
    return f"{seconds:,.0f} seconds"
