"""The Lua scripts that the server runs. Each has a file here; `read`, `prolong` and `store` are parts.

All are read when this module is imported, not at first use. Reading goes through the import system: a child
of a fork would find its locks held for ever if another thread was importing.
"""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import Final, NamedTuple

from cachekit.tiers.redis.answers import (
    Check,
    is_count,
    is_flag,
    is_flag_or_bytes,
    is_nothing,
    is_publication,
    is_table,
)

#: Digits of the longest token, which has 63 bits.
MOST_DIGITS: Final = 19


class Script(NamedTuple):
    """A script, and the digest by which a server that has seen it knows it."""

    text: bytes
    digest: str
    check: Check  #: of its result, or of each part of it
    has_parts: bool  #: whether its result is a list of one part for each key


def _text(name: str) -> bytes:
    return files(__package__).joinpath(f"{name}.lua").read_bytes()


_READ: Final = _text("read")
_PROLONG: Final = _text("prolong")
_STORE: Final = _text("store")


def _script(name: str, check: Check, *, has_parts: bool = False, before: bytes = b"") -> Script:
    text = before + _text(name)
    return Script(text, sha1(text, usedforsecurity=False).hexdigest(), check, has_parts)


def _is_token(answer: object) -> bool:
    return isinstance(answer, bytes) and answer.isdigit() and len(answer) <= MOST_DIGITS


ACQUIRE: Final = _script("acquire", is_flag, before=_READ)
RELEASE: Final = _script("release", is_flag, before=_READ)
PUT: Final = _script("put", is_nothing)
CREATE: Final = _script("create", is_flag_or_bytes, before=_READ + _PROLONG + _STORE)
REPLACE: Final = _script("replace", is_flag, before=_READ + _PROLONG + _STORE)
ADD: Final = _script("add", is_flag_or_bytes, before=_READ + _PROLONG)
REMOVE: Final = _script("remove", is_flag, has_parts=True)
TOKENS: Final = _script("tokens", _is_token, has_parts=True, before=_READ)
FIGURES_WANT: Final = _script("figures_want", is_count)
FIGURES_PUBLISH: Final = _script("figures_publish", is_publication)
FIGURES_READ: Final = _script("figures_read", is_table)
FIGURES_FOLD: Final = _script("figures_fold", is_flag)
