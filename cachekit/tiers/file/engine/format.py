"""The bytes of a cache directory: names, records, slots, words; and in which order they are stored.

What is in the directory
------------------------
    manifest        JSON with its own checksum: format version, limit, shards. Written aside and renamed.
    structure.lock  filelock.FileLock: a process that opens, creates or rebuilds the directory holds it
    users           every open engine holds a shared flock on it; a rebuild needs the exclusive one
    tokens          fence tokens, mapped by all processes (see `fence_tokens`)
    control         one block of words per shard, mapped by all processes (see `control_block`)
    NN/lock         flock: a process that writes in the shard NN holds it
    NN/I-G.index    the hash index of the shard: incarnation I, generation G (see `index`)
    NN/I-S.segment  records, appended; or one record too large to share a file (see `segments`), or to be
                    stored in its shard's share of the limit (see `large_records`)

The top bits of a key's hash name its shard, and its bucket of tokens. No operation needs the locks of two
shards at once.

Records and slots
-----------------
A record never changes once it is reachable. It begins at a multiple of 32 bytes:

    crc32 of all that follows, padding included | length of payload | of key | of tag names | flags |
    number of tags | created | expiry | stale until | hash | server token | (bucket, token) of each tag |
    key | tag names | payload | zeros up to a multiple of 32

This is all that is stored about an entry, under one checksum. Times are seconds since the epoch. The engine
reads lengths, expiry, hash and the tags' tokens. `record_codec` gives the flags, the names and the payload
their meaning. With a secret, the payload ends with a signature of everything between crc and signature.

A slot of the index is two aligned words. One instruction reads or writes each, through a memoryview cast to
"Q". A, the hash word, is hash|1. If it is 0, no later slot of the probe chain matters. B, the location word,
says where the record is (segment 27 bits, offset/32 17, length/32 8, low bits of its crc 12). If it is 0, the
key is deleted. A is stored once in the life of an index, so a reader finds an old B or a new one, never half
of each. If B names another record than it did when it was stored, the crc fails or the key differs. (Slots of
32 bytes were torn 190,510 times in 19 million reads.) Lengths from 255 units up are read from the record. Two
keys with the same hash take the slot from each other, as if one evicted the other.

The order of stores, and what a crash leaves behind
---------------------------------------------------
A write holds the lock of its shard, which ends with its process. In order:

    1  pwrite the record beyond the tail     crash: the next record overwrites these bytes
    2  control: the tail, one word           crash: a dead record, which compaction skips
    3  tokens: WRITING, then CHANGES         crash: what is read now is not copied elsewhere, until another
                                             process ends the write; the old value is still stored
    4  index: B                              an old key: the new value is stored. A new key: A is 0, so no
                                             reader finds it, and the next insert here overwrites B
    5  index: A, if the key is new           the new value is stored; only the token is missing, see 3
    6  tokens: the write's own token         everything is done

The counts of live bytes and entries go up before 4 and down after 5, so a crash can only leave them too high.
A segment with a count of 0 has no live byte. The count of entries is corrected when the index is replaced.
The count of live bytes goes with its segment. The sweep removes a large record without a slot. If a step
fails, the slot's B becomes 0 and the token changes: a write that could not be stored still invalidates.

A delete is 3, B = 0, 6. An eviction is B = 0 alone, because what other tiers hold stays valid.

For a new segment, its number is entered in the table of the control block. Then its file is made, with its
full size as a hole, which takes blocks only as records come. Then the tail word changes. A record too large
to share a segment is 1 without 2: a number, then a file with just the record. If that fails, the file is
removed before the caller gets the error. A very large one is written before 1, without the lock, into a file
with a number and a flock. So the table names every file: a crash leaves an entry without a
file, or with an empty one, and compaction removes both. Removing a segment is the other way round, file
first. Numbers are never used again, and files never shrink. A reader that mapped a file before it was
unlinked goes on reading its bytes.

A larger index is filled beside the old one, some slots with each write, so that no write waits for all of
them (see `index_growth`). The file is made first; then a word says that it is being filled. During that time,
a process that changes or copies a slot sets a word before and clears it after: 4 and 5 happen in the old
index, then in the new one. After the last copy, one store of the generation word makes the new index the
current one, and the old file is unlinked. A reader compares the generation before every probe. A crash
between the two stores leaves the word set. Then the copy is thrown away and starts again, in a file of
another generation, because some process may have the first one mapped. A file of a generation that is not in
the control block is removed when a process first writes in the shard, and whenever a new segment is made.

So every state that a crash can leave is consistent. There is no dirty flag, and no recovery pass.

Damage
------
Records carry their crc. Readers check it, and the key, on a private copy. Slots are not trusted: a slot that
names no sound record of its hash is cleared. An index of the wrong size, generation or magic is dropped
together with the shard's segments. Rebuilding it from them would bring back deleted keys. A process checks
the control block before its first write in the shard. Later, no loop ends by a stored word alone, and words
that contradict each other are counted again, or the shard is emptied (`DamagedError`). Incarnations and
generations are random, because a damaged word must not lead back to a file that some process has mapped.

Damage to the manifest, or to the headers of tokens and control, empties the directory. If a mapped file is
cut, the use of a missing page is SIGBUS. So the sizes are looked at every tenth of a second, and the file
gets its size back: then the missing part is zeros.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from hashlib import blake2b
from struct import Struct
from threading import get_ident
from typing import Final, NamedTuple, final

from cachekit.serialization.checksum import crc32
from cachekit.serialization.parts import Parts, Payload
from cachekit.tiers.fences import TagTokens
from cachekit.tiers.file.descriptor import OpenFile

#: The names of index and segment files, as they are written. Nothing else in a shard is ever removed.
DATA_NAME: Final = re.compile(r"[1-9a-f][0-9a-f]{0,7}-[1-9a-f][0-9a-f]{0,7}\.(segment|index)")

#: The version of this format; a directory with another one is not read.
FORMAT: Final = 2

PAGE: Final = 4096
TOKENS_HEAD: Final = 8  # words of the tokens before the first bucket
UNIT: Final = 32  # records begin at multiples of it
SIGNATURE_SIZE: Final = 32

#: crc; lengths of payload, key and names; flags, tags; created, expiry, stale until; hash, server token
HEADER: Final = Struct("<IIIIHHdddQQ")
_AFTER_CRC: Final = Struct("<IIIHHdddQQ")
_PADDING: Final = [bytes(length) for length in range(UNIT)]
#: bucket and token of one tag
TAG: Final = Struct("<IQ")
MOST_TAGS: Final = (1 << 16) - 1

# The location word: segment << 37 | offset/32 << 20 | length/32 << 12 | crc
SEGMENT_SHIFT: Final = 37
SEGMENT_LIMIT: Final = 1 << 27
OFFSET_SHIFT: Final = 20 - 5  # together with a mask that drops the low bits: the offset in bytes
OFFSET_MASK: Final = ((1 << 17) - 1) << 5
LENGTH_SHIFT: Final = 12 - 5
LENGTH_MASK: Final = 0xFF << 5
LONG: Final = 0xFF << 5  # this length or more: the record has the exact one
CRC_MASK: Final = 0xFFF

MIB: Final = 1 << 20
SMALLEST_LIMIT: Final = MIB
_LARGEST_LIMIT: Final = 1 << 40
_MOST_SEGMENTS: Final = 1 << 16  # of a shard
_MOST_PAYLOAD: Final = (1 << 32) - (1 << 24)


class Record(NamedTuple):
    """A record, as a private copy, and what its header says."""

    content: bytes  #: all of it
    names: int  #: where the names of its tags begin, which end where the payload begins
    start: int  #: where the payload begins
    end: int  #: where the payload ends
    flags: int
    created: float  #: seconds since the epoch
    expiry: float  #: the same; infinity if it does not expire
    stale_until: float  #: the same
    server_token: int  #: the token that a server had for the key when the value was made; 0 without a server
    tags: TagTokens  #: bucket and token of each tag, from before the value was read

    @property
    def payload(self) -> bytes:
        """Return the payload."""
        return self.content[self.start : self.end]


def hasher(salt: bytes) -> Callable[[bytes], int]:
    """Return the function from an encoded key to its 64-bit hash with the lowest bit set: its hash word.

    It has the salt of its directory, so no client can prepare keys that all get the same slot.
    """
    begin = blake2b(digest_size=8, salt=salt).copy  # a copy costs half of a salted constructor
    from_bytes = int.from_bytes

    def hash_of(octets: bytes) -> int:
        hashing = begin()
        hashing.update(octets)
        return from_bytes(hashing.digest(), "little") | 1

    return hash_of


def record_size(key_length: int, names_length: int, payload_length: int, tags: int) -> int:
    """Return how many bytes a record takes in a segment."""
    body = key_length + names_length + payload_length
    return (HEADER.size + TAG.size * tags + body + UNIT - 1) & -UNIT


def record_parts(
    key: bytes,
    hashed: int,
    payload: Payload,
    expiry: float,
    flags: int,
    server_token: int,
    tags: Sequence[tuple[int, int]],
    created: float,
    stale_until: float,
    names: bytes,
    sign: Callable[..., bytes] | None,
) -> tuple[bytes, ...]:
    """Return a record without its checksum, in parts, padded to its full size.

    With `sign`, its payload ends with the signature. `whole_record` or `LargeRecord` adds the checksum.
    """
    size = len(payload) + (0 if sign is None else SIGNATURE_SIZE)
    head = _AFTER_CRC.pack(
        size, len(key), len(names), flags, len(tags), created, expiry, stale_until, hashed, server_token
    )
    if tags:
        head += b"".join([TAG.pack(*tag) for tag in tags])
    padding = _PADDING[-(4 + len(head) + len(key) + len(names) + size) % UNIT]
    pieces = payload.pieces if type(payload) is Parts else (payload,)  # as pieces_of(), without its call
    seal = b"" if sign is None else sign(head, key, names, *pieces)
    return head + key + names, *pieces, seal + padding


def whole_record(parts: Sequence[bytes]) -> bytes:
    """Return a record of these parts with its checksum, in one piece."""
    body = b"".join(parts)
    return crc32(body).to_bytes(4, "little") + body


def small_record(
    key: bytes,
    hashed: int,
    payload: Payload,
    expiry: float,
    flags: int,
    server_token: int,
    tags: Sequence[tuple[int, int]],
    created: float,
    stale_until: float,
    names: bytes,
    sign: Callable[..., bytes] | None,
) -> bytes:
    """Return the `whole_record` of the `record_parts`, without a signature in three quarters of the time."""
    if sign is not None or type(payload) is not bytes:
        return whole_record(
            record_parts(
                key, hashed, payload, expiry, flags, server_token, tags, created, stale_until, names, sign
            )
        )
    size, count = len(payload), len(tags)
    head = _AFTER_CRC.pack(
        size, len(key), len(names), flags, count, created, expiry, stale_until, hashed, server_token
    )
    if tags:
        head += b"".join([TAG.pack(*tag) for tag in tags])
    begin = head + key + names
    body = b"".join((begin, payload, _PADDING[-(4 + len(begin) + size) % UNIT]))
    return crc32(body).to_bytes(4, "little") + body


@final
class LargeRecord:
    """A record in the parts that it is written in: joining them would copy a large payload."""

    __slots__ = ("aside", "crc", "parts", "size")

    def __init__(self, parts: Sequence[bytes]) -> None:
        crc = 0
        for part in parts:
            crc = crc32(part, crc)
        self.crc = crc
        self.parts = (crc.to_bytes(4, "little"), *parts)
        self.size = 4 + sum(map(len, parts))
        #: The file that it was written into, which no slot names yet; None if it has none.
        self.aside: FileAside | None = None

    def __len__(self) -> int:
        return self.size


@final
class FileAside:
    """A segment file for one large record, from when it is made until a slot names it.

    The open descriptor has a flock, by which other processes tell that the writer lives.
    """

    __slots__ = ("file", "incarnation", "number", "thread")

    def __init__(self, incarnation: int, number: int, file: OpenFile) -> None:
        self.incarnation = incarnation
        self.number = number
        self.file = file
        self.thread = get_ident()


def decode_tags(record: bytes, count: int) -> TagTokens:
    """Return the tag tokens of a record."""
    return tuple(TAG.iter_unpack(record[HEADER.size : HEADER.size + TAG.size * count]))


def pack_location(segment: int, offset: int, length: int, crc: int) -> int:
    """Return the location word of a slot."""
    if length > LONG:
        length = LONG
    return segment << SEGMENT_SHIFT | offset << OFFSET_SHIFT | length << LENGTH_SHIFT | crc & CRC_MASK


def bucket_of(hashed: int, shift: int) -> int:
    """Return which word of the tokens is that of keys with this hash; `shift` is that of the geometry."""
    return TOKENS_HEAD + (hashed >> shift)


def mebibytes(limit: int) -> float:
    """Return a limit in MiB, as an int if it is a whole number of them."""
    return limit / MIB if limit % MIB else limit // MIB


@dataclass(frozen=True)
class Geometry:
    """The shape of a directory, fixed when it is made.

    Args:
        limit: Bytes that the directory may take on disk.
        shards: Number of shards, a power of two.
        segment: Bytes of a segment file, a multiple of 4096.
        buckets: Number of fence tokens of keys, a power of two, at least one per shard.
        tag_buckets: Number of fence tokens of tags, a power of two.
        capacity: Slots of a new index, a power of two.
    """

    limit: int
    shards: int
    segment: int
    buckets: int
    tag_buckets: int
    capacity: int = 1024

    @classmethod
    def for_limit(cls, limit: int) -> Geometry:
        """Return the shape for a limit in bytes.

        Raises:
            ValueError: the limit is under 1 MiB.
        """
        if limit < SMALLEST_LIMIT:
            raise ValueError(f"the limit must be at least {SMALLEST_LIMIT} bytes, not {limit!r}")
        shards = max(1, min(32, 1 << max(0, round(math.log2(limit / (32 * MIB))))))
        # 2^18 tokens of 8 bytes, or as many as fit into a sixteenth of a small limit.
        buckets = min(1 << 18, 1 << (limit // 128).bit_length() - 1)
        # More segments leave less space unused, but each takes a descriptor of every process.
        parts = 16 if shards <= 16 else 8
        quota = limit // shards * 7 // 8
        segment = max(64 << 10, min(4 * MIB, quota // parts)) // PAGE * PAGE
        return cls(limit, shards, segment, buckets, max(buckets // 8, 64))

    @property
    def shard_bits(self) -> int:
        """The number of top bits of a hash that name the shard."""
        return self.shards.bit_length() - 1

    @property
    def bucket_shift(self) -> int:
        """The right shift from a hash to its bucket."""
        return 64 - (self.buckets.bit_length() - 1)

    @property
    def quota(self) -> int:
        """Bytes that index and segments of one shard may take."""
        fixed = self.tokens_size + self.control_size + (self.shards + 8) * PAGE
        return (self.limit - fixed) // self.shards

    @property
    def tokens_size(self) -> int:
        """Bytes of the tokens file."""
        return -(-8 * (TOKENS_HEAD + self.buckets + self.tag_buckets) // PAGE) * PAGE

    @property
    def table(self) -> int:
        """Entries of a shard's table of segments: more than its quota has room for."""
        # The smallest large record takes over a quarter segment. The quota itself depends on the table.
        return 5 * (self.limit // self.shards // self.segment) + 16

    @property
    def block(self) -> int:
        """Bytes of one shard's control block."""
        return -(-8 * (16 + 3 * self.table) // PAGE) * PAGE

    @property
    def control_size(self) -> int:
        """Bytes of the control file."""
        return PAGE + self.shards * self.block

    @property
    def most_slots(self) -> int:
        """Slots of the largest index that a shard may have, a power of two."""
        return max(self.capacity, 1 << (self.quota // 34).bit_length() - 1)

    @property
    def largest_record(self) -> int:
        """Bytes that no record of the directory exceeds."""
        return max(self.quota, self.limit // 4)

    @property
    def most_own(self) -> int:
        """Bytes of the largest record that is stored in its shard's own share of the limit.

        A larger one takes the room of all shards. There is none if a quarter of the limit fits into a shard.
        """
        if self.limit // 4 <= self.most_payload:
            return self.limit
        return max(self.quota // 5, self.segment) // PAGE * PAGE

    @property
    def most_payload(self) -> int:
        """Bytes of a record, with header, tags and key, that fit even beside the largest index."""
        return min(self.quota * 2 // 3 - 2 * self.segment, _MOST_PAYLOAD)

    def is_sound(self) -> bool:
        """Tell whether an engine can work with it: a manifest is checked before it is used."""
        return (
            all(type(number) is int for number in astuple(self))
            and all(_is_power_of_two(n) for n in (self.shards, self.buckets, self.tag_buckets, self.capacity))
            and self.shards <= min(self.buckets, 1 << 10)
            and self.buckets <= 1 << 24
            and self.tag_buckets <= 1 << 24
            and 0 < self.segment <= 4 * MIB
            and self.segment % PAGE == 0
            and 4 * self.segment * self.shards <= self.limit <= _LARGEST_LIMIT
            and self.table <= _MOST_SEGMENTS
            and self.most_payload > 0
            and 17 * self.capacity < self.quota
        )


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0
