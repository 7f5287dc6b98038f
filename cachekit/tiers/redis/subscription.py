"""A subscription: the messages of one channel, over a connection of its own."""

from __future__ import annotations

import re
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
        own: how the content of messages begins that are not returned, because this cache sent them.
    """

    def __init__(self, line: Line, channel: bytes, own: bytes) -> None:
        self._line = line
        self._unread = b""
        # Many at once, and in C: while this process writes, most of what comes is its own. The content is
        # JSON of one line.
        self._own = re.compile(
            rb"(?:[*>]3\r\n\$7\r\nmessage\r\n\$%d\r\n%b\r\n\$\d+\r\n%b[^\r]*+\r\n)++"
            % (len(channel), re.escape(channel), re.escape(own))
        )
        #: Whether the last `receive` received such messages.
        self.has_own = False
        self._send("SUBSCRIBE", channel)

    def receive(self, wait: float) -> list[list[Any]]:
        """Return what the server sent next: of each message its kind, the channel and the content.

        It returns nothing if no message is complete after so many seconds.
        """
        self.has_own = False
        raw = self._line.socket
        raw.settimeout(wait)
        try:
            data = raw.recv(_CHUNK)
        except TimeoutError:
            return []
        if not data:
            raise BrokenReplyError("the server closed the connection")
        data = self._unread + data
        replies = Replies(_Nothing(), data)
        messages: list[list[Any]] = []
        while not replies.is_empty():
            if replies.skip(self._own):
                self.has_own = True
                continue
            read = replies.position()
            try:
                reply = replies.next()
            except _IncompleteError:
                self._unread = data[read:]
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
