"""A server may say anything: no answer but a right one has an effect, and no call fails other than it may."""

from __future__ import annotations

import asyncio
import itertools
import os
import queue
import socket
import time
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import inside
import pytest
import redis
from bus_notes import Notes
from lying_server import Lie, LyingServer
from redis._parsers import _HiredisParser, _RESP2Parser
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis_server import wait_until

import cachekit.aio
from cachekit import CacheEntry, IntelligentCache, MemoryCache, RedisCache, TierUnavailableError
from cachekit.model.validation import LONGEST, MOST_TAGS
from cachekit.serialization.serializer import Serializer
from cachekit.tiers.redis.answers import is_slots
from cachekit.tiers.redis.connection_pool import ConnectionPool
from cachekit.tiers.redis.line import MOST_RECEIVED, PORTION
from cachekit.tiers.redis.resp import LARGEST, Replies

pytestmark = pytest.mark.usefixtures("few_buckets")

ANSWERS: dict[str, bytes] = {
    "integer": b":5\r\n",
    "negative": b":-3\r\n",
    "status": b"+OK\r\n",
    "text": b"$3\r\nabc\r\n",
    "no text": b"$-1\r\n",
    "null": b"_\r\n",
    "empty array": b"*0\r\n",
    "no array": b"*-1\r\n",
    "array of three": b"*3\r\n:1\r\n:2\r\n:3\r\n",
    "array of nothing": b"*2\r\n$-1\r\n$-1\r\n",
    "array of errors": b"*2\r\n-ERR a\r\n-ERR b\r\n",
    "scan without an end": b"*2\r\n$1\r\n7\r\n*0\r\n",
    "scan of numbers": b"*2\r\n$1\r\n0\r\n*1\r\n:5\r\n",
    "scan from a word": b"*2\r\n$3\r\nabc\r\n*0\r\n",
    "map": b"%1\r\n+a\r\n+b\r\n",
    "map with a list for a key": b"%1\r\n*1\r\n+a\r\n+b\r\n",
    "set": b"~1\r\n*1\r\n+a\r\n",
    "double": b",1.5\r\n",
    "not a number": b",nan\r\n",
    "truth": b"#t\r\n",
    "verbatim": b"=7\r\ntxt:abc\r\n",
    "attribute": b"|1\r\n+a\r\n+b\r\n:1\r\n",
    "big number": b"(" + b"9" * 5000 + b"\r\n",
    "number of 5000 digits": b":" + b"9" * 5000 + b"\r\n",
    "number with a sign": b":+1_0\r\n",
    "no number": b":abc\r\n",
    "no length": b"$abc\r\n",
    "length below zero": b"$-7\r\nabc\r\n",
    "array below zero": b"*-7\r\n",
    "too short": b"$2\r\nabc\r\n",
    "two answers": b"$3\r\nabc\r\n$3\r\nabc\r\n",
    "push": b">2\r\n+message\r\n+x\r\n",
    "push before": b">3\r\n+message\r\n+x\r\n+y\r\n$3\r\nabc\r\n",
    "empty line": b"\r\n",
    "unknown kind": b"@5\r\n",
    "not of the protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "no utf-8": b"+\xff\xfe\r\n",
    "deep": b"*1\r\n" * 2000,
    "error": b"-ERR what\r\n",
    "error without a word": b"-\r\n",
    "error with an odd word": b"-\xff\xfe odd\r\n",
    "MOVED without an address": b"-MOVED\r\n",
    "MOVED to nowhere": b"-MOVED x y\r\n",
    "ASK without an address": b"-ASK\r\n",
    "LOADING": b"-LOADING wait\r\n",
    "NOSCRIPT": b"-NOSCRIPT none\r\n",
    "WRONGTYPE": b"-WRONGTYPE other\r\n",
    "READONLY": b"-READONLY replica\r\n",
    "OOM": b"-OOM full\r\n",
    "error of many bytes": b"!9\r\nERR whats\r\n",
    "array of unknown length": b"*?\r\n:1\r\n.\r\n",
    "text of unknown length": b"$?\r\n;3\r\nabc\r\n;0\r\n",
    "map below zero": b"%-1\r\n",
    "deep maps": b"%1\r\n+a\r\n" * 2000,
    "number beyond 64 bits": b":99999999999999999999\r\n",
    "largest number": b":9223372036854775807\r\n",
    "length of twenty digits": b"$99999999999999999999\r\n",
    "length with a sign": b"$+3\r\nabc\r\n",
    "length with a zero": b"$003\r\nabc\r\n",
    "spaces in a number": b": 1 \r\n",
    "zero bytes": bytes(5) + b"\r\n",
    "TRYAGAIN": b"-TRYAGAIN later\r\n",
    "CLUSTERDOWN": b"-CLUSTERDOWN down\r\n",
    "NOAUTH": b"-NOAUTH first\r\n",
    "slots of others": b"*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$9\r\n127.0.0.1\r\n:1\r\n$4\r\nnode\r\n",
    "slots without an end": b"*1\r\n*3\r\n:0\r\n:99999999999\r\n*2\r\n$9\r\n127.0.0.1\r\n:1\r\n",
}
#: Those of the suite; the others are like one of these.
FEW = (
    "integer", "text", "null", "empty array", "array of three", "scan without an end", "push", "deep",
    "map with a list for a key", "number of 5000 digits", "two answers", "error with an odd word",
    "MOVED without an address", "NOSCRIPT",
)  # fmt: skip
#: For the driver a message to subscribers is no answer, and it waits for one.
OF_THE_DRIVER = tuple(name for name in ANSWERS if name not in ("push", "attribute"))
#: What a connection, or a client of a Cluster, says first.
OPENING = (
    "HELLO", "CLIENT SETINFO", "CLIENT MAINT_NOTIFICATIONS", "SELECT", "AUTH", "CLUSTER SLOTS", "COMMAND",
)  # fmt: skip


#: Operations that are also the first call of a cache: one for each way in which a command is sent.
FIRST = ("get", "get_many", "keys", "ping")
#: Servers that lie at the same time, in the table of all answers.
SIDE_BY_SIDE = 8


def operations(cache: Any) -> dict[str, Callable[[], object]]:
    entry, bare = CacheEntry("k", 1, tags={"t"}), CacheEntry("k", 1)
    lasting = CacheEntry("k", 1, tags={"t"}, ttl=None)

    def origin() -> Any:
        return cache.successor(frozenset({"t"}))

    def put_many() -> None:
        origins = dict.fromkeys(("k", "l"), origin())
        cache.put_many({"k": bare, "l": CacheEntry("l", 1)}, origins)

    def lease() -> None:
        with_lease = cache.lease("k", 30)
        if with_lease is not None:
            with_lease.is_held()
            with_lease.release()

    return {
        "get": lambda: cache.get("k"),
        "get_many": lambda: cache.get_many(["k", "l"]),
        "contains": lambda: "k" in cache,
        "set": lambda: cache.set("k", entry),
        "set without an end": lambda: cache.set("k", lasting),
        "put_many": put_many,
        "put if": lambda: cache.put("k", bare, origin(), expect=cache.origin("k")),
        "add": lambda: cache.add("k", entry, origin()),
        "create": lambda: cache.create("k", entry, origin()),
        "touch": lambda: cache.touch("k"),
        "delete": lambda: cache.delete("k"),
        "remove_many": lambda: cache.remove_many(["k", "l"]),
        "fence": lambda: cache.fence("k").is_current(),
        "invalidate_by_tags": lambda: cache.invalidate_by_tags({"t"}),
        "invalidate_by_pattern": lambda: cache.invalidate_by_pattern("k"),
        "clear": lambda: cache.clear(),
        "renew": lambda: cache.renew(),
        "keys": lambda: cache.keys(),
        "size": lambda: cache.size(),
        "memory_usage": lambda: cache.memory_usage(),
        "ping": lambda: cache.ping(),
        "lease": lease,
    }


def disconnect(cache: RedisCache) -> None:
    """Close its connections, so that it makes new ones."""
    opened = inside.server(cache)._open()
    if isinstance(opened, ConnectionPool):
        for connection in opened._free:
            connection.disconnect()
    else:
        for pool in opened.pools():
            pool.disconnect()


class Table:
    """Each operation, with each wrong answer to each command that it takes.

    A server lies to one operation at a time. Several servers are tried side by side: where an answer leaves
    a reader waiting, the others go on.
    """

    def __init__(
        self,
        make: Callable[[LyingServer], RedisCache],
        servers: Iterable[LyingServer],
        answers: Iterable[str],
        commands: Callable[[str], bool] = lambda name: name not in OPENING,
    ) -> None:
        self._make = make
        self._servers: queue.SimpleQueue[LyingServer] = queue.SimpleQueue()
        for server in servers:
            self._servers.put(server)
        self._answers = sorted(answers)
        self._is_lied_to = commands
        self.tried: Counter[str] = Counter()  #: calls, by command
        self.ended: Counter[str] = Counter()  #: calls, by what came of them
        self.wrong: list[str] = []

    def try_all(self, names: Iterable[str] | None = None) -> list[str]:
        """Return what went wrong."""
        with ThreadPoolExecutor(self._servers.qsize()) as threads:
            list(threads.map(self._try_operation, operations(None) if names is None else names))
        print(f"\n{len(self.tried)} commands, {self.tried.total()} calls: {dict(self.ended)}")
        return self.wrong

    def _try_operation(self, name: str) -> None:
        server = self._servers.get()
        try:
            self._lie_to(name, server)
        finally:
            server.lies.clear()
            self._servers.put(server)

    def _lie_to(self, name: str, server: LyingServer) -> None:
        server.lies.clear()
        server.asked.clear()
        with self._make(server) as cache:
            wait_until(lambda: self._error(cache, name) is None, "it answers")
        used = sorted(set(filter(self._is_lied_to, server.asked)))
        with self._make(server) as cache:
            for command, answer in itertools.product(used, self._answers):
                server.lies.clear()
                if command in OPENING and name in FIRST:
                    # The first connection of a cache. Below it is a later one.
                    with self._make(server) as another:
                        server.lies[command] = ANSWERS[answer]
                        self._call(another, name, command, answer)
                    server.lies.clear()
                with suppress(TierUnavailableError):
                    cache.set("k", CacheEntry("k", 1, tags={"t"}))
                    if command in OPENING:
                        disconnect(cache)
                server.lies[command] = ANSWERS[answer]
                self._call(cache, name, command, answer)
            server.lies.clear()
            # The connections that are left are in order.
            wait_until(lambda: self._error(cache, name) is None, "it answers again")

    def _call(self, cache: RedisCache, name: str, command: str, answer: str) -> None:
        error = self._error(cache, name)
        self.tried[command] += 1
        if error is None or isinstance(error, TierUnavailableError):
            self.ended["returned" if error is None else "TierUnavailableError"] += 1
        else:
            self.ended["another exception"] += 1
            self.wrong.append(f"{name}: {command}: {answer}: {error!r}")

    def _error(self, cache: RedisCache, name: str) -> Exception | None:
        try:
            operations(cache)[name]()
        except Exception as error:  # that is the question
            return error
        return None


@pytest.fixture
def liar(redis_port: int) -> Iterator[LyingServer]:
    with LyingServer(redis_port) as server:
        yield server


@pytest.fixture
def cluster(redis_port: int) -> Iterator[LyingServer]:
    """The only node of a Cluster."""
    with LyingServer(redis_port, is_cluster=True) as server:
        yield server


@pytest.fixture
def redis_port(redis_url: str) -> int:
    return int(redis.connection.parse_url(redis_url)["port"])  # type: ignore[no-untyped-call]


def single(server: LyingServer, prefix: str, timeout: float = 60) -> RedisCache:
    return RedisCache("127.0.0.1", server.port, key_prefix=prefix, timeout=timeout)


def clustered(server: LyingServer, prefix: str, timeout: float = 60) -> RedisCache:
    return RedisCache.cluster([("127.0.0.1", server.port)], prefix, timeout=timeout)


def foreign(server: LyingServer, prefix: str, timeout: float = 60, parser: Any = _RESP2Parser) -> RedisCache:
    pool = redis.ConnectionPool(
        host="127.0.0.1",
        port=server.port,
        socket_timeout=timeout,
        retry=Retry(NoBackoff(), 1),
        parser_class=parser,
    )
    return RedisCache(client=redis.Redis(connection_pool=pool), key_prefix=prefix)


def foreign_cluster(server: LyingServer, prefix: str, timeout: float = 60) -> RedisCache:
    client = redis.RedisCluster("127.0.0.1", server.port, socket_timeout=timeout, retry=Retry(NoBackoff(), 1))
    return RedisCache(client=client, key_prefix=prefix)


#: Connections of cachekit's own first, then clients of redis-py that are passed in.
MAKERS: dict[str, Callable[..., RedisCache]] = {
    "single": single,
    "cluster": clustered,
    "client": foreign,
    "client, hiredis": partial(foreign, parser=_HiredisParser),
    "client, cluster": foreign_cluster,
}
CLUSTERS = ("cluster", "client, cluster")
CLIENTS = tuple(name for name in MAKERS if name.startswith("client"))


class TestWrongAnswers:
    def test_to_every_command(self, liar: LyingServer, prefix: str) -> None:
        assert Table(lambda server: single(server, prefix), [liar], FEW).try_all() == []

    def test_while_logging_in(self, liar: LyingServer, prefix: str) -> None:
        """The driver does that."""
        table = Table(lambda server: single(server, prefix), [liar], FEW, lambda name: name in OPENING)
        assert table.try_all(["get"]) == []

    @pytest.mark.parametrize("name", ["cluster", *CLIENTS])
    def test_to_the_driver(self, liar: LyingServer, cluster: LyingServer, prefix: str, name: str) -> None:
        """What an answer makes the driver raise is no matter of the caller's."""
        server = cluster if name in CLUSTERS else liar
        few = {*FEW[1::2]} & {*OF_THE_DRIVER}
        table = Table(lambda server: MAKERS[name](server, prefix), [server], few)
        assert table.try_all(["get", "get_many", "invalidate_by_tags", "keys"]) == []

    @pytest.mark.soak
    @pytest.mark.timeout(1800)
    @pytest.mark.parametrize("name", MAKERS)
    def test_all_of_them(self, redis_port: int, prefix: str, name: str) -> None:
        """Each operation, each of its commands, each answer."""
        with ExitStack() as stack:
            servers = [
                stack.enter_context(LyingServer(redis_port, is_cluster=name in CLUSTERS))
                for _ in range(SIDE_BY_SIDE)
            ]
            table = Table(
                # Not one prefix: an operation would find what another one stores.
                lambda server: MAKERS[name](server, f"{prefix}{server.port}:", 0.5),
                servers, OF_THE_DRIVER if name in CLIENTS else ANSWERS, lambda command: True,
            )  # fmt: skip
            print(f"\n{name}:", end=" ")
            assert table.try_all() == []


def drip(beginning: bytes) -> Lie:
    """An answer that goes on for an hour, one byte at a time."""
    return (lambda: itertools.chain([beginning], itertools.repeat(b"x", 100_000))), 0.03


class Flood:
    """An answer that never ends, as fast as it is read; it counts what was sent."""

    def __init__(self, beginning: bytes, piece: bytes = b"x" * (1 << 20)) -> None:
        self.sent = 0
        self._beginning = beginning
        self._piece = piece

    def pieces(self) -> Iterator[bytes]:
        yield self._beginning
        while True:
            yield self._piece
            self.sent += len(self._piece)


DRIPS: dict[str, tuple[str, bytes]] = {
    "get": ("GET", b"$100000\r\n"),
    "get_many": ("MGET", b"*2\r\n$100000\r\n"),
    "set": ("put", b"+"),
    "fence": ("tokens", b"*1\r\n$100000\r\n"),
    "keys": ("SCAN", b"*2\r\n$100000\r\n"),
    "invalidate_by_pattern": ("UNLINK", b":"),
    "ping": ("PING", b"-"),
}


class TestEverySpeed:
    """A call whose answer does not come to an end ends by itself; otherwise these tests would not end."""

    @pytest.mark.parametrize("name", DRIPS)
    def test_one_byte_at_a_time(self, liar: LyingServer, prefix: str, name: str) -> None:
        with single(liar, prefix, timeout=0.3) as cache:
            wait_until(lambda: answers(cache), "there is a connection")
            call = operations(cache)[name]
            command, beginning = DRIPS[name]
            liar.lies[command] = drip(beginning)
            with pytest.raises(TierUnavailableError, match="TimeoutError"):
                call()

    @pytest.mark.parametrize("command", ["HELLO", "CLIENT SETINFO"])
    def test_while_logging_in(self, liar: LyingServer, prefix: str, command: str) -> None:
        with single(liar, prefix, timeout=0.2) as cache:
            liar.lies[command] = drip(b"$100000\r\n")
            with pytest.raises(TierUnavailableError, match="Timeout"):
                cache.get("k")

    @pytest.mark.parametrize("command", ["GET", "CLUSTER SLOTS", "HELLO"])
    def test_in_a_cluster(self, cluster: LyingServer, prefix: str, command: str) -> None:
        with clustered(cluster, prefix, timeout=0.2) as cache:
            if command == "GET":
                wait_until(lambda: answers(cache), "there is a connection")
            cluster.lies[command] = drip(b"$100000\r\n")
            with pytest.raises(TierUnavailableError):
                cache.get("k")

    @pytest.mark.parametrize("name", ["get", "get_many", "set"])
    def test_nodes_that_redirect(
        self, cluster: LyingServer, prefix: str, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each redirection comes in time, and there are 16 in each of two tries. The call has one end."""
        command = "tokens" if name == "set" else "GET"
        monkeypatch.setattr("cachekit.tiers.redis.call_deadline.STEPS", 2)
        with clustered(cluster, prefix, timeout=0.6) as cache:
            wait_until(lambda: answers(cache), "there is a connection")
            cluster.asked.clear()
            cluster.lies[command] = (lambda: iter([b"", b"-MOVED 1 127.0.0.1:%d\r\n" % cluster.port])), 0.15
            with pytest.raises(TierUnavailableError, match="TimeoutError"):
                operations(cache)[name]()
        assert cluster.asked.count(command) <= 9  # 1.2 s have eight times 0.15 s

    def test_nodes_that_never_answer(
        self, cluster: LyingServer, prefix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A Cluster may name a thousand nodes. When the first is lost, the driver asks each for the slots."""
        monkeypatch.setattr("cachekit.tiers.redis.call_deadline.STEPS", 3)
        with ExitStack() as stack:
            silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(40)]
            cluster.lies["CLUSTER SLOTS"] = slots(*(one.getsockname()[1] for one in silent))
            cache = stack.enter_context(clustered(cluster, prefix, timeout=0.3))
            for _ in range(2):
                with pytest.raises(TierUnavailableError):
                    cache.get("k")
            assert sum(map(connections_to, silent)) <= 16  # three for each call, and a second try of each

    def test_a_large_answer_takes_longer(self, liar: LyingServer, prefix: str) -> None:
        """Each 4 MiB of it have a timeout of their own."""
        value = os.urandom(PORTION * 2)
        with single(liar, prefix, timeout=0.4) as cache, single(liar, prefix) as patient:
            patient.set("k", CacheEntry("k", value))
            answer = patient.get("k")
            assert answer is not None
            begun: list[float] = []
            envelope = inside.redis_store(patient).read("k")
            pieces = [envelope[at : at + PORTION // 2] for at in range(0, len(envelope), PORTION // 2)]

            def slowly() -> Iterator[bytes]:
                begun.append(time.monotonic())
                yield b"$%d\r\n" % len(envelope)
                yield from pieces
                yield b"\r\n"

            wait_until(lambda: answers(cache), "there is a connection")
            liar.lies["GET"] = slowly, 0.12  # 0.7 s together
            wait_until(lambda: has_value(cache, value), "a machine that is not too busy reads it")
            assert time.monotonic() - begun[-1] > 0.4

    def test_a_message(self, liar: LyingServer, prefix: str) -> None:
        """`close` does not wait for its end, and the listener has heard that it may have missed something."""
        liar.lies["SUBSCRIBE"] = drip(b"*3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n*3\r\n$100000\r\n")
        notes = Notes()
        with single(liar, prefix) as cache:
            cache.subscribe(notes)
            wait_until(notes.has(2), "the subscription is confirmed")
        assert notes.gaps == 2


def slots(*ports: int, first: int = 0, last: int = 16383) -> bytes:
    """An answer to CLUSTER SLOTS, with as many ranges as ports."""
    size = (last + 1 - first) // len(ports)
    starts = [first + size * at for at in range(len(ports))]
    ends = [*(start - 1 for start in starts[1:]), last]
    return b"*%d\r\n" % len(ports) + b"".join(
        [
            b"*3\r\n:%d\r\n:%d\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % part
            for part in zip(starts, ends, ports, strict=True)
        ]
    )


def connections_to(listener: socket.socket) -> int:
    """How many wait to be accepted, and are not yet looked at."""
    listener.setblocking(False)
    found = 0
    with suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            found += 1
    return found


def answers(cache: RedisCache) -> bool:
    try:
        cache.ping()
    except TierUnavailableError:
        return False
    return True


def has_value(cache: RedisCache, value: bytes) -> bool:
    try:
        return bool(cache.get_value("k") == value)
    except TierUnavailableError:
        return False


#: Beginnings of answers with too many parts, and of one that is too deep.
PARTS = (b"*100000000\r\n", b"*2\r\n*1\r\n:1\r\n*99999\r\n", b"*1\r\n" * 9)
#: The commands whose answers cachekit's own connections read, logging in included.
BOUNDED = (
    ("single", "MGET"), ("single", "HELLO"), ("single", "CLIENT SETINFO"),
    ("cluster", "GET"), ("cluster", "HELLO"), ("cluster", "CLUSTER SLOTS"),
)  # fmt: skip


class TestEverySize:
    """What the server may make the process receive, and hold."""

    @pytest.mark.parametrize(
        ("name", "command", "beginning", "most"),
        [
            ("get", "GET", b"$4000000000\r\n", 4 << 20),
            ("get", "GET", b"$%d\r\n" % (LARGEST + 1), 4 << 20),
            ("get", "GET", b"+", 4 << 20),
            ("get_many", "MGET", b"*2\r\n$4000000000\r\n", 4 << 20),
            ("get_many", "MGET", b"*1000000000\r\n", 4 << 20),
            ("get_many", "MGET", b"*2\r\n", 4 << 20),
        ],
    )
    def test_a_value(
        self, liar: LyingServer, prefix: str, name: str, command: str, beginning: bytes, most: int
    ) -> None:
        flood = Flood(beginning)
        with single(liar, prefix) as cache:
            call = operations(cache)[name]
            liar.lies[command] = flood.pieces, 0
            tracemalloc.start()
            try:
                with pytest.raises(TierUnavailableError, match="WrongReplyError"):
                    call()
                assert tracemalloc.get_traced_memory()[1] < 32 << 20
            finally:
                tracemalloc.stop()
        assert flood.sent <= most + (16 << 20)  # what the system's buffers hold

    @pytest.mark.parametrize("beginning", PARTS)
    @pytest.mark.parametrize(("name", "command"), BOUNDED)
    def test_small_parts(
        self, liar: LyingServer, cluster: LyingServer, prefix: str, name: str, command: str, beginning: bytes
    ) -> None:
        """Empty arrays take sixteen times as much memory as they take on their way."""
        server = cluster if name in CLUSTERS else liar
        flood = Flood(beginning, b"*0\r\n" * (1 << 16))
        server.lies[command] = flood.pieces, 0
        tracemalloc.start()
        try:
            with MAKERS[name](server, prefix) as cache:
                with pytest.raises(TierUnavailableError, match="too long or too deep"):
                    cache.get_many(["k", "l"])
                assert tracemalloc.get_traced_memory()[1] < 32 << 20
        finally:
            tracemalloc.stop()
        assert flood.sent <= 16 << 20  # what the system's buffers hold
        server.lies.clear()

    @pytest.mark.parametrize("name", CLIENTS)
    def test_small_parts_to_a_client(
        self, liar: LyingServer, cluster: LyingServer, prefix: str, name: str
    ) -> None:
        """Its parser reads all of them. It is no answer all the same, and the next call is in order."""
        server = cluster if name in CLUSTERS else liar
        with MAKERS[name](server, prefix) as cache:
            assert cache.get("k") is None
            for lie in (b"*100001\r\n" + b"*0\r\n" * 100_001, b"*1\r\n" * 7 + b"*0\r\n"):
                server.lies = dict.fromkeys(("GET", "MGET"), lie)
                for call in (lambda: cache.get("k"), lambda: cache.get_many(["k", "l"])):
                    with pytest.raises(TierUnavailableError):
                        call()
            server.lies.clear()
            assert cache.get("k") is None

    @pytest.mark.parametrize("make", [single, clustered])
    def test_logging_in(
        self,
        liar: LyingServer,
        cluster: LyingServer,
        prefix: str,
        make: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The driver's parsers have no bound of their own."""
        monkeypatch.setattr("cachekit.tiers.redis.line.MOST_RECEIVED", 8 << 20)
        server = liar if make is single else cluster
        flood = Flood(b"$4000000000\r\n")
        server.lies["HELLO"] = flood.pieces, 0
        with make(server, prefix) as cache, pytest.raises(TierUnavailableError):
            cache.get("k")
        assert flood.sent < MOST_RECEIVED

    def test_a_message(self, liar: LyingServer, prefix: str) -> None:
        """One that is longer than any of ours ends the connection."""
        flood = Flood(b"*3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$60000000\r\n")
        liar.lies["SUBSCRIBE"] = flood.pieces, 0
        notes = Notes()
        with single(liar, prefix) as cache:
            cache.subscribe(notes)
            wait_until(notes.has(2), "the listener learns of it")
        assert flood.sent < 30 << 20

    def test_a_scan(self, liar: LyingServer, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """One whose cursor always goes on: in bytes, and in time."""
        numbers = itertools.count(1)

        def page() -> Iterator[bytes]:
            cursor, name = b"%d" % next(numbers), f"{prefix}{{1}}:k".encode()
            yield b"*2\r\n$%d\r\n%b\r\n*1\r\n$%d\r\n%b\r\n" % (len(cursor), cursor, len(name), name)

        liar.lies["SCAN"] = page, 0
        with single(liar, prefix) as cache:
            for bound, value in (("MOST_SCANNED", 5000), ("LONGEST_SCAN", 0.3)):
                with monkeypatch.context() as patch:
                    patch.setattr(f"cachekit.tiers.redis.client.{bound}", value)
                    for call in (cache.size, lambda: cache.invalidate_by_pattern("k")):
                        with pytest.raises(TierUnavailableError, match="did not come to an end"):
                            call()


class TestTags:
    """Each tag of a value costs its reader memory, and a look at the server."""

    @pytest.mark.parametrize("name", MAKERS)
    @pytest.mark.parametrize(
        "tags",
        [[str(number) for number in range(MOST_TAGS + 1)], ["a" * (LONGEST + 1)], ["ä" * (LONGEST + 1), "b"]],
        ids=["too many", "too long", "one of them too long"],
    )
    def test_more_than_a_value_may_have(
        self, liar: LyingServer, cluster: LyingServer, prefix: str, name: str, tags: list[str]
    ) -> None:
        """It is a miss, and the server is not asked about its tags."""
        server = cluster if name in CLUSTERS else liar
        envelope = envelope_with(prefix, tags)
        with MAKERS[name](server, prefix) as cache:
            assert cache.get("k") is None
            server.lies = {
                "GET": b"$%d\r\n%b\r\n" % (len(envelope), envelope),
                "MGET": b"*1\r\n$%d\r\n%b\r\n" % (len(envelope), envelope),
            }
            for call in (lambda: cache.get("k"), lambda: cache.get_many(["k"]), lambda: cache.touch("k")):
                before = cache.get_stats()["errors"]
                server.asked.clear()
                assert not call()
                assert cache.get_stats()["errors"] > before
                assert len([one for one in server.asked if one in ("GET", "MGET")]) == 1

    def test_the_longest(self, liar: LyingServer, prefix: str) -> None:
        tags = {"a" * LONGEST, "ä" * LONGEST}
        with single(liar, prefix) as cache:
            cache.set("k", CacheEntry("k", 1, tags=tags))
            found = cache.get("k")
            assert found is not None
            assert found.tags == tags


def envelope_with(prefix: str, tags: list[str]) -> bytes:
    """A value of the key "k" with these tags, whose checksums are right."""
    now = time.time()
    return Serializer(prefix).encode("k", 1, created=now, expires=now + 60, tags=dict.fromkeys(tags, 1))


class TestSlots:
    """The driver goes through every slot and node that a Cluster names."""

    @pytest.mark.parametrize(
        "answer",
        [
            slots(7000, last=99_999_999_999),
            slots(7000, first=-1),
            slots(*range(1, 2002)),
            b"*2\r\n" + slots(7000)[4:] + slots(7001)[4:],
            b"*2\r\n" * 2 + b":1\r\n" * 3,
            slots(0),
            slots(1 << 16),
            b"*1\r\n*2\r\n:0\r\n:16383\r\n",
        ],
        ids=[
            "beyond the last", "before the first", "too many nodes", "twice", "no ranges",
            "port 0", "port 65536", "no node",
        ],
    )  # fmt: skip
    def test_wrong_ones(self, cluster: LyingServer, prefix: str, answer: bytes) -> None:
        cluster.lies["CLUSTER SLOTS"] = answer
        with clustered(cluster, prefix) as cache:
            with pytest.raises(TierUnavailableError, match="WrongReplyError"):
                cache.get("k")
            cluster.lies.clear()
            assert cache.get("k") is None

    @pytest.mark.parametrize("host", [b"$-1\r\n", b"$0\r\n\r\n"])
    def test_of_a_node_that_does_not_know_its_name(self, host: bytes) -> None:
        """Then it is the one that was asked."""
        right = slots(7000).replace(b"$9\r\n127.0.0.1\r\n", host)
        assert is_slots(Replies(Nothing(), right).next())


class Nothing:
    """The source of replies that are all here."""

    def recv(self, size: int, /) -> bytes:
        raise AssertionError(size)


class TestWhatFollows:
    @pytest.mark.parametrize("name", MAKERS)
    @pytest.mark.parametrize("answer", ["integer", "two answers", "deep"])
    def test_a_loaded_value_is_not_lost(
        self, liar: LyingServer, cluster: LyingServer, prefix: str, name: str, answer: str
    ) -> None:
        """Whatever command it is that gets the wrong answer, the caller has the value."""
        server = cluster if name in CLUSTERS else liar
        for command in ("GET", "tokens", "add", "put", "MGET", "PING"):
            server.lies.clear()
            server.lies[command] = ANSWERS[answer]
            with IntelligentCache(MemoryCache(), MAKERS[name](server, prefix), None) as cache:
                assert cache.get_or_set(f"{command}{answer}", lambda: [1], tags={"t"}) == [1]
                assert cache.get_or_set_many(["a", "b"], lambda keys: dict.fromkeys(keys, 1)) == {
                    "a": 1,
                    "b": 1,
                }
                server.lies.clear()

    def test_the_breaker_learns_of_it(self, liar: LyingServer, prefix: str) -> None:
        """From the first wrong answer on the tier is bypassed, until it answers well."""
        with IntelligentCache(None, single(liar, prefix), None) as cache:
            cache.set("k", 1)
            liar.lies = {"GET": ANSWERS["integer"], "PING": ANSWERS["integer"]}
            assert cache.get("k") is None
            liar.asked.clear()
            assert cache.get("k") is None
            assert "GET" not in liar.asked
            liar.lies.clear()
            wait_until(lambda: cache.get("k") == 1, "it is used again")

    @pytest.mark.parametrize("name", MAKERS)
    def test_the_connection_is_closed(
        self, liar: LyingServer, cluster: LyingServer, prefix: str, name: str
    ) -> None:
        """The next command would take the rest for its own answer."""
        server = cluster if name in CLUSTERS else liar
        with MAKERS[name](server, prefix) as cache:
            cache.set_value("k", "right")
            for _ in range(3):
                if name == "single":  # a client of the driver looks for the second one only later
                    server.lies["GET"] = ANSWERS["two answers"]
                    with pytest.raises(TierUnavailableError):
                        cache.get("k")
                server.lies["GET"] = ANSWERS["integer"]
                with pytest.raises(TierUnavailableError):
                    cache.get("k")
                wait_until(lambda: not server.open or name in CLUSTERS, "the connection is closed")
                server.lies.clear()
                assert cache.get_value("k") == "right"

    def test_an_answer_too_many_while_logging_in(self, liar: LyingServer, prefix: str) -> None:
        """It would be lost with the parser, and with it the order of what follows."""
        with single(liar, prefix) as cache:
            liar.lies["CLIENT SETINFO"] = ANSWERS["two answers"]
            with pytest.raises(TierUnavailableError, match="more than one"):
                cache.get("k")
            liar.lies.clear()
            assert cache.get("k") is None

    def test_awaited(self, liar: LyingServer, prefix: str) -> None:
        async def main() -> None:
            cache = cachekit.aio.RedisCache("127.0.0.1", liar.port, key_prefix=prefix, timeout=60)
            try:
                for answer in FEW:
                    liar.lies = dict.fromkeys(("GET", "MGET", "put", "SCAN", "remove"), ANSWERS[answer])
                    for call in (
                        lambda: cache.get("k"), lambda: cache.get_many(["k", "l"]),
                        lambda: cache.set_value("k", 1), lambda: cache.keys(), lambda: cache.delete("k"),
                    ):  # fmt: skip
                        with suppress(TierUnavailableError):
                            await call()
            finally:
                await cache.close()

        asyncio.run(main())

    def test_no_text_of_the_server(
        self, liar: LyingServer, prefix: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It may quote a command, with the password in it, in any kind of answer."""
        quoting = [
            b"-ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'hunter2'\r\n",
            b"-hunter2\r\n", b"-MOVED 1 hunter2\r\n", b"+hunter2\r\n", b":hunter2\r\n", b"@hunter2\r\n",
            b"-NOAUTH hunter2\r\n", b"-LOADING hunter2\r\n", b"*2\r\n+hunter2\r\n-ERR hunter2\r\n",
        ]  # fmt: skip
        caplog.set_level("DEBUG")
        texts = ""
        for command, lie in itertools.product(
            ("HELLO", "CLIENT SETINFO", "GET", "SUBSCRIBE", "tokens"), quoting
        ):
            liar.lies = {command: lie}
            tier = single(liar, prefix)
            with IntelligentCache(MemoryCache(), tier, None) as cache:
                cache.get_or_set("k", lambda: 1, tags={"t"})
                for call in (tier.get, tier.fence):
                    texts += failure_of(call)
                texts += str(cache.get_stats()) + str(cache.health())
        assert "TierUnavailableError" in texts
        assert "hunter2" not in texts + caplog.text


def failure_of(call: Callable[[str], object]) -> str:
    """What a call with a key raises, as it is shown; nothing if it raises nothing."""
    try:
        call("k")
    except TierUnavailableError as error:
        return "".join(traceback.format_exception(error))
    return ""
