"""What the memory tier costs, beside other in-process caches.

Hit, miss, overwrite, and insert with eviction, in nanoseconds per operation, the loop included: 10,000
entries, warm keys (hashed before), small values, every cache with a TTL where it has one. Then hits from
eight threads, and bytes per entry beyond the key and the value. Locks are those that a user of the library
needs for several threads.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import timedelta
from functools import lru_cache
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter
from typing import Any

from harness import NotOfferedError, Question, Report, Round, Row, Target, options, seconds

from cachekit import IntelligentCache, MemoryCache

LIBRARIES = (
    "cachekit-tiered", "cachebox", "cachetools", "theine", "cacheout", "dogpile.cache", "cashews",
    "aiocache", "moka-py",
)  # fmt: skip
TTL = 3600
VALUE = 12345
HIT, MISS, OVERWRITE, EVICT = "hit", "miss", "overwrite", "insert + evict"
THREADS = 8
FOOTPRINT_ENTRIES = 200_000

Keys = Iterable[str]


class Subject:
    """A cache with room for `size` entries; each method is a loop over keys."""

    def __init__(self, size: int) -> None:
        raise NotImplementedError

    def read(self, keys: Keys) -> None:
        raise NotImplementedError

    def write(self, keys: Keys) -> None:
        raise NotImplementedError


class Calls(Subject):
    """A cache of which the loops call `get(key)` and `set(key, value)`."""

    get: Callable[[str], object]
    set: Callable[[str, object], object]

    def read(self, keys: Keys) -> None:
        get = self.get
        for key in keys:
            get(key)

    def write(self, keys: Keys) -> None:
        set = self.set  # noqa: A001
        for key in keys:
            set(key, VALUE)


class Memory(Calls):
    def __init__(self, size: int) -> None:
        cache = MemoryCache(size, default_ttl=TTL)
        self.get, self.set = cache.get_value, cache.set_value


class Intelligent(Calls):
    def __init__(self, size: int) -> None:
        cache = IntelligentCache(MemoryCache(size), default_ttl=TTL, file_cache=None)
        self.get, self.set = cache.get, cache.set


class Dict(Subject):
    def __init__(self, size: int) -> None:
        self.entries: dict[str, object] = {}

    def read(self, keys: Keys) -> None:
        get = self.entries.get
        for key in keys:
            get(key)

    def write(self, keys: Keys) -> None:
        entries = self.entries
        for key in keys:
            entries[key] = VALUE


class LruCache(Subject):
    """functools.lru_cache: reading what it does not have is how it is written to."""

    def __init__(self, size: int) -> None:
        self.call = lru_cache(size)(lambda key: VALUE)

    def read(self, keys: Keys) -> None:
        call = self.call
        for key in keys:
            call(key)

    write = read


class CacheboxLru(Calls):
    def __init__(self, size: int) -> None:
        import cachebox

        cache: Any = cachebox.LRUCache(size)
        self.get, self.set = cache.get, cache.insert


class CacheboxTtl(Calls):
    def __init__(self, size: int) -> None:
        import cachebox

        cache: Any = cachebox.TTLCache(size, TTL)
        self.get, self.set = cache.get, cache.insert


class Locked(Subject):
    """A mapping that is not safe in threads, and the lock that its documentation asks for."""

    cache: Any

    def read(self, keys: Keys) -> None:
        get, lock = self.cache.get, self.lock
        for key in keys:
            with lock:
                get(key)

    def write(self, keys: Keys) -> None:
        cache, lock = self.cache, self.lock
        for key in keys:
            with lock:
                cache[key] = VALUE

    def __init__(self, size: int) -> None:
        self.lock = threading.RLock()


class CachetoolsLru(Locked):
    def __init__(self, size: int) -> None:
        import cachetools

        super().__init__(size)
        self.cache = cachetools.LRUCache(size)


class CachetoolsTtl(Locked):
    def __init__(self, size: int) -> None:
        import cachetools

        super().__init__(size)
        self.cache = cachetools.TTLCache(size, TTL)


class Theine(Calls):
    def __init__(self, size: int) -> None:
        import theine

        cache: Any = theine.Cache(size)
        ttl = timedelta(seconds=TTL)
        self.get, self._set = cache.get, cache.set
        self._ttl = ttl

    def write(self, keys: Keys) -> None:
        set, ttl = self._set, self._ttl  # noqa: A001
        for key in keys:
            set(key, VALUE, ttl)


class Cacheout(Calls):
    def __init__(self, size: int) -> None:
        import cacheout

        cache: Any = cacheout.LRUCache(maxsize=size, ttl=TTL)
        self.get, self.set = cache.get, cache.set


class Moka(Calls):
    def __init__(self, size: int) -> None:
        import moka_py

        cache: Any = moka_py.Moka(size, ttl=TTL, policy="lru")
        self.get, self.set = cache.get, cache.set


class Dogpile(Calls):
    def __init__(self, size: int) -> None:
        from dogpile.cache import make_region

        region: Any = make_region().configure("dogpile.cache.memory", expiration_time=TTL)
        self.get, self.set = region.get, region.set


class Awaited(Subject):
    """A cache of which the loops await `get(key)` and `set(key, value)`, all on one event loop."""

    runner: asyncio.Runner  # one for the whole run: these caches belong to the loop that they meet
    get: Callable[[str], Awaitable[object]]
    set: Callable[[str, object], Awaitable[object]]

    def read(self, keys: Keys) -> None:
        async def loop() -> None:
            get = self.get
            for key in keys:
                await get(key)

        self.runner.run(loop())

    def write(self, keys: Keys) -> None:
        async def loop() -> None:
            set = self.set  # noqa: A001
            for key in keys:
                await set(key, VALUE)

        self.runner.run(loop())


class Cashews(Awaited):
    def __init__(self, size: int) -> None:
        from cashews import Cache

        cache: Any = Cache()
        cache.setup("mem://", size=size, check_interval=60)
        self.get = cache.get
        self.set = lambda key, value: cache.set(key, value, expire=TTL)


class Aiocache(Awaited):
    def __init__(self, size: int) -> None:
        import aiocache

        cache: Any = aiocache.SimpleMemoryCache()
        self.get = cache.get
        self.set = lambda key, value: cache.set(key, value, ttl=TTL)


SUBJECTS: dict[str, type[Subject]] = {
    "MemoryCache": Memory,
    "IntelligentCache": Intelligent,
    "dict": Dict,
    "functools.lru_cache": LruCache,
    "cachebox LRU": CacheboxLru,
    "cachebox TTL": CacheboxTtl,
    "cachetools LRU + RLock": CachetoolsLru,
    "cachetools TTL + RLock": CachetoolsTtl,
    "theine": Theine,
    "moka_py LRU, TTL": Moka,
    "cacheout LRU, TTL": Cacheout,
    "dogpile memory": Dogpile,
    "cashews (await)": Cashews,
    "aiocache (await)": Aiocache,
}
OURS = ("MemoryCache", "IntelligentCache")
UNBOUNDED = ("dict", "dogpile memory", "aiocache (await)")

TARGETS = (
    Target(HIT, "MemoryCache", "cachetools TTL + RLock", 0.17),
    Target(HIT, "MemoryCache", "cachetools LRU + RLock", 0.55),
    Target(HIT, "MemoryCache", "cachebox TTL", 3.0),
    Target(HIT, "IntelligentCache", "cachetools TTL + RLock", 0.20),
    Target(HIT, "IntelligentCache", "cachetools LRU + RLock", 0.70),
    Target(HIT, "IntelligentCache", "cachebox TTL", 5.0),
    Target(OVERWRITE, "MemoryCache", "cachetools TTL + RLock", 0.45),
    Target(OVERWRITE, "IntelligentCache", "cachetools TTL + RLock", 0.45),
    Target(EVICT, "MemoryCache", "cachetools TTL + RLock", 0.35),
    Target(EVICT, "IntelligentCache", "cachetools TTL + RLock", 0.35),
)


def keys_named(prefix: str, number: int) -> list[str]:
    keys = [f"{prefix}:{index}" for index in range(number)]
    for key in keys:
        hash(key)
    return keys


def hits(kind: type[Subject], entries: int) -> Round:
    keys = keys_named("key", entries)
    subject = kind(entries)
    subject.write(keys)
    return lambda: seconds(lambda: subject.read(keys))


def misses(kind: type[Subject], entries: int) -> Round:
    if kind is LruCache:
        raise NotOfferedError("a miss calls the function")
    subject = kind(entries)
    subject.write(keys_named("key", entries))
    absent = keys_named("absent", entries)
    return lambda: seconds(lambda: subject.read(absent))


def overwrites(kind: type[Subject], entries: int) -> Round:
    if kind is LruCache:
        raise NotOfferedError("an entry stays as it is")
    keys = keys_named("key", entries)
    subject = kind(entries)
    subject.write(keys)
    return lambda: seconds(lambda: subject.write(keys))


def evictions(kind: type[Subject], entries: int) -> Round:
    """Twice as many keys as there is room for, in a circle: each one was evicted before it returns."""
    if kind in {SUBJECTS[name] for name in UNBOUNDED}:
        raise NotOfferedError("it keeps everything")
    keys = keys_named("key", 2 * entries)
    subject = kind(entries)
    subject.write(keys)
    circle: Iterator[str] = cycle(keys)

    def work() -> float:
        batch = list(islice(circle, entries))
        return seconds(lambda: subject.write(batch))

    return work


def hits_in_threads(kind: type[Subject], entries: int, wall: float) -> Round:
    """Seconds per hit, over all of eight threads that read for `wall` seconds, each its own way round.

    A fixed number of hits would not do: a thread that gets through its share in one turn of the
    interpreter (5 ms) meets nobody.
    """
    keys = keys_named("key", entries)
    subject = kind(entries)
    subject.write(keys)
    step = max(1, entries // THREADS)
    shares = [keys[start:] + keys[:start] for start in range(0, step * THREADS, step)]

    def work() -> float:
        together = threading.Barrier(THREADS + 1)
        over = threading.Event()
        read = [0] * THREADS

        def reader(number: int) -> None:
            some = cycle([shares[number][start : start + 500] for start in range(0, len(keys), 500)])
            together.wait()
            while not over.is_set():
                batch = next(some)
                subject.read(batch)
                read[number] += len(batch)

        threads = [threading.Thread(target=reader, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        together.wait()
        started = perf_counter()
        over.wait(wall)
        over.set()
        for thread in threads:
            thread.join()
        return (perf_counter() - started) / sum(read)

    return work


def footprint(name: str, entries: int) -> Round:
    """Growth of the process by a filled cache, in bytes; keys and value were there before."""

    def work() -> float:
        command = [sys.executable, __file__, "--footprint-of", name, "--entries", str(entries)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            last = ended.stderr.strip().splitlines()[-1:]
            if last and last[0].startswith("ModuleNotFoundError"):
                raise ModuleNotFoundError(last[0])
            raise RuntimeError(last[0] if last else f"status {ended.returncode}")
        return float(ended.stdout)

    return work


def print_footprint(name: str, entries: int) -> None:
    """What `footprint` runs, in a process of its own."""
    subject = SUBJECTS[name](entries)
    keys = keys_named("key", entries)
    subject.write(keys[:100])
    gc.collect()
    before = resident_bytes()
    subject.write(keys)
    gc.collect()
    print(resident_bytes() - before)


def resident_bytes() -> int:
    """The memory of this process: now, where the system tells; its highest until now, elsewhere."""
    import resource

    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return highest if sys.platform == "darwin" else highest * 1024
    return pages * resource.getpagesize()


def rows(prepare: Callable[[type[Subject], int], Round], entries: int, *names: str) -> list[Row]:
    return [
        Row(name, lambda kind=SUBJECTS[name]: prepare(kind, entries), name in OURS)  # type: ignore[misc]
        for name in names or SUBJECTS
    ]


def _own_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--footprint-of", choices=SUBJECTS, help=argparse.SUPPRESS)
    parser.add_argument("--entries", type=int, help=argparse.SUPPRESS)


def main() -> None:
    chosen = options(__doc__, rounds=15, also=_own_arguments)
    if chosen.footprint_of:
        print_footprint(chosen.footprint_of, chosen.entries)
        return
    entries = chosen.entries or (200 if chosen.quick else 10_000)
    report = Report(chosen, LIBRARIES)
    print(f"entries: {entries:,}; time per operation; ratios below 1: ours takes less")
    with asyncio.Runner() as runner:
        Awaited.runner = runner
        report.ask(Question(HIT, entries, rows(hits, entries)))
        report.ask(Question(MISS, entries, rows(misses, entries)))
        report.ask(Question(OVERWRITE, entries, rows(overwrites, entries)))
        report.ask(Question(EVICT, entries, rows(evictions, entries)))
    in_threads = f"hit, {THREADS} threads"
    wall = 0.02 if chosen.quick else 0.3
    threaded = [name for name in SUBJECTS if not issubclass(SUBJECTS[name], Awaited)]
    report.ask(
        Question(
            in_threads,
            1,
            rows(lambda kind, entries: hits_in_threads(kind, entries, wall), entries, *threaded),
        )
    )
    filled = 20_000 if chosen.quick else FOOTPRINT_ENTRIES
    held = (
        "MemoryCache", "IntelligentCache", "dict", "cachebox LRU", "cachebox TTL",
        "cachetools LRU + RLock", "cachetools TTL + RLock",
    )  # fmt: skip
    report.ask(
        Question(
            f"memory of an entry beyond its key and value: growth of the resident size of a process "
            f"of its own, {filled:,} entries",
            filled,
            [Row(name, lambda name=name: footprint(name, filled), name in OURS) for name in held],  # type: ignore[misc]
            unit="bytes",
            per_unit=1,
            rounds=1 if chosen.quick else 3,
        )
    )
    report.judge(
        [
            *TARGETS,
            Target(in_threads, "MemoryCache", "cachetools LRU + RLock", 2.5, throughput=True),
            Target(in_threads, "IntelligentCache", "cachetools LRU + RLock", 2.5, throughput=True),
        ]
    )
    report.end()


if __name__ == "__main__":
    main()
