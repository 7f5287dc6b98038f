"""Records of the file tier that are larger than their shard's share of the limit."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from cachekit.tiers.file.engine.engine import Engine
from cachekit.tiers.file.engine.file_ops import FileOps
from cachekit.tiers.file.engine.format import Geometry

#: Eight shards of half a MiB: records over 100 KB are large, and may have a MiB.
LARGE = Geometry(limit=4 << 20, shards=8, segment=8 << 10, buckets=64, tag_buckets=64, capacity=8)
SIZE = 300_000


def value(number: int, size: int = SIZE) -> bytes:
    return random.Random(number).randbytes(size)


def payload_of(engine: Engine, key: str) -> bytes | None:
    found = engine.get(key)
    return None if found is None else found.payload


def large_files(engine: Engine) -> int:
    return len(engine._large.files())


class Watching(FileOps):
    """Calls a function in the middle of writing each large record."""

    def __init__(self, middle: Callable[[], object]) -> None:
        self.middle = middle
        self.half = 0
        self.most = LARGE.most_own
        self.count: Callable[[int], object] = int

    def pwrite(self, fd: int, content: Any, offset: int) -> int:
        """Write a half, call the function, and leave the rest to another call."""
        self.count(len(content))
        if len(content) <= self.most or offset == self.half:
            return FileOps.pwrite(fd, content, offset)
        half = FileOps.pwrite(fd, content[: len(content) // 2], offset)
        self.half = offset + half
        self.middle()
        return half
