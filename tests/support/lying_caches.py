"""Caches over a server that lies: connections of their own, and clients that are passed in. A plugin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import inside
import pytest
import redis
from free_threads import HAS_GIL, collect
from lying_server import LyingServer
from redis._parsers import _HiredisParser, _RESP2Parser
from redis.backoff import NoBackoff
from redis.retry import Retry

from cachekit import CacheEntry, RedisCache
from cachekit.tiers.redis import figures_of
from cachekit.tiers.redis.connection_pool import ConnectionPool


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

    def figures() -> None:
        store = figures_of(cache)
        assert store is not None
        store.is_wanted()
        store.want(1)
        store.publish("1" * 32, 1, b"{}", begun=b"", last=0)
        for process, record in store.read().records.items():
            store.fold(process, record, {"loads/ok": 1})
        store.remove([b"f:" + b"1" * 32])

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
        "figures": figures,
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


@pytest.fixture
def liar(redis_port: int) -> Iterator[LyingServer]:
    with LyingServer(redis_port) as server:
        yield server
    _close_passed_in()


@pytest.fixture
def lying_cluster(redis_port: int) -> Iterator[LyingServer]:
    """The only node of a Cluster."""
    with LyingServer(redis_port, is_cluster=True) as server:
        yield server
    _close_passed_in()
    if not HAS_GIL:
        collect()  # or a later test would be told of what redis-py leaves to the collector


#: Clients that were passed in, which no cache closes.
_passed_in: list[Any] = []


def _close_passed_in() -> None:
    """Close their connections, whose sockets the collector may finalize first on a build without the GIL."""
    while _passed_in:
        client = _passed_in.pop()
        if isinstance(client, redis.RedisCluster):
            # Which its own `close` leaves to the collector.
            client.disconnect_connection_pools()  # type: ignore[no-untyped-call]
        else:
            client.connection_pool.disconnect()


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
    client = redis.Redis(connection_pool=pool)
    _passed_in.append(client)
    return RedisCache(client=client, key_prefix=prefix)


def foreign_cluster(server: LyingServer, prefix: str, timeout: float = 60) -> RedisCache:
    client = redis.RedisCluster("127.0.0.1", server.port, socket_timeout=timeout, retry=Retry(NoBackoff(), 1))
    _passed_in.append(client)
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


class Nothing:
    """The source of replies that are all here."""

    def recv(self, size: int, /) -> bytes:
        raise AssertionError(size)
