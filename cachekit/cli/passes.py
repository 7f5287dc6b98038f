"""The passes of the demo: one stream of questions, from threads of this process or of new processes.

Every pass is measured in the same way. The first meets an empty cache. New processes are spawned, so they
have only what the tiers give them. Each reports its progress, and its counts at the end.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Final, NamedTuple

from cachekit import FileCache, IntelligentCache, MemoryCache, RedisCache, TierUnavailableError, override
from cachekit.cli import demo_work
from cachekit.cli.demo_work import Analysis, Function, Plan, Request
from cachekit.cli.display import Display

_LOOK_AGAIN: Final = 0.1  # seconds between two reports of progress


class Place(NamedTuple):
    """Where a host keeps its tiers."""

    directory: str
    redis: str | None  #: the URL of the server that it shares with other hosts
    run: str  #: the name of this run, which keeps its keys apart from those of other runs

    def cache(self, memory: MemoryCache) -> IntelligentCache:
        """Return the cache of one process on this host.

        Raises:
            SystemExit: there is no server at the URL.
        """
        redis = None
        if self.redis is not None:
            redis = RedisCache(
                url=self.redis, key_prefix=f"cachekit-demo:{self.run}:", allow=[Analysis, Function]
            )
            try:
                redis.peek("")
            except TierUnavailableError as error:
                raise SystemExit(f"cachekit demo: {error}") from None
        return IntelligentCache(memory, redis, FileCache(self.directory))


class Pass(NamedTuple):
    """The measurements of one pass over the stream."""

    name: str
    requests: int
    answered: Mapping[str, int]  #: lookups by the tier that served them
    analysed: int
    seconds: float
    saved: float  #: seconds of processor time that analyses would have taken
    p50: float  #: seconds that half of the requests did not exceed
    p99: float


class _Share(NamedTuple):
    """The measurements of one process in a pass."""

    taken: array[float]
    analysed: list[str]
    answered: Counter[str]


class _Stopwatch:
    """Runs several threads on one stream, and times each request."""

    def __init__(self, stream: Sequence[Request], threads: int) -> None:
        self._shares = [stream[number::threads] for number in range(threads)]
        self._taken = [array("d") for _ in self._shares]
        self._stop = threading.Event()

    def run(self, watch: Callable[[int], object]) -> array[float]:
        """Run all requests, and call `watch` with their progress; return the seconds of each request."""
        with ThreadPoolExecutor(len(self._shares), thread_name_prefix="demo") as threads:
            jobs: set[Future[None]] = set()
            try:
                jobs = {
                    threads.submit(self._ask, share, taken)
                    for share, taken in zip(self._shares, self._taken, strict=True)
                }
                pending = jobs
                while pending:
                    done, pending = wait_for(pending, _LOOK_AGAIN)
                    for job in done:
                        job.result()
                    watch(sum(map(len, self._taken)))
            finally:
                # Ctrl-C, or a failure in one thread: the other threads must stop.
                self._stop.set()
        return array("d", [second for part in self._taken for second in part])

    def _ask(self, share: Sequence[Request], taken: array[float]) -> None:
        for question, source in share:
            started = time.perf_counter()
            demo_work.answer(question, source)
            taken.append(time.perf_counter() - started)
            if self._stop.is_set():
                return


def _work(stream: Sequence[Request], threads: int, watch: Callable[[int], object]) -> _Share:
    # Runs this process's share of a pass, through the cache in use.
    before, analysed = _answered(), len(demo_work.analysed)
    taken = _Stopwatch(stream, threads).run(watch)
    return _Share(taken, demo_work.analysed[analysed:], _answered() - before)


def _answered() -> Counter[str]:
    from cachekit import get_cache_stats

    return Counter({name: tier.hits for name, tier in get_cache_stats().items()})


def cold_pass(name: str, stream: Sequence[Request], plan: Plan, display: Display) -> Pass:
    """Run the first pass, with threads of this process, through the cache in use."""
    demo_work.analysed.clear()
    new = {source for _, source in stream}
    started = time.perf_counter()
    # The progress is that of the analyses, which take nearly all of the time.
    with display.progress(name, len(new), "modules analysed") as report:
        share = _work(stream, plan.threads, lambda _: report(len(demo_work.analysed)))
    return _measured(name, stream, [share], time.perf_counter() - started)


def later_pass(name: str, stream: Sequence[Request], plan: Plan, place: Place, display: Display) -> Pass:
    """Run a pass with new processes, which have only the tiers of that place.

    Raises:
        SystemExit: one of them died.
    """
    started = time.perf_counter()
    with (
        display.progress(name, len(stream), "requests answered") as report,
        _spawned(plan, place) as connections,
    ):
        shares = _gathered(connections, report)
    return _measured(name, stream, shares, time.perf_counter() - started)


@contextlib.contextmanager
def _spawned(plan: Plan, place: Place) -> Iterator[list[Connection]]:
    spawn = get_context("spawn")
    processes: list[SpawnProcess] = []
    connections: list[Connection] = []
    # Ctrl-C reaches all processes. Children that inherit SIG_IGN leave it to this process.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    # SIGTERM waits until every child is in the list. Children do not inherit a handler.
    came: list[int] = []
    at_sigterm = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        for number in range(plan.processes):
            ours, theirs = spawn.Pipe(duplex=False)
            # Each child creates the stream itself: a parent that passes a large argument blocks until the
            # child has read it, and for ever if the child dies before.
            process = spawn.Process(target=_child, args=(theirs, place, plan, number), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            connections.append(ours)
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, at_sigterm)
        for number in came:
            signal.raise_signal(number)
        yield connections
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, at_sigterm)
        for process in processes:
            if not all(it.closed for it in connections):  # interrupted: the other processes must stop
                process.terminate()
            process.join()


def _gathered(connections: list[Connection], report: Callable[[int], None]) -> list[_Share]:
    # Collects the measurements of each process; `report` gets the sum of their progress.
    shares: list[_Share] = []
    done = dict.fromkeys(connections, 0)
    while len(shares) < len(connections):
        for ready in wait([it for it in connections if not it.closed]):
            assert isinstance(ready, Connection)
            try:
                message: Any = ready.recv()
            except EOFError:
                raise SystemExit("cachekit demo: one of its processes died") from None
            if isinstance(message, int):
                done[ready] = message
            else:
                shares.append(_Share(*message))
                ready.close()
        report(sum(done.values()))
    return shares


def _child(parent: Connection, place: Place, plan: Plan, number: int) -> None:
    stream = demo_work.planned_stream(plan)[number :: plan.processes]
    with place.cache(MemoryCache(max_size=1_000_000)) as cache, override(cache):
        share = _work(stream, plan.threads, parent.send)
    parent.send(tuple(share))
    parent.close()


def _measured(name: str, stream: Sequence[Request], shares: Sequence[_Share], seconds: float) -> Pass:
    analysed = [source for share in shares for source in share.analysed]
    taken = sorted(second for share in shares for second in share.taken)
    cost = {source: demo_work.analyse(source).seconds for source in {source for _, source in stream}}
    saved = sum(cost[source] for _, source in stream) - sum(cost[source] for source in analysed)
    return Pass(
        name,
        len(stream),
        sum((share.answered for share in shares), Counter[str]()),
        len(analysed),
        seconds,
        saved,
        taken[(len(taken) - 1) // 2],
        taken[(len(taken) - 1) * 99 // 100],
    )
