"""RESP, the protocol of the server: packs a command, and reads the reply to it from a socket.

The driver's own reading takes longer than the server does. A connection reads one reply at a time, and what
comes behind a whole reply is an error: the next command would take it for its own.
"""

from __future__ import annotations

import socket
from typing import Any, Final

_CHUNK: Final = 1 << 16
_LARGEST_CHUNK: Final = 1 << 20

# The first bytes of the replies that the tier's commands have, in either version of the protocol.
_BULK: Final = ord("$")
_ARRAY: Final = ord("*")
_INTEGER: Final = ord(":")
_STATUS: Final = ord("+")
_NULL: Final = ord("_")
_ERROR: Final = ord("-")


class ServerError(Exception):
    """An error that the server replied with."""


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
    replies = _Replies(connection, data)
    try:
        reply = replies.next()
    except (ValueError, RecursionError) as error:
        raise BrokenReplyError("the server sent what is no reply") from error
    if replies.unread():
        raise BrokenReplyError("the server sent more than one reply")
    if type(reply) is ServerError:
        raise reply
    return reply


class _Replies:
    """What was received, and how much of it was read."""

    __slots__ = ("_at", "_connection", "_data")

    def __init__(self, connection: socket.socket, data: bytes) -> None:
        self._connection = connection
        self._data = data
        self._at = 0
        if not data:
            raise BrokenReplyError("the server closed the connection")

    def unread(self) -> bool:
        return self._at != len(self._data)

    def _receive(self, least: int) -> None:
        """Receive until so many bytes are unread."""
        pieces = [self._data[self._at :]]
        self._at = 0
        missing = least - len(pieces[0])
        while missing > 0:
            piece = self._connection.recv(min(max(missing, _CHUNK), _LARGEST_CHUNK))
            if not piece:
                raise BrokenReplyError("the server closed the connection within a reply")
            pieces.append(piece)
            missing -= len(piece)
        self._data = b"".join(pieces)

    def next(self) -> Any:
        """Return the next reply; one that is an error as an exception."""
        while (end := self._data.find(b"\r\n", self._at)) < 0:
            self._receive(len(self._data) - self._at + 1)
        kind, begin = self._data[self._at], self._at + 1
        self._at = end + 2
        if kind == _BULK:
            size = int(self._data[begin:end])
            if size < 0:
                return None
            if len(self._data) < self._at + size + 2:
                self._receive(size + 2)
            begin = self._at
            self._at = begin + size + 2
            return self._data[begin : begin + size]
        content = self._data[begin:end]
        if kind == _INTEGER:
            return int(content)
        if kind == _ARRAY:
            return None if content == b"-1" else self._array(int(content))
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
            if end > 0 and data[at] == _BULK:  # what `next` does, without a call for each value
                begin = end + 2
                stop = begin + int(data[at + 1 : end])
                if begin <= stop <= len(data) - 2:
                    replies.append(data[begin:stop])
                    at = stop + 2
                    continue
            self._at = at
            replies.append(self.next())
            data, at = self._data, self._at
        self._at = at
        return replies
