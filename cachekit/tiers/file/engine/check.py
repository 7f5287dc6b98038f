"""Looks at a cache directory from outside: what it holds, and whether it is sound. It changes nothing.

The directory is not opened as an engine opens it. So nothing is evicted, counted as read, or removed. A
change during the check may be seen or not. Before a slot is reported as damaged, it is read again. A shard
that seems damaged is looked at again under its lock, because a writer may be in the middle of a change. Sound
ones are not locked, so their users are not disturbed.
"""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_NB, LOCK_SH, flock
from struct import error as StructError  # noqa: N812  # it is an exception, whatever struct calls it
from typing import Final, NamedTuple, final

from cachekit.errors import FileFormatError
from cachekit.runtime.interrupts import raise_interrupt
from cachekit.serialization.checksum import crc32
from cachekit.tiers.file.descriptor import OpenFile
from cachekit.tiers.file.engine import control_block, fence_tokens
from cachekit.tiers.file.engine.control_block import ENTRIES, GENERATION, USED, Table
from cachekit.tiers.file.engine.directory import MANIFEST, USERS, read_manifest
from cachekit.tiers.file.engine.fence_tokens import Tokens
from cachekit.tiers.file.engine.file_ops import EFFECTS
from cachekit.tiers.file.engine.format import (
    CRC_MASK,
    FORMAT,
    HEADER,
    OFFSET_MASK,
    OFFSET_SHIFT,
    SEGMENT_SHIFT,
    TAG,
    Geometry,
    decode_tags,
    hasher,
    record_size,
)
from cachekit.tiers.file.engine.index import is_found, map_file, slots_of
from cachekit.tiers.file.engine.segments import Segments
from cachekit.tiers.file.engine.shard_lock import LOCK
from cachekit.tiers.file.folder import Folder

_SLICE: Final = 1000  # slots that are read at once
_GLANCE: Final = 512  # bytes in which header, tags and key of most records lie
_LOOKS: Final = 8  # at what other processes may change all the time
_PATIENCE: Final = 5.0  # seconds to wait for the lock of a shard; a process that was stopped may hold it
_INTERVAL: Final = 1e-3  # seconds between two attempts


#: What a sound entry can be. An invalidated one has a tag that was invalidated after the entry was stored.
STATES: Final = ("live", "expired", "invalidated")


class Item(NamedTuple):
    """An entry, as its record describes it; or a slot that names no sound record."""

    shard: int
    generation: int  #: of the index
    at: int  #: the position of its slot in the index
    slot: int  #: the location word of the slot
    key: str  #: empty if the slot is damaged
    size: int  #: bytes of the record
    expiry: float  #: seconds since the epoch; infinity if it does not expire
    tags: int  #: how many
    state: str  #: one of STATES, or what is wrong

    def out_of_reach(self) -> Item:
        """Return it as one that no lookup finds."""
        return self._replace(key="", state="no lookup finds it")


class Part(NamedTuple):
    """A shard."""

    number: int
    generation: int  #: of its index; 0 if nothing was ever stored in it
    slots: int  #: of its index
    entries: int  #: by its own count
    segments: int
    live_bytes: int
    disk_bytes: int
    problems: tuple[str, ...]


class _Slots(NamedTuple):
    """An index, mapped for reading."""

    generation: int
    capacity: int
    words: memoryview


@final
class Counts:
    """What was counted in the index of a shard."""

    __slots__ = ("entries", "live", "used")

    def __init__(self) -> None:
        self.used = 0  #: slots
        self.entries = 0
        self.live: dict[int, int] = {}  #: bytes of sound records, by segment

    def exceed(self, words: memoryview, geometry: Geometry) -> bool:
        """Tell whether the control block counts less: more, up to its bounds, is what a crash leaves."""
        entries = Table(words, geometry).entries()
        return (
            self.used > words[USED]
            or self.entries > words[ENTRIES]
            or any(self.live.get(number, 0) > live for number, _, live in entries)
        )


@final
class Inspection:
    """A directory, opened for reading.

    Args:
        path: the directory.

    Raises:
        FileNotFoundError: there is no cache in it.
        FileFormatError: it has another version, or is too damaged to be read.
        OSError: no permission to read it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._folder = Folder.at(path, strict=False)
        manifest = read_manifest(self._folder)
        # From here on, what counts is what a cache of the user who made it accepts.
        self._folder.strict = True
        found = self._folder.look(MANIFEST)
        makers = {about.st_uid for about in (os.fstat(self._folder.fd), found) if about is not None}
        self._folder.owners |= makers
        objection = self._folder.objection(MANIFEST)
        version, geometry = manifest.version, manifest.geometry
        if version is None:
            raise FileNotFoundError(f"{path} is not a cache directory: it has no manifest")
        if geometry is None:
            what = "is damaged" if version < 0 else f"has format {version}, not {FORMAT}"
            raise FileFormatError(f"{path} cannot be read: its manifest {what}")
        if objection:
            raise FileFormatError(f"{path} cannot be read: its manifest {objection}")
        self.geometry: Geometry = geometry
        self.made = manifest.made
        #: Shards whose control block counts less than `items` has found, if it was to verify.
        self.miscounted: list[int] = []
        self._hash_of = hasher(manifest.salt)
        for name, is_sound in (
            (fence_tokens.NAME, fence_tokens.is_sound(self._folder, geometry)),
            (control_block.NAME, control_block.is_sound(self._folder, geometry, manifest.salt)),
        ):
            if not is_sound:
                raise FileFormatError(f"{path} cannot be read: its file {name!r} is damaged or missing")
        self._tokens = Tokens(self._folder, geometry, EFFECTS, read_only=True)
        self._blocks = control_block.map_blocks(self._folder, geometry, EFFECTS, read_only=True)
        self._shards = [Folder(f"{number:02x}", self._folder) for number in range(geometry.shards)]

    def users(self) -> list[int] | None:
        """Return the processes that have it open; None on systems that do not tell."""
        try:
            found = self._folder.look(USERS)
            with open("/proc/locks", encoding="ascii") as file:
                lines = file.read().splitlines()
        except OSError:
            return None
        if found is None:
            return None
        place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
        fields = [line.split() for line in lines]
        return sorted({int(one[4]) for one in fields if one[1] == "FLOCK" and one[5] == place})

    def disk_bytes(self) -> int:
        """Return how many bytes the directory takes on disk."""
        return _disk_bytes(self.path)

    def count(self) -> int:
        """Return how many entries there are, by the shards' own counts."""
        return sum([min(block[ENTRIES], self.geometry.most_slots) for block in self._blocks])

    # -- shards -----------------------------------------------------------------------------------------

    def parts(self) -> list[Part]:
        """Return the shards, each with the problems that its control block and its files show."""
        return [self._part(number, words) for number, words in enumerate(self._blocks)]

    def _part(self, number: int, words: memoryview) -> Part:
        problems = self._problems(number, words)
        if problems:
            with self._locked(number):
                problems = self._problems(number, words)
        entries = Table(words, self.geometry).entries()
        slots = self._slots(number)
        return Part(
            number,
            words[GENERATION],
            0 if slots is None else slots.capacity,
            words[ENTRIES],
            len(entries),
            sum([live for _, _, live in entries]),
            _disk_bytes(f"{self.path}/{number:02x}"),
            problems,
        )

    @contextmanager
    def _locked(self, number: int) -> Iterator[None]:
        """Keep writers out of a shard. One without a usable lock has no writers."""
        try:
            lock = OpenFile(self._shards[number].open(LOCK, os.O_RDONLY))
        except OSError as error:
            raise_interrupt(error)
            yield
            return
        try:
            deadline = time.monotonic() + _PATIENCE
            while True:
                try:
                    flock(lock.fd, LOCK_SH | LOCK_NB)
                    break
                except OSError as error:
                    raise_interrupt(error)
                    if time.monotonic() > deadline:
                        break  # what is seen then is all that can be known
                    time.sleep(_INTERVAL)
            yield
        finally:
            lock.close()

    def _problems(self, number: int, words: memoryview) -> tuple[str, ...]:
        if not words[0] and not words[GENERATION]:
            return ()  # never used
        try:
            objection = self._shards[number].objection(LOCK)
        except OSError as error:
            return (f"its directory cannot be used: {error.strerror}",)
        if objection:
            return (f"its lock {objection}",)
        problem = self._problem_of(words)
        if problem:
            return (f"its control block {problem}",)
        if self._slots(number) is None:
            return ("its index is damaged or missing",)
        for _ in range(_LOOKS):
            segments = self._segments(number)
            gone = self._gone(segments, Table(words, self.geometry))
            if words[GENERATION] >> 32 == segments.incarnation:  # else the shard was reset during the check
                return tuple(
                    [f"its segment {segments.name(one)} is missing, or has a wrong size" for one in gone]
                )
        return ()

    def _problem_of(self, words: memoryview) -> str:
        """Return what is wrong with a control block. While it is changed, it may seem wrong."""
        for _ in range(_LOOKS):
            now = words.tolist()
            problem = control_block.problem_of(memoryview(array("Q", now)), self.geometry)
            if not problem or words.tolist() == now:
                return problem
        return ""

    def _gone(self, segments: Segments, table: Table) -> list[int]:
        """Return the segments that have live bytes, and no file or one of a wrong size."""
        missing = {
            segment for segment, size, live in table.entries() if live and not segments.has(segment, size)
        }
        if not missing:
            return []
        # A segment that was removed since the first look has no live bytes any more.
        return [segment for segment, _, live in table.entries() if live and segment in missing]

    def _slots(self, number: int) -> _Slots | None:
        """Return the index of the shard; None if it is damaged or missing."""
        words = self._blocks[number]
        for _ in range(_LOOKS):
            generation = words[GENERATION]
            try:
                capacity, view = map_file(
                    self._shards[number], generation, self.geometry.most_slots, read_only=True
                )
                return _Slots(generation, capacity, slots_of(view, capacity))
            except (OSError, ValueError):
                # Another index may have taken its place since its generation was read.
                if words[GENERATION] == generation:
                    return None
        return None

    def _segments(self, number: int) -> Segments:
        return Segments(
            self._shards[number],
            self._blocks[number][GENERATION] >> 32,
            self.geometry.segment,
            self.geometry.largest_record,
            64,
            EFFECTS,
        )

    # -- entries ----------------------------------------------------------------------------------------

    def items(self, *, verify: bool = False) -> Iterator[Item]:
        """Yield every entry, shard by shard.

        Args:
            verify: read whole records, and compare their checksums.
        """
        now = time.time()
        for number, words in enumerate(self._blocks):
            before = words.tolist()
            counts = Counts()
            yield from self._items_of(number, counts, now, verify)
            # If it has changed, the counts are those of another moment.
            if verify and words.tolist() == before and counts.exceed(words, self.geometry):
                with self._locked(number):
                    again = Counts()
                    for _ in self._items_of(number, again, now, verify):
                        pass
                    if again.exceed(words, self.geometry):
                        self.miscounted.append(number)

    def _items_of(self, number: int, counts: Counts, now: float, verify: bool) -> Iterator[Item]:
        words, slots = self._blocks[number], self._slots(number)
        if slots is None:
            return
        segments = self._segments(number)
        for start in range(0, 2 * slots.capacity, 2 * _SLICE):
            copy = slots.words[start : start + 2 * _SLICE].tolist()
            for place in range(0, len(copy), 2):
                counts.used += copy[place] != 0
                if not copy[place] or not copy[place + 1]:
                    continue  # empty, deleted, or about to be filled
                at = start + place
                name = (number, slots.generation, at, copy[place + 1])
                item = self._item(segments, name, copy[place], now, verify)
                if verify and item.state in STATES and not is_found(slots.words, at):
                    item = item.out_of_reach()
                counts.entries += 1
                segment = copy[place + 1] >> SEGMENT_SHIFT
                counts.live[segment] = counts.live.get(segment, 0) + item.size
                if item.state in STATES or self._stays(words, slots, item, copy[place]):
                    yield item

    def _stays(self, words: memoryview, slots: _Slots, item: Item, hashed: int) -> bool:
        """Tell whether a damaged slot is unchanged. If not, its record was moved or overwritten."""
        same = slots.words[item.at] == hashed and slots.words[item.at + 1] == item.slot
        return bool(same and words[GENERATION] == slots.generation)

    def _item(
        self, segments: Segments, name: tuple[int, int, int, int], hash_word: int, now: float, verify: bool
    ) -> Item:
        def damaged(state: str) -> Item:
            return Item(*name, "", 0, 0.0, 0, state)

        location_word = name[3]
        segment = location_word >> SEGMENT_SHIFT
        most = self.geometry.largest_record if verify else _GLANCE
        try:
            content, offset = segments.load(segment, location_word >> OFFSET_SHIFT & OFFSET_MASK, most)
        except OSError as error:
            return damaged(f"its segment cannot be read: {error.strerror}")
        if not content and not segments.is_there(segment):
            return damaged("its segment is missing")
        try:
            header = HEADER.unpack_from(content, offset)
        except StructError:
            return damaged("its location is beyond its segment")
        crc, payload, key_length, names, _, tag_count, _, expiry, _, hashed, _ = header
        start = HEADER.size + TAG.size * tag_count
        size = record_size(key_length, names, payload, tag_count)
        end = start + key_length
        if len(content) == _GLANCE < end:
            content, offset = segments.load(segment, location_word >> OFFSET_SHIFT & OFFSET_MASK, end)
        head = content[offset : offset + end]
        if len(head) < end or (crc ^ location_word) & CRC_MASK or hashed != hash_word:
            return damaged("its location holds another record")
        key = head[start:]
        if self._hash_of(key) != hash_word:
            return damaged("its record has another key")
        if verify:
            record = content[offset : offset + size]
            if len(record) < HEADER.size or crc32(memoryview(record)[4:]) != crc:
                return damaged("its record does not match its checksum")
        state = "live"
        if expiry <= now:
            state = "expired"
        elif tag_count and not self._tokens.are_current(decode_tags(head, tag_count)):
            state = "invalidated"
        return Item(*name, key.decode("utf-8", "surrogatepass"), size, expiry, tag_count, state)


def _disk_bytes(path: str) -> int:
    total = 0
    for folder, _, names in os.walk(path):
        for name in (".", *names):
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:
                pass  # removed during the walk
    return total
