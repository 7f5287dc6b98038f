"""MemcachedCache: the tier on memcached servers that hosts share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, final

from cachekit.model.types import TTL
from cachekit.runtime.clock import Clock, SystemClock
from cachekit.serialization.codec import Codec
from cachekit.serialization.compression import Compression
from cachekit.serialization.serializer import CodecName
from cachekit.serialization.signing import Secret
from cachekit.tiers.memcached.store import MemcachedStore
from cachekit.tiers.polled import PolledTier


@final
class MemcachedCache(PolledTier):
    """The tier on memcached servers that hosts share. Pass it as `redis_cache` of an `IntelligentCache`.

    Args:
        servers: host and port of each server, the same on all hosts. A name is always on the same one. If
            that does not answer, the tier is out until it does.
        key_prefix: the beginning of all names: 50 visible ASCII characters at most.
        max_staleness: seconds after which a cache over this tier drops its copies in memory. Up to then, it
            may serve a copy that another host has invalidated.
        poll: seconds between two looks at what other hosts have changed; None for no looks. All hosts must
            pass it. It costs two round trips for each write.
        timeout: seconds to wait for a connection or an answer (default 0.25).
        default_ttl: seconds, or a timedelta, that a copy is kept at most; None for no such limit.
        codec: "pickle", "json", "msgpack" (needs the extra), or a `Codec` of your own.
        compression: "zlib", "zstd" (needs the extra), or None.
        secret: signs what is stored, at least 16 bytes. Servers without a login make that advisable.
        allow: classes that an unsigned pickle may contain, besides the standard value types.
        clock: the clock of lives; tests pass another one.

    Raises:
        TypeError, ValueError: an argument is wrong.
        ModuleNotFoundError: the extra `memcached` is not installed.

    It pickles as its configuration, unless it has a secret. See `PolledTier` for what a server without
    messages cannot do.
    """

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
        super().__init__(
            MemcachedStore(servers, timeout), key_prefix, max_staleness=max_staleness, poll=poll,
            default_ttl=default_ttl, codec=codec, compression=compression, secret=secret, allow=allow,
            clock=clock,
        )  # fmt: skip
        self._address = tuple(servers), timeout

    def __reduce__(self) -> tuple[Any, ...]:
        self._serializer.__reduce__()  # refuses if there is a secret
        servers, timeout = self._address
        codec, compression, _, allow = self._stored_as
        made = partial(
            MemcachedCache, servers, self._key_prefix, max_staleness=self._max_staleness, poll=self._poll,
            timeout=timeout, default_ttl=self.default_ttl, codec=codec, compression=compression, allow=allow,
            clock=self._clock,
        )  # fmt: skip
        return made, ()
