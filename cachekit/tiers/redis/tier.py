"""RedisCache: the tier that hosts share through a server.

`server_methods` checks arguments and counts, with what is here. `entries` turns entries into envelopes and
back, `store` knows the keys on the server, `client` knows the driver, and `bus` notifies the fleet. What is
read is not trusted: it is checked, and cannot run code unless it is signed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final, final

from cachekit.errors import TierUnavailableError
from cachekit.model.counters import LatencyHistogram
from cachekit.model.display import safe_repr
from cachekit.model.entry import CacheEntry
from cachekit.model.types import TTL
from cachekit.model.validation import (
    LONGEST,
    checked_key,
    checked_keys,
    checked_pattern,
    checked_tags,
    pattern_to_invalidate,
)
from cachekit.runtime.clock import Clock, SystemClock
from cachekit.serialization.codec import Codec
from cachekit.serialization.compression import Compression
from cachekit.serialization.serializer import CodecName
from cachekit.serialization.signing import Secret
from cachekit.tiers.base import BusListener
from cachekit.tiers.fences import ServerTokens
from cachekit.tiers.fresh_tokens import fresh
from cachekit.tiers.redis.address import (
    Address,
    checked_client,
    no_server,
    one_server,
    some_nodes,
    some_sentinels,
)
from cachekit.tiers.redis.answers import is_report
from cachekit.tiers.redis.bus import Bus
from cachekit.tiers.redis.client import Client
from cachekit.tiers.redis.entries import Entries
from cachekit.tiers.redis.figures import FigureStore
from cachekit.tiers.redis.key_layout import Layout
from cachekit.tiers.redis.lease import FleetLease, FleetLeases
from cachekit.tiers.redis.store import Store
from cachekit.tiers.redis.tls import TLS
from cachekit.tiers.server_methods import InOneStep, ServerMethods, StoredAs, asks_server

_MEASURED: Final = 1000  # values whose memory use the server is asked for, at most


@final
class RedisCache(ServerMethods):
    """The tier on a Redis (7.0 or newer) or Valkey that hosts share.

    The constructor takes a single server, `cluster` a Cluster, and `sentinel` a primary that sentinels name.

    Args:
        host: the server's name or address.
        port: its port.
        db: the number of the database.
        key_prefix: the beginning of all its keys, without braces. Caches with the same prefix share their
            entries. Signatures are bound to it.
        url: redis://, rediss:// (TLS), unix://, redis+sentinel:// or rediss+sentinel://, instead of host,
            port, db and ssl. Sentinels are listed: redis+sentinel://host:port,host:port/service/db. The
            options `sentinel_username` and `sentinel_password` after a ? log in to them.
        client: a `redis.Redis` or `redis.RedisCluster` of your own, instead of all arguments from `host` to
            `timeout`. Its own timeouts hold; `close` leaves it open.
        username: the user to log in as.
        password: the user's password. No repr, log or error contains it.
        ssl: whether to use TLS.
        tls: certificates for TLS, which it implies.
        timeout: seconds to wait for a connection or an answer (default 0.25). A call is tried once more.
        default_ttl: seconds, or a timedelta, that a copy is kept at most; None for no such limit.
        codec: "pickle", "json", "msgpack" (needs the extra), or a `Codec` of your own.
        compression: "zlib", "zstd" (needs the extra), or None; for payloads of 2 KiB to 64 MiB.
        secret: signs what is stored, at least 16 bytes. Then only what is signed with it is read. A list
            signs with the first and reads with any. Without a secret, only plain values and the classes in
            `allow` are read.
        allow: classes that an unsigned pickle may contain, besides the standard value types.
        clock: the clock of lives and latencies; tests pass another one.

    Raises:
        TypeError, ValueError: an argument is wrong.
        ModuleNotFoundError: an extra is not installed.

    All methods are safe in any thread, before and after a fork. It connects at the first call. Writes and
    invalidations notify the other hosts. Methods raise:

    - `TypeError` for an argument of the wrong type;
    - `SerializationError` for a value that would not be read back as it is;
    - `ValueTooLargeError` for a value of more than 64 MiB;
    - `TierUnavailableError` if the server does not answer, or answers with an error. A write may have been
      carried out then;
    - `CacheClosedError` after `close`.

    It pickles as its configuration, including the password, but not with a secret or a client.
    `access_count` of its entries is 0, because no count is shared.
    """

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
        address = None
        if client is None:
            address = one_server(host, port, db, url, username, password, ssl, tls, timeout)
        else:
            no_server(checked_client(client), host, port, db, url, username, password, ssl, tls, timeout)
        self._set_up(address, client, key_prefix, default_ttl, (codec, compression, secret, allow), clock)

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
        """Return a tier on a Redis Cluster, found by any of its nodes.

        Args:
            nodes: host and port of some nodes; they know the others.
            key_prefix: as for `RedisCache`, like all others.
            username: for all nodes.
            password: for all nodes.
            ssl: for all nodes.
            tls: for all nodes.
            timeout: for each node.
            default_ttl: as there.
            codec: as there.
            compression: as there.
            secret: as there.
            allow: as there.
            clock: as there.

        Raises:
            TypeError, ValueError: an argument is wrong.
        """
        address = some_nodes(nodes, username, password, ssl, tls, timeout)
        return cls._at(address, key_prefix, default_ttl, (codec, compression, secret, allow), clock)

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
        """Return a tier on the primary that sentinels name, whichever server that is at the time.

        Replicas are not read. Each connection asks the sentinels in turn until one names the primary. A
        cache above it asks one of them once a second, too.

        Args:
            sentinels: host and port of some sentinels.
            service: the name of the primary, as in `sentinel monitor`.
            key_prefix: as for `RedisCache`, like all others.
            db: as there.
            username: for the primary, and the server that replaces it.
            password: for the same.
            sentinel_username: for all sentinels.
            sentinel_password: for all sentinels.
            ssl: for the primary and all sentinels.
            tls: for the same.
            timeout: for the primary, and again for each sentinel that is asked.
            default_ttl: as there.
            codec: as there.
            compression: as there.
            secret: as there.
            allow: as there.
            clock: as there.

        Raises:
            TypeError, ValueError: an argument is wrong.
        """
        login, sentinel_login = (username, password), (sentinel_username, sentinel_password)
        address = some_sentinels(sentinels, service, db, login, sentinel_login, ssl, tls, timeout)
        return cls._at(address, key_prefix, default_ttl, (codec, compression, secret, allow), clock)

    @classmethod
    def _at(
        cls, address: Address, key_prefix: str, default_ttl: TTL, stored_as: StoredAs, clock: Clock
    ) -> RedisCache:
        self = cls.__new__(cls)
        self._set_up(address, None, key_prefix, default_ttl, stored_as, clock)
        return self

    def _set_up(
        self,
        address: Address | None,
        client: Any,
        key_prefix: str,
        default_ttl: TTL,
        stored_as: StoredAs,
        clock: Clock,
    ) -> None:
        layout = Layout(key_prefix)
        self._prepare(layout.prefix, default_ttl, stored_as, clock)
        self._address = address
        self._server = Client(address, client)
        self._store = Store(self._server, layout)
        is_signed = stored_as[2] is not None
        self._entries = Entries(self._store, self._serializer, is_signed, clock, self._longest, self._counter)

    # -- looking ------------------------------------------------------------------------------------

    def get(self, key: str) -> CacheEntry | None:
        """Return the live entry under the key, or None; counts a lookup.

        One round trip, and a second one if the entry has tags that this process did not foresee. What cannot
        be read, because it is damaged, of another program, not signed or not allowed, is a miss, and
        counts as an error too.
        """
        begun = self._figures.begin()
        try:
            entry = self._entries.get(key if type(key) is str and len(key) <= LONGEST else checked_key(key))
        except TierUnavailableError:
            self._figures.unavailable += 1
            self._counter.errors += 1
            raise
        self._figures.end(begun, entry is not None)
        return entry

    def _live(self, keys: Sequence[str]) -> dict[str, CacheEntry]:
        return self._entries.get_many(keys)

    def _values(self, keys: Sequence[str]) -> dict[str, Any]:
        return self._entries.get_values(keys)

    @asks_server
    def peek(self, key: str) -> CacheEntry | None:
        """Do what `get` does, without counting a lookup."""
        return self._entries.get(checked_key(key))

    @asks_server
    def __contains__(self, key: str) -> bool:
        """Return whether there is a live entry; counts no lookup, and does not transfer the value."""
        return bool(self._entries.alive([checked_key(key)]))

    @asks_server
    def keys(self, pattern: str | re.Pattern[str] | None = None) -> list[str]:
        """Return the keys of live entries that match, in no particular order.

        The server goes through all of its keys, not only this cache's, in small steps. It sends the first
        bytes of each value, and with a secret whole values. So this is for tools and tests.

        Args:
            pattern: a regular expression, matched from the start of the key; None for all keys.

        Raises:
            ValueError: it is not a regular expression.
        """
        return self._entries.keys(None if pattern is None else checked_pattern(pattern))

    @asks_server
    def size(self) -> int:
        """Return how many values there are. The server goes through all of its keys.

        Values that the invalidation of a tag has ended are among them.
        """
        size = self._figures.size = self._store.size()
        return size

    @asks_server
    def memory_usage(self) -> int:
        """Return the bytes that the values take on the server, by its own account.

        The server goes through all of its keys. It measures up to 1,000 values; the result is estimated.
        """
        usage = self._figures.memory_usage = self._store.memory_usage(_MEASURED)
        return usage

    @asks_server
    def ping(self) -> None:
        """Return if the server answers, in a Cluster each primary; else raise `TierUnavailableError`."""
        self._server.ping()

    # -- fences -------------------------------------------------------------------------------------

    @asks_server
    def origins(self, keys: Sequence[str], tags: frozenset[str] = frozenset()) -> dict[str, ServerTokens]:
        """Return what `origin` returns for each of several keys, in one round trip."""
        keys = checked_keys(keys)
        of_keys, of_tags = self._store.tokens(keys, checked_tags(tags))
        return {key: ServerTokens(token, of_tags) for key, token in zip(keys, of_keys, strict=True)}

    @asks_server
    def successor(self, tags: frozenset[str] = frozenset()) -> ServerTokens:
        """Return a fresh token, which the next `put` makes the key's, and the tags' tokens.

        Without tags it does no I/O.
        """
        return ServerTokens(fresh(), self._store.tokens([], checked_tags(tags))[1] if tags else {})

    @asks_server
    def _is_current(self, key: str, origin: ServerTokens) -> bool:
        return self._store.is_current(key, origin)

    # -- writing ------------------------------------------------------------------------------------

    @asks_server
    def put(
        self,
        key: str,  # noqa: ARG002  # the entry has it
        entry: CacheEntry,
        origin: ServerTokens,
        *,
        expect: ServerTokens | None = None,
    ) -> bool:
        """Do what `set` does, make the token of `origin` the key's, and notify the other hosts.

        Caches call this with arguments that they have checked. Use `set` elsewhere.

        Args:
            key: the key of the entry.
            entry: the entry.
            origin: a fresh token (`successor`), with the tokens that the tags had when the value was made.
            expect: change nothing unless the key's token is still that of this origin.

        Returns:
            True, unless the expected token was replaced.

        Raises:
            ValueError: the origin has no token for one of the entry's tags.
        """
        if expect is None and not entry.tags:
            self._entries.put_one(entry, origin)
            return True
        return self._entries.put([(entry, origin)], expect)

    @asks_server
    def _put_now(self, entries: Sequence[CacheEntry]) -> None:
        self._entries.put_now(entries)

    @asks_server
    def create(self, key: str, entry: CacheEntry, origin: ServerTokens) -> bool:  # noqa: ARG002  # as `put`
        """Do what `put` does unless the key has a live entry; return whether the entry was stored.

        Of several callers at once, on any host, one stores its entry. Caches call this with arguments that
        they have checked.

        Raises:
            ValueError: the origin has no token for one of the entry's tags.
        """
        return self._entries.create(entry, origin)

    @asks_server
    def put_many(self, entries: Mapping[str, CacheEntry], origins: Mapping[str, ServerTokens]) -> None:
        """Do what `put` does for several keys at once; caches call this.

        Raises:
            ValueError: an origin has no token for one of the entry's tags.
        """
        self._entries.put([(entry, origins[key]) for key, entry in entries.items()])

    _in_one_step: ClassVar = InOneStep(_put_now, (successor, put, put_many))

    @asks_server
    def add(self, key: str, entry: CacheEntry, origin: ServerTokens) -> CacheEntry | bool:
        """Store the entry if the tokens are still those of `origin`. It breaks no fence.

        Caches call this with arguments that they have checked. Use `set_if` elsewhere.

        Returns:
            A live entry that is there already, whatever the tokens; or whether this one was stored.

        Raises:
            ValueError: the origin has no token for one of the entry's tags.
        """
        return self._entries.add([(entry, origin)])[key]

    @asks_server
    def add_many(
        self, entries: Mapping[str, CacheEntry], origins: Mapping[str, ServerTokens]
    ) -> dict[str, CacheEntry | bool]:
        """Do what `add` does for several keys at once; caches call this. If one cannot be stored, none is.

        Raises:
            ValueError: an origin has no token for one of the entry's tags.
        """
        return self._entries.add([(entry, origins[key]) for key, entry in entries.items()])

    def _prolong(self, key: str, life: float) -> bool:
        return self._entries.prolong(key, life)

    def _end(self, keys: Sequence[str]) -> list[str]:
        return self._store.remove(keys)

    @asks_server
    def clear(self) -> bool:
        """Remove everything under the prefix, break every fence, and notify the other hosts. True.

        The server goes through all of its keys, in small steps.
        """
        removed = self._store.clear()
        self._counter.invalidations += removed
        return True

    @asks_server
    def renew(self) -> None:
        """Change the tokens of all keys, so that nothing read before is stored; notify the hosts."""
        self._store.renew()

    def _forget_tags(self, tags: frozenset[str]) -> None:
        self._store.forget_tags(list(tags))

    @asks_server
    def invalidate_by_pattern(self, pattern: str | re.Pattern[str]) -> int:
        """Drop entries whose key the regular expression matches from the start, and notify the other hosts.

        Loads in progress are refused, whatever their key. The server goes through all of its keys, in small
        steps, and sends those that begin like all matches.

        Returns:
            How many the server held.

        Raises:
            ValueError: it is not a regular expression.
        """
        removed = self._store.remove_matching(pattern_to_invalidate(pattern))
        self._counter.invalidations += removed
        return removed

    @asks_server
    def subscribe(self, listener: BusListener) -> Callable[[], None]:
        """Notify `listener` of writes and invalidations from now on.

        A thread of its own notifies it of what others do. The first call is `everything_changed`: when the
        thread begins, and again when the server has confirmed the subscription. The same call follows
        whenever a message may have been lost. Changes made through this very object reach it in the thread
        that makes them, before the call returns, even if the call fails.

        Returns:
            A function without arguments that ends it. This function holds the listener; the tier does not.
            A subscription whose listener and function are no longer held ends by itself.
        """
        return self._store.subscribe(listener)

    @asks_server
    def lease(self, key: str, seconds: float) -> FleetLease | None:
        """Return the lease of a key, which expires after so many seconds; None if it is taken.

        One round trip.
        """
        return FleetLeases(self._server, self.key_prefix, seconds).try_acquire(key)

    # -- life ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the bus, and close the connections, unless they are a client's. A second call does nothing."""
        if not self._closed:
            self._store.close()
            self._closed = True  # last: a call that was interrupted can be repeated

    def __reduce__(self) -> tuple[Any, ...]:
        if self._address is None:
            raise TypeError(
                "a RedisCache with client= does not pickle, because connections do not; make it with url=, "
                "or with host and port"
            )
        self._serializer.__reduce__()  # refuses if there is a secret
        held = self._address, self._key_prefix, self.default_ttl, self._stored_as, self._clock
        return RedisCache._at, held

    def __repr__(self) -> str:
        return f"<RedisCache on {self._server}, key_prefix={safe_repr(self.key_prefix)}>"


def bus_of(tier: RedisCache) -> Bus:
    """Return the bus of a tier, for caches over it."""
    return tier._store.bus


def figures_of(tier: RedisCache) -> FigureStore:
    """Return where the processes over the server and prefix of a tier keep their figures."""
    return FigureStore(tier._server, Layout(tier.key_prefix))


def latency_of(tier: RedisCache) -> LatencyHistogram:
    """Return how long the hits of a tier took."""
    return tier._figures.latency


def server_info(tier: RedisCache) -> dict[str, str]:
    """Return what the server says of itself, by INFO.

    Raises:
        TierUnavailableError: it does not answer, or this user may not ask.
    """
    said = tier._server.call(is_report, "INFO")
    if isinstance(said, dict):  # parsed by the driver
        return {str(name): str(value) for name, value in said.items()}
    lines = [line.partition(":") for line in said.decode("utf-8", "replace").splitlines()]
    return {name: value for name, colon, value in lines if colon and not name.startswith("#")}
