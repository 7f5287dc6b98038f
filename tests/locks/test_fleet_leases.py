"""Leases between hosts, on real servers."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import redis
from forking import in_fork
from racing import race

from cachekit.errors import TierUnavailableError
from cachekit.testing.processes import in_processes
from cachekit.tiers.redis.client import Client
from cachekit.tiers.redis.lease import FleetLeases

NAME = "app:{lease:k}"


def test_one_host_has_it(lease_server: Any) -> None:
    """Of 4 processes and of 4 threads one; release frees it for the next."""

    def try_once(host: int) -> bool:
        with lease_server.client() as client:
            return FleetLeases(Client(None, client), "app:").try_acquire("k") is not None

    assert sorted(in_processes(4, try_once)) == [False, False, False, True]
    with lease_server.client() as client:
        client.delete(NAME)
        leases = FleetLeases(Client(None, client), "app:")
        got = race(*[lambda: leases.try_acquire("k")] * 4)
        (lease,) = [one for one in got if one is not None]
        assert lease.is_held()
        lease.release()
        assert not lease.is_held()
        assert leases.try_acquire("k") is not None
        assert leases.try_acquire("other") is not None


def test_any_key_will_do(lease_server: Any) -> None:
    """Half a surrogate pair is a character like any other."""
    with lease_server.client() as client:
        leases = FleetLeases(Client(None, client), "app:")
        lease = leases.try_acquire("\ud800\0}")
        assert lease is not None
        assert lease.is_held()
        assert leases.try_acquire("\ud800\0}") is None


def test_what_a_stranger_put_there(lease_server: Any) -> None:
    """It counts as somebody else's lease, whatever its bytes."""
    with lease_server.client() as client:
        client.set(NAME, b"\xa1\xff")
        assert FleetLeases(Client(None, client), "app:").try_acquire("k") is None


def test_it_ends_by_itself(lease_server: Any) -> None:
    """The server has its time of life from the first moment on."""
    with lease_server.client() as client:
        assert FleetLeases(Client(None, client), "app:", seconds=20).try_acquire("k") is not None
        assert 0 < client.pttl(NAME) <= 20_000


def test_who_lost_it_releases_nothing_of_the_next(lease_server: Any) -> None:
    """Neither when it is gone, nor when another has it by now."""
    with lease_server.client() as client:
        leases = FleetLeases(Client(None, client), "app:")
        late = leases.try_acquire("k")
        assert late is not None
        client.delete(NAME)  # as when its time is over
        late.release()
        current = leases.try_acquire("k")
        assert current is not None
        assert not late.is_held()
        late.release()
        assert current.is_held()


def test_a_lost_reply_does_not_lose_the_lease(lease_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver asks again and finds the token there: it is ours, since nobody else can have it."""
    monkeypatch.setattr(os, "urandom", bytes)
    with lease_server.client() as client:
        client.set(NAME, "00" * 16, px=10_000)  # what the first attempt did
        lease = FleetLeases(Client(None, client), "app:").try_acquire("k")
        assert lease is not None
        assert lease.is_held()


@pytest.mark.parametrize("protocol", [2, 3])
def test_any_client_will_do(lease_server: Any, protocol: int) -> None:
    """Of either version of the protocol."""
    with lease_server.client(protocol=protocol) as client:
        leases = FleetLeases(Client(None, client), "app:")
        lease = leases.try_acquire("k")
        assert lease is not None
        assert leases.try_acquire("k") is None
        assert lease.is_held()
        lease.release()
        assert client.get(NAME) is None


def test_no_connection_is_held(lease_server: Any) -> None:
    """A pool of one serves others, and other leases, while one is held."""
    pool = redis.ConnectionPool(port=lease_server.port, max_connections=1)
    with redis.Redis(connection_pool=pool) as client:
        leases = FleetLeases(Client(None, client), "app:")
        held = [leases.try_acquire(str(number)) for number in range(5)]
        assert None not in held
        assert client.ping()
    pool.disconnect()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_child_holds_and_releases_nothing_of_its_parents(lease_server: Any) -> None:
    """Though it knows the token."""
    with lease_server.client() as client:
        lease = FleetLeases(Client(None, client), "app:").try_acquire("k")
        assert lease is not None

        def in_child() -> None:
            assert not lease.is_held()
            lease.release()

        assert in_fork(in_child)() == 0
        assert lease.is_held()


def test_a_server_that_is_frozen_or_gone_is_an_error_of_the_tier(own_server: Any) -> None:
    """With the driver's error for a cause; a lease that was held says it too."""
    with own_server.client() as client:
        leases = FleetLeases(Client(None, client), "app:")
        lease = leases.try_acquire("k")
        assert lease is not None
        # A short patience, from here on, where nobody answers.
        client.connection_pool.connection_kwargs["socket_timeout"] = 0.25
        client.connection_pool.reset()
        for end in (signal.SIGSTOP, signal.SIGKILL):
            own_server.process.send_signal(end)
            for ask in (lambda: leases.try_acquire("other"), lease.is_held, lease.release):
                with pytest.raises(TierUnavailableError, match="failed") as caught:
                    ask()
                assert isinstance(caught.value.__cause__, OSError)


def test_a_cluster_has_them_too(cluster: Any) -> None:
    """And when it is gone, that is the same error."""
    client = redis.RedisCluster(host="127.0.0.1", port=cluster.port, socket_timeout=20)
    leases = FleetLeases(Client(None, client), "app:")
    held = [leases.try_acquire(key) for key in ("a", "b", "{c}")]
    assert None not in held
    assert leases.try_acquire("a") is None
    for lease in held:
        assert lease is not None
        assert lease.is_held()
        lease.release()
        assert not lease.is_held()
    cluster.close()
    with pytest.raises(TierUnavailableError, match="failed"):
        leases.try_acquire("a")
    client.close()


def test_a_lease_of_no_time_or_for_ever_is_refused() -> None:
    """Named, with the value."""
    for seconds in (0, -1, float("nan"), float("inf"), 1e30):
        with pytest.raises(ValueError, match=r"seconds must be 0\.001 to"):
            FleetLeases(Client(None, redis.Redis()), "app:", seconds)
