"""The records of one process on a server: each count is in the totals once, whatever becomes of an answer."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis_server import RedisServer

from cachekit import IntelligentCache, MemoryCache, RedisCache, TierUnavailableError
from cachekit.monitoring import fleet, server_publishing
from cachekit.monitoring.fleet import FleetReader
from cachekit.monitoring.server_publishing import ServerPublisher
from cachekit.tiers.redis import figures_of
from cachekit.tiers.redis.figures import FigureStore, Publication
from cachekit.tiers.redis.key_layout import Layout

COUNTER = "loads/ok"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first read does not wait."""
    monkeypatch.setattr(fleet, "_FIRST", 0.0)


@pytest.fixture
def store(make_cache: Callable[..., RedisCache]) -> FigureStore:
    found = figures_of(make_cache())
    assert found is not None
    return found


class Server:
    """A server whose answers may be lost on their way, and which may get what was sent long ago."""

    def __init__(self, store: FigureStore, client: Any, prefix: str) -> None:
        self._store = store
        self._client = client
        _, self._hash = Layout(prefix).figures()
        self._late: list[Callable[[], object]] = []
        self.fate = ""

    def publish(
        self, process: str, number: int, record: bytes, *, begun: bytes, last: int, at_end: bool
    ) -> Publication:
        def arrive() -> Publication:
            return self._store.publish(process, number, record, begun=begun, last=last, at_end=at_end)

        if self.fate == "lost":
            raise TierUnavailableError("it did not arrive")
        if self.fate == "late":
            self._late.append(arrive)
            raise TierUnavailableError("it has not arrived yet")
        answer = arrive()
        if self.fate == "no answer":
            raise TierUnavailableError("the answer did not arrive")
        return answer

    def arrive(self) -> None:
        """What was late arrives, in any order."""
        random.shuffle(self._late)
        while self._late:
            self._late.pop()()

    def forget_marks(self) -> None:
        """As if they were too old."""
        marks = [field for field in self._client.hkeys(self._hash) if field.startswith(b"f:")]
        if marks:
            self._store.remove(marks)


@pytest.mark.parametrize("seed", range(40))
def test_each_count_is_there_once(
    make_cache: Callable[..., RedisCache],
    store: FigureStore,
    client: Any,
    prefix: str,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Readers take the process for ended at any time, and their totals never fall."""
    random.seed(seed)
    server: Any = Server(store, client, prefix)
    publisher, reader = ServerPublisher(), FleetReader(make_cache())
    count, total = 0, 0.0
    for _ in range(60):
        count += random.randrange(3)
        server.fate = random.choice(["", "", "lost", "late", "no answer"])
        publisher.publish(server, {COUNTER: count}, {}, at_end=False)
        if random.random() < 0.1:
            server.arrive()
        if random.random() < 0.3:
            monkeypatch.setattr(fleet, "_SILENT", random.choice([-1.0, 10.0]))
            now = reader.read().counters.get(COUNTER, 0)
            assert total <= now <= count
            total = now
    server.arrive()
    server.fate = ""
    publisher.publish(server, {COUNTER: count}, {}, at_end=False)
    assert reader.read().counters[COUNTER] == count
    monkeypatch.setattr(fleet, "_SILENT", -1.0)
    assert reader.read().counters[COUNTER] == count
    server.forget_marks()
    publisher.publish(server, {COUNTER: count + 1}, {}, at_end=False)
    assert reader.read().counters[COUNTER] == count + 1


def test_a_hash_that_is_lost(
    make_cache: Callable[..., RedisCache],
    store: FigureStore,
    client: Any,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a living process has counted since it began is all that is left, and it is there again."""
    publisher, reader = ServerPublisher(), FleetReader(make_cache())
    _, records = Layout(prefix).figures()
    for count in (3, 5):
        publisher.publish(store, {COUNTER: count}, {}, at_end=False)
        assert reader.read().counters[COUNTER] == count
        with monkeypatch.context() as silent:
            silent.setattr(fleet, "_SILENT", -1.0)
            reader.read()
        client.delete(records)
    publisher.publish(store, {COUNTER: 6}, {}, at_end=False)
    assert reader.read().counters[COUNTER] == 6


def test_marks_are_kept_for_an_hour(store: FigureStore, client: Any, prefix: str) -> None:
    """So those of processes that are started all the time stay few."""
    _, records = Layout(prefix).figures()
    now = int(client.time()[0])
    marks = {"f:old": f"{now - 3700}|1", "f:ahead": f"{now + 100}|1", "f:bad": "x", "f:new": f"{now}|1"}
    client.hset(records, mapping=marks)
    assert sorted(store.read().marks) == [b"f:ahead", b"f:bad", b"f:old"]


def test_a_reader_removes_old_marks(make_cache: Callable[..., RedisCache], client: Any, prefix: str) -> None:
    _, records = Layout(prefix).figures()
    client.hset(records, mapping={"f:old": "5|1", "f:older": "4|1"})
    FleetReader(make_cache()).read()
    assert client.hkeys(records) == []


def test_what_is_kept_without_answers_is_bounded(
    store: FigureStore, client: Any, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that refuses every record may do so for weeks."""
    monkeypatch.setattr(server_publishing, "_MOST_UNANSWERED", 4)
    server: Any = Server(store, client, prefix)
    publisher = ServerPublisher()
    server.fate = "no answer"
    for count in range(100):
        publisher.publish(server, {COUNTER: count}, {}, at_end=False)
    assert len(publisher._sent) == 5
    server.fate = ""
    for count in (100, 101):
        publisher.publish(server, {COUNTER: count}, {}, at_end=False)
    assert len(publisher._sent) == 1
    assert b'"loads/ok": 101' in next(iter(store.read().records.values())).content


def pausing(monkeypatch: pytest.MonkeyPatch, pause: Callable[[], object]) -> list[int]:
    """Every record is counted, and the first one pauses before it is sent."""
    sent: list[int] = []
    real = FigureStore.publish

    def publish(self: FigureStore, *record: Any, **options: Any) -> Publication:
        sent.append(os.getpid())
        if len(sent) == 1:
            pause()
        return real(self, *record, **options)

    monkeypatch.setattr(FigureStore, "publish", publish)
    return sent


@pytest.fixture
def cache(make_cache: Callable[..., RedisCache]) -> Iterator[IntelligentCache]:
    with IntelligentCache(MemoryCache(), make_cache(), None) as made:
        made.get_or_set("k", lambda: 1)
        FleetReader(make_cache()).begin()
        yield made


def test_a_handler_in_the_middle(cache: IntelligentCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not publish: what it counted later would be replaced by what is on its way."""
    watch = cache._watches[1]
    before = signal.signal(signal.SIGUSR1, lambda *_: watch.publish())
    try:
        sent = pausing(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGUSR1))
        watch.publish()
        assert len(sent) == 1
        watch.publish()
        assert len(sent) == 2
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_fork_in_the_middle(
    cache: IntelligentCache, make_cache: Callable[..., RedisCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock of a thread of the parent does not bind the child."""
    watch = cache._watches[1]
    is_there, goes_on = threading.Event(), threading.Event()

    def pause() -> None:
        is_there.set()
        assert goes_on.wait(60)

    sent = pausing(monkeypatch, pause)
    thread = threading.Thread(target=watch.publish)
    thread.start()
    try:
        assert is_there.wait(60)
        child = os.fork()
        if not child:
            status = 1
            try:
                cache.get_or_set("of the child", lambda: 1)
                watch.publish()
                status = 0 if sent[1:] == [os.getpid()] else 2
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert FleetReader(make_cache()).read().counters[COUNTER] == 1, "the parent waits, and has none there"
    finally:
        goes_on.set()
        thread.join()
    assert FleetReader(make_cache()).read().counters[COUNTER] == 2


def test_a_close_while_the_server_stands_still(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait until another thread has given up."""
    tier = RedisCache(url=server.url, timeout=5)
    cache = IntelligentCache(MemoryCache(), tier, None)
    FleetReader(tier).begin()
    is_there = threading.Event()
    pausing(monkeypatch, is_there.set)
    thread = threading.Thread(target=cache._watches[1].publish)
    with server.frozen():
        thread.start()
        assert is_there.wait(60)
        cache.close()
        assert thread.is_alive()
    thread.join()
    tier.close()


def test_one_database_is_one_place(redis_url: str, make_cache: Callable[..., RedisCache]) -> None:
    """However it is named. Another database, server or prefix is another place."""
    parts = redis.connection.parse_url(redis_url)  # type: ignore[no-untyped-call]
    host, port = parts["host"], parts["port"]

    def of(**options: Any) -> Any:
        found = figures_of(make_cache(**options))
        assert found is not None
        return found

    def client(**options: Any) -> redis.Redis:
        return redis.Redis(**{"host": host, "port": port} | options)

    same = [
        of(url=f"redis://{host}:{port}"),
        of(url=f"redis://user:secret@{host}:{port}/0?socket_timeout=3"),
        of(client=client()),
        of(client=client(socket_timeout=3)),
    ]
    others = [
        of(url=f"redis://{host}:{port}/1"),
        of(url=f"redis://{host}:{port}?db=2"),
        of(client=client(db=3)),
        of(client=client(port=port + 1)),
        of(key_prefix="other:"),
        of(url="unix:///tmp/a"),
        of(url="unix:///tmp/a?db=1"),
        of(client=redis.Redis(unix_socket_path="/tmp/b")),
        of(url="redis+sentinel://a,b/main"),
        of(url="redis+sentinel://a,b/main/1"),
        of(url="redis+sentinel://a,b/other"),
    ]
    assert len({one.identity for one in same}) == 1
    assert len({one.identity for one in [same[0], *others]}) == 1 + len(others)
    named = [one.place for one in others if "of a client" not in one.place]
    assert len(set(named)) == len(named)
    assert not any("secret" in one.place for one in [*same, *others])
