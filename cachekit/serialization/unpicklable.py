"""Which part of a value pickle refuses, for the error that refuses the value."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Iterator
from itertools import islice
from types import FunctionType
from typing import Any, Final

from cachekit.model.display import is_plain_name, safe_repr, shows_keys
from cachekit.model.types import SCALARS
from cachekit.runtime.interrupts import is_no_fault_of_value

_DEEPEST: Final = 20
_WIDEST: Final = 10_000  # parts of a part that are looked at


def refusal_by_pickle(value: Any, error: Exception) -> str:
    """Return what to say of a value that pickle refused with this error: which part, and what to do.

    No value is shown. A key of a dict is, if it could be the name of an option, and no token. A part behind
    ten thousand others is not named.
    """
    where = ""
    part = value
    for _ in range(_DEEPEST):
        parts = islice(_parts(part), _WIDEST)
        found = next(((step, inner) for step, inner in parts if _refused(inner)), None)
        if found is None:
            break
        step, part = found
        where = f"{where} {step}" if where and step[0] not in "[." else where + step
    because = f", because of its {where}, a {type(part).__name__}" if where else ""
    kind = part if isinstance(part, type) else type(part)
    if isinstance(part, (FunctionType, type)):
        remedy = "define it at the top of a module"
    elif "<locals>" in kind.__qualname__:
        remedy = "define its class at the top of a module"
    else:
        remedy = "leave it out, as __getstate__ of a class can"
    return f"a {type(value).__name__} cannot be pickled{because}: {error}; {remedy}, or store plain values"


class _Nowhere:
    """A file that keeps nothing."""

    def write(self, piece: Any) -> None:
        """Drop it."""


def _refused(part: Any) -> bool:
    if type(part) in SCALARS:
        return False
    try:
        pickle.Pickler(_Nowhere(), 5).dump(part)
    except Exception as error:  # whatever a class raises as it is pickled
        if is_no_fault_of_value(error):
            raise
        return True
    return False


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (list, tuple, deque)):
        yield from ((f"[{at}]", item) for at, item in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        yield from (("member", item) for item in value)
    elif isinstance(value, dict):
        for at, (key, item) in enumerate(value.items()):
            shown = is_plain_name(key) or shows_keys()
            yield f"key {at}", key
            yield f"[{safe_repr(key)}]" if shown else f"value {at}", item
    elif not isinstance(value, (FunctionType, type)):
        yield from _attributes(value)


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    try:
        reduced = value.__reduce_ex__(pickle.DEFAULT_PROTOCOL)
    except Exception as error:  # whatever a class raises as it is pickled
        if is_no_fault_of_value(error):
            raise
        return
    state = reduced[2] if isinstance(reduced, tuple) and len(reduced) > 2 else None
    for held in state if isinstance(state, tuple) else (state,):  # with slots, it is a pair
        if isinstance(held, dict):
            yield from ((f".{name}", item) for name, item in held.items() if isinstance(name, str))
