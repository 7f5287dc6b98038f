"""A server that is frozen while a disk is full, or out, under load, and then quiet: everything agrees."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import NamedTuple, cast

import pytest
from coherent_caches import listen
from redis_server import RedisServer, wait_until

from cachekit import FileCache, IntelligentCache, MemoryCache, RedisCache
from cachekit.testing import FaultyTier
from cachekit.tiers.base import DirectoryTier, ServerTier

KEYS = [f"k{number}" for number in range(8)]


class Outages(NamedTuple):
    """What the callers of one run met."""

    calls: int
    exceptions: list[str]
    longest: float  #: seconds of the call that took longest


def outages(path: Path, server: RedisServer, rounds: int) -> Outages:
    """Four threads over two hosts, while their tiers fail and the server stops; then quiet, and a check."""
    caches, files = [], []
    for home in ("here", "there"):
        file = FaultyTier(FileCache(path / home, 16, None))
        redis = RedisCache(url=server.url)
        caches.append(IntelligentCache(MemoryCache(), cast("ServerTier", redis), cast("DirectoryTier", file)))
        files.append(file)
    listen(*caches)
    ended = threading.Event()
    exceptions: list[str] = []
    done: list[tuple[int, float]] = []

    def work(number: int) -> None:
        random_ = random.Random(number)
        cache = caches[number % 2]
        calls, longest = 0, 0.0
        while not ended.is_set():
            key = random_.choice(KEYS)
            begin = time.monotonic()
            try:
                match random_.randrange(8):
                    case 0 | 1 | 2:
                        cache.get(key)
                    case 3:
                        cache.get_or_set(key, lambda: calls, tags={"t"})  # noqa: B023
                    case 4 | 5:
                        cache.set(key, (number, calls), tags={"t"})
                    case 6:
                        cache.delete(key)
                    case _:
                        cache.invalidate_by_tags({"t"})
            except Exception as error:
                exceptions.append(repr(error))
            longest = max(longest, time.monotonic() - begin)
            calls += 1
        done.append((calls, longest))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    levels = [cache._core.tiers for cache in caches]
    try:
        for number in range(rounds):
            file = files[number % 2]
            if number % 4 == 3:
                file.fail()
            else:
                file.fail("put", "add", full=True)
            with server.frozen():
                wait_until(lambda: all(one.redis and one.redis.is_out for one in levels), "it is out")
            file.mend()
            wait_until(
                lambda: not any(lower.is_out for one in levels for lower in (one.redis, one.file) if lower),
                "they are back",
            )
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    for key in KEYS:

        def agreed(key: str = key) -> bool:
            found = {cache.get(key) for cache in caches}
            return len(found - {None}) <= 1

        wait_until(agreed, "the hosts agree")
        assert caches[0].set(key, "last")
        wait_until(lambda key=key: caches[1].get(key) == "last", "the other host sees it")  # type: ignore[misc]
    for cache in caches:
        for name, figures in cache.get_stats().items():
            if name != "combined":
                assert figures.requests == figures.hits + figures.misses + figures.unavailable
        cache.close()
    return Outages(sum(calls for calls, _ in done), exceptions, max(longest for _, longest in done))


def test_both_at_once(tmp_path: Path, server: RedisServer) -> None:
    """The server frozen while a disk is out or full: no exception reaches a caller."""
    seen = outages(tmp_path, server, 1)
    assert seen.exceptions == []
    assert seen.calls > 100


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_both_at_once_for_long(tmp_path: Path, server: RedisServer) -> None:
    """Prints what the worst call took."""
    seen = outages(tmp_path, server, 30)
    print(f"{seen.calls} calls, {len(seen.exceptions)} exceptions, the longest took {seen.longest:.3f} s")
    assert seen.exceptions == []
