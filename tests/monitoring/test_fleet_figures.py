"""The figures of all processes over a server, whichever of them ends, and how."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from falling_totals import Falling, loads
from redis_server import RedisServer, wait_until
from workers import Worker

from cachekit import IntelligentCache, MemoryCache, RedisCache, TierUnavailableError
from cachekit.cli import main
from cachekit.dashboard.board import board_of_reader
from cachekit.monitoring import fleet
from cachekit.monitoring.fleet import FleetReader
from cachekit.tiers.redis import figures_of
from cachekit.tiers.redis.key_layout import Layout

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture
def reader(make_cache: Callable[..., RedisCache]) -> FleetReader:
    return FleetReader(make_cache())


@pytest.fixture(autouse=True)
def sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes count as ended after three seconds of silence. A first read waits for this process alone."""
    monkeypatch.setattr(fleet, "_SILENT", 3.0)
    monkeypatch.setattr(fleet, "_FIRST", 0.0)


def test_totals_of_processes_that_end(redis_url: str, prefix: str, reader: FleetReader) -> None:
    """One is killed, one ends, one forks, one stands still. Each load counts once, and no total falls."""
    workers = [Worker(redis_url, f"worker{number}", prefix) for number in range(4)]
    for worker in workers:
        worker.do("load 10")
    watching = Falling(reader, 0.02)
    try:
        wait_until(lambda: loads(watching.last) == 40, "all have published")
        workers[0].kill()
        workers[1].do("load 7")
        workers[1].end()  # before its next look: it publishes at its end
        workers[2].do("fork 5")
        workers[3].stop()
        wait_until(lambda: watching.last.ended == 4, "four of five processes have ended, or seem so")
        assert loads(watching.last) == 52
        workers[3].go_on()
        workers[3].do("load 3")
        wait_until(lambda: loads(watching.last) == 55, "it begins another record, from its last one on")
        assert {one.pid for one in watching.last.processes} == {workers[2].pid, workers[3].pid}
    finally:
        watching.stop()
        workers[3].go_on()
        for worker in workers[2:]:
            worker.end()
    assert not watching.fallen
    last = reader.read()
    assert loads(last) == 55
    assert sum(last.counters[f"load.duration/{number}"] for number in range(15)) == 55


def test_nothing_is_written_while_no_reader_looks(
    make_cache: Callable[..., RedisCache], client: Any, prefix: str
) -> None:
    """A process asks whether a reader looks, and that is all."""
    wanted, records = Layout(prefix).figures()
    with IntelligentCache(MemoryCache(), make_cache(), None) as cache:
        cache.get_or_set("k", lambda: 1)
        cache._watches[1].look()
        assert client.exists(wanted, records) == 0
        FleetReader(make_cache()).begin()
        cache._watches[1].look()
        assert client.exists(wanted, records) == 2
        assert 0 < client.ttl(wanted) <= 120
        assert 0 < client.ttl(records) <= 86_400


def test_a_short_reader_ends_no_longer_one(
    make_cache: Callable[..., RedisCache], client: Any, prefix: str
) -> None:
    """The processes publish until the longest time that a reader has asked for."""
    wanted, _ = Layout(prefix).figures()
    FleetReader(make_cache(), seconds=100).begin()
    FleetReader(make_cache(), seconds=5).begin()
    assert client.ttl(wanted) > 90


def test_damaged_records_count_nothing(
    make_cache: Callable[..., RedisCache], client: Any, prefix: str, reader: FleetReader
) -> None:
    """Other programs may write there: what is no record, or no figure, is left out."""
    _, records = Layout(prefix).figures()
    now, _ = client.time()
    good = {"format": 1, "program": "p", "counters": {"loads/ok": 3, "loads/error": -1, "other": 5}}
    nan = good | {"counters": {"loads/ok": float("nan")}}
    client.hset(
        records,
        mapping={
            f"r:{'1' * 32}": f"{now}|1|{json.dumps(good)}",
            f"r:{'2' * 32}": f"{now}|1|" + "[" * 100_000,
            f"r:{'3' * 32}": json.dumps(good),
            f"r:{'4' * 32}": f"x|1|{json.dumps(good)}",
            f"r:{'5' * 32}": f"{now}|1|{json.dumps(nan)}",
            f"r:{'7' * 32}": f"{now}|1|{json.dumps(good)}" + " " * (1 << 18),
            f"r:{'8' * 32}": f"{now}|x|{json.dumps(good)}",
            "r:6": f"{now}|1|{json.dumps(good)}",
            "e:loads/ok": "4",
            "e:loads/error": "inf",
            "e:other": "7",
            "ended": "many",
        },
    )
    with IntelligentCache(MemoryCache(), make_cache(), None) as cache:
        figures = reader.read()
        assert loads(figures) == 7
        assert figures.counters["loads/error"] == figures.ended == 0
        assert "other" not in figures.counters
        assert {one.id for one in figures.processes} > {"1" * 32}
        assert cache.get("k") is None


def test_two_readers_add_a_record_once(
    make_cache: Callable[..., RedisCache], client: Any, prefix: str
) -> None:
    """Both have read it before one of them added it; a record that was replaced since is not added."""
    _, records = Layout(prefix).figures()
    client.hset(records, f"r:{'1' * 32}", "1|7|old")
    stores = [figures_of(make_cache()), figures_of(make_cache())]
    for store, found in [(store, store.read()) for store in stores if store is not None]:
        for process, record in found.records.items():
            store.fold(process, record._replace(stored=b"1|6|older"), {"loads/ok": 100.0})
            store.fold(process, record, {"loads/ok": 2.5})
    now, _ = client.time()
    stored = client.hgetall(records)
    assert int(now) - 60 <= int(stored.pop(f"f:{'1' * 32}".encode()).removesuffix(b"|7")) <= int(now)
    assert stored == {b"e:loads/ok": b"2.5", b"ended": b"1"}


def test_damaged_sums(make_cache: Callable[..., RedisCache], client: Any, prefix: str) -> None:
    """A record counts once all the same, and the sums go on from there."""
    _, records = Layout(prefix).figures()
    counters = {"loads/ok": 3, "loads/error": 4, "stale_served": 5, "reloaded": 6}
    damaged = {"e:loads/ok": "x", "e:loads/error": "nan", "e:stale_served": "-9", "e:reloaded": "1e300"}
    record = json.dumps({"format": 1, "counters": counters})
    client.hset(records, mapping={f"r:{'1' * 32}": f"1|1|{record}", "ended": "many", **damaged})
    for _ in range(3):
        figures = FleetReader(make_cache()).read()
        assert figures.counters == counters
        assert figures.ended == 1


def test_a_second_reader_waits_for_the_rest(
    make_cache: Callable[..., RedisCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until all processes have published for the first time, an earlier record of theirs looks abandoned."""
    monkeypatch.setattr(fleet, "_FIRST", 0.5)
    begun = time.monotonic()
    FleetReader(make_cache()).begin()
    FleetReader(make_cache()).read()
    assert time.monotonic() - begun >= 0.45
    FleetReader(make_cache()).read()
    assert time.monotonic() - begun < 30


def test_clear_leaves_the_figures(make_cache: Callable[..., RedisCache], reader: FleetReader) -> None:
    """They are no entries."""
    with IntelligentCache(MemoryCache(), make_cache(), None) as cache:
        cache.get_or_set("k", lambda: 1)
        assert loads(reader.read()) == 1
        cache.clear()
        assert loads(reader.read()) == 1
        assert list(cache.redis_cache.keys()) == []  # type: ignore[union-attr]  # it has one


def test_a_server_that_is_gone(server: RedisServer) -> None:
    """A cache goes on, and a reader says it."""
    with RedisCache(url=server.url) as tier, IntelligentCache(MemoryCache(), tier, None) as cache:
        reader = FleetReader(tier)
        cache.get_or_set("k", lambda: 1)
        assert loads(reader.read()) == 1
        with server.frozen():
            begun = time.monotonic()
            cache._watches[1].look()
            with pytest.raises(TierUnavailableError):
                reader.read()
            assert cache.get("k") == 1
            cache.close()
            assert time.monotonic() - begun < 3


def test_hosts_have_files_of_their_own(
    make_cache: Callable[..., RedisCache], client: Any, prefix: str, reader: FleetReader
) -> None:
    """What each host has alone is added; all hosts have the server in common."""
    _, records = Layout(prefix).figures()
    now, _ = client.time()
    for number, (host, memory, file, shared) in enumerate(
        [("a", 1, 10, 7), ("a", 2, 10, 8), ("b", 4, 30, 9)]
    ):
        gauges = {"size/memory": memory, "size/file": file, "size/redis": shared}
        record = {"format": 1, "host": host, "program": "shop", "started": number, "gauges": gauges}
        record["written"] = number
        client.hset(records, f"r:{number:032}", f"{now}|1|{json.dumps(record)}")
    figures = reader.read()
    assert figures.gauges == {"size/memory": 7, "size/file": 40, "size/redis": 9}
    assert figures.names() == ["shop on a", "shop on a", "shop on b"]


@pytest.fixture
def over_server(make_cache: Callable[..., RedisCache]) -> Iterator[IntelligentCache]:
    with IntelligentCache(MemoryCache(), make_cache(), None) as cache:
        for number in range(3):
            cache.get_or_set(f"k{number}", lambda: 1)
        yield cache


@pytest.mark.usefixtures("over_server")
def test_top(redis_url: str, prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It takes the URL of a server."""
    assert main(["top", redis_url, "--prefix", prefix, "--once"]) == 0
    said = capsys.readouterr().out
    assert f" {os.getpid()} " in said
    assert prefix in said


@pytest.mark.usefixtures("over_server")
def test_the_board_of_a_server(reader: FleetReader, prefix: str) -> None:
    """The dashboard has its processes, and says which server it shows."""
    board = board_of_reader(reader)
    assert prefix in board.place
    assert board.moment()["processes"][0]["pid"] == os.getpid()


@pytest.mark.usefixtures("over_server")
def test_a_collector_of_a_server(make_cache: Callable[..., RedisCache]) -> None:
    """A program exports the figures of the fleet by its tier."""
    pytest.importorskip("prometheus_client")
    from cachekit.integrations.prometheus import CacheCollector

    families = {family.name: family for family in CacheCollector.of_fleet("main", make_cache()).collect()}
    assert [one.value for one in families["cachekit_loads"].samples if one.labels["result"] == "ok"] == [3]
    with pytest.raises(TypeError, match="redis_cache must be a RedisCache"):
        CacheCollector.of_fleet("main", MemoryCache())  # type: ignore[arg-type]


@pytest.mark.usefixtures("over_server")
def test_metrics(redis_url: str, prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    """So does the command for Prometheus; the label is the prefix."""
    pytest.importorskip("prometheus_client")
    assert main(["metrics", redis_url, "--prefix", prefix]) == 0
    assert f'cachekit_loads_total{{cache="{prefix}",result="ok"}} 3.0' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["redis://:secret@host:port/0"], "the port of url must be a number"),
        (["--prefix", "shop:"], "--prefix names caches on a server"),
        (["redis://localhost:1"], "Redis"),
    ],
)
def test_what_cannot_be_read_is_said(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one sentence, without a password."""
    assert main(["top", "--once", *arguments]) == (1 if message == "Redis" else 2)
    said = capsys.readouterr().err
    assert message in said
    assert "secret" not in said
