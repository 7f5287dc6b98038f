"""Leases between the hosts of a fleet: keys on a Redis server that expire."""

from __future__ import annotations

import os
from typing import Any, Final, final

from cachekit.errors import TierUnavailableError

_LONGEST: Final = 365 * 24 * 3600  # seconds

# KEYS[1] the lease, ARGV[1] the holder's token; returns 1 if it was the holder's and is gone, else 0.
# In one step: between a GET and a DEL it might expire, and the DEL would remove the next holder's.
_RELEASE: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('DEL', KEYS[1])
end
return 0
"""


@final
class FleetLease:
    """A lease of `FleetLeases`. Its methods ask the server, and raise what `try_acquire` raises."""

    __slots__ = ("_leases", "_name", "_pid", "_token")

    def __init__(self, leases: FleetLeases, name: bytes, token: str) -> None:
        self._leases = leases
        self._name = name
        self._token = token
        self._pid = os.getpid()

    def release(self) -> None:
        """Give it back, unless it has expired and may have another holder."""
        if os.getpid() == self._pid:
            self._leases._ask("eval", _RELEASE, 1, self._name, self._token)

    def is_held(self) -> bool:
        """Return whether it is still on the server, and this is no child of a fork."""
        return os.getpid() == self._pid and _text(self._leases._ask("get", self._name)) == self._token


@final
class FleetLeases:
    """Leases between all clients of a Redis or Valkey server, or Cluster. Safe in any thread.

    A lease expires, so a host that is gone holds it no longer than that. No connection is kept while a lease
    is held.

    Args:
        client: a `redis.Redis` or `redis.RedisCluster`. It is never closed here.
        prefix: the beginning of the keys on the server.
        seconds: seconds until a lease expires (default 30).

    Raises:
        ValueError: `seconds` of less than a millisecond, or more than a year.

    The pattern is that of "Distributed Locks with Redis" for one instance: a random token, set if the key is
    free, deleted if it is still the holder's. The server may lose it in a failover; then two hosts load.
    """

    __slots__ = ("_client", "_errors", "_milliseconds", "_prefix")

    def __init__(self, client: Any, prefix: str, seconds: float = 30.0) -> None:
        from redis.exceptions import RedisClusterException, RedisError

        if not 0.001 <= seconds <= _LONGEST:
            raise ValueError(f"seconds must be 0.001 to {_LONGEST} (a year), not {seconds!r}")
        self._client = client
        self._prefix = prefix
        self._milliseconds = int(seconds * 1000)
        # What redis-py raises for a Cluster that is gone is no RedisError.
        self._errors = (RedisError, RedisClusterException, OSError)

    def try_acquire(self, key: str) -> FleetLease | None:
        """Return the lease of a key, or None if another client holds it. One round trip; does not wait.

        If it fails, the server may have set the lease all the same. That lease expires.

        Raises:
            TierUnavailableError: the server did not answer; the driver's error is the cause.
        """
        # No prefix of the Redis tier has braces, so no cache with a longer prefix has a key of this name.
        name = f"{self._prefix}{{lease:{key}}}".encode("utf-8", "surrogatepass")
        token = os.urandom(16).hex()
        # With GET (Redis 7.0) the server returns the holder's token. If a reply was lost, the driver asks a
        # second time, and finds the token of this call.
        holder = self._ask("set", name, token, nx=True, px=self._milliseconds, get=True)
        return FleetLease(self, name, token) if holder is None or _text(holder) == token else None

    def _ask(self, command: str, *arguments: object, **options: object) -> Any:
        try:
            return getattr(self._client, command)(*arguments, **options)
        except self._errors as error:
            raise TierUnavailableError(f"the server of the leases did not answer: {error}") from error


def _text(answer: object) -> object:
    # A client with decode_responses returns str. Another program may have stored anything there.
    return answer.decode("ascii", "replace") if isinstance(answer, bytes) else answer
