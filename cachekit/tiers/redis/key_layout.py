"""The names of keys on the server: values, tokens of buckets, tokens of tags, leases, and the channel.

    prefix {1234} : key     a value; 1234 is the bucket of its key
    prefix {1234}           the token of the bucket
    prefix {#tag}           the token of a tag
    prefix {lease:key}      a lease, see `lease`
    prefix !                the channel of the bus
    prefix !watched         there while figures are wanted, see `figures`
    prefix !figures         a hash of the figures of processes

without the spaces. The text in the braces decides on which node of a Cluster a key lives. So a value and its
token, which one script changes together, live on one node. A single server has the same layout. A prefix has
no braces. So the keys of a cache are never taken for those of another whose prefix begins with its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, final
from zlib import crc32

from cachekit.model.display import safe_repr
from cachekit.model.validation import checked_key

#: The number of buckets under each prefix: as many as a Cluster has slots.
BUCKETS: Final = 1 << 14

_GLOB: Final = re.compile(rb"([\\*?\[\]^-])")


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@final
class Layout:
    """The names under one prefix.

    Args:
        prefix: the beginning of all names.

    Raises:
        TypeError: it is no str.
        ValueError: it is empty, or has braces.
    """

    __slots__ = ("_prefix", "_value", "channel", "prefix")

    def __init__(self, prefix: str) -> None:
        self.prefix = checked_key(prefix, "key_prefix")
        if not prefix or "{" in prefix or "}" in prefix:
            raise ValueError(
                f"key_prefix must not be empty or contain braces, not {safe_repr(prefix)}; "
                f"choose another, because braces decide on which node of a Cluster a key lives"
            )
        self._prefix = _octets(self.prefix)
        self._value = re.compile(re.escape(self._prefix) + rb"\{(\d+)\}:(.*)", re.DOTALL)
        self.channel = self._prefix + b"!"

    def names(self, key: str) -> tuple[bytes, bytes]:
        """Return the names of a key's value, and of its bucket's token."""
        octets = key.encode("utf-8", "surrogatepass")
        token = b"%s{%d}" % (self._prefix, crc32(octets) % BUCKETS)
        return b"%s:%s" % (token, octets), token

    def value(self, key: str) -> bytes:
        """Return the name of a key's value."""
        return self.names(key)[0]

    def values(self, keys: Iterable[str]) -> list[bytes]:
        """Do what `value` does for several keys."""
        prefix, keys = self._prefix, list(keys)
        try:
            encoded = [key.encode() for key in keys]
        except UnicodeEncodeError:
            encoded = list(map(_octets, keys))
        return [b"%s{%d}:%s" % (prefix, crc32(octets) % BUCKETS, octets) for octets in encoded]

    def tag(self, tag: str) -> bytes:
        """Return the name of a tag's token."""
        return b"%s{#%s}" % (self._prefix, _octets(tag))

    def figures(self) -> tuple[bytes, bytes]:
        """Return the names of the key that says that figures are wanted, and of the hash of all records.

        No glob of this layout matches them, so `clear` leaves them.
        """
        return self._prefix + b"!watched", self._prefix + b"!figures"

    def tokens(self) -> list[bytes]:
        """Return the names of the tokens of all buckets."""
        return [b"%s{%d}" % (self._prefix, bucket) for bucket in range(BUCKETS)]

    def key(self, name: bytes) -> str | None:
        """Return the key whose value has this name; None if no value of this cache has it."""
        match = self._value.fullmatch(name)
        if match is None:
            return None
        try:
            return match[2].decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return None

    def is_tag(self, name: bytes) -> bool:
        """Return whether it is the name of a tag's token."""
        return name.startswith(self._prefix + b"{#") and name.endswith(b"}")

    def values_glob(self, beginning: str = "") -> bytes:
        """Return a glob for the server that matches the values of keys with this beginning."""
        return self._glob(self._prefix) + b"{[0-9]*}:" + self._glob(_octets(beginning)) + b"*"

    def everything_glob(self) -> bytes:
        """Return a glob for the server that matches all names under the prefix."""
        return self._glob(self._prefix) + b"{*"

    @staticmethod
    def _glob(octets: bytes) -> bytes:
        return _GLOB.sub(rb"\\\1", octets)
