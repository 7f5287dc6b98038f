"""What the commands about cache directories share: finding one, saying no, sizes and times for people."""

from __future__ import annotations

import math
import os
import stat
import sys
import time
from collections.abc import Iterator
from typing import Final

from cachekit.cli.display import Display
from cachekit.errors import CacheError
from cachekit.tiers.file.engine.check import Inspection, Item
from cachekit.tiers.file.engine.directory import is_cache
from cachekit.tiers.file.folder import Folder

_UNITS: Final = ("KiB", "MiB", "GiB", "TiB")
_SPANS: Final = (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0))
_STEP: Final = 1000  # entries between two reports of progress
_NAMED: Final = 20  # caches below a directory that is none itself


class DirectoryError(Exception):
    """The directory cannot be worked on; the message is for a person."""


def absolute(path: str) -> str:
    """The directory that is meant.

    Raises:
        DirectoryError: there is none, or nobody lets us see it.
    """
    path = os.path.abspath(os.path.expanduser(path))
    try:
        if stat.S_ISDIR(os.stat(path).st_mode):
            return path
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise DirectoryError(f"{path} cannot be read: {error.strerror}") from error
    raise DirectoryError(f"{path} is not a directory")


def inspect_directory(path: str) -> Inspection:
    """The directory, to be looked at.

    Raises:
        DirectoryError: it is none, or cannot be read.
    """
    path = absolute(path)
    try:
        return Inspection(path)
    except FileNotFoundError as error:
        raise no_cache(path) from error
    except CacheError as error:
        is_one = holds_cache(path)
        remedy = f"`cachekit purge {path}` makes it anew" if is_one else "it may be no cache at all"
        raise DirectoryError(f"{error}; {remedy}") from error
    except OSError as error:
        raise DirectoryError(f"{path} cannot be read: {error.strerror}") from error


def holds_cache(path: str) -> bool:
    """Whether the directory was made for a cache, sound or not.

    Raises:
        OSError: it may not be read.
    """
    return is_cache(Folder.at(path, strict=False))


def _may_hold_cache(path: str) -> bool:
    try:
        return holds_cache(path)
    except OSError:
        return False


def no_cache(path: str) -> DirectoryError:
    """What to say of a directory that is no cache: where programs have theirs, they are below it."""
    text = f"{path} is not a cache directory: it has no manifest"
    below = sorted(one.path for one in os.scandir(path) if one.is_dir() and _may_hold_cache(one.path))
    if below:
        more = f", and {len(below) - _NAMED} more" if len(below) > _NAMED else ""
        text += f"; below it are {', '.join(below[:_NAMED])}{more}"
    return DirectoryError(text)


def refuse(error: Exception) -> int:
    """Say why a command cannot go on; its status."""
    print(f"cachekit: {error}", file=sys.stderr)
    return 1


def watched(inspection: Inspection, label: str, display: Display | None, *, verify: bool) -> Iterator[Item]:
    """The items of a directory, with progress."""
    if display is None:
        yield from inspection.items(verify=verify)
        return
    total = max(1, inspection.count())
    with display.progress(label, total, "entries") as report:
        done = 0
        for done, item in enumerate(inspection.items(verify=verify), 1):
            if not done % _STEP:
                report(min(done, total))
            yield item
        report(total)


def size(number: float) -> str:
    """Bytes, for people."""
    if number < 1024:
        return f"{number:,.0f} bytes"
    power = min(len(_UNITS), int(math.log2(number)) // 10)
    return f"{number / 1024**power:,.1f} {_UNITS[power - 1]}"


def printable(key: str) -> str:
    """A key as it is, if a terminal can show it; otherwise with escapes."""
    return key if key and key.isprintable() else repr(key)


def remaining(expiry: float) -> str:
    """The time until a moment, for people."""
    if expiry == math.inf:
        return "for ever"
    seconds = max(0.0, expiry - time.time())
    for unit, span in _SPANS:
        if seconds >= 2 * span:
            return f"{seconds / span:,.0f} {unit}"
    return f"{seconds:,.0f} seconds"
