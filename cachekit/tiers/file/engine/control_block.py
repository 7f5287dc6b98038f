"""The control file: one block of words per shard, which say which files are current, and how full they are.

The words of a block change only under the lock of its shard, in the order that `format` explains:

    0 magic     1 generation of the index (incarnation << 32 | generation)     2 tail (segment << 32 | bytes)
    3 number of the next segment     4 slots in use, deleted ones included     5 entries
    6 compaction's cursor (segment << 32 | offset)     7 bytes that it copied of that segment, and its mode
    8 slots of the index
    9 generation of the index that is being filled to take its place, or 0 (see `index_growth`); then also
    10 its slots     11 its slots in use     12 its entries     13 words of the old index copied to it
    14 not 0 while the two are being changed     15 word 13 xor word 9
    16... the table of segments: number, size in bytes, live bytes; number 0 is a free entry. Sizes are
          whole pages, and odd by one (ALONE) where a large record has the file to itself

Counts may be too high after a crash, never too low.

Any of these words may be damaged. So no loop ends by a word alone, and a sum is stored with the bits that
leave room for the next one. What contradicts itself empties the shard (`DamagedError`).
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Mapping
from typing import Final, final

from cachekit.tiers.file.engine.file_ops import FileOps
from cachekit.tiers.file.engine.format import FORMAT, PAGE, SEGMENT_LIMIT, UNIT, Geometry
from cachekit.tiers.file.folder import Folder

NAME: Final = "control"
MAGIC: Final = int.from_bytes(b"ckCTRL\0\0", "little") + FORMAT

GENERATION: Final = 1
TAIL: Final = 2
NEXT: Final = 3
USED: Final = 4
ENTRIES: Final = 5
CURSOR: Final = 6
COPIED: Final = 7
CAPACITY: Final = 8
NEW: Final = 9
NEW_CAPACITY: Final = 10
NEW_USED: Final = 11
NEW_ENTRIES: Final = 12
NEW_CURSOR: Final = 13
BUSY: Final = 14
NEW_CHECK: Final = 15
TABLE: Final = 16

ALONE: Final = 1  # in a size

#: The bits of a count, and of a sum of bytes, that are stored. No sound one has more.
COUNT: Final = (1 << 32) - 1
BYTES: Final = (1 << 48) - 1


def create(folder: Folder, geometry: Geometry, salt: bytes, effects: FileOps) -> None:
    """Make the file. Every block is empty, and so without magic, until its shard is reset.

    The file has the salt of its manifest. With an earlier or later manifest, it does not count.
    """
    fd = effects.create(folder, NAME)
    try:
        effects.allocate(fd, geometry.control_size)
        effects.pwrite(fd, array("Q", [MAGIC]).tobytes() + salt, 0)
    finally:
        os.close(fd)


def is_sound(folder: Folder, geometry: Geometry, salt: bytes) -> bool:
    """Tell whether the file exists, has its size, and begins with the right words."""
    try:
        with open(NAME, "rb", opener=folder.open) as file:
            return (
                os.fstat(file.fileno()).st_size == geometry.control_size
                and file.read(8 + len(salt)) == array("Q", [MAGIC]).tobytes() + salt
            )
    except FileNotFoundError:
        return False


def map_blocks(
    folder: Folder, geometry: Geometry, effects: FileOps, *, read_only: bool = False
) -> list[memoryview]:
    """Return the words of each shard's block."""
    view = folder.mapped(NAME, geometry.control_size, read_only=read_only)
    starts = range(PAGE, geometry.control_size, geometry.block)
    return [effects.words(view[start : start + geometry.block].cast("Q")) for start in starts]


def problem_of(words: memoryview, geometry: Geometry) -> str:
    """Return what is wrong with a block that is in use; empty if it may be sound."""
    entries = Table(words, geometry).entries()
    numbers = {number for number, _, _ in entries}
    tail, offset = words[TAIL] >> 32, words[TAIL] & COUNT
    sizes = {number: size for number, size, _ in entries}
    if words[0] != MAGIC:
        return "has another beginning"
    if len(numbers) != len(entries):
        return "names a segment twice"
    if not max(numbers, default=0) < words[NEXT] <= SEGMENT_LIMIT:
        return "has a wrong number for the next segment"
    if tail and (sizes.get(tail) != geometry.segment or offset > geometry.segment or offset % UNIT):
        return "has a wrong end of the last segment"
    if not words[USED] <= words[CAPACITY] <= geometry.most_slots or words[ENTRIES] > words[CAPACITY]:
        return "has wrong counts"
    for _, size, live in entries:
        alone = size & ALONE
        if (size - alone) % PAGE or not (alone or size == geometry.segment):
            return "has a wrong size of a segment"
        if live > size or size > geometry.largest_record + PAGE:
            return "has a wrong size of a segment"
    if sum([size for size in sizes.values() if size <= geometry.most_own + ALONE]) > geometry.quota:
        return "names more segments than there is room for"
    return ""


@final
class Table:
    """The table of segments in one block: the size and the live bytes of every segment file.

    Methods need the lock of the shard. `entries` and `total` may be called without it, and are then just out
    of date.
    """

    __slots__ = ("_slots", "places", "words")

    def __init__(self, words: memoryview, geometry: Geometry) -> None:
        self.words = words
        self._slots = range(TABLE, TABLE + 3 * geometry.table, 3)
        #: Where a segment was last found. Other processes change the table, so it is checked before use.
        self.places: dict[int, int] = {}

    def find(self, segment: int) -> int:
        """Return the word at which its entry begins; 0 if it has none."""
        place = self.places.get(segment, 0)
        if place and self.words[place] == segment:
            return place
        for place in self._slots:
            if self.words[place] == segment:
                if len(self.places) >= len(self._slots):
                    self.places.clear()
                self.places[segment] = place
                return place
        return 0

    def add(self, segment: int, size: int) -> bool:
        """Enter an empty segment; False if the table is full."""
        words = self.words
        for place in self._slots:
            if not words[place]:
                words[place + 1] = size
                words[place + 2] = 0
                words[place] = segment  # with this the entry counts
                return True
        return False

    def remove(self, segment: int) -> None:
        """Remove the entry of a segment whose file was removed."""
        place = self.find(segment)
        if place:
            self.words[place] = 0
            self.places.pop(segment, None)

    def gain(self, segment: int, size: int) -> None:
        """Add live bytes, before their slot is stored."""
        words = self.words
        place = self.find(segment)
        if place:
            words[place + 2] = words[place + 2] + size & BYTES

    def lose(self, segment: int, size: int) -> int:
        """Subtract live bytes, after their slot was changed; return what is left."""
        words = self.words
        place = self.find(segment)
        if not place:
            return 0
        left: int = words[place + 2] - size
        if left < 0:
            left = 0
        words[place + 2] = left
        return left

    def set_live(self, live: Mapping[int, int]) -> None:
        """Store the live bytes of every segment, counted again."""
        words = self.words
        for place in self._slots:
            if words[place]:
                words[place + 2] = live.get(words[place], 0) & BYTES

    def entries(self) -> list[tuple[int, int, int]]:
        """Return number, size and live bytes of every segment."""
        words = self.words[TABLE : self._slots.stop].tolist()
        used = [3 * at for at, number in enumerate(words[::3]) if number]
        return [(words[at], words[at + 1], words[at + 2]) for at in used]

    def is_alone(self, segment: int) -> bool:
        """Tell whether a segment is the file of one large record."""
        place = self.find(segment)
        return bool(place and self.words[place + 1] & ALONE)

    def live(self, segment: int) -> int:
        """Return the live bytes of a segment."""
        place = self.find(segment)
        return self.words[place + 2] if place else 0

    def total(self, most: int) -> int:
        """Return how many bytes all segments may take on disk, but for files larger than that."""
        return sum([size for _, size, _ in self.entries() if size <= most + ALONE])
