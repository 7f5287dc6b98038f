"""Leases between the hosts of a fleet: keys of a Redis server that end by themselves."""

from __future__ import annotations

import os
from typing import Any, Final, final

from cachekit.errors import TierUnavailableError

_LONGEST: Final = 365 * 24 * 3600  # seconds

# KEYS[1] the lease, ARGV[1] the holder's token; returns 1 if it was the holder's and is gone, else 0.
# In one step: between a GET and a DEL of ours it might expire, and the DEL would be of the next holder's.
_RELEASE: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('DEL', KEYS[1])
end
return 0
"""


@final
class FleetLease:
    """A lease of `FleetLeases`; see `Lease`. Its methods ask the server, and raise as `try_acquire` does."""

    __slots__ = ("_leases", "_name", "_pid", "_token")

    def __init__(self, leases: FleetLeases, name: bytes, token: str) -> None:
        self._leases = leases
        self._name = name
        self._token = token
        self._pid = os.getpid()

    def release(self) -> None:
        """Give it back, unless it has ended already and may be another's."""
        if os.getpid() == self._pid:
            self._leases._ask("eval", _RELEASE, 1, self._name, self._token)

    def is_held(self) -> bool:
        """Whether it is still on the server, and this is no child of a fork."""
        return os.getpid() == self._pid and _text(self._leases._ask("get", self._name)) == self._token


@final
class FleetLeases:
    """Leases between all that share a Redis or Valkey server, or a cluster. Safe in any thread.

    A lease ends by itself, so a host that is gone holds nothing for longer. No connection is kept while
    one is held.

    Args:
        client: a `redis.Redis` or `redis.RedisCluster`; it stays the caller's.
        prefix: what its keys on the server begin with.
        seconds: after how long a lease ends.

    Raises:
        ValueError: `seconds` of less than a millisecond, or more than a year.

    The pattern is that of "Distributed Locks with Redis" for one instance: a random token, set if there is
    none, deleted if it is ours. The server may lose it in a failover; then two load.
    """

    __slots__ = ("_client", "_errors", "_milliseconds", "_prefix")

    def __init__(self, client: Any, prefix: str, seconds: float = 30.0) -> None:
        from redis.exceptions import RedisClusterException, RedisError

        if not 0.001 <= seconds <= _LONGEST:
            raise ValueError(f"seconds must be 0.001 to {_LONGEST} (a year), not {seconds!r}")
        self._client = client
        self._prefix = prefix
        self._milliseconds = int(seconds * 1000)
        # What redis-py raises for a cluster that is gone is none of its RedisErrors.
        self._errors = (RedisError, RedisClusterException, OSError)

    def try_acquire(self, key: str) -> FleetLease | None:
        """The lease of a key, or None if somebody has it. One round trip; does not wait.

        If it fails, the server may have set the lease all the same; it then ends by itself.

        Raises:
            TierUnavailableError: the server could not be asked; the driver's error is the cause.
        """
        # In braces, which no prefix of the Redis tier has: so it is no key of a cache whose prefix is longer.
        name = f"{self._prefix}{{lease:{key}}}".encode("utf-8", "surrogatepass")
        token = os.urandom(16).hex()
        # With GET (Redis 7.0) the server says whose it is. When a reply was lost, the driver has asked a
        # second time, and finds our own token there.
        holder = self._ask("set", name, token, nx=True, px=self._milliseconds, get=True)
        return FleetLease(self, name, token) if holder is None or _text(holder) == token else None

    def _ask(self, command: str, *arguments: object, **options: object) -> Any:
        try:
            return getattr(self._client, command)(*arguments, **options)
        except self._errors as error:
            raise TierUnavailableError(f"the server of the leases did not answer: {error}") from error


def _text(answer: object) -> object:
    # A client that was made with decode_responses gives str. What a stranger has put there may be anything.
    return answer.decode("ascii", "replace") if isinstance(answer, bytes) else answer
