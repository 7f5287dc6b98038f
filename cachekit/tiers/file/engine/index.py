"""The hash index of one shard: a file of slots that every process maps, and another file in time.

    words 0-7   magic, generation, capacity, 0...
    slots       capacity pairs of words A, B (see `format`)
    visited     capacity bytes: 1 if the entry was read since it was written, or since reclaim met it

Open addressing with linear probing: a key is at the first slot from its home whose A is its own, and
not there if a slot with A = 0 comes first. At most 0.6 of the slots are in use, deleted ones included;
a slot is never given to another hash. Readers take no lock; `place` needs that of the shard, and so do
all stores. A file never grows: `growth` fills a larger one, which then takes its place.
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

#: No probe looks at more slots. At a load of 0.6 the longest chains are far shorter; damage is not.
PROBES: Final = 512


def file_size(capacity: int) -> int:
    """The bytes of an index with so many slots."""
    return _HEAD + 17 * capacity


def name_of(generation: int) -> str:
    """The name of the file of an index."""
    return f"{generation >> 32:x}-{generation & (1 << 32) - 1:x}.index"


def map_file(folder: Folder, generation: int, *, read_only: bool = False) -> tuple[int, memoryview]:
    """How many slots the file has, and all of it, mapped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an index of this generation, or has not the size that it should.
    """
    name = name_of(generation)
    with open(name, "rb" if read_only else "r+b", opener=folder.open) as file:
        size = os.fstat(file.fileno()).st_size
        if size < _HEAD:
            raise ValueError(f"{folder.path}/{name} is cut short")
        # The descriptor that mmap keeps is the only one that stays open.
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
    """The words of the slots in a mapped file."""
    return view[_HEAD : _HEAD + 16 * capacity].cast("Q")


@final
class Index:
    """One generation of the index, mapped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an index of this generation, or has not the size that it should.
    """

    __slots__ = ("capacity", "generation", "mask", "probes", "segments", "slots", "visited")

    segments: Segments  #: the files that its slots speak of; whoever opens it says so

    def __init__(self, folder: Folder, generation: int, effects: FileOps) -> None:
        capacity, view = map_file(folder, generation)
        self.generation = generation
        self.capacity = capacity
        #: For positions counted in words: always even.
        self.mask = 2 * capacity - 1
        self.probes = min(PROBES, capacity)
        self.slots = effects.words(slots_of(view, capacity))
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


def _no_index() -> Index:
    index = Index.__new__(Index)
    index.generation = -1
    index.segments = Segments(Folder(""), -1, 0, 0, EFFECTS)
    return index


#: What stands for the index of a shard that this process has not opened: of no generation there is.
NO_INDEX: Final = _no_index()


def create(folder: Folder, generation: int, capacity: int, effects: FileOps) -> None:
    """Make the file of an index that holds nothing yet."""
    fd = effects.create(folder, name_of(generation))
    try:
        effects.allocate(fd, file_size(capacity))
        effects.pwrite(fd, array("Q", [_MAGIC, generation, capacity]).tobytes(), 0)
    finally:
        os.close(fd)
