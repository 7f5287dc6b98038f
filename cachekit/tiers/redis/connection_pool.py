"""Connections for one command at a time, without what a client of the driver adds to each.

A command over `redis.Redis` and its pool takes two thirds of its time in them; over a connection of the
driver itself it does not. What is left to do is here: lend each connection to one thread at a time, at most
so many, try once more after a broken or silent one, and never use one again whose answer was not read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, final


@final
class ConnectionPool:
    """Connections to one server. Safe in any thread; after a fork the child makes another `ConnectionPool`.

    Args:
        connection: makes one that is not connected yet, and does not retry by itself.
        most: how many there may be.
        patience: seconds to wait for one when all are in use.
    """

    def __init__(self, connection: Callable[[], Any], most: int, patience: float) -> None:
        from redis import exceptions

        self._connection = connection
        self._free: list[Any] = []
        self._places = threading.BoundedSemaphore(most)
        self._patience = patience
        self._full = exceptions.ConnectionError
        self._answers = exceptions.ResponseError
        self._elsewhere = exceptions.ReadOnlyError
        self._broken = (exceptions.ConnectionError, exceptions.TimeoutError)
        self._closed = False

    def ask(self, *command: Any) -> Any:
        """The answer to a command; tried once more if the connection breaks or stays silent."""
        if not self._places.acquire(timeout=self._patience):
            raise self._full("all connections are in use")
        try:
            try:
                line = self._free.pop()
            except IndexError:
                line = self._connection()
            try:
                try:
                    answer = self._exchange(line, command)
                except self._broken:
                    line.disconnect()
                    answer = self._exchange(line, command)
            except self._answers as error:
                if isinstance(error, self._elsewhere):
                    line.disconnect()  # after a failover its name may lead to the new main server
                self._free.append(line)
                raise
            except BaseException:
                # An answer may be on its way, which the next command would take for its own.
                line.disconnect()
                raise
            self._free.append(line)
        finally:
            self._places.release()
        if self._closed:
            self.close()
        return answer

    @staticmethod
    def _exchange(line: Any, command: tuple[Any, ...]) -> Any:
        line.send_command(*command, check_health=False)
        return line.read_response()

    def close(self) -> None:
        """Close the connections; one that is in use now, when it is not any more."""
        self._closed = True
        while self._free:
            try:
                self._free.pop().disconnect()
            except IndexError:  # another thread closes them too
                return
