"""The parser of the connections that cachekit makes with redis-py.

redis-py's own parsers bound neither the parts nor the depth of an answer. A list that announces a billion
parts takes eight gigabytes before the first of them arrives. Imported with redis-py, by `load_driver`.
"""

from __future__ import annotations

import ssl
from typing import Any, Final, final

from redis._parsers import BaseParser
from redis.exceptions import ConnectionError as DriverConnectionError
from redis.exceptions import InvalidResponse

from cachekit.runtime.interrupts import raise_interrupt
from cachekit.tiers.redis.line import Line
from cachekit.tiers.redis.resp import BrokenReplyError, Push, Replies, WrongReplyError, read_value

_CHUNK: Final = 1 << 16
_MAP: Final = ord("%")
_SET: Final = ord("~")


@final
class BoundedParser(BaseParser):
    """Reads answers within the bounds of `resp`, as the exceptions and types that redis-py works with.

    Args:
        socket_read_size: as redis-py passes it; a `Line` has sizes of its own.
    """

    def __init__(self, socket_read_size: int) -> None:  # noqa: ARG002  # redis-py passes it
        self._replies: _DriverReplies | None = None

    def on_connect(self, connection: Any) -> None:
        """Begin to read from a connection, which is one of `connection`."""
        self._replies = _DriverReplies(connection.line)

    def on_disconnect(self) -> None:
        """Forget what was not read."""
        self._replies = None

    def can_read(self, timeout: float = 0) -> bool:
        """Return whether something arrives within so many seconds."""
        return self._opened().has_more(timeout)

    @property
    def is_drained(self) -> bool:
        """Whether all was read that was received."""
        return self._replies is None or self._replies.is_empty()

    def read_response(self, **_: object) -> Any:
        """Return the next answer; errors of the server as redis-py's.

        Raises:
            InvalidResponse: what came is no answer.
            OSError: nothing came.
        """
        try:
            answer = self._opened().read()
        except WrongReplyError as error:  # as an OSError, redis-py would take it for a lost connection
            raise InvalidResponse(str(error)) from error
        if isinstance(answer, DriverConnectionError):
            raise answer
        return answer

    def _opened(self) -> _DriverReplies:
        replies = self._replies  # another thread may close the connection
        if replies is None:
            raise DriverConnectionError("the connection is closed")
        return replies


@final
class _DriverReplies(Replies):
    """Replies with the errors of redis-py, and the types that servers answer redis-py's own commands with.

    Args:
        line: the connection.
    """

    __slots__ = ("_line",)

    def __init__(self, line: Line) -> None:
        super().__init__(line)
        self._line = line

    def read(self) -> Any:
        """Return the next reply, and hold no more than what follows it."""
        if self._at == len(self._data):
            data = self._line.recv(_CHUNK)
            value = read_value(data)
            if value is not None:
                return value
            self._append(data)
        self._parts = 0
        reply = self._next(0)
        if self._at == len(self._data):
            self._data, self._at = b"", 0  # or an idle connection would keep a large value
        if type(reply) is Push:
            raise WrongReplyError("the server sent a message in place of a reply")
        return reply

    def has_more(self, wait: float) -> bool:
        """Return whether something is unread, or arrives within so many seconds."""
        if self.is_empty():
            self._line.socket.settimeout(wait)
            try:
                self._append(self._line.socket.recv(_CHUNK))
            except (BlockingIOError, TimeoutError, ssl.SSLWantReadError):
                return False
            finally:
                self._line.restore_timeout()
        return True

    def _append(self, data: bytes) -> None:
        if not data:
            raise BrokenReplyError("the server closed the connection")
        self._data, self._at = data, 0

    def _error(self, words: str) -> Exception:
        error: Exception = BaseParser.parse_error(words)  # type: ignore[no-untyped-call]
        return error

    def _other(self, kind: int, content: bytes, depth: int) -> Any:
        if kind == _SET:
            return self._array(content, depth)
        if kind == _MAP:
            parts = iter(self._array(content, depth, 2))
            try:
                return dict(zip(parts, parts, strict=True))
            except TypeError as error:
                raise_interrupt(error)
                raise WrongReplyError("the server sent a map with a list for a key") from None
        return super()._other(kind, content, depth)
