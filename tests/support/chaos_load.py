"""A worker process for chaos runs: threads that use one cache in every way, while its tiers fail.

What it sees goes to a board in shared memory, and to files, so that a kill loses nothing of it. What it
is told comes through a pipe: to be quiet, to read, to write, to account for its figures.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import random
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from free_threads import HAS_GIL
from redis_server import wait_until

from cachekit import FileCache, IntelligentCache, MemoryCache, RedisCache
from cachekit.coherence.accessor import TierAccessor
from cachekit.testing import FaultyTier
from cachekit.testing.clock import JumpingClock
from cachekit.tiers.base import DirectoryTier, ServerTier

#: Keys that are written and invalidated all the time, and keys that are only looked up and loaded, so that
#: their values live until they are over.
BUSY: Final = [f"k{number}" for number in range(9)]
CALM: Final = [f"calm{number}" for number in range(3)]
KEYS: Final = BUSY + CALM
THREADS: Final = 2
ROWS: Final = THREADS + 1  # one for each thread of a worker, one for itself

#: Seconds: some values end soon, the others outlive every run and every jump.
TTLS: Final = (0.5, 3.0, 7200.0)
#: Seconds from the moment that a value names until the cache has dated it: so long a call takes that is
#: noted nowhere. Those that take longer are noted with their ends, as `late`.
DATING: Final = 0.5

# Words of a row.
CALLS, LONGEST, EXCEPTIONS, WRONG, STEP, OUTAGES, FAULTS, SLEEPS = range(8)
_WIDTH: Final = 8


class Value(NamedTuple):
    """What the load stores: it tells whose it is, and until when it may be served."""

    key: str
    host: int
    made: float  #: monotonic
    ttl: float
    number: tuple[int, int, int]  #: which life, thread and step of it made the value


class Assignment(NamedTuple):
    """Who a worker is; all of it goes through a spawn."""

    slot: int  #: its rows on the board; the next one in its place goes on with them
    life: int  #: the how manieth process of all
    host: int
    path: Path  #: of the run: each host has its directory there
    url: str


class Board:
    """Rows of counters in a file that all processes map; each row has one writer at a time."""

    def __init__(self, path: Path, slots: int = 0) -> None:
        if slots:
            path.write_bytes(bytes(8 * _WIDTH * ROWS * slots))
        with open(path, "r+b") as file:
            self._words = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")

    def row(self, slot: int, thread: int) -> memoryview:
        start = (slot * ROWS + thread) * _WIDTH
        return self._words[start : start + _WIDTH]

    def total(self, word: int, slots: range | None = None) -> int:
        return sum(self._column(word, slots))

    def longest(self) -> float:
        return max(self._column(LONGEST, None)) / 1e9

    def _column(self, word: int, slots: range | None) -> list[int]:
        slots = range(len(self._words) // _WIDTH // ROWS) if slots is None else slots
        return [self.row(slot, thread)[word] for slot in slots for thread in range(ROWS)]


def clock_of(path: Path, host: int) -> JumpingClock:
    return JumpingClock(path / f"clock{host}")


class Parts(NamedTuple):
    """A cache of one process of one host, and its tiers, which can be made to fail."""

    cache: IntelligentCache
    redis: FaultyTier
    file: FaultyTier


@contextmanager
def open_parts(path: Path, host: int, url: str) -> Iterator[Parts]:
    clock = clock_of(path, host)
    redis = FaultyTier(RedisCache(url=url, key_prefix="chaos:", clock=clock, allow=[Value]))
    file = FaultyTier(FileCache(path / f"host{host}", 16, None, clock=clock))
    memory = MemoryCache(clock=clock, cleanup_interval=1)
    with IntelligentCache(memory, cast("ServerTier", redis), cast("DirectoryTier", file)) as cache:
        yield Parts(cache, redis, file)


class Answer(NamedTuple):
    """What a cache of a host was asked and answered between two moments, monotonic."""

    value: Value
    host: int
    begin: float
    end: float


def is_expired(answer: Answer, clocks: list[JumpingClock], kept: float | None = None) -> bool:
    """Whether no cache of the host may have answered that.

    From whatever moment on it was copied into memory, there it has what was left of its life by the wall
    clock of that moment, and its TTL at the most. Below memory the wall clock alone counts.

    Args:
        answer: what was answered.
        clocks: of the hosts.
        kept: monotonic: when the call that kept the value was over, if it took longer than `DATING`.
    """
    value, host, begin, end = answer
    made = value.made
    spans = clocks[value.host].spans(made, made + DATING if kept is None else kept)
    dated = max(span.end + span.ahead for span in spans)
    return not any(
        begin < value.ttl + min(span.end, dated - span.ahead) for span in clocks[host].spans(made, end)
    )


class Load:
    """The threads of one worker."""

    def __init__(self, own: Assignment, parts: Parts, board: Board) -> None:
        self._own = own
        self._cache = parts.cache
        self._board = board
        self._clocks = [clock_of(own.path, host) for host in range(2)]
        self._ended = threading.Event()
        self.requests = 0
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self, thread: int) -> None:
        own, row = self._own, self._board.row(self._own.slot, thread)
        sleeping = self._board.row(own.slot, THREADS)
        random_ = random.Random(own.life * THREADS + thread)
        step = requests = 0
        while not self._ended.is_set():
            step += 1
            calm = random_.random() < 0.3
            keys = random_.sample(CALM if calm else BUSY, random_.choice((1, 1, 1, 3)))
            ttl = random_.choice(TTLS[:2] if calm else TTLS)
            begin, sleeps = time.monotonic(), sleeping[SLEEPS]

            number = (own.life, thread, step)
            row[STEP] = step

            def value(key: str, ttl: float = ttl, number: tuple[int, int, int] = number) -> Value:
                return Value(key, own.host, time.monotonic(), ttl, number)

            try:
                asked, found = self._step(step, random_.randrange(22 if calm else 40), keys, ttl, value)
            except Exception:
                row[EXCEPTIONS] += 1
                complain(own.path, traceback.format_exc())
                asked, found = 0, {}  # the figures will not add up either
            end = time.monotonic()
            if end - begin > DATING:
                note_late(own.path, number, end)
            requests += asked
            for key, one in found.items():
                if type(one) is not Value or one.key != key:
                    row[WRONG] += 1
                    complain(own.path, f"{key} held {one!r}")
                elif is_expired(answer := Answer(one, own.host, begin, end), self._clocks):
                    # Unless it was kept late: that is known when whoever kept it is done.
                    _add(own.path / "suspicious", answer)
            if sleeping[SLEEPS] == sleeps and not sleeps % 2:
                row[LONGEST] = max(row[LONGEST], int((end - begin) * 1e9))
            row[CALLS] += 1
        with self._lock:
            self.requests += requests

    def _step(
        self, step: int, kind: int, keys: list[str], ttl: float, value: Callable[..., Value]
    ) -> tuple[int, dict[str, Any]]:
        """Call the cache in one of its ways; how many keys that looked up, and what was found."""
        cache, key = self._cache, keys[0]
        found: dict[str, Any] = {}
        if kind < 12:
            found = {key: cache.get(key)}
        elif kind < 15:
            found = cache.get_many(keys)
            return len(keys), found
        elif kind < 20:
            found = {key: cache.get_or_set(key, lambda: value(key), ttl=ttl, tags={key})}
        elif kind < 22:
            found = cache.get_or_set_many(
                keys, lambda missing: {one: value(one) for one in missing}, ttl=ttl, tags={"loaded"}
            )
            return len(keys), found
        else:
            if kind < 30:
                cache.set(key, value(key), ttl, tags={key, "set"} if kind % 2 else None)
            elif kind < 32:
                cache.set_many({one: value(one) for one in keys}, ttl)
            elif kind < 35:
                cache.delete(key)
            elif kind < 36:
                cache.delete_many(keys)
            elif kind < 38:
                cache.invalidate_by_tags({key} if kind % 2 else {"set"})
            # These leave no process of the host a copy of anything: only some do it.
            elif self._own.life % 5 == 4:
                cache.invalidate_by_pattern(key + r"\Z") if step % 20 else cache.clear()
            return 0, found
        return 1, {key: one for key, one in found.items() if one is not None}


def _add(path: Path, what: object) -> None:
    """Write a line at once and in one piece: no kill loses it, and no other process writes into it."""
    with open(path, "ab", buffering=0) as file:
        file.write(json.dumps(what).encode() + b"\n")


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def complain(path: Path, text: str) -> None:
    """Add to what went wrong."""
    _add(path / "complaints", text)


def complaints(path: Path) -> list[str]:
    """What went wrong."""
    return _lines(path / "complaints")


def note_late(path: Path, number: tuple[int, int, int], end: float) -> None:
    """This step of a worker was over at that moment, and not sooner."""
    _add(path / "late", (number, end))


def expired(path: Path, clocks: list[JumpingClock]) -> list[Answer]:
    """The answers of all workers that no cache may have given."""
    late = {tuple(number): end for number, end in _lines(path / "late")}
    suspicious = []
    for (key, host, made, ttl, number), *asked in _lines(path / "suspicious"):
        suspicious.append(Answer(Value(key, host, made, ttl, tuple(number)), *asked))
    return [answer for answer in suspicious if is_expired(answer, clocks, late.get(answer.value.number))]


class Complaining(logging.Handler):
    """Outages are logged, and are no news here; errors are, for nobody is told of them otherwise."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.ERROR)
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        complain(self._path, self.format(record))


def breakages(parts: Parts) -> list[Callable[[], None]]:
    """Ways in which a tier of this process can fail."""
    redis, file = parts.redis, parts.file
    return [
        redis.fail,
        lambda: redis.fail("get", "put"),
        lambda: redis.fail("put", "add", full=True),
        lambda: redis.fail("remove_many", "invalidate_by_tags", "invalidate_by_pattern"),
        lambda: redis.hang("get", "get_many", "add", "origin", timeout=0.1),
        file.fail,
        lambda: file.fail("look"),
        lambda: file.fail("settle"),
        lambda: file.fail("put", "add", full=True),
        lambda: file.fail("remove", "invalidate_by_tags", "renew"),
        lambda: file.hang("put", "look", "remove", timeout=0.1),
    ]


def work(own: Assignment, pipe: Connection, loaded: bool) -> None:
    """What the process does, until its pipe says that it is over."""
    logging.getLogger("cachekit").addHandler(Complaining(own.path))
    board = Board(own.path / "board")
    row = board.row(own.slot, THREADS)
    random_ = random.Random(own.life)
    asked = count_lookups()
    try:
        with open_parts(own.path, own.host, own.url) as parts:
            cache, redis = parts.cache, parts.redis
            load = Load(own, parts, board) if loaded else None
            states = cache._core.tiers.states()

            def recover() -> None:
                wait_until(
                    lambda: not any(state.is_out or state.pending for state in states.values()),
                    "the tiers are back",
                )

            pipe.send("ready")
            while loaded and not pipe.poll():
                _break_something(own, parts, board, random_, pipe)
            while True:
                question, *arguments = pipe.recv()
                if question == "end":
                    break
                if question == "quiet":
                    assert load is not None
                    load.end()
                    row[OUTAGES] += sum(state.outages for state in states.values())
                    recover()
                    answer: Any = _account(parts, load.requests, asked)
                elif question == "read":
                    answer = {key: cache.get(key) for key in KEYS}
                elif question == "write":
                    answer = cache.set(*arguments)
                else:
                    # While a tier is out: it learns of this when it is back.
                    tier = redis if question == "write without redis" else parts.file
                    tier.fail()
                    answer = cache.set(*arguments)
                    tier.mend()
                    recover()
                pipe.send(answer)
    except BaseException:
        row[EXCEPTIONS] += 1
        complain(own.path, traceback.format_exc())
        raise


def _break_something(
    own: Assignment, parts: Parts, board: Board, random_: random.Random, pipe: Connection
) -> None:
    """Have a tier fail for some calls, and be in order for some."""
    row = board.row(own.slot, THREADS)
    if random_.random() < 0.7:
        random_.choice(breakages(parts))()
        row[FAULTS] += 1
    _let_work(own, board, random_.randrange(10, 100), pipe)
    parts.redis.mend()
    parts.file.mend()
    # Each outage empties memory: now and then it has time to fill, and its copies to grow old.
    _let_work(own, board, random_.choice((10, 100, 2000)), pipe)


def _let_work(own: Assignment, board: Board, calls: int, pipe: Connection) -> None:
    mine = range(own.slot, own.slot + 1)
    goal = board.total(CALLS, mine) + calls
    while board.total(CALLS, mine) < goal and not pipe.poll(0.002):
        pass


def count_lookups() -> Counter[str]:
    """How many keys the cache of this process asks each lower tier for, whether or not it can answer."""
    asked: Counter[str] = Counter()
    lock = threading.Lock()
    call = TierAccessor.call

    def counted(self: TierAccessor[Any], operation: Any, /, *args: Any, **kwargs: Any) -> Any:
        with lock:
            if operation in (self.tier.get, getattr(self.tier, "look", None)):
                asked[self.name] += 1
            elif operation == getattr(self.tier, "get_many", None):
                asked[self.name] += len(args[0])
        return call(self, operation, *args, **kwargs)

    TierAccessor.call = counted  # type: ignore[method-assign]  # this process is a worker's alone
    return asked


def _account(parts: Parts, requests: int, asked: Counter[str]) -> list[str]:
    """Which of the figures do not add up to what was asked for."""
    figures = parts.cache.get_stats()
    expected = {"combined": requests, "memory": requests, "redis": asked["redis"], "file": asked["file"]}
    wrong = []
    for name, count in expected.items():
        one = figures[name]
        if name in ("redis", "file") and not HAS_GIL:
            continue  # threads of a free-threaded build may overwrite each other's counts: `model.counters`
        sums = one.requests, one.hits + one.misses + one.unavailable
        if name == "combined":
            sums = one.requests, one.requests
        if sums != (count, count):
            wrong.append(f"{name}: {count} lookups, {sums[0]} requests, of which {sums[1]} are explained")
    return wrong


def main(own: Assignment, pipe: Connection, loaded: bool) -> None:
    """`work` in a process of its own, which ends here whatever happens."""
    try:
        work(own, pipe, loaded)
    finally:
        os._exit(0)
