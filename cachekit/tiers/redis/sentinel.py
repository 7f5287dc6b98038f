"""The primary that sentinels name, and connections to it alone.

A primary that was replaced may still answer, with values that were invalidated since. So each connection
first asks the sentinels, and then the server whether it is a primary. When another server becomes the
primary, all connections to the earlier one are shut down, those that wait for messages included.
"""

from __future__ import annotations

import socket
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, final

from cachekit.runtime.interrupts import interrupt_behind
from cachekit.runtime.reentrant_lock import RLock
from cachekit.tiers.redis.address import Sentinels
from cachekit.tiers.redis.answers import is_role, is_text_pairs
from cachekit.tiers.redis.connection_pool import ConnectionPool
from cachekit.tiers.redis.line import Line
from cachekit.tiers.redis.resp import ServerError, WrongReplyError, packed, read_reply

_CHUNK: Final = 1 << 16


class _Named(NamedTuple):
    """What one sentinel says."""

    epoch: int  #: counts failovers
    host: str
    port: int

    @property
    def address(self) -> tuple[str, int]:
        """Where it is."""
        return self.host, self.port


@final
class Primary:
    """Finds the primary of a service, and opens connections to it. Safe in any thread.

    Args:
        sentinels: the sentinels, and the name of the service.
        pools: connections to each of them, in the same order.
        open_connection: connects and logs in to the host and port of a connection.
    """

    def __init__(
        self,
        sentinels: Sentinels,
        pools: Sequence[ConnectionPool],
        open_connection: Callable[[Any], Line],
    ) -> None:
        self._service = sentinels.service
        # Those that failed last come last. Replaced as a whole, because threads read it without the lock.
        self._asked = tuple(zip(sentinels.nodes, pools, strict=True))
        self._open = open_connection
        self._lock = RLock()  # a signal handler may connect in the middle of this
        self._named = _Named(-1, "", 0)
        self._connections: weakref.WeakSet[Any] = weakref.WeakSet()

    def open(self, connection: Any) -> Line:
        """Connect to the primary, log in, and return the line.

        Raises:
            ServerError, OSError: no sentinel names a primary, or it does not answer as one.
        """
        named = self.look()
        connection.host, connection.port = named.host, named.port
        line = self._open(connection)
        try:
            self._check_role(line, named)
            with self._lock:
                self._connections.add(connection)
                # Otherwise a connection that took long would be to a primary that was replaced since.
                if self._named.address != named.address:
                    raise ConnectionError("another server became the primary")
        except BaseException:
            connection.disconnect()
            raise
        return line

    def look(self) -> _Named:
        """Return the primary that the sentinels name, and shut down connections to any other server.

        Raises:
            OSError: no sentinel names one.
        """
        known = self._named
        found, failed = None, []
        for one in self._asked:
            node, pool = one
            try:
                answer = self._ask(pool)
            except (ServerError, OSError) as error:
                if interrupt_behind(error) is not None:
                    raise
                failed.append((one, f"{node[0]}:{node[1]} ({type(error).__name__}: {error})"))
                continue
            # A sentinel that lost contact with the others names a primary that they have replaced. Sentinels
            # that were all set up again count from 0.
            if found is None or answer.epoch > found.epoch:
                found = answer
            if answer.epoch >= known.epoch:
                break
        if failed:
            last = [one for one, _ in failed]
            self._asked = (*(one for one in self._asked if one not in last), *last)
        if found is None:
            reasons = ", ".join(reason for _, reason in failed)
            raise ConnectionError(f"no sentinel names a primary for {self._service!r}: {reasons}")
        with self._lock:
            before = self._named
            if before is not known and found.epoch < before.epoch:
                raise ConnectionError("another server became the primary")  # while this thread asked
            # Nothing runs between the line that reads the name and this one (see `model.counters`).
            self._named = found
            if before.address != found.address:
                for connection in list(self._connections):
                    _shut_down(connection.line)
                self._connections.clear()
        return found

    def _ask(self, pool: ConnectionPool) -> _Named:
        """Return the primary that a sentinel names."""
        try:
            words = pool.ask(is_text_pairs, "SENTINEL", "MASTER", self._service)
            # This one changes as soon as the new primary takes writes, and the other one later.
            address = pool.ask(is_text_pairs, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
        except ServerError as error:
            if error.code != "ERR":
                raise
            raise ConnectionError("it knows no such service") from None
        said = dict(zip(words[::2], words[1::2], strict=True))
        flags = said.get(b"flags", b"").split(b",")
        if b"master" not in flags or b"s_down" in flags or b"o_down" in flags:
            raise ConnectionError("it holds the primary for down")
        try:
            host, port = address
            return _Named(int(said[b"config-epoch"]), host.decode(), int(port))
        except (KeyError, ValueError):
            raise WrongReplyError("the sentinel names no address") from None

    def close(self) -> None:
        """Close the connections to the sentinels."""
        for _, pool in self._asked:
            pool.close()

    @staticmethod
    def _check_role(line: Line, named: _Named) -> None:
        line.sendall(packed(("ROLE",)))
        try:
            role = read_reply(line, line.recv(_CHUNK))
        except ServerError as error:
            if error.code != "NOPERM":
                raise
            raise PermissionError("the user may not ask for ROLE; give it +role") from None
        if not is_role(role):
            raise WrongReplyError("the answer is not one to this command")
        if role[0] != b"master":
            raise ConnectionError(f"{named.host}:{named.port} is a replica by now")
        line.restore_timeout()


def _shut_down(line: Line | None) -> None:
    """End the exchange that a thread has over a line; the thread closes it."""
    if line is not None:
        try:
            # Not the method of a TLS socket, which would let the thread read what is encrypted.
            socket.socket.shutdown(line.socket, socket.SHUT_RDWR)
        except OSError:  # the server has closed it
            pass
