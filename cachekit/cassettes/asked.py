"""Questions as a cassette compares them, and what a miss says about them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from types import FunctionType
from typing import Any, Final, NamedTuple

from cachekit.cassettes.answers import AnswerCodec
from cachekit.cassettes.recording import Recorded, canonical, identity
from cachekit.cassettes.redaction import Redaction
from cachekit.cassettes.source_version import UNKNOWN, version_of, version_of_code
from cachekit.decorator.code_version import unwrapped
from cachekit.decorator.key_encoding import encode
from cachekit.decorator.naming import Unkeyable, qualified_name
from cachekit.decorator.source import Question
from cachekit.errors import KeyEncodingError, SerializationError

_LONGEST: Final = 60  # characters of a value in a message
_CONTEXT: Final = 20  # characters before the first difference of two texts
_MOST: Final = 3  # differences that a message names for one argument
_COMPARED: Final = 2_000  # characters of two values that are compared to find the nearest question


class Asked(NamedTuple):
    """A question with what a cassette needs to find it."""

    function: str
    arguments: dict[str, Any]  #: name and tree of each
    version: str
    identity: str


def asked(question: Question, name: str, codec: AnswerCodec, redaction: Redaction) -> Asked:
    """Return a question with its arguments as trees.

    Args:
        question: What was asked.
        name: The function, with a number if others of its name were asked before.
        codec: Of the cassette.
        redaction: Of the cassette.

    Raises:
        KeyEncodingError: an argument cannot be part of a key.
    """
    trees = {one: _tree(one, value, codec, redaction) for one, value in question.arguments}
    if question.version is not None:
        version = question.version
    else:
        version = UNKNOWN if question.code is None else version_of_code(unwrapped(question.code).__code__)
    function = _without_directory(name)
    return Asked(function, trees, version, identity(function, trees))


def _without_directory(name: str) -> str:
    # Functions of the main program are named by its path, which is another one on each machine.
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    if file is not None:
        path: str = os.path.realpath(file)
        if name.startswith(f"{path}."):
            return os.path.basename(path) + name[len(path) :]
    return name


def _tree(name: str, value: Any, codec: AnswerCodec, redaction: Redaction) -> Any:
    redacted = redaction.argument(name, value)
    if isinstance(redacted, (type, FunctionType)):
        version = version_of(redacted)
        if version != UNKNOWN:  # the same in every version of Python, unlike the text in a key
            return {"$": ["defined", qualified_name(redacted), version]}
    try:
        return codec.tree(redacted)
    except SerializationError:
        pass
    try:
        return {"$": ["key", redaction.opaque_text(encode(redacted))]}
    except Unkeyable as error:
        raise KeyEncodingError(f"the argument {name!r} cannot be part of a cassette: {error}") from None


def nearest(question: Asked, recorded: Iterable[Recorded]) -> Recorded | None:
    """Return the recorded question of the same function that differs least, or None."""
    best: tuple[float, str] | None = None
    found = None
    for one in recorded:
        if one.function == question.function:
            distance = _distance(question.arguments, one.arguments), one.identity
            if best is None or distance < best:
                best, found = distance, one
    return found


def _distance(mine: dict[str, Any], other: dict[str, Any]) -> float:
    distance = 0.0
    for name in mine.keys() | other.keys():
        if name not in mine or name not in other:
            distance += 2.0
            continue
        ours, theirs = canonical(mine[name])[:_COMPARED], canonical(other[name])[:_COMPARED]
        if ours != theirs:
            distance += 1.0 + (1.0 - SequenceMatcher(None, ours, theirs, autojunk=False).quick_ratio())
    return distance


def shown(question: Asked | Recorded) -> str:
    """Return a question as a call, with short arguments."""
    parts = (f"{name}={_short(tree)}" for name, tree in question.arguments.items())
    return f"{question.function}({', '.join(parts)})"


def shown_value(recorded: Recorded) -> str:
    """Return a recorded answer in a few characters."""
    if recorded.kind == "raises" and isinstance(recorded.content, dict):
        return f"raises {_safe(recorded.content.get('type'))}"
    if recorded.kind == "absent":
        return "left out"
    return (
        f"{len(str(recorded.content)):,} characters of bytes"
        if recorded.kind == "bytes"
        else _short(recorded.content)
    )


def differences(question: Asked, other: Recorded) -> Iterator[str]:
    """Yield one line for each argument in which two questions differ."""
    for name in [*question.arguments, *(one for one in other.arguments if one not in question.arguments)]:
        if name not in other.arguments:
            yield f"{name}: not in the recording, asked with {_short(question.arguments[name])}"
        elif name not in question.arguments:
            yield f"{name}: recorded with {_short(other.arguments[name])}, not an argument any more"
        else:
            found = _changes(name, other.arguments[name], question.arguments[name])
            for number, line in enumerate(found):
                if number == _MOST:
                    yield f"{name}: and more"
                    break
                yield line


def _changes(path: str, recorded: Any, now: Any) -> Iterator[str]:
    # Down to the part of an argument that differs, such as one message of a list.
    if canonical(recorded) == canonical(now):
        return
    if isinstance(recorded, dict) and isinstance(now, dict) and "$" not in recorded and "$" not in now:
        for name in [*now, *(one for one in recorded if one not in now)]:
            if name not in recorded:
                yield f"{path}[{name!r}]: not in the recording, asked with {_short(now[name])}"
            elif name not in now:
                yield f"{path}[{name!r}]: recorded with {_short(recorded[name])}, missing now"
            else:
                yield from _changes(f"{path}[{name!r}]", recorded[name], now[name])
    elif isinstance(recorded, list) and isinstance(now, list) and len(recorded) == len(now):
        for index, (theirs, ours) in enumerate(zip(recorded, now, strict=True)):
            yield from _changes(f"{path}[{index}]", theirs, ours)
    else:
        before, after = _pair(recorded, now)
        yield f"{path}: recorded with {before}, asked with {after}"


def _pair(recorded: Any, now: Any) -> tuple[str, str]:
    before, after = _text(recorded), _text(now)
    if max(len(before), len(after)) <= _LONGEST:
        return before, after
    # Long texts from shortly before their first difference on.
    pairs = enumerate(zip(before, after, strict=False))
    same = next((index for index, (one, other) in pairs if one != other), min(len(before), len(after)))
    start = max(0, same - _CONTEXT)
    return _part(before, start), _part(after, start)


def _part(text: str, start: int) -> str:
    end = start + _LONGEST
    return f"{'...' if start else ''}{text[start:end]}{'...' if end < len(text) else ''}"


def _safe(text: object) -> str:
    # A file may hold anything, and a terminal obeys it.
    return text if isinstance(text, str) and text.isprintable() else repr(text)


def _short(tree: Any) -> str:
    text = _text(tree)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _text(tree: Any) -> str:
    """Return a tree as Python writes the value, nearly."""
    if isinstance(tree, list):
        return f"[{', '.join(map(_text, tree))}]"
    if not isinstance(tree, dict):
        return repr(tree)
    tagged = tree.get("$")
    if not isinstance(tagged, list) or not tagged:
        return f"{{{', '.join(f'{name!r}: {_text(item)}' for name, item in tree.items())}}}"
    kind, *parts = tagged
    if kind == "tuple":
        return f"({', '.join(map(_text, parts))}{',' if len(parts) == 1 else ''})"
    if kind in ("key", "defined"):
        return _safe(parts[0]) if parts else "?"
    return f"{_safe(kind)}({', '.join(map(_text, parts))})"
