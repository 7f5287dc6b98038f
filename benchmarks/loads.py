"""What "the value, or load it" costs under 8 threads, beside dogpile.cache and cachetools.

In nanoseconds per call over all threads: hits, each thread its own way round 10,000 keys; and misses, each
thread keys of its own, with a loader that does nothing, so that what is measured is everything around
it. dogpile.cache is asked by `get_or_create`; the `cached` of cachetools is given a condition, as its
documentation asks for where a value shall be loaded once; a cached function of ours stands beside it.
Every cache holds all keys, with a TTL.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

from harness import Question, Report, Round, Row, Target, options

from cachekit import IntelligentCache, LoadOptions, MemoryCache, cache_result

LIBRARIES = ("cachekit-tiered", "dogpile.cache", "cachetools")
THREADS = 8
TTL = 3600

#: From a key to its value, loaded if it is not there.
Ask = Callable[[str], Any]


def length(key: str) -> int:
    return len(key)


def own_cache(size: int) -> IntelligentCache:
    return IntelligentCache(MemoryCache(size), file_cache=None, default_ttl=TTL)


def get_or_set(size: int) -> Ask:
    ask = own_cache(size).get_or_set
    return lambda key: ask(key, lambda: length(key))


def get_or_set_with_options(size: int) -> Ask:
    ask = own_cache(size).get_or_set
    load = LoadOptions(refresh_ahead=0.1)
    return lambda key: ask(key, lambda: length(key), stale_ttl=60, jitter=0.1, load=load)


def cached_function(size: int) -> Ask:
    return cache_result(cache=own_cache(size))(length)


def get_or_create(size: int) -> Ask:
    from dogpile.cache import make_region

    ask = make_region().configure("dogpile.cache.memory", expiration_time=TTL).get_or_create
    return lambda key: ask(key, lambda: length(key))


def cachetools_function(size: int) -> Ask:
    import cachetools

    cache: Any = cachetools.TTLCache(size, TTL)
    ask: Ask = cachetools.cached(cache, condition=threading.Condition())(length)
    return ask


ROWS: dict[str, Callable[[int], Ask]] = {
    "cachekit get_or_set": get_or_set,
    "cachekit get_or_set, stale_ttl, jitter, refresh_ahead": get_or_set_with_options,
    "cachekit cache_result": cached_function,
    "dogpile get_or_create": get_or_create,
    "cachetools cached TTL + condition": cachetools_function,
}


def in_threads(work: Callable[[int], object]) -> float:
    """Seconds until each of the threads has done its work, from when all have begun."""
    together = threading.Barrier(THREADS + 1)

    def run(number: int) -> None:
        together.wait()
        work(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    together.wait()
    started = perf_counter()
    for thread in threads:
        thread.join()
    return perf_counter() - started


def hits(make: Callable[[int], Ask], entries: int) -> Round:
    """Each thread asks for every key, and begins at another one."""
    ask = make(entries)
    keys = [f"user:{number}" for number in range(entries)]
    for key in keys:
        ask(key)
    step = max(1, entries // THREADS)

    def read(number: int) -> None:
        start = number * step
        for key in keys[start:] + keys[:start]:
            ask(key)

    return lambda: in_threads(read)


def misses(make: Callable[[int], Ask], entries: int) -> Round:
    """Each thread asks for keys that nobody has asked for, in a cache of its own for each round."""
    shares = [[f"user:{number}:{one}" for one in range(entries // THREADS)] for number in range(THREADS)]

    def load(ask: Ask, number: int) -> None:
        for key in shares[number]:
            ask(key)

    return lambda: in_threads(partial(load, make(entries)))


def main() -> None:
    chosen = options(__doc__, rounds=9)
    entries = 400 if chosen.quick else 10_000
    report = Report(chosen, LIBRARIES)
    print(f"keys: {entries:,}; threads: {THREADS}; ratios below 1: ours takes less")
    for title, prepare, operations in (
        ("hit, 8 threads", hits, entries * THREADS),
        ("miss, 8 threads", misses, entries // THREADS * THREADS),
    ):
        rows = [
            Row(name, partial(prepare, make, entries), ours=name.startswith("cachekit"))
            for name, make in ROWS.items()
        ]
        report.ask(Question(title, operations, rows))
    report.judge(
        [
            Target(title, "cachekit get_or_set", peer, 1)
            for title in ("hit, 8 threads", "miss, 8 threads")
            for peer in ("dogpile get_or_create", "cachetools cached TTL + condition")
        ]
    )
    report.end()


if __name__ == "__main__":
    main()
