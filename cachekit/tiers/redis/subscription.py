"""A subscription: the messages of one channel, over a connection of its own."""

from __future__ import annotations

import socket
from typing import Any, Final, final

from cachekit.tiers.redis.line import Line
from cachekit.tiers.redis.resp import BrokenReplyError, Push, Replies, ServerError, WrongReplyError, packed

_CHUNK: Final = 1 << 18
#: Bytes of the longest message that is read. Those of caches are shorter, see `bus_protocol`.
LONGEST_MESSAGE: Final = 4 << 20


class _IncompleteError(Exception):
    """The rest of a message has not arrived yet."""


class _Nothing:
    """The source of replies of which only what is here is read."""

    def recv(self, size: int, /) -> bytes:  # noqa: ARG002  # as a socket's
        raise _IncompleteError


@final
class Subscription:
    """The messages of a channel. For one thread; its methods raise `OSError` or `ServerError`.

    It never waits for the rest of a message: a server that sends one byte at a time keeps no thread.

    Args:
        line: the connection, which is closed elsewhere.
        channel: the channel.
    """

    def __init__(self, line: Line, channel: bytes) -> None:
        self._line = line
        self._unread = b""
        self._send("SUBSCRIBE", channel)

    def receive(self, wait: float) -> list[list[Any]]:
        """Return what the server sent next: of each message its kind, the channel and the content.

        It returns nothing if no message is complete after so many seconds.
        """
        raw = self._line.socket
        raw.settimeout(wait)
        try:
            data = raw.recv(_CHUNK)
        except TimeoutError:
            return []
        if not data:
            raise BrokenReplyError("the server closed the connection")
        replies = Replies(_Nothing(), self._unread + data)
        messages: list[list[Any]] = []
        while not replies.is_empty():
            self._unread = replies.unread()
            try:
                reply = replies.next()
            except _IncompleteError:
                if len(self._unread) > LONGEST_MESSAGE:
                    raise WrongReplyError("the server sent a message that is too long") from None
                return messages
            if isinstance(reply, ServerError):
                raise reply
            messages.append(reply if type(reply) in (list, Push) else [reply])
        self._unread = b""
        return messages

    def interrupt(self) -> None:
        """Let `receive` end at once, in whatever thread it is; called from another one."""
        try:
            # Not that of a TLS socket, which would also wait for the server.
            socket.socket.shutdown(self._line.socket, socket.SHUT_RDWR)
        except OSError:  # it is closed already
            pass

    def ping(self) -> None:
        """Let the server send something."""
        self._send("PING")

    def _send(self, *command: str | bytes) -> None:
        self._line.sendall(packed(command))
        # `receive` reads from the socket, so the line does not see that this exchange is over. Otherwise the
        # next command would have the deadline of this one, which has passed by then.
        self._line.is_sending = False
