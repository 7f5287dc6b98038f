"""Ends of caches close what they opened; many, whose servers do not answer, take one deadline together."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Any

import inside
import pytest
import redis
from bus_notes import Notes
from racing import in_thread
from redis_server import RedisServer, wait_until

from cachekit import IntelligentCache, MemoryCache, RedisCache, TierUnavailableError
from cachekit.tiers.redis.bus_protocol import Outbox
from cachekit.tiers.redis.end_budget import EndBudget, end_budget

#: Seconds: 20 caches took 10.
DEADLINE = 5.0

_PROGRAM = """
import os, signal, sys, time
from cachekit import IntelligentCache, MemoryCache, RedisCache

url, count, server = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
caches = [IntelligentCache(MemoryCache(), RedisCache(url=url), None) for _ in range(count)]
for number, cache in enumerate(caches):
    assert cache.set(f"k{number}", 1)
os.kill(server, signal.SIGSTOP)
print(time.monotonic())
"""


@pytest.fixture(autouse=True)
def full_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever other tests have spent."""
    monkeypatch.setattr(end_budget, "_spent_at", -math.inf)


def opened(url: str, count: int, **options: Any) -> list[IntelligentCache]:
    """Caches that have each something to confirm."""
    caches = [IntelligentCache(MemoryCache(), RedisCache(url=url, **options), None) for _ in range(count)]
    for number, cache in enumerate(caches):
        assert cache.set(f"k{number}", 1)
    return caches


def close_while_frozen(server: RedisServer, count: int) -> float:
    caches = opened(server.url, count)
    with server.frozen():
        begun = time.monotonic()
        for cache in caches:
            cache.close()
        return time.monotonic() - begun


def exit_while_frozen(server: RedisServer, count: int) -> float:
    assert server._process is not None
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, server.url, str(count), str(server._process.pid)],
        capture_output=True,
        text=True,
        timeout=200,
    )
    took = time.monotonic() - float(done.stdout)
    server.signal(signal.SIGCONT)
    assert done.returncode == 0, done.stderr
    return took


def test_closing_many(server: RedisServer) -> None:
    assert close_while_frozen(server, 20) < DEADLINE


def test_exit_with_many(server: RedisServer) -> None:
    assert exit_while_frozen(server, 20) < DEADLINE


def test_a_patient_client_ends_as_soon(server: RedisServer) -> None:
    """A `timeout` of the user's is for calls, not for ends."""
    caches = opened(server.url, 2, timeout=60)
    with server.frozen():
        begun = time.monotonic()
        for cache in caches:
            cache.close()
        assert time.monotonic() - begun < DEADLINE


@pytest.mark.soak
@pytest.mark.parametrize("count", [1, 20, 100])
def test_how_long_ends_take(server: RedisServer, count: int) -> None:
    closing, exiting = close_while_frozen(server, count), exit_while_frozen(server, count)
    print(f"{count} caches of a server that does not answer: close {closing:.2f} s, exit {exiting:.2f} s")
    assert closing < DEADLINE
    assert exiting < DEADLINE


def test_a_server_that_answers_is_told_all_the_same(
    server: RedisServer, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one that does not: it has the last confirmation of each cache."""
    confirmed: list[int] = []
    confirm = Outbox.confirm

    def noted(self: Outbox, number: int) -> None:
        confirmed.append(number)
        confirm(self, number)

    dead, alive = opened(server.url, 10), opened(redis_url, 10)
    with server.frozen():
        for cache in dead:
            cache.close()
        monkeypatch.setattr(Outbox, "confirm", noted)
        for cache in alive:
            assert cache.set("more", 1)
            cache.close()
    assert len(confirmed) >= 10


def test_the_threads_end(server: RedisServer) -> None:
    """Those that listen end at once when the server answers, and soon when it does not."""
    caches = opened(server.url, 5)
    threads = []
    for cache in caches:
        assert isinstance(cache.redis_cache, RedisCache)
        bus = cache.redis_cache._store.bus
        wait_until(lambda: bus._readers[0].is_connected, "the bus listens")  # noqa: B023
        threads += bus.readers()
    assert len(threads) == 5
    with server.frozen():
        for cache in caches:
            cache.close()
        wait_until(lambda: not any(thread.is_alive() for thread in threads), "all threads have ended")


def test_a_budget_is_shared_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    budget = EndBudget()
    spent = 0.0
    for _ in range(100):
        share = budget.share("one")
        assert share > 0
        spent += share
        budget.spend("one", share)
    assert spent < 0.5
    assert budget.share("another") > 0.1
    for number in range(100):
        share = budget.share(f"server {number}")
        spent += share
        budget.spend(f"server {number}", share)
    assert spent < 1.0
    now[0] += 6
    assert budget.share("one") > 0.3


@pytest.mark.parametrize("answer", ["value", "error"])
@pytest.mark.parametrize("where", ["single", "cluster"])
def test_close_leaves_no_connection_open(
    where: str, answer: str, request: pytest.FixtureRequest, prefix: str
) -> None:
    """Not one that a call uses at that moment either, whatever its answer; and without the collector."""
    if where == "single":
        nodes = [("127.0.0.1", request.getfixturevalue("server").port)]
        cache = RedisCache(*nodes[0], key_prefix=prefix, timeout=60)
    else:
        nodes = request.getfixturevalue("cluster_nodes")
        cache = RedisCache.cluster(nodes, prefix, timeout=60)
    with ExitStack() as stack:
        clients: list[Any] = [stack.enter_context(redis.Redis(*node)) for node in nodes]

        def connected() -> set[tuple[int, str]]:
            return {(at, one["id"]) for at, client in enumerate(clients) for one in client.client_list()}

        def waiting() -> list[tuple[Any, str]]:
            return [(client, one["id"]) for client in clients for one in client.client_list("normal")
                    if one["cmd"] == "blpop"]  # fmt: skip

        before = connected()
        cache.subscribe(Notes())
        for number in range(20):  # on each node
            cache.set_value(f"k{number}", number)
        finish = in_thread(lambda: inside.server(cache).call(bool, "BLPOP", f"{prefix}list", 0))
        wait_until(waiting, "a call waits for its answer")
        opened = inside.server(cache)._opened  # held, or its connections would end with it
        cache.close()
        ((client, blocked),) = waiting()
        if answer == "value":
            client.rpush(f"{prefix}list", "value")
            assert finish()[1] == b"value"
        else:
            client.client_unblock(blocked, error=True)
            with pytest.raises(TierUnavailableError, match="refused BLPOP"):
                finish()
        wait_until(lambda: connected() <= before, "all connections are closed", patience=20)
        assert opened is not None
