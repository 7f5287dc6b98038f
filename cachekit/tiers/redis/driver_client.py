"""A client of the driver, for a Cluster or of the user's own, with the methods of `ConnectionPool`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, final

from cachekit.serialization.parts import Parts
from cachekit.tiers.redis.answers import Check, is_pong
from cachekit.tiers.redis.connection import translated
from cachekit.tiers.redis.line import Line
from cachekit.tiers.redis.resp import ServerError, WrongReplyError


def _whole(argument: Any) -> Any:
    """Return an argument as the driver takes it, which knows no parts."""
    return b"".join(argument.pieces) if type(argument) is Parts else argument


@final
class DriverClient:
    """Asks through a client of redis-py. Whatever the driver raises becomes a `ServerError` or an `OSError`.

    Args:
        client: a `redis.Redis` or `redis.RedisCluster`.
        is_cluster: which of them.
        deadline: a `with` block of it is a call; None if the client alone bounds its calls.
    """

    def __init__(
        self, client: Any, is_cluster: bool, deadline: AbstractContextManager[None] | None = None
    ) -> None:
        self.client = client
        self._is_cluster = is_cluster
        self._call: AbstractContextManager[None] = nullcontext() if deadline is None else deadline
        self._closed = False

    def ask(self, check: Check, *command: Any, **options: Any) -> Any:
        """Return the answer to a command; see `ConnectionPool.ask`."""
        try:
            with self._call:
                return self._ask(check, *command, **options)
        finally:
            if self._closed:
                self._close_unused()

    def _ask(self, check: Check, *command: Any, **options: Any) -> Any:
        try:
            answer = self.client.execute_command(*map(_whole, command), **options)
        except Exception as error:  # noqa: BLE001  # an answer of a wrong shape may raise anything
            raise self._ended(error) from None
        if not check(answer):
            raise self._ended(WrongReplyError("the answer is not one to this command"))
        return answer

    def ask_many(self, commands: Sequence[tuple[Check, tuple[Any, ...]]]) -> list[Any]:
        """Return the answers to several commands in order; see `ConnectionPool.ask_many`."""
        try:
            pipeline = self.client.pipeline(transaction=False)
            for _, command in commands:
                # Not by its own name: those of scripts are barred from pipelines of a Cluster.
                pipeline.execute_command(*map(_whole, command))
            with self._call:
                answers = pipeline.execute(raise_on_error=False)
            if len(answers) != len(commands):
                raise WrongReplyError("there are not as many answers as commands")
        except Exception as error:  # noqa: BLE001  # as in `_ask`
            raise self._ended(error) from None
        finally:
            if self._closed:
                self._close_unused()
        checked = []
        for (check, _), answer in zip(commands, answers, strict=True):
            if isinstance(answer, Exception):
                meant = translated(answer)
                if not isinstance(meant, ServerError):
                    raise self._ended(meant)
                checked.append(meant)
            elif check(answer):
                checked.append(answer)
            else:
                raise self._ended(WrongReplyError("the answer is not one to this command"))
        return checked

    def ping(self) -> None:
        """Return if each primary of the Cluster answers."""
        try:
            with self._call:
                for primary in self._primaries():
                    self._ask(is_pong, "PING", target_nodes=primary)
        finally:
            if self._closed:
                self._close_unused()

    @contextmanager
    def session(self, pool: Any) -> Iterator[Callable[..., Any]]:
        """Lend a connection of one of the driver's pools; see `ConnectionPool.session`."""
        with self._lent(pool) as connection:

            def ask(check: Check, *command: Any) -> Any:
                try:
                    with self._call:
                        connection.send_command(*command, check_health=False)
                        answer = connection.read_response()
                except Exception as error:  # noqa: BLE001  # as in `_ask`
                    raise translated(error) from None
                if not check(answer):
                    raise WrongReplyError("the answer is not one to this command")
                return answer

            yield ask

    @contextmanager
    def connection(self) -> Iterator[Line]:
        """Return the line of a connection that is closed in the end."""
        try:
            client = self.client
            if self._is_cluster:
                # Any node will do: a message published on one node reaches all.
                client = client.get_redis_connection(client.get_random_node())
        except Exception as error:  # noqa: BLE001  # as in `_ask`
            raise translated(error) from None
        with self._lent(client.connection_pool, close=True) as connection:
            # The driver has no public name for the socket of a connection of the user's client.
            made = connection._sock
            yield made if isinstance(made, Line) else Line(made, None)

    @contextmanager
    def _lent(self, pool: Any, close: bool = False) -> Iterator[Any]:
        try:
            with self._call:
                connection = pool.get_connection()
        except Exception as error:  # noqa: BLE001  # as in `_ask`
            raise self._ended(error) from None
        try:
            yield connection
        except BaseException:
            close = True  # an answer may be on its way
            raise
        finally:
            if close:
                connection.disconnect()
            pool.release(connection)
            if self._closed:
                self._close_unused()

    def pools(self) -> list[Any]:
        """Return the driver's pools of connections, one for each primary of a Cluster.

        Raises:
            ServerError, OSError: it has none.
        """
        if not self._is_cluster:
            return [self.client.connection_pool]
        try:
            return [self.client.get_redis_connection(one).connection_pool for one in self._primaries()]
        except Exception as error:  # noqa: BLE001  # as in `_ask`
            raise translated(error) from None

    def _primaries(self) -> list[Any]:
        found: list[Any] = self.client.get_primaries()
        return found

    def _ended(self, error: Exception) -> Exception:
        """Close what is unused, if a connection may have lost its order; return what the error means."""
        meant = translated(error)
        if isinstance(meant, WrongReplyError):
            self._close_unused()
        return meant

    def _close_unused(self) -> None:
        clients = [self.client]
        if self._is_cluster:
            clients = [node.redis_connection for node in self.client.get_nodes()]
        for client in clients:
            if client is not None:
                client.connection_pool.disconnect(inuse_connections=False)

    def close(self) -> None:
        """Close the client and its connections; one that is in use is closed afterwards.

        The driver's client of a Cluster would leave them open until the collector finds them.
        """
        self._closed = True  # first: a call that ends after the next lines closes what it used
        self.client.close()
        self._close_unused()
