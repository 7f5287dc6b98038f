"""StatsD gets differences, in datagrams that are not split."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator

import pytest
from forking import in_fork

from cachekit import IntelligentCache, MemoryCache
from cachekit.integrations.statsd import StatsdSender


class Server:
    """Receives datagrams."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.2)
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.datagrams: list[bytes] = []

    def received(self) -> list[str]:
        """Return the lines that have come since the last call; they are here when `flush` returns."""
        lines: list[str] = []
        self._socket.setblocking(False)
        while True:
            try:
                datagram = self._socket.recv(65536)
            except BlockingIOError:
                return lines
            self.datagrams.append(datagram)
            lines += datagram.decode().split("\n")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def cache() -> Iterator[IntelligentCache]:
    with IntelligentCache(MemoryCache(), file_cache=None) as cache:
        yield cache


def counts(lines: list[str]) -> dict[str, float]:
    found = [re.fullmatch(r"(\S+):(\S+)\|c", line) for line in lines]
    return {match[1]: float(match[2]) for match in found if match is not None}


def test_differences(server: Server, cache: IntelligentCache) -> None:
    """A counter is sent as what was counted since, a gauge as it is, and each load once."""
    with StatsdSender({"ma in": cache}, server.address, interval=1000) as sender:
        for number in range(4):
            cache.get_or_set(f"k{number}", lambda: 1)
        sender.flush()
        lines = server.received()
        assert counts(lines)["cachekit.ma_in.requests.miss"] == 4
        assert "cachekit.ma_in.entries.memory:4|g" in lines
        timers = [line for line in lines if line.startswith("cachekit.ma_in.load.duration:")]
        assert sum(round(1 / float(line.rpartition("@")[2])) for line in timers) == 4
        cache.get("k1")
        sender.flush()
        lines = server.received()
        assert counts(lines) == {
            "cachekit.ma_in.requests.hit": 1,
            "cachekit.ma_in.lookups.memory.hit": 1,
        }
        cache.get("k1")
    assert counts(server.received())["cachekit.ma_in.requests.hit"] == 1  # sent by close
    assert max(map(len, server.datagrams)) <= 1432


def test_tags_of_datadog(server: Server, cache: IntelligentCache) -> None:
    with StatsdSender({"main": cache}, server.address, prefix="shop", tags="datadog") as sender:
        cache.get("k")
        sender.flush()
        lines = server.received()
    assert "shop.lookups:1|c|#cache:main,tier:memory,result:miss" in lines
    assert "shop.entries:0|g|#cache:main,tier:memory" in lines


def test_many_figures_take_several_datagrams(server: Server, cache: IntelligentCache) -> None:
    with StatsdSender({f"{number:0100}": cache for number in range(20)}, server.address) as sender:
        cache.get("k")
        sender.flush()
    assert len(counts(server.received())) == 40
    assert len(server.datagrams) > 3
    assert max(map(len, server.datagrams)) <= 1432


def test_a_server_that_is_not_there(cache: IntelligentCache, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is raised or logged, also if the host is unknown."""
    gone = Server()
    gone.close()
    for address in (gone.address, "no-such-host.invalid:8125"):
        with StatsdSender({"main": cache}, address) as sender:
            for _ in range(3):
                cache.get("k")
                sender.flush()
    assert not caplog.records


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_sends_its_own_counts(server: Server, cache: IntelligentCache) -> None:
    with StatsdSender({"main": cache}, server.address, interval=1000) as sender:
        for _ in range(5):
            cache.get("k")

        def child() -> None:
            cache.get("k")
            sender.flush()

        assert in_fork(child)() == 0
        assert counts(server.received())["cachekit.main.requests.miss"] == 1
        sender.flush()
        assert counts(server.received())["cachekit.main.requests.miss"] == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"address": "localhost"}, "host:port"),
        ({"address": "localhost:0"}, "host:port"),
        ({"address": 8125}, "host:port"),
        ({"prefix": "a b"}, "prefix"),
        ({"prefix": ""}, "prefix"),
        ({"tags": "prometheus"}, "tags"),
        ({"interval": 0}, "interval"),
        ({"interval": float("nan")}, "interval"),
    ],
)
def test_wrong_arguments(cache: IntelligentCache, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StatsdSender({"main": cache}, **arguments)  # type: ignore[arg-type]
