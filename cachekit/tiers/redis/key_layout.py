"""What is called what on the server: values, tokens of buckets, tokens of tags, and the channel.

    prefix {1234} : key     a value; 1234 is the bucket of its key
    prefix {1234}           the token of the bucket
    prefix {#tag}           the token of a tag
    prefix {lease:key}      a lease, see `locks.fleet`
    prefix !                the channel of the bus

without the spaces. What stands in the braces decides where in a Cluster a key lives, so a value and its
token, which one script changes together, are always neighbours; a single server has the same layout. A
prefix has no braces of its own, so the keys of a cache whose prefix begins with another's are not
mistaken for that one's.
"""

from __future__ import annotations

import re
from typing import Final, final
from zlib import crc32

from cachekit.model.validation import checked_key

#: So many tokens of buckets there are at the most, under each prefix. As many as a Cluster has slots.
BUCKETS: Final = 1 << 14

_GLOB: Final = re.compile(rb"([\\*?\[\]^-])")


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@final
class Layout:
    """Names under one prefix.

    Args:
        prefix: what they all begin with.

    Raises:
        TypeError: it is not a str.
        ValueError: it is empty, or has braces.
    """

    __slots__ = ("_prefix", "_value", "channel", "prefix")

    def __init__(self, prefix: str) -> None:
        self.prefix = checked_key(prefix, "key_prefix")
        if not prefix or "{" in prefix or "}" in prefix:
            raise ValueError(
                f"key_prefix must not be empty or contain braces, not {prefix!r}; the cache uses braces to "
                f"keep what belongs together on one node of a Cluster"
            )
        self._prefix = _octets(self.prefix)
        self._value = re.compile(re.escape(self._prefix) + rb"\{(\d+)\}:(.*)", re.DOTALL)
        self.channel = self._prefix + b"!"

    def names(self, key: str) -> tuple[bytes, bytes]:
        """Where a key's value is, and the token of its bucket."""
        octets = _octets(key)
        token = b"%s{%d}" % (self._prefix, crc32(octets) % BUCKETS)
        return b"%s:%s" % (token, octets), token

    def value(self, key: str) -> bytes:
        """Where a key's value is."""
        return self.names(key)[0]

    def tag(self, tag: str) -> bytes:
        """Where a tag's token is."""
        return b"%s{#%s}" % (self._prefix, _octets(tag))

    def tokens(self) -> list[bytes]:
        """The tokens of all buckets."""
        return [b"%s{%d}" % (self._prefix, bucket) for bucket in range(BUCKETS)]

    def key(self, name: bytes) -> str | None:
        """The key whose value has this name; None if it is not the name of a value of ours."""
        match = self._value.fullmatch(name)
        if match is None:
            return None
        try:
            return match[2].decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return None

    def is_tag(self, name: bytes) -> bool:
        """Whether it is the token of a tag."""
        return name.startswith(self._prefix + b"{#") and name.endswith(b"}")

    def values_glob(self, beginning: str = "") -> bytes:
        """A glob, for the server, of the values of keys with this beginning."""
        return self._glob(self._prefix) + b"{[0-9]*}:" + self._glob(_octets(beginning)) + b"*"

    def everything_glob(self) -> bytes:
        """A glob, for the server, of all keys under the prefix."""
        return self._glob(self._prefix) + b"{*"

    @staticmethod
    def _glob(octets: bytes) -> bytes:
        return _GLOB.sub(rb"\\\1", octets)


def literal_beginning(pattern: str) -> str:
    """What every text begins with that the regular expression, without flags, matches, as far as is plain.

    Letters, digits and a few signs up to the first that means something else, and not the last of them
    if what follows could make it optional. Alternatives give nothing, and nor do flags in the pattern.
    """
    if "|" in pattern:
        return ""
    pattern = pattern.removeprefix("^")
    plain = re.match(r"(?:[\w:/,;=@%&~<>!\" '-]|\\[^\w\s])*", pattern)
    assert plain is not None
    beginning = plain[0]
    pieces = re.findall(r"\\.|.", beginning, re.DOTALL)
    if pattern[len(beginning) :][:1] in ("*", "+", "?", "{"):
        pieces = pieces[:-1]
    return "".join(piece[-1] for piece in pieces)
