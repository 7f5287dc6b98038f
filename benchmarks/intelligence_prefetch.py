"""What prefetching gains on request streams, by the clock too, and what a restart with `reload_hot` regains.

`prefetch` replays streams over a memory tier, with a predictor whose prefetches land at once, and without.
`clock` replays streams with times over a memory tier whose entries live ten minutes, with prefetches of the
keys that follow the clock. On streams without such keys nothing may be prefetched. For that the
first 300,000 requests of each stream without times are spread over two days.
`restart` stops in the middle of a stream: it compares a process that goes on, one that begins with an empty
memory, and one with `reload_hot=True`. All fail where they fall short of what is asked.

The streams are those of the folder CACHEKIT_TRACES. Without it there is one that is made to deceive. With
--quick a stream has its first 100,000 requests, and only what holds for any part of it is asked.
"""

from __future__ import annotations

import argparse
import gzip
import os
import sys
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random
from time import monotonic, sleep

from cachekit import CacheStrategy, FileCache, IntelligentCache, MemoryCache, PrefetchInfo, RemovalCause
from cachekit.loading.predictor import Predictor, PrefetchCounters, Unproven
from cachekit.loading.recurrence import Recurrence
from cachekit.testing import ManualClock
from cachekit.tiers.memory.tier import store_of

SIZES = {
    "orm_busy": (442, 1325, 4418),
    "oltp": (1869, 5606, 18688),
    "twitter52": (1435, 4306, 14354),
    "zipf09": (911, 2734, 9113),
}
#: Points of hits that are asked for, under S3-FIFO.
GAINS = {("orm_busy", 442): 12.0, ("orm_busy", 1325): 2.0, ("orm_busy", 4418): 2.5}
RESTARTS = (
    ("twitter52", 1435), ("twitter52", 14354), ("oltp", 1869), ("oltp", 18688), ("zipf09", 9113),
    ("zipf09", 911), ("orm_busy", 4418), ("orm_busy", 442),
)  # fmt: skip
#: Where 60 % of what a cold start loses is asked for.
REGAINED = frozenset(RESTARTS[:5])
QUICK = 100_000
HOURS = 48  # that a stream with times lasts
AHEAD = 20  # seconds before a minute in which its keys are prefetched
TIMED = 300_000  # requests of a stream without times that are spread over them
LIFE = 600  # seconds that an entry of such a stream lives
SETTLE = 60.0  # seconds that a copy of entries may take


def stream(name: str, quick: bool) -> list[str]:
    folder = os.environ.get("CACHEKIT_TRACES")
    assert folder, "the caller has checked that"
    numbers = array("I", gzip.decompress((Path(folder) / f"{name}.u32.gz").read_bytes()))
    return list(map(str, numbers[:QUICK] if quick else numbers))


def deceiving(rounds: int) -> list[str]:
    """Pairs of keys that follow each other three times, and then never again."""
    random, requests = Random(1), []
    keys = [f"k{number}" for number in range(6_000)]
    for _ in range(rounds):
        random.shuffle(keys)
        pairs = [keys[at : at + 2] for at in range(0, len(keys), 2)]
        for _ in range(3):
            random.shuffle(pairs)
            requests += [key for pair in pairs for key in pair]
    return requests


def plain_misses(requests: Sequence[str], size: int, strategy: CacheStrategy) -> int:
    memory = MemoryCache(size, strategy, cleanup_interval=None)
    get, put, misses = memory.get_value, memory.set_value, 0
    for key in requests:
        if get(key) is None:
            put(key, 1)
            misses += 1
    return misses


def prefetched(requests: Sequence[str], size: int, strategy: CacheStrategy) -> tuple[int, PrefetchInfo]:
    """Return the misses with prefetches that land at once, and what those did."""
    memory = MemoryCache(size, strategy, cleanup_interval=None)
    store, get, put = store_of(memory), memory.get_value, memory.set_value
    predictor = Predictor(min(4 * size, 65_536), 16, 0.25, size, Unproven(size), PrefetchCounters())
    unproven: set[str] = set()
    ahead: list[str] = []
    prefetching = False
    misses = 0

    def removed(key: str, _: object, cause: RemovalCause) -> None:
        if key in unproven:
            unproven.discard(key)
            predictor.lost(key)
        elif prefetching and cause is RemovalCause.EVICTED:
            predictor.pushed_out(key)

    def first_hit(key: str) -> None:
        unproven.discard(key)
        ahead.extend(predictor.hit(key, 0))

    memory.on_removal(removed)
    for number, key in enumerate(requests):
        if get(key) is None:
            misses += 1
            ahead += predictor.missed(key, 0, number)
            put(key, 1)
        while ahead:
            one = ahead.pop()
            if one in memory:
                predictor.dropped(one)
                continue
            predictor.begins()
            prefetching = True
            put(one, 1)
            prefetching = False
            predictor.landed(one, True)
            unproven.add(one)
            store.on_first_hit(one, partial(first_hit, one))
    return misses, predictor.info()


def prefetch(quick: bool) -> int:
    short = []
    streams: dict[str, Sequence[int]] = {"deceiving": (600, 2_000)}
    if os.environ.get("CACHEKIT_TRACES"):
        streams |= SIZES
    print(f"{'stream@size':18}{'policy':9}{'hit %':>7}{'gain':>8}{'loads %':>9}  issued, useful, wasted")
    for name, sizes in streams.items():
        requests = deceiving(2 if quick else 40) if name == "deceiving" else stream(name, quick)
        for size in sizes:
            for strategy in (CacheStrategy.S3_FIFO, CacheStrategy.LRU):
                before = plain_misses(requests, size, strategy)
                misses, info = prefetched(requests, size, strategy)
                gain = 100 * (before - misses) / len(requests)
                loads = 100 * (misses + info.issued - before) / before
                cell = f"{name}@{size}"
                print(
                    f"{cell:18}{strategy.value:9}{100 - 100 * before / len(requests):>7.2f}{gain:>+8.2f}"
                    f"{loads:>+9.2f}  {info.issued:,}, {info.useful:,}, {info.wasted:,}",
                    flush=True,
                )
                is_s3 = strategy is CacheStrategy.S3_FIFO
                least = GAINS.get((name, size), -0.05) if is_s3 and not quick else -0.05
                most = 1.5 if name != "deceiving" else 3.0 if is_s3 else 5.0
                if gain < least:
                    short.append(f"{cell} {strategy.value}: gains {gain:+.2f} points, not {least:+.2f}")
                if loads > most:
                    short.append(f"{cell} {strategy.value}: {loads:+.2f} % loads, more than {most:+.2f}")
                if info.issued >= 1000 and info.wasted > 32 + len(requests) / 200 + 0.25 * info.useful:
                    short.append(f"{cell} {strategy.value}: {info.wasted} wasted, above the budget")
                if name != "deceiving" and info.issued >= 1000 and info.wasted > 0.25 * info.useful:
                    short.append(f"{cell} {strategy.value}: wasted more than a quarter of the useful ones")
    return verdict(short)


def spread(requests: Sequence[str]) -> Iterator[tuple[float, str]]:
    """A stream over so many hours, at an even rate."""
    for number, key in enumerate(requests):
        yield 3600 * HOURS * number / len(requests), key


def timed(name: str, quick: bool) -> Iterator[tuple[float, str]]:
    """Requests with their seconds: of jobs once an hour or a day, and of others beside them."""
    random = Random(1)
    hours = 8 if quick else HOURS if name != "daily" else 7 * 24
    for minute in range(60 * hours):
        of_job: list[str] = []
        if name == "hourly" and minute % 60 in (15, 45):
            of_job = [f"job {minute % 60}:{number}" for number in range(60)]
        elif name == "daily" and minute % 1440 == 540:
            of_job = [f"report {number}" for number in range(60)]
        elif name == "thrice" and minute % 60 == 15:
            of_job = [f"group {minute // 180}:{number}" for number in range(60)]
        others = [f"key {random.randrange(20_000 if name != 'uniform' else 100)}" for _ in range(10)]
        asked = of_job + others
        random.shuffle(asked)
        for number, key in enumerate(asked):
            yield 60 * minute + 59 * number / len(asked), key


def by_clock(requests: Iterator[tuple[float, str]], size: int) -> tuple[int, int, PrefetchInfo]:
    """Return the requests, the misses, and what prefetches of keys that follow the clock did."""
    clock = ManualClock(0.0)
    memory = MemoryCache(size, CacheStrategy.S3_FIFO, default_ttl=LIFE, clock=clock, cleanup_interval=None)
    store, unproven = store_of(memory), Unproven(size)
    predictor = Predictor(1, 1, 0.25, size, unproven, PrefetchCounters(), lambda _: True, Recurrence())
    waiting: set[str] = set()

    def removed(key: str, *_: object) -> None:
        if key in waiting:
            waiting.discard(key)
            predictor.lost(key)

    def first_hit(key: str) -> None:
        waiting.discard(key)
        predictor.hit(key, 0, int(clock.time() // 60))

    memory.on_removal(removed)
    count = misses = 0
    looked = -1
    for second, key in requests:
        while looked < (second + AHEAD) // 60:
            looked += 1
            clock.advance(max(0.0, 60 * looked - AHEAD - clock.time()))
            due = [one for one in predictor.due(looked, looked - 1) if one not in memory]
            for one in predictor.foresee(due, looked):
                predictor.begins()
                memory.set_value(one, 1)
                predictor.landed(one, True)
                waiting.add(one)
                store.on_first_hit(one, partial(first_hit, one))
        clock.advance(max(0.0, second - clock.time()))
        count += 1
        if memory.get_value(key) is None:
            misses += 1
            predictor.missed(key, 0, count, int(second // 60))
            memory.set_value(key, 1)
    return count, misses, predictor.info()


#: Of each stream with times: the share of the requests of its jobs that have to be hits; none for no job.
BY_CLOCK = {"hourly": 0.8, "daily": 0.35, "thrice": 0.0, "uniform": 0.0}


def clock(quick: bool) -> int:
    short = []
    print(
        f"{'stream':14}{'requests':>9}{'loads':>9}{'of jobs hit %':>15}  "
        "foreseen, right; issued, useful, wasted"
    )
    streams = {name: timed(name, quick) for name in BY_CLOCK if not (quick and name == "daily")}
    if os.environ.get("CACHEKIT_TRACES"):
        streams |= {name: spread(stream(name, quick)[:TIMED]) for name in SIZES}
    for name, requests in streams.items():
        count, misses, info = by_clock(requests, SIZES[name][1] if name in SIZES else 2_000)
        of_jobs = count - 10 * 60 * (8 if quick else HOURS if name != "daily" else 7 * 24)
        share = info.clock_useful / of_jobs if BY_CLOCK.get(name) else 0.0
        print(
            f"{name:14}{count:>9,}{misses + info.issued:>9,}{100 * share:>15.1f}  {info.clock_foreseen:,}, "
            f"{info.clock_right:,}; {info.clock_issued:,}, {info.clock_useful:,}, {info.wasted:,}",
            flush=True,
        )
        least = BY_CLOCK.get(name, 0.0) * (0.5 if quick else 1.0)
        if share < least:
            short.append(
                f"{name}: {100 * share:.0f} % of the requests of jobs are hits, not {100 * least:.0f}"
            )
        if not least and info.clock_issued:
            short.append(f"{name}: {info.clock_issued} keys were prefetched, where none follows the clock")
        if info.wasted > 32 + count / 200 + 0.25 * info.useful:
            short.append(f"{name}: {info.wasted} wasted, above the budget")
    return verdict(short)


def hits(cache: IntelligentCache, requests: Sequence[str]) -> int:
    """Return the hits in memory; the other requests are answered by the file tier."""
    before = cache.get_stats()["memory"].hits
    for key in requests:
        cache.get(key)
    return cache.get_stats()["memory"].hits - before


def restarted(requests: Sequence[str], size: int, folder: Path) -> tuple[float, float, float]:
    """Return the hit ratios after the middle: of a process that goes on, a cold one, and with the hot set."""

    def cache(reload_hot: bool) -> IntelligentCache:
        memory = MemoryCache(size, CacheStrategy.S3_FIFO, cleanup_interval=None)
        file = FileCache(folder, 400, cleanup_interval=None)
        return IntelligentCache(memory, file_cache=file, reload_hot=reload_hot)

    with FileCache(folder, 400) as file:
        for key in dict.fromkeys(requests):
            file.set_value(key, 1)
    middle = len(requests) // 2
    after = requests[middle : middle + 10 * size]
    with cache(True) as first:
        hits(first, requests[:middle])
        # As `close` does it: this process goes on.
        hot_set = first._core.hot_set
        assert hot_set is not None
        hot_set.close()
        ratios = [hits(first, after)]
    for reload_hot in (False, True):
        with cache(reload_hot) as again:
            deadline = monotonic() + SETTLE
            while reload_hot and monotonic() < deadline:
                copied = again.get_stats()["combined"].reloaded
                sleep(0.2)
                if copied == again.get_stats()["combined"].reloaded > 0:
                    break
            assert again.get_stats()["combined"].loads == 0
            ratios.append(hits(again, after))
    going_on, cold, hot = (100 * count / len(after) for count in ratios)
    return going_on, cold, hot


def restart(quick: bool) -> int:
    short = []
    if not os.environ.get("CACHEKIT_TRACES"):
        print("CACHEKIT_TRACES names no folder of request streams")
        return 0
    print(f"{'stream@size':18}{'goes on':>9}{'cold':>9}{'hot set':>9}{'regained':>10}")
    for name, size in RESTARTS:
        with tempfile.TemporaryDirectory() as folder:
            going_on, cold, hot = restarted(stream(name, quick), size, Path(folder))
        regained = (hot - cold) / (going_on - cold) if going_on > cold else 1.0
        print(
            f"{f'{name}@{size}':18}{going_on:>9.1f}{cold:>9.1f}{hot:>9.1f}{100 * regained:>9.0f}%", flush=True
        )
        if (name, size) in REGAINED and regained < 0.6 and not quick:
            short.append(f"{name}@{size}: regains {100 * regained:.0f} %, not 60")
    return verdict(short)


def verdict(short: Sequence[str]) -> int:
    print("\n".join(["", *(f"falls short: {one}" for one in short)] if short else ["", "all is as asked"]))
    return bool(short)


COMMANDS = {"prefetch": prefetch, "clock": clock, "restart": restart}


def run(args: list[str]) -> int:
    """Run `prefetch`, `clock` or `restart`; return 1 if it falls short."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=sorted(COMMANDS))
    parser.add_argument("--quick", action="store_true", help="the beginnings of the streams")
    chosen = parser.parse_args(args)
    return COMMANDS[chosen.command](chosen.quick)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
