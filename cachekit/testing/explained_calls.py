"""`explain_calls`: which calls of cached functions hit, where, and why the others did not."""

from __future__ import annotations

import inspect
import reprlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TextIO, final

from cachekit.decorator.key_encoding import arguments_text
from cachekit.decorator.source import observing
from cachekit.errors import KeyEncodingError
from cachekit.model.reports import Explanation, Miss
from cachekit.model.types import CacheLevel
from cachekit.runtime.interrupts import raise_interrupt


class ExplainedCall(NamedTuple):
    """One call of a cached function."""

    function: str  #: its qualified name
    arguments: str  #: the arguments, shortened
    level: CacheLevel | None  #: the tier that had the result; None for a miss
    miss: Miss | None  #: why no tier had it; None for a hit, or if the call bypassed the cache
    not_stored: Miss | None  #: why no tier has the result after the call; None if one has it
    error: str | None  #: the class of the exception that the call raised
    differs: tuple[str, ...]  #: the parameters by which a miss differs from the call before of the function

    def __str__(self) -> str:
        call = f"{self.function}({self.arguments})"
        if self.level is not None:
            return f"{call}  hit in {self.level.name}"
        if self.miss is None:
            told = f"raised {self.error}" if self.error else "bypassed the cache, which is disabled or closed"
            return f"{call}  {told}"
        parts = [f"{call}  miss: {self.miss}"]
        if self.differs:
            parts.append(f"differs from the call before in {', '.join(self.differs)}")
        if self.error is not None:
            parts.append(f"raised {self.error}")
        elif self.not_stored is not None:
            parts.append(f"not stored now: {self.not_stored}")
        return "; ".join(parts)


@contextmanager
def explain_calls(file: TextIO | None = None) -> Iterator[list[ExplainedCall]]:
    """Print a line for each call of a cached function in a `with` block, in every thread.

    Args:
        file: Where to (default: standard output).

    Yields:
        The list of the calls so far.

    A line has the arguments of the call. Calls cost much more than usual inside the block, because each is
    looked up twice more. Statistics count as always.
    """
    recorder = _Recorder(sys.stdout if file is None else file)
    with observing(recorder.add):
        yield recorder.calls


@final
class _Recorder:
    """The calls of one block. Safe in any thread."""

    def __init__(self, file: TextIO) -> None:
        self.calls: list[ExplainedCall] = []
        self._file = file
        self._before: dict[Callable[..., Any], dict[str, str]] = {}

    def add(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        before: Explanation | None,
        after: Explanation | None,
        error: BaseException | None,
    ) -> None:
        """Note a call, and print its line."""
        said = [
            *map(reprlib.repr, args),
            *(f"{name}={reprlib.repr(value)}" for name, value in kwargs.items()),
        ]
        parts = _parts(function, args, kwargs)
        earlier = self._before.get(function)
        self._before[function] = parts
        is_new = before is not None and before.miss is not None and before.miss.cause in _NEW
        differs = () if earlier is None or not is_new else _differing(earlier, parts)
        call = ExplainedCall(
            function.__qualname__,
            ", ".join(said),
            None if before is None else before.level,
            None if before is None else before.miss,
            None if after is None else after.miss,
            None if error is None else type(error).__name__,
            differs,
        )
        self.calls.append(call)
        print(call, file=self._file)


#: Causes of a miss that may be an argument that is another one in each call.
_NEW = frozenset({"never stored", "unknown"})


def _differing(earlier: dict[str, str], now: dict[str, str]) -> tuple[str, ...]:
    return tuple(name for name, text in now.items() if earlier.get(name) != text)


def _parts(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, str]:
    """Return what each argument is in a key, by the name of its parameter."""
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except (TypeError, ValueError) as error:
        raise_interrupt(error)
        return {}
    bound.apply_defaults()
    parts = {}
    for name, value in bound.arguments.items():
        try:
            parts[name] = arguments_text([(name, value)])
        except KeyEncodingError:
            parts[name] = "no key"
    return parts
