"""A process between caches and their server, which makes outages without touching the server.

What it has not delivered when an outage begins is never delivered, as with a network that is cut.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Final, Literal, NoReturn, final
from urllib.parse import urlsplit, urlunsplit

from cachekit.testing.processes import fork

#: `cut` closes all connections and each new one. `hang` answers nothing, and then closes them.
OutageKind = Literal["cut", "hang"]

_CHUNK: Final = 1 << 16


@final
class Proxy:
    """Forwards connections to a server. `close` ends its process.

    Args:
        url: The URL of the server, with the scheme `redis`.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        listener = socket.create_server(("127.0.0.1", 0))
        self._control, theirs = Pipe()
        self.process = fork()
        if not self.process:
            self._control.close()
            _serve(listener, (parts.hostname or "localhost", parts.port or 6379), theirs)
        theirs.close()
        login = parts.netloc.rpartition("@")
        here = f"127.0.0.1:{listener.getsockname()[1]}"
        listener.close()
        #: The URL for the caches.
        self.url = urlunsplit((parts.scheme, login[0] + login[1] + here, *parts[2:]))

    def disturb(self, kind: OutageKind, seconds: float) -> None:
        """Begin an outage."""
        self._control.send((kind, seconds))

    def close(self) -> None:
        """End the process."""
        self._control.close()
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)


def _serve(listener: socket.socket, server: tuple[str, int], control: Connection) -> NoReturn:
    try:
        _Forwarding(listener, server, control).run()
    finally:
        os._exit(0)


@final
class _Forwarding:
    """The work of the process."""

    def __init__(self, listener: socket.socket, server: tuple[str, int], control: Connection) -> None:
        self._listener = listener
        self._server = server
        self._control = control
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(control, selectors.EVENT_READ)
        self._peers: dict[socket.socket, socket.socket] = {}
        self._kind: OutageKind | None = None
        self._until = 0.0

    def run(self) -> None:
        while True:
            if self._kind is not None and time.monotonic() >= self._until:
                self._close_all()
                self._kind = None
            for key, _ in self._selector.select(0.01 if self._kind else None):
                if key.fileobj is self._control:
                    self._begin_outage()
                elif self._kind == "hang":
                    time.sleep(0.001)  # all stays unread until the end of the outage
                elif key.fileobj is self._listener:
                    self._accept()
                else:
                    assert isinstance(key.fileobj, socket.socket)
                    self._forward(key.fileobj)

    def _begin_outage(self) -> None:
        try:
            self._kind, seconds = self._control.recv()
        except EOFError:  # the parent has ended
            os._exit(0)
        self._until = time.monotonic() + seconds
        if self._kind == "cut":
            self._close_all()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if self._kind == "cut":
            client.close()
            return
        try:
            server = socket.create_connection(self._server, timeout=5)
        except OSError:
            client.close()
            return
        for one, other in ((client, server), (server, client)):
            one.settimeout(5)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._peers[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _forward(self, one: socket.socket) -> None:
        other = self._peers.get(one)
        if other is None:  # closed since the selector saw it
            return
        try:
            data = one.recv(_CHUNK)
            other.sendall(data)
        except OSError:
            data = b""
        if not data:
            self._close(one, other)

    def _close(self, *sockets: socket.socket) -> None:
        for one in sockets:
            self._selector.unregister(one)
            del self._peers[one]
            one.close()

    def _close_all(self) -> None:
        self._close(*self._peers.copy())
