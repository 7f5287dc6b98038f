"""A server that is a script: it passes commands on to a real one, and lies in its answers where told to.

As the single node of a Cluster too. It speaks the protocol over TCP, so whatever parses its answers is real.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import sha1
from typing import BinaryIO, Self, TypeAlias

from cachekit.tiers.redis import scripts

#: What is sent in place of the answer: at once, or piece by piece with so many seconds between them.
Lie: TypeAlias = bytes | tuple[Callable[[], Iterator[bytes]], float]

SCRIPTS = {
    name: getattr(scripts, name.upper()).text
    for name in (
        "put", "create", "replace", "add", "remove", "tokens", "acquire", "release",
        "figures_want", "figures_publish", "figures_read", "figures_fold",
    )
}  # fmt: skip
_NAMES = {sha1(text, usedforsecurity=False).hexdigest().encode(): name for name, text in SCRIPTS.items()}
_NAMES |= {text: name for name, text in SCRIPTS.items()}


def name_of(command: list[bytes]) -> str:
    """GET, CLUSTER SLOTS; of scripts their own names, in lower case."""
    first = command[0].upper().decode()
    if first in ("EVAL", "EVALSHA"):
        return _NAMES[command[1]]
    if first in ("CLIENT", "CLUSTER", "MEMORY"):
        return f"{first} {command[1].upper().decode()}"
    return first


class LyingServer:
    """Use it in a `with` block. `lies` says what is sent in place of which answers."""

    def __init__(self, upstream: int, *, is_cluster: bool = False) -> None:
        self.lies: dict[str, Lie] = {}
        self.asked: list[str] = []
        self.open = 0  # connections of clients
        self._sockets: set[socket.socket] = set()
        self._upstream = upstream
        self._is_cluster = is_cluster
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError, ValueError):
                    outer._serve(self.request)

        self._listener = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self._listener.daemon_threads = False  # then closing it waits for them
        self._listener.request_queue_size = 100
        self._listener.server_bind()
        self._listener.server_activate()
        self.port: int = self._listener.server_address[1]
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown()
        for one in list(self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._listener.server_close()
        self._thread.join()

    def _serve(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with (
            client.makefile("rb") as commands,
            socket.create_connection(("127.0.0.1", self._upstream)) as upstream,
            upstream.makefile("rb") as said,
        ):
            upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets |= {client, upstream}
            self.open += 1
            pump = threading.Thread(target=_pump, args=(said, client))
            try:
                self._converse(client, commands, upstream, said, pump)
            finally:
                self.open -= 1
                self._sockets -= {client, upstream}
                with contextlib.suppress(OSError):
                    upstream.shutdown(socket.SHUT_RDWR)
                if pump.ident is not None:
                    pump.join()

    def _converse(
        self,
        client: socket.socket,
        commands: BinaryIO,
        upstream: socket.socket,
        said: BinaryIO,
        pump: threading.Thread,
    ) -> None:
        while command := _command(commands):
            name = name_of(command)
            self.asked.append(name)
            lie = self.lies.get(name)
            if self._is_cluster and name.startswith("CLUSTER"):
                answer = self._slots()
            elif name in ("ASKING", "READONLY"):
                answer = b"+OK\r\n"
            else:
                upstream.sendall(_packed(command))
                answer = _answer(said)
            if lie is None:
                client.sendall(answer)
            elif isinstance(lie, bytes):
                client.sendall(lie)
            else:
                pieces, pause = lie
                for piece in pieces():
                    client.sendall(piece)
                    time.sleep(pause)  # the speed of this server
            if name == "SUBSCRIBE":
                pump.start()
                while command := _command(commands):
                    upstream.sendall(_packed(command))

    def _slots(self) -> bytes:
        return b"*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$9\r\n127.0.0.1\r\n:%d\r\n$4\r\nnode\r\n" % self.port


def _command(stream: BinaryIO) -> list[bytes]:
    line = stream.readline()
    if not line:
        return []
    parts = []
    for _ in range(int(line[1:])):
        size = int(stream.readline()[1:])
        parts.append(stream.read(size + 2)[:-2])
    return parts


def _packed(parts: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def _answer(stream: BinaryIO) -> bytes:
    """One answer of the real server, as it is."""
    line = stream.readline()
    kind, length = line[:1], line[1:-2]
    if kind in b"$=!" and length != b"-1":
        return line + stream.read(int(length) + 2)
    parts = {b"*": 1, b"~": 1, b">": 1, b"%": 2}.get(kind, 0)
    if parts and length != b"-1":
        return line + b"".join(_answer(stream) for _ in range(parts * int(length)))
    return line


def _pump(stream: BinaryIO, client: socket.socket) -> None:
    with contextlib.suppress(OSError, ValueError):
        while True:
            client.sendall(_answer(stream))
