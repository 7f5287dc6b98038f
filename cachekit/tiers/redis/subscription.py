"""A subscription: the messages of one channel, over a connection of its own."""

from __future__ import annotations

from typing import Any, final

from cachekit.tiers.redis.resp import Push, Replies, ServerError, packed


@final
class Subscription:
    """The messages of a channel. For one thread; its methods raise `OSError`, or the driver's errors.

    Args:
        pool: the driver's pool, which lends the connection.
        channel: the channel.
        patience: seconds to wait for the rest of a message whose beginning is here.
    """

    def __init__(self, pool: Any, channel: bytes, patience: float) -> None:
        self._pool = pool
        self._patience = patience
        self._connection = pool.get_connection()
        try:
            # The driver has no public name for it, and reading through the driver takes ten times as long.
            self._socket = self._connection._sock
            self._socket.settimeout(patience)
            self._replies = Replies(self._socket)
            self._socket.sendall(packed(("SUBSCRIBE", channel)))
        except BaseException:
            self.close()
            raise

    def receive(self, wait: float) -> list[Any] | None:
        """Return what the server sent next: its kind, the channel, a message. None after so many seconds."""
        if self._replies.is_empty():
            self._socket.settimeout(wait)
            try:
                self._replies.receive(1)
            except TimeoutError:
                return None
            finally:
                self._socket.settimeout(self._patience)
        reply = self._replies.next()
        if isinstance(reply, ServerError):
            raise reply
        return reply if type(reply) in (list, Push) else [reply]

    def has_more(self) -> bool:
        """Return whether something was received that `receive` has not returned yet."""
        return not self._replies.is_empty()

    def ping(self) -> None:
        """Let the server send something."""
        self._socket.sendall(packed(("PING",)))

    def close(self) -> None:
        """End it, and give the connection back."""
        self._connection.disconnect()
        self._pool.release(self._connection)
