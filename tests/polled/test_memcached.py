"""The memcached tier: the suite of all tiers, that of servers without messages, and a full server."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from memcached_server import MemcachedServer
from polled_servers import PolledServerTests, Server

from cachekit import MemcachedCache
from cachekit.errors import SerializationError
from cachekit.testing import ManualClock, TierContract
from cachekit.tiers.base import ServerTier
from cachekit.tiers.memcached.store import MemcachedStore
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

    def _client(self, tier: PolledTier) -> Any:
        assert isinstance(tier._store, MemcachedStore)
        return tier._store._connected()[self.server.address]

    def lose(self, tier: PolledTier, name: str) -> None:
        assert self._client(tier).delete(name)

    def forge(self, tier: PolledTier, name: str, data: bytes) -> None:
        self._client(tier).set(name, data)


def test_wrong_arguments(subtests: pytest.Subtests) -> None:
    """Each is refused by name."""
    rows: list[tuple[dict[str, Any], str]] = [
        ({"servers": "host"}, "servers must be a list such as"),
        ({"servers": 5}, "servers must be a list such as"),
        ({"servers": []}, "servers must be a list such as"),
        ({"servers": [("h", 0)]}, "each of servers must be a tuple"),
        ({"servers": ["h:1"]}, "each of servers must be a tuple"),
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
