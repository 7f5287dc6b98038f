"""How keys, tags and values appear in log lines and errors: as a digest, because they may hold a secret."""

from __future__ import annotations

import os

from cachekit.errors import CacheError
from cachekit.model.types import FUNCTION_TAG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

_DIGITS: Final = frozenset("0123456789abcdef")
#: Types whose values are no secret.
_PLAIN: Final = (bool, int, float)
_LONGEST_NUMBER: Final = 10
_LONGEST_NAME: Final = 20
_LONGEST_REPR: Final = 500


def shows_keys() -> bool:
    """Return whether CACHEKIT_SHOW_KEYS=1 allows texts with keys, tags and values in them."""
    return os.environ.get("CACHEKIT_SHOW_KEYS") == "1"


def is_plain_name(key: object) -> bool:
    """Return whether a key of a dict looks like the name of a field or an option, and not like a token."""
    is_word = isinstance(key, str) and key.isidentifier() and len(key) <= _LONGEST_NAME
    return is_word and not any(map(str.isdigit, str(key)))


def shown_key(key: str) -> str:
    """Return the name of the key's function, or "key", and a digest that is the same in every process."""
    if shows_keys():
        return repr(key)
    # Keys of cached functions begin with the function's name, its version and a parenthesis.
    function, _, version = key.partition("(")[0].rpartition("@")
    of_function = len(version) == 12 and _DIGITS.issuperset(version)
    return f"{function if of_function and function else 'key'} #{_digest(key)}"


def how_to_show() -> str:
    """Return how to see the keys of a message that has digests of them; empty if it has the keys."""
    return "" if shows_keys() else " (CACHEKIT_SHOW_KEYS=1 shows keys)"


def shown_keys(keys: Iterable[str]) -> str:
    """Return several keys as `shown_key` does, with commas between them."""
    return ", ".join(map(shown_key, keys))


def shown_tags(tags: Iterable[str]) -> str:
    """Return tags in order, each as a digest, except those of cached functions; "no tags" for none."""
    texts = [
        repr(tag) if shows_keys() else tag if tag.startswith(FUNCTION_TAG) else f"#{_digest(tag)}"
        for tag in sorted(tags)
    ]
    return f"tags {', '.join(texts)}" if texts else "no tags"


def shown_text(text: str) -> str:
    """Return a digest that is the same in every process, as those of `shown_key` and `shown_tags`."""
    return repr(text) if shows_keys() else f"#{_digest(text)}"


def shown_value(value: object) -> str:
    """Return the type of a value, and the value itself only if it cannot be a secret."""
    if value is None:
        return "None"
    plain = type(value) in _PLAIN or (isinstance(value, str) and _is_number(value))
    return typed_repr(value) if plain or shows_keys() else f"an object of type {type(value).__name__}"


def safe_repr(argument: object) -> str:
    """Return the repr of an argument that configures, shortened, and without the login that a URL has."""
    try:
        text = repr(argument)
    except ValueError:  # Python writes out no int of more than a few thousand digits
        return "an int of thousands of digits"
    text = without_login(text)
    return text if len(text) <= _LONGEST_REPR else f"{text[:_LONGEST_REPR]}..."


def typed_repr(argument: object) -> str:
    """Return what `safe_repr` does, and the type of the argument; "None" for None."""
    return "None" if argument is None else f"{safe_repr(argument)} of type {type(argument).__name__}"


def shown_error(error: BaseException) -> str:
    """Return the type of an error, and its text only if cachekit wrote it."""
    if shows_keys() or isinstance(error, CacheError):
        return f"{type(error).__name__}: {error}"
    return type(error).__name__


def _is_number(text: str) -> bool:
    # The text of a number is no more a secret than the number.
    short = len(text) <= _LONGEST_NUMBER and text.isascii()
    return short and text.lstrip("+-").replace(".", "", 1).isdecimal()


def escaped(text: str) -> str:
    """Return a text from the outside with escapes for what cannot be seen, which a terminal may obey."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def without_login(text: str) -> str:
    """Return the text without what may be a password: between a scheme and the last "@", after "?" or "#"."""
    # A password may hold any character, also "@" and "/".
    login, at, place = text.rpartition("@")
    if at and ":" in login:
        scheme, mark, _ = login.partition("://")
        text = f"{scheme}{mark}***@{place}" if mark else f"***@{place}"
    if "://" in text:
        # An option of the URL may be a password, or a password may have such a character in it.
        for mark in "?#":
            address, found, _ = text.partition(mark)
            text = f"{address}{found}***" if found else text
    return text


def shown_url(url: str) -> str:
    """Return the scheme of a URL that is in the wrong place: any other part may have a password in it."""
    scheme, mark, _ = url.partition("://")
    return f"{scheme}{mark}***" if mark else "***"


def _digest(text: str) -> str:
    from hashlib import blake2b  # only texts about keys need it

    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
