"""Recording: one answer to one question, as one line of JSON, and the file of these lines.

The lines are sorted and have one form, so that a second recording of the same answers is the same file.
Lines may come in any order and more than once, as after a merge; of two answers to one question the last one
holds. The file is replaced in one step. Processes that record into one file merge their answers under a lock.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from cachekit.errors import FileFormatError

#: What a line tells about the answer, of which it has exactly one: a plain value, the value as bytes, the
#: exception that the call raised, or that a loader of many keys left the key out.
KINDS: Final = ("value", "bytes", "raises", "absent")

_FORMAT: Final = 1
_HEADER: Final = {"cachekit": "cassette", "format": _FORMAT}
_CONFLICT: Final = (b"<<<<<<< ", b"=======", b"||||||| ", b">>>>>>> ")
_BOM: Final = b"\xef\xbb\xbf"


def canonical(tree: Any) -> str:
    """Return the text of a plain tree that two trees share exactly if they are the same argument.

    The order of the items of a dict does not count, as in cache keys.
    """
    return json.dumps(_ordered(tree), ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _ordered(tree: Any) -> Any:
    if isinstance(tree, list):
        return [_ordered(item) for item in tree]
    if isinstance(tree, dict):
        tagged = tree.get("$")
        if isinstance(tagged, list) and tagged and tagged[0] in ("dict", "set", "frozenset"):
            return {"$": [tagged[0], *sorted(map(_ordered, tagged[1:]), key=canonical)]}
        return {name: _ordered(item) for name, item in tree.items()}
    return tree


class Recorded(NamedTuple):
    """One recorded answer. Trees are what JSON knows, with tags for the rest (see `serialization`)."""

    function: str
    arguments: dict[str, Any]  #: name and tree of each
    version: str
    take: int  #: the first answer to the question in a block, or the one after so many invalidations
    kind: str  #: one of `KINDS`
    content: Any

    @property
    def identity(self) -> str:
        """Return what two answers share exactly if they answer the same question."""
        return identity(self.function, self.arguments)

    def line(self) -> str:
        """Return the line of the file."""
        parts: dict[str, Any] = {"function": self.function, "args": self.arguments}
        if self.take != 1:
            parts["take"] = self.take
        if self.version:
            parts["version"] = self.version
        parts[self.kind] = self.content
        return json.dumps(parts, ensure_ascii=False, allow_nan=False)


def identity(function: str, arguments: Mapping[str, Any]) -> str:
    """Return what identifies a question in a cassette."""
    # Arguments in the order of the parameters; a list, because that order counts.
    return canonical([function, *map(list, arguments.items())])


class Unreadable(NamedTuple):
    """A line that is no answer."""

    number: int  #: from 1
    why: str


class CassetteFile(NamedTuple):
    """What is in the file of a cassette."""

    answers: dict[tuple[str, int], Recorded]  #: by question and take
    unreadable: list[Unreadable]
    repeated: int  #: lines whose question and take another line after them has


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _parsed(line: bytes) -> Recorded:
    # Raises ValueError or RecursionError for a line that is no answer.
    parts = json.loads(line.decode(), parse_constant=_refuse_constant)
    if not isinstance(parts, dict):
        raise ValueError("it is not an object")
    kinds = [kind for kind in KINDS if kind in parts]
    function, arguments = parts.get("function"), parts.get("args")
    version, take = parts.get("version", ""), parts.get("take", 1)
    if len(kinds) != 1:
        raise ValueError(f"it needs one of {', '.join(KINDS)}")
    if not (isinstance(function, str) and isinstance(arguments, dict) and isinstance(version, str)):
        raise ValueError("it needs a function, args and a version")
    if not all(map(str.isprintable, (function, version, *arguments))):
        raise ValueError("its names hold characters that cannot be shown")
    if type(take) is not int or take < 1:
        raise ValueError("its take must be a number from 1 on")
    return Recorded(function, arguments, version, take, kinds[0], parts[kinds[0]])


def parsed(content: bytes, path: Path) -> CassetteFile:
    """Return what is in the bytes of a cassette.

    Raises:
        FileFormatError: they are no cassette, one of another format, or hold a conflict of a merge.
    """
    lines = content.removeprefix(_BOM).split(b"\n")
    if not content.strip():
        return CassetteFile({}, [], 0)
    _check_header(lines[0], path)
    answers: dict[tuple[str, int], Recorded] = {}
    unreadable: list[Unreadable] = []
    repeated = 0
    for number, line in enumerate(lines[1:], 2):
        stripped = line.strip()
        if not stripped:
            continue
        if stripped.startswith(_CONFLICT):
            raise FileFormatError(
                f"{path} has a conflict of a merge in line {number}; remove the lines <<<<<<<, ======= and "
                f">>>>>>>, and keep the answers of both sides"
            )
        try:
            answer = _parsed(stripped)
            place = answer.identity, answer.take
        except (ValueError, RecursionError) as error:
            if _is_header(stripped):
                continue  # of the other side of a merge
            why = str(error) if type(error) is ValueError else "it is cut or damaged"
            unreadable.append(Unreadable(number, why))
            continue
        repeated += place in answers
        answers[place] = answer
    return CassetteFile(answers, unreadable, repeated)


def _is_header(line: bytes) -> bool:
    try:
        return bool(json.loads(line) == _HEADER)
    except (ValueError, RecursionError):
        return False


def _check_header(line: bytes, path: Path) -> None:
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or header.get("cachekit") != "cassette":
        raise FileFormatError(
            f"{path} is not a cassette: its first line is not {json.dumps(_HEADER)}; give another path, or "
            f"remove the file and record it again"
        )
    if header.get("format") != _FORMAT:
        raise FileFormatError(
            f"{path} has format {header.get('format')!r}, and this version of cachekit reads {_FORMAT}; "
            f"update cachekit, or remove the file and record it again"
        )


def text_of(answers: Mapping[tuple[str, int], Recorded]) -> str:
    """Return the text of a cassette with these answers."""
    ordered = sorted(answers.values(), key=lambda one: (one.function, canonical(one.arguments), one.take))
    return "".join(f"{line}\n" for line in (json.dumps(_HEADER), *(one.line() for one in ordered)))


def read(path: Path) -> CassetteFile:
    """Return what is in the file; nothing if there is none.

    Raises:
        FileFormatError: as `parsed`.
        OSError: the file cannot be read.
    """
    try:
        return parsed(path.read_bytes(), path)
    except FileNotFoundError:
        return CassetteFile({}, [], 0)


def check_place(path: Path) -> None:
    """Refuse a place that holds no file, such as a device: the cassette would take its place.

    Raises:
        FileFormatError: it is something else than a file or a directory.
    """
    try:
        mode = path.stat().st_mode
    except OSError:  # the step that reads it says so
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise FileFormatError(
            f"{path} is no regular file, and a cassette would replace it; give another path"
        )


def merge(path: Path, answers: Mapping[tuple[str, int], Recorded]) -> None:
    """Add answers to the file, in place of those of the same question and take.

    Raises:
        FileFormatError: as `parsed`; then the file stays as it is.
        OSError: the file cannot be written.
    """
    path = Path(os.path.realpath(path))  # a link stays a link
    check_place(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _lock(path.parent):
        _replace(path, text_of({**read(path).answers, **answers}))


def prune(path: Path, keep: Callable[[Recorded], bool]) -> tuple[CassetteFile, int]:
    """Leave in the file only the answers that `keep` keeps; return what was in it, and how many are left.

    Raises:
        FileFormatError: as `parsed`; then the file stays as it is.
        OSError: the file cannot be read or written, or does not exist.
    """
    path = Path(os.path.realpath(path))
    check_place(path)
    with _lock(path.parent):
        found = parsed(path.read_bytes(), path)
        kept = {place: answer for place, answer in found.answers.items() if keep(answer)}
        _replace(path, text_of(kept))
    return found, len(kept)


@contextmanager
def _lock(directory: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # not a POSIX system: processes that record into one file at once lose answers there
        yield
        return
    # Of the directory, so that no lock file lies beside cassettes in a repository.
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _replace(path: Path, text: str) -> None:
    # Under the lock, so one name is enough; what a killed process has left there is overwritten.
    content = text.encode()
    try:
        before = path.read_bytes()
        mode = path.stat().st_mode & 0o777
    except FileNotFoundError:
        before, mode = None, None
    if before == content:
        return
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with open(new, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if mode is not None:
        new.chmod(mode)
    new.replace(path)
