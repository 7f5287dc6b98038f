"""Connections to one server, without what the driver adds to each command.

A command over `redis.Redis` spends most of its time in the client, its pool and its parser. This pool only
lends each connection to one thread at a time, bounds their number, and tries once more after a broken or
silent one. It never uses a connection again whose answer was not read, or was not one to the command. The
driver makes the connections: it knows TLS, logging in and what else an address says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, final

from cachekit.runtime.interrupts import interrupt_behind
from cachekit.serialization.parts import Payload, pieces_of
from cachekit.tiers.lent_connections import LentConnections
from cachekit.tiers.redis.answers import Check
from cachekit.tiers.redis.line import PORTION, Line
from cachekit.tiers.redis.resp import (
    Replies,
    ServerError,
    WrongReplyError,
    packed,
    read_reply,
    read_value,
)

_CHUNK: Final = 1 << 16
_SMALL: Final = 1 << 16  # bytes of commands that are sent together at most, unless one is larger


@final
class ConnectionPool(LentConnections):
    """Connections to one server. Safe in any thread. After a fork the child makes another pool.

    Args:
        make: makes a connection that is not connected yet, so has no `line`, and does not retry by itself.
        open_connection: connects one.
        most: the largest number of connections.
        patience: seconds to wait for one when all are in use.
    """

    def __init__(
        self, make: Callable[[], Any], open_connection: Callable[[Any], Line], most: int, patience: float
    ) -> None:
        super().__init__(make, most, patience)
        self._open = open_connection

    def ask(self, check: Check, *command: Any) -> Any:
        """Return the answer to a command; try once more if the connection breaks or stays silent.

        Raises:
            ServerError: the answer is an error.
            OSError: there was none, or one that the check does not accept.
        """
        return self.ask_packed(check, packed(command))

    def ask_packed(self, check: Check, message: Payload) -> Any:
        """Do what `ask` does, for a command that is packed already."""
        connection = self._taken()
        try:
            try:
                answer = self._exchange(connection, message)
            except OSError as error:
                self._discard(connection, error)
                answer = self._exchange(connection, message)
            if not check(answer):
                raise WrongReplyError("the answer is not one to this command")
        except ServerError as error:
            if error.code == "READONLY":
                connection.disconnect()  # after a failover its name may lead to the new primary
            raise
        except BaseException:
            # An answer may still arrive, which the next command would take for its own.
            connection.disconnect()
            raise
        finally:
            self._free.append(connection)
            if self._waiting:
                self._notify()
            if self._closed:  # also when the answer was an error: the connection is open
                self.close()
        return answer

    def ask_within(self, seconds: float, check: Check, *command: Any) -> Any:
        """Return the answer to a command over a connection that is open, without a second try.

        Raises:
            ServerError: the answer is an error.
            OSError: there was none in time, or no connection is open.
        """
        with self.lent() as connection:
            line: Line | None = connection.line
            if line is None:
                raise ConnectionError("no connection is open")
            raw = line.socket
            raw.settimeout(seconds)
            raw.sendall(packed(command))
            answer = read_reply(raw, raw.recv(_CHUNK))
            if not check(answer):
                raise WrongReplyError("the answer is not one to this command")
            line.restore_timeout()
            return answer

    def ask_many(self, commands: Sequence[tuple[Check, tuple[Any, ...]]]) -> list[Any]:
        """Return the answers to several commands in order, in one round trip, with `ServerError` among them.

        It is tried once more, as a whole, if the connection breaks or stays silent.

        Raises:
            OSError: an answer is missing, or is one that its check does not accept.
        """
        checks = [check for check, _ in commands]
        messages = _together([packed(command) for _, command in commands])
        with self.lent() as connection:
            try:
                return self._exchange_many(connection, messages, checks)
            except OSError as error:
                self._discard(connection, error)
                return self._exchange_many(connection, messages, checks)

    @contextmanager
    def session(self) -> Iterator[Callable[..., Any]]:
        """Lend one connection: the function does what `ask` does, over it, without a second try."""
        with self.lent() as connection:

            def ask(check: Check, *command: Any) -> Any:
                answer = self._exchange(connection, packed(command))
                if not check(answer):
                    raise WrongReplyError("the answer is not one to this command")
                return answer

            yield ask

    @contextmanager
    def connection(self) -> Iterator[Line]:
        """Return the line of a connection that is no part of the pool, and is closed in the end."""
        connection = self._make()
        try:
            yield self._open(connection)
        finally:
            connection.disconnect()

    @staticmethod
    def _discard(connection: Any, error: OSError) -> None:
        """Close the connection; raise the error if a second try would fail too."""
        connection.disconnect()
        if isinstance(error, WrongReplyError) or interrupt_behind(error) is not None:
            raise error

    def _exchange(self, connection: Any, message: Payload) -> Any:
        line: Line = connection.line or self._open(connection)
        raw = line.socket
        if len(message) <= PORTION:
            raw.sendall(message)
        else:
            for piece in pieces_of(message):
                line.sendall(piece)
            line.restore_timeout()
        data = raw.recv(_CHUNK)
        value = read_value(data)
        if value is not None:
            return value
        line.is_sending = True
        try:
            return read_reply(line, data)
        finally:
            line.end_exchange()

    def _exchange_many(
        self, connection: Any, messages: Sequence[bytes], checks: Sequence[Check]
    ) -> list[Any]:
        line: Line = connection.line or self._open(connection)
        data = b""
        if len(messages) == 1 and len(messages[0]) <= PORTION:
            raw = line.socket
            raw.sendall(messages[0])
            data = raw.recv(_CHUNK)
            line.is_sending = True
        else:
            for message in messages:
                line.sendall(message)
        replies = Replies(line, data)
        answers = []
        for check in checks:
            answer = replies.next()
            if type(answer) is not ServerError and not check(answer):
                raise WrongReplyError("the answer is not one to this command")
            answers.append(answer)
        replies.end()
        line.end_exchange()
        return answers


def _together(messages: Sequence[Payload]) -> list[bytes]:
    """Return the messages, with small ones joined, and large ones in their parts."""
    joined: list[list[bytes]] = []
    room = 0
    for message in messages:
        room -= len(message)
        if room < 0:
            joined.append([])
            room = _SMALL - len(message)
        if type(message) is bytes:
            joined[-1].append(message)
        else:
            joined += [[piece] for piece in pieces_of(message)]
            room = 0
    return [b"".join(some) for some in joined]
