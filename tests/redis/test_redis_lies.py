"""A server may say anything: no answer but a right one has an effect, and no call fails other than it may."""

from __future__ import annotations

import asyncio
import itertools
import queue
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest
import redis
from free_threads import collected_connections
from lying_caches import CLIENTS, CLUSTERS, MAKERS, disconnect, operations, single
from lying_server import LyingServer
from redis_server import wait_until

import cachekit.aio
from cachekit import CacheEntry, IntelligentCache, MemoryCache, RedisCache, TierUnavailableError

pytestmark = [pytest.mark.usefixtures("few_buckets"), *collected_connections]

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
        with self._made(server) as cache:
            wait_until(lambda: self._error(cache, name) is None, "it answers")
        used = sorted(set(filter(self._is_lied_to, server.asked)))
        with self._made(server) as cache:
            for command, answer in itertools.product(used, self._answers):
                server.lies.clear()
                if command in OPENING and name in FIRST:
                    # The first connection of a cache. Below it is a later one.
                    with self._made(server) as another:
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

    def _made(self, server: LyingServer) -> RedisCache:
        """Return a cache. A client of a Cluster asks a server when it is made, which may be busy."""
        made: list[RedisCache] = []

        def attempt() -> list[RedisCache]:
            with suppress(redis.RedisError):
                made.append(self._make(server))
            return made

        wait_until(attempt, "there is a client")
        return made[0]

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


class TestWrongAnswers:
    def test_to_every_command(self, liar: LyingServer, prefix: str) -> None:
        assert Table(lambda server: single(server, prefix), [liar], FEW).try_all() == []

    def test_while_logging_in(self, liar: LyingServer, prefix: str) -> None:
        """The driver does that."""
        table = Table(lambda server: single(server, prefix), [liar], FEW, lambda name: name in OPENING)
        assert table.try_all(["get"]) == []

    @pytest.mark.parametrize("name", ["cluster", *CLIENTS])
    def test_to_the_driver(
        self, liar: LyingServer, lying_cluster: LyingServer, prefix: str, name: str
    ) -> None:
        """What an answer makes the driver raise is no matter of the caller's."""
        server = lying_cluster if name in CLUSTERS else liar
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


class TestWhatFollows:
    @pytest.mark.parametrize("name", MAKERS)
    @pytest.mark.parametrize("answer", ["integer", "two answers", "deep"])
    def test_a_loaded_value_is_not_lost(
        self, liar: LyingServer, lying_cluster: LyingServer, prefix: str, name: str, answer: str
    ) -> None:
        """Whatever command it is that gets the wrong answer, the caller has the value."""
        server = lying_cluster if name in CLUSTERS else liar
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
        self, liar: LyingServer, lying_cluster: LyingServer, prefix: str, name: str
    ) -> None:
        """The next command would take the rest for its own answer."""
        server = lying_cluster if name in CLUSTERS else liar
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
        """It would be lost with the parser, and with it the order of what follows. So nothing is asked."""
        with single(liar, prefix) as cache:
            # Two are for the two commands, which are sent together. The third comes with them.
            liar.lies["CLIENT SETINFO"] = ANSWERS["text"] * 3
            with pytest.raises(TierUnavailableError, match="more than one"):
                cache.get("k")
            assert "GET" not in liar.asked
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
