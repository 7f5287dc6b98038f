"""The address of a server, with what it takes to log in, and connections to it whose waits are bounded."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from cachekit.errors import CacheError
from cachekit.model.validation import seconds
from cachekit.runtime.interrupts import interrupt_behind
from cachekit.tiers.redis.answers import is_slots
from cachekit.tiers.redis.call_deadline import CallDeadline
from cachekit.tiers.redis.connection_pool import ConnectionPool
from cachekit.tiers.redis.line import Line
from cachekit.tiers.redis.resp import ServerError, WrongReplyError

_CONNECTIONS: Final = 32
_OF_THE_POOL: Final = frozenset({"max_connections", "timeout"})


@dataclass(frozen=True)
class Address:
    """Where the server is, and what it takes to log in. Its repr has no password."""

    host: str
    port: int
    db: int
    url: str | None = field(repr=False)
    username: str | None
    password: str | None = field(repr=False)
    ssl: bool
    timeout: float
    nodes: tuple[tuple[str, int], ...] | None = None  #: of a Cluster

    def __str__(self) -> str:
        if self.nodes is not None:
            return "Redis Cluster at " + ", ".join(f"{host}:{port}" for host, port in self.nodes)
        if self.url is not None:
            parts = urlsplit(self.url)
            where = parts.netloc.rpartition("@")[2]
            return f"Redis at {parts.scheme}://{where}{parts.path}"
        return f"Redis at {self.host}:{self.port}/{self.db}"


def _check_url(url: object) -> None:
    if not isinstance(url, str):
        raise TypeError(f"url must be a str such as 'redis://host:6379/0', not {type(url).__name__}")
    from redis import RedisError
    from redis.connection import Connection, parse_url

    try:
        wanted = parse_url(url)  # type: ignore[no-untyped-call]
        urlsplit(url).port  # noqa: B018  # raises if it is no number
        str(wanted.get("host", "")).encode("idna")
        _checked_int("max_connections", wanted.get("max_connections", _CONNECTIONS), 1)
        kind = wanted.pop("connection_class", Connection)
        kind(**{name: wanted[name] for name in wanted.keys() - _OF_THE_POOL})  # it does not connect yet
    except (ValueError, TypeError, AttributeError, RedisError):
        raise ValueError(
            "url must be redis://[[user]:password@]host[:port][/db], rediss://... for TLS, or "
            "unix://[[user]:password@]/path/of/socket[?db=n], with options of redis-py after a ?; the given "
            "one is not shown, because it may contain a password"
        ) from None


def checked_client(client: Any) -> Any:
    """Return a client that was passed in.

    Raises:
        TypeError: it is no client of redis-py, or an asynchronous one, or a pipeline.
        ValueError: it decodes what it reads, or caches it.
    """
    import redis

    if isinstance(client, (redis.client.Pipeline, redis.cluster.ClusterPipeline)):
        raise TypeError("client must be a redis.Redis or redis.RedisCluster itself, not a pipeline of one")
    if not isinstance(client, (redis.Redis, redis.RedisCluster)):
        raise TypeError(
            f"client must be a redis.Redis or redis.RedisCluster (not one of redis.asyncio), not a "
            f"{type(client).__module__}.{type(client).__qualname__}"
        )
    if client.get_encoder().decode_responses:
        raise ValueError(
            "client must not have decode_responses=True: stored values are bytes; make one without it"
        )
    if isinstance(client, redis.Redis) and client.get_cache() is not None:
        raise ValueError(
            "client must not have a cache of its own (cache_config): it serves values that were invalidated; "
            "make one without it, and use cachekit's memory tier"
        )
    return client


def load_driver() -> None:
    """Import the driver: a first call must not wait for that, nor the first connection of the bus."""
    import redis.backoff
    import redis.cluster
    import redis.maint_notifications
    import redis.retry  # noqa: F401


def is_cluster(client: Any) -> bool:
    """Return whether a client of the driver is that of a Cluster."""
    import redis

    return isinstance(client, redis.RedisCluster)


def one_server(
    host: str,
    port: int,
    db: int,
    url: str | None,
    username: str | None,
    password: str | None,
    ssl: bool,
    timeout: float,
) -> Address:
    """Return the address that the arguments of `RedisCache` give.

    Raises:
        TypeError, ValueError: an argument is wrong. The message has no password.
    """
    if url is not None:
        if (host, port, db, ssl) != (_DEFAULTS[0], _DEFAULTS[1], _DEFAULTS[2], False):
            raise ValueError("url must be the only address; leave out host, port, db and ssl")
        _check_url(url)
    where = _checked_node(host, port)
    return Address(*where, _checked_int("db", db, 0), url, username, password, ssl, _checked_timeout(timeout))


def no_server(client: Any, *arguments: object) -> None:
    """Refuse an address beside a client.

    Raises:
        ValueError: one of the arguments of `one_server` does not have its default.
    """
    if arguments != _DEFAULTS:
        raise ValueError(
            f"client must come without an address, because the {type(client).__name__} has one; leave out "
            f"host, port, db, url, username, password, ssl and timeout"
        )


def some_nodes(
    nodes: Sequence[tuple[str, int]],
    username: str | None,
    password: str | None,
    ssl: bool,
    timeout: float,
) -> Address:
    """Return the address of a Cluster.

    Raises:
        TypeError, ValueError: an argument is wrong.
    """
    if isinstance(nodes, str) or not isinstance(nodes, Sequence) or not nodes:
        raise TypeError(f"nodes must be a list such as [('host', 6379)], not {nodes!r}")
    some = []
    for node in nodes:
        if not isinstance(node, tuple) or len(node) != 2:
            raise TypeError(f"each of nodes must be a tuple (host, port), not {node!r}")
        some.append(_checked_node(*node))
    wait = _checked_timeout(timeout)
    return Address(*some[0], 0, None, username, password, ssl, wait, tuple(some))


#: The defaults of the arguments of `one_server`.
_DEFAULTS: Final = ("localhost", 6379, 0, None, None, None, False, 0.25)


def _checked_int(argument: str, value: int, least: int, most: int = 1 << 31) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument} must be an int, not {value!r} of type {type(value).__name__}")
    if not least <= value <= most:
        raise ValueError(f"{argument} must be {least} to {most}, not {value}")
    return value


def _checked_node(host: str, port: int) -> tuple[str, int]:
    if not isinstance(host, str):
        raise TypeError(
            f"host must be a str, not {host!r} of type {type(host).__name__}; a client of your own goes into "
            f"client=, a URL into url="
        )
    if "://" in host or "@" in host:
        raise ValueError("host must be a name or an address; what looks like a URL goes into url=")
    if host.count(":") == 1:  # an IPv6 address has more
        name, _, number = host.partition(":")
        raise ValueError(f"host must be without the port; write RedisCache({name!r}, {number or port})")
    if not host:
        raise ValueError("host must not be empty; leave it out for localhost")
    try:
        host.encode("idna")
    except UnicodeError:
        raise ValueError(f"host must be a name that can be looked up, not {host!r}") from None
    return host, _checked_int("port", port, 1, 65535)


def _checked_timeout(timeout: float) -> float:
    wait = seconds(timeout, "timeout")
    if not 0 < wait <= 3600:
        raise ValueError(f"timeout must be more than 0 and at most 3600 seconds, not {timeout!r}")
    return wait


def pool_of(address: Address) -> ConnectionPool:
    """Return a pool of connections to one server. It does not connect yet."""
    import redis

    options = _options(address)
    retry = options.pop("retry")
    most, patience = _CONNECTIONS, 2 * address.timeout
    if address.url is not None:
        options.update(redis.connection.parse_url(address.url))  # type: ignore[no-untyped-call]
        most, patience = options.pop("max_connections", most), options.pop("timeout", patience)
        options["decode_responses"] = False
    else:
        options.update(host=address.host, port=address.port, db=address.db)
        if address.ssl:
            options["connection_class"] = redis.SSLConnection
    kind = _bounded(options.pop("connection_class", redis.Connection))
    return ConnectionPool(lambda: kind(**options, retry=retry), open_connection, most, patience)


def cluster_of(address: Address, deadline: CallDeadline) -> Any:
    """Return the driver's client of a Cluster, which is connected. Its calls end at the deadline.

    Raises:
        Exception: what the driver raises.
    """
    import redis
    from redis.backoff import NoBackoff
    from redis.cluster import ClusterNode
    from redis.retry import Retry

    assert address.nodes is not None
    (host, port), *others = address.nodes
    nodes = [ClusterNode(*node) for node in others]  # type: ignore[no-untyped-call]
    options = _options(address)
    options["retry"] = Retry(NoBackoff(), 1)
    # With a URL the driver accepts a class of connections.
    return redis.RedisCluster(
        url=f"redis://[{host}]:{port}" if ":" in host else f"redis://{host}:{port}",
        startup_nodes=nodes,
        connection_class=_bounded(redis.SSLConnection if address.ssl else redis.Connection, deadline),
        **options,
    )


def _options(address: Address) -> dict[str, Any]:
    from redis.backoff import NoBackoff
    from redis.maint_notifications import MaintNotificationsConfig
    from redis.retry import Retry

    return {
        "socket_timeout": address.timeout,
        "socket_connect_timeout": address.timeout,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        "username": address.username,
        "password": address.password,
        "retry": Retry(NoBackoff(), 0),
    }


def _bounded(kind: Any, deadline: CallDeadline | None = None) -> Any:
    """Return a class of connections whose exchanges are bounded, logging in included.

    With a deadline all that a call does over such connections is bounded too.
    """

    class Connection(kind):  # type: ignore[misc]  # one of the driver's
        # The driver has no public names for the socket of a connection, and for what makes it.
        @property
        def line(self) -> Line | None:
            """The socket; None while it is not connected."""
            line: Line | None = self._sock
            return line

        def _connect(self) -> Line:
            if deadline is not None:
                self.socket_connect_timeout = min(self.socket_timeout, deadline.left())
            made = super()._connect()
            # Let the system discard, when the connection is closed, what the server has not acknowledged.
            # Otherwise it goes on sending that. When the network recovers, seconds later, a write that the
            # tier has given up would arrive after newer ones.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return Line(made, self.socket_timeout, deadline)

    class NodeConnection(Connection):
        _asks_for_slots = False

        def send_command(self, *command: Any, **options: Any) -> None:
            self._asks_for_slots = command == ("CLUSTER SLOTS",)
            super().send_command(*command, **options)

        def read_response(self, *arguments: Any, **options: Any) -> Any:
            answer = super().read_response(*arguments, **options)
            if self._asks_for_slots:
                self._asks_for_slots = False
                if not is_slots(answer):
                    raise WrongReplyError("the answer is not one to this command")
            return answer

    return Connection if deadline is None else NodeConnection


def open_connection(connection: Any) -> Line:
    """Connect, log in, and return the line.

    Raises:
        ServerError, OSError: it did not succeed.
    """
    try:
        connection.connect()
    except BaseException as error:
        connection.disconnect()  # the driver does so after errors of its own only
        if isinstance(error, Exception):
            raise translated(error) from None
        raise
    line: Line = connection.line
    line.restore_timeout()
    return line


def translated(error: Exception) -> Exception:
    """Return what an exception of the driver means, without the words of the server.

    Those may quote what was sent, with a password or a key in it. It returns a `ServerError`, an `OSError`,
    or the same exception if a signal handler or cachekit raised it.
    """
    import redis

    struck = interrupt_behind(error)
    if isinstance(struck, Exception):
        return struck
    if isinstance(error, (ServerError, OSError, CacheError)):
        return error
    code = getattr(error, "status_code", None)
    if code is not None or isinstance(error, redis.ResponseError):
        return ServerError(code or str(error))
    if type(error) is redis.TimeoutError:
        return TimeoutError(str(error))
    if isinstance(error, redis.ConnectionError) and not isinstance(error, redis.AuthenticationError):
        return ConnectionError(str(error))
    if isinstance(error, redis.exceptions.RedisClusterException) and isinstance(error.__cause__, Exception):
        return translated(error.__cause__)
    # What an answer of a wrong shape makes the driver raise is anything: TypeError, RecursionError.
    return WrongReplyError(f"the driver could not use the answer ({type(error).__name__})")
