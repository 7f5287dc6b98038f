"""Connections for one command at a time, without what the driver adds to each command.

A command over `redis.Redis` spends most of its time in the client, its pool and its parser. This pool only
lends each connection to one thread at a time, bounds their number, and tries once more after a broken or
silent one. It never uses a connection again whose answer was not read. The driver makes the connections: it
knows TLS, logging in and what else an address says.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, final

from cachekit.runtime.interrupts import interrupt_behind
from cachekit.tiers.redis.resp import ServerError, packed, read_reply


@final
class ConnectionPool:
    """Connections to one server. Safe in any thread. After a fork the child makes another pool.

    Args:
        make: makes a connection that is not connected yet, and does not retry by itself.
        most: the largest number of connections.
        patience: seconds to wait for one when all are in use.
    """

    def __init__(self, make: Callable[[], Any], most: int, patience: float) -> None:
        from redis import exceptions

        self._make = make
        self._free: list[Any] = []
        self._most = most
        self._made = 0
        self._returned = threading.Condition()
        self._waiting = 0
        self._patience = patience
        self._full = exceptions.ConnectionError
        self._answers = exceptions.ResponseError
        self._elsewhere = exceptions.ReadOnlyError
        self._broken = (exceptions.ConnectionError, exceptions.TimeoutError, OSError)
        self._closed = False

    def ask(self, *command: Any) -> Any:
        """Return the answer to a command; try once more if the connection breaks or stays silent."""
        message = packed(command)
        try:
            connection = self._free.pop()
        except IndexError:
            connection = self._another()
        try:
            try:
                answer = self._exchange(connection, message)
            except self._broken as error:
                connection.disconnect()
                if interrupt_behind(error) is not None:
                    raise
                answer = self._exchange(connection, message)
        except self._answers as error:
            if isinstance(error, self._elsewhere):
                connection.disconnect()  # after a failover its name may lead to the new primary
            raise
        except BaseException:
            # An answer may still arrive, which the next command would take for its own.
            connection.disconnect()
            raise
        finally:
            self._free.append(connection)
            if self._waiting:
                with self._returned:
                    self._returned.notify()
        if self._closed:
            self.close()
        return answer

    def _another(self) -> Any:
        """Make a connection, or wait for one that another thread gives back."""
        with self._returned:
            if self._made < self._most:
                connection = self._make()  # which does not connect yet
                self._made += 1
                return connection
            # Counted before the look at what is free: a thread that gives back later notifies.
            self._waiting += 1
            try:
                end = time.monotonic() + self._patience
                while True:
                    try:
                        return self._free.pop()
                    except IndexError:
                        if not self._returned.wait(end - time.monotonic()):
                            raise self._full("all connections are in use") from None
            finally:
                self._waiting -= 1

    @staticmethod
    def _exchange(connection: Any, message: bytes) -> Any:
        # The driver has no public names for the socket of a connection and for the exceptions of its errors.
        if connection._sock is None:
            connection.connect()
        line = connection._sock
        line.sendall(message)
        try:
            return read_reply(line)
        except ServerError as error:
            raise connection._parser.parse_error(str(error)) from None

    def close(self) -> None:
        """Close the connections; one that is in use is closed afterwards."""
        self._closed = True
        while self._free:
            try:
                self._free.pop().disconnect()
            except IndexError:  # another thread closes them as well
                return
