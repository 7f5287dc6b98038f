"""The socket of one connection, with bounds on what a server may take of it.

A socket has a time limit for each call, and a server that sends one byte for each call keeps a reader for
ever. A line has one deadline for all that is sent together, and one for all that comes back.
"""

from __future__ import annotations

import time
from typing import Any, Final, Protocol, final

from cachekit.tiers.redis.resp import WrongReplyError

#: Bytes that an exchange may move in each `timeout`. A large value takes longer than a small one.
PORTION: Final = 4 << 20
#: Bytes that may come back for what was sent together.
MOST_RECEIVED: Final = 512 << 20


class Call(Protocol):
    """A call that takes several exchanges."""

    moved: int  #: bytes

    def left(self) -> float:
        """Return the seconds that are left; raise TimeoutError if none are."""
        ...


@final
class Line:
    """A connected socket, as far as the driver and the tier use one. For one thread at a time.

    An exchange is what is sent, up to what is received next. Each direction has a deadline: `timeout` from
    its beginning, and as long again for each 4 MiB that it has moved.

    Args:
        socket: the socket, of a unix address, TCP or TLS.
        timeout: seconds; None for no deadline.
        call: what bounds the exchanges of a call together; None for nothing.
    """

    __slots__ = ("_begun", "_call", "_limit", "_moved", "is_sending", "socket", "timeout")

    def __init__(self, socket: Any, timeout: float | None, call: Call | None = None) -> None:
        self.socket = socket
        self.timeout = timeout
        self._call = call
        self._limit = timeout
        #: Whether what the line did last was to send. Who sends through the socket itself sets it.
        self.is_sending = False
        self._begin()

    def _begin(self) -> None:
        self._begun = time.monotonic()
        self._moved = 0

    def settimeout(self, limit: float | None) -> None:
        """Let no later call wait longer than so many seconds, whatever the deadline."""
        self._limit = limit

    def _await(self) -> None:
        """Let the next call of the socket wait until the deadline at most."""
        limit = self._limit
        if self.timeout is not None and limit != 0:  # the driver looks whether anything is there
            left = self._begun + self.timeout * (1 + self._moved // PORTION) - time.monotonic()
            if left <= 0:
                raise TimeoutError("the exchange took too long")
            if self._call is not None:
                left = min(left, self._call.left())
            limit = left if limit is None else min(left, limit)
        self.socket.settimeout(limit)

    def sendall(self, data: Any) -> None:
        """Send all of it."""
        if not self.is_sending:
            self.is_sending = True
            self._begin()
        view = memoryview(data)
        for start in range(0, len(view), PORTION):
            self._await()
            piece = view[start : start + PORTION]
            self.socket.sendall(piece)
            self._count(len(piece))

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Receive at most so many bytes."""
        self._await_reply()
        data: bytes = self.socket.recv(size, flags)
        self._count(len(data))
        return data

    def recv_into(self, buffer: Any) -> int:
        """Receive into a buffer; return how many bytes."""
        self._await_reply()
        received: int = self.socket.recv_into(buffer)
        self._count(received)
        return received

    def _count(self, size: int) -> None:
        self._moved += size
        if self._call is not None:
            self._call.moved += size

    def _await_reply(self) -> None:
        if self.is_sending:
            self.is_sending = False
            self._begin()
        elif self._moved > MOST_RECEIVED:
            raise WrongReplyError(f"the server sent more than {MOST_RECEIVED} bytes at once")
        self._await()

    def end_exchange(self) -> None:
        """Let the next exchange have a deadline of its own, and calls of the socket itself `timeout`."""
        if self.is_sending:
            self.is_sending = False  # all of the answer came through the socket itself
        else:
            self.restore_timeout()

    def restore_timeout(self) -> None:
        """Let calls of the socket itself wait for `timeout` again."""
        self.socket.settimeout(self.timeout)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.socket, name)
