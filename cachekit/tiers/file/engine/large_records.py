"""Writing a record that is larger than its shard's share of the limit.

Writing it takes long, so that happens without the lock of the shard, into a file that no slot names yet:

    1  under the lock: a number is entered in the table, and the file made, with a flock
    2  large records are evicted, and then entries of all shards, until there is room
    3  the record is written
    4  under the lock: the slot and the token change, as for every record (see `format`)

After a crash in 1 to 3 no process has the flock, and the next upkeep of the shard removes the file. From 1 on
its bytes count, in every process. Two writers that are in 1 at once see each other, so no lock of the whole
directory is needed. If there is room for neither, both go back and try again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from cachekit.errors import LockTimeoutError
from cachekit.runtime.interrupts import raise_interrupt
from cachekit.tiers.file.engine.control_block import GENERATION
from cachekit.tiers.file.engine.format import FileAside, LargeRecord
from cachekit.tiers.file.engine.large_room import LargeRoom
from cachekit.tiers.file.engine.shard import Shard

#: How long a writer waits for others that write large records too, as a multiple of the lock's patience.
_WAITS: Final = 5
_SHORTEST: Final = 1e-3
_LONGEST: Final = 20e-3


def is_nested(shards: Sequence[Shard]) -> bool:
    """Tell whether this thread is in the middle of an operation of one of the shards."""
    return any(shard.lock.is_mine() for shard in shards)


@contextmanager
def written_aside(
    shards: Sequence[Shard], shard: Shard, room: LargeRoom, record: LargeRecord, hashed: int
) -> Iterator[None]:
    """Write the record into a file of its own; the caller lets a slot name it, or it is removed at the end.

    Raises:
        LockTimeoutError: other processes were writing large records all the time.
        OSError: the disk is full, or fails.
    """
    deadline = time.monotonic() + _WAITS * shard.lock.patience
    while not _write(shards, shard, room, record, hashed):
        if time.monotonic() >= deadline:
            raise LockTimeoutError(
                f"{shard.files.folder.path} had no room for {record.size} bytes more, "
                f"because others were writing large values all the time; try again"
            )
        time.sleep(random.uniform(_SHORTEST, _LONGEST))
    try:
        yield
    finally:
        aside = record.aside
        if aside is not None:
            _end(shard, aside)


def _write(shards: Sequence[Shard], shard: Shard, room: LargeRoom, record: LargeRecord, hashed: int) -> bool:
    """Make room and write; False if other writers have the room."""
    aside = shard.lock.run(shard.begin_aside, record.size)
    if aside is None:
        return _evict(shards, room, shard.number) and _write(shards, shard, room, record, hashed)
    done = False
    try:
        if room.taken() > room.most():
            shard.lock.run(shard.evict_large_of, hashed)  # the record that this one replaces
        while room.taken() > room.most():
            if not _evict(shards, room):
                return False
        for one in shards:
            # A shard that begins to be used has room for its first segment in any case.
            if one.words[GENERATION]:
                one.lock.run(one.fit)
        shard.files.index.segments.write_parts(aside.file, record.parts)
        record.aside = aside
        done = True
    finally:
        if not done:
            _end(shard, aside)
    return True


def _end(shard: Shard, aside: FileAside) -> None:
    # If the lock cannot be taken, the file is removed later, like that of a process that died.
    try:
        shard.lock.run(shard.end_aside, aside)
    except (OSError, LockTimeoutError) as error:
        raise_interrupt(error)
    finally:
        aside.file.close()


def _evict(shards: Sequence[Shard], room: LargeRoom, only: int | None = None) -> bool:
    """Evict one large record, the oldest of those that were not read lately; False if there is none.

    Those that are being written stay.
    """
    found = [
        (shards[shard].files.mtime(number), shard, number)
        for shard, number, _ in room.files()
        if only is None or shard == only
    ]
    found.sort()
    for spares in (True, False):
        for _, shard, number in found:
            if shards[shard].lock.run(shards[shard].evict_large, number, spares):
                return True
    return False
