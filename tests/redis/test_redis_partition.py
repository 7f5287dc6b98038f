"""A network that is cut: what failed meanwhile does not come after what was written since."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from redis_server import RedisServer

from cachekit.tiers.redis.answers import is_pong
from cachekit.tiers.redis.call_deadline import CallDeadline
from cachekit.tiers.redis.connection import cluster_of, pool_of
from cachekit.tiers.redis.tier import RedisCache

_SUPPORT = Path(__file__).parents[1] / "support"

#: Runs in a network of its own, whose only interface it can take down and up again.
_PROGRAM = """
import ctypes, fcntl, socket, struct, sys
from pathlib import Path

NEWUSER, NEWNET, SET_FLAGS, UP, FIN_WAIT1 = 0x10000000, 0x40000000, 0x8914, 1, "04"
if ctypes.CDLL(None).unshare(NEWUSER | NEWNET):
    sys.exit(77)

def network(up):
    with socket.socket() as one:
        fcntl.ioctl(one, SET_FLAGS, struct.pack("16sh14x", b"lo", UP if up else 0))

def unfinished():
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return [line for line in lines if line.split()[3] == FIN_WAIT1]

network(True)
from redis_server import RedisServer, wait_until
from cachekit import RedisCache, TierUnavailableError

server = RedisServer()
cache, patient = RedisCache(url=server.url, timeout=0.1), RedisCache(url=server.url, timeout=60)

def connect():
    try:
        return cache.get_value("k") == "first"
    except TierUnavailableError:  # a busy machine takes longer than that
        return False

try:
    patient.set_value("k", "first")
    wait_until(connect, "there is a connection")
    network(False)
    try:
        cache.set_value("k", "older")
        raise AssertionError("it was stored over no network")
    except TierUnavailableError:
        pass
    network(True)
    patient.close()  # its connection is of before
    patient = RedisCache(url=server.url, timeout=60)
    patient.set_value("k", "newer")
    wait_until(lambda: not unfinished(), "the system has sent all that it means to send")
    assert patient.get_value("k") == "newer", patient.get_value("k")
finally:
    cache.close()
    patient.close()
    server.close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a network of its own takes Linux")
def test_a_write_that_failed_does_not_arrive_later() -> None:
    """The system would go on sending it over the closed connection, and it would replace what is newer."""
    environment = {"PYTHONPATH": str(_SUPPORT)}
    ended = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=200, env=environment
    )
    if ended.returncode == 77:
        pytest.skip("this user may not make a network")
    assert ended.returncode == 0, ended.stderr


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
        cluster.close()
