"""Which part of an argument has no identity, for the error that refuses the argument."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque

from cachekit.decorator.naming import Unkeyable
from cachekit.decorator.object_state import attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Final

_DEEPEST: Final = 20
_LONGEST: Final = 40  # characters of a key of a dict that are shown


def refused_part(value: Any, error: Unkeyable, encode: Callable[[object], str]) -> tuple[str, str]:
    """Return where in an argument the part is that was refused, such as `[0].name`, and why.

    No value is shown. A key of a dict is, if it could be the name of an option.
    """
    where, why = "", str(error)
    for _ in range(_DEEPEST):
        for step, part in _parts(value):
            try:
                encode(part)
            except Unkeyable as refused:
                where, why, value = where + step, str(refused), part
                break
        else:
            return where, why
    return "", str(error)  # it contains itself


def _parts(value: Any) -> Iterator[tuple[str, object]]:
    kind = type(value)
    if kind in (list, tuple, deque):
        for at, item in enumerate(value):
            yield f"[{at}]", item
    elif kind in (dict, OrderedDict, defaultdict):
        for at, (key, item) in enumerate(value.items()):
            shown = isinstance(key, str) and key.isidentifier() and len(key) <= _LONGEST
            yield f" (key {at})", key
            yield f"[{key!r}]" if shown else f" (value {at})", item
    elif hasattr(kind, "__dataclass_fields__") and not hasattr(kind, "__cache_key__"):
        for name, held in attributes(value, kind).items():
            yield f".{name}", held
