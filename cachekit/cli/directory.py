"""Helpers of the commands for cache directories: find a directory, report errors, format sizes and times."""

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
from cachekit.model.display import escaped, shown_url, without_login
from cachekit.tiers.file.engine.check import Inspection, Item
from cachekit.tiers.file.engine.directory import is_cache, read_manifest
from cachekit.tiers.file.engine.format import FORMAT, Geometry
from cachekit.tiers.file.folder import Folder

_UNITS: Final = ("KiB", "MiB", "GiB", "TiB")
_SPANS: Final = (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0))
_STEP: Final = 1000  # entries between two reports of progress
_NAMED: Final = 20  # the most cache directories that an error names


class DirectoryError(Exception):
    """The directory cannot be used; the message is shown to the user."""


class ArgumentError(DirectoryError):
    """An argument is wrong whatever there is; the message is shown to the user, and the status is 2."""


def is_url(text: str) -> bool:
    """Return whether a text is a URL, or a mistyped one with a login such as `redis:/:password@host`."""
    has_login = without_login(text) != text
    return "://" in text or (has_login and not text.startswith(("/", ".", "~")) and not os.path.lexists(text))


def absolute(path: str) -> str:
    """Return the absolute path of a directory.

    Raises:
        ArgumentError: it is empty, or a URL.
        DirectoryError: it does not exist, or cannot be read.
    """
    if not path:
        raise ArgumentError("a cache directory must not be empty; write . for the current directory")
    if is_url(path):
        raise ArgumentError(f"a cache directory must be a path, not the URL {shown_url(path)}")
    path = os.path.abspath(os.path.expanduser(path))
    try:
        if stat.S_ISDIR(os.stat(path).st_mode):
            return path
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise DirectoryError(f"{path} cannot be read: {error.strerror}") from error
    raise DirectoryError(f"{path} is not a directory")


def cache_directory(path: str) -> str:
    """Return the absolute path of the directory of a cache, sound or not.

    Raises:
        DirectoryError: it does not exist, cannot be read, or was not made for a cache.
        OSError: it cannot be read.
    """
    path = absolute(path)
    if not holds_cache(path):
        raise no_cache(path)
    return path


def inspect_directory(path: str) -> Inspection:
    """Open a cache directory for inspection.

    Raises:
        DirectoryError: it is not a cache directory, or cannot be read.
    """
    path = absolute(path)
    try:
        return Inspection(path)
    except FileNotFoundError as error:
        raise no_cache(path) from error
    except CacheError as error:
        remedy = f"`cachekit purge {path}` rebuilds it" if holds_cache(path) else "it may not be a cache"
        raise DirectoryError(f"{error}; {remedy}") from error
    except OSError as error:
        raise DirectoryError(f"{path} cannot be read: {error.strerror}") from error


def holds_cache(path: str) -> bool:
    """Return whether the directory was made for a cache, sound or not.

    Raises:
        OSError: the directory cannot be read.
    """
    return is_cache(Folder.at(path, strict=False))


def has_own_format(path: str) -> bool:
    """Return whether the directory has the format of this version, or damage hides which one."""
    return read_manifest(Folder.at(path, strict=False)).version in (None, -1, FORMAT)


def geometry_of(path: str) -> Geometry | None:
    """Return the shape of a directory, also of a damaged one; None if its manifest does not say."""
    return read_manifest(Folder.at(path, strict=False)).geometry


def may_hold_cache(path: str) -> bool:
    """Return whether the directory was made for a cache; False if it cannot be read."""
    try:
        return holds_cache(path)
    except OSError:
        return False


def no_cache(path: str) -> DirectoryError:
    """Return the error for a directory that is no cache; it names the caches directly below."""
    text = f"{path} is not a cache directory: it has no manifest"
    below = sorted(one.path for one in os.scandir(path) if os.path.isdir(one) and may_hold_cache(one.path))
    if below:
        more = f", and {len(below) - _NAMED} more" if len(below) > _NAMED else ""
        text += f"; below it are {', '.join(below[:_NAMED])}{more}"
    return DirectoryError(text)


def refuse(error: Exception) -> int:
    """Print the error of a command to stderr; return the exit status."""
    print(f"cachekit: {escaped(str(error))}", file=sys.stderr)
    return 2 if isinstance(error, ArgumentError) else 1


def watched(inspection: Inspection, label: str, display: Display | None, *, verify: bool) -> Iterator[Item]:
    """Yield the items of a directory, and show the progress."""
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
    """Return a number of bytes with a unit."""
    if number < 1024:
        return f"{number:,.0f} bytes"
    power = min(len(_UNITS), int(math.log2(number)) // 10)
    return f"{number / 1024**power:,.1f} {_UNITS[power - 1]}"


def counted(number: int, what: str) -> str:
    """Return a number of things, such as "1 entry", "2 entries" and "3 processes"."""
    if number == 1:
        return f"1 {what}"
    if what.endswith("y"):
        return f"{number:,} {what.removesuffix('y')}ies"
    return f"{number:,} {what}es" if what.endswith("s") else f"{number:,} {what}s"


def printable(key: str) -> str:
    """Return a key unchanged if it is printable, otherwise with escapes."""
    return key if key and key.isprintable() else repr(key)


def remaining(expiry: float) -> str:
    """Return the time until `expiry`, in seconds since the epoch, with a unit."""
    if expiry == math.inf:
        return "for ever"
    seconds = max(0.0, expiry - time.time())
    for unit, span in _SPANS:
        if seconds >= 2 * span:
            return f"{seconds / span:,.0f} {unit}"
    return f"{seconds:,.0f} seconds"
