"""A connection to a memcached server: pymemcache's, with a socket of our own."""

from __future__ import annotations

import socket
import time
from typing import Any, Final, final

from pymemcache.client.base import Client

from cachekit.tiers.socket_options import DISCARD_UNSENT

#: Bytes of an answer for each of which it may take another `timeout`.
_PORTION: Final = 4 << 20
_MOST: Final = 512 << 20  # bytes of an answer, as of one from Redis


@final
class Line:
    """A connected socket whose answers have a deadline, however few bytes arrive at a time.

    Args:
        connected: the socket. It waits for `timeout` in each call.
        timeout: seconds to the first byte of an answer, and again to its end and for each 4 MiB.
    """

    __slots__ = ("_begun", "_moved", "_socket", "_timeout")

    def __init__(self, connected: socket.socket, timeout: float) -> None:
        self._socket = connected
        self._timeout = timeout
        self._begun: float | None = None
        self._moved = 0

    def sendall(self, data: bytes) -> None:
        """Send a command; its answer has a deadline of its own."""
        self._begun = None
        self._socket.sendall(data)

    def recv(self, size: int) -> bytes:
        """Receive at most so many bytes of the answer."""
        now = time.monotonic()
        if self._begun is None:
            self._begun, self._moved = now, 0
        elif now > self._begun + self._timeout * (2 + self._moved // _PORTION):
            raise TimeoutError("the answer took too long")
        data = self._socket.recv(size)
        received = len(data)
        self._moved += received
        if self._moved > _MOST:
            raise ConnectionError(f"the server sent more than {_MOST} bytes at once")
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


@final
class Connection(Client):  # type: ignore[misc]  # the driver has no types
    """Connects at its first command, and again at the first one after `disconnect`.

    Args:
        server: its host and port.
        timeout: seconds to wait for a connection or an answer.
    """

    def __init__(self, server: tuple[str, int], timeout: float) -> None:
        # Writes wait for their answer, which the driver does not do by itself.
        super().__init__(server, connect_timeout=timeout, timeout=timeout, default_noreply=False)

    # The driver has no public name for what makes its socket. It tries one address of a name alone.
    def _connect(self) -> None:
        self.close()
        made = socket.create_connection(self.server, self.connect_timeout)
        made.settimeout(self.timeout)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setsockopt(*DISCARD_UNSENT)
        self.sock = Line(made, self.timeout)

    def disconnect(self) -> None:
        """Close the socket."""
        self.close()

    def __del__(self) -> None:
        self.close()  # of a tier that was dropped
