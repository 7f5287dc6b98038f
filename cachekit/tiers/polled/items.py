"""The items of a polled tier: their names, and the bytes of values and tombstones.

A value and its token are one item, so one compare-and-set fences both. A tombstone is a token without a
value. Watched items have a token each: one for all keys (the generation), one for the keys with the same
text before their first `:` (the segment), and one for each tag. A value has the tokens that these had when
it was made. It counts only while they are the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from struct import Struct
from typing import Final, NamedTuple

from cachekit.tiers.fresh_tokens import fresh

_TOKEN: Final = Struct("<cQ")
_ALONE: Final = Struct("<Q")
_VALUE: Final = b"V"
_TOMBSTONE: Final = b"T"

#: The names, among those of tags, under which tokens of the generation and the segment are kept.
GENERATION: Final = "\0generation"
SEGMENT: Final = "\0segment"
RESERVED: Final = frozenset({GENERATION, SEGMENT})


class Held(NamedTuple):
    """What an item of a key holds."""

    token: int
    envelope: bytes | None  #: None for a tombstone


def held(data: bytes) -> Held | None:
    """Return what an item holds; None if no cache wrote it."""
    if len(data) < _TOKEN.size:
        return None
    kind, token = _TOKEN.unpack_from(data)
    if kind == _VALUE:
        return Held(token, data[_TOKEN.size :])
    return Held(token, None) if kind == _TOMBSTONE and len(data) == _TOKEN.size else None


def tombstone(token: int) -> bytes:
    """Return a token without a value."""
    return _TOKEN.pack(_TOMBSTONE, token)


def value(token: int, envelope: bytes) -> bytes:
    """Return a value with its token."""
    return _TOKEN.pack(_VALUE, token) + envelope


def packed(token: int) -> bytes:
    """Return the token of a watched item."""
    return _ALONE.pack(token)


def renewed(data: bytes) -> bytes:
    """Return an item with a fresh token in place of its own."""
    if len(data) == _ALONE.size:
        return packed(fresh())
    return _TOKEN.pack(data[:1], fresh()) + data[_TOKEN.size :]


def token_of(data: bytes) -> int:
    """Return the token that a watched item holds; 0 if no cache wrote it."""
    return int(_ALONE.unpack(data)[0]) if len(data) == _ALONE.size else 0


def segment(key: str) -> str:
    """Return the text before the first `:`; keys without one share a segment."""
    before, colon, _ = key.partition(":")
    return before if colon else ""


class Names:
    """The names of the items under a prefix. They are digests, because servers limit names.

    Args:
        prefix: the beginning of all names.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._generation = self._name("g", "")  # each read of a value needs it

    def _name(self, kind: str, text: str) -> str:
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20, person=kind.encode())
        return f"{self._prefix}{kind}{digest.hexdigest()}"

    def of_key(self, key: str) -> str:
        """Return the name of a key's item."""
        return self._name("k", key)

    def of_lease(self, key: str) -> str:
        """Return the name of a key's lease."""
        return self._name("l", key)

    def of_generation(self) -> str:
        """Return the name of the generation."""
        return self._generation

    def of_segment(self, text: str) -> str:
        """Return the name of a segment."""
        return self._name("s", text)

    def of_tag(self, tag: str) -> str:
        """Return the name of a tag."""
        return self._name("t", tag)

    def of_notices(self, count: int) -> list[str]:
        """Return the names of so many items of notices."""
        return [self._name("n", str(number)) for number in range(count)]

    def watched(self, key: str, tags: Iterable[str]) -> dict[str, str]:
        """Return the names of what a value of the key depends on, by what they are called in its header."""
        names = {tag: self.of_tag(tag) for tag in tags if tag not in RESERVED}
        return {GENERATION: self.of_generation(), SEGMENT: self.of_segment(segment(key)), **names}
