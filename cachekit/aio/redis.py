"""RedisCache, awaited. Methods that call the server run in threads, with the synchronous driver."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, final

from cachekit.aio.facade import check_sync, in_thread, plain
from cachekit.aio.threaded import LowerFacade
from cachekit.model.types import TTL
from cachekit.runtime.clock import Clock, SystemClock
from cachekit.serialization.codec import Codec
from cachekit.serialization.compression import Compression
from cachekit.serialization.serializer import CodecName
from cachekit.serialization.signing import Secret
from cachekit.tiers.base import ServerTier
from cachekit.tiers.redis.tier import RedisCache as Core
from cachekit.tiers.redis.tls import TLS


@final
class RedisCache(LowerFacade[Core]):
    """`cachekit.RedisCache`, awaited; see there for the arguments and the promises.

    `client` must be a synchronous client of the driver, because threads use it.
    """

    __slots__ = ()

    def __init__(
        self,
        host: str = "localhost",
        port: int = 6379,
        db: int = 0,
        key_prefix: str = "cachekit:",
        *,
        url: str | None = None,
        client: Any = None,
        username: str | None = None,
        password: str | None = None,
        ssl: bool = False,
        tls: TLS | None = None,
        timeout: float = 0.25,
        default_ttl: TTL = None,
        codec: CodecName | Codec = "pickle",
        compression: Compression = "zlib",
        secret: Secret | None = None,
        allow: Iterable[Any] = (),
        clock: Clock = SystemClock(),  # noqa: B008  # it has no state
    ) -> None:
        core = Core(
            host, port, db, key_prefix, url=url, client=client, username=username, password=password,
            ssl=ssl, tls=tls, timeout=timeout, default_ttl=default_ttl, codec=codec, compression=compression,
            secret=secret, allow=allow, clock=clock,
        )  # fmt: skip
        self._set_up(core)

    @classmethod
    def cluster(
        cls,
        nodes: Sequence[tuple[str, int]],
        key_prefix: str = "cachekit:",
        *,
        username: str | None = None,
        password: str | None = None,
        ssl: bool = False,
        tls: TLS | None = None,
        timeout: float = 0.25,
        default_ttl: TTL = None,
        codec: CodecName | Codec = "pickle",
        compression: Compression = "zlib",
        secret: Secret | None = None,
        allow: Iterable[Any] = (),
        clock: Clock = SystemClock(),  # noqa: B008  # it has no state
    ) -> RedisCache:
        """Return a tier on a Cluster; see `cachekit.RedisCache.cluster` for the arguments."""
        core = Core.cluster(
            nodes, key_prefix, username=username, password=password, ssl=ssl, tls=tls, timeout=timeout,
            default_ttl=default_ttl, codec=codec, compression=compression, secret=secret, allow=allow,
            clock=clock,
        )  # fmt: skip
        return cls._view(core)

    @classmethod
    def sentinel(
        cls,
        sentinels: Sequence[tuple[str, int]],
        service: str,
        key_prefix: str = "cachekit:",
        *,
        db: int = 0,
        username: str | None = None,
        password: str | None = None,
        sentinel_username: str | None = None,
        sentinel_password: str | None = None,
        ssl: bool = False,
        tls: TLS | None = None,
        timeout: float = 0.25,
        default_ttl: TTL = None,
        codec: CodecName | Codec = "pickle",
        compression: Compression = "zlib",
        secret: Secret | None = None,
        allow: Iterable[Any] = (),
        clock: Clock = SystemClock(),  # noqa: B008  # it has no state
    ) -> RedisCache:
        """Return a tier on the primary that sentinels name; see `cachekit.RedisCache.sentinel`."""
        core = Core.sentinel(
            sentinels, service, key_prefix, db=db, username=username, password=password,
            sentinel_username=sentinel_username, sentinel_password=sentinel_password, ssl=ssl, tls=tls,
            timeout=timeout, default_ttl=default_ttl, codec=codec, compression=compression, secret=secret,
            allow=allow, clock=clock,
        )  # fmt: skip
        return cls._view(core)

    @classmethod
    def of(cls, sync: ServerTier) -> RedisCache:
        """Return a view of an existing tier: a `cachekit.RedisCache`, or another `ServerTier`.

        Raises:
            TypeError: `sync` is not a `cachekit.tiers.base.ServerTier`.
        """
        check_sync(sync, ServerTier, "a RedisCache")
        return cls._view(sync)  # type: ignore[arg-type]

    @property
    def key_prefix(self) -> str:
        """Return the prefix of all keys on the server."""
        return self._sync.key_prefix

    @property
    def default_ttl(self) -> float | None:
        """Return the most seconds that the tier keeps any entry; None for no limit."""
        return self._sync.default_ttl

    get_value = in_thread(Core.get_value)
    get = in_thread(Core.get)
    get_many = in_thread(Core.get_many)
    peek = in_thread(Core.peek)
    contains = in_thread(Core.__contains__)
    keys = in_thread(Core.keys)
    size = in_thread(Core.size)
    memory_usage = in_thread(Core.memory_usage)
    ping = in_thread(Core.ping)
    get_stats = plain(Core.get_stats)
    origin = in_thread(Core.origin)
    origins = in_thread(Core.origins)
    successor = in_thread(Core.successor)
    fence = in_thread(Core.fence)
    set_value = in_thread(Core.set_value)
    set = in_thread(Core.set)
    put = in_thread(Core.put)
    create = in_thread(Core.create)
    put_many = in_thread(Core.put_many)
    add_many = in_thread(Core.add_many)
    set_if = in_thread(Core.set_if)
    add = in_thread(Core.add)
    touch = in_thread(Core.touch)
    delete = in_thread(Core.delete)
    remove_many = in_thread(Core.remove_many)
    clear = in_thread(Core.clear)
    renew = in_thread(Core.renew)
    invalidate_by_tags = in_thread(Core.invalidate_by_tags)
    invalidate_by_pattern = in_thread(Core.invalidate_by_pattern)
    subscribe = in_thread(Core.subscribe)
    lease = in_thread(Core.lease)
