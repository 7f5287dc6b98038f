"""`cachekit cassette show|prune FILE`: what a cassette holds, and its removal. Neither runs any code."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from cachekit.cassettes import recording
from cachekit.cassettes.asked import shown, shown_value
from cachekit.cli.directory import DirectoryError, counted, refuse
from cachekit.cli.display import Display
from cachekit.errors import FileFormatError


class Plan(NamedTuple):
    """The options of the commands."""

    file: str
    function: re.Pattern[str] | None  #: of the functions to show or to remove, matched from the start


def show(plan: Plan, display: Display) -> int:
    """Show questions and answers; return 1 if the file cannot be read, or has lines that cannot."""
    path = Path(plan.file)
    try:
        found = recording.parsed(path.read_bytes(), path)
    except FileFormatError as error:
        return refuse(error)
    except OSError as error:
        return refuse(DirectoryError(f"{path} cannot be read: {error.strerror}"))
    functions = defaultdict(list)
    for answer in found.answers.values():
        if plan.function is None or plan.function.match(answer.function):
            functions[answer.function].append(answer)
    count = sum(map(len, functions.values()))
    display.line(f"{plan.file}: {counted(count, 'answer')} of {counted(len(functions), 'function')}")
    for function, answers in sorted(functions.items()):
        versions = sorted({answer.version or "not compared" for answer in answers})
        display.line()
        display.line(f"{function}, version {', '.join(versions)}")
        for answer in sorted(answers, key=lambda one: (one.identity, one.take)):
            again = f" (answer {answer.take})" if answer.take > 1 else ""
            question = shown(answer).removeprefix(function)
            display.line(f"  {question}{again} -> {shown_value(answer)}")
    if found.repeated or found.unreadable:
        display.line()
    if found.repeated:
        display.line(f"{counted(found.repeated, 'line')} replaced by a later line, as after a merge")
    for number, why in found.unreadable:
        display.line(f"line {number} cannot be read: {why}")
    return 1 if found.unreadable else 0


def prune(plan: Plan, display: Display) -> int:
    """Remove lines that are never used, and the answers of the named functions; return 1 if that fails."""
    pattern = plan.function
    try:
        found, left = recording.prune(
            Path(plan.file), lambda answer: pattern is None or not pattern.match(answer.function)
        )
    except FileFormatError as error:
        return refuse(error)
    except OSError as error:
        return refuse(DirectoryError(f"{plan.file} cannot be pruned: {error.strerror}"))
    removed = len(found.answers) - left
    display.line(
        f"removed {counted(removed, 'answer')}, {counted(found.repeated, 'repeated line')} and "
        f"{counted(len(found.unreadable), 'unreadable line')}; {counted(left, 'answer')} left"
    )
    return 0
