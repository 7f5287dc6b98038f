"""A network that is cut between a host and memcached."""

from __future__ import annotations

import shutil
import sys

import cut_network
import pytest

_TIER = """
from memcached_server import MemcachedServer
from cachekit import MemcachedCache

server = MemcachedServer()
end = server.kill

def make(timeout):
    return MemcachedCache([server.address], timeout=timeout)

def read(tier):
    return tier._store.read(["k"])["k"].data

def write(tier, value):
    tier._store.write("k", value, 1000)  # the tier itself would read before
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a network of its own takes Linux")
@pytest.mark.skipif(shutil.which("memcached") is None, reason="memcached is not installed")
def test_a_write_that_failed_does_not_arrive_later() -> None:
    """The system would go on sending it over the closed connection, and it would replace what is newer."""
    pytest.importorskip("pymemcache")
    cut_network.check(_TIER)
