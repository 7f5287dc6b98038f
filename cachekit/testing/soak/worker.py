"""One process of a soak: it opens the cache, and works, compares and measures when its parent says so."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, NoReturn, TypeAlias, final

from cachekit import FileCache, IntelligentCache, LoadOptions, MemoryCache, RedisCache, aio
from cachekit.cache.default import core_of
from cachekit.model.events import REMOVALS
from cachekit.runtime.interrupts import raise_interrupt
from cachekit.testing.history_log import HistoryLog
from cachekit.testing.soak.stalls import NO_STALL, Stall, StallWatch, Stopwatch
from cachekit.testing.soak.steps import Immediate, Steps, finish, keys_of, level_below_memory

Kind: TypeAlias = Literal["memory", "files", "redis", "asyncio", "disk"]

_THREADS: Final = 2
_TASKS: Final = 6
_ABANDONED: Final = 3  # loads of a loop that is closed
_MOST_TRACEBACKS: Final = 3
_BEAT: Final = 0.005  # seconds between two looks at the loop
#: Seconds until copies in memory must be equal to the tier below. The listeners of a server clear their
#: memory if a confirmation is 5 s late.
_AGREEMENT: Final = 10.0
_RECOVERY: Final = 60.0  # seconds until a tier must be in use again; the longest pause between probes is 5


class Place(NamedTuple):
    """Where the cache is."""

    kind: Kind
    directory: str | None
    url: str | None
    prefix: str  #: of the keys on a server


class Order(NamedTuple):
    """What to do next: work on the keys of a round until a moment, or compare and measure."""

    task: Literal["work", "settle"]
    number: int
    until: float  #: on the monotonic clock, which all processes share
    logs: str


class Figures(NamedTuple):
    """What a process holds while it does nothing."""

    blocks: int  #: small objects of Python
    resident: int | None  #: bytes of memory that are no file's; None if the system does not say
    descriptors: int | None  #: each file of the cache that is there counts once, and so does not grow
    files: int  #: files of the cache that are open
    threads: int


class Report(NamedTuple):
    """What a process says after an order."""

    operations: int
    exceptions: int
    tracebacks: list[str]
    wrong: list[str]
    figures: Figures | None
    stall: Stall
    collection: float  #: seconds of the longest garbage collection
    loops: int  #: event loops that ended


def open_cache(place: Place) -> IntelligentCache:
    """Return the cache of a process."""
    return IntelligentCache(
        MemoryCache(max_size=1_000, cleanup_interval=0.5),
        None if place.url is None else RedisCache(url=place.url, key_prefix=place.prefix),
        None if place.directory is None else FileCache(place.directory, 64, cleanup_interval=0.5),
    )


def remember_removals(memory: MemoryCache) -> None:
    """Let memory remember as many removals as it ever does, or else a short run measures that as growth."""
    for number in range(REMOVALS):
        name = f"removed {number}"
        memory.set_value(name, number, 60.0, {name})
        memory.delete(name)


def run(place: Place, life: int, orders: Connection) -> NoReturn:
    """Follow orders until there are no more; for a forked process, which ends here."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends the others
        gc.freeze()  # what the parent holds is neither collected here nor counted
        with open_cache(place) as cache:
            if cache.memory_cache is not None:
                remember_removals(cache.memory_cache)
            worker = Worker(place, cache, life)
            while (order := _next(orders)) is not None:
                orders.send(worker.work(order) if order.task == "work" else worker.settle(order))
        status = 0
    except BaseException:  # noqa: BLE001  # the parent sees the status
        traceback.print_exc()
    finally:
        os._exit(status)


def _next(orders: Connection) -> Order | None:
    try:
        order: Order | None = orders.recv()
    except (EOFError, OSError):  # the parent has ended
        os._exit(1)
    return order


@final
class Worker:
    """The work of one process.

    Args:
        place: Where the cache is.
        cache: The cache.
        life: A number that no other process of the soak has.
    """

    def __init__(self, place: Place, cache: IntelligentCache, life: int) -> None:
        self._kind = place.kind
        self._directory = place.directory
        self._cache = cache
        self._life = life
        self._lock = threading.Lock()
        self._operations = self._exceptions = self._loops = 0
        self._tracebacks: list[str] = []

    def work(self, order: Order) -> Report:
        """Do mixed work until it is time."""
        self._operations = self._exceptions = self._loops = 0
        self._tracebacks = []
        watch = StallWatch()
        if self._kind == "asyncio":
            asyncio.run(self._run_tasks(order, watch))
            self._note_errors(lambda: self._abandon_loop(order))
            self._loops += 2
        else:
            threads = [
                threading.Thread(target=self._run_thread, args=(order, number, watch))
                for number in range(_THREADS)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        watch.close()
        return Report(
            self._operations, self._exceptions, self._tracebacks, [], None, watch.longest,
            watch.longest_collection, self._loops,
        )  # fmt: skip

    def settle(self, order: Order) -> Report:
        """Compare memory with the tier below, while no process works; then measure what is held."""
        wrong = [] if self._kind == "memory" else self._differences(keys_of(str(order.number)))
        if self._cache.memory_cache is not None:
            self._cache.memory_cache.clear()
        return Report(0, 0, [], wrong, figures(self._directory), NO_STALL, 0.0, 0)

    # -- work -----------------------------------------------------------------------------------------

    def _steps(self, order: Order, number: int, awaited: Any) -> tuple[Steps, HistoryLog]:
        log = HistoryLog(Path(order.logs, f"{self._life}-{number}"))
        # Nothing outlives the process in memory alone, so keys of its own.
        prefix = f"{order.number}:{self._life}" if self._kind == "memory" else f"{order.number}"
        name = f"{self._life}.{number}"
        return Steps(self._cache, awaited, log, prefix, name), log

    def _run_thread(self, order: Order, number: int, watch: StallWatch) -> None:
        steps, log = self._steps(order, number, Immediate(self._cache))
        stopwatch = watch.stopwatch()
        count = 0
        while time.monotonic() < order.until:
            name, step = steps.choose()
            stopwatch.begin(name)
            self._note_errors(lambda: finish(step))  # noqa: B023  # it is called here
            stopwatch.end()
            count += 1
        stopwatch.close()
        log.close()
        with self._lock:
            self._operations += count

    async def _run_tasks(self, order: Order, watch: StallWatch) -> None:
        loop, stopwatch = asyncio.get_running_loop(), watch.stopwatch()
        beat = _LoopWatch(loop, stopwatch)
        awaited = aio.IntelligentCache.of(self._cache)
        await asyncio.gather(*[self._run_task(order, number, awaited) for number in range(_TASKS)])
        beat.close()
        stopwatch.close()

    async def _run_task(self, order: Order, number: int, awaited: aio.IntelligentCache) -> None:
        steps, log = self._steps(order, number, awaited)
        while time.monotonic() < order.until:
            _, step = steps.choose()
            try:
                await step
            except Exception as error:  # noqa: BLE001  # as in _note_errors
                raise_interrupt(error)
                self._note()
            self._operations += 1
            await asyncio.sleep(0)  # a hit does not wait, and the other tasks come next
        log.close()

    def _abandon_loop(self, order: Order) -> None:
        """Close a loop with loads under way; the same loads in a thread, with a lease, do not wait."""
        options = LoadOptions(lease="process", lease_timeout=30)
        keys = [f"{order.number}:abandoned {self._life} {number}" for number in range(_ABANDONED)]
        _close_loop(aio.IntelligentCache.of(self._cache), keys, options)
        begun = time.monotonic()
        for key in keys:
            self._cache.get_or_set(key, lambda: 1, load=options)
        if time.monotonic() - begun > options.lease_timeout:
            raise TimeoutError("loads of a closed loop held up loads of the same keys")

    def _note_errors(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001  # whatever it is, no caller of a cache may get it
            raise_interrupt(error)
            self._note()

    def _note(self) -> None:
        with self._lock:
            self._exceptions += 1
            if len(self._tracebacks) < _MOST_TRACEBACKS:
                self._tracebacks.append(traceback.format_exc())

    # -- rest -----------------------------------------------------------------------------------------

    def _differences(self, keys: list[str]) -> list[str]:
        states = list(core_of(self._cache).tiers.states().values())
        deadline = time.monotonic() + _RECOVERY
        while any(state.is_out or state.pending for state in states):
            if time.monotonic() > deadline:
                return [f"a tier is out or has not caught up {_RECOVERY:g} s after the work ended"]
            time.sleep(0.01)  # between two looks
        level = level_below_memory(self._cache)
        deadline = time.monotonic() + _AGREEMENT
        while True:
            above = {key: self._cache.get(key) for key in keys}
            below = {key: self._cache.get(key, cache_level=level) for key in keys}
            differing = [key for key in keys if above[key] != below[key]]
            if not differing or time.monotonic() > deadline:
                return [f"{key!r}: memory differs from the tier below" for key in differing]
            time.sleep(0.01)  # between two looks


def _close_loop(cache: aio.IntelligentCache, keys: list[str], options: LoadOptions) -> None:
    """Begin loads on a new loop, and close it when they are under way."""

    async def begin() -> None:
        begun: asyncio.Queue[None] = asyncio.Queue()

        async def load() -> None:
            begun.put_nowait(None)
            await asyncio.Event().wait()

        for key in keys:
            tasks.append(loop.create_task(cache.get_or_set(key, load, load=options)))
        for _ in keys:
            await begun.get()

    loop, tasks = asyncio.new_event_loop(), list[Any]()
    loop.set_exception_handler(lambda *_: None)  # it hears of each task that is left
    loop.run_until_complete(begin())
    loop.close()


@final
class _LoopWatch:
    """Measures how late an event loop calls what is due: as long as its longest step took."""

    def __init__(self, loop: asyncio.AbstractEventLoop, stopwatch: Stopwatch) -> None:
        self._loop = loop
        self._stopwatch = stopwatch
        self._timer = loop.call_soon(self._beat)

    def _beat(self) -> None:
        self._stopwatch.end()
        self._timer = self._loop.call_later(_BEAT, self._beat)
        self._stopwatch.begin(f"a step of the event loop (and {_BEAT * 1000:g} ms)")

    def close(self) -> None:
        self._timer.cancel()


def figures(directory: str | None) -> Figures:
    """Measure what this process holds, beside the files of the cache in a directory."""
    for _ in range(3):
        gc.collect()
    descriptors, files = _descriptors(directory)
    return Figures(
        sys.getallocatedblocks(), resident_bytes("self"), descriptors, files, threading.active_count()
    )


def _descriptors(directory: str | None) -> tuple[int | None, int]:
    """Return how many descriptors this process has besides one for each file of the cache, and these."""
    try:
        found = os.listdir("/proc/self/fd")
    except OSError:
        return None, 0
    targets = []
    for descriptor in found:
        try:
            targets.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:  # it was that of the listing
            pass
    begin = None if directory is None else os.path.realpath(directory) + os.sep
    files = {one for one in targets if begin is not None and one.startswith(begin) and os.path.exists(one)}
    return len(targets) - len(files), len(files)


def resident_bytes(process: int | str, field: str = "RssAnon") -> int | None:
    """Return the memory of a process that is no file's, in bytes; None if the system does not say."""
    try:
        with open(f"/proc/{process}/status", encoding="ascii") as file:
            found = [line for line in file if line.startswith(field + ":")]
    except OSError:
        return None
    return int(found[0].split()[1]) * 1024 if found else None
