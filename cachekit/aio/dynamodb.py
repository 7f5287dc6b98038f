"""DynamoDBCache, awaited. Methods that call DynamoDB run in threads, with boto3."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

from cachekit.aio.polled import PolledFacade
from cachekit.model.types import TTL
from cachekit.runtime.clock import Clock, SystemClock
from cachekit.serialization.codec import Codec
from cachekit.serialization.compression import Compression
from cachekit.serialization.serializer import CodecName
from cachekit.serialization.signing import Secret
from cachekit.tiers.dynamodb.tier import DynamoDBCache as Core


@final
class DynamoDBCache(PolledFacade[Core]):
    """`cachekit.DynamoDBCache`, awaited; see there for the arguments and the promises."""

    __slots__ = ()

    _kind = Core

    def __init__(
        self,
        table: str,
        key_prefix: str = "cachekit:",
        *,
        region: str | None = None,
        endpoint: str | None = None,
        profile: str | None = None,
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
            table, key_prefix, region=region, endpoint=endpoint, profile=profile,
            max_staleness=max_staleness, poll=poll, timeout=timeout, default_ttl=default_ttl, codec=codec,
            compression=compression, secret=secret, allow=allow, clock=clock,
        )  # fmt: skip
        self._set_up(core)
