"""The client of a server or a Cluster: when it connects, how long it waits, what it tries again, its errors.

It connects at the first call. A call waits for the timeout, is tried once more, and then raises
`TierUnavailableError`. So everything that is sent through it may be sent twice. Only this module,
`connection`, `connection_pool`, `subscription` and `lease` know redis-py.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, final

from cachekit.errors import CacheClosedError, TierUnavailableError
from cachekit.runtime import fork
from cachekit.runtime.interrupts import interrupt_behind
from cachekit.tiers.redis.connection import Address, Connections, connect
from cachekit.tiers.redis.scripts import Script
from cachekit.tiers.redis.subscription import Subscription

_BATCH: Final = 500  # commands in one pipeline, which bounds what both sides buffer
_SCANNED: Final = 1000  # keys that the server looks at before it answers other clients


class ForeignValue:
    """The type of `FOREIGN`."""


#: What `read` returns for a value that is no string, and so another program's.
FOREIGN: Final = ForeignValue()


class Call(NamedTuple):
    """A script, with its keys and arguments."""

    script: Script
    keys: Sequence[bytes]
    arguments: Sequence[bytes | str | int]

    def command(self, how: str = "EVALSHA") -> tuple[bytes | str | int, ...]:
        """Return the command that runs it by digest, or with "EVAL" by its text."""
        body = self.script.digest if how == "EVALSHA" else self.script.text
        return (how, body, len(self.keys), *self.keys, *self.arguments)


@final
class Client:
    """A single server or a Cluster. Safe in any thread, before and after a fork.

    Args:
        address: where it is; None with a client.
        client: a client of redis-py, which `close` leaves open.
    """

    def __init__(self, address: Address | None, client: Any = None) -> None:
        import redis

        self._address = address
        self._own = client is None
        self._opened = None if client is None else Connections(client, client.execute_command, lambda: None)
        self._lock = threading.Lock()
        #: Whether `close` was called.
        self.is_closed = False
        # What a Cluster's client raises is no RedisError.
        self._errors: tuple[type[Exception], ...] = (
            redis.RedisError,
            redis.exceptions.RedisClusterException,
            OSError,
        )
        self._response_error = redis.ResponseError
        self._no_script = redis.exceptions.NoScriptError
        self._out_of_memory = redis.exceptions.OutOfMemoryError
        if client is not None:
            self.is_cluster = isinstance(client, redis.RedisCluster)
        else:
            assert address is not None
            self.is_cluster = address.nodes is not None
        fork.register(self)

    def __str__(self) -> str:
        if self._address is not None:
            return str(self._address)
        return "the Redis Cluster of a client" if self.is_cluster else "the Redis of a client"

    # -- one command --------------------------------------------------------------------------------

    def call(self, *command: Any) -> Any:
        """Return the answer to one command.

        Raises:
            TierUnavailableError: there was none, or it was an error.
        """
        try:
            return (self._opened or self._connections()).ask(*command)
        except self._errors as error:
            raise self._unavailable(error) from error

    def ping(self) -> None:
        """Return if it answers, in a Cluster if each primary does.

        Raises:
            TierUnavailableError: not all did.
        """
        if not self.is_cluster:
            self.call("PING")
            return
        client = self._connections().client
        try:
            for primary in client.get_primaries():
                client.execute_command("PING", target_nodes=primary)
        except self._errors as error:
            raise self._unavailable(error) from error

    def read(self, name: bytes) -> bytes | ForeignValue | None:
        """Return what is stored there; `FOREIGN` if it is no string.

        Raises:
            TierUnavailableError: the server did not answer.
        """
        try:
            found: bytes | None = (self._opened or self._connections()).ask("GET", name)
        except self._errors as error:
            if self._is_foreign(error):
                return FOREIGN
            raise self._unavailable(error) from error
        return found

    # -- many at once -------------------------------------------------------------------------------

    def read_many(self, names: Sequence[bytes]) -> list[bytes | None]:
        """Return what is stored there, None for nothing, or no string. One round trip per 500."""
        if not self.is_cluster:
            found: list[bytes | None] = []
            for start in range(0, len(names), _BATCH):
                found += self.call("MGET", *names[start : start + _BATCH])
            return found
        answers = self._answers([("GET", name) for name in names])
        return [None if self._is_foreign(answer) else self._checked(answer) for answer in answers]

    def do_many(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Return the answers to several commands, each of which names one key.

        Raises:
            TierUnavailableError: one of the answers is an error; the others may have been carried out.
        """
        return [self._checked(answer) for answer in self._answers(commands)]

    def try_many(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Do what `do_many` does, with None for a command that the server answers with an error."""
        answers = self._answers(commands)
        return [
            None if isinstance(answer, self._response_error) else self._checked(answer) for answer in answers
        ]

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """Return the results of scripts.

        Raises:
            TierUnavailableError: one of them failed, or gave no answer. All may have been carried out.
        """
        if len(calls) == 1:  # without a pipeline, which takes longer
            (call,) = calls
            ask = (self._opened or self._connections()).ask
            try:
                try:
                    return [ask(*call.command())]
                except self._no_script:  # a server that was started, or flushed, since
                    return [ask(*call.command("EVAL"))]
            except self._errors as error:
                raise self._unavailable(error) from error
        answers = self._answers([call.command() for call in calls])
        unknown = [at for at, answer in enumerate(answers) if isinstance(answer, self._no_script)]
        if unknown:
            again = self._answers([calls[at].command("EVAL") for at in unknown])
            for at, answer in zip(unknown, again, strict=True):
                answers[at] = answer
        return [self._checked(answer) for answer in answers]

    def unlink(self, names: Sequence[bytes]) -> int:
        """Remove keys; return how many were there."""
        if self.is_cluster:
            return sum(self.do_many([("UNLINK", name) for name in names]))
        removed = 0
        for start in range(0, len(names), _BATCH):
            removed += self.call("UNLINK", *names[start : start + _BATCH])
        return removed

    def scan(self, glob: bytes) -> Iterator[list[bytes]]:
        """Return the names that the glob matches, in batches, from all primaries of a Cluster.

        A name may come twice. One that is added or removed during the scan may be among them or not.
        """
        client = self._connections().client
        clients = [client]
        if self.is_cluster:
            clients = [client.get_redis_connection(primary) for primary in client.get_primaries()]
        for one in clients:
            try:
                yield from self._scan(one.connection_pool, glob)
            except TierUnavailableError:
                yield from self._scan(one.connection_pool, glob)

    def _scan(self, pool: Any, glob: bytes) -> Iterator[list[bytes]]:
        """Return the names on one server, all over one connection.

        Another connection may lead to another server, restarted or promoted, where a cursor means something
        else, and names would be left out silently. So a second try starts from the beginning.
        """
        try:
            connection = pool.get_connection()
        except self._errors as error:
            raise self._unavailable(error) from error
        try:
            cursor, begun = 0, False
            while cursor or not begun:
                try:
                    connection.send_command(
                        "SCAN", cursor, "MATCH", glob, "COUNT", _SCANNED, check_health=False
                    )
                    following, names = connection.read_response()
                except self._errors as error:
                    raise self._unavailable(error) from error
                cursor, begun = int(following), True
                if names:
                    yield names
        except BaseException:
            connection.disconnect()  # an answer may be on its way
            raise
        finally:
            pool.release(connection)

    def _answers(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Return the answers in order, with errors of the server among them as exceptions."""
        client = self._connections().client
        answers: list[Any] = []
        try:
            for start in range(0, len(commands), _BATCH):
                pipeline = client.pipeline(transaction=False)
                for command in commands[start : start + _BATCH]:
                    # Not by its own name: those of scripts are barred from pipelines of a Cluster.
                    pipeline.execute_command(*command)
                answers += pipeline.execute(raise_on_error=False)
        except self._errors as error:
            raise self._unavailable(error) from error
        return answers

    # -- the bus ------------------------------------------------------------------------------------

    def subscribe(self, channel: bytes, patience: float) -> Subscription:
        """Return a subscription, on a connection of its own. It raises what the driver raises."""
        client = self._connections().client
        if self.is_cluster:
            # Any node will do: a message published on one node reaches all.
            client = client.get_redis_connection(client.get_random_node())
        return Subscription(client.connection_pool, channel, patience)

    # -- life ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connections, unless they are those of a client that was passed in."""
        with self._lock:
            self.is_closed = True
            connections, self._opened = self._opened, None
        if connections is not None:
            with suppress(*self._errors):
                connections.close()

    def before_fork(self) -> None:
        """Take the lock, so that no thread holds it in the child."""
        self._lock.acquire()

    def after_fork(self, in_child: bool) -> None:
        """Release the lock; in the child leave the parent's connections alone."""
        if in_child and self._own:
            self._opened = None
        self._lock.release()

    def client(self) -> Any:
        """Return the driver's client, for rare commands.

        Raises:
            TierUnavailableError: it could not be made.
        """
        return self._connections().client

    def _connections(self) -> Connections:
        opened = self._opened
        if opened is not None:
            return opened
        with self._lock:
            if self.is_closed:
                raise CacheClosedError("this RedisCache was closed; make a new one")
            if self._opened is None:
                assert self._address is not None
                try:
                    self._opened = connect(self._address)
                except self._errors as error:
                    raise self._unavailable(error) from error
            return self._opened

    def _checked(self, answer: Any) -> Any:
        if isinstance(answer, self._errors):
            raise self._unavailable(answer) from answer
        return answer

    def _is_foreign(self, answer: object) -> bool:
        return isinstance(answer, self._response_error) and str(answer).startswith("WRONGTYPE")

    def _unavailable(self, error: Exception) -> TierUnavailableError:
        struck = interrupt_behind(error)
        if struck is not None:  # a time limit may be a TimeoutError, which the driver wraps
            raise struck
        full = isinstance(error, self._out_of_memory)
        return TierUnavailableError(f"{self} failed: {type(error).__name__}: {error}", full=full)
