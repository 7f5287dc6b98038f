"""MemcachedCache, awaited. Methods that call the servers run in threads, with the synchronous driver."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, final

from cachekit.aio.polled import PolledFacade
from cachekit.model.types import TTL
from cachekit.runtime.clock import Clock, SystemClock
from cachekit.serialization.codec import Codec
from cachekit.serialization.compression import Compression
from cachekit.serialization.serializer import CodecName
from cachekit.serialization.signing import Secret
from cachekit.tiers.memcached.tier import MemcachedCache as Core


@final
class MemcachedCache(PolledFacade[Core]):
    """`cachekit.MemcachedCache`, awaited; see there for the arguments and the promises."""

    __slots__ = ()

    _kind = Core

    def __init__(
        self,
        servers: Sequence[tuple[str, int]] = (("localhost", 11211),),
        key_prefix: str = "cachekit:",
        *,
        max_staleness: float = 5.0,
        poll: float | None = None,
        timeout: float = 0.25,
        default_ttl: TTL = None,
        codec: CodecName | Codec = "pickle",
        compression: Compression = "zlib",
        secret: Secret | None = None,
        allow: Iterable[Any] = (),
        clock: Clock = SystemClock(),  # noqa: B008  # it has no state
    ) -> None:
        core = Core(
            servers, key_prefix, max_staleness=max_staleness, poll=poll, timeout=timeout,
            default_ttl=default_ttl, codec=codec, compression=compression, secret=secret,
            allow=allow, clock=clock,
        )  # fmt: skip
        self._set_up(core)
