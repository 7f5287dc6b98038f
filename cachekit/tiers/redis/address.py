"""Where a server is, and what it takes to log in: the arguments of `RedisCache`, checked.

Nothing here connects, and no message has a password.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from cachekit.model.display import safe_repr, shown_value, typed_repr
from cachekit.model.validation import seconds
from cachekit.tiers.redis.tls import TLS

#: Connections to one server, unless its URL says otherwise.
CONNECTIONS: Final = 32
#: Options of a URL that say what the server is told of the driver.
_OF_THE_DRIVER: Final = frozenset({"lib_name", "lib_version"})

_OF_THE_POOL: Final = frozenset({"max_connections", "timeout"})
_SENTINEL_PORT: Final = 26379
_DATABASE: Final = re.compile(r"/?|/[0-9]+/?")

_FORMS: Final = (
    "write redis://[[user]:password@]host[:port][/db], rediss://... for TLS, "
    "redis+sentinel://[[user]:password@]host[:port],host[:port]/name[/db], rediss+sentinel://..., or "
    "unix://[[user]:password@]/path/of/socket[?db=n], with options of redis-py after a ?; the given "
    "one is not shown, because it may contain a password"
)
_SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
_SCHEME: Final = "url must begin with redis://, rediss://, unix://, redis+sentinel:// or rediss+sentinel://"
_PORT: Final = "the port of url must be a number from 1 to 65535"
_DB: Final = "the database of url, what follows the host and a /, must be a number"
_HOST: Final = "the host of url must be a name that can be looked up"
_OPTIONS: Final = "the options of url, what follows the ?, must be those of redis-py"
_NODES: Final = "url must name sentinels, and a service after a /"
_OF_SENTINELS: Final = re.compile(
    r"(?P<scheme>rediss?)\+sentinel://(?:(?P<login>[^/?#]*)@)?(?P<nodes>[^/?#@]+)/(?P<service>[^/?#]+)"
    r"(?:/(?P<db>\d{1,9})?)?(?:\?(?P<query>[^#]*))?"
)
_NODE: Final = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<name>[^:\[\]]+))(?::(?P<port>\d{1,9}))?")


@dataclass(frozen=True)
class Sentinels:
    """The sentinels that name the primary of a service. Its repr has no password."""

    nodes: tuple[tuple[str, int], ...]
    service: str
    username: str | None
    password: str | None = field(repr=False)


@dataclass(frozen=True)
class Address:
    """Where the server is, and what it takes to log in. Its repr has no password."""

    host: str
    port: int
    db: int
    url: str | None = field(repr=False)
    username: str | None
    password: str | None = field(repr=False)
    tls: TLS | None  #: None for no TLS
    timeout: float
    nodes: tuple[tuple[str, int], ...] | None = None  #: of a Cluster
    sentinels: Sentinels | None = None

    def __str__(self) -> str:
        if self.nodes is not None:
            return f"Redis Cluster at {listed(self.nodes)}"
        if self.sentinels is not None:
            _, number = self._of_server()
            service = f"{self.sentinels.service!r}, db {number}," if number else repr(self.sentinels.service)
            return f"Redis {service} of the sentinels at {listed(self.sentinels.nodes)}"
        if self.url is not None:
            parts = urlsplit(self.url)
            where = parts.netloc.rpartition("@")[2]
            db = "".join(f"?db={value}" for name, value in parse_qsl(parts.query) if name == "db")
            return f"Redis at {parts.scheme}://{where}{parts.path}{db}"
        return f"Redis at {self.host}:{self.port}/{self.db}"

    @property
    def identity(self) -> Hashable:
        """Return what all addresses of one database have in common, whichever options they have."""
        if self.nodes is not None:
            return frozenset(self.nodes)
        server, db = self._of_server()
        if self.sentinels is not None:
            server = (self.sentinels.service, frozenset(self.sentinels.nodes))
        return server, db

    def _of_server(self) -> tuple[Hashable, int]:
        if self.url is None:
            return (self.host, self.port), self.db
        from redis.connection import parse_url

        return server_and_database(parse_url(self.url))  # type: ignore[no-untyped-call]


def server_and_database(options: Mapping[str, Any]) -> tuple[Hashable, int]:
    """Return which server options of a connection name, and which database."""
    db = int(options.get("db") or 0)
    if "path" in options:
        return options["path"], db
    return (options.get("host") or "localhost", int(options.get("port") or 6379)), db


def listed(nodes: Sequence[tuple[str, int]]) -> str:
    """Return nodes as a message names them."""
    return ", ".join(f"{host}:{port}" for host, port in nodes)


@cache
def driver_info() -> Any:
    """Return what connections tell the server of the driver.

    redis-py would read its version from the disk for each of them, which takes longer than all the rest.
    """
    from redis.driver_info import DriverInfo

    return DriverInfo()


def tell_of_driver(options: dict[str, Any]) -> None:
    """Let connections with these options tell the server of the driver, unless the options say what."""
    if not options.keys() & _OF_THE_DRIVER:
        options.setdefault("driver_info", driver_info())


def _check_url(url: object) -> None:
    if not isinstance(url, str):
        raise TypeError(f"url must be a str such as 'redis://host:6379/0', not {type(url).__name__}")
    if not url:
        raise ValueError("url must not be empty; leave it out for localhost, or " + _FORMS)
    scheme, mark, _ = url.partition("://")
    if not mark or scheme.lower() not in _SCHEMES:
        raise _wrong(_SCHEME)
    from redis import RedisError
    from redis.connection import Connection, parse_url

    part = _HOST
    try:
        parts = urlsplit(url)
        if parts.scheme != "unix":
            parts.hostname  # noqa: B018  # raises if its brackets are wrong
            part = _PORT
            if parts.port == 0:  # raises if it is no number, or too large
                raise ValueError
            part = _DB
            # The driver takes db 0 where the path is no number.
            if not _DATABASE.fullmatch(parts.path):
                raise ValueError
            part = _HOST
            (parts.hostname or "").encode("idna")
        part = _OPTIONS
        wanted = parse_url(url)  # type: ignore[no-untyped-call]
        _checked_int("max_connections", wanted.get("max_connections", CONNECTIONS), 1)
        kind = wanted.pop("connection_class", Connection)
        tell_of_driver(wanted)
        kind(**{name: wanted[name] for name in wanted.keys() - _OF_THE_POOL})  # it does not connect yet
    except (ValueError, TypeError, AttributeError, RedisError):
        raise _wrong(part) from None


def _wrong(part: str) -> ValueError:
    return ValueError(f"{part}; {_FORMS}")


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
    if isinstance(client, redis.RedisCluster):
        reads_replicas = bool(client.read_from_replicas or client.load_balancing_strategy)
    else:
        reads_replicas = not getattr(client.connection_pool, "is_master", True)
    if reads_replicas:
        raise ValueError(
            "client must not read from replicas: they still have values that were invalidated; take "
            "Sentinel.master_for instead of slave_for, and leave out read_from_replicas and "
            "load_balancing_strategy of a Cluster"
        )
    if isinstance(client, redis.Redis) and client.get_cache() is not None:
        raise ValueError(
            "client must not have a cache of its own (cache_config): it serves values that were invalidated; "
            "make one without it, and use cachekit's memory tier"
        )
    return client


def one_server(
    host: str,
    port: int,
    db: int,
    url: str | None,
    username: str | None,
    password: str | None,
    ssl: bool,
    tls: TLS | None,
    timeout: float,
) -> Address:
    """Return the address that the arguments of `RedisCache` give.

    Raises:
        TypeError, ValueError: an argument is wrong. The message has no password.
    """
    wait, tls = _checked_timeout(timeout), _checked_tls(ssl, tls)
    if url is None:
        where = _checked_node(host, port)
        return Address(*where, _checked_int("db", db, 0), None, username, password, tls, wait)
    if (host, port, db, ssl) != (_DEFAULTS[0], _DEFAULTS[1], _DEFAULTS[2], False):
        raise ValueError("url must be the only address; leave out host, port, db and ssl")
    sentinels, url = _split(url)
    _check_url(url)
    if tls is not None and not url.startswith("rediss://"):
        raise ValueError("tls must come with a URL that asks for TLS: rediss:// or rediss+sentinel://")
    if sentinels is not None and url.startswith("rediss://"):
        tls = tls or TLS()
    return Address(host, port, db, url, username, password, tls, wait, sentinels=sentinels)


def _split(url: str) -> tuple[Sentinels | None, str]:
    """Return the sentinels that a URL names, and a URL for the driver, with what else it says."""
    if not isinstance(url, str) or "+sentinel:" not in url[:20]:
        return None, url
    found = _OF_SENTINELS.fullmatch(url)
    if found is None:
        raise _wrong(_NODES)
    login = {"sentinel_username": None, "sentinel_password": None}
    options = []
    part = _NODES
    try:
        nodes = tuple(_split_node(node) for node in found["nodes"].split(","))
        part = _OPTIONS
        for name, value in parse_qsl(found["query"] or "", strict_parsing=bool(found["query"])):
            if name in login:
                login[name] = value
            else:
                options.append((name, value))
    except (TypeError, ValueError):
        raise _wrong(part) from None
    sentinels = Sentinels(nodes, unquote(found["service"]), *login.values())
    user = "" if found["login"] is None else f"{found['login']}@"
    # The driver needs a host; the sentinels name another one for each connection.
    plain = f"{found['scheme']}://{user}localhost/{found['db'] or 0}"
    return sentinels, f"{plain}?{urlencode(options)}" if options else plain


def _split_node(text: str) -> tuple[str, int]:
    found = _NODE.fullmatch(text)
    if found is None:
        raise ValueError(text)
    return _checked_node(found["v6"] or found["name"], int(found["port"] or _SENTINEL_PORT))


def no_server(client: Any, *arguments: object) -> None:
    """Refuse an address beside a client.

    Raises:
        ValueError: one of the arguments of `one_server` does not have its default.
    """
    if arguments != _DEFAULTS:
        raise ValueError(
            f"client must come without an address, because the {type(client).__name__} has one; leave out "
            f"host, port, db, url, username, password, ssl, tls and timeout"
        )


def some_nodes(
    nodes: Sequence[tuple[str, int]],
    username: str | None,
    password: str | None,
    ssl: bool,
    tls: TLS | None,
    timeout: float,
) -> Address:
    """Return the address of a Cluster.

    Raises:
        TypeError, ValueError: an argument is wrong.
    """
    some = _checked_nodes("nodes", nodes)
    wait = _checked_timeout(timeout)
    return Address(*some[0], 0, None, username, password, _checked_tls(ssl, tls), wait, some)


def some_sentinels(
    nodes: Sequence[tuple[str, int]],
    service: str,
    db: int,
    login: tuple[str | None, str | None],
    sentinel_login: tuple[str | None, str | None],
    ssl: bool,
    tls: TLS | None,
    timeout: float,
) -> Address:
    """Return the address of a primary that sentinels name.

    Args:
        nodes: the sentinels.
        service: the name of the primary.
        db: the number of the database.
        login: user and password for the primary.
        sentinel_login: user and password for the sentinels.
        ssl: whether to use TLS, for both.
        tls: how to use it.
        timeout: for each of them.

    Raises:
        TypeError, ValueError: an argument is wrong.
    """
    some = _checked_nodes("sentinels", nodes, _SENTINEL_PORT)
    if not isinstance(service, str):
        raise TypeError(
            f"service must be a str, not {typed_repr(service)}; pass the name after `sentinel monitor`"
        )
    if not service:
        raise ValueError("service must not be empty; pass the name after `sentinel monitor`")
    sentinels = Sentinels(some, service, *sentinel_login)
    number, wait = _checked_int("db", db, 0), _checked_timeout(timeout)
    return Address(*some[0], number, None, *login, _checked_tls(ssl, tls), wait, sentinels=sentinels)


#: The defaults of the arguments of `one_server`.
_DEFAULTS: Final = ("localhost", 6379, 0, None, None, None, False, None, 0.25)


def _checked_int(argument: str, value: int, least: int, most: int = 1 << 31) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        remedy = "pass a URL as RedisCache(url=...)" if _is_url(value) else "pass a number without quotes"
        raise TypeError(f"{argument} must be an int, not {typed_repr(value)}; {remedy}")
    if not least <= value <= most:
        raise ValueError(f"{argument} must be {least} to {most}, not {value}")
    return value


def _is_url(value: object) -> bool:
    return isinstance(value, str) and ("://" in value or "@" in value)


def _checked_nodes(
    argument: str, nodes: Sequence[tuple[str, int]], example: int = 6379
) -> tuple[tuple[str, int], ...]:
    if isinstance(nodes, str) or not isinstance(nodes, Sequence) or not nodes:
        raise TypeError(f"{argument} must be a list such as [('host', {example})], not {shown_value(nodes)}")
    some = []
    for node in nodes:
        if not isinstance(node, tuple) or len(node) != 2:
            raise TypeError(f"each of {argument} must be a tuple (host, port), not {shown_value(node)}")
        some.append(_checked_node(*node))
    return tuple(some)


def _checked_tls(ssl: bool, tls: TLS | None) -> TLS | None:
    if tls is not None and not isinstance(tls, TLS):
        remedy = "pass a URL as RedisCache(url=...)" if _is_url(tls) else "write tls=TLS(...), or ssl=True"
        raise TypeError(f"tls must be a cachekit.TLS, not {typed_repr(tls)}; {remedy}")
    if not isinstance(ssl, bool):
        raise TypeError(
            f"ssl must be True or False, not {safe_repr(ssl)}; what else TLS needs goes into tls="
        )
    return TLS() if ssl and tls is None else tls


def _checked_node(host: str, port: int) -> tuple[str, int]:
    if not isinstance(host, str):
        raise TypeError(
            f"host must be a str, not {typed_repr(host)}; a client of your own goes into "
            f"client=, a URL into url="
        )
    if "://" in host or "@" in host:
        raise ValueError(
            f"host must be a name or an address, not {safe_repr(host)}; pass a URL as RedisCache(url=...)"
        )
    if host.count(":") == 1:  # an IPv6 address has more
        name, _, number = host.partition(":")
        raise ValueError(f"host must be without the port; write RedisCache({name!r}, {number or port})")
    if not host:
        raise ValueError("host must not be empty; leave it out for localhost")
    try:
        host.encode("idna")
    except UnicodeError:
        raise ValueError(f"host must be a name that can be looked up, not {safe_repr(host)}") from None
    return host, _checked_int("port", port, 1, 65535)


def _checked_timeout(timeout: float) -> float:
    wait = seconds(timeout, "timeout")
    if not 0 < wait <= 3600:
        raise ValueError(f"timeout must be more than 0 and at most 3600 seconds, not {timeout!r}")
    return wait
