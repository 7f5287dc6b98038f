"""What policies make of a stream of requests, and what could be made of it at best.

Every request means "get; on a miss, insert", and every entry is of one size. A simulation keeps what its
policy keeps and the keys that are held; the optimum, which looks ahead, reads the next use of each
request from a file that was written before.
"""

from __future__ import annotations

import mmap
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from math import inf
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, final

from cachekit.cli.requests import Requests, read_numbers
from cachekit.model.types import CacheStrategy
from cachekit.tiers.file.engine.engine import Engine
from cachekit.tiers.file.engine.file_ops import FileOps
from cachekit.tiers.file.engine.format import SMALLEST_LIMIT, record_size
from cachekit.tiers.memory.eviction import POLICIES

#: Of a request after which its key is not asked for again.
NEVER: Final = (1 << 64) - 1

_PART: Final = 1 << 21  # requests whose next uses are found at a time
_SLACK: Final = 1024
_RECORD: Final = 1024  # bytes, with its key

Progress = Callable[[int], object]


@final
class _Lru:
    """LRU, in the shape of the other policies."""

    def begin(self, capacity: int) -> None:  # noqa: ARG002
        order: OrderedDict[int, None] = OrderedDict()
        self.hit = order.move_to_end
        self.insert = order.__setitem__
        self._order = order

    def evict(self, incoming: int) -> int:  # noqa: ARG002
        return self._order.popitem(last=False)[0]


def simulate(strategy: CacheStrategy, capacity: int, requests: Requests, progress: Progress) -> int:
    """How many requests a cache of so many entries answers."""
    policy: Any = _Lru() if strategy is CacheStrategy.LRU else POLICIES[strategy]()
    policy.begin(capacity)
    insert, hit, evict = policy.insert, policy.hit, policy.evict
    held: set[int] = set()
    hits = 0
    for chunk in requests.chunks():
        for key in chunk:
            if key in held:
                hits += 1
                hit(key)
                continue
            if len(held) >= capacity:
                held.remove(evict(key))
            insert(key, inf)
            held.add(key)
        progress(len(chunk))
    return hits


def simulate_directory(entries: int, requests: Requests, directory: Path, progress: Progress) -> int | None:
    """How many requests the file tier answers, whose segments give read records a second chance.

    Its directory may take the bytes that so many records of a kilobyte take; its index and its fences, and
    what is dead in its segments, are among them.

    Returns:
        None if that is less than a directory takes at the least.
    """
    if entries * _RECORD < SMALLEST_LIMIT:
        return None
    payload = bytes(_RECORD - record_size(16, 0, 0))
    hits = 0
    with Engine(directory, entries * _RECORD) as engine:
        for chunk in requests.chunks():
            for key in chunk:
                name = f"{key:016x}"
                if engine.get(name) is not None:
                    hits += 1
                else:
                    engine.put(name, payload)
            progress(len(chunk))
    return hits


def write_next_uses(requests: Requests, directory: Path) -> Path:
    """Write for each request the position of the next one for its key; the file.

    The keys are taken apart into shares that fit in memory, so a stream with more keys than that is no
    problem.

    Raises:
        OSError: the disk has no room for it.
    """
    result = directory / "next-uses"
    result.touch()
    if not requests.number:
        return result
    shares = -(-requests.number // _PART)
    with result.open("r+b") as file:
        # Its blocks, too: a store into a mapped file for which the disk has none is a SIGBUS.
        FileOps.allocate(file.fileno(), 8 * requests.number)
    with (
        result.open("r+b") as file,
        mmap.mmap(file.fileno(), 0) as mapped,
        memoryview(mapped) as raw,
        raw.cast("Q") as uses,
    ):
        for pairs in _shares(requests, shares, directory):
            upcoming: dict[int, int] = {}
            for index in range(len(pairs) - 2, -1, -2):
                key, position = pairs[index], pairs[index + 1]
                uses[position] = upcoming.get(key, NEVER)
                upcoming[key] = position
    return result


def _shares(requests: Requests, number: int, directory: Path) -> Iterator[array[int]]:
    """Keys and positions, in turn, of each share of the keys."""
    paths = [directory / f"share-{index}" for index in range(number)]
    files: list[BinaryIO] = [path.open("wb") for path in paths]
    try:
        position = 0
        for chunk in requests.chunks():
            pairs = [array("Q") for _ in files]
            for key in chunk:
                share = pairs[(key >> 20) % number]
                share.append(key)
                share.append(position)
                position += 1
            for share, file in zip(pairs, files, strict=True):
                share.tofile(file)
    finally:
        for file in files:
            file.close()
    for path in paths:
        whole = array("Q")
        whole.frombytes(path.read_bytes())
        path.unlink()
        yield whole


def simulate_optimum(capacity: int, requests: Requests, next_uses: Path, progress: Progress) -> int:
    """How many requests a cache answers that knows the future.

    Belady's: the entry whose next use is farthest away leaves ("A study of replacement algorithms for a
    virtual-storage computer", IBM Systems Journal 5 (1966)).
    """
    upcoming: dict[int, int] = {}  # of what is held
    heap: list[tuple[int, int]] = []  # farthest first; with places that are out of date
    hits = 0
    for chunk, uses in zip(requests.chunks(), read_numbers(next_uses), strict=True):
        for key, use in zip(chunk, uses, strict=True):
            if key in upcoming:
                hits += 1
            elif len(upcoming) >= capacity:
                while True:
                    farthest, victim = heappop(heap)
                    if upcoming.get(victim) == -farthest:
                        del upcoming[victim]
                        break
            upcoming[key] = use
            heappush(heap, (-use, key))
            if len(heap) > 4 * capacity + _SLACK:
                heap = [(-use, key) for key, use in upcoming.items()]
                heapify(heap)
        progress(len(chunk))
    return hits


OPTIMUM: Final = "optimum"
FILE_TIER: Final = "file tier"


class Curves(NamedTuple):
    """Hit ratios, 0 to 1, by policy, one for each size; NaN where there is none."""

    sizes: Sequence[int]
    ratios: Mapping[str, Sequence[float]]

    def of_policies(self) -> dict[str, Sequence[float]]:
        """Those that one can choose between."""
        return {name: it for name, it in self.ratios.items() if name not in {OPTIMUM, FILE_TIER}}
