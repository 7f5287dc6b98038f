"""DynamoDBCache: the tier in a DynamoDB table that hosts share."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, final

from cachekit.model.types import TTL
from cachekit.runtime.clock import Clock, SystemClock
from cachekit.serialization.codec import Codec
from cachekit.serialization.compression import Compression
from cachekit.serialization.serializer import CodecName
from cachekit.serialization.signing import Secret
from cachekit.tiers.dynamodb.store import DynamoDBStore
from cachekit.tiers.polled import PolledTier


@final
class DynamoDBCache(PolledTier):
    """The tier in a DynamoDB table that hosts share. Pass it as `redis_cache` of an `IntelligentCache`.

    Args:
        table: the table's name. It must be there, with the partition key `k` (String) and no sort key. Its
            attribute for times to live is `e`.
        key_prefix: the beginning of all names: 50 visible ASCII characters at most.
        region: the table's region; None for the one that boto3 finds.
        endpoint: the URL of another server with DynamoDB's interface; None for AWS.
        profile: a profile of AWS's configuration files. boto3 finds the credentials.
        max_staleness: seconds after which a cache over this tier drops its copies in memory. Up to then, it
            may serve a copy that another host has invalidated.
        poll: seconds between two looks at what other hosts have changed; None for no looks. All hosts must
            pass it. It costs two round trips for each write.
        timeout: seconds to wait for a connection or an answer (default 0.25). The first call also imports
            boto3, which takes about a second.
        default_ttl: seconds, or a timedelta, that a copy is kept at most; None for no such limit.
        codec: "pickle", "json", "msgpack" (needs the extra), or a `Codec` of your own.
        compression: "zlib", "zstd" (needs the extra), or None.
        secret: signs what is stored, at least 16 bytes. Then only what is signed with it is read.
        allow: classes that an unsigned pickle may contain, besides the standard value types.
        clock: the clock of lives; tests pass another one.

    Raises:
        TypeError, ValueError: an argument is wrong.
        ModuleNotFoundError: the extra `dynamodb` is not installed.

    It pickles as its configuration, unless it has a secret. See `PolledTier` for what a server without
    messages cannot do.
    """

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
        super().__init__(
            DynamoDBStore(table, key_prefix, (region, endpoint, profile), timeout, clock), key_prefix,
            max_staleness=max_staleness, poll=poll, default_ttl=default_ttl, codec=codec,
            compression=compression, secret=secret, allow=allow, clock=clock,
        )  # fmt: skip
        self._address = table, region, endpoint, profile, timeout

    def __reduce__(self) -> tuple[Any, ...]:
        self._serializer.__reduce__()  # refuses if there is a secret
        codec, compression, _, allow = self._stored_as
        table, region, endpoint, profile, timeout = self._address
        made = partial(
            DynamoDBCache, table, self._key_prefix, region=region, endpoint=endpoint, profile=profile,
            max_staleness=self._max_staleness, poll=self._poll, timeout=timeout,
            default_ttl=self.default_ttl, codec=codec, compression=compression, allow=allow,
            clock=self._clock,
        )  # fmt: skip
        return made, ()
