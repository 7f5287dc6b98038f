"""Leases between the hosts of a fleet: keys on a Redis server that expire."""

from __future__ import annotations

import os
from typing import Final, final

from cachekit.model.display import safe_repr
from cachekit.tiers.redis.client import Call, Client
from cachekit.tiers.redis.scripts import ACQUIRE, RELEASE

_LONGEST: Final = 365 * 24 * 3600  # seconds


@final
class FleetLease:
    """A lease of `FleetLeases`. Its methods ask the server, and raise what `try_acquire` raises."""

    __slots__ = ("_name", "_pid", "_server", "_token")

    def __init__(self, server: Client, name: bytes, token: str) -> None:
        self._server = server
        self._name = name
        self._token = token
        self._pid = os.getpid()

    def release(self) -> None:
        """Give it back, unless it has expired and may have another holder."""
        if os.getpid() == self._pid:
            self._server.run([Call(RELEASE, [self._name], [self._token])])

    def is_held(self) -> bool:
        """Return whether it is still on the server, and this is no child of a fork."""
        return os.getpid() == self._pid and self._server.read(self._name) == self._token.encode()


@final
class FleetLeases:
    """Leases between all clients of a Redis or Valkey server, or Cluster. Safe in any thread.

    A lease expires, so a host that is gone holds it no longer than that. No connection is kept while a lease
    is held.

    Args:
        server: the client of the server.
        prefix: the beginning of the keys on the server.
        seconds: seconds until a lease expires (default 30).

    Raises:
        ValueError: `seconds` of less than a millisecond, or more than a year.

    The pattern is that of "Distributed Locks with Redis" for one instance: a random token, set if the key is
    free, deleted if it is still the holder's. The server may lose it in a failover; then two hosts load.
    """

    __slots__ = ("_milliseconds", "_prefix", "_server")

    def __init__(self, server: Client, prefix: str, seconds: float = 30.0) -> None:
        if not 0.001 <= seconds <= _LONGEST:
            raise ValueError(f"seconds must be 0.001 to {_LONGEST} (a year), not {safe_repr(seconds)}")
        self._server = server
        self._prefix = prefix
        self._milliseconds = int(seconds * 1000)

    def try_acquire(self, key: str) -> FleetLease | None:
        """Return the lease of a key, or None if another client holds it. One round trip; does not wait.

        If it fails, the server may have set the lease all the same. That lease expires.

        Raises:
            TierUnavailableError: the server did not answer.
        """
        # No prefix of the Redis tier has braces, so no cache with a longer prefix has a key of this name.
        name = f"{self._prefix}{{lease:{key}}}".encode("utf-8", "surrogatepass")
        token = os.urandom(16).hex()
        # If a reply was lost, the client asks a second time, and the script finds the token of this call.
        (taken,) = self._server.run([Call(ACQUIRE, [name], [token, self._milliseconds])])
        return FleetLease(self._server, name, token) if taken else None
