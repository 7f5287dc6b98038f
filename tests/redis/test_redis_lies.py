"""A server may say anything: no answer but a right one has an effect, and no call fails other than it may."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import inside
import pytest
import redis
from bus_notes import Notes
from lying_server import Lie, LyingServer
from redis._parsers import _HiredisParser, _RESP2Parser
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection
from redis.retry import Retry
from redis_server import wait_until

import cachekit.aio
from cachekit import CacheEntry, IntelligentCache, MemoryCache, RedisCache, TierUnavailableError
from cachekit.tiers.redis.connection_pool import ConnectionPool
from cachekit.tiers.redis.line import MOST_RECEIVED, PORTION
from cachekit.tiers.redis.resp import LARGEST

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
}
#: Those of the suite; the others are like one of these.
FEW = (
    "integer", "text", "null", "empty array", "array of three", "scan without an end", "push", "deep",
    "map with a list for a key", "number of 5000 digits", "two answers", "error with an odd word",
    "MOVED without an address", "NOSCRIPT",
)  # fmt: skip
#: For the driver a message to subscribers is no answer, and it waits for one.
OF_THE_DRIVER = tuple(name for name in ANSWERS if name not in ("push", "attribute"))
#: What a connection says first.
LOGIN = ("HELLO", "CLIENT SETINFO", "SELECT", "AUTH")


def operations(cache: Any) -> dict[str, Callable[[], object]]:
    entry, bare = CacheEntry("k", 1, tags={"t"}), CacheEntry("k", 1)
    lasting = CacheEntry("k", 1, tags={"t"}, ttl=None)
    origin = cache.successor(frozenset({"t"}))

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
        "put_many": lambda: cache.put_many({"k": bare, "l": CacheEntry("l", 1)}, {"k": origin, "l": origin}),
        "put if": lambda: cache.put("k", bare, origin, expect=cache.origin("k")),
        "add": lambda: cache.add("k", entry, origin),
        "create": lambda: cache.create("k", entry, origin),
        "touch": lambda: cache.touch("k"),
        "delete": lambda: cache.delete("k"),
        "remove_many": lambda: cache.remove_many(["k", "l"]),
        "fence": lambda: cache.fence("k").is_current(),
        "invalidate_by_tags": lambda: cache.invalidate_by_tags({"t"}),
        "invalidate_by_pattern": lambda: cache.invalidate_by_pattern("k"),
        "clear": cache.clear,
        "renew": cache.renew,
        "keys": cache.keys,
        "size": cache.size,
        "memory_usage": cache.memory_usage,
        "ping": cache.ping,
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


def table(
    make: Callable[[], RedisCache],
    server: LyingServer,
    answers: Iterable[str],
    names: Iterable[str] | None = None,
    commands: Callable[[str], bool] = lambda name: name not in LOGIN,
) -> list[str]:
    """Ask everything with each wrong answer to each command that it takes; return what went wrong."""
    wrong: list[str] = []
    tried = 0
    lied_to: set[str] = set()
    with make() as first:
        names = list(operations(first) if names is None else names)
    for name in names:
        server.asked.clear()
        with make() as cache:
            operations(cache)[name]()
        used = sorted(set(filter(commands, server.asked)))
        lied_to.update(used)
        cache = make()
        call = operations(cache)[name]
        for command, answer in itertools.product(used, answers):
            server.lies.clear()
            if command in LOGIN:
                cache.close()
                cache = make()
                call = operations(cache)[name]
            with suppress(TierUnavailableError):
                cache.set("k", CacheEntry("k", 1, tags={"t"}))
            if command in LOGIN:
                disconnect(cache)
            server.lies[command] = ANSWERS[answer]
            tried += 1
            try:
                call()
            except TierUnavailableError:
                pass
            except Exception as error:  # that is the question
                wrong.append(f"{name}: {command}: {answer}: {error!r}")
        server.lies.clear()
        call()  # the connections that are left are in order
        cache.close()
    print(f"\n{len(names)} operations, {len(lied_to)} commands, {tried} calls, {len(wrong)} raised otherwise")
    return wrong


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


@pytest.fixture(params=["python", "hiredis"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the driver parses replies with."""
    name = str(request.param)
    kind: Any = _RESP2Parser
    if name == "hiredis":
        pytest.importorskip("hiredis")
        kind = _HiredisParser
    plain = AbstractConnection.__init__

    def set_up(self: Any, *args: Any, **options: Any) -> None:
        plain(self, *args, **(options | {"parser_class": kind}))

    monkeypatch.setattr(AbstractConnection, "__init__", set_up)
    return name


def single(server: LyingServer, prefix: str, timeout: float = 60) -> RedisCache:
    return RedisCache("127.0.0.1", server.port, key_prefix=prefix, timeout=timeout)


def clustered(server: LyingServer, prefix: str, timeout: float = 60) -> RedisCache:
    return RedisCache.cluster([("127.0.0.1", server.port)], prefix, timeout=timeout)


def foreign(server: LyingServer, prefix: str, timeout: float = 60) -> RedisCache:
    client = redis.Redis("127.0.0.1", server.port, socket_timeout=timeout, retry=Retry(NoBackoff(), 1))
    return RedisCache(client=client, key_prefix=prefix)


MAKERS: dict[str, Callable[..., RedisCache]] = {
    "single": single, "cluster": clustered, "client": foreign
}  # fmt: skip


class TestWrongAnswers:
    def test_to_every_command(self, liar: LyingServer, prefix: str) -> None:
        assert table(lambda: single(liar, prefix), liar, FEW) == []

    def test_while_logging_in(self, liar: LyingServer, prefix: str, parser: str) -> None:
        """The driver does that, so its parsers read the answers."""
        few = [name for name in FEW if name in OF_THE_DRIVER]
        found = table(lambda: single(liar, prefix), liar, few, ["get"], lambda name: name in LOGIN)
        assert found == []

    @pytest.mark.parametrize("name", ["cluster", "client"])
    def test_to_the_driver(
        self, liar: LyingServer, cluster: LyingServer, prefix: str, parser: str, name: str
    ) -> None:
        """What an answer makes the driver raise is no matter of the caller's."""
        server = cluster if name == "cluster" else liar
        operations = ["get", "get_many", "invalidate_by_tags", "keys"]
        assert (
            table(lambda: MAKERS[name](server, prefix), server, set(FEW[1::2]) & {*OF_THE_DRIVER}, operations)
            == []
        )

    @pytest.mark.soak
    @pytest.mark.timeout(1800)
    @pytest.mark.parametrize("name", MAKERS)
    def test_all_of_them(
        self, liar: LyingServer, cluster: LyingServer, prefix: str, parser: str, name: str
    ) -> None:
        """Each operation, each of its commands, each answer."""
        server = cluster if name == "cluster" else liar
        print(f"\n{name}, {parser}:", end=" ")
        assert (
            table(lambda: MAKERS[name](server, prefix, 1), server, OF_THE_DRIVER, None, lambda name: True)
            == []
        )


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
    def test_while_logging_in(self, liar: LyingServer, prefix: str, parser: str, command: str) -> None:
        with single(liar, prefix, timeout=0.2) as cache:
            liar.lies[command] = drip(b"$100000\r\n")
            with pytest.raises(TierUnavailableError, match="Timeout"):
                cache.get("k")

    @pytest.mark.parametrize("command", ["GET", "CLUSTER SLOTS", "HELLO"])
    def test_in_a_cluster(self, cluster: LyingServer, prefix: str, parser: str, command: str) -> None:
        with clustered(cluster, prefix, timeout=0.2) as cache:
            if command == "GET":
                wait_until(lambda: answers(cache), "there is a connection")
            cluster.lies[command] = drip(b"$100000\r\n")
            with pytest.raises(TierUnavailableError):
                cache.get("k")

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

    def test_small_parts(self, liar: LyingServer, prefix: str) -> None:
        """Empty arrays take sixteen times as much memory as they take on their way."""
        flood = Flood(b"*100000000\r\n", b"*0\r\n" * (1 << 16))
        with single(liar, prefix) as cache:
            liar.lies["MGET"] = flood.pieces, 0
            with pytest.raises(TierUnavailableError, match="too long"):
                cache.get_many(["k", "l"])

    @pytest.mark.parametrize("make", [single, clustered])
    def test_logging_in(
        self,
        liar: LyingServer,
        cluster: LyingServer,
        prefix: str,
        parser: str,
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


class TestWhatFollows:
    @pytest.mark.parametrize("name", MAKERS)
    @pytest.mark.parametrize("answer", ["integer", "two answers", "deep"])
    def test_a_loaded_value_is_not_lost(
        self, liar: LyingServer, cluster: LyingServer, prefix: str, name: str, answer: str
    ) -> None:
        """Whatever command it is that gets the wrong answer, the caller has the value."""
        server = cluster if name == "cluster" else liar
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
        server = cluster if name == "cluster" else liar
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
                wait_until(lambda: not server.open or name == "cluster", "the connection is closed")
                server.lies.clear()
                assert cache.get_value("k") == "right"

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
        self, liar: LyingServer, prefix: str, parser: str, caplog: pytest.LogCaptureFixture
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
