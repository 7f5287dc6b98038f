"""Simulations of eviction policies and of the optimum on a stream of requests.

Every request means "get, and on a miss insert", and every entry has the same size. A simulation keeps only
the keys held and the data of its policy. The optimum reads the next use of each request from a file that
was written before.
"""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from math import inf
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from cachekit.cli.requests import Requests, read_numbers
from cachekit.model.reports import SizeEstimate
from cachekit.model.types import CacheStrategy
from cachekit.tiers.file.engine.engine import Engine
from cachekit.tiers.file.engine.file_ops import FileOps
from cachekit.tiers.file.engine.format import SMALLEST_LIMIT, record_size
from cachekit.tiers.memory.miniatures import policy_of
from cachekit.tiers.memory.size_simulation import FACTORS
from cachekit.tiers.memory.tier import MemoryCache

#: The next use of a request whose key is not requested again.
NEVER: Final = (1 << 64) - 1

_PART: Final = 1 << 21  # requests whose next uses are computed at a time
_SLACK: Final = 1024
_ROUND: Final = 2000  # requests after which the notes of an estimate are simulated
RECORD: Final = 1024  # bytes of a record, with its key

Progress = Callable[[int], object]


def simulate(strategy: CacheStrategy, capacity: int, requests: Requests, progress: Progress) -> int:
    """Return how many requests a cache with this many entries serves."""
    policy: Any = policy_of(strategy)
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


def estimate_sizes(
    strategy: CacheStrategy, capacity: int, requests: Requests, progress: Progress
) -> tuple[SizeEstimate, dict[int, int]]:
    """Return what a memory tier of this size estimates, and the hits of caches of the sizes that it names."""
    sizes = {max(1, int(capacity * factor)) for factor in FACTORS}
    hits = {size: simulate(strategy, size, requests, progress) for size in sorted(sizes)}
    with MemoryCache(capacity, strategy) as cache:
        for chunk in requests.chunks():
            for number, key in enumerate(map(str, chunk)):
                if cache.get_value(key) is None:
                    cache.set_value(key, True)
                if not number % _ROUND:
                    cache.estimate()
            progress(len(chunk))
        return cache.estimate(), hits


def simulate_directory(entries: int, requests: Requests, directory: Path, progress: Progress) -> int | None:
    """Return how many requests the file tier serves, whose segments give read records a second chance.

    Its directory may take as many bytes as this many records of 1 KiB, including its index, its fences and
    the dead records in its segments.

    Returns:
        The number of hits; None if that is less than the minimum size of a directory.
    """
    if entries * RECORD < SMALLEST_LIMIT:
        return None
    payload = bytes(RECORD - record_size(16, 0, 0, 0))
    hits = 0
    with Engine(directory, entries * RECORD) as engine:
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
    """Write a file with the position of the next request for the same key, for each request; return its path.

    The keys are split into shares that fit in memory, so the number of keys is not limited by memory.

    Raises:
        OSError: the disk is full.
    """
    result = directory / "next-uses"
    result.touch()
    if not requests.number:
        return result
    shares = -(-requests.number // _PART)
    with result.open("r+b") as file:
        # Allocate its blocks, too: a store into a mapped file without a block on a full disk is a SIGBUS.
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
    # Yields keys and positions, in turn, of each share of the keys.
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
    """Return how many requests a cache serves that knows the future.

    Belady's algorithm evicts the entry whose next use is farthest away ("A study of replacement algorithms
    for a virtual-storage computer", IBM Systems Journal 5 (1966)).
    """
    upcoming: dict[int, int] = {}  # the next use of each entry held
    heap: list[tuple[int, int]] = []  # farthest use first, including outdated items
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
    """Hit ratios, 0 to 1, by policy, one for each size; NaN if there is none."""

    sizes: Sequence[int]
    ratios: Mapping[str, Sequence[float]]

    def of_policies(self) -> dict[str, Sequence[float]]:
        """Return the curves of the policies that a user can choose."""
        return {name: it for name, it in self.ratios.items() if name not in {OPTIMUM, FILE_TIER}}
