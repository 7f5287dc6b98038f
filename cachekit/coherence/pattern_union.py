"""One regular expression for many, so that a tier is scanned once for all of them."""

from __future__ import annotations

from collections.abc import Iterable

#: Flags that hold for a whole expression, at its beginning.
_FLAGS = r"\(\?([aiLmsux]+)\)"
#: What depends on the number or the name of a group. It may be found where it is none, in a set or escaped.
_REFERENCE = r"\\[1-9]|\(\?P=|\(\?\("
#: A group with a name; also found in a set.
_NAMED = r"\(\?P<"


def union_of(patterns: Iterable[str]) -> list[str]:
    """Return regular expressions that together match what the given ones do: one, wherever that is possible.

    An expression with a reference to a group, or with a named group, keeps its own scan if it is the only one
    of that kind. Several of them become one that matches at least as much: for an invalidation that is safe.
    """
    import re

    given = list(patterns)
    if len(given) < 2:
        return given
    joined: list[str] = []
    apart: list[str] = []
    for pattern in given:
        flags, rest = "", pattern
        found = re.match(_FLAGS, pattern)
        if found is not None:
            flags, rest = found[1].replace("u", ""), pattern[found.end() :]
        if re.search(rf"{_REFERENCE}|{_NAMED}|{_FLAGS}", rest):
            apart.append(pattern)
        elif "x" in flags:
            joined.append(f"(?{flags}:{rest}\n)")  # its last line may be a comment
        else:
            joined.append(f"(?{flags}:{rest})")
    if len(apart) > 1:
        joined.append(_more_than(apart))
        apart = []
    return ["|".join(joined), *apart]


def _more_than(patterns: Iterable[str]) -> str:
    """Return an expression that matches all that the given ones match: what begins like them."""
    import re

    from cachekit.model.patterns import literal_beginning

    beginnings = {re.escape(literal_beginning(pattern)) for pattern in patterns}
    return f"(?:{'|'.join(sorted(beginnings))})"
