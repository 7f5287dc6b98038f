"""How much of the limit large records take, and may take.

A record larger than `Geometry.most_own` is not stored in its shard's own share of the limit. Its bytes count
against all shards alike. The tables of the control blocks say how many these are, so there is no other count
that a crash could leave wrong. Every shard keeps the room that its index and its writes need.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

from cachekit.tiers.file.engine.control_block import ALONE, CAPACITY, NEW, NEW_CAPACITY, Table
from cachekit.tiers.file.engine.format import Geometry
from cachekit.tiers.file.engine.index import file_size

#: All large records may take one half of what the shards have.
_PART: Final = 2


@final
class LargeRoom:
    """The room that the large records of all shards share. Works without a lock, and in any thread.

    Args:
        blocks: the control block of each shard.
        geometry: of the directory.
    """

    __slots__ = ("_blocks", "_geometry", "_tables", "most_own")

    def __init__(self, blocks: Sequence[memoryview], geometry: Geometry) -> None:
        self._geometry = geometry
        #: Bytes of the largest record that its shard stores in its own share of the limit.
        self.most_own = geometry.most_own
        self._blocks = blocks
        has_any = self.most_own < geometry.limit
        self._tables = [Table(words, geometry) for words in blocks] if has_any else []

    def is_large(self, size: int) -> bool:
        """Tell whether a size in a table is that of a large record."""
        return size > self.most_own + ALONE

    def files(self) -> list[tuple[int, int, int]]:
        """Return the number of the shard, the number of the file, and its size, of every large record."""
        return [
            (shard, number, size)
            for shard, table in enumerate(self._tables)
            for number, size, _ in table.entries()
            if size > self.most_own + ALONE
        ]

    def taken(self) -> int:
        """Return how many bytes large records take, those included that are being written."""
        return sum([size & ~ALONE for _, _, size in self.files()])

    def share(self) -> int:
        """Return how many bytes of its room each shard leaves to large records."""
        if not self._tables:
            return 0
        # A damaged table must not take the room of all others.
        return min(-(-self.taken() // len(self._tables)), self._geometry.quota // _PART)

    def most(self) -> int:
        """Return how many bytes large records may take, beside the largest index that there is now."""
        geometry = self._geometry
        quota, segment = geometry.quota, geometry.segment
        needed = 0
        for words in self._blocks:
            old = file_size(max(geometry.capacity, _sound(words[CAPACITY], geometry)))
            new = file_size(_sound(words[NEW_CAPACITY], geometry)) if words[NEW] else 0
            # For two segments or the largest own record; and for another index, made to drop deleted slots.
            own = old + new + segment + max(segment, self.most_own)
            needed = max(needed, own, 2 * max(old, new) + segment)
        return max(0, min(quota // _PART, quota - needed)) * geometry.shards


def _sound(capacity: int, geometry: Geometry) -> int:
    """Return the slots of an index; 0 if the word is damaged."""
    return capacity if capacity <= geometry.most_slots else 0
