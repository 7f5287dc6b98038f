"""The wire format: what a value on a server looks like. Records in a directory have another one.

This module promises that packing and parsing agree, that parsing raises nothing but
`UnreadableError`, and that it allocates no more than a few times what it is given. Seals are
computed by the serializer; payloads are the codecs' business.

The format, version 1
---------------------
Numbers are little-endian. An envelope is

    offset  size  what
         0     2  magic, "CK"
         2     1  version, 1
         3     1  flags: 0 sealed with a checksum, 1 signed; every other bit is for later versions
         4  4/32  the seal: CRC-32 of the header, or HMAC-SHA256 of header and payload
       +0      1  codec: 1 pickle, 2 JSON, 3 MessagePack, 128-255 the user's own
       +1      1  compression: 0 none, 1 zlib, 2 zstd; plus 64 where the payload begins with classes
       +2      4  bytes of tags
       +6     24  created, expires, stale-until: doubles, seconds since the epoch; infinity: never
      +30      4  CRC-32 of the payload; 0 where the seal is a signature, which covers the payload
      +34      t  tags, one after another: token (8), length of the name (4), name in UTF-8
    +34+t      p  payload, to the end of the buffer: the length (4) of the table of classes and that table, if
                  there is one (see `class_fingerprints`); raw length (8) of a compressed one; the value

Why it is so:

- The first four bytes are all that is looked at before the seal is checked, and they must be
  exactly those of this version and kind. So a flag or version that this reader does not know is
  refused, never skipped, and with a secret not a byte is interpreted before its signature has been
  verified.
- The seal is computed over a prefix that is not stored: the four bytes above, the namespace and the
  key, each with its length. An envelope that was moved to another key or namespace does not verify.
- Without a secret, header and payload have a checksum each, so that a reader can trust an expiry
  time or a tag's token without paying for the payload. With one there is a single signature over
  both: a header that is authentic beside a payload that is not would be an invitation.
- A CRC-32 finds every single flipped byte, and misses random damage once in 4 billion. It is no
  defence against anybody; that is what the signature is for.
- There is no length of the payload. A tier knows where an envelope ends, and a cut or padded one fails
  its checksum.
- Lone surrogates are legal in a Python str, so keys, namespaces and tags are encoded with
  `surrogatepass`.

A later version gets another number in byte 2 and may change everything after it; golden files in
the tests keep today's bytes readable or cleanly refused.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

from cachekit.errors import UnreadableError
from cachekit.model.display import shown_text, shown_value
from cachekit.model.validation import LONGEST, MOST_TAGS

MAGIC: Final = b"CK"
VERSION: Final = 1
#: The first four bytes, which say whether a checksum or a signature follows.
CHECKED: Final = MAGIC + bytes((VERSION, 0))
SIGNED: Final = MAGIC + bytes((VERSION, 1))

START_SIZE: Final = 4
CHECKSUM: Final = struct.Struct("<I")
CHECKSUM_SIZE: Final = 4
SIGNATURE_SIZE: Final = 32

_FIXED: Final = struct.Struct("<BBIdddI")
_TAG: Final = struct.Struct("<QI")
_LENGTH: Final = struct.Struct("<Q")
#: The smallest header, the one without tags.
HEADER_SIZE: Final = _FIXED.size
_LARGEST_TAGS: Final = 0xFFFFFFFF

pack_fixed = _FIXED.pack
pack_length = _LENGTH.pack

#: Start, seal and header of an envelope without a signature and without tags, by one look.
_CHECKED: Final = struct.Struct("<4sI" + _FIXED.format[1:])
unpack_checked = _CHECKED.unpack_from
#: Where the header is in such an envelope.
CHECKED_HEADER: Final = slice(START_SIZE + CHECKSUM_SIZE, _CHECKED.size)


class Header(NamedTuple):
    """What stands before a payload. Times are seconds since the epoch."""

    codec: int
    compression: int
    created: float
    expires: float
    stale_until: float
    checksum: int  #: CRC-32 of the payload, 0 in a signed envelope
    tags: dict[str, int]  #: each tag with the token that it had
    size: int  #: bytes from the start of the header to the payload


def sized(name: bytes) -> bytes:
    """A name behind its length, so that two names in a row cannot be read as two others."""
    return _LENGTH.pack(len(name)) + name


def pack_tags(tags: Mapping[str, int]) -> bytes:
    """Tags with their tokens, as they stand in a header.

    Raises:
        TypeError: a tag is not a str, or a token is not an int.
        ValueError: a token does not fit 64 bits unsigned, or the tags together pass 4 GiB.
    """
    pieces = []
    for tag, token in tags.items():
        if not isinstance(tag, str) or type(token) is not int:
            raise TypeError(
                f"tags must map each tag (str) to its token (int), not {shown_value(tag)} to "
                f"{shown_value(token)}"
            )
        if not 0 <= token < 1 << 64:
            raise ValueError(
                f"the token of tag {shown_text(tag)} must fit 64 bits unsigned, {token!r} does not"
            )
        name = tag.encode("utf-8", "surrogatepass")
        pieces.append(_TAG.pack(token, len(name)))
        pieces.append(name)
    packed = b"".join(pieces)
    if len(packed) > _LARGEST_TAGS:
        raise ValueError(f"the names of {len(tags)} tags take {len(packed)} bytes; 4 GiB is the most")
    return packed


def parse_header(buffer: bytes, start: int) -> Header:
    """The header that begins at `start`, of an envelope whose seal has been verified.

    Raises:
        UnreadableError: it is cut, or contradicts itself.
    """
    if len(buffer) < start + HEADER_SIZE:
        raise UnreadableError("the stored bytes end within their header", "damage")
    codec, compression, tag_bytes, created, expires, stale, checksum = _FIXED.unpack_from(buffer, start)
    if created != created or expires != expires or stale != stale:
        raise UnreadableError("a time in the header is not a number", "damage")
    size = HEADER_SIZE + tag_bytes
    tags = {}
    if tag_bytes:
        if len(buffer) < start + size:
            raise UnreadableError("the stored bytes end within their tags", "damage")
        tags = _parse_tags(buffer, start + HEADER_SIZE, start + size)
    return Header(codec, compression, created, expires, stale, checksum, tags, size)


def _parse_tags(buffer: bytes, position: int, end: int) -> dict[str, int]:
    tags = {}
    while position < end:
        if end - position < _TAG.size:
            raise UnreadableError("the stored bytes end within a tag", "damage")
        token, length = _TAG.unpack_from(buffer, position)
        position += _TAG.size
        if end - position < length:
            raise UnreadableError("a tag is longer than the room for it", "damage")
        try:
            name = buffer[position : position + length].decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise UnreadableError("a tag is not UTF-8", "damage") from error
        if len(name) > LONGEST or name in tags:
            raise UnreadableError("a tag is longer than tags may be, or there twice", "damage")
        tags[name] = token
        position += length
        if len(tags) > MOST_TAGS:  # each costs its reader a look at the server
            raise UnreadableError("there are more tags than a value may have", "damage")
    return tags
