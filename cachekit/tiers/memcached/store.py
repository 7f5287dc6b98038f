"""Items on memcached servers: which server has a name, and what its answers mean.

A name is always on the same server of the list, whether that answers or not. A client that moves names to
other servers and back would read what the first one had before. Every write waits for the answer. Without
that, a load could be stored over a newer value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from importlib.util import find_spec
from typing import Any, Final, TypeVar, final

from cachekit.errors import CacheClosedError, TierUnavailableError, ValueTooLargeError
from cachekit.model.display import safe_repr, typed_repr
from cachekit.model.validation import seconds
from cachekit.runtime import fork
from cachekit.runtime.interrupts import interrupt_behind
from cachekit.runtime.reentrant_lock import RLock
from cachekit.tiers.lent_connections import LentConnections
from cachekit.tiers.polled import Item

_CONNECTIONS: Final = 32
_LONGEST_LIFE: Final = 30 * 24 * 3600  # seconds; servers take more for a date

R = TypeVar("R")


@final
class MemcachedStore:
    """A `PolledStore` on memcached servers. Safe in any thread, before and after a fork.

    The first call imports pymemcache.

    Args:
        servers: host and port of each, the same list in the same order or another one on all hosts.
        timeout: seconds to wait for a connection or an answer.

    Raises:
        TypeError, ValueError: an argument is wrong.
        ModuleNotFoundError: the extra `memcached` is not installed.
    """

    def __init__(self, servers: Sequence[tuple[str, int]], timeout: float) -> None:
        self._servers = _checked(servers)
        self._timeout = seconds(timeout, "timeout")
        if not 0 < self._timeout <= 3600:
            raise ValueError(f"timeout must be more than 0 and at most 3600 seconds, not {timeout!r}")
        if find_spec("pymemcache") is None:
            raise ModuleNotFoundError(
                "MemcachedCache needs pymemcache; install it with: pip install 'cachekit-tiered[memcached]'"
            )
        self._lock = RLock()  # signal handlers use caches too
        self._pools: dict[tuple[str, int], LentConnections] = {}
        self._closed = False
        fork.register(self)

    def _connected(self) -> dict[tuple[str, int], LentConnections]:
        """Return the connections to each server, which connect by themselves."""
        pools = self._pools
        if pools:
            return pools
        with self._lock:
            if not self._pools:
                from cachekit.tiers.memcached.connection import Connection

                self._pools = {
                    server: LentConnections(
                        partial(Connection, server, self._timeout), _CONNECTIONS, self._timeout
                    )
                    for server in self._servers
                }
            return self._pools

    def _home(self, name: str) -> tuple[str, int]:
        """Return the server of a name: the one with the highest digest (rendezvous hashing)."""
        if len(self._servers) == 1:
            return self._servers[0]
        return max(self._servers, key=lambda one: blake2b(f"{one[0]}:{one[1]} {name}".encode()).digest())

    def _ask(self, server: tuple[str, int], call: Callable[[Any], R], again: bool) -> R:
        """Return the answer of a server.

        Args:
            server: the server.
            call: what to ask over a connection to it.
            again: whether to ask once more if a connection broke. A second try may find its own first one.
        """
        from pymemcache.exceptions import MemcacheError, MemcacheUnexpectedCloseError

        if self._closed:
            raise CacheClosedError("this tier was closed; make a new one")
        try:
            with self._connected()[server].lent() as connection:
                try:
                    return call(connection)
                except (OSError, MemcacheUnexpectedCloseError) as error:
                    # The driver has closed it, so a second try connects again.
                    if not again or isinstance(error, TimeoutError) or interrupt_behind(error) is not None:
                        raise
                    return call(connection)
        except (OSError, MemcacheError, ValueError, LookupError) as error:
            struck = interrupt_behind(error)
            if struck is not None:
                raise struck from None
            host, port = server
            if "too large" in str(error):
                raise ValueTooLargeError(
                    f"the value must be smaller than what memcached at {host}:{port} takes (its option -I, "
                    f"1 MiB by default); start it with a higher limit, or cache the parts of the value"
                ) from None
            if isinstance(error, (ValueError, LookupError)):
                # The driver cannot read it, and says no more than that.
                raise TierUnavailableError(
                    f"what answers at {host}:{port} is no memcached; pass the host and port of one"
                ) from error
            full = "out of memory" in str(error)
            raise TierUnavailableError(
                f"memcached at {host}:{port} failed: {type(error).__name__}: {error}", full=full
            ) from error

    def read(self, names: Sequence[str]) -> dict[str, Item]:
        """Return the items that are there, in one round trip for each server."""
        homes: dict[tuple[str, int], list[str]] = {}
        for name in names:
            homes.setdefault(self._home(name), []).append(name)
        found: dict[str, Item] = {}
        for server, some in homes.items():
            answer = self._ask(server, lambda connection: connection.gets_many(some), True)  # noqa: B023
            found |= {name: Item(data, version) for name, (data, version) in answer.items()}
        return found

    def write(self, name: str, data: bytes, life: float | None) -> None:
        """Store an item in place of an older one."""
        self.write_either(name, data, lambda: data, life)

    def write_either(self, name: str, data: bytes, other: Callable[[], bytes], life: float | None) -> None:
        """Store `data` in place of an older item; or `other()`, if the connection broke before an answer."""
        tries = iter((lambda: data, other))
        self._stored(
            self._ask(
                self._home(name), lambda connection: connection.set(name, next(tries)(), _life(life)), True
            )
        )

    def _stored(self, stored: bool) -> None:
        if not stored:
            raise TierUnavailableError("memcached did not store the item", full=True)

    def add(self, name: str, data: bytes, life: float | None) -> bool:
        """Store an item if there is none; return whether it was stored."""
        return bool(
            self._ask(self._home(name), lambda connection: connection.add(name, data, _life(life)), False)
        )

    def replace(self, name: str, data: bytes, life: float | None, version: object) -> bool:
        """Store an item in place of the one that has this version; return whether it was stored."""
        # None if the item is gone.
        return bool(
            self._ask(
                self._home(name), lambda connection: connection.cas(name, data, version, _life(life)), False
            )
        )

    def ping(self) -> None:
        """Return if all servers answer."""
        for server in self._servers:
            self._ask(server, lambda connection: connection.version(), True)

    def close(self) -> None:
        """Close the connections."""
        self._closed = True
        for pool in self._pools.values():
            pool.close()

    def before_fork(self) -> None:
        """Take the lock."""
        self._lock.acquire()

    def after_fork(self, in_child: bool) -> None:
        """Leave the parent's connections alone in the child."""
        if in_child:
            self._lock = RLock()
            self._pools = {}
        else:
            self._lock.release()

    def __repr__(self) -> str:
        return "memcached at " + ", ".join(f"{host}:{port}" for host, port in self._servers)


def _life(life: float | None) -> int:
    """Return whole seconds, rounded up; 0 is no end. What lives longer has its end in its data alone."""
    return 0 if life is None or life > _LONGEST_LIFE else max(1, math.ceil(life))


def _is_name(host: str) -> bool:
    try:
        host.encode("idna")  # as Python does before it looks one up
    except UnicodeError:
        return False
    return True


def _checked(servers: Sequence[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    if isinstance(servers, str) or not isinstance(servers, Sequence) or not servers:
        raise TypeError(
            f"servers must be a list such as [('host', 11211)], not {typed_repr(servers)}; "
            f"write MemcachedCache([('host', 11211)])"
        )
    for server in servers:
        match server:
            case (str(host), int()) if not _is_name(host):
                raise ValueError(
                    f"the host of each of servers must be a name that can be looked up, not {safe_repr(host)}"
                )
            case (str(host), int(port)) if host and not {"/", "@"} & set(host) and 1 <= port <= 65535:
                continue
        raise TypeError(
            f"each of servers must be a tuple (host, port), such as ('host', 11211), "
            f"not {safe_repr(server)}; leave out the scheme and the login of a URL"
        )
    if len(set(servers)) != len(servers):
        raise ValueError(f"servers must be different, not {safe_repr(servers)}")
    return tuple(servers)
