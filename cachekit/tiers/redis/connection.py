"""Connections to a server at an address, whose waits are bounded, logging in included."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from cachekit.errors import CacheError
from cachekit.runtime.interrupts import interrupt_behind
from cachekit.tiers.redis.address import CONNECTIONS, Address, Sentinels, server_and_database, tell_of_driver
from cachekit.tiers.redis.answers import is_slots
from cachekit.tiers.redis.call_deadline import CallDeadline
from cachekit.tiers.redis.connection_pool import ConnectionPool
from cachekit.tiers.redis.line import Line
from cachekit.tiers.redis.resp import ServerError, WrongReplyError
from cachekit.tiers.redis.sentinel import Primary
from cachekit.tiers.socket_options import DISCARD_UNSENT


def load_driver() -> None:
    """Import the driver: a first call must not wait for that, nor the first connection of the bus."""
    import redis.backoff
    import redis.cluster
    import redis.maint_notifications
    import redis.retry  # noqa: F401

    import cachekit.tiers.redis.driver_parser  # noqa: F401


def is_cluster(client: Any) -> bool:
    """Return whether a client of the driver is that of a Cluster."""
    import redis

    return isinstance(client, redis.RedisCluster)


def identity_of_client(client: Any) -> Hashable:
    """Return the identity of the database of a client of the driver; see `Address.identity`."""
    if is_cluster(client):
        return frozenset((node.host, node.port) for node in client.nodes_manager.startup_nodes.values())
    pool = client.connection_pool
    options = getattr(pool, "connection_kwargs", {})  # a pool may be the user's own
    # A client of sentinels has none of these.
    return server_and_database(options) if options.keys() & {"host", "path"} else pool


def primary_of(address: Address) -> Primary | None:
    """Return what finds the primary, if sentinels name it. It does not connect yet."""
    sentinels = address.sentinels
    if sentinels is None:
        return None
    pools = [_sentinel_pool(address, sentinels, *node) for node in sentinels.nodes]
    return Primary(sentinels, pools, open_connection)


def pool_of(address: Address, primary: Primary | None = None) -> ConnectionPool:
    """Return a pool of connections to one server. It does not connect yet.

    Args:
        address: where the server is.
        primary: what finds it, if sentinels name it.
    """
    import redis
    from redis.connection import parse_url

    said = {} if address.url is None else parse_url(address.url)  # type: ignore[no-untyped-call]
    options = _options(address, said)
    most, patience = CONNECTIONS, 2 * address.timeout
    if address.url is not None:
        most, patience = options.pop("max_connections", most), options.pop("timeout", patience)
        options["decode_responses"] = False
    else:
        options.update(host=address.host, port=address.port, db=address.db)
        if address.tls is not None:
            options["connection_class"] = redis.SSLConnection
    kind = _bounded(options.pop("connection_class", redis.Connection))
    open_one = open_connection if primary is None else primary.open
    return ConnectionPool(lambda: kind(**options), open_one, most, patience)


def _sentinel_pool(address: Address, sentinels: Sentinels, host: str, port: int) -> ConnectionPool:
    """Return a pool for one sentinel, which has users of its own, and no database."""
    import redis

    options = _options(address, {})
    options.update(
        host=host,
        port=port,
        protocol=2,  # the newer one has types of answers that `resp` does not read
        username=sentinels.username,
        password=sentinels.password,
    )
    kind = _bounded(redis.Connection if address.tls is None else redis.SSLConnection)
    return ConnectionPool(lambda: kind(**options), open_connection, CONNECTIONS, address.timeout)


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
    options = _options(address, {})
    options["retry"] = Retry(NoBackoff(), 1)
    # With a URL the driver accepts a class of connections.
    return redis.RedisCluster(
        url=f"redis://[{host}]:{port}" if ":" in host else f"redis://{host}:{port}",
        startup_nodes=nodes,
        connection_class=_bounded(redis.Connection if address.tls is None else redis.SSLConnection, deadline),
        **options,
    )


def _options(address: Address, said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the driver for a connection, with what its URL says in place of ours."""
    from redis.backoff import NoBackoff
    from redis.maint_notifications import MaintNotificationsConfig
    from redis.retry import Retry

    options: dict[str, Any] = {
        "socket_timeout": address.timeout,
        "socket_connect_timeout": address.timeout,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        "username": address.username,
        "password": address.password,
        "retry": Retry(NoBackoff(), 0),
    }
    if address.tls is not None:
        options.update(address.tls.options())
    options.update(said)
    tell_of_driver(options)
    return options


def _bounded(kind: Any, deadline: CallDeadline | None = None) -> Any:
    """Return a class of connections whose exchanges are bounded, logging in included.

    With a deadline all that a call does over such connections is bounded too.
    """
    from cachekit.tiers.redis.driver_parser import BoundedParser

    class Connection(kind):  # type: ignore[misc]  # one of the driver's
        line: Line | None = None  # the socket; None while it is not connected

        def set_parser(self, _: Any) -> None:  # the driver names its own, whose answers have no bound
            super().set_parser(BoundedParser)

        @property
        def is_drained(self) -> bool:
            return bool(self._parser.is_drained)

        # The driver has no public name for what makes the socket of a connection.
        def _connect(self) -> Line:
            if deadline is not None:
                self.socket_connect_timeout = min(self.socket_timeout, deadline.left())
            made = super()._connect()
            made.setsockopt(*DISCARD_UNSENT)
            self.line = Line(made, self.socket_timeout, deadline)
            return self.line

        def disconnect(self, *args: Any, **more: Any) -> None:
            self.line = None
            super().disconnect(*args, **more)

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
                    # The driver closes it after errors of its own only. A client of a Cluster that cannot be
                    # made would leave it open until the collector finds it.
                    self.disconnect()
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
        if not connection.is_drained:  # the pool reads what follows without the parser
            raise WrongReplyError("the server sent more than one reply")
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
    if isinstance(error.__cause__, WrongReplyError):  # of `driver_parser`
        return error.__cause__
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
