"""The segment files of one shard as one process sees them: mapped for reading, one open for writing.

A segment has its full size from the start, as a hole, so one mapping is good for all later records. A record
too large to share a file has its own file of just its size, which is read without being mapped. The file of a
very large one is written without the lock of the shard, and has a flock until a slot names it. Files never
change size, and numbers are never used twice. But a user may cut a file, and then a mapping has pages whose
use is SIGBUS. So `mapped` is emptied ten times a second, and a segment that it lacks is looked at again.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from struct import error as StructError  # noqa: N812  # it is an exception, whatever struct calls it
from typing import Final, TypeAlias, final

from cachekit.runtime.interrupts import raise_interrupt
from cachekit.runtime.none_dict import NoneDict
from cachekit.tiers.file.descriptor import OpenFile
from cachekit.tiers.file.descriptor_budget import descriptors
from cachekit.tiers.file.engine.control_block import ALONE
from cachekit.tiers.file.engine.file_ops import FileOps, regrow
from cachekit.tiers.file.engine.format import HEADER, PAGE, record_size
from cachekit.tiers.file.folder import Folder

#: Slicing either yields a private copy.
Content: TypeAlias = "mmap.mmap | bytes"
#: A number that no segment has, and a descriptor that no file has.
_NONE: Final = (-1, -1)
_PIECE: Final = 8 << 20  # bytes that are written before a look whether the file is still there


class RemovedError(Exception):
    """The file of a large record was removed before a slot named it: the directory was emptied."""


@final
class Segments:
    """Readers call `load` from any thread, without a lock. Other methods need the lock of the shard.

    Args:
        folder: the directory of the shard.
        incarnation: part of the names; it changes when numbers start again.
        size: Bytes of an ordinary segment.
        largest: Bytes that a record can have.
        most_mapped: how many to keep mapped; each takes a descriptor.
    """

    __slots__ = (
        "_effects", "_folder", "_known", "_largest", "_most_mapped", "_size", "incarnation", "mapped",
        "writing",
    )  # fmt: skip

    def __init__(
        self, folder: Folder, incarnation: int, size: int, largest: int, most_mapped: int, effects: FileOps
    ) -> None:
        self._folder = folder
        self._size = size
        self._largest = largest
        self._most_mapped = most_mapped
        self._effects = effects
        self.incarnation = incarnation
        #: Those whose files had their full size a tenth of a second ago. All mapped ones are in `_known`.
        self.mapped: NoneDict[int, mmap.mmap]
        self._known: NoneDict[int, mmap.mmap]
        self.replace_tables()
        #: The segment that this process wrote to last, and its descriptor.
        self.writing: tuple[int, int] = _NONE

    def name(self, segment: int) -> str:
        """Return the name of a segment's file in the directory."""
        return f"{self.incarnation:x}-{segment:x}.segment"

    def load(self, segment: int, offset: int, most: int) -> tuple[Content, int]:
        """Return contents of a segment, and where in them is what the segment has at an offset.

        A segment of the usual size is mapped as a whole. Of any other file, these are the record at the
        offset, or its first `most` bytes; none if the segment was removed.
        """
        known = self._known[segment]
        try:
            if known is not None:
                if known.size() < self._size:
                    regrow(self._folder, self.name(segment), self._size, self._effects, blocks=False)
                if known.size() == self._size:
                    # Behind the others, because it was used. Another thread may have dropped it by now.
                    self._known.pop(segment, None)
                    self._known[segment] = self.mapped[segment] = known
                    return known, offset
            file = OpenFile(self._folder.open(self.name(segment), os.O_RDONLY))
        except FileNotFoundError:
            return b"", 0
        if os.fstat(file.fd).st_size != self._size:
            self._known.pop(segment, None)
            return self._record(file.fd, offset, most), 0
        descriptors.make_room()
        content = descriptors.attempt(mmap.mmap, file.fd, self._size, access=mmap.ACCESS_READ)
        self._known[segment] = self.mapped[segment] = content
        # The oldest are dropped. A reader that uses one has its own reference. list() of the keys is one
        # step. Iterating is not, nor is list() of the NoneDict itself without the GIL. Another thread may
        # have dropped any of them by now.
        for number in list(self._known.keys())[: -self._most_mapped]:
            self._forget(number)
        return content, offset

    def _record(self, fd: int, offset: int, most: int) -> bytes:
        """Return what the record at an offset has; not more than `most` bytes, or than a record can have."""
        head = os.pread(fd, HEADER.size, offset)
        try:
            size = min(length_at(head, 0), most)
        except StructError:
            return b""
        # A file that was damaged may say any length, and may have it.
        if size > self._largest:
            return b""
        parts = []
        while size > 0 and (part := os.pread(fd, size, offset)):
            parts.append(part)
            size, offset = size - len(part), offset + len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def piece(self, segment: int, offset: int, size: int) -> bytes:
        """Return some bytes of a segment, without mapping it; fewer if it ends there or was removed."""
        try:
            file = OpenFile(self._folder.open(self.name(segment), os.O_RDONLY))
        except FileNotFoundError:
            return b""
        return os.pread(file.fd, size, offset)

    def replace_tables(self) -> None:
        """Begin with no mapped segment, as in a forked child; see `NoneDict`."""
        self.mapped, self._known = NoneDict(), NoneDict()

    def distrust(self) -> None:
        """Look at the size of each segment again before it is used the next time; without the lock."""
        self.mapped = NoneDict()

    def held(self) -> int:
        """Return how many descriptors are open."""
        return len(self._known) + (self.writing[1] >= 0)

    def close_mapping(self) -> bool:
        """Close a mapping that was not used lately, but not the last one; tell whether there was one."""
        # The order is that of the last look at the size of the file.
        numbers = list(self._known.keys())
        if len(numbers) > 1:
            self._forget(numbers[0])
        return len(numbers) > 1

    def rest(self) -> None:
        """Close all descriptors until they are used again; no operation of this process is under way."""
        self.close_writer()
        for number in list(self._known.keys()):
            self._forget(number)

    def _forget(self, segment: int) -> None:
        self.mapped.pop(segment, None)
        self._known.pop(segment, None)

    def length(self, segment: int) -> int:
        """Return how many bytes a segment's file has; 0 if it was removed."""
        found = self._folder.look(self.name(segment))
        return 0 if found is None else found.st_size

    def is_there(self, segment: int) -> bool:
        """Tell whether a segment has a file."""
        try:
            return self._folder.look(self.name(segment)) is not None
        except (FileNotFoundError, PermissionError):  # its shard has no directory, or one of another user
            return False

    def has(self, segment: int, size: int) -> bool:
        """Tell whether a segment has a file, of the size that the table says."""
        try:
            return self.size_on_disk(segment, size) == size
        except OSError as error:  # its shard has no directory, or one of another user
            raise_interrupt(error)
            return False

    def size_on_disk(self, segment: int, size: int) -> int:
        """Return what the table should say of the size of a segment; 0 if its file has a wrong size."""
        length = self.length(segment)
        if size & ALONE:
            return -(-length // PAGE) * PAGE + ALONE
        return length if length == self._size else 0

    def create(self, segment: int) -> None:
        """Make an ordinary segment's file, of its full size, and keep it open for writing."""
        fd = self._effects.create(self._folder, self.name(segment))
        try:
            self._effects.truncate(fd, self._size)
        except BaseException:
            os.close(fd)
            raise
        self._keep(segment, fd)

    def create_alone(self, segment: int, parts: Sequence[bytes]) -> None:
        """Make the file of one large record, and close it, so that unlinking it frees its blocks."""
        file = OpenFile(self._effects.create(self._folder, self.name(segment)))
        try:
            self.write_parts(file, parts)
        finally:
            file.close()

    def create_aside(self, segment: int, size: int) -> OpenFile:
        """Make the file of one very large record, with a flock and its full size, as a hole."""
        file = OpenFile(self._effects.create(self._folder, self.name(segment)))
        flock(file.fd, LOCK_EX | LOCK_NB)
        self._effects.truncate(file.fd, size)
        return file

    def write_parts(self, file: OpenFile, parts: Sequence[bytes]) -> None:
        """Write the parts one after another. Works without the lock of the shard.

        Raises:
            RemovedError: the file was removed.
        """
        offset = 0
        for part in parts:
            view = memoryview(part)
            for start in range(0, len(view), _PIECE):
                if start and not os.fstat(file.fd).st_nlink:
                    raise RemovedError
                write_all(self._effects.pwrite, file.fd, view[start : start + _PIECE], offset + start)
            offset += len(view)

    def is_being_written(self, segment: int) -> bool:
        """Tell whether the process that writes the file of a very large record is alive."""
        try:
            file = OpenFile(self._folder.open(self.name(segment), os.O_RDONLY))
        except FileNotFoundError:
            return False
        try:
            flock(file.fd, LOCK_SH | LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            file.close()
        return False

    def writer(self, segment: int) -> int:
        """Return a descriptor for writing to the segment, valid until the next call.

        Raises:
            FileNotFoundError: it was removed.
        """
        known, fd = self.writing
        if known != segment:
            fd = self._folder.open(self.name(segment), os.O_RDWR)
            self._keep(segment, fd)
        return fd

    def _keep(self, segment: int, fd: int) -> None:
        before = self.writing[1]
        self.writing = (segment, fd)
        if before >= 0:
            os.close(before)

    def unlink(self, segment: int) -> None:
        """Remove a segment's file, if it is there."""
        self._forget(segment)
        discard(self._folder, self.name(segment), self._size, self._effects)

    def forget_all_but(self, numbers: Collection[int]) -> None:
        """Unmap segments that other processes removed."""
        for segment in list(self._known.keys()):
            if segment not in numbers:
                self._forget(segment)
        if self.writing[0] not in numbers:
            self.close_writer()

    def close_writer(self) -> None:
        """Close the descriptor of `writer`."""
        fd = self.writing[1]
        self.writing = _NONE
        if fd >= 0:
            os.close(fd)


def discard(folder: Folder, name: str, size: int | None, effects: FileOps) -> None:
    """Remove a segment's file, if it is there.

    If it has the size of those that are mapped, or that size is not known, the disk gets the blocks back
    first: with a mapping of another process they would stay in use. What is no file of this user's cache is
    only unlinked, and a directory stays.
    """
    try:
        file = OpenFile(folder.open(name, os.O_RDWR))
        found = os.fstat(file.fd).st_size
        if found and size in (found, None):
            effects.punch(file.fd, found)
    except OSError as error:
        raise_interrupt(error)
    with suppress(FileNotFoundError, IsADirectoryError):
        effects.unlink(folder, name)


def write_all(
    pwrite: Callable[[int, bytes | memoryview, int], int], fd: int, record: bytes | memoryview, offset: int
) -> None:
    """Write all of the record there."""
    written = pwrite(fd, record, offset)
    while written < len(record):
        # A write is short if the disk is nearly full, or after a signal. The next one tells which.
        written += pwrite(fd, record[written:], offset + written)


def length_at(content: Content, offset: int) -> int:
    """Return how many bytes the record at an offset has, by its header.

    Raises:
        struct.error: the content ends before the header does.
    """
    _, payload, key, names, _, tags, *_ = HEADER.unpack_from(content, offset)
    return record_size(key, names, payload, tags)
