"""Connections to one server, each of which is lent to one thread at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cachekit.runtime.reentrant_lock import RLock


class LentConnections:
    """Connections of a driver, which connect at their first use. Safe in any thread.

    After a fork the child makes other ones.

    Args:
        make: makes a connection that is not connected yet. Its method `disconnect` closes it. Used again, it
            connects.
        most: the largest number of connections.
        patience: seconds to wait for one when all are in use.
    """

    def __init__(self, make: Callable[[], Any], most: int, patience: float) -> None:
        self._make = make
        self._free: list[Any] = []
        self._most = most
        self._made = 0
        # Taken by its own `with`: that of a Condition may be left taken by a signal handler's exception.
        self._lock = RLock()
        self._returned = threading.Condition(self._lock)
        self._waiting = 0
        self._patience = patience
        self._closed = False

    @contextmanager
    def lent(self) -> Iterator[Any]:
        """Lend a connection; it is closed if an exception ends its use.

        Raises:
            TimeoutError: all are in use.
        """
        connection: Any = None
        try:
            connection = self._taken()
            yield connection
        except BaseException:
            # An answer may still arrive, which the next command would take for its own.
            if connection is not None:
                connection.disconnect()
            raise
        finally:
            if connection is not None:
                self._free.append(connection)
                if self._waiting:
                    self._notify()
        if self._closed:
            self.close()

    def _taken(self) -> Any:
        """Return a connection. A caller does not take what others wait for."""
        if not self._waiting:
            try:
                return self._free.pop()
            except IndexError:
                pass
        return self._another()

    def _notify(self) -> None:
        with self._lock:
            self._returned.notify()

    def _another(self) -> Any:
        """Make a connection, or wait for one that another thread gives back."""
        with self._lock:
            if self._made < self._most:
                connection = self._make()  # which does not connect yet
                self._made += 1
                return connection
            is_first = not self._waiting
            # Counted before the look at what is free: a thread that gives back later notifies.
            self._waiting += 1
            try:
                end = time.monotonic() + self._patience
                # The first one to wait is notified first. One that comes later does not look before it is.
                notified = is_first or self._returned.wait(end - time.monotonic())
                while True:
                    try:
                        return self._free.pop()
                    except IndexError:
                        if not notified:
                            raise TimeoutError("all connections are in use") from None
                    notified = self._returned.wait(end - time.monotonic())
            finally:
                self._waiting -= 1
                if self._free and self._waiting:
                    self._returned.notify()  # of one that was given back while only this caller waited

    def close(self) -> None:
        """Close the connections; one that is in use is closed afterwards."""
        self._closed = True
        while self._free:
            try:
                self._free.pop().disconnect()
            except IndexError:  # another thread closes them as well
                return
