"""Small sites under their usual server with two workers: over their framework's usual caches, and over ours.

    python -m benchmarks.sites          # a view that keeps its page in the cache of the framework
    python -m benchmarks.sites http     # caches of whole responses, in front of the views or around them

The columns: requests per second for a hot page by 16 clients, and its ratio to that of the row which the last
column names. The 99th percentile of their time. The loads, or calls of the view, of 200 requests for a cold
page that come at once. While Redis is stopped (SIGSTOP): how many of 100 requests for a page in the cache,
and of 100 for new pages, are answered within two seconds, and the 99th percentile of their time.

Each round starts each site anew, in turning order, with an empty directory and an empty server. Figures are
medians over rounds, and ratios are medians of those of one round. The clients take their part of the same
machine. The sites are in `site_apps.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any, NamedTuple

from benchmarks.harness import environment, options, print_table, say, start_server

LIBRARIES = (
    "cachekit-tiered", "Django", "Flask", "Flask-Caching", "dogpile.cache", "fastapi", "fastapi-cache2",
    "aiocache", "gunicorn", "uvicorn", "redis",
)  # fmt: skip
WORKERS = 2
CLIENTS = 16
STAMPEDE = 200
FROZEN = 200
PATIENCE = 2.0  #: of a client while Redis is stopped


class Site(NamedTuple):
    """A row of the table."""

    framework: str  #: the factory of `site_apps`
    backend: str
    beside: str = ""  #: the row that its requests per second are divided by
    needs: tuple[str, ...] = ()
    uses_redis: bool = False


SITES = [
    Site("django", "django locmem"),
    Site("django", "cachekit memory", "django locmem"),
    Site("django", "django files"),
    Site("django", "cachekit files", "django files"),
    Site("django", "cachekit files, one load for all processes", "django files"),
    Site("django", "django redis", uses_redis=True),
    Site("django", "cachekit redis", "django redis", uses_redis=True),
    Site("django", "cachekit redis and files", "django redis", uses_redis=True),
    Site("flask", "Flask-Caching files"),
    Site("flask", "cachekit files", "Flask-Caching files"),
    Site("flask", "cachekit files, get_or_set", "Flask-Caching files"),
    Site("flask", "Flask-Caching redis", uses_redis=True),
    Site("flask", "cachekit redis", "Flask-Caching redis", uses_redis=True),
    Site("flask", "cachekit redis, get_or_set", "Flask-Caching redis", uses_redis=True),
    Site("dogpile", "dogpile dbm"),
    Site("dogpile", "cachekit files", "dogpile dbm"),
    Site("dogpile", "dogpile redis", uses_redis=True),
    Site("dogpile", "cachekit redis", "dogpile redis", uses_redis=True),
    Site("fastapi", "fastapi-cache2 memory", needs=("fastapi_cache",)),
    Site("fastapi", "aiocache memory", needs=("aiocache",)),
    Site("fastapi", "cachekit memory", "aiocache memory"),
    Site("fastapi", "fastapi-cache2 redis", needs=("fastapi_cache",), uses_redis=True),
    Site("fastapi", "aiocache redis", needs=("aiocache",), uses_redis=True),
    Site("fastapi", "cachekit redis", "aiocache redis", uses_redis=True),
]

PAGES = [
    Site("fastapi", "no cache"),
    Site("fastapi", "fastapi-cache2 memory", "no cache", ("fastapi_cache",)),
    Site("fastapi", "cached_route memory", "no cache"),
    Site("fastapi", "ASGICache memory", "no cache"),
    Site("fastapi", "ASGICache files", "no cache"),
    Site("fastapi", "ASGICache redis", "no cache", uses_redis=True),
    Site("flask", "no cache"),
    Site("flask", "Flask-Caching simple, cached()", "no cache"),
    Site("flask", "WSGICache memory", "no cache"),
    Site("flask", "WSGICache files", "no cache"),
    Site("flask", "WSGICache redis", "no cache", uses_redis=True),
    Site("django", "no cache"),
    Site("django", "django locmem, cache middleware", "no cache"),
    Site("django", "django redis, cache middleware", "no cache", uses_redis=True),
    Site("django", "cachekit memory, cache middleware", "no cache"),
    Site("django", "WSGICache memory", "no cache"),
    Site("django", "WSGICache files", "no cache"),
    Site("django", "WSGICache redis", "no cache", uses_redis=True),
]


# -- clients --------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Client:
    """A connection that is kept, and the request that is under way on it."""

    port: int
    connection: socket.socket = field(init=False)
    begun: float = 0.0
    received: bytes = b""

    def __post_init__(self) -> None:
        self.connection = socket.create_connection(("127.0.0.1", self.port), 10)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, path: str) -> None:
        self.received = b""
        self.begun = perf_counter()
        self.connection.sendall(b"GET %s HTTP/1.1\r\nHost: site\r\n\r\n" % path.encode())

    def has_answer(self) -> bool:
        """Take what is there; return whether it is a whole response."""
        part = self.connection.recv(1 << 16)
        if not part:
            raise ConnectionError("the site closed a connection before it answered")
        self.received += part
        head, end, body = self.received.partition(b"\r\n\r\n")
        if not end:
            return False
        fields = head.lower()
        if b"chunked" in fields:
            return body.endswith(b"0\r\n\r\n")
        return len(body) >= int(fields.partition(b"content-length:")[2].partition(b"\r")[0])

    @property
    def is_good(self) -> bool:
        return self.received[9:12] == b"200"


class Answers(NamedTuple):
    """What became of some requests."""

    taken: list[float]  #: seconds of each request that was answered by a page
    seconds: float  #: of all of them
    failed: int


def ask(port: int, paths: Sequence[str], clients: int, patience: float = 60.0) -> Answers:
    """Ask for each path once, by so many clients at a time; a client that waits too long goes away."""
    waiting = list(reversed(paths))
    taken, failed = list[float](), 0
    begun = perf_counter()
    with selectors.DefaultSelector() as selector:
        opened = [Client(port) for _ in range(min(clients, len(paths)))]
        begun = perf_counter()
        for client in opened:
            client.ask(waiting.pop())
            selector.register(client.connection, selectors.EVENT_READ, client)
        asking = set(opened)
        while asking:
            ready = [key.data for key, _ in selector.select(0.1)]
            now = perf_counter()
            late = [one for one in asking if now - one.begun > patience and one not in ready]
            for client in ready + late:
                answered = False
                try:
                    if client not in late:
                        if not client.has_answer():
                            continue
                        answered = client.is_good
                except OSError:
                    pass
                if answered:
                    taken.append(perf_counter() - client.begun)
                else:
                    failed += 1
                    selector.unregister(client.connection)
                    client.connection.close()
                    asking.remove(client)
                    if waiting:
                        client = Client(port)
                        asking.add(client)
                        selector.register(client.connection, selectors.EVENT_READ, client)
                if client not in asking:
                    continue
                if waiting:
                    client.ask(waiting.pop())
                else:
                    asking.remove(client)
                    selector.unregister(client.connection)
                    client.connection.close()
    return Answers(taken, perf_counter() - begun, failed)


def p99(taken: Sequence[float]) -> float:
    return sorted(taken)[max(0, -(-len(taken) * 99 // 100) - 1)]


# -- servers --------------------------------------------------------------------------------------------


class Redis:
    """The server that the sites share, one after the other; started for the first that uses it."""

    @cached_property
    def url(self) -> str:
        return start_server()

    @cached_property
    def _connection(self) -> Any:
        return import_module("redis").Redis.from_url(self.url)

    @cached_property
    def _process(self) -> int:
        return int(self._connection.info("server")["process_id"])

    def empty(self) -> None:
        self._connection.flushall()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        process = self._process
        os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(process, signal.SIGCONT)


class Running:
    """A site with its workers."""

    def __init__(self, site: Site, redis_url: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="cachekit-site-"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        told = {"backend": site.backend, "directory": str(self.directory), "redis": redis_url}
        self._log = open(self.directory / "log", "wb")  # noqa: SIM115  # the server writes it
        self._process = subprocess.Popen(
            [sys.executable, "-m", *self._command(site.framework)],
            cwd=Path(__file__).resolve().parents[1],
            env=os.environ | {"SITE": json.dumps(told)},
            stdout=self._log, stderr=self._log,
        )  # fmt: skip

    def _command(self, factory: str) -> list[str]:
        app, workers = f"benchmarks.site_apps:{factory}", str(WORKERS)
        if factory == "fastapi":
            return [
                "uvicorn", "--factory", app, "--port", str(self.port), "--workers", workers,
                "--log-level", "error", "--no-access-log",
            ]  # fmt: skip
        return [
            "gunicorn", f"{app}()", "-b", f"127.0.0.1:{self.port}", "-w", workers,
            "-k", "gthread", "--threads", str(STAMPEDE), "--log-level", "error",
        ]  # fmt: skip

    def wait(self, path: str) -> None:
        """Return when the site has answered with a page."""
        deadline = monotonic() + 60
        while True:
            if self._process.poll() is not None:
                raise OSError(f"the site ended: {self.log}")
            try:
                answers = ask(self.port, [path], 1)
            except OSError as error:
                why = str(error)
            else:
                if answers.taken:
                    return
                raise OSError(f"{path} is no page of the site: {self.log}")
            if monotonic() > deadline:
                raise OSError(f"the site does not answer: {why}; {self.log}")
            sleep(0.05)  # between two attempts: a server does not tell when it listens

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()[-300:].strip()

    @property
    def loads(self) -> int:
        file = self.directory / "loads"
        return file.stat().st_size if file.exists() else 0

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        shutil.rmtree(self.directory, ignore_errors=True)


# -- what is measured ---------------------------------------------------------------------------------------


class Figures(NamedTuple):
    """One round of a site."""

    requests_per_second: float
    p99: float
    loads: int
    of_stampede: int  #: answered
    hot: Answers | None  #: while Redis was stopped
    cold: Answers | None


def measured(site: Site, redis: Redis, hot_path: str, cold_path: str, requests: int) -> Figures:
    for module in site.needs:
        if find_spec(module) is None:
            raise ModuleNotFoundError(module)
    if site.uses_redis:
        redis.empty()
    running = Running(site, redis.url if site.uses_redis else "")
    try:
        running.wait(f"{hot_path}/hot")
        ask(running.port, [f"{hot_path}/hot"] * (CLIENTS * 10), CLIENTS)  # all workers have it
        hot = ask(running.port, [f"{hot_path}/hot"] * requests, CLIENTS)
        if hot.failed:
            raise OSError(f"{hot.failed} of {requests} requests for a hot page failed")
        before = running.loads
        stampede = ask(running.port, [f"{cold_path}/cold"] * STAMPEDE, STAMPEDE)
        loads = running.loads - before
        frozen: list[Answers | None] = [None, None]
        if site.uses_redis:
            with redis.stopped():
                half = FROZEN // 2
                paths = [[f"{hot_path}/hot"] * half, [f"{hot_path}/new-{n}" for n in range(half)]]
                frozen = [ask(running.port, some, half // 2, PATIENCE) for some in paths]
        return Figures(len(hot.taken) / hot.seconds, p99(hot.taken), loads, len(stampede.taken), *frozen)
    finally:
        running.close()


def table(sites: Sequence[Site], chosen: argparse.Namespace) -> dict[str, list[Figures]]:
    redis = Redis()
    hot_path, cold_path = ("/rows", "/slow") if chosen.command == "http" else ("/page", "/page")
    requests = 200 if chosen.quick else 3000
    measurements: dict[Site, list[Figures]] = defaultdict(list)
    trouble: dict[Site, str] = {}
    for number in range(chosen.rounds):
        turn = number % len(sites)
        for site in [*sites[turn:], *sites[:turn]]:
            if site in trouble:
                continue
            say(f"round {number + 1} of {chosen.rounds}: {site.framework}, {site.backend}")
            try:
                measurements[site].append(measured(site, redis, hot_path, cold_path, requests))
            except ModuleNotFoundError:
                trouble[site] = "not installed"
            except OSError as error:
                trouble[site] = f"failed: {error}"
    say("")
    show(sites, measurements, trouble, chosen.command)
    return {f"{site.framework}, {site.backend}": found for site, found in measurements.items()}


def show(
    sites: Sequence[Site], measurements: dict[Site, list[Figures]], trouble: dict[Site, str], command: str
) -> None:
    counted = "calls of the view" if command == "http" else "loads"
    rows = [(
        "requests/s", "ratio", "p99 ms", f"{counted} of {STAMPEDE}", "frozen: hot", "p99 ms", "frozen: new",
        "p99 ms", "framework", "cache", "ratio to",
    )]  # fmt: skip
    by_name = {(site.framework, site.backend): site for site in sites}
    for site in sites:
        if site in trouble:
            rows.append(("-",) * 8 + (site.framework, f"{site.backend}: {trouble[site]}", site.beside))
            continue
        found = measurements[site]
        peers = measurements.get(by_name.get((site.framework, site.beside), site), [])
        ratios = [
            one.requests_per_second / other.requests_per_second
            for one, other in zip(found, peers, strict=False)
        ]
        lost = STAMPEDE - min(one.of_stampede for one in found)
        rows.append((
            f"{statistics.median(one.requests_per_second for one in found):,.0f}",
            f"{statistics.median(ratios):.2f}" if site.beside and ratios else "",
            f"{1000 * statistics.median(one.p99 for one in found):.1f}",
            f"{statistics.median(one.loads for one in found):.0f}" + (f" ({lost} failed)" if lost else ""),
            *frozen([one.hot for one in found]), *frozen([one.cold for one in found]),
            site.framework, site.backend, site.beside,
        ))  # fmt: skip
    print_table(rows, right=set(range(8)))


def frozen(answers: Sequence[Answers | None]) -> tuple[str, str]:
    """How many requests were answered while Redis was stopped, and how fast."""
    given = [one for one in answers if one is not None]
    if not given:
        return "", ""
    answered = statistics.median(len(one.taken) for one in given)
    tails = [p99(one.taken) for one in given if one.taken]
    return (
        f"{answered:.0f} of {FROZEN // 2}",
        f"{1000 * statistics.median(tails):,.0f}" if tails else "-",
    )


def add_command(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("command", nargs="?", choices=["backends", "http"], default="backends")
    parser.add_argument(
        "--only", metavar="TEXT", default="", help="rows whose framework or cache contains it"
    )


def main() -> int:
    chosen = options(__doc__, rounds=5, also=add_command)
    for name, value in environment(LIBRARIES).items():
        print(f"{name}: {value}")
    sites = SITES if chosen.command == "backends" else PAGES
    chosen_sites = [site for site in sites if chosen.only in f"{site.framework}, {site.backend}"]
    if not chosen_sites:
        print(f"--only: no row contains {chosen.only!r}", file=sys.stderr)
        return 2
    begun = monotonic()
    found = table(chosen_sites, chosen)
    print(f"{chosen.rounds} rounds, {monotonic() - begun:.0f} s")
    if chosen.json is not None:
        told = {name: [one._asdict() for one in figures] for name, figures in found.items()}
        Path(chosen.json).write_text(json.dumps(told, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
