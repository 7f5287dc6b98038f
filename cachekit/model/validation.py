"""Checks of the arguments of public methods; each error names the argument, the value and the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from cachekit.model.display import shown_text, shown_value, typed_repr
from cachekit.model.types import FOREVER, NO_TAGS, Tags

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Callable
    from datetime import timedelta
    from typing import Any, Final


def seconds(ttl: float | timedelta, argument: str = "ttl") -> float:
    """Return a TTL in seconds.

    Raises:
        TypeError: the TTL is neither a number nor a timedelta.
        ValueError: the TTL is NaN.
    """
    if type(ttl) is float:
        value = ttl
    elif type(ttl) is int or (isinstance(ttl, (int, float)) and type(ttl) is not bool):
        try:
            value = float(ttl)
        except OverflowError:  # an int beyond all floats
            value = FOREVER if ttl > 0 else -FOREVER
    else:
        from datetime import timedelta

        if not isinstance(ttl, timedelta):
            raise TypeError(
                f"{argument} must be seconds (int or float), a timedelta, FOREVER or None, "
                f"not {shown_value(ttl)}; pass a number, such as 60, or timedelta(minutes=1)"
            )
        value = ttl.total_seconds()
    if value != value:
        raise ValueError(f"{argument} must be a number, not NaN; use FOREVER for no expiry, or None")
    return value


_LONGEST_STALE: Final = 1e15  # seconds; finite, so that sums with it stay finite


def stale_seconds(stale_ttl: float | timedelta | None) -> float:
    """Return the seconds after the end of its life in which loads may use a stale value; 0 for None.

    Raises:
        TypeError: `stale_ttl` is neither a number nor a timedelta.
        ValueError: `stale_ttl` is NaN, or negative.
    """
    if stale_ttl is None:
        return 0.0
    value = seconds(stale_ttl, "stale_ttl")
    if value < 0:
        raise ValueError(f"stale_ttl must be 0 or more, not {stale_ttl!r}; use None to serve no stale value")
    return min(value, _LONGEST_STALE)


#: Characters of a key, and of a tag.
LONGEST: Final = 1 << 20
#: Characters of a pattern.
LONGEST_PATTERN: Final = 1 << 16

_EXPONENTIAL: Final = (
    "repeats something that reads one text in several ways. A key that almost matches takes twice as long "
    "for each further character. Write each repetition once, as [a-z]+ for ([a-z]+)+"
)
#: Tags of one entry, or of one invalidation: a record in a directory has no space for more.
MOST_TAGS: Final = (1 << 16) - 1


def checked_key(key: object, argument: str = "key") -> str:
    """Return the key as an exact `str`, also if it is of a subclass.

    Raises:
        TypeError: the key is not a str.
        ValueError: it is longer than `LONGEST`.
    """
    if isinstance(key, str):
        key = key if type(key) is str else str.__str__(key)
        if len(key) > LONGEST:
            raise ValueError(
                f"{argument} must be at most {LONGEST} characters long, not {len(key)} ({shown_text(key)}); "
                f"use a digest of it, such as hashlib.sha256(text.encode()).hexdigest()"
            )
        return key
    raise TypeError(
        f"{argument} must be a str, not {shown_value(key)}; "
        f"convert it first, for example with str() or an f-string"
    )


def checked_keys(keys: Iterable[str]) -> list[str]:
    """Return the keys in order, without repetitions.

    Raises:
        TypeError: a bare str (its letters would become keys), no iterable, or a key that is not a str.
        ValueError: a key is too long.
    """
    if isinstance(keys, str):
        raise TypeError("keys must be several keys, not a single str; write [key] for one key")
    if not isinstance(keys, Iterable):
        raise TypeError(f"keys must be an iterable of str, not {shown_value(keys)}")
    listed = list(keys)
    if set(map(type, listed)) != {str} or max(map(len, listed)) > LONGEST:
        listed = [checked_key(key, "each of keys") for key in listed]
    return list(dict.fromkeys(listed))


_PLAIN_SETS: Final = frozenset({set, frozenset, list, tuple})


def checked_tags(tags: Tags | None, argument: str = "tags") -> frozenset[str]:
    """Return the tags as a frozenset of exact `str`.

    Raises:
        TypeError: a bare str (its letters would become tags), another container, or a tag that is not a
            str.
        ValueError: there are more than `MOST_TAGS`, or one is too long.
    """
    if tags is None or tags is NO_TAGS:
        return NO_TAGS
    if type(tags) in _PLAIN_SETS:
        # Most callers pass one of these, and a loop costs less than the checks below.
        for tag in tags:
            if type(tag) is not str or len(tag) > LONGEST:
                break
        else:
            if len(tags) <= MOST_TAGS:
                return frozenset(tags) or NO_TAGS
    if isinstance(tags, str):
        raise TypeError(
            f"{argument} must be a set, list or tuple of str, not a single str; write {{tag}} for one tag"
        )
    if not isinstance(tags, (AbstractSet, list, tuple)):
        raise TypeError(f"{argument} must be a set, list or tuple of str, not {shown_value(tags)}")
    found = frozenset(checked_key(tag, f"each of {argument}") for tag in tags)
    if len(found) > MOST_TAGS:
        raise ValueError(
            f"{argument} must be at most {MOST_TAGS}, not {len(found)} tags; "
            f"use one tag for what is invalidated together"
        )
    return found or NO_TAGS


def checked_pattern(pattern: str | re.Pattern[str]) -> re.Pattern[str]:
    """Return the compiled regular expression.

    Raises:
        TypeError: the pattern is neither a str nor a compiled pattern of str.
        ValueError: the pattern is not a valid regular expression, is longer than `LONGEST_PATTERN`, or may
            take for ever (see `is_exponential`).
    """
    from cachekit.model.patterns import is_exponential

    compiled = _compiled(pattern)
    if is_exponential(compiled):
        raise ValueError(f"pattern {shown_text(compiled.pattern)} {_EXPONENTIAL}")
    return compiled


def pattern_to_invalidate(pattern: str | re.Pattern[str]) -> re.Pattern[str]:
    """Return the compiled regular expression, or one that matches more, if this one may take for ever.

    An invalidation may drop too much. It must end, and no other thread runs while `re` matches one key.

    Raises:
        TypeError: the pattern is neither a str nor a compiled pattern of str.
        ValueError: the pattern is not a valid regular expression, or longer than `LONGEST_PATTERN`.
    """
    from cachekit.model.patterns import is_exponential, literal_beginning

    compiled = _compiled(pattern)
    if not is_exponential(compiled):
        return compiled
    import logging
    import re

    logging.getLogger("cachekit").warning(
        "all keys that begin like pattern %s are invalidated: it %s",
        shown_text(compiled.pattern),
        _EXPONENTIAL,
    )
    is_plain = not compiled.flags & ~re.UNICODE
    return re.compile(re.escape(literal_beginning(compiled.pattern)) if is_plain else "")


def _compiled(pattern: str | re.Pattern[str]) -> re.Pattern[str]:
    text = getattr(pattern, "pattern", pattern)
    if not isinstance(text, str):
        of_bytes = isinstance(text, bytes)
        given = "a pattern of bytes" if of_bytes and text is not pattern else shown_value(pattern)
        remedy = "keys are str, so leave out the b" if of_bytes else "pass a str, such as 'user:.*'"
        raise TypeError(f"pattern must be a regular expression of str, not {given}; {remedy}")
    if len(text) > LONGEST_PATTERN:
        raise ValueError(
            f"pattern must be at most {LONGEST_PATTERN} characters long, not {len(text)} "
            f"({shown_text(text)}); use tags, or a pattern of what the keys have in common"
        )
    import re

    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"pattern is not a valid regular expression: {error}; "
            f"use re.escape() for text that is meant literally"
        ) from None


def checked_jitter(jitter: float) -> float:
    """Return the share of a TTL that is taken away at random, at most.

    Raises:
        TypeError: it is no number.
        ValueError: it is not 0 to less than 1.
    """
    check_share("jitter", jitter, "the share of a ttl that is taken away at random")
    return jitter


def check_share(argument: str, share: object, what: str) -> None:
    """Raise TypeError or ValueError if `share` is not a number from 0 to less than 1."""
    if isinstance(share, bool) or not isinstance(share, (int, float)):
        raise TypeError(f"{argument} must be a number, not {typed_repr(share)}")
    if not 0 <= share < 1:
        raise ValueError(f"{argument} is {what}, from 0 to less than 1, not {share!r}; 0 is off")


def not_a_function(argument: str, takes: str, value: object) -> TypeError:
    """Return the error for an argument that must be a function, with the arguments that it takes."""
    return TypeError(
        f"{argument} must be a function {takes}, not {shown_value(value)}; pass it without calling it"
    )


_COROUTINE: Final = 0x80  # the flag of a coroutine function's code; `inspect` is slow to import


def checked_def(argument: str, takes: str, value: object) -> None:
    """Raise TypeError unless the argument is a function that need not be awaited."""
    if not callable(value):
        raise not_a_function(argument, takes, value)
    if getattr(getattr(value, "__code__", None), "co_flags", 0) & _COROUTINE:
        raise TypeError(f"{argument} must be a def function, not {shown_value(value)}, which must be awaited")


def refuse_misfit(argument: str, takes: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Raise TypeError if a function does not take these arguments.

    Call it when the call of the function has raised TypeError, because `inspect` is slow to import.
    """
    import inspect

    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin does not say what it takes
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        name = getattr(function, "__name__", type(function).__name__)
        raise TypeError(
            f"{argument} must be a function {takes}, not {name}({', '.join(signature.parameters)}): {error}"
        ) from None


def refuse_misfits(value: object, **functions: object) -> None:
    """Raise TypeError if one of the functions, which are arguments of a call, does not take one value."""
    for argument, function in functions.items():
        if callable(function):
            refuse_misfit(argument, "of one value", function, value)
