"""A connection to a memcached server: pymemcache's, with a socket of our own."""

from __future__ import annotations

import socket
from typing import final

from pymemcache.client.base import Client

from cachekit.tiers.socket_options import DISCARD_UNSENT


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
        self.sock = made

    def disconnect(self) -> None:
        """Close the socket."""
        self.close()

    def __del__(self) -> None:
        self.close()  # of a tier that was dropped
