"""The Lua scripts that the server runs. Each has a file of its own beside this one.

All are read when this module is imported, not at first use. Reading goes through the import system: a child
of a fork would find its locks held for ever if another thread was importing.
"""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import Final, NamedTuple

from cachekit.tiers.redis.answers import (
    Check,
    is_flag,
    is_flag_or_bytes,
    is_nothing,
)

#: Digits of the longest token, which has 63 bits.
MOST_DIGITS: Final = 19


class Script(NamedTuple):
    """A script, and the digest by which a server that has seen it knows it."""

    text: bytes
    digest: str
    check: Check  #: of its result, or of each part of it
    has_parts: bool  #: whether its result is a list of one part for each key


def _read(name: str, check: Check, *, has_parts: bool = False) -> Script:
    text = files(__package__).joinpath(f"{name}.lua").read_bytes()
    return Script(text, sha1(text, usedforsecurity=False).hexdigest(), check, has_parts)


def _is_token(answer: object) -> bool:
    return isinstance(answer, bytes) and answer.isdigit() and len(answer) <= MOST_DIGITS


ACQUIRE: Final = _read("acquire", is_flag)
RELEASE: Final = _read("release", is_flag)
PUT: Final = _read("put", is_nothing)
REPLACE: Final = _read("replace", is_flag)
ADD: Final = _read("add", is_flag_or_bytes)
REMOVE: Final = _read("remove", is_flag, has_parts=True)
TOKENS: Final = _read("tokens", _is_token, has_parts=True)
