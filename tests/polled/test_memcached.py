"""The memcached tier: the suite of all tiers, that of servers without messages, and a full server."""

from __future__ import annotations

import itertools
import math
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Event, Thread
from typing import Any

import pytest
import traced
from memcached_server import MemcachedServer
from polled_servers import Hook, PolledServerTests, Server
from redis_server import free_port, wait_until
from tracing import at_line

from cachekit import IntelligentCache, MemcachedCache
from cachekit.errors import SerializationError, TierUnavailableError
from cachekit.testing import ManualClock, TierContract
from cachekit.tiers.base import ServerTier
from cachekit.tiers.lent_connections import LentConnections
from cachekit.tiers.memcached import connection as connection_module
from cachekit.tiers.memcached.store import _CONNECTIONS, MemcachedStore, _life
from cachekit.tiers.polled import PolledTier


@pytest.fixture(scope="module")
def server() -> Iterator[MemcachedServer]:
    with MemcachedServer() as started:
        yield started


class TestMemcachedTier(TierContract):
    lists_keys = False

    @pytest.fixture(autouse=True)
    def _place(self, server: MemcachedServer, prefix: str) -> None:
        self.servers, self.prefix = [server.address], prefix

    def make_tier(self, clock: ManualClock) -> MemcachedCache:
        return MemcachedCache(self.servers, self.prefix, timeout=60, clock=clock)

    def test_it_is_a_server_tier(self) -> None:
        with MemcachedCache(self.servers) as cache:
            assert isinstance(cache, ServerTier)


class TestTwoServers(TestMemcachedTier):
    @pytest.fixture(autouse=True)
    def _place(self, server: MemcachedServer, prefix: str) -> Iterator[None]:
        with MemcachedServer() as other:
            self.servers, self.prefix = [server.address, other.address], prefix
            yield


class TestMemcachedServer(PolledServerTests):
    too_large = "its option -I"

    @pytest.fixture(autouse=True)
    def _place(self, server: MemcachedServer) -> None:
        self.server = server

    def own_server(self) -> AbstractContextManager[Server]:
        return MemcachedServer()

    def make(self, prefix: str, server: Any = None, **options: Any) -> PolledTier:
        address = (self.server if server is None else server).address
        return MemcachedCache([address], prefix, **{"timeout": 60, **options})

    def lose(self, tier: PolledTier, name: str) -> None:
        with connected(self.server) as client:
            assert client.delete(name)

    @contextmanager
    def losing(self, prefix: str) -> Iterator[tuple[PolledTier, Callable[[Hook], None]]]:
        hooks: list[Hook] = []

        class Relay(StreamRequestHandler):
            def handle(inner) -> None:  # noqa: N805  # `self` is that of the tests
                with socket.create_connection(self.server.address) as behind:
                    while asked := inner.request.recv(1 << 16):
                        behind.sendall(asked)
                        answer = behind.recv(1 << 16)  # each is small, so it comes at once
                        if hooks and asked.startswith(b"set "):
                            hooks.pop()()
                            return
                        inner.request.sendall(answer)

        with serving(Relay) as address, MemcachedCache([address], prefix, timeout=60) as tier:
            yield tier, hooks.append

    def forge(self, tier: PolledTier, name: str, data: bytes) -> None:
        with connected(self.server) as client:
            client.set(name, data)


@contextmanager
def serving(handler: type[StreamRequestHandler]) -> Iterator[tuple[str, int]]:
    """A server of a test's own; its address."""
    with ThreadingTCPServer(("127.0.0.1", 0), handler) as other:
        other.daemon_threads = True
        thread = Thread(target=other.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield "127.0.0.1", other.server_address[1]
        finally:
            other.shutdown()
            thread.join()


@contextmanager
def connected(server: MemcachedServer) -> Iterator[Any]:
    """A client that waits for the answers to its writes."""
    from pymemcache.client.base import Client

    client = Client(server.address, default_noreply=False)
    try:
        yield client
    finally:
        client.close()


def test_wrong_arguments(subtests: pytest.Subtests) -> None:
    """Each is refused by name."""
    rows: list[tuple[dict[str, Any], str]] = [
        ({"servers": "host"}, "servers must be a list such as"),
        ({"servers": 5}, "servers must be a list such as"),
        ({"servers": []}, "servers must be a list such as"),
        ({"servers": [("h", 0)]}, "each of servers must be a tuple"),
        ({"servers": ["h:1"]}, "each of servers must be a tuple"),
        ({"servers": [("a..b", 1)]}, "must be a name that can be looked up, not 'a..b'"),
        ({"servers": [("x" * 70, 1)]}, "must be a name that can be looked up, not 'xxx"),
        ({"servers": [("h", 1), ("h", 1)]}, "servers must be different"),
        ({"key_prefix": ""}, "key_prefix must be 1 to 50 visible ASCII characters, not ''"),
        ({"key_prefix": "a b"}, "key_prefix must be"),
        ({"key_prefix": "x" * 51}, "key_prefix must be"),
        ({"key_prefix": 5}, "key_prefix must be a str"),
        ({"max_staleness": 0}, "max_staleness must be more than 0"),
        ({"timeout": 0}, "timeout must be more than 0"),
        ({"allow": int}, "allow must be a list of classes"),
        ({"secret": "short"}, "secret must be at least 16 bytes"),
    ]
    for arguments, words in rows:
        with subtests.test(words=words), pytest.raises((TypeError, ValueError), match=words):
            MemcachedCache(**arguments)


class Numbers:
    """A codec for numbers, of which an older version encodes no large ones."""

    name = "numbers"
    code = 200

    def __init__(self, most: float = math.inf) -> None:
        self._most = most

    def encode(self, value: Any) -> bytes:
        if value > self._most:
            raise SerializationError(f"the number must be at most {self._most}")
        return str(value).encode()

    def decode(self, payload: bytes | memoryview) -> Any:
        return int(bytes(payload))


def test_a_value_that_cannot_be_stored_again(server: MemcachedServer, prefix: str) -> None:
    """It can be read, and counts as an error where its life would be prolonged."""
    with (
        MemcachedCache([server.address], prefix, timeout=60, codec=Numbers()) as newer,
        MemcachedCache([server.address], prefix, timeout=60, codec=Numbers(10)) as older,
    ):
        newer.set_value("k", 10)
        assert older.touch("k", 60)
        newer.set_value("k", 11)
        assert older.get_value("k") == 11
        assert older.touch("k", 60) is False
        assert older.get_stats().errors == 1


def store_of(tier: PolledTier) -> MemcachedStore:
    assert isinstance(tier._store, MemcachedStore)
    return tier._store


def test_more_calls_than_connections(server: MemcachedServer, prefix: str) -> None:
    """They wait for a connection that another call gives back, and no longer than for an answer."""
    with MemcachedCache([server.address], prefix, timeout=60) as patient, ExitStack() as lent:
        patient.set_value("k", 1)
        pool = store_of(patient)._connected()[server.address]
        for _ in range(_CONNECTIONS - 1):
            lent.enter_context(pool.lent())
        with ThreadPoolExecutor(4) as threads:
            with pool.lent():
                waiting = [threads.submit(patient.get_value, "k") for _ in range(4)]
                wait_until(lambda: pool._waiting == 4, "they wait")
            assert [one.result() for one in waiting] == [1] * 4
    with MemcachedCache([server.address], prefix, timeout=0.01) as hasty, ExitStack() as lent:
        pool = store_of(hasty)._connected()[server.address]
        for _ in range(_CONNECTIONS):
            lent.enter_context(pool.lent())
        with pytest.raises(TierUnavailableError, match="all connections are in use"):
            hasty.get("k")


class Alarm(Exception):
    """A program's own."""


def strike(*_: object) -> None:
    raise Alarm


def test_interrupted_at_any_line(server: MemcachedServer, prefix: str) -> None:
    """No answer is left for the next call, and no connection is lost, but for one that was just taken."""
    with MemcachedCache([server.address], prefix, timeout=60) as tier:
        tier.set_value("a", "A")
        tier.set_value("b", "B")
        for number in itertools.count(1):
            try:
                struck = at_line(number, traced.MEMCACHED, strike, lambda: tier.get("a"))
            except Alarm:
                struck = True
            assert [tier.get_value(key) for key in "bab"] == ["B", "A", "B"], number
            if not struck:
                break
        assert number > 10


def test_a_write_returns_when_it_is_stored(prefix: str) -> None:
    """Each waits for its answer. Else a load that is in progress would be stored over it."""
    with MemcachedServer() as frozen:
        calls: list[Callable[[MemcachedStore], object]] = [
            lambda store: store.write("k", b"1", None),
            lambda store: store.add("k", b"1", None),
            lambda store: store.replace("k", b"1", None, b"1"),
        ]
        for call in calls:
            store = MemcachedStore([frozen.address], 0.1)
            with frozen.frozen(), pytest.raises(TierUnavailableError, match="timed out"):
                call(store)
            store.close()


@pytest.mark.parametrize("days", [29, 31, 400])
def test_long_lives(server: MemcachedServer, prefix: str, days: int) -> None:
    """A server takes more than 30 days for a date, which has passed."""
    with MemcachedCache([server.address], prefix, timeout=60) as tier:
        tier.set_value("k", 1, ttl=days * 86400)
        assert tier.get_value("k") == 1
        entry = tier.get("k")
        assert entry is not None
        assert entry.ttl == pytest.approx(days * 86400, abs=60)


def test_short_lives(server: MemcachedServer) -> None:
    """A server counts whole seconds, and 0 of them are no end."""
    assert [_life(seconds) for seconds in (None, 0.0, 0.2, 1.0, 1.2)] == [0, 1, 1, 1, 2]


def test_the_server_keeps_long_lives(server: MemcachedServer) -> None:
    """Those of up to 30 days as they are, and longer ones without an end: their end is in the data."""
    month = 30 * 86400
    assert [_life(seconds) for seconds in (month, month + 0.5, 400 * 86400)] == [month, 0, 0]


@pytest.mark.parametrize("answer", [b"VALUE x 0 100000 1\r\n", b"VALU"])
def test_an_answer_in_drops(answer: bytes, prefix: str) -> None:
    """A server that sends a byte now and then costs some timeouts, and not as many as it sends bytes."""
    over = Event()

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            name = self.rfile.readline().split()[1]
            with suppress(OSError):
                self.wfile.write(answer.replace(b"x", name))
                while not over.wait(0.05):
                    self.wfile.write(b"x")

    failed: list[Exception] = []

    def ask() -> None:
        try:
            tier.get("k")
        except TierUnavailableError as error:
            failed.append(error)

    with serving(Handler) as address, MemcachedCache([address], prefix, timeout=0.5) as tier:
        try:
            asking = Thread(target=ask, daemon=True)
            asking.start()
            asking.join(60)
            assert not asking.is_alive(), "it waits for ever"
            assert "the answer took too long" in str(failed[0])
        finally:
            over.set()


def test_an_answer_of_some_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each 4 MiB of an answer have a timeout of their own, and so has the next answer."""
    mine, other = socket.socketpair()
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(connection_module, "_PORTION", 4)
    with mine, other:
        line = connection_module.Line(mine, 1.0)
        for _ in range(2):
            line.sendall(b"?")
            other.sendall(b"x" * 12)
            for seconds in (0.0, 1.9, 0.9, 0.9):  # two timeouts to the end, and one more for each 4 bytes
                now[0] += seconds
                assert line.recv(3) == b"xxx"
            now[0] += 5
            with pytest.raises(TimeoutError, match="took too long"):
                line.recv(3)


def test_an_answer_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It fills no memory, however fast it comes."""
    mine, other = socket.socketpair()
    monkeypatch.setattr(connection_module, "_MOST", 100)
    with mine, other:
        line = connection_module.Line(mine, 60)
        for _ in range(2):
            line.sendall(b"?")
            other.sendall(b"x" * 101)
            assert line.recv(100) == b"x" * 100
            with pytest.raises(ConnectionError, match="more than 100 bytes"):
                line.recv(100)


class Unconnected:
    """A connection that leads nowhere."""

    def disconnect(self) -> None:
        pass


def test_callers_take_turns() -> None:
    """One that waits for a connection gets the next one, before others that come later."""
    pool = LentConnections(Unconnected, 1, 60)
    order: list[str] = []

    def borrow(name: str) -> None:
        with pool.lent():
            order.append(name)

    waiting, late = (Thread(target=borrow, args=(name,)) for name in ("waited", "late"))
    with pool._lock:  # the one that waits cannot go on before the end of this
        with pool.lent():
            pool._lock.release()
            waiting.start()
            wait_until(lambda: pool._waiting == 1, "it waits")
            pool._lock.acquire()
        late.start()
        late.join(0.2)
        assert order == []
    for thread in (waiting, late):
        thread.join()
    assert order == ["waited", "late"]


@pytest.mark.parametrize(
    "answer",
    [
        b"VALUE x\r\n", b"VALUE other 0 1 1\r\nx\r\nEND\r\n", b"VALUE other 0 many 1\r\nEND\r\n",
        b"\xff\xfe\r\n", b"\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"STAT x 1\r\nEND\r\n",
        b"ERROR\r\n", b"",
    ],
)  # fmt: skip
def test_what_is_no_answer(answer: bytes, prefix: str) -> None:
    """Another program at the address of a server is a server that failed."""

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(answer)

    with serving(Handler) as address, MemcachedCache([address], prefix, timeout=60) as tier:
        for call in (lambda: tier.get("k"), lambda: tier.set_value("k", 1), tier.ping, tier.clear):
            with suppress(TierUnavailableError):
                call()
        with pytest.raises(TierUnavailableError, match=r"memcached( at|;)"):
            tier.get("k")


def test_each_address_of_a_name(
    server: MemcachedServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One at which no server listens is no reason to try no other."""
    host, port = server.address
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, one)) for one in (free_port(), port)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with MemcachedCache([("memcached.internal", port)], prefix, timeout=60) as tier:
        tier.ping()


def test_a_server_that_does_not_evict(prefix: str) -> None:
    """It refuses writes once it is full. A refused one leaves no older value; invalidations still work."""
    with (
        MemcachedServer("-M", "-m", "4") as small,
        MemcachedCache([small.address], prefix, timeout=60, compression=None) as tier,
    ):
        keys = [f"a:{number}" for number in range(300)]

        def fill() -> None:
            for key in keys:
                tier.set_value(key, b"x" * 50_000, tags={"t"})

        with pytest.raises(TierUnavailableError, match="out of memory") as refused:
            fill()
        assert refused.value.full
        overwritten, deleted, tagged, cleared, *_ = [key for key in keys if tier.peek(key)]
        try:
            stored = tier.set_value(overwritten, b"y" * 50_000)
        except TierUnavailableError:
            stored = False
        assert tier.get_value(overwritten) == (b"y" * 50_000 if stored else None)
        assert tier.delete(deleted)
        assert tier.get(deleted) is None
        tier.invalidate_by_tags({"t"})
        assert tier.get(tagged) is None
        tier.clear()
        assert tier.get(cleared) is None
        with IntelligentCache(None, tier, file_cache=None, close_tiers=False) as cache:
            assert cache.get_or_set("large", lambda: b"z" * 50_000) == b"z" * 50_000


def test_a_full_server(prefix: str) -> None:
    """It evicts, tokens too; that costs hits alone."""
    with (
        MemcachedServer("-m", "8", "-I", "512k") as small,
        MemcachedCache([small.address], prefix, timeout=60, compression=None) as cache,
    ):
        for number in range(300):
            cache.set_value(f"a:{number}", str(number).encode() * 20_000, tags={f"t{number % 7}"})
            if number % 10 == 0:
                cache.invalidate_by_tags({"t3"})
                assert all(cache.get(f"a:{one}") is None for one in range(3, number + 1, 7)), (
                    "an invalidated value came back"
                )
        values = [cache.get_value(f"a:{number}") for number in range(300)]
        assert all(value in (None, str(number).encode() * 20_000) for number, value in enumerate(values))
