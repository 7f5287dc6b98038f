"""RESP, the protocol of the server: packs commands, and reads replies from a socket.

The driver's own packing and reading take longer than the server does.
"""

from __future__ import annotations

import socket
from typing import Any, Final

_CHUNK: Final = 1 << 16
_LARGEST_CHUNK: Final = 1 << 20

# The first bytes of the replies that the tier's commands have, in either version of the protocol.
_BULK: Final = ord("$")
_ARRAY: Final = ord("*")
_PUSH: Final = ord(">")
_INTEGER: Final = ord(":")
_STATUS: Final = ord("+")
_NULL: Final = ord("_")
_ERROR: Final = ord("-")


class ServerError(Exception):
    """An error that the server replied with."""


class Push(list[Any]):
    """What the server sends to subscribers, in the newer version of the protocol. It is no reply."""


class BrokenReplyError(OSError):
    """The connection has ended, or what came over it is no reply."""


def packed(command: tuple[bytes | str | int, ...]) -> bytes:
    """Return a command as it is sent."""
    parts = [part if type(part) is bytes else str(part).encode() for part in command]
    return b"".join([b"*%d\r\n" % len(parts), *[b"$%d\r\n%b\r\n" % (len(part), part) for part in parts]])


def read_reply(connection: socket.socket) -> Any:
    """Return the reply that the socket receives. An error inside of an array is returned in its place.

    Raises:
        ServerError: the reply is an error.
        OSError: there is none.
    """
    data = connection.recv(_CHUNK)
    if data[:1] == b"$":  # a value: the most frequent reply, and mostly received at once
        end = data.find(b"\r\n")
        begin = end + 2
        if end > 0 and data[1:end] == b"%d" % (len(data) - begin - 2):
            return data[begin:-2]
    if not data:
        raise BrokenReplyError("the server closed the connection")
    replies = Replies(connection, data)
    reply = replies.next()
    if type(reply) is Push or not replies.is_empty():
        # The next command would take it for its own reply.
        raise BrokenReplyError("the server sent more than one reply")
    if type(reply) is ServerError:
        raise reply
    return reply


class Replies:
    """Replies in the order in which a socket receives them.

    Args:
        connection: the socket.
        data: what it has received already.
    """

    __slots__ = ("_at", "_connection", "_data")

    def __init__(self, connection: socket.socket, data: bytes = b"") -> None:
        self._connection = connection
        self._data = data
        self._at = 0

    def is_empty(self) -> bool:
        """Return whether all was read that was received."""
        return self._at == len(self._data)

    def receive(self, least: int) -> None:
        """Receive until so many bytes are unread."""
        pieces = [self._data[self._at :]]
        missing = least - len(pieces[0])
        while missing > 0:
            piece = self._connection.recv(min(max(missing, _CHUNK), _LARGEST_CHUNK))
            if not piece:
                raise BrokenReplyError("the server closed the connection within a reply")
            pieces.append(piece)
            missing -= len(piece)
        self._data = b"".join(pieces)
        self._at = 0

    def next(self) -> Any:
        """Return the next reply. One that is an error is returned as well, also within an array.

        Raises:
            OSError: there is none.
        """
        try:
            return self._next()
        except (ValueError, RecursionError) as error:
            raise BrokenReplyError("the server sent what is no reply") from error

    def _next(self) -> Any:
        while (end := self._data.find(b"\r\n", self._at)) < 0:
            self.receive(len(self._data) - self._at + 1)
        kind, begin = self._data[self._at], self._at + 1
        self._at = end + 2
        if kind == _BULK:
            size = int(self._data[begin:end])
            if size < 0:
                return None
            if len(self._data) < self._at + size + 2:
                self.receive(size + 2)
            begin = self._at
            self._at = begin + size + 2
            return self._data[begin : begin + size]
        content = self._data[begin:end]
        if kind == _INTEGER:
            return int(content)
        if kind == _ARRAY:
            return None if content == b"-1" else self._array(int(content))
        if kind == _PUSH:
            return Push(self._array(int(content)))
        if kind == _STATUS:
            return content
        if kind == _NULL:
            return None
        if kind == _ERROR:
            return ServerError(content.decode("utf-8", "replace"))
        raise BrokenReplyError(f"the server sent a reply of the unknown kind {chr(kind)!r}")

    def _array(self, size: int) -> list[Any]:
        replies: list[Any] = []
        data, at = self._data, self._at
        for _ in range(size):
            end = data.find(b"\r\n", at)
            if end > 0 and data[at] == _BULK:  # what `_next` does, without a call for each value
                begin = end + 2
                stop = begin + int(data[at + 1 : end])
                if begin <= stop <= len(data) - 2:
                    replies.append(data[begin:stop])
                    at = stop + 2
                    continue
            self._at = at
            replies.append(self._next())
            data, at = self._data, self._at
        self._at = at
        return replies
