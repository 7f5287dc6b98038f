"""A server may be slow, and say much: each call has a bound in time and in memory."""

from __future__ import annotations

import itertools
import os
import socket
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import inside
import pytest
from bus_notes import Notes
from interrupting import no_collection
from lying_caches import CLIENTS, CLUSTERS, MAKERS, Nothing, clustered, operations, single
from lying_server import Lie, LyingServer
from redis_server import wait_until

from cachekit import CacheEntry, RedisCache, TierUnavailableError
from cachekit.model.validation import LONGEST, MOST_TAGS
from cachekit.serialization.serializer import Serializer
from cachekit.tiers.redis.answers import is_slots
from cachekit.tiers.redis.line import MOST_RECEIVED, PORTION
from cachekit.tiers.redis.resp import LARGEST, Replies

pytestmark = pytest.mark.usefixtures("few_buckets")


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
    def test_in_a_cluster(self, lying_cluster: LyingServer, prefix: str, command: str) -> None:
        with clustered(lying_cluster, prefix, timeout=0.2) as cache:
            if command == "GET":
                wait_until(lambda: answers(cache), "there is a connection")
            lying_cluster.lies[command] = drip(b"$100000\r\n")
            with pytest.raises(TierUnavailableError):
                cache.get("k")

    @pytest.mark.parametrize("name", ["get", "get_many", "set"])
    def test_nodes_that_redirect(
        self, lying_cluster: LyingServer, prefix: str, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each redirection comes in time, and there are 16 in each of two tries. The call has one end."""
        command = "tokens" if name == "set" else "GET"
        monkeypatch.setattr("cachekit.tiers.redis.call_deadline.STEPS", 2)
        with clustered(lying_cluster, prefix, timeout=0.6) as cache:
            wait_until(lambda: answers(cache), "there is a connection")
            lying_cluster.asked.clear()
            lying_cluster.lies[command] = (
                (lambda: iter([b"", b"-MOVED 1 127.0.0.1:%d\r\n" % lying_cluster.port])),
                0.15,
            )
            with pytest.raises(TierUnavailableError, match="TimeoutError"):
                operations(cache)[name]()
        assert lying_cluster.asked.count(command) <= 9  # 1.2 s have eight times 0.15 s

    def test_nodes_that_never_answer(
        self, lying_cluster: LyingServer, prefix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A Cluster may name a thousand nodes. When the first is lost, the driver asks each for the slots."""
        monkeypatch.setattr("cachekit.tiers.redis.call_deadline.STEPS", 3)
        with ExitStack() as stack:
            silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(40)]
            lying_cluster.lies["CLUSTER SLOTS"] = slots(*(one.getsockname()[1] for one in silent))
            cache = stack.enter_context(clustered(lying_cluster, prefix, timeout=0.3))
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
        self,
        liar: LyingServer,
        lying_cluster: LyingServer,
        prefix: str,
        name: str,
        command: str,
        beginning: bytes,
    ) -> None:
        """Empty arrays take sixteen times as much memory as they take on their way."""
        server = lying_cluster if name in CLUSTERS else liar
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
        self, liar: LyingServer, lying_cluster: LyingServer, prefix: str, name: str
    ) -> None:
        """Its parser reads all of them. It is no answer all the same, and the next call is in order."""
        server = lying_cluster if name in CLUSTERS else liar
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
        lying_cluster: LyingServer,
        prefix: str,
        make: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The driver's parsers have no bound of their own."""
        monkeypatch.setattr("cachekit.tiers.redis.line.MOST_RECEIVED", 8 << 20)
        server = liar if make is single else lying_cluster
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
        self, liar: LyingServer, lying_cluster: LyingServer, prefix: str, name: str, tags: list[str]
    ) -> None:
        """It is a miss, and the server is not asked about its tags."""
        server = lying_cluster if name in CLUSTERS else liar
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
    def test_wrong_ones(self, lying_cluster: LyingServer, prefix: str, answer: bytes) -> None:
        lying_cluster.lies["CLUSTER SLOTS"] = answer
        with clustered(lying_cluster, prefix) as cache:
            with no_collection():
                with pytest.raises(TierUnavailableError, match="WrongReplyError"):
                    cache.get("k")
                wait_until(lambda: lying_cluster.open == 0, "its connection is closed", patience=20)
            lying_cluster.lies.clear()
            assert cache.get("k") is None

    @pytest.mark.parametrize("host", [b"$-1\r\n", b"$0\r\n\r\n"])
    def test_of_a_node_that_does_not_know_its_name(self, host: bytes) -> None:
        """Then it is the one that was asked."""
        right = slots(7000).replace(b"$9\r\n127.0.0.1\r\n", host)
        assert is_slots(Replies(Nothing(), right).next())
