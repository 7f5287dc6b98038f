"""Looks into regular expressions: what their matches begin with, and whether they may take for ever.

`re` tries one way after another in which a pattern may match. A repetition that can read one text in several
ways doubles their number with each turn. They are all tried when what follows does not match.

The repetition is seen as an automaton whose states are the places of its pattern that read a character (V. M.
Glushkov, 1961). The number of ways grows exponentially if two different paths, over one text, lead from a
state back to it (A. Weber and H. Seidl, 1991).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Final, NamedTuple, final

#: Places of a repetition that are looked at. The time grows with their square.
_MOST_PLACES: Final = 200
#: Turns from which a repetition with an end is seen as one without.
_MANY: Final = 9
#: One character or more of each category, and one that no pattern names.
_CHARACTERS: Final = "0a_ \n!é\u0663\u2003\U0010fffe"


@lru_cache(maxsize=16)  # each tier asks again
def is_exponential(pattern: re.Pattern[str]) -> bool:
    """Tell whether a text of a hundred characters may keep `re.match` busy for ever.

    Some patterns of this kind are not found, such as those with more than 200 places in a repetition. What is
    found may do no harm if no text makes it fail.
    """
    from re import _parser  # type: ignore[attr-defined]  # the parser that `re` has

    text, flags = pattern.pattern, pattern.flags
    # Of a part, or of all of it.
    folds = bool(flags & re.IGNORECASE or re.search(r"\(\?[a-zA-Z]*i", text))
    loops = _loops(_parser.parse(text, flags), False)
    try:
        return any(_Repetition(body, folds).is_ambiguous(fails) for body, fails in loops)
    except _TooLargeError:
        return False
    except RecursionError:  # a hundred repetitions in each other
        return True


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


def _loops(items: Iterable[Any], fails: bool) -> Iterator[tuple[Any, bool]]:
    """Yield the body of each outermost repetition, and whether what follows it can fail."""
    items = list(items)
    for at, (kind, argument) in enumerate(items):
        then = fails or any(_can_fail(*item) for item in items[at + 1 :])
        if _is_repeat(kind):
            _, most, body = argument
            if not _is_counted(most) or (most >= _MANY and len(set(body.getwidth())) > 1):
                if _has_choice(body):
                    yield body, then
            else:
                yield from _loops(body, True)
        # What these have matched is not tried again in another way.
        is_final = str(kind) in ("ATOMIC_GROUP", "POSSESSIVE_REPEAT", "ASSERT", "ASSERT_NOT")
        for part in _parts(kind, argument):
            yield from _loops(part, then and not is_final)


def _has_choice(items: Iterable[Any]) -> bool:
    return any(
        str(kind).endswith("REPEAT")
        or str(kind) in ("BRANCH", "GROUPREF_EXISTS")
        or any(map(_has_choice, _parts(kind, argument)))
        for kind, argument in items
    )


def _parts(kind: Any, argument: Any) -> list[Any]:
    """Return what an item is made of, unless it is a repetition that is tried in other ways again."""
    match str(kind):
        case "SUBPATTERN" | "POSSESSIVE_REPEAT":
            return [argument[-1]]
        case "ATOMIC_GROUP":
            return [argument]
        case "ASSERT" | "ASSERT_NOT":
            return [argument[1]]
        case "BRANCH":
            return list(argument[1])
        case "GROUPREF_EXISTS":
            return [one for one in argument[1:] if one is not None]
    return []


def _is_repeat(kind: Any) -> bool:
    return str(kind) in ("MAX_REPEAT", "MIN_REPEAT")


def _is_counted(most: Any) -> bool:
    return str(most) != "MAXREPEAT"


def _can_fail(kind: Any, argument: Any) -> bool:
    if str(kind).endswith("REPEAT"):
        least, _, body = argument
        return least > 0 and any(_can_fail(*item) for item in body)
    if str(kind) in ("SUBPATTERN", "ATOMIC_GROUP", "BRANCH", "GROUPREF_EXISTS"):
        return all(any(_can_fail(*item) for item in part) for part in _parts(kind, argument))
    return True


class _TooLargeError(Exception):
    """A repetition has too many places."""


class _Part(NamedTuple):
    """A part of a pattern: where it may begin and end, in how many ways."""

    empty: int  # ways in which it reads nothing
    first: Counter[int]
    last: Counter[int]

    def optional(self, ways: int) -> _Part:
        """Return the part with so many more ways to read nothing."""
        return self._replace(empty=self.empty + ways)


_EMPTY: Final = _Part(1, Counter(), Counter())


@final
class _Repetition:
    """The automaton of a repetition without an end.

    Args:
        body: what is repeated.
        folds: whether letters of both cases are one.
    """

    def __init__(self, body: Any, folds: bool) -> None:
        self._folds = folds
        self._sample = frozenset(_CHARACTERS) | frozenset(_named(body))
        self._read: list[frozenset[str]] = []  # by place
        self._next: defaultdict[int, Counter[int]] = defaultdict(Counter)
        self._whole = self._repeated(self._sequence(body))

    def is_ambiguous(self, fails: bool) -> bool:
        """Tell whether some text is read in several ways from a place back to it.

        Args:
            fails: whether what follows can fail. Otherwise all is well once the repetition may end.
        """
        places = range(len(self._read))
        if not fails and all(place in self._whole.last for place in places):
            return False
        # Each place leads to each other one, because all is repeated.
        if any(ways > 1 for followers in self._next.values() for ways in followers.values()):
            return True
        apart: set[tuple[int, int]] = set()
        ahead = [(place, place) for place in places]
        while ahead:
            one, other = ahead.pop()
            for pair in self._together(one, other):
                if pair[0] == pair[1]:
                    if one != other:
                        return True
                elif pair not in apart:
                    apart.add(pair)
                    ahead.append(pair)
        return False

    def _together(self, one: int, other: int) -> Iterator[tuple[int, int]]:
        """Yield the pairs of places that are reached from two places by one character."""
        for mine in self._next[one]:
            for its in self._next[other]:
                if self._read[mine] & self._read[its]:
                    yield mine, its

    def _sequence(self, items: Iterable[Any]) -> _Part:
        whole = _EMPTY
        for kind, argument in items:
            whole = self._joined(whole, self._part(kind, argument))
        return whole

    def _joined(self, before: _Part, after: _Part) -> _Part:
        self._connect(before.last, after.first)
        return _Part(
            before.empty * after.empty,
            before.first + _times(before.empty, after.first),
            _times(after.empty, before.last) + after.last,
        )

    def _connect(self, lasts: Counter[int], firsts: Counter[int]) -> None:
        for last, ways in lasts.items():
            for first, more in firsts.items():
                self._next[last][first] += ways * more

    def _repeated(self, part: _Part) -> _Part:
        self._connect(part.last, part.first)
        return part

    def _part(self, kind: Any, argument: Any) -> _Part:
        if _is_repeat(kind):
            return self._of_repeat(*argument)
        match str(kind):
            case "SUBPATTERN":
                return self._sequence(argument[-1])
            case "BRANCH" | "GROUPREF_EXISTS":
                parts = [self._sequence(one) for one in _parts(kind, argument)]
                firsts, lasts = [one.first for one in parts], [one.last for one in parts]
                empty = sum(one.empty for one in parts)
                return _Part(empty, sum(firsts, Counter()), sum(lasts, Counter()))
            case "AT" | "ASSERT" | "ASSERT_NOT":
                return _EMPTY
            case "POSSESSIVE_REPEAT" | "ATOMIC_GROUP" | "GROUPREF":  # these try nothing twice
                return self._place(self._sample)
        read = frozenset(one for one in self._sample if _reads(kind, argument, one))
        return self._place(read | frozenset(map(str.swapcase, read)) if self._folds else read)

    def _of_repeat(self, least: int, most: Any, body: Any) -> _Part:
        if not _is_counted(most):
            return self._repeated(self._sequence(body)).optional(least == 0)
        whole = _EMPTY
        # A few turns show as much as many do.
        for turn in range(min(most, 3)):
            whole = self._joined(whole, self._sequence(body).optional(turn >= least))
        return whole

    def _place(self, characters: frozenset[str]) -> _Part:
        if len(self._read) == _MOST_PLACES:
            raise _TooLargeError
        place = Counter([len(self._read)])
        self._read.append(characters)
        return _Part(0, place, place)


def _times(ways: int, places: Counter[int]) -> Counter[int]:
    return Counter({place: ways * more for place, more in places.items() if ways})


def _named(items: Iterable[Any]) -> Iterator[str]:
    """Yield the characters that a pattern names, the ends of ranges, and those beside them."""
    for kind, argument in items:
        match str(kind):
            case "LITERAL" | "NOT_LITERAL":
                yield chr(argument)
            case "RANGE":
                low, high = argument
                yield from map(chr, {low, high, max(0, low - 1), min(0x10FFFF, high + 1)})
            case "IN":
                yield from _named(argument)
            case "MAX_REPEAT" | "MIN_REPEAT":
                yield from _named(argument[-1])
            case _:
                for part in _parts(kind, argument):
                    yield from _named(part)


def _reads(kind: Any, argument: Any, character: str) -> bool:
    match str(kind):
        case "LITERAL":
            return chr(argument) == character
        case "NOT_LITERAL":
            return chr(argument) != character
        case "RANGE":
            return bool(argument[0] <= ord(character) <= argument[1])
        case "CATEGORY":
            name = str(argument).removeprefix("CATEGORY_")
            is_in = {"DIGIT": character.isdecimal(), "SPACE": character.isspace()}.get(
                name.removeprefix("NOT_"), character.isalnum() or character == "_"
            )
            return is_in != name.startswith("NOT_")
        case "IN":
            items: list[tuple[Any, Any]] = [item for item in argument if str(item[0]) != "NEGATE"]
            return any(_reads(*item, character) for item in items) == (len(items) == len(argument))
    return True  # any character
