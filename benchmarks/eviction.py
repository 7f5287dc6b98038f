"""What each eviction policy of the memory tier costs, beside other caches with a choice of policy.

Nanoseconds per operation, the loop included: hits with all keys held, inserts that evict, and a skewed mix
of get and, on a miss, set, in which the policy decides how many misses there are. 10,000 entries, warm
keys, small values; locks are those that a user of the library needs for several threads. Then hits from
eight threads. With --traces it measures no time, but hit ratios on the request streams of a folder, each
cache beside what the simulator of its `reference.json` counted.
"""

from __future__ import annotations

import argparse
import gzip
import json
import threading
from array import array
from collections.abc import Callable, Iterator
from itertools import accumulate, count
from pathlib import Path
from random import Random
from typing import Any

from harness import Question, Report, Round, Row, Target, options, seconds

from cachekit import CacheStrategy, MemoryCache

LIBRARIES = ("cachekit-tiered", "theine", "cachetools", "cachebox")
VALUE = 12345
THREADS = 8
HIT, EVICT, MIX = "hit", "insert + evict", "get, set on a miss"
HITS_IN_THREADS = f"hit, {THREADS} threads"

#: `get` that returns None on a miss, and `set`, of a new cache with room for so many entries.
Made = tuple[Callable[[str], object], Callable[[str, object], object]]


def ours(strategy: CacheStrategy) -> Callable[[int], Made]:
    def make(size: int) -> Made:
        cache = MemoryCache(size, strategy)
        return cache.get_value, cache.set_value

    return make


def bounded_in_bytes(size: int) -> Made:
    cache = MemoryCache(size, max_bytes=1 << 40)
    return cache.get_value, cache.set_value


def theine(size: int) -> Made:
    from theine import Cache

    cache: Any = Cache(size)

    def get(key: str) -> object:
        value, found = cache.get(key)
        return value if found else None

    return get, cache.set


def with_cachetools(name: str) -> Callable[[int], Made]:
    def make(size: int) -> Made:
        import cachetools

        cache: Any = getattr(cachetools, name)(size)
        lock = threading.RLock()

        def get(key: str) -> object:
            with lock:
                return cache.get(key)

        def set_(key: str, value: object) -> None:
            with lock:
                cache[key] = value

        return get, set_

    return make


def with_cachebox(name: str) -> Callable[[int], Made]:
    def make(size: int) -> Made:
        import cachebox

        cache: Any = getattr(cachebox, name)(size)
        return cache.get, cache.insert

    return make


OURS = {f"MemoryCache {strategy.value}": ours(strategy) for strategy in CacheStrategy}
PEERS = {
    "theine (W-TinyLFU)": theine,
    "cachetools LFU + RLock": with_cachetools("LFUCache"),
    "cachetools LRU + RLock": with_cachetools("LRUCache"),
    "cachetools FIFO + RLock": with_cachetools("FIFOCache"),
    "cachebox LFU (Rust)": with_cachebox("LFUCache"),
    "cachebox LRU (Rust)": with_cachebox("LRUCache"),
}
ALL = {**OURS, "MemoryCache lru, max_bytes": bounded_in_bytes, **PEERS}


def hits(make: Callable[[int], Made], keys: list[str]) -> Round:
    get, set_ = make(len(keys))
    for key in keys:
        set_(key, VALUE)

    def work() -> None:
        for key in keys:
            get(key)

    return lambda: seconds(work)


def evictions(make: Callable[[int], Made], keys: list[str]) -> Round:
    _, set_ = make(len(keys))
    for key in keys:
        set_(key, VALUE)
    numbers = count()

    def fresh() -> Iterator[str]:
        return (f"new {next(numbers)}" for _ in keys)

    def round_() -> float:
        coming = list(fresh())

        def work() -> None:
            for key in coming:
                set_(key, VALUE)

        return seconds(work)

    return round_


def mixed(make: Callable[[int], Made], stream: list[str], size: int) -> Round:
    get, set_ = make(size)

    def work() -> None:
        for key in stream:
            if get(key) is None:
                set_(key, VALUE)

    return lambda: seconds(work)


def hits_of_threads(make: Callable[[int], Made], keys: list[str]) -> Round:
    get, set_ = make(len(keys))
    for key in keys:
        set_(key, VALUE)

    def round_() -> float:
        begin = threading.Barrier(THREADS + 1)

        def work() -> None:
            begin.wait()
            for key in keys:
                get(key)

        threads = [threading.Thread(target=work) for _ in range(THREADS)]
        for thread in threads:
            thread.start()

        def all_of_them() -> None:
            begin.wait()
            for thread in threads:
                thread.join()

        return seconds(all_of_them)

    return round_


def rows(prepare: Callable[[Callable[[int], Made]], Round]) -> list[Row]:
    return [Row(name, lambda make=make: prepare(make), name in OURS) for name, make in ALL.items()]  # type: ignore[misc]


def skewed(keys: list[str], requests: int) -> list[str]:
    weights = list(accumulate(rank**-0.9 for rank in range(1, len(keys) + 1)))
    return Random(1).choices(keys, cum_weights=weights, k=requests)


#: Caches whose hit ratio is of interest, and the name of their policy in reference.json.
RATIOS: dict[str, tuple[Callable[[int], Made], str]] = {
    "LRU": (ours(CacheStrategy.LRU), "LRU"),
    "FIFO": (ours(CacheStrategy.FIFO), "FIFO"),
    "LFU": (ours(CacheStrategy.LFU), "LFU"),
    "SIEVE": (ours(CacheStrategy.SIEVE), "SIEVE"),
    "S3-FIFO": (ours(CacheStrategy.S3_FIFO), "S3-FIFO"),
    "W-TinyLFU": (ours(CacheStrategy.W_TINYLFU), "W-TinyLFU(static1%)"),
    "theine": (theine, "W-TinyLFU(static1%)"),
    "cachetools LRU": (with_cachetools("LRUCache"), "LRU"),
    "cachetools LFU": (with_cachetools("LFUCache"), "LFU"),
    "cachetools FIFO": (with_cachetools("FIFOCache"), "FIFO"),
}


def hit_ratios(folder: Path, part: str) -> None:
    """Print, for each stream and size, the hit ratio of each cache and the simulator's count."""
    for name, known in json.loads((folder / "reference.json").read_text())[part].items():
        numbers = array("I", gzip.decompress((folder / f"{name}.u32.gz").read_bytes()))
        keys = list(map(str, numbers[: known["requests"]]))
        for size, counts in known["hits"].items():
            print(f"\n{name}, {size} entries, {len(keys):,} requests (optimum {counts['OPT']})", flush=True)
            print(f"  {'':16}{'%':>7}{'hits':>9}{'simulator':>11}  {'':9}its policy")
            for row, (make, policy) in RATIOS.items():
                try:
                    get, set_ = make(int(size))
                except ModuleNotFoundError:
                    print(f"  {row:16}{'not installed':>16}")
                    continue
                hits = 0
                for key in keys:
                    if get(key) is None:
                        set_(key, VALUE)
                    else:
                        hits += 1
                apart = hits - counts[policy]
                verdict = "equal" if not apart else f"{apart:+}"
                print(
                    f"  {row:16}{100 * hits / len(keys):>7.2f}{hits:>9}{counts[policy]:>11}  {verdict:9}"
                    f"{policy}",
                    flush=True,
                )


def with_traces(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--traces", type=Path, metavar="FOLDER", help="hit ratios on these; with --quick on their beginnings"
    )


def main() -> None:
    chosen = options(__doc__, rounds=15, also=with_traces)
    if chosen.traces:
        hit_ratios(chosen.traces, "quick" if chosen.quick else "full")
        return
    size = 500 if chosen.quick else 10_000
    keys = [f"key {number}" for number in range(size)]
    stream = skewed([f"key {number}" for number in range(10 * size)], 3 * size)
    for key in [*keys, *stream]:
        hash(key)
    report = Report(chosen, LIBRARIES)
    report.ask(Question(HIT, size, rows(lambda make: hits(make, keys))))
    report.ask(Question(EVICT, size, rows(lambda make: evictions(make, keys))))
    report.ask(Question(MIX, len(stream), rows(lambda make: mixed(make, stream, size))))
    report.ask(
        Question(HITS_IN_THREADS, THREADS * size, rows(lambda make: hits_of_threads(make, keys)), rounds=5)
    )
    report.judge(
        [
            *(
                Target(HIT, f"MemoryCache {strategy.value}", "cachetools LRU + RLock", 1.0)
                for strategy in (CacheStrategy.FIFO, CacheStrategy.SIEVE, CacheStrategy.S3_FIFO)
            ),
            Target(HIT, "MemoryCache lfu", "cachetools LFU + RLock", 1.0),
            *(
                Target(question, "MemoryCache w-tinylfu", "theine (W-TinyLFU)", 1.0)
                for question in (HIT, EVICT, MIX)
            ),
        ]
    )
    report.end()


if __name__ == "__main__":
    main()
