"""`cachekit purge DIR`: removes every entry of a cache directory, also while processes use it.

The next lookup of such a process finds the directory empty, and no process serves copies in memory any
more. A directory that is damaged, or of another version, is rebuilt if no process uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from cachekit.cli.directory import DirectoryError, cache_directory, counted, refuse, size
from cachekit.cli.display import Display
from cachekit.errors import CacheError, FileFormatError
from cachekit.model.display import escaped
from cachekit.tiers.file.engine.check import Inspection
from cachekit.tiers.file.engine.engine import Engine
from cachekit.tiers.file.engine.format import Geometry


class Plan(NamedTuple):
    """The options of the command."""

    directory: str
    sure: bool  #: do not ask for confirmation


def run(plan: Plan, display: Display, ask: Callable[[str], str] = input) -> int:
    """Purge a directory after confirmation.

    Returns:
        0 if that was done; 1 if not, also because the answer was no; 2 for a wrong argument.
    """
    try:
        path = cache_directory(plan.directory)
        geometry, what = _describe(path)
    except DirectoryError as error:
        return refuse(error)
    except OSError as error:
        return refuse(DirectoryError(f"{plan.directory} cannot be read: {error.strerror}"))
    if not plan.sure:
        answer = _answer(ask, f"Remove {what} from {escaped(path)}? [y/N] ")
        if answer is None or answer.strip().lower() not in ("y", "yes"):
            display.line("Nothing was removed.")
            if answer is None:
                refuse(DirectoryError("there is no answer to read: add --yes to purge without a question"))
            return 1
    try:
        with Engine(path, geometry=geometry) as engine:
            removed = engine.clear()
    except CacheError as error:
        return refuse(error)
    except OSError as error:
        return refuse(DirectoryError(f"{path} cannot be purged: {error.strerror}"))
    display.line(f"{counted(removed, 'entry')} removed." if geometry else "The directory was rebuilt.")
    return 0


def _describe(path: str) -> tuple[Geometry | None, str]:
    # The geometry of the directory, None if it is damaged, and a description of what would be removed.
    try:
        found = Inspection(path)
    except (FileNotFoundError, FileFormatError):
        return None, "what is left of a cache that cannot be read"
    except OSError as error:
        raise DirectoryError(f"{path} cannot be read: {error.strerror}") from error
    return found.geometry, f"{counted(found.count(), 'entry')} ({size(found.disk_bytes())})"


def _answer(ask: Callable[[str], str], question: str) -> str | None:
    try:
        return ask(question)
    except (EOFError, UnicodeDecodeError, RuntimeError):  # `input` raises RuntimeError if stdin is closed
        return None
