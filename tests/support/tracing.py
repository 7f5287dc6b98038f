"""Something happens at the Nth line that some modules run: a signal that strikes anywhere, repeatable."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Sequence
from functools import cache
from types import FrameType, ModuleType
from typing import Any

from interrupting import no_collection


@cache
def _lines_with_calls(file: str) -> frozenset[int]:
    """CPython looks for signals at calls and backward jumps; a plain assignment cannot be struck."""
    return frozenset(number for number, line in enumerate(linecache.getlines(file), 1) if "(" in line)


def at_line(
    number: int,
    modules: ModuleType | Sequence[ModuleType],
    happens: Callable[[], object],
    work: Callable[[], object],
    *,
    any_line: bool = False,
) -> bool:
    """Run `work`; `happens` is called before the Nth line with a call that it runs in them.

    With `any_line` the Nth of all lines counts: another thread or process may come in between any two.

    Returns:
        Whether it came to that.
    """
    left = number
    files = {
        module.__file__: _lines_with_calls(module.__file__)
        for module in ([modules] if isinstance(modules, ModuleType) else modules)
        if module.__file__ is not None
    }

    def local(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if event == "line" and (any_line or frame.f_lineno in files[frame.f_code.co_filename]):
            left -= 1
            if left == 0:
                sys.settrace(None)
                happens()
        return local

    def tracer(frame: FrameType, event: str, argument: Any) -> Any:
        return local if left > 0 and frame.f_code.co_filename in files else None

    before = sys.gettrace()
    with no_collection():  # its finalizers run lines of these modules too, but not this work's
        sys.settrace(tracer)
        try:
            work()
        finally:
            sys.settrace(before)
    return left <= 0
