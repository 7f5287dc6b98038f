"""The client of a server or a Cluster: when it connects, how long it waits, what it tries again, its errors.

It connects at the first call. A call waits for the timeout, is tried once more, and then raises
`TierUnavailableError`. So everything that is sent through it may be sent twice. An answer that is none to its
command raises the same at once. Only `connection` and `driver_client` know redis-py.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Final, NamedTuple, final

from cachekit.errors import CacheClosedError, TierUnavailableError
from cachekit.runtime import fork
from cachekit.runtime.interrupts import chain_of, interrupt_behind, raise_interrupt
from cachekit.runtime.reentrant_lock import RLock
from cachekit.tiers.redis.address import Address
from cachekit.tiers.redis.answers import Check, is_count, is_page, is_pong, is_value, list_of, values
from cachekit.tiers.redis.call_deadline import CallDeadline
from cachekit.tiers.redis.connection import (
    cluster_of,
    identity_of_client,
    is_cluster,
    load_driver,
    pool_of,
    primary_of,
    translated,
)
from cachekit.tiers.redis.connection_pool import ConnectionPool
from cachekit.tiers.redis.driver_client import DriverClient
from cachekit.tiers.redis.resp import Argument, ServerError, WrongReplyError
from cachekit.tiers.redis.scripts import Script
from cachekit.tiers.redis.sentinel import Primary
from cachekit.tiers.redis.subscription import Subscription

_LEAST_OF_DRIVER: Final = 0.1  # seconds
_BATCH: Final = 500  # commands in one pipeline, which bounds what both sides buffer
_SCANNED: Final = 1000  # keys that the server looks at before it answers other clients
_FAILURES: Final = (ServerError, OSError)  # what everything that asks raises

#: Seconds that a scan may take.
LONGEST_SCAN: Final = 300.0
#: Bytes of names that a scan may bring.
MOST_SCANNED: Final = 1 << 30


class ForeignValue:
    """The type of `FOREIGN`."""


#: What `read` returns for a value that is no string, and so another program's.
FOREIGN: Final = ForeignValue()


class Call(NamedTuple):
    """A script, with its keys and arguments."""

    script: Script
    keys: Sequence[bytes]
    arguments: Sequence[Argument]

    @property
    def check(self) -> Check:
        """What its result must be."""
        script = self.script
        return list_of(script.check, len(self.keys)) if script.has_parts else script.check

    def command(self, how: str = "EVALSHA") -> tuple[Argument, ...]:
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
        load_driver()
        self._address = address
        self._own = client is None
        self._opened: ConnectionPool | DriverClient | None = None
        self._primary: Primary | None = None
        if client is not None:
            self.is_cluster = is_cluster(client)
            self._opened = DriverClient(client, self.is_cluster)
            #: What all clients of one database have in common.
            self.identity = identity_of_client(client)
        else:
            assert address is not None
            self.is_cluster = address.nodes is not None
            self.identity = address.identity
        self._lock = RLock()  # a signal handler may make the first call in the middle of it
        #: Whether commands go over connections of its own, not over a client of redis-py.
        self.is_pooled = client is None and not self.is_cluster
        #: Whether `close` was called.
        self.is_closed = False
        fork.register(self)

    def __str__(self) -> str:
        if self._address is not None:
            return str(self._address)
        return "the Redis Cluster of a client" if self.is_cluster else "the Redis of a client"

    # -- one command --------------------------------------------------------------------------------

    def call(self, check: Check, *command: Any) -> Any:
        """Return the answer to one command, which the check accepts.

        Raises:
            TierUnavailableError: there was none, or it was an error.
        """
        try:
            return (self._opened or self._open()).ask(check, *command)
        except _FAILURES as error:
            raise self._unavailable(error, command[0]) from error

    def call_within(self, seconds: float, check: Check, *command: Any) -> Any:
        """Do what `call` does, over a connection that is open, and wait no longer than that.

        A client of redis-py has its own timeouts. It is not asked if less than a tenth of a second is left.

        Raises:
            TierUnavailableError: there was no answer, or it was an error.
        """
        opened = self._opened
        try:
            if isinstance(opened, ConnectionPool):
                return opened.ask_within(seconds, check, *command)
            if opened is None or seconds < _LEAST_OF_DRIVER:
                raise TimeoutError("there is no time left to ask")
            return opened.ask(check, *command)
        except _FAILURES as error:
            raise self._unavailable(error, command[0]) from error

    def ping(self) -> None:
        """Return if it answers, in a Cluster if each primary does.

        Raises:
            TierUnavailableError: not all did.
        """
        opened = self._opened or self._open()
        try:
            if isinstance(opened, DriverClient) and self.is_cluster:
                opened.ping()
            else:
                opened.ask(is_pong, "PING")
        except _FAILURES as error:
            raise self._unavailable(error, "PING") from error

    def read(self, name: bytes) -> bytes | ForeignValue | None:
        """Return what is stored there; `FOREIGN` if it is no string.

        Raises:
            TierUnavailableError: the server did not answer.
        """
        try:
            found: bytes | None = (self._opened or self._open()).ask(is_value, "GET", name)
        except _FAILURES as error:
            if _is_foreign(error):
                return FOREIGN
            raise self._unavailable(error, "GET") from error
        return found

    # -- many at once -------------------------------------------------------------------------------

    def read_with(
        self, name: bytes, others: Sequence[bytes]
    ) -> tuple[bytes | ForeignValue | None, list[bytes | None]]:
        """Return what `read` returns, and then what `read_many` returns for others; one round trip.

        All are on one server.

        Raises:
            TierUnavailableError: the server did not answer.
        """
        first, last = ("GET", name), ("MGET", *others)
        found, more = self._answers([(is_value, first), (values(len(others)), last)])
        return FOREIGN if _is_foreign(found) else self._checked(found, first), self._checked(more, last)

    def read_many(self, names: Sequence[bytes]) -> list[bytes | None]:
        """Return what is stored there, None for nothing, or no string. One round trip per 500."""
        if not self.is_cluster:
            found: list[bytes | None] = []
            for start in range(0, len(names), _BATCH):
                some = names[start : start + _BATCH]
                found += self.call(values(len(some)), "MGET", *some)
            return found
        return self.read_strings([("GET", name) for name in names], is_value)

    def read_strings(self, commands: Sequence[tuple[Any, ...]], check: Check) -> list[Any]:
        """Return the answers to commands that read a string each, None where something else is stored."""
        answers = self._answers([(check, command) for command in commands])
        return [
            None if _is_foreign(answer) else self._checked(answer, command)
            for answer, command in zip(answers, commands, strict=True)
        ]

    def do_many(self, commands: Sequence[tuple[Any, ...]], check: Check) -> list[Any]:
        """Return the answers to several commands, each of which names one key.

        Raises:
            TierUnavailableError: one of the answers is an error; the others may have been carried out.
        """
        answers = self._answers([(check, command) for command in commands])
        return [self._checked(*pair) for pair in zip(answers, commands, strict=True)]

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """Return the results of scripts.

        Raises:
            TierUnavailableError: one of them failed, or gave no answer. All may have been carried out.
        """
        if len(calls) == 1:  # without a pipeline, which takes longer
            (call,) = calls
            ask, check = (self._opened or self._open()).ask, call.check
            try:
                try:
                    return [ask(check, *call.command())]
                except ServerError as error:  # a server that was started, or flushed, since
                    if error.code != "NOSCRIPT":
                        raise
                    return [ask(check, *call.command("EVAL"))]
            except _FAILURES as error:
                raise self._unavailable(error, "EVALSHA") from error
        answers = self._answers([(call.check, call.command()) for call in calls])
        unknown = [at for at, answer in enumerate(answers) if _code(answer) == "NOSCRIPT"]
        if unknown:
            again = self._answers([(calls[at].check, calls[at].command("EVAL")) for at in unknown])
            for at, answer in zip(unknown, again, strict=True):
                answers[at] = answer
        return [self._checked(answer, ("EVALSHA",)) for answer in answers]

    def run_packed(self, check: Check, message: bytes) -> bool:
        """Run the script of a packed EVALSHA, over the pool; return whether the server knows it.

        Raises:
            TierUnavailableError: it failed, or gave no answer. It may have been carried out.
        """
        opened = self._opened or self._open()
        assert type(opened) is ConnectionPool
        try:
            opened.ask_packed(check, message)
        except _FAILURES as error:
            if isinstance(error, ServerError) and error.code == "NOSCRIPT":
                return False
            raise self._unavailable(error, "EVALSHA") from error
        return True

    def unlink(self, names: Sequence[bytes]) -> int:
        """Remove keys; return how many were there."""
        if self.is_cluster:
            return sum(self.do_many([("UNLINK", name) for name in names], is_count))
        removed = 0
        for start in range(0, len(names), _BATCH):
            removed += self.call(is_count, "UNLINK", *names[start : start + _BATCH])
        return removed

    def scan(self, glob: bytes) -> Iterator[list[bytes]]:
        """Return the names that the glob matches, in batches, from all primaries of a Cluster.

        A name may come twice. One that is added or removed during the scan may be among them or not.

        Raises:
            TierUnavailableError: the server did not answer, or the scan passes a bound.
        """
        opened = self._opened or self._open()
        bounds = _ScanBounds()
        sessions: list[Callable[[], AbstractContextManager[Callable[..., Any]]]] = []
        try:
            if isinstance(opened, DriverClient):
                sessions += [partial(opened.session, pool) for pool in opened.pools()]
            else:
                sessions.append(opened.session)
            for session in sessions:
                try:
                    yield from bounds.scan(session, glob)
                except OSError as error:
                    if isinstance(error, WrongReplyError):
                        raise
                    yield from bounds.scan(session, glob)
        except _FAILURES as error:
            raise self._unavailable(error, "SCAN") from error

    def _answers(self, commands: Sequence[tuple[Check, tuple[Any, ...]]]) -> list[Any]:
        """Return the answers in order, with errors of the server among them as `ServerError`."""
        opened = self._opened or self._open()
        answers: list[Any] = []
        try:
            for start in range(0, len(commands), _BATCH):
                answers += opened.ask_many(commands[start : start + _BATCH])
        except _FAILURES as error:
            raise self._unavailable(error, commands[0][1][0]) from error
        return answers

    # -- the bus ------------------------------------------------------------------------------------

    @contextmanager
    def subscription(self, channel: bytes, own: bytes) -> Iterator[Subscription]:
        """Return a subscription, on a connection of its own, that leaves out messages which begin so.

        Raises:
            TierUnavailableError: the server does not answer. The methods of the subscription raise `OSError`.
        """
        try:
            with (self._opened or self._open()).connection() as line:
                yield Subscription(line, channel, own)
        except _FAILURES as error:
            raise self._unavailable(error, "SUBSCRIBE") from error

    def look_for_primary(self) -> None:
        """Ask the sentinels, if there are some, and drop connections to a primary that was replaced."""
        primary = self._primary
        if primary is not None:
            try:
                primary.look()
            except OSError as error:  # the primary itself may be well
                raise_interrupt(error)

    # -- life ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connections, unless they are those of a client that was passed in."""
        with self._lock:
            self.is_closed = True
            opened, self._opened = self._opened, None
        if opened is not None and self._own:
            _close(opened, self._primary)

    def before_fork(self) -> None:
        """Take the lock, so that no thread holds it in the child."""
        self._lock.acquire()

    def after_fork(self, in_child: bool) -> None:
        """Release the lock; in the child leave the parent's connections alone."""
        if in_child and self._own:
            self._opened = self._primary = None
        self._lock.release()

    def _open(self) -> ConnectionPool | DriverClient:
        opened = self._opened
        if opened is not None:
            return opened
        with self._lock:
            if self.is_closed:
                raise CacheClosedError("this RedisCache was closed; make a new one")
            opened = self._opened
            if opened is None:
                assert self._address is not None
                if not self.is_cluster:
                    primary = primary_of(self._address)
                    opened = pool_of(self._address, primary)
                else:
                    primary, opened = None, self._cluster(self._address)
                # A signal handler may have made the first call since. Nothing runs between the next two lines
                # (see `model.counters`).
                if self._opened is None:
                    self._opened, self._primary = opened, primary
                    return opened
                _close(opened, primary)
                opened = self._opened
            return opened

    def _cluster(self, address: Address) -> DriverClient:
        deadline = CallDeadline(address.timeout)
        try:
            with deadline:
                return DriverClient(cluster_of(address, deadline), True, deadline)
        except Exception as caught:  # an answer of a wrong shape may raise anything
            error = translated(caught)
            if not isinstance(error, _FAILURES):
                raise
        raise self._unavailable(error, "CLUSTER SLOTS") from error

    def _checked(self, answer: Any, command: Sequence[Any]) -> Any:
        if isinstance(answer, ServerError):
            raise self._unavailable(answer, command[0]) from answer
        return answer

    def _unavailable(self, error: Exception, command: str) -> TierUnavailableError:
        """Return what a call raises for this error; raise the interrupt behind it, if there is one."""
        struck = interrupt_behind(error)
        if struck is not None:  # a time limit may be a TimeoutError, which a driver wraps
            raise struck
        if isinstance(error, ServerError):
            what = f"{self} refused {command}: {error}"
            return TierUnavailableError(what, full=error.code == "OOM")
        text = f"{self} failed: {type(error).__name__}: {str(error).removesuffix('.')}"
        return TierUnavailableError(text + _remedy_for(error))


def _remedy_for(error: BaseException) -> str:
    # The driver's error wraps that of the system.
    for cause in chain_of(error):
        if isinstance(cause, socket.gaierror):
            return "; check the host, or what resolves its name"
        if isinstance(cause, ConnectionRefusedError):
            return "; start the server, or check the host and the port"
    return ""


@final
class _ScanBounds:
    """Goes through servers by SCAN, and ends with an error where one of them would go on for ever."""

    def __init__(self) -> None:
        self._end = time.monotonic() + LONGEST_SCAN
        self._received = 0

    def scan(
        self, session: Callable[[], AbstractContextManager[Callable[..., Any]]], glob: bytes
    ) -> Iterator[list[bytes]]:
        """Return the names on one server, all over one connection.

        Another connection may lead to another server, restarted or promoted, where a cursor means something
        else, and names would be left out silently. So a second try starts from the beginning.
        """
        with session() as ask:
            cursor = 0
            seen: set[int] = set()
            while True:
                position, names = ask(is_page, "SCAN", cursor, "MATCH", glob, "COUNT", _SCANNED)
                if names:
                    yield names
                cursor = int(position)
                if not cursor:
                    return
                size = sum(map(len, names))
                self._received += size
                if cursor in seen or self._received > MOST_SCANNED or time.monotonic() > self._end:
                    raise WrongReplyError("the scan did not come to an end")
                seen.add(cursor)


def _close(opened: ConnectionPool | DriverClient, primary: Primary | None) -> None:
    try:
        opened.close()
        if primary is not None:
            primary.close()
    except Exception as error:  # noqa: BLE001  # what the driver raises when a connection is gone
        raise_interrupt(error)


def _code(answer: object) -> str | None:
    return answer.code if isinstance(answer, ServerError) else None


def _is_foreign(answer: object) -> bool:
    return _code(answer) == "WRONGTYPE"
