"""The hash index of one shard: a file of slots that every process maps.

    words 0-7   magic, generation, capacity, 0...
    slots       capacity pairs of hash word and location word (see `format`)
    visited     capacity bytes: 1 if the entry was read since it was written, or since compaction saw it

Open addressing with linear probing: a key is in the first slot from its home with its hash word. If a slot
with hash word 0 comes first, the key is not there. At most 0.6 of the slots are in use, deleted ones
included. A slot never gets another hash. Readers take no lock. `place` and all stores need the lock of the
shard. A file never grows: `index_growth` fills a larger one, which then takes its place.
"""

from __future__ import annotations

import mmap
import os
from array import array
from typing import Final, final

from cachekit.tiers.file.engine.file_ops import EFFECTS, FileOps
from cachekit.tiers.file.engine.format import FORMAT
from cachekit.tiers.file.engine.segments import Segments
from cachekit.tiers.file.folder import Folder

_MAGIC: Final = int.from_bytes(b"ckINDEX\0", "little") + FORMAT
_HEAD: Final = 64

#: The most slots that a probe looks at. At a load of 0.6 the longest chains are far shorter, but damage may
#: not be.
PROBES: Final = 512


def file_size(capacity: int) -> int:
    """Return how many bytes an index with so many slots has."""
    return _HEAD + 17 * capacity


def name_of(generation: int) -> str:
    """Return the name of the file of an index."""
    return f"{generation >> 32:x}-{generation & (1 << 32) - 1:x}.index"


def map_file(
    folder: Folder, generation: int, most_slots: int, *, read_only: bool = False
) -> tuple[int, memoryview]:
    """Return how many slots the file has, and all of it, mapped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an index of this generation, or has a wrong size.
    """
    name = name_of(generation)
    with open(name, "rb" if read_only else "r+b", opener=folder.open) as file:
        size = os.fstat(file.fileno()).st_size
        if not _HEAD < size <= file_size(most_slots):
            raise ValueError(f"{folder.path}/{name} has a wrong size")
        # Only the descriptor that mmap keeps stays open.
        access = mmap.ACCESS_READ if read_only else mmap.ACCESS_DEFAULT
        view = memoryview(mmap.mmap(file.fileno(), size, access=access))
    magic, named, capacity = view[:24].cast("Q")
    if (
        magic != _MAGIC
        or named != generation
        or size != file_size(capacity)
        or capacity < 1
        or capacity & (capacity - 1)
    ):
        raise ValueError(f"{folder.path}/{name} is damaged")
    return capacity, view


def slots_of(view: memoryview, capacity: int) -> memoryview:
    """Return the words of the slots in a mapped file."""
    return view[_HEAD : _HEAD + 16 * capacity].cast("Q")


def is_found(slots: memoryview, at: int) -> bool:
    """Tell whether a probe for the hash of a slot finds it there."""
    hash_word, mask = slots[at], len(slots) - 1
    place = hash_word - 1 & mask
    for _ in range(PROBES):
        if not hash_word & 1 or not slots[place]:
            return False
        if slots[place] == hash_word:
            return place == at
        place = place + 2 & mask
    return False


@final
class Index:
    """One generation of the index, mapped. A larger one than `most_slots` is damaged.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an index of this generation, or has a wrong size.
    """

    __slots__ = ("capacity", "generation", "mask", "probes", "segments", "slots", "visited")

    segments: Segments  #: the files that its slots name; set by the caller that opens the index

    def __init__(self, folder: Folder, generation: int, most_slots: int, effects: FileOps) -> None:
        capacity, view = map_file(folder, generation, most_slots)
        self.generation = generation
        self.capacity = capacity
        #: For positions counted in words: always even.
        self.mask = 2 * capacity - 1
        self.probes = min(PROBES, capacity)
        self.slots = effects.words(slots_of(view, capacity))
        self.visited = effects.octets(view[_HEAD + 16 * capacity :])

    def find(self, hashed: int) -> int:
        """Return the position of the key's slot, or -1. The location word may be 0: deleted.

        The hash may come from a damaged file. Then no slot has it.
        """
        slots, mask = self.slots, self.mask
        at = hashed & mask & ~1
        for _ in range(self.probes):
            hash_word = slots[at]
            if not hash_word:
                return -1
            if hash_word == hashed:
                return at
            at = at + 2 & mask
        return -1

    def place(self, hashed: int) -> int:
        """Return the key's slot, or the free one that it would get; -1 if it needs a larger index."""
        slots, mask = self.slots, self.mask
        at = hashed - 1 & mask
        for _ in range(self.probes):
            hash_word = slots[at]
            if hash_word == hashed or not hash_word:
                return at
            at = at + 2 & mask
        return -1


def _no_index() -> Index:
    index = Index.__new__(Index)
    index.generation = -1
    index.segments = Segments(Folder(""), -1, 0, 0, 0, EFFECTS)
    return index


#: The index of a shard that this process has not opened. Its generation is one that no file has.
NO_INDEX: Final = _no_index()


def create(folder: Folder, generation: int, capacity: int, effects: FileOps) -> None:
    """Make the file of an empty index."""
    fd = effects.create(folder, name_of(generation))
    try:
        effects.allocate(fd, file_size(capacity))
        effects.pwrite(fd, array("Q", [_MAGIC, generation, capacity]).tobytes(), 0)
    finally:
        os.close(fd)
