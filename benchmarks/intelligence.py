"""What a cache knows of its own requests: other sizes, the best policy, what comes next; on request streams.

    python -m benchmarks.intelligence sizes|adaptive|cost|hits|prefetch|clock|restart|all [--traces FOLDER]

Each sub-command prints its table beside what was asked of it, and ends with 1 where it falls short. The
folder of the streams has gzipped 32-bit numbers, `NAME.u32.gz`; its default is CACHEKIT_TRACES. Samples
depend on the hashes of keys, so each seed is a process with its own PYTHONHASHSEED. `--quick` uses the
beginning of each stream, which shows that all of it runs; figures are those of whole streams.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from math import inf
from pathlib import Path
from random import Random
from statistics import mean, median
from tempfile import TemporaryDirectory
from time import thread_time
from typing import Any

from cachekit import CacheStrategy, FileCache, IntelligentCache, MemoryCache, Prefetch, SizeEstimate
from cachekit.testing import ManualClock
from cachekit.tiers.memory.miniatures import Miniature, policy_of

STREAMS = ("twitter52", "orm_busy", "oltp", "zipf09")
SHARES = (0.003, 0.01, 0.03, 0.1, 0.3)  #: of the distinct keys: the sizes of the caches
QUICK = 60_000
ROUND = 2_000  #: requests between two rounds of the simulation
STATIC = (CacheStrategy.LRU, CacheStrategy.SIEVE, CacheStrategy.S3_FIFO, CacheStrategy.W_TINYLFU)
LEAST = 900  #: entries of a cache whose estimate is judged
WINDOW = 20  #: requests for each entry, of an estimate over the last ones


def read(folder: Path, name: str, quick: bool) -> tuple[list[str], int]:
    """The keys of a stream, and how many distinct ones the whole stream has."""
    numbers = array("I", gzip.decompress((folder / f"{name}.u32.gz").read_bytes()))
    return list(map(str, numbers[: QUICK if quick else None])), len(set(numbers))


def simulated(strategy: CacheStrategy, size: int, keys: list[str]) -> list[int]:
    """How many hits a policy has had, after each request."""
    policy = policy_of(strategy)
    policy.begin(size)
    held: set[str] = set()
    hits, counts = 0, []
    for key in keys:
        if key in held:
            hits += 1
            policy.hit(key)
        else:
            if len(held) >= size:
                held.remove(policy.evict(key))
            policy.insert(key, inf)
            held.add(key)
        counts.append(hits)
    return counts


def rate_of(strategy: CacheStrategy, size: int, keys: list[str]) -> float:
    """The hit rate of a policy."""
    return simulated(strategy, size, keys)[-1] / len(keys)


def served(
    strategy: CacheStrategy, size: int, keys: list[str], windows: list[tuple[int, SizeEstimate]] | None = None
) -> tuple[float, MemoryCache]:
    """The hit rate of a cache which a hundred requests a second reach, and the cache.

    `windows` receives the estimates over the last requests, WINDOW for each entry, and when they were made.
    """
    clock = ManualClock()
    cache = MemoryCache(size, strategy, clock=clock)
    hits = 0
    for number, key in enumerate(keys):
        if windows is not None and number and not number % (WINDOW * size):
            windows.append((number, cache.estimate(WINDOW * size)))
        if cache.get_value(key) is None:
            cache.set_value(key, True)
        else:
            hits += 1
        if not number % ROUND:
            clock.advance(ROUND / 100)
            cache.estimate()
    return hits / len(keys), cache


# -- what a process of its own measures -----------------------------------------------------------------


def cell(kind: str, folder: Path, name: str, share: str, policy: str, quick: bool) -> dict[str, Any]:
    if kind == "cost":
        return {
            "saved": load_time_saved(policy, folder, name, share, quick, int(os.environ["PYTHONHASHSEED"]))
        }
    keys, distinct = read(folder, name, quick)
    size = max(1, round(distinct * float(share)))
    strategy = CacheStrategy(policy)
    if kind == "static":
        return {"size": size, "rate": rate_of(strategy, size, keys)}
    if kind == "window":
        return {"size": size, "apart": windows_apart(strategy, size, keys)}
    rate, cache = served(strategy, size, keys)
    found = cache.estimate()
    return {
        "size": size,
        "rate": rate,
        "rates": dict(found.rates),
        "plus_minus": dict(found.plus_minus),
        "policy": cache.policy,
        "reason": found.reason,
    }


def windows_apart(strategy: CacheStrategy, size: int, keys: list[str]) -> dict[str, list[float]]:
    """By how many points the estimates over the last requests are off."""
    windows: list[tuple[int, SizeEstimate]] = []
    served(strategy, size, keys, windows)
    apart = {}
    for label, factor in OTHERS.items():
        other = int(size * factor)
        counts = [0, *simulated(strategy, other, keys)]
        apart[label] = [
            100 * (found.rates[other] - (counts[end] - counts[end - found.requests]) / found.requests)
            for end, found in windows
            if found
        ]
    return apart


def in_process(seed: int, *arguments: object) -> dict[str, Any]:
    ended = subprocess.run(
        [sys.executable, __file__, "cell", *map(str, arguments)],
        env=os.environ | {"PYTHONHASHSEED": str(seed)},
        stdout=subprocess.PIPE,
        check=True,
    )
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


def all_of(chosen: argparse.Namespace, work: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(chosen.jobs) as pool:
        return list(pool.map(lambda arguments: in_process(*arguments), work))


# -- the sub-commands -----------------------------------------------------------------------------------


def sizes(chosen: argparse.Namespace) -> int:
    """x2 and x10 within 2 points in every run; x0.5 in 95 %, or of the rate at a size 10 % off."""
    cells = [(name, share, policy) for name in chosen.streams for share in SHARES[1:4] for policy in POLICIES]
    work = [
        (seed, "estimate", chosen.traces, name, share, policy, int(chosen.quick))
        for name, share, policy in cells
        for seed in range(chosen.seeds)
    ]
    measured = all_of(chosen, work)
    print(f"{'':30}{'x0.5':>14}{'x2':>14}{'x10':>14}   points apart, the worst of {chosen.seeds} seeds")
    judged = {label: [0, 0] for label in OTHERS}
    covered = dict.fromkeys(OTHERS, 0)
    for at, (name, _, policy) in enumerate(cells):
        runs = measured[at * chosen.seeds : (at + 1) * chosen.seeds]
        size = runs[0]["size"]
        if size < LEAST or not all(run["rates"] for run in runs):
            print(f"{name}@{size} {policy}: not judged, {runs[0]['reason'] or 'too small'}")
            continue
        keys, _ = read(chosen.traces, name, chosen.quick)
        cells_of_row = []
        for label, factor in OTHERS.items():
            other = int(size * factor)
            true = rate_of(CacheStrategy(policy), other, keys)
            near = [true]
            apart = [100 * (run["rates"][str(other)] - true) for run in runs]
            if factor < 1 and max(map(abs, apart)) > 2:
                near += [
                    rate_of(CacheStrategy(policy), int(other * off), keys) for off in (0.9, 0.95, 1.05, 1.1)
                ]
            for run in runs:
                rate = run["rates"][str(other)]
                # Between the rates of the sizes that are near, any rate is that of a size in between.
                judged[label][0] += min(near) - 0.02 <= rate <= max(near) + 0.02
                judged[label][1] += 1
                covered[label] += abs(rate - true) <= run["plus_minus"][str(other)]
            cells_of_row.append(max(apart, key=abs))
        print(
            f"{f'{name}@{size} {policy}':30}" + "".join(f"{one:>+14.2f}" for one in cells_of_row), flush=True
        )
    short = False
    for label, (within, runs_) in judged.items():
        asked = 0.95 if label == "x0.5" else 1.0
        good = within >= asked * runs_
        short |= not good
        print(
            f"{label}: {within} of {runs_} within 2 points, asked {asked:.0%}: {_verdict(good)}; "
            f"{covered[label]} within plus_minus, which says 90%"
        )
    _show_windows(chosen, cells)
    return int(short and not chosen.quick)


def _show_windows(chosen: argparse.Namespace, cells: Sequence[tuple[str, float, str]]) -> None:
    """Print how far the estimates over the last requests are off; nothing was asked of them."""
    work = [
        (0, "window", chosen.traces, name, share, policy, int(chosen.quick)) for name, share, policy in cells
    ]
    found = [one["apart"] for one in all_of(chosen, work) if one["size"] >= LEAST]
    for label in OTHERS:
        apart = sorted(abs(points) for one in found for points in one[label])
        if apart:
            half, most = (apart[int(share * (len(apart) - 1))] for share in (0.5, 0.95))
            print(
                f"{label} over the last {WINDOW} requests for each entry, {len(apart)} estimates: "
                f"half within {half:.1f} points, 95% within {most:.1f}, the worst {apart[-1]:.1f}"
            )


#: Other sizes, as multiples of a cache's own.
OTHERS = {"x0.5": 0.5, "x2": 2, "x10": 10}
POLICIES = (CacheStrategy.LRU.value, CacheStrategy.S3_FIFO.value)


def adaptive(chosen: argparse.Namespace) -> int:
    """Beside the best of four static policies: mean >= +0.3, each cell >= -0.5, each run >= -1.0 points."""
    cells = [(name, share) for name in chosen.streams for share in SHARES]
    quick = int(chosen.quick)
    static = all_of(
        chosen,
        [(0, "static", chosen.traces, *one, policy.value, quick) for one in cells for policy in STATIC],
    )
    runs = all_of(
        chosen,
        [
            (seed, "adaptive", chosen.traces, *one, CacheStrategy.ADAPTIVE.value, quick)
            for one in cells
            for seed in range(chosen.seeds)
        ],
    )
    print(f"{'':20}{'best static':>24}{'adaptive':>10}{'apart':>8}{'worst run':>11}")
    means, worst = [], []
    for at, (name, _) in enumerate(cells):
        rates = [100 * one["rate"] for one in static[at * len(STATIC) : (at + 1) * len(STATIC)]]
        best = max(rates)
        mine = [100 * one["rate"] for one in runs[at * chosen.seeds : (at + 1) * chosen.seeds]]
        found = mean(mine)
        means.append(found - best)
        worst.append(min(mine) - best)
        label = f"{STATIC[rates.index(best)].value} {best:.2f}"
        cell_name = f"{name}@{static[at * len(STATIC)]['size']}"
        print(
            f"{cell_name:20}{label:>24}{found:>10.2f}{means[-1]:>+8.2f}"
            f"{worst[-1]:>+11.2f}   {runs[at * chosen.seeds]['policy']}",
            flush=True,
        )
    rows = [
        ("mean of the cells", sum(means) / len(means), 0.3),
        ("worst cell", min(means), -0.5),
        ("worst run", min(worst), -1.0),
    ]
    for label, figure, asked in rows:
        print(f"{label}: {figure:+.2f}, asked {asked:+.1f}: {_verdict(figure >= asked)}")
    return int(any(figure < asked for _, figure, asked in rows) and not chosen.quick)


def load_time_saved(policy: str, folder: Path, name: str, kind: str, quick: bool, draw: int) -> float:
    """The share of load time that a cache saves which is bounded in bytes; sizes and times are synthetic."""
    keys, _ = read(folder, name, quick)
    chance = Random(draw)
    weights, seconds = {}, {}
    for key in dict.fromkeys(keys):
        size = chance.lognormvariate(0, 1)
        weights[key] = 1_000 if kind == "equal sizes" else 1 + int(1_000 * size)
        seconds[key] = size if kind == "times follow sizes" else chance.lognormvariate(0, 1.5)
    cache = Miniature(policy_of(CacheStrategy(policy)), len(weights), 0.1 * sum(weights.values()))
    asked = saved = 0.0
    for key in keys:
        took = seconds[key]
        asked += took
        if cache.look_up(key, 0, 0.0):
            saved += took
        else:
            cache.store(key, inf, weights[key], took)
    return saved / asked


KINDS = ("independent", "equal sizes", "times follow sizes")
OF_COSTS = (CacheStrategy.LRU, CacheStrategy.S3_FIFO, CacheStrategy.COST_AWARE)


def cost(chosen: argparse.Namespace) -> int:
    """Load time saved at 10 % of the bytes, the mean of the draws: if independent, S3-FIFO's + 2 points."""
    rows = [(kind, name) for kind in KINDS for name in chosen.streams]
    work = [
        (draw, "cost", chosen.traces, name, kind, policy.value, int(chosen.quick))
        for kind, name in rows
        for policy in OF_COSTS
        for draw in range(chosen.seeds)
    ]
    draws = [100 * one["saved"] for one in all_of(chosen, work)]
    saved = [mean(draws[at : at + chosen.seeds]) for at in range(0, len(draws), chosen.seeds)]
    print(f"{'load time saved, %':34}" + "".join(f"{policy.value:>12}" for policy in OF_COSTS))
    short = False
    for at, (kind, name) in enumerate(rows):
        lru, s3_fifo, mine = saved[3 * at : 3 * at + 3]
        judged = kind == KINDS[0]
        good = not judged or mine >= s3_fifo + 2
        short |= not good
        print(
            f"{f'{name}, {kind}':34}{lru:>12.2f}{s3_fifo:>12.2f}{mine:>12.2f}{mine - s3_fifo:>+9.2f}"
            + (f" asked +2: {_verdict(good)}" if judged else "")
        )
    return int(short and not chosen.quick)


def hits(chosen: argparse.Namespace) -> int:
    """Nanoseconds of a hit, a miss and a write, paired: without estimates, with them, and ADAPTIVE.

    They are those of the caller's thread, so that other programs on the machine matter less.
    """
    entries = 500 if chosen.quick else 1_000
    keys = [f"key {number}" for number in range(entries)]
    others = [f"none {number}" for number in range(entries)]
    made = {
        "LRU, no estimates": MemoryCache(entries, estimates=False),
        "LRU": MemoryCache(entries),
        "adaptive": MemoryCache(entries, CacheStrategy.ADAPTIVE),
        "w-tinylfu": MemoryCache(entries, CacheStrategy.W_TINYLFU),
        "cost-aware": MemoryCache(entries, CacheStrategy.COST_AWARE),
    }
    taken: dict[str, dict[str, list[float]]] = {name: {"hit": [], "miss": [], "set": []} for name in made}
    for cache in made.values():
        for key in keys:
            cache.set_value(key, 1)
    rounds = 5 if chosen.quick else 60
    order, random = list(made.items()), Random(1)
    for _ in range(rounds):
        random.shuffle(order)  # the one after a slow one finds cold caches
        for name, cache in order:
            for kind, wanted in (("hit", keys), ("miss", others)):
                get = cache.get_value
                begun = thread_time()
                for key in wanted:
                    get(key)
                taken[name][kind].append(thread_time() - begun)
    # Afterwards: what the simulation of these writes takes is no price of a hit.
    for _ in range(rounds):
        for name, cache in made.items():
            store = cache.set_value
            begun = thread_time()
            for key in keys:
                store(key, 2)
            taken[name]["set"].append(thread_time() - begun)
    base = {kind: median(numbers) for kind, numbers in taken["LRU, no estimates"].items()}
    print(f"{'ns':30}{'hit':>16}{'miss':>16}{'set':>16}")
    ratios = {}
    for name, by_kind in taken.items():
        figures = {kind: median(numbers) for kind, numbers in by_kind.items()}
        ratios[name] = figures["hit"] / base["hit"]
        shown = [
            f"{figures[kind] / entries * 1e9:,.0f} ({figures[kind] / base[kind]:.2f})" for kind in figures
        ]
        print(f"{name:30}" + "".join(f"{one:>16}" for one in shown))
    beside = ratios["cost-aware"] / ratios["w-tinylfu"]
    good = ratios["LRU"] <= 1.02 and ratios["adaptive"] <= 1.05 and beside <= 1.1
    print(
        f"hits: {ratios['LRU']:.3f} asked 1.02, {ratios['adaptive']:.3f} asked 1.05, "
        f"cost-aware beside w-tinylfu {beside:.3f} asked 1.10: {_verdict(good)}"
    )
    _hits_of_parts(entries, rounds)
    return int(not good and not chosen.quick)


def _hits_of_parts(entries: int, rounds: int) -> None:
    """Print the same without prefetching and the hot set, and with them. A miss of a function loads."""

    def number_of(number: int) -> int:
        return number

    def function(prefetch: Prefetch | bool) -> dict[str, Callable[[int], object]]:
        cache = opened.enter_context(IntelligentCache(MemoryCache(4 * entries), file_cache=None))
        called = cache.cached(prefetch=prefetch)(number_of)
        return {"hit": called, "miss": called}

    def over_files(reload_hot: bool) -> dict[str, Callable[[int], object]]:
        file = FileCache(opened.enter_context(TemporaryDirectory()))
        cache = opened.enter_context(
            IntelligentCache(MemoryCache(4 * entries), file_cache=file, reload_hot=reload_hot)
        )
        for number in range(entries):
            cache.set(str(number), number)
        return {
            "hit": lambda number: cache.get(str(number)),
            "miss": lambda number: cache.get(str(number)),
            "set": lambda number: cache.set(str(number), number),
        }

    with ExitStack() as opened:
        for base, made in (
            (
                "function",
                {
                    "function": function(False),
                    "function, prefetch": function(Prefetch(clock=False)),
                    "function, prefetch and clock": function(True),
                },
            ),
            ("files", {"files": over_files(False), "files, reload_hot": over_files(True)}),
        ):
            taken: dict[str, dict[str, list[float]]] = {
                name: {kind: [] for kind in calls} for name, calls in made.items()
            }
            for again in range(rounds + 1):
                fresh = range((again + 1) * entries, (again + 2) * entries)
                for name, calls in made.items():
                    for kind, call in calls.items():
                        begun = thread_time()
                        for number in fresh if kind == "miss" else range(entries):
                            call(number)
                        if again:  # the first time fills it
                            taken[name][kind].append(thread_time() - begun)
            for name, by_kind in taken.items():
                shown = [
                    f"{median(numbers) / entries * 1e9:,.0f} "
                    f"({median(numbers) / median(taken[base][kind]):.2f})"
                    for kind, numbers in by_kind.items()
                ]
                print(f"{name:30}" + "".join(f"{one:>16}" for one in shown))


def of_prefetch(command: str, chosen: argparse.Namespace) -> int:
    """`prefetch`, `clock` and `restart`, which are a script of their own."""
    script = Path(__file__).with_name("intelligence_prefetch.py")
    ended = subprocess.run(
        [sys.executable, script, command, *(["--quick"] if chosen.quick else [])],
        env=os.environ | {"CACHEKIT_TRACES": str(chosen.traces)},
    )
    return ended.returncode


def _verdict(good: bool) -> str:
    return "reached" if good else "FALLS SHORT"


COMMANDS = ("sizes", "adaptive", "cost", "hits", "prefetch", "clock", "restart")


def main() -> int:
    if sys.argv[1:2] == ["cell"]:
        kind, folder, name, share, policy, quick = sys.argv[2:]
        print(json.dumps(cell(kind, Path(folder), name, share, policy, quick == "1")))
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=[*COMMANDS, "all"])
    parser.add_argument("--traces", type=Path, default=os.environ.get("CACHEKIT_TRACES"), metavar="FOLDER")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each cell (default: 3)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes at once (default: 2)")
    parser.add_argument("--streams", nargs="+", default=STREAMS, choices=STREAMS, metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="the beginning of each stream; judges nothing")
    chosen = parser.parse_args()
    if chosen.traces is None and chosen.command != "hits":
        parser.error("--traces must name the folder of the streams, or set CACHEKIT_TRACES")
    ended = 0
    for command in COMMANDS if chosen.command == "all" else (chosen.command,):
        print(f"== {command}", flush=True)
        if command in ("prefetch", "clock", "restart"):
            ended |= of_prefetch(command, chosen)
        else:
            ended |= {"sizes": sizes, "adaptive": adaptive, "cost": cost, "hits": hits}[command](chosen)
    return ended


if __name__ == "__main__":
    sys.exit(main())
