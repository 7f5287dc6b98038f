"""What a pattern says of the keys that it matches."""

from __future__ import annotations

import re


def literal_beginning(pattern: str) -> str:
    """Return a beginning of all texts that the regular expression, without flags, matches from the start.

    It consists of letters, digits and a few signs, up to the first character that means something else, and
    of 256 at most. The last one is left out if what follows could make it optional. Alternatives and inline
    flags give nothing.
    """
    if "|" in pattern:
        return ""
    pattern = pattern.removeprefix("^")
    plain = re.match(r"(?:[\w:/,;=@%&~<>!\" '-]|\\[^\w\s]){0,256}", pattern)
    assert plain is not None
    beginning = plain[0]
    pieces = re.findall(r"\\.|.", beginning, re.DOTALL)
    if pattern[len(beginning) : len(beginning) + 1] in ("*", "+", "?", "{"):
        pieces = pieces[:-1]
    return "".join(piece[-1] for piece in pieces)
