"""Fence tokens in memory that all processes of a directory share: was this written since I looked?

One 64-bit token per bucket of keys, one per bucket of tags, one epoch of tags, one word for all news.
Every write, delete and invalidation puts fresh ones in, by aligned 8-byte stores; whoever copied a value
elsewhere compares: first the news, and only if that is not what it was, the tokens that it depends on.
Bit 63, FLUX, says that a write is under way: what is read now must not be kept elsewhere. A key's token
is changed under the lock of its shard, whose slice of the table is its own; tags' tokens without a lock,
because records carry the tokens that were read before their value was loaded.
"""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final, final

from cachekit.tiers.fences import CHANGES, EPOCH, WRITING, TagTokens
from cachekit.tiers.file.engine.file_ops import FileOps
from cachekit.tiers.file.engine.format import FORMAT, Geometry
from cachekit.tiers.file.folder import Folder

NAME: Final = "tokens"
_MAGIC: Final = int.from_bytes(b"ckTOKEN\0", "little") + FORMAT
_HEAD: Final = 8  # words before the first bucket
_LOW: Final = WRITING - 1
_DRAWN: Final = 512
_STALE_FLUX: Final = 1.0  # seconds after which a write under way is taken for dead


class _Source:
    """Tokens that no process has handed out before: 63 random bits, or two would have to be equal.

    They differ all over: a flipped byte does not turn a token into an earlier one. From the system and
    never from `random`, whose state forks and seeds repeat; drawn many at a time, which costs a fifth.
    """

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Forget what was drawn: a forked child would hand out the same."""
        self._drawn: list[int] = []

    def fresh(self) -> int:
        try:
            return self._drawn.pop()  # one step, so no two threads get the same
        except IndexError:
            self._drawn = [number & _LOW or 1 for number in array("Q", os.urandom(8 * _DRAWN))]
            return self.fresh()


_source = _Source()
#: A token that was never used.
fresh = _source.fresh

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_source.renew)


def create(folder: Folder, geometry: Geometry, effects: FileOps) -> None:
    """Make the file.

    Tags begin with tokens of their own, each another one: records that outlived an earlier file, or whose
    bucket was damaged, must not agree with it.
    """
    fd = effects.create(folder, NAME)
    try:
        effects.allocate(fd, geometry.tokens_size)
        start = 8 * (_HEAD + geometry.buckets)
        effects.pwrite(fd, array("Q", [fresh() for _ in range(geometry.tag_buckets)]).tobytes(), start)
        # The magic comes last: with it the file is whole.
        effects.pwrite(fd, array("Q", [_MAGIC, geometry.buckets, fresh()]).tobytes(), 0)
    finally:
        os.close(fd)


def is_sound(folder: Folder, geometry: Geometry) -> bool:
    """Whether the file is there, has its size, and begins as it should."""
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
        effects: by which it is changed.
        read_only: map it for looking at it alone.
    """

    __slots__ = ("_buckets", "_news", "_shift", "_suspects", "_tag_mask", "_tag_start", "words")

    def __init__(
        self, folder: Folder, geometry: Geometry, effects: FileOps, *, read_only: bool = False
    ) -> None:
        view = folder.mapped(NAME, geometry.tokens_size, read_only=read_only)
        #: Everything, as 8-byte words; `bucket` tells which is a key's.
        self.words = effects.words(view.cast("Q"))
        self._news = -1
        self._shift = geometry.bucket_shift
        self._buckets = geometry.buckets
        self._tag_start = _HEAD + geometry.buckets
        self._tag_mask = geometry.tag_buckets - 1
        self._suspects: dict[int, tuple[int, float]] = {}

    def bucket(self, hashed: int) -> int:
        """Which word is the token of keys with this hash."""
        return _HEAD + (hashed >> self._shift)

    def of_tags(self, tags: Iterable[str]) -> TagTokens:
        """Bucket and token of each tag, to be read before a value is loaded and stored with it."""
        buckets = [self._tag_bucket(tag) for tag in tags]
        return tuple([(bucket, self.words[self._tag_start + bucket]) for bucket in buckets])

    def are_current(self, tags: TagTokens) -> bool:
        """Whether none of the tags was invalidated since their tokens were read."""
        words, start, mask = self.words, self._tag_start, self._tag_mask
        return all(words[start + (bucket & mask)] == token for bucket, token in tags)

    def invalidate_tags(self, tags: Iterable[str]) -> None:
        """Every record, and every copy, that carries a token of one of the tags is over from now on."""
        words = self.words
        # Whoever meets the same epoch twice need not compare tags: so it changes first and last.
        words[EPOCH] = words[CHANGES] = fresh() | WRITING
        for tag in tags:
            words[self._tag_start + self._tag_bucket(tag)] = fresh()
        words[EPOCH] = fresh()
        words[CHANGES] = fresh()

    def epoch(self) -> int:
        """Changes with every invalidation of tags, all through it; FLUX while one is under way.

        One that was killed on its way is over after a second. If it was only stopped, it changes the epoch
        once more before it returns, and what was copied meanwhile is compared again.
        """
        epoch: int = self.words[EPOCH]
        if epoch & WRITING and self.is_abandoned(EPOCH, epoch):
            epoch = self.words[EPOCH] = fresh()
        return epoch

    def news(self) -> int:
        """Changes with every write and invalidation, before it can be seen; FLUX as for `epoch`.

        The same number is the same object: holders of thousands of fences share one.
        """
        news: int = self.words[CHANGES]
        if news != self._news:
            self._news = news
        return self._news  # of another thread, perhaps: then read just as late

    def renew_slice(self, shard: int, shards: int) -> None:
        """Change the tokens of all buckets of a shard, whose lock the caller holds."""
        size = self._buckets // shards
        start = _HEAD + shard * size
        # Words may be seen half changed here; what remembered such a one agrees with nothing later.
        self.words[start : start + size] = memoryview(array("Q", [fresh()]) * size)
        self.words[CHANGES] = fresh()

    def invalidate_all_tokens(self) -> None:
        """Change every token, of tags too: nothing agrees with this table any more."""
        words = self.words
        words[EPOCH] = words[CHANGES] = fresh() | WRITING
        words[_HEAD:] = memoryview(array("Q", [fresh()]) * (len(words) - _HEAD))

    def is_abandoned(self, bucket: int, token: int) -> bool:
        """Whether this FLUX was seen a second ago already: its writer is dead, or stopped."""
        now = time.monotonic()
        known = self._suspects.get(bucket)
        if known is not None and known[0] == token:
            return now - known[1] > _STALE_FLUX
        if len(self._suspects) >= 1000:
            self._suspects.clear()
        self._suspects[bucket] = (token, now)
        return False

    def settle(self, bucket: int, token: int) -> None:
        """End the FLUX of an abandoned write, under the lock of the bucket's shard."""
        if self.words[bucket] == token:
            self.words[bucket] = fresh()
            self.words[CHANGES] = fresh()

    def _tag_bucket(self, tag: str) -> int:
        octets = tag.encode("utf-8", "surrogatepass")
        return int.from_bytes(blake2b(octets, digest_size=4).digest(), "little") & self._tag_mask
