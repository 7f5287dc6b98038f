"""RESP, the protocol of the server: packs commands, and reads replies from a connection.

The driver's own packing and reading take longer than the server does. A server may send anything: a reply is
bounded in size, in number of parts and in depth, and what breaks a bound is no reply.
"""

from __future__ import annotations

import re
from typing import Any, Final, Protocol, TypeAlias

from cachekit.serialization.parts import Parts, Payload, pieces_of

#: What a command may have beside its name.
Argument: TypeAlias = Payload | str | int

#: Bytes of the largest value. A larger one would keep the server from other clients for too long.
LARGEST: Final = 64 << 20

_CHUNK: Final = 1 << 16
_LARGEST_CHUNK: Final = 1 << 20
_LONGEST_LINE: Final = 1 << 16  # bytes of a status, an error or a number, and of the header of a value
_MOST_DIGITS: Final = 20  # of a number of 64 bits with its sign
_MOST_PARTS: Final = 100_000  # of arrays within one reply; SCAN returns little more than 1,000
_DEEPEST: Final = 8  # arrays within arrays

# The first bytes of the replies that the tier's commands have, in either version of the protocol.
_BULK: Final = ord("$")
_ARRAY: Final = ord("*")
_PUSH: Final = ord(">")
_INTEGER: Final = ord(":")
_STATUS: Final = ord("+")
_NULL: Final = ord("_")
_ERROR: Final = ord("-")
_VERBATIM: Final = ord("=")  # a value behind "txt:"

#: The replies that say that nothing is there, whole.
_ABSENT: Final = (b"$-1\r\n", b"_\r\n")

#: The first words by which servers tell what kind of error it is, and what some of them mean.
_CODES: Final = {
    "ASK": "the key moves to another node of the Cluster",
    "BUSY": "a script keeps the server from answering",
    "CLUSTERDOWN": "the Cluster lacks a node",
    "CROSSSLOT": "the keys are on several nodes of the Cluster",
    "ERR": "the server does not know the command, or not like this",
    "LOADING": "the server still reads its data",
    "MASTERDOWN": "the replica has no primary",
    "MISCONF": "the server cannot save its data",
    "MOVED": "the server is a node of a Cluster, which takes RedisCache.cluster",
    "NOAUTH": "the server demands a password",
    "NOPERM": "the user has no permission",
    "NOREPLICAS": "the server has too few replicas to write",
    "NOSCRIPT": "the server does not know the script",
    "OOM": "the server has no room (maxmemory)",
    "READONLY": "the server is a read-only replica",
    "TRYAGAIN": "the keys move to another node of the Cluster",
    "WRONGPASS": "the name or password of the user is wrong",
    "WRONGTYPE": "another program stored something else there",
}


class Source(Protocol):
    """Where replies come from: a socket, or a `Line`."""

    def recv(self, size: int, /) -> bytes:
        """Return at most so many bytes, or none at the end."""
        ...


class ServerError(Exception):
    """An error that the server replied with. It has the kind alone.

    The server's own words may quote the command, with a password or a key in it.

    Args:
        words: what the server said.
    """

    def __init__(self, words: str) -> None:
        code = words.split(" ", 1)[0]
        if "user executing the script" in words or "ACL failure" in words:
            code = "NOPERM"  # servers say ERR within a script
        #: The kind of the error; "" if it is none that is known.
        self.code = code if code in _CODES else ""
        super().__init__(f"{code}, {_CODES[code]}" if self.code else "an unknown error")


class Push(list[Any]):
    """What the server sends to subscribers, in the newer version of the protocol. It is no reply."""


class BrokenReplyError(OSError):
    """The connection has ended, or what came over it is no reply."""


class WrongReplyError(BrokenReplyError):
    """What came is no reply, or not one to this command. A second try would get the same."""


def packed(command: tuple[Argument, ...]) -> Payload:
    """Return a command as it is sent, in parts if one of its arguments is."""
    pieces = [b"*%d\r\n" % len(command)]
    for part in command:
        if type(part) is not bytes:
            if type(part) is Parts:
                return _in_parts(command)
            part = str(part).encode()
        pieces.append(b"$%d\r\n%b\r\n" % (len(part), part))
    return b"".join(pieces)


def form_of(*parts: bytes | None) -> bytes:
    """Return what `%` turns into a packed command: from size and bytes of each part that is None here."""
    pieces = [b"*%d\r\n" % len(parts)]
    for part in parts:
        if part is None:
            pieces.append(b"$%d\r\n%b\r\n")
        else:
            pieces.append((b"$%d\r\n%b\r\n" % (len(part), part)).replace(b"%", b"%%"))
    return b"".join(pieces)


def _in_parts(command: tuple[Argument, ...]) -> Parts:
    pieces: list[bytes] = []
    small = [b"*%d\r\n" % len(command)]  # what is sent together
    for part in command:
        argument = part if isinstance(part, bytes | Parts) else str(part).encode()
        small.append(b"$%d\r\n" % len(argument))
        if type(argument) is Parts:
            pieces += b"".join(small), *argument.pieces
            small = []
        else:
            small += pieces_of(argument)
        small.append(b"\r\n")
    return Parts((*pieces, b"".join(small)))


def read_value(data: bytes) -> bytes | None:
    """Return the value that is received at once, the most frequent reply; None for any other reply."""
    if data[:1] == b"$":
        end = data.find(b"\r\n")
        begin = end + 2
        if end > 0 and data[1:end] == b"%d" % (len(data) - begin - 2):
            return data[begin:-2]
    return None


def read_reply(source: Source, data: bytes) -> Any:
    """Return the reply that begins with these bytes. An error inside of an array is returned in its place.

    Raises:
        ServerError: the reply is an error.
        OSError: there is none.
    """
    if data in _ABSENT:  # the reply to each write, and to each miss
        return None
    if not data:
        raise BrokenReplyError("the server closed the connection")
    replies = Replies(source, data)
    reply = replies.next()
    replies.end()
    if type(reply) is Push:
        raise WrongReplyError("the server sent a message in place of a reply")
    if type(reply) is ServerError:
        raise reply
    return reply


class Replies:
    """Replies in the order in which a connection receives them.

    Args:
        source: the connection.
        data: what it has received already.
    """

    __slots__ = ("_at", "_data", "_parts", "_source")

    def __init__(self, source: Source, data: bytes = b"") -> None:
        self._source = source
        self._data = data
        self._at = 0
        self._parts = 0

    def is_empty(self) -> bool:
        """Return whether all was read that was received."""
        return self._at == len(self._data)

    def end(self) -> None:
        """Check that no more was received. The next command would take it for its own reply."""
        if self._at != len(self._data):
            raise WrongReplyError("the server sent more than one reply")

    def position(self) -> int:
        """Return how many bytes were read."""
        return self._at

    def skip(self, pattern: re.Pattern[bytes]) -> bool:
        """Read past what the pattern matches next; return whether it does."""
        match = pattern.match(self._data, self._at)
        if match is None:
            return False
        self._at = match.end()
        return True

    def _receive(self, least: int) -> None:
        """Receive until so many bytes are unread."""
        pieces = [self._data[self._at :]]
        missing = least - len(pieces[0])
        while missing > 0:
            piece = self._source.recv(min(max(missing, _CHUNK), _LARGEST_CHUNK))
            if not piece:
                raise BrokenReplyError("the server closed the connection within a reply")
            pieces.append(piece)
            missing -= len(piece)
        self._data = b"".join(pieces)
        self._at = 0

    def next(self) -> Any:
        """Return the next reply. One that is an error is returned as well, also within an array.

        Raises:
            WrongReplyError: what came is no reply.
            OSError: nothing came.
        """
        self._parts = 0
        return self._next(0)

    def _next(self, depth: int) -> Any:
        while (end := self._data.find(b"\r\n", self._at)) < 0:
            if len(self._data) - self._at > _LONGEST_LINE:
                raise WrongReplyError("the server sent a line that is too long")
            self._receive(len(self._data) - self._at + 1)
        kind, begin = self._data[self._at], self._at + 1
        self._at = end + 2
        if kind in (_BULK, _VERBATIM):
            size = _number(self._data[begin:end])
            if size == -1:
                return None
            if not 0 <= size <= LARGEST:
                raise WrongReplyError("the server sent a value that is too long")
            if len(self._data) < self._at + size + 2:
                self._receive(size + 2)
            begin = self._at
            self._at = begin + size + 2
            value = self._data[begin : begin + size]
            return value if kind == _BULK else value[4:]
        content = self._data[begin:end]
        if kind == _INTEGER:
            return _number(content)
        if kind == _ARRAY:
            return None if content == b"-1" else self._array(content, depth)
        if kind == _PUSH:
            return Push(self._array(content, depth))
        if kind == _STATUS:
            return content
        if kind == _NULL:
            return None
        if kind == _ERROR:
            return self._error(content.decode("utf-8", "replace"))
        return self._other(kind, content, depth)

    def _error(self, words: str) -> Exception:
        return ServerError(words)

    def _other(self, kind: int, content: bytes, depth: int) -> Any:  # noqa: ARG002  # as others read them
        raise WrongReplyError("the server sent a reply of an unknown kind")

    def _array(self, digits: bytes, depth: int, multiple: int = 1) -> list[Any]:
        size = _number(digits) * multiple
        self._parts += size
        if size < 0 or self._parts > _MOST_PARTS or depth == _DEEPEST:
            raise WrongReplyError("the server sent an array that is too long or too deep")
        replies: list[Any] = []
        data, at = self._data, self._at
        for _ in range(size):
            end = data.find(b"\r\n", at, at + _MOST_DIGITS + 3)
            # What `_next` does, without a call for each value.
            if end > 0 and data[at] == _BULK and data[at + 1 : end].isdigit():
                begin = end + 2
                stop = begin + int(data[at + 1 : end])
                if stop <= len(data) - 2:
                    replies.append(data[begin:stop])
                    at = stop + 2
                    continue
            self._at = at
            replies.append(self._next(depth + 1))
            data, at = self._data, self._at
        self._at = at
        return replies


def _number(digits: bytes) -> int:
    if len(digits) > _MOST_DIGITS or not digits.removeprefix(b"-").isdigit():
        raise WrongReplyError("the server sent what is no number")
    return int(digits)
