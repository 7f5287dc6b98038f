"""A network that is cut: what failed meanwhile does not come after what was written since."""

from __future__ import annotations

import socket
import struct
import sys
from typing import Any

import cut_network
import pytest
from redis_server import RedisServer

from cachekit.tiers.redis.answers import is_pong
from cachekit.tiers.redis.call_deadline import CallDeadline
from cachekit.tiers.redis.connection import cluster_of, pool_of
from cachekit.tiers.redis.tier import RedisCache

_TIER = """
from redis_server import RedisServer
from cachekit import RedisCache

server = RedisServer()
end = server.close

def make(timeout):
    return RedisCache(url=server.url, timeout=timeout)

def read(cache):
    return cache.get_value("k")

def write(cache, value):
    cache.set_value("k", value)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a network of its own takes Linux")
def test_a_write_that_failed_does_not_arrive_later() -> None:
    """The system would go on sending it over the closed connection, and it would replace what is newer."""
    cut_network.check(_TIER)


def forgets(connection: Any) -> bool:
    """Whether what the connection has not sent when it is closed is never sent."""
    lingers, seconds = struct.unpack(
        "ii", connection._sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
    )
    return bool(lingers) and not seconds


@pytest.mark.parametrize("path", ["", "/socket"])
def test_all_connections_forget(server: RedisServer, path: str) -> None:
    """Whatever the address."""
    url = f"unix://{server.directory}{path}" if path else server.url
    with RedisCache(url=url, timeout=60) as cache:
        assert cache._address is not None
        pool = pool_of(cache._address)
        pool.ask(is_pong, "PING")
        assert forgets(pool._free[0])
        pool.close()


def test_those_to_a_cluster_forget(cluster_nodes: list[tuple[str, int]]) -> None:
    """Each of its nodes has connections of its own."""
    with RedisCache.cluster(cluster_nodes, timeout=60) as cache:
        assert cache._address is not None
        cluster = cluster_of(cache._address, CallDeadline(cache._address.timeout))
        nodes = [cluster.get_redis_connection(node) for node in cluster.get_primaries()]
        assert [forgets(node.connection_pool.get_connection()) for node in nodes] == [True] * 3
        cluster.disconnect_connection_pools()  # which its own `close` leaves to the collector
