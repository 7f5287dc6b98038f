"""What it costs that a cache is watched, beside one that nothing watches; and what a scrape takes.

Hits and loads in two processes, asked in turn. Their caches have default options, each in a directory of its
own. One of them is watched by all that there is: a collector for Prometheus, instruments of OpenTelemetry, a
StatsD sender, and a reader in another process that asks for the figures of the host each second, as a page,
`cachekit top` or a scrape does. So the watched process publishes its figures each second.

Then a scrape of the host for 1, 8 and 64 processes, each of which publishes.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path

from harness import Question, Report, Round, Row, Target, options, seconds

from cachekit import FileCache, IntelligentCache
from cachekit.testing.processes import fork

LIBRARIES = ("cachekit-tiered", "prometheus-client", "opentelemetry-sdk")
WATCHED, ALONE = "everything watches", "nothing watches"
VALUE = {"id": 1, "name": "x" * 150}
KEYS = 1000
INTERVAL = 1.0
TITLES = {"hit": "hit in memory, files below", "load": "get_or_set that loads"}


def calls(cache: IntelligentCache) -> dict[str, Callable[[int], object]]:
    keys = [f"user:{number}" for number in range(KEYS)]
    for key in keys:
        cache.set(key, VALUE)
    new = count()

    def hit(operations: int) -> None:
        get = cache.get
        for _ in range(operations // KEYS):
            for key in keys:
                get(key)

    def load(operations: int) -> None:
        for _ in range(operations):
            cache.get_or_set(f"new:{next(new)}", lambda: VALUE)

    return {"hit": hit, "load": load}


def answer(connection: Connection, directory: Path, watched: bool) -> None:
    """Do what the parent asks for, and say how long it took."""
    cache = IntelligentCache(file_cache=FileCache(directory))
    if watched:
        watch(cache)
    work = calls(cache)
    while (asked := connection.recv()) is not None:
        name, operations = asked
        connection.send(seconds(partial(work[name], operations)))


def watch(cache: IntelligentCache) -> None:
    """Attach everything that can be attached in a process."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from prometheus_client import REGISTRY

    from cachekit.integrations.opentelemetry import CacheInstruments
    from cachekit.integrations.prometheus import CacheCollector
    from cachekit.integrations.statsd import StatsdSender

    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("127.0.0.1", 0))
    port = receiver.getsockname()[1]
    held = [
        receiver,
        StatsdSender({"main": cache}, f"127.0.0.1:{port}", interval=INTERVAL),
        CacheInstruments({"main": cache}, meter_provider=MeterProvider([InMemoryMetricReader()])),
    ]
    REGISTRY.register(CacheCollector({"main": cache}))
    atexit.register(held.clear)


def read_each_second(directory: Path) -> None:
    read = scrape(directory)
    while True:
        read()
        time.sleep(INTERVAL)


def scrape(directory: Path) -> Callable[[], object]:
    """Return a function that makes the answer to a scrape of all processes over a directory."""
    from prometheus_client import CollectorRegistry, generate_latest

    from cachekit.integrations.prometheus import CacheCollector

    registry = CollectorRegistry()
    registry.register(CacheCollector.of_host("main", directory))
    return partial(generate_latest, registry)


def new_directory() -> Path:
    path = Path(tempfile.mkdtemp(prefix="cachekit-bench-"))
    owner = os.getpid()
    atexit.register(lambda: shutil.rmtree(path, ignore_errors=True) if os.getpid() == owner else None)
    return path


def process(name: str, watched: bool, operations: int) -> Round:
    """Start a process with a cache, and return a round of calls in it."""
    context = multiprocessing.get_context("fork")
    directory = new_directory()
    mine, theirs = context.Pipe()
    context.Process(target=answer, args=(theirs, directory, watched), daemon=True).start()
    if watched:
        context.Process(target=read_each_second, args=(directory,), daemon=True).start()

    def ask() -> float:
        mine.send((name, operations))
        taken: float = mine.recv()
        return taken

    return ask


def publishing(processes: int) -> Round:
    """Start processes with a cache in one directory, and return a scrape of all of them."""
    directory = new_directory()
    ready, begun = os.pipe()
    go, gate = os.pipe()
    for _ in range(processes):
        if not fork():
            os.close(gate)
            with IntelligentCache(file_cache=FileCache(directory)) as cache:
                cache.get_or_set("k", lambda: VALUE)
                os.write(begun, b".")
                os.read(go, 1)  # returns when the parent ends
            os._exit(0)
    for _ in range(processes):
        os.read(ready, 1)
    read = scrape(directory)
    read()  # the first one waits until each process has published
    return partial(seconds, read)


def main() -> None:
    chosen = options(__doc__, rounds=25)
    operations = {"hit": 1000, "load": 50} if chosen.quick else {"hit": 50_000, "load": 2_000}
    report = Report(chosen, LIBRARIES)
    for name, title in TITLES.items():
        rows = [
            Row(label, partial(process, name, label == WATCHED, operations[name]), ours=label == WATCHED)
            for label in (WATCHED, ALONE)
        ]
        report.ask(Question(title, operations[name], rows))
    sizes = (1, 2) if chosen.quick else (1, 8, 64)
    rows = [Row(f"{size} processes", partial(publishing, size), ours=size == sizes[0]) for size in sizes]
    report.ask(Question("a scrape of the host", 1, rows, "ms", 1e-3))
    report.judge([Target(TITLES["hit"], WATCHED, ALONE, 1.03)])
    report.end()


if __name__ == "__main__":
    main()
