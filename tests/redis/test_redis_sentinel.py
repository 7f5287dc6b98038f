"""A primary that sentinels name: how it is found, what happens when another server becomes it, and TLS."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import inside
import pytest
from forking import in_fork
from lying_server import LyingServer
from redis.sentinel import Sentinel
from redis_server import wait_until
from sentinel_servers import PASSWORD, SENTINEL_PASSWORD, Fleet

from cachekit import IntelligentCache, MemoryCache, RedisCache, aio
from cachekit.cache import config
from cachekit.errors import TierUnavailableError
from cachekit.testing import ManualClock, TierContract
from cachekit.tiers.redis import client
from cachekit.tiers.redis.address import Address
from cachekit.tiers.redis.connection import primary_of
from cachekit.tiers.redis.sentinel import Primary

pytestmark = pytest.mark.usefixtures("few_buckets")


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """The tests share it, and end none of its servers."""
    made = Fleet()
    yield made
    made.close()


@pytest.fixture
def own_fleet() -> Iterator[Fleet]:
    """One whose primary a test ends."""
    made = Fleet()
    yield made
    made.close()


def tier(fleet: Fleet, prefix: str, timeout: float = 0.25, **more: Any) -> RedisCache:
    return RedisCache.sentinel(
        fleet.nodes, "main", prefix, password=PASSWORD, sentinel_password=SENTINEL_PASSWORD,
        timeout=timeout, **more,
    )  # fmt: skip


class TestSentinelTier(TierContract):
    """It is a tier as any other."""

    @pytest.fixture(autouse=True)
    def _place(self, fleet: Fleet, prefix: str) -> None:
        self.fleet, self.prefix = fleet, prefix

    def make_tier(self, clock: ManualClock) -> RedisCache:
        return tier(self.fleet, self.prefix, 60, clock=clock)


class TestConfiguration:
    def test_wrong_arguments(self, subtests: pytest.Subtests) -> None:
        """Each is refused by name."""
        rows: list[tuple[Any, Any, str]] = [
            ("host", "main", "sentinels must be a list such as"),
            ([], "main", "sentinels must be a list such as"),
            (["h:1"], "main", "each of sentinels must be a tuple"),
            ([("h", 0)], "main", "port must be 1 to 65535, not 0"),
            ([("h", 1)], "", "service must not be empty"),
            ([("h", 1)], 5, "service must be a str, not 5"),
        ]
        for nodes, service, words in rows:
            with subtests.test(words=words), pytest.raises((TypeError, ValueError), match=words):
                RedisCache.sentinel(nodes, service)

    def test_urls(self, subtests: pytest.Subtests) -> None:
        """What stands in a URL is what the arguments say."""
        rows: list[tuple[str, str]] = [
            ("redis+sentinel://h/main", "'main' of the sentinels at h:26379"),
            ("redis+sentinel://h:1,k:2/main/3", "'main', db 3, of the sentinels at h:1, k:2"),
            (
                "rediss+sentinel://[::1]:5,h/a%20b/0?socket_timeout=3",
                "'a b' of the sentinels at ::1:5, h:26379",
            ),
            ("redis+sentinel://user:p%40ss@h/main?sentinel_username=u&sentinel_password=w", "'main' of"),
        ]
        for url, words in rows:
            with subtests.test(url=url), RedisCache(url=url) as cache:
                assert words in repr(cache)
                assert "p%40ss" not in repr(cache._address)
                with pickle.loads(pickle.dumps(cache)) as copy:
                    assert copy._address == cache._address
        with RedisCache(url=rows[1][0]) as cache, RedisCache(url=rows[3][0]) as named:
            assert cache._address is not None
            assert named._address is not None
            assert named._address.sentinels is not None
            assert (named._address.sentinels.username, named._address.sentinels.password) == ("u", "w")
            assert cache._address.url == "redis://localhost/3"
            assert named._address.url == "redis://user:p%40ss@localhost/0"

    def test_wrong_urls(self, subtests: pytest.Subtests) -> None:
        """Each is refused, and not repeated: there may be a password in it."""
        rows = [
            "redis+sentinel://:hunter2@h", "redis+sentinel://:hunter2@h/", "redis+sentinel://:hunter2@/main",
            "redis+sentinel://:hunter2@h:1,/main", "redis+sentinel://:hunter2@h:99999/main",
            "redis+sentinel://:hunter2@h:port/main", "redis+sentinel://:hunter2@h/main/db",
            "redis+sentinel://:hunter2@h/main?no_such_option=1", "unix+sentinel://:hunter2@h/main",
            "redis+sentinel://:hunter2@h/main?sentinel_password",
        ]  # fmt: skip
        for url in rows:
            with subtests.test(url=url), pytest.raises(ValueError, match="is not shown") as caught:
                RedisCache(url=url)
            assert "hunter" not in str(caught.value)
            assert caught.value.__cause__ is None

    def test_clients_that_read_from_replicas(self, fleet: Fleet, prefix: str) -> None:
        """They are refused: a replica still has what was invalidated. One of the primary is taken."""
        sentinels: Any = Sentinel(  # type: ignore[no-untyped-call]
            fleet.nodes,
            sentinel_kwargs={"password": SENTINEL_PASSWORD, "socket_timeout": 60},
            password=PASSWORD,
        )
        with pytest.raises(ValueError, match=r"must not read from replicas.*Sentinel\.master_for"):
            RedisCache(client=sentinels.slave_for("main"))
        with sentinels.master_for("main") as client, RedisCache(client=client, key_prefix=prefix) as cache:
            cache.set_value("k", 1)
            assert cache.get_value("k") == 1
        for one in sentinels.sentinels:
            one.close()

    def test_by_url_and_by_the_environment(
        self, fleet: Fleet, prefix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All ways lead to the same primary."""
        monkeypatch.setenv("CACHEKIT_REDIS_URL", fleet.url)
        monkeypatch.setenv("CACHEKIT_NAMESPACE", prefix.rstrip(":"))
        found = config.redis_cache()
        assert found is not None
        with found, RedisCache(url=fleet.url, key_prefix=found.key_prefix, timeout=60) as cache:
            cache.set_value("k", 1)
            assert found.get_value("k") == 1
            with fleet.primary().client(password=PASSWORD) as client:
                assert list(client.scan_iter(f"{found.key_prefix}*"))

    def test_the_doctor(self, fleet: Fleet) -> None:
        """It finds the primary, and what that says of itself."""
        command = [sys.executable, "-m", "cachekit", "doctor", "--redis", fleet.url]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "reachable" in ended.stdout, ended.stderr
        assert re.search(r"version: (valkey|redis) \d", ended.stdout), ended.stdout
        assert "hunter2" not in ended.stdout + ended.stderr

    def test_a_forked_child(self, fleet: Fleet, prefix: str) -> None:
        """It asks the sentinels over connections of its own."""
        with IntelligentCache(MemoryCache(), tier(fleet, prefix, 60), file_cache=None) as cache:
            assert cache.set("k", 1)
            assert in_fork(lambda: cache.set("k", 2))() == 0
            wait_until(lambda: cache.get("k") == 2, "the child's write is seen")
            inside.primary(cache)
            assert cache.set("k", 3)

    def test_awaited(self, fleet: Fleet, prefix: str) -> None:
        """The facade has the constructor too."""
        cache = aio.RedisCache.sentinel(
            fleet.nodes, "main", prefix, password=PASSWORD, sentinel_password=SENTINEL_PASSWORD, timeout=60
        )
        with cache.sync as core:
            assert core.set_value("k", 1)
            assert "'main' of the sentinels at" in repr(core)


def test_a_handler_that_makes_the_first_call_within_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the interrupted call made is closed, with its connections to sentinels; the handler's is kept."""
    with RedisCache.sentinel([("127.0.0.1", 1)], "main") as cache:
        made: list[Primary] = []

        def interrupted(address: Address) -> Primary | None:
            primary = primary_of(address)
            assert primary is not None
            made.append(primary)
            if len(made) == 1:
                cache._server._open()
            return primary

        monkeypatch.setattr(client, "primary_of", interrupted)
        opened = cache._server._open()
        assert cache._server._open() is opened
        discarded, kept = made
        assert cache._server._primary is kept
        assert [pool._closed for _, pool in discarded._asked] == [True]
        assert [pool._closed for _, pool in kept._asked] == [False]


class TestReasons:
    """A tier that cannot be had says why, and says no password."""

    def refused(self, cache: RedisCache) -> str:
        with cache, pytest.raises(TierUnavailableError) as caught:
            cache.get("k")
        cause: BaseException | None = caught.value
        while cause is not None:
            assert "hunter2" not in str(cause)
            cause = cause.__cause__
        return str(caught.value)

    def test_no_such_service(self, fleet: Fleet) -> None:
        cache = RedisCache.sentinel(fleet.nodes, "other", sentinel_password=SENTINEL_PASSWORD, timeout=60)
        assert "no sentinel names a primary for 'other'" in (words := self.refused(cache))
        assert words.count("knows no such service") == 3

    def test_no_sentinel(self) -> None:
        words = self.refused(RedisCache.sentinel([("127.0.0.1", 1)], "main"))
        assert "127.0.0.1:1 (ConnectionError: Error 111 connecting" in words

    def test_wrong_passwords(self, fleet: Fleet) -> None:
        """Of the sentinels, and of the servers."""
        wrong = RedisCache.sentinel(fleet.nodes, "main", sentinel_password="hunter2", timeout=60)
        assert "WRONGPASS" in self.refused(wrong)
        none = RedisCache.sentinel(fleet.nodes, "main", timeout=60)
        assert "NOAUTH" in self.refused(none)
        wrong = RedisCache.sentinel(
            fleet.nodes, "main", password="hunter2", sentinel_password=SENTINEL_PASSWORD, timeout=60
        )
        assert "WRONGPASS" in self.refused(wrong)

    def test_a_replica(self, fleet: Fleet) -> None:
        """A sentinel that is wrong about the primary leads to no read of a replica."""
        primary = fleet.primary().port
        (replica,) = [server.port for server in fleet.servers if server.port != primary]
        words = (
            b"*8\r\n$5\r\nflags\r\n$6\r\nmaster\r\n$12\r\nconfig-epoch\r\n$1\r\n0\r\n$2\r\nip\r\n$1\r\nx\r\n"
        )
        words += b"$4\r\nport\r\n$1\r\n1\r\n"
        address = b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%d\r\n" % (len(str(replica)), replica)
        for pieces, said in [
            ([words, address], f"127.0.0.1:{replica} is a replica by now"),
            ([words, words], "the sentinel names no address"),
            ([b"*1\r\n$1\r\nx\r\n", address], "the answer is not one to this command"),
        ]:
            with LyingServer(fleet.nodes[0][1]) as liar:
                answers = iter(pieces * 2)
                liar.lies["SENTINEL"] = (lambda: iter([next(answers)]), 0)  # noqa: B023
                cache = RedisCache.sentinel([("127.0.0.1", liar.port)], "main", password=PASSWORD, timeout=60)
                cache_words = self.refused(
                    RedisCache.sentinel(
                        [("127.0.0.1", liar.port)], "main", password=PASSWORD,
                        sentinel_password=SENTINEL_PASSWORD, timeout=60,
                    )
                )  # fmt: skip
                cache.close()
                assert said in cache_words

    def test_a_user_without_role(self, fleet: Fleet, prefix: str) -> None:
        """It says which permission is missing."""
        with fleet.primary().client(password=PASSWORD) as client:
            client.execute_command(
                "ACL", "SETUSER", "poor", "on", ">hunter2-poor", "~*", "&*", "+@all", "-role"
            )
            cache = RedisCache.sentinel(
                fleet.nodes, "main", prefix, username="poor", password="hunter2-poor",
                sentinel_password=SENTINEL_PASSWORD, timeout=60,
            )  # fmt: skip
            assert "give it +role" in self.refused(cache)
            client.execute_command("ACL", "DELUSER", "poor")


def written(cache: IntelligentCache, key: str) -> bool:
    """Whether a write reached the server."""
    redis_cache = cache.redis_cache
    assert redis_cache is not None
    return cache.set(key, 0) and redis_cache.peek(key) is not None


class TestFailover:
    def test_the_primary_is_killed(self, own_fleet: Fleet, prefix: str) -> None:
        """Writes work again, and what is written then is never read stale on another host."""
        gone = own_fleet.primary()
        with (
            IntelligentCache(MemoryCache(), tier(own_fleet, prefix), file_cache=None) as writer,
            IntelligentCache(MemoryCache(), tier(own_fleet, prefix), file_cache=None) as reader,
        ):
            assert written(writer, "k")
            assert reader.get("k") == 0
            begun = time.monotonic()
            gone.kill()

            def works(cache: IntelligentCache) -> bool:
                try:
                    return written(cache, "k")
                except TierUnavailableError:
                    return False

            wait_until(lambda: works(writer), "writes work again")
            again = time.monotonic() - begun
            wait_until(lambda: works(reader), "they do on the other host")
            stale = 0
            for number in range(150):
                writer.set("k", number, tags={"t"})
                wait_until(lambda: reader.get("k") == number, "the write is seen")  # noqa: B023
                writer.invalidate_by_tags({"t"}) if number % 2 else writer.delete("k")
                wait_until(lambda: reader.get("k") is None, "the invalidation is seen")
                assert reader.redis_cache is not None
                stale += reader.redis_cache.get("k") is not None
            assert stale == 0
            print(f"writes work again after {again:.1f} s; 300 writes, {stale} stale reads of the server")

    @pytest.mark.soak
    def test_the_primary_is_frozen_and_comes_back(self, own_fleet: Fleet, prefix: str) -> None:
        """A host that did nothing at the time does not read from it."""
        gone = own_fleet.primary()
        with (
            tier(own_fleet, prefix) as writer,
            IntelligentCache(MemoryCache(), tier(own_fleet, prefix), file_cache=None) as idle,
        ):
            writer.set_value("k", "old")
            assert idle.get("k") == "old"
            assert idle.redis_cache is not None
            assert idle.redis_cache.get("k") is not None
            with gone.frozen():
                own_fleet.wait_for_failover(gone)

                def works() -> bool:
                    try:
                        return writer.set_value("k", "new")
                    except TierUnavailableError:
                        return False

                wait_until(works, "writes work again")
                new = [server.port for server in own_fleet.servers if server is not gone]
                wait_until(lambda: [inside.primary(idle)[1]] == new, "the idle host has noticed")
            for _ in range(200):
                assert idle.redis_cache.peek("k").value == "new"  # type: ignore[union-attr]
                assert idle.get("k") == "new"

    @pytest.mark.soak
    def test_an_operator_moves_the_primary(self, own_fleet: Fleet, prefix: str) -> None:
        """The earlier one goes on as a primary for seconds; caches leave it at once."""
        gone = own_fleet.primary()
        with IntelligentCache(MemoryCache(), tier(own_fleet, prefix), file_cache=None) as idle:
            assert written(idle, "k")
            own_fleet.plain[0].execute_command("SENTINEL", "FAILOVER", "main")
            new = [server.port for server in own_fleet.servers if server is not gone]
            wait_until(lambda: [inside.primary(idle)[1]] == new, "the idle host has noticed")
            with gone.client(password=PASSWORD) as client:
                assert client.info("replication")["role"] == "master"
