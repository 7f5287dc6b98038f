"""What may take long in the upkeep of one cache holds up the upkeep of no other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis_server import RedisServer, wait_until

from cachekit import FileCache, IntelligentCache, MemoryCache, RedisCache
from cachekit.health import Health
from cachekit.runtime.scheduler import Scheduler, scheduler
from cachekit.testing import FaultyTier
from cachekit.tiers.file.store import FileStore

#: The longest that the upkeep of one cache may wait for that of another one, in seconds.
LONGEST = 0.05


def upkeep_goes_on() -> None:
    """Return when the expired entry of another cache has been swept."""
    swept = threading.Event()
    with IntelligentCache(MemoryCache(cleanup_interval=0.01), None, None) as other:
        assert other.memory_cache is not None
        other.memory_cache.on_removal(lambda *_: swept.set())
        other.set("k", 1, ttl=0.001)
        assert swept.wait(30), "the upkeep of another cache waits"


def faulty(path: Path) -> tuple[IntelligentCache, FaultyTier]:
    tier = FaultyTier(FileCache(path, 16, cleanup_interval=None))
    return IntelligentCache(MemoryCache(), None, tier), tier  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["peek", "invalidate_by_pattern"])
def test_a_recovery_that_hangs(tmp_path: Path, method: str) -> None:
    """The probe itself, and what the tier had missed."""
    cache, tier = faulty(tmp_path)
    with cache:
        tier.fail()
        cache.set("k", 1)
        cache.invalidate_by_pattern("x")
        tier.mend()
        tier.hang(method)
        tier.wait_for_hanging()
        upkeep_goes_on()
        tier.mend()
        wait_until(lambda: cache.set("k", 1), "the tier is used again")


def test_a_listener_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`on_health_change` is a function of the user's."""
    monkeypatch.setattr("cachekit.health._INTERVAL", 0.01)
    called, go = threading.Event(), threading.Event()

    def listener(_: Health, __: Health) -> None:
        called.set()
        assert go.wait(60)

    tier = FaultyTier(FileCache(tmp_path, 16, cleanup_interval=None))
    with IntelligentCache(MemoryCache(), None, tier, on_health_change=listener) as cache:  # type: ignore[arg-type]
        tier.fail()
        cache.set("k", 1)
        assert called.wait(60)
        upkeep_goes_on()
        go.set()


def test_a_sweep_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of files, or of memory with a slow listener; and the sweep that hangs does not begin a second time."""
    go, begun = threading.Event(), []

    def sweep(_: FileStore) -> None:
        begun.append(1)
        assert go.wait(60)

    monkeypatch.setattr(FileStore, "sweep", sweep)
    slow = threading.Event()
    with FileCache(tmp_path, 16, cleanup_interval=0.01), MemoryCache(cleanup_interval=0.01) as memory:

        def listener(*_: object) -> None:
            slow.set()
            assert go.wait(60)

        memory.on_removal(listener)
        memory.set_value("k", 1, ttl=0.001)
        assert slow.wait(60)
        wait_until(lambda: begun, "the sweep has begun")
        upkeep_goes_on()
        assert begun == [1]
        go.set()


def test_without_a_thread_it_runs_in_that_of_upkeep(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Scheduler("test")
    ran: list[str] = []

    class Task:
        def run(self) -> None:
            ran.append(threading.current_thread().name)
            raise OSError("is logged")

    start = threading.Thread.start

    def no_start(self: threading.Thread) -> None:
        if self.name == "test" and threading.current_thread().name == "test":
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", no_start)
    task = Task()
    job = own.every(0.001, task.run, apart=True)
    wait_until(lambda: len(ran) > 1, "it runs again and again")
    job.cancel()
    assert set(ran) == {"test"}


# -- figures ------------------------------------------------------------------------------------------


class Delay:
    """The longest delay of a task of upkeep that is due every 5 ms."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._due = time.monotonic() + 0.005

    def tick(self) -> None:
        now = time.monotonic()
        self.longest = max(self.longest, now - self._due)
        self._due = now + 0.005


@contextmanager
def measured() -> Iterator[Delay]:
    delay = Delay()
    job = scheduler.every(0.005, delay.tick)
    try:
        yield delay
    finally:
        job.cancel()


def fill(server: RedisServer, count: int, *, own: bool) -> None:
    tier = RedisCache(url=server.url, timeout=60)
    with server.client() as client, IntelligentCache(None, tier, None) as cache:
        for begin in range(0, count, 5_000):
            values = {f"other:{number}": "x" for number in range(begin, begin + 5_000)}
            if own:
                assert cache.set_many(values)
            else:
                client.mset(values)


PATTERNS: dict[str, Callable[[int], str]] = {
    "plain": lambda number: f"user:{number}:.*",
    "groups": lambda number: f"user:({number}|x{number}):.*",
    "flags": lambda number: f"(?i)user:{number}:",
    "references": lambda number: rf"user:{number}:(.)\1",
}


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("whose", ["another program's", "the cache's"])
@pytest.mark.parametrize("kind", PATTERNS)
def test_a_backlog_of_patterns(
    server: RedisServer, kind: str, whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """90 of them over 300,000 keys are one scan, and hold up nothing."""
    fill(server, 300_000, own=whose == "the cache's")
    scans: list[Any] = []
    remove = RedisCache.invalidate_by_pattern

    def counted(self: RedisCache, pattern: Any) -> int:
        scans.append(pattern)
        return remove(self, pattern)

    monkeypatch.setattr(RedisCache, "invalidate_by_pattern", counted)
    with IntelligentCache(MemoryCache(), RedisCache(url=server.url), None) as cache, measured() as delay:
        cache.set("x", 1)
        with server.frozen():
            cache.set("w", 1)
            for number in range(90):
                cache.invalidate_by_pattern(PATTERNS[kind](number))
            scans.clear()
        begun = time.monotonic()
        before = delay.longest
        wait_until(lambda: cache.set("w", 2), "the tier is used again")
        print(
            f"90 patterns ({kind}) over 300,000 keys of {whose}: {len(scans)} scans, used again after "
            f"{time.monotonic() - begun:.2f} s; longest delay of upkeep {delay.longest * 1000:.1f} ms, "
            f"before the recovery {before * 1000:.1f} ms"
        )
    assert len(scans) <= 2  # the rest of what was missed is a second part
