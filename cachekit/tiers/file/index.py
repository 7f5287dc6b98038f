"""The hash index of one shard: a file of slots that every process maps, replaced as a whole to grow.

    words 0-7   magic, generation, capacity, 0...
    slots       capacity pairs of words A, B (see `format`)
    visited     capacity bytes: 1 if the entry was read since it was written, or since reclaim met it

Open addressing with linear probing: a key is at the first slot from its home whose A is its own, and
not there if a slot with A = 0 comes first. At most 0.6 of the slots are in use, deleted ones included;
a slot is never given to another hash. Readers take no lock; `place` and what follows need the shard's.
"""

from __future__ import annotations

import mmap
import os
from array import array
from typing import Final, final

from cachekit.tiers.file.effects import Effects
from cachekit.tiers.file.format import FORMAT, SEGMENT_SHIFT
from cachekit.tiers.file.segments import Segments

_MAGIC: Final = int.from_bytes(b"ckINDEX\0", "little") + FORMAT
_HEAD: Final = 64

#: No probe looks at more slots. At a load of 0.6 the longest chains are far shorter; damage is not.
PROBES: Final = 512


def file_size(capacity: int) -> int:
    """The bytes of an index with so many slots."""
    return _HEAD + 17 * capacity


@final
class Index:
    """One generation of the index, mapped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an index of this generation, or has not the size that it should.
    """

    __slots__ = ("capacity", "generation", "mask", "probes", "segments", "slots", "visited")

    segments: Segments  #: the files that its slots speak of; whoever opens it says so

    def __init__(self, path: str, generation: int, effects: Effects) -> None:
        with open(path, "r+b") as file:
            size = os.fstat(file.fileno()).st_size
            if size < _HEAD:
                raise ValueError(f"{path} is cut short")
            # The descriptor that mmap keeps is the only one that stays open.
            view = memoryview(mmap.mmap(file.fileno(), size))
        magic, named, capacity = view[:24].cast("Q")
        if (
            magic != _MAGIC
            or named != generation
            or size != file_size(capacity)
            or capacity < 1
            or capacity & (capacity - 1)
        ):
            raise ValueError(f"{path} is damaged")
        self.generation = generation
        self.capacity = capacity
        #: For positions counted in words: always even.
        self.mask = 2 * capacity - 1
        self.probes = min(PROBES, capacity)
        self.slots = effects.words(view[_HEAD : _HEAD + 16 * capacity].cast("Q"))
        self.visited = effects.octets(view[_HEAD + 16 * capacity :])

    def find(self, hashed: int) -> int:
        """The word at which the key's slot begins, or -1. B may be 0: deleted.

        The hash may come from a file, and be damaged: then it is nobody's.
        """
        slots, mask = self.slots, self.mask
        at = hashed & mask & ~1
        for _ in range(self.probes):
            a = slots[at]
            if not a:
                return -1
            if a == hashed:
                return at
            at = at + 2 & mask
        return -1

    def place(self, hashed: int) -> int:
        """The key's slot, or the free one that it would get; -1 if it needs a larger index."""
        slots, mask = self.slots, self.mask
        at = hashed - 1 & mask
        for _ in range(self.probes):
            a = slots[at]
            if a == hashed or not a:
                return at
            at = at + 2 & mask
        return -1

    def count(self) -> int:
        """How many entries there are, counted."""
        return self.capacity - self.slots[1::2].tolist().count(0)


def write(
    path: str, generation: int, capacity: int, old: Index | None, segments: set[int], effects: Effects
) -> int:
    """Make the file of a new index with what an old one holds; how many entries that are.

    Left out are deleted slots, slots of segments that are gone, and slots that a probe for their own
    hash does not lead to: those are damage, and were misses before.
    """
    slots = array("Q", bytes(16 * capacity))
    visited = bytearray(capacity)
    count = 0
    if old is not None:
        words = old.slots.tolist()
        seen = bytes(old.visited)
        mask, old_mask = 2 * capacity - 1, old.mask
        for at in range(0, len(words), 2):
            b = words[at + 1]
            if not b or b >> SEGMENT_SHIFT not in segments:
                continue
            a = words[at]
            if a - 1 & old_mask != at and old.find(a) != at:
                continue
            to = a - 1 & mask
            while slots[to]:
                to = to + 2 & mask
            slots[to] = a
            slots[to + 1] = b
            visited[to >> 1] = seen[at >> 1]
            count += 1
    head = array("Q", [_MAGIC, generation, capacity, 0, 0, 0, 0, 0]).tobytes()
    fd = effects.create(path)
    try:
        effects.allocate(fd, file_size(capacity))
        content = memoryview(head + slots.tobytes() + bytes(visited))
        written = 0
        while written < len(content):
            written += effects.pwrite(fd, content[written:], written)
    finally:
        os.close(fd)
    return count
