"""RedisCache: the tier that hosts share through a server.

It checks what it is given, turns entries into envelopes and back, decides whether what it reads is still
good, and keeps the figures of this process; `store` keeps the bytes, `server` knows the driver, `bus` tells
the fleet. What is read is not trusted: it is checked, and cannot run code unless it is signed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, final

from cachekit.errors import TierUnavailableError
from cachekit.model.entry import CacheEntry
from cachekit.model.stats import CacheStats
from cachekit.model.types import FOREVER, TTL, Tags
from cachekit.model.validation import checked_key, checked_keys, checked_pattern, checked_tags, seconds
from cachekit.runtime.clock import Clock, SystemClock
from cachekit.serialization import Serializer
from cachekit.serialization.codec import Codec
from cachekit.serialization.compression import Compression
from cachekit.serialization.pickle_allowlist import classes
from cachekit.serialization.serializer import CodecName
from cachekit.serialization.signing import Secret
from cachekit.tiers.arguments import check_entry, checked_cap
from cachekit.tiers.base import BusListener, Fence
from cachekit.tiers.fences import ServerTokens
from cachekit.tiers.redis.client import Client
from cachekit.tiers.redis.connection import Address, checked_client, no_server, one_server, some_nodes
from cachekit.tiers.redis.entries import Entries
from cachekit.tiers.redis.fence import RedisFence, check_fence, checked_origin, checked_pairs
from cachekit.tiers.redis.key_layout import Layout
from cachekit.tiers.redis.lease import FleetLease, FleetLeases
from cachekit.tiers.redis.stats import Figures, Guard
from cachekit.tiers.redis.store import Store, fresh

_MEASURED: Final = 1000  # values whose memory the server is asked for, at the most


@final
class RedisCache:
    """The tier on a Redis (7.0 or newer) or Valkey that hosts share; a single one, or a Cluster.

    Args:
        host: where the server is.
        port: its port.
        db: the number of the database.
        key_prefix: what all its keys begin with. Caches with the same prefix are one cache; it has no
            braces. It also names what signatures are bound to.
        url: redis://, rediss:// (TLS) or unix://, instead of host, port, db and ssl.
        client: a `redis.Redis` or `redis.RedisCluster` of your own, as Sentinel gives, instead of all the
            others up to `timeout`. Its timeouts are its own; `close` leaves it open.
        username: whom to log in as.
        password: and with what; it is in no repr, log or error.
        ssl: whether to use TLS.
        timeout: seconds to wait for a connection or an answer. A call is tried once more.
        default_ttl: seconds (or a timedelta) that it keeps any copy at the longest; None sets no such limit.
        codec: "pickle", "json", "msgpack" (needs the extra), or a `Codec` of your own.
        compression: "zlib", "zstd" (needs the extra), or None; for payloads of 2 KiB to 64 MiB.
        secret: sign what is stored, and read nothing that is not signed with it; at least 16 bytes. A list
            signs with the first and reads with any. Without one, only plain values and the classes in
            `allow` are read.
        allow: classes that an unsigned pickle may contain, besides the standard value types.
        clock: where the time comes from; another one is for tests.

    Raises:
        TypeError, ValueError: an argument is not one of these.
        ModuleNotFoundError: an extra is not installed.

    All methods are safe in any thread, before and after a fork. It connects at the first call. Arguments of
    the wrong type are a TypeError, a key that is no str among them, and a value that would not come back as
    it is a `SerializationError`; one that takes more than 64 MiB is a `ValueTooLargeError`. When the server
    does not answer, or with an error, it is a `TierUnavailableError`: what was to be written may have been
    written then. After `close`, it is a `CacheClosedError`.

    It pickles as its configuration, the password included, but not with a secret or a client.
    `access_count` of its entries is 0: nobody counts for a fleet.
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
            address = one_server(host, port, db, url, username, password, ssl, timeout)
        else:
            no_server(checked_client(client), host, port, db, url, username, password, ssl, timeout)
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
        timeout: float = 0.25,
        default_ttl: TTL = None,
        codec: CodecName | Codec = "pickle",
        compression: Compression = "zlib",
        secret: Secret | None = None,
        allow: Iterable[Any] = (),
        clock: Clock = SystemClock(),  # noqa: B008  # it has no state
    ) -> RedisCache:
        """A tier on a Redis Cluster, found by any of its nodes.

        Args:
            nodes: host and port of some of them; the others are found by asking.
            key_prefix: as for `RedisCache`, and so are all the others.
            username: for all nodes.
            password: for all nodes.
            ssl: for all nodes.
            timeout: for each node.
            default_ttl: as there.
            codec: as there.
            compression: as there.
            secret: as there.
            allow: as there.
            clock: as there.

        Raises:
            TypeError, ValueError: an argument is not one of these.
        """
        address = some_nodes(nodes, username, password, ssl, timeout)
        self = cls.__new__(cls)
        self._set_up(address, None, key_prefix, default_ttl, (codec, compression, secret, allow), clock)
        return self

    def _set_up(
        self,
        address: Address | None,
        client: Any,
        key_prefix: str,
        default_ttl: TTL,
        stored_as: tuple[CodecName | Codec, Compression, Secret | None, Iterable[Any]],
        clock: Clock,
    ) -> None:
        cap = checked_cap(default_ttl)
        layout = Layout(key_prefix)
        codec, compression, secret, allow = stored_as
        allow = classes(allow)
        self._serializer = Serializer(
            layout.prefix, codec=codec, compression=compression, secret=secret, allow=allow
        )
        self._address = address
        # Not the secret: it is kept nowhere.
        longest = None if cap == FOREVER else cap
        self._configuration = layout.prefix, longest, codec, compression, allow, clock
        self._longest = cap
        self._clock = clock
        self._server = Client(address, client)
        self._store = Store(self._server, layout)
        self._figures = Figures(clock)
        self._counter = self._figures.counter
        self._guard = Guard(self._server, self._figures)
        self._entries = Entries(self._store, self._serializer, secret is not None, clock, cap, self._counter)

    @property
    def key_prefix(self) -> str:
        """What all its keys begin with."""
        return self._configuration[0]

    @property
    def default_ttl(self) -> float | None:
        """Seconds that it keeps any copy at the longest; None without such a limit."""
        return None if self._longest == FOREVER else self._longest

    # -- looking ------------------------------------------------------------------------------------

    def get_value(self, key: str, default: Any = None) -> Any:
        """The value under the key, or `default`; a lookup that counts."""
        entry = self.get(key)
        return default if entry is None else entry.value

    def get(self, key: str) -> CacheEntry | None:
        """The live entry under the key, or None; a lookup that counts.

        One round trip, and a second one if the entry has tags. What cannot be read, because it is damaged,
        foreign, not signed or not allowed, is a miss, and counts as an error too.
        """
        key = checked_key(key)
        begun = self._figures.begin()
        try:
            entry = self._entries.get(key)
        except TierUnavailableError:
            self._figures.fail(lookups=1)
            raise
        self._figures.end(begun, entry is not None)
        return entry

    def get_many(self, keys: Sequence[str]) -> dict[str, CacheEntry]:
        """The live entries among the keys, in one round trip, or two; each is a lookup that counts."""
        keys = checked_keys(keys)
        self._refuse_if_closed()
        try:
            entries = self._entries.get_many(keys)
        except TierUnavailableError:
            self._figures.fail(lookups=len(keys))
            raise
        self._figures.end_many(len(keys), len(entries))
        return entries

    def peek(self, key: str) -> CacheEntry | None:
        """Like `get`, but no lookup: hits and misses do not move."""
        with self._guard:
            return self._entries.get(checked_key(key))

    def __contains__(self, key: str) -> bool:
        """Whether there is a live entry; no lookup. Its value is not transferred."""
        with self._guard:
            return bool(self._entries.alive([checked_key(key)]))

    def keys(self, pattern: str | re.Pattern[str] | None = None) -> list[str]:
        """The keys of live entries, in no particular order; with a pattern those that it matches.

        The server is made to go through all of its keys, not only this cache's, in small steps, and is
        asked for the first bytes of each value (for all of them with a secret): for tools and tests, not
        for every day.

        Args:
            pattern: a regular expression, matched from the start of the key.

        Raises:
            ValueError: it is not a regular expression.
        """
        matches = None if pattern is None else checked_pattern(pattern)
        with self._guard:
            return self._entries.keys(matches)

    def size(self) -> int:
        """How many values there are, also those that a tag has ended; goes through all keys of the server."""
        with self._guard:
            self._figures.size = self._store.size()
        return self._figures.size

    def memory_usage(self) -> int:
        """Bytes that the values take on the server, by its own account.

        It goes through all of the server's keys, and asks for up to 1,000; the rest are taken to be alike.
        """
        with self._guard:
            self._figures.memory_usage = self._store.memory_usage(_MEASURED)
        return self._figures.memory_usage

    def ping(self) -> None:
        """Return if the server answers, in a Cluster each primary; else a `TierUnavailableError`."""
        with self._guard:
            self._server.ping()

    def get_stats(self) -> CacheStats:
        """What this process has counted until now; see `CacheStats`. It stays readable after `close`.

        It asks nobody: `size` and `memory_usage_bytes` are what the methods last measured, 0 before that.
        """
        return self._figures.snapshot()

    # -- fences -------------------------------------------------------------------------------------

    def origin(self, key: str, tags: frozenset[str] = frozenset()) -> ServerTokens:
        """The tokens of key and tags as they are now: a fence for `add`. One round trip."""
        return self.origins([key], tags)[key]

    def origins(self, keys: Sequence[str], tags: frozenset[str] = frozenset()) -> dict[str, ServerTokens]:
        """`origin` of several keys in one round trip."""
        keys = checked_keys(keys)
        with self._guard:
            of_keys, of_tags = self._store.tokens(keys, checked_tags(tags))
        return {key: ServerTokens(token, of_tags) for key, token in zip(keys, of_keys, strict=True)}

    def successor(self, tags: frozenset[str] = frozenset()) -> ServerTokens:
        """A fresh token for a key, which its next `put` makes the current one; no I/O without tags."""
        with self._guard:
            return ServerTokens(fresh(), self._store.tokens([], checked_tags(tags))[1] if tags else {})

    def fence(self, key: str, tags: Tags = ()) -> RedisFence:
        """A fence for `set_if`; take it before the value is loaded. One round trip."""
        key = checked_key(key)
        return RedisFence(key, self.origin(key, checked_tags(tags)), self._store)

    # -- writing ------------------------------------------------------------------------------------

    def set_value(self, key: str, value: Any, ttl: TTL = None, tags: Tags | None = None) -> bool:
        """Store a value in place of whatever the key held.

        Args:
            key: where.
            value: anything that the codec carries.
            ttl: its life from now, in seconds or as a timedelta, no longer than the tier's
                `default_ttl`; 0 or less keeps nothing and removes what was there.
            tags: labels by which it can be invalidated together with others; they cost a second round trip.

        Returns:
            True.
        """
        return self.set(checked_key(key), CacheEntry(key, value, self._clock.time(), ttl=ttl, tags=tags))

    def set(self, key: str, entry: CacheEntry) -> bool:
        """Store an entry in place of whatever the key held; it keeps the age that it has.

        An entry whose time is over removes the key instead. One created in the future, by another
        machine's clock, counts as created now. One round trip, and one more with tags.

        Returns:
            True.

        Raises:
            ValueError: the entry's own key is another one.
        """
        check_entry(key, entry)
        self.put(key, entry, self.successor(entry.tags))
        return True

    def put(
        self, key: str, entry: CacheEntry, origin: ServerTokens, *, expect: ServerTokens | None = None
    ) -> bool:
        """`set`, which makes the token of `origin` the key's, and tells the other hosts.

        Args:
            key: where.
            entry: what.
            origin: a fresh token (`successor`), with the tokens that the tags had when the value was made.
            expect: change nothing unless the key's token is still that of this origin.

        Returns:
            True, unless the expected token was replaced meanwhile.

        Raises:
            ValueError: the entry's own key is another one, or the origin has no token for one of its tags.
        """
        check_entry(key, entry)
        with self._guard:
            expected = None if expect is None else checked_origin(expect)
            return self._entries.put(entry, checked_origin(origin), expected)

    def put_many(self, entries: Mapping[str, CacheEntry], origins: Mapping[str, ServerTokens]) -> None:
        """`put` of several keys at once.

        Raises:
            ValueError: an entry's own key is another one, or there is no origin for a key, or one that has
                no token for one of its tags.
        """
        pairs = checked_pairs(entries, origins)
        with self._guard:
            self._entries.put_many(pairs)

    def set_if(self, key: str, entry: CacheEntry, fence: Fence) -> bool:
        """Store an entry if the fence, taken for this key before it was loaded, is still current.

        A live entry that is there already stays.

        Returns:
            True if it was stored; False if it was refused, or its time is over.

        Raises:
            ValueError: the entry's own key is another one, or the fence was taken for another key, or
                not for all the tags of the entry.
        """
        check_entry(key, entry)
        return self.add(key, entry, check_fence(fence, entry)) is True

    def add(self, key: str, entry: CacheEntry, origin: ServerTokens) -> CacheEntry | bool:
        """Store the entry if the tokens are still those of `origin`. It breaks no fence: it is no news.

        Returns:
            A live entry that is there already, whatever the tokens; or whether it was stored.

        Raises:
            ValueError: the entry's own key is another one, or the origin has no token for one of its tags.
        """
        check_entry(key, entry)
        with self._guard:
            return self._entries.add(entry, checked_origin(origin))

    def add_many(
        self, entries: Mapping[str, CacheEntry], origins: Mapping[str, ServerTokens]
    ) -> dict[str, CacheEntry | bool]:
        """`add` of several keys at once; nothing is stored if one cannot be.

        Raises:
            ValueError: as for `put_many`.
        """
        pairs = checked_pairs(entries, origins)
        with self._guard:
            return self._entries.add_many(pairs)

    def touch(self, key: str, ttl: TTL = None) -> bool:
        """Give a live entry a new life from now, without changing its value; True if there is one.

        It is read, and stored again if nobody has changed it meanwhile: three round trips at the most.
        """
        key = checked_key(key)
        life = min(math.inf if ttl is None else seconds(ttl), self._longest)
        if life <= 0:
            return self.delete(key)
        with self._guard:
            return self._entries.prolong(key, life)

    def delete(self, key: str) -> bool:
        """Remove the key, break its fences, and tell the other hosts; True if the server held a value."""
        key = checked_key(key)
        with self._guard:
            removed = self._store.remove(key)
        self._counter.deletes += removed
        return removed

    def remove_many(self, keys: Sequence[str]) -> list[str]:
        """`delete` of several keys at once; those that the server held."""
        keys = checked_keys(keys)
        with self._guard:
            removed = self._store.remove_many(keys)
        count = len(removed)
        self._counter.deletes += count
        return removed

    def clear(self) -> bool:
        """Remove everything under the prefix, break every fence, and tell the other hosts. True.

        The server is made to go through all of its keys, in small steps.
        """
        with self._guard:
            removed = self._store.clear()
        self._counter.invalidations += removed
        return True

    def renew(self) -> None:
        """Change the tokens of all keys, so that nothing that was read before is kept; tell the hosts."""
        with self._guard:
            self._store.renew()

    def invalidate_by_tags(self, tags: Tags) -> int:
        """Drop entries with any of the tags, break fences that name one, and tell the other hosts.

        One round trip, however many entries there are: they are not looked for, but what names a tag's
        former token is over. The server gives their memory back at the end of their time.

        Returns:
            0: nobody counts them.
        """
        tags = checked_tags(tags)
        if tags:
            with self._guard:
                self._store.forget_tags(list(tags))
        return 0

    def invalidate_by_pattern(self, pattern: str | re.Pattern[str]) -> int:
        """Drop entries whose key the regular expression matches from the start, and tell the other hosts.

        Loads under way of any key are refused. The server is made to go through all of its keys, in small
        steps, and sends those that begin as all matches must.

        Returns:
            How many the server held.

        Raises:
            ValueError: it is not a regular expression.
        """
        compiled = checked_pattern(pattern)
        with self._guard:
            removed = self._store.remove_matching(compiled)
        self._counter.invalidations += removed
        return removed

    def subscribe(self, listener: BusListener) -> Callable[[], None]:
        """Tell `listener` what is written and invalidated from now on.

        Of what others do it is told by a thread of its own, and first of all with `everything_changed`: when
        the thread begins, and again when the server has confirmed that it listens. It is called so again
        whenever something may have been missed. Of what is done through this very object it is told in the
        thread that does it, before the call returns, and also if that fails.

        Returns:
            A function without arguments that ends it. It holds the listener, and this tier does not: a
            listener that nobody holds, and whose function nobody holds, ends by itself.
        """
        self._refuse_if_closed()
        return self._store.subscribe(listener)

    def lease(self, key: str, seconds: float) -> FleetLease | None:
        """See `ports.LendsLeases`; one round trip."""
        with self._guard:
            return FleetLeases(self._server.client(), self.key_prefix, seconds).try_acquire(key)

    # -- life ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the bus, and close the connections, unless they are a client's. A second call does nothing."""
        if not self._server.is_closed:
            self._store.close()

    def _refuse_if_closed(self) -> None:
        with self._guard:
            pass

    def __enter__(self) -> RedisCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._address is None:
            raise TypeError(
                "a RedisCache on a client does not pickle, because connections do not; make one by url, or "
                "by host and port"
            )
        self._serializer.__reduce__()  # refuses if there is a secret
        return _configured, (self._address, *self._configuration)

    def __repr__(self) -> str:
        return f"<RedisCache on {self._server}, key_prefix={self.key_prefix!r}>"


def _configured(
    address: Address,
    key_prefix: str,
    default_ttl: float | None,
    codec: CodecName | Codec,
    compression: Compression,
    allow: tuple[Any, ...],
    clock: Clock,
) -> RedisCache:
    self = RedisCache.__new__(RedisCache)
    self._set_up(address, None, key_prefix, default_ttl, (codec, compression, None, allow), clock)
    return self
