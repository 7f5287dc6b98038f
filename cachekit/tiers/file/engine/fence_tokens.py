"""Fence tokens in memory that all processes of a directory share: was this key written since I looked?

There is one 64-bit token per bucket of keys, one per bucket of tags, one epoch of tags, and one word that
every change changes. Every write, delete and invalidation puts fresh tokens in, by aligned 8-byte stores. A
holder of a copy compares the word of all changes first. Only if that has changed, it compares the tokens of
the copy. Bit 63, WRITING, says that a write is under way: what is read now must not be copied elsewhere. A
key's token changes under the lock of its shard, which has a slice of the table. Tags' tokens change without a
lock, because records carry the tokens that were read before their value was loaded.

While writes are in progress, the other bits of a word tell how many (see `flux`).
"""

from __future__ import annotations

import os
import re
import time
from array import array
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final, final

from cachekit.tiers.fences import CHANGES, EPOCH, WRITING, TagTokens
from cachekit.tiers.file.engine import flux
from cachekit.tiers.file.engine.file_ops import FileOps
from cachekit.tiers.file.engine.format import FORMAT, TAG, TOKENS_HEAD, Geometry
from cachekit.tiers.file.engine.segments import write_all
from cachekit.tiers.file.folder import Folder
from cachekit.tiers.fresh_tokens import fresh

NAME: Final = "tokens"
_MAGIC: Final = int.from_bytes(b"ckTOKEN\0", "little") + FORMAT
_unpack_tags: Final = TAG.iter_unpack
_MOST_KNOWN: Final = 1024  # tags whose buckets are remembered, and the most bytes of each
_LONGEST_KNOWN: Final = 256
_ABANDONED: Final = 1.0  # seconds after which a write under way counts as abandoned
_IN_PROGRESS: Final = re.compile(rb"[\x80-\xff]")


def create(folder: Folder, geometry: Geometry, effects: FileOps) -> None:
    """Make the file.

    Each bucket of tags begins with a token of its own. Records from before an earlier file was lost, and
    records whose bucket was damaged, must not match it. No token is 0: a fence must not match zeroed words.
    """
    fd = effects.create(folder, NAME)
    try:
        effects.allocate(fd, geometry.tokens_size)
        tokens = array("Q", [fresh()]) * geometry.buckets
        tokens.extend([fresh() for _ in range(geometry.tag_buckets)])
        write_all(effects.pwrite, fd, tokens.tobytes(), 8 * TOKENS_HEAD)
        # Magic, number of buckets, EPOCH, CHANGES. They come last: a file with the magic is complete.
        effects.pwrite(fd, array("Q", [_MAGIC, geometry.buckets, fresh(), fresh()]).tobytes(), 0)
    finally:
        os.close(fd)


def is_sound(folder: Folder, geometry: Geometry) -> bool:
    """Tell whether the file exists, has its size, and begins with the right words."""
    try:
        with open(NAME, "rb", opener=folder.open) as file:
            return (
                os.fstat(file.fileno()).st_size == geometry.tokens_size
                and file.read(16) == array("Q", [_MAGIC, geometry.buckets]).tobytes()
            )
    except FileNotFoundError:
        return False


@final
class Tokens:
    """The mapped tokens. Safe in any thread, before and after a fork.

    Args:
        folder: the directory.
        geometry: of the directory.
        effects: the operations that change files.
        read_only: map it without write access.
    """

    __slots__ = (
        "_buckets",
        "_news",
        "_suspects",
        "_tag_buckets",
        "_tag_mask",
        "_tag_start",
        "words",
    )

    def __init__(
        self, folder: Folder, geometry: Geometry, effects: FileOps, *, read_only: bool = False
    ) -> None:
        view = folder.mapped(NAME, geometry.tokens_size, read_only=read_only)
        #: All of the file, as 8-byte words; `bucket_of` returns which one is a key's.
        self.words = effects.words(view.cast("Q"))
        self._news = -1
        self._buckets = geometry.buckets
        self._tag_start = TOKENS_HEAD + geometry.buckets
        self._tag_mask = geometry.tag_buckets - 1
        # The buckets of tags that were used last: most entries have one of a few tags.
        self._tag_buckets: dict[str, int] = {}
        self._suspects: dict[int, tuple[int, float]] = {}

    def of_tags(self, tags: Iterable[str]) -> TagTokens:
        """Return bucket and token of each tag, to be read before a value is loaded and stored with it."""
        words, start, known = self.words, self._tag_start, self._tag_buckets
        found = []
        for tag in tags:
            bucket = known.get(tag)
            if bucket is None:
                bucket = self._tag_bucket(tag)
            found.append((bucket, words[start + bucket]))
        return tuple(found)

    def are_current(self, tags: TagTokens) -> bool:
        """Tell whether none of the tags was invalidated since their tokens were read."""
        words, start, mask = self.words, self._tag_start, self._tag_mask
        for bucket, token in tags:  # noqa: SIM110  # all(...) takes twice as long
            if words[start + (bucket & mask)] != token:
                return False
        return True

    def packed_are_current(self, packed: bytes) -> bool:
        """Tell what `are_current` tells, of tag tokens as a record keeps them."""
        words, start, mask = self.words, self._tag_start, self._tag_mask
        for bucket, token in _unpack_tags(packed):  # noqa: SIM110  # as above
            if words[start + (bucket & mask)] != token:
                return False
        return True

    def invalidate_tags(self, tags: Iterable[str]) -> None:
        """Invalidate every record, and every copy, that carries a token of one of the tags."""
        words = self.words
        # A reader that finds the same epoch twice does not compare tags. So the epoch changes first and last.
        words[EPOCH] = words[CHANGES] = fresh() | WRITING
        for tag in tags:
            words[self._tag_start + self._tag_bucket(tag)] = fresh()
        words[EPOCH] = fresh()
        words[CHANGES] = fresh()

    def stable_epoch(self) -> int:
        """Return the epoch, or 0 while an invalidation of tags is under way. The epoch is never 0.

        An invalidation that was killed counts as done after a second. If it was only stopped, it changes the
        epoch once more before it returns, and copies made since then are compared again.
        """
        epoch: int = self.words[EPOCH]
        if epoch & WRITING and self.is_abandoned(EPOCH, epoch):
            epoch = self.words[EPOCH] = fresh()
        return 0 if epoch & WRITING else epoch

    def news(self) -> int:
        """Return the word that every write and invalidation changes, before its effect can be seen.

        It has the WRITING bit while an invalidation of tags is under way. The same number is the same object,
        so thousands of fences share one.
        """
        news: int = self.words[CHANGES]
        if news != self._news:
            self._news = news
        return self._news  # perhaps that of another thread, which has read it just as late

    def renew_slice(self, shard: int, shards: int) -> None:
        """Change the tokens of all buckets of a shard, under the lock of that shard."""
        words = self.words
        size = self._buckets // shards
        start = TOKENS_HEAD + shard * size
        renewed = array("Q", [fresh()]) * size
        # The highest byte of a word, which is little-endian, has the WRITING bit.
        for found in _IN_PROGRESS.finditer(words[start : start + size].tobytes()[7::8]):
            at = found.start()
            renewed[at] = flux.after(renewed[at], flux.others_in(words[start + at]))
        # A reader may see a word half changed here. Such a token matches nothing later.
        words[start : start + size] = memoryview(renewed)
        words[CHANGES] = fresh()

    def invalidate_all_tokens(self) -> None:
        """Change every token, of tags too, so that no fence of this table stands."""
        words = self.words
        words[EPOCH] = words[CHANGES] = fresh() | WRITING
        words[TOKENS_HEAD:] = memoryview(array("Q", [fresh()]) * (len(words) - TOKENS_HEAD))

    def is_abandoned(self, bucket: int, token: int) -> bool:
        """Tell whether this write was under way a second ago already: its writer is dead, or stopped.

        If other writes of the key have come all the time since, two seconds tell it.
        """
        if bucket >= TOKENS_HEAD and flux.is_old(token):
            return True
        now = time.monotonic()
        known = self._suspects.get(bucket)
        if known is not None and known[0] == token:
            return now - known[1] > _ABANDONED
        if len(self._suspects) >= 1000:
            self._suspects.clear()
        self._suspects[bucket] = (token, now)
        return False

    def end_abandoned_write(self, bucket: int, token: int) -> None:
        """Clear the WRITING bit of an abandoned write, under the lock of the bucket's shard."""
        if self.words[bucket] == token:
            self.words[bucket] = fresh()
            self.words[CHANGES] = fresh()

    def _tag_bucket(self, tag: str) -> int:
        octets = tag.encode("utf-8", "surrogatepass")
        bucket = int.from_bytes(blake2b(octets, digest_size=4).digest(), "little") & self._tag_mask
        if len(octets) <= _LONGEST_KNOWN:
            if len(self._tag_buckets) >= _MOST_KNOWN:
                self._tag_buckets.clear()
            self._tag_buckets[tag] = bucket
        return bucket
