"""PolledTier: a tier on a server that has compare-and-set and no messages.

`server_methods` checks arguments and counts, with what is here. `entries` has the protocol, `items` the bytes
and names on the server, and `listeners` the caches over the tier. No server notifies other hosts. They look
into the `journal`, if it is kept, and drop all copies in memory every `max_staleness` seconds.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from cachekit.errors import TierUnavailableError
from cachekit.model.display import safe_repr
from cachekit.model.entry import CacheEntry
from cachekit.model.patterns import literal_beginning
from cachekit.model.types import TTL
from cachekit.model.validation import (
    checked_key,
    checked_keys,
    checked_pattern,
    checked_tags,
    pattern_to_invalidate,
    seconds,
)
from cachekit.runtime.clock import Clock, SystemClock
from cachekit.serialization.codec import Codec
from cachekit.serialization.compression import Compression
from cachekit.serialization.serializer import CodecName
from cachekit.serialization.signing import Secret
from cachekit.tiers.base import BusListener
from cachekit.tiers.fences import ServerTokens
from cachekit.tiers.fresh_tokens import fresh
from cachekit.tiers.polled.entries import Entries
from cachekit.tiers.polled.items import RESERVED, Names
from cachekit.tiers.polled.journal import PAGES, Journal
from cachekit.tiers.polled.lease import PolledLease, acquired
from cachekit.tiers.polled.listeners import Listeners
from cachekit.tiers.polled.store import PolledStore
from cachekit.tiers.server_methods import ServerMethods, asks_server

_LONGEST_PREFIX: Final = 50
_PREFIX: Final = re.compile(r"[!-~]+")


class PolledTier(ServerMethods):
    """A tier on a server that hosts share, and that cannot notify them. It is a `ServerTier`.

    Args:
        store: the items on the server.
        key_prefix: the beginning of all names on the server: 50 visible ASCII characters at most.
        max_staleness: seconds after which a cache over this tier drops its copies in memory. Up to then, it
            may serve a copy that another host has invalidated.
        poll: seconds between two looks at what other hosts have changed; None for no looks. All hosts must
            pass it, because those without it write no notices. It costs two round trips for each write.
        default_ttl: seconds, or a timedelta, that a copy is kept at most; None for no such limit.
        codec: "pickle", "json", "msgpack" (needs the extra), or a `Codec` of your own.
        compression: "zlib", "zstd" (needs the extra), or None.
        secret: signs what is stored, at least 16 bytes. Then only what is signed with it is read.
        allow: classes that an unsigned pickle may contain, besides the standard value types.
        clock: the clock of lives; tests pass another one.

    Raises:
        TypeError, ValueError: an argument is wrong.

    It cannot say which keys there are: `keys` returns none, and `size` and `memory_usage` return 0. An
    invalidation by pattern drops the segment of its literal beginning, or everything, and counts nothing.
    `max_staleness` bounds copies in memory only. Reads of the tier itself are never stale.
    """

    def __init__(
        self,
        store: PolledStore,
        key_prefix: str = "cachekit:",
        *,
        max_staleness: float = 5.0,
        poll: float | None = None,
        default_ttl: TTL = None,
        codec: CodecName | Codec = "pickle",
        compression: Compression = "zlib",
        secret: Secret | None = None,
        allow: Iterable[Any] = (),
        clock: Clock = SystemClock(),  # noqa: B008  # it has no state
    ) -> None:
        if not isinstance(store, PolledStore):
            raise TypeError(f"store must have the methods of PolledStore, not be {safe_repr(store)}")
        if not isinstance(key_prefix, str):
            raise TypeError(f"key_prefix must be a str, not {safe_repr(key_prefix)}")
        if len(key_prefix) > _LONGEST_PREFIX or not _PREFIX.fullmatch(key_prefix):
            raise ValueError(
                f"key_prefix must be 1 to {_LONGEST_PREFIX} visible ASCII characters, "
                f"not {safe_repr(key_prefix)}"
            )
        self._max_staleness = seconds(max_staleness, "max_staleness")
        if not 0 < self._max_staleness <= threading.TIMEOUT_MAX:
            raise ValueError(f"max_staleness must be more than 0 seconds, not {max_staleness!r}")
        self._poll = None if poll is None else seconds(poll, "poll")
        if self._poll is not None and not 0 < self._poll <= self._max_staleness:
            raise ValueError(f"poll must be more than 0 and at most max_staleness, not {poll!r}")
        self._prepare(key_prefix, default_ttl, (codec, compression, secret, allow), clock)
        self._store = store
        self._names = Names(key_prefix)
        journal = None if self._poll is None else Journal(store, self._names.of_notices(PAGES))
        self._listeners = Listeners(self._max_staleness, journal, self._poll or 0.0)
        self._entries = Entries(
            store, self._names, self._serializer, clock, self._longest, self._counter, self._listeners
        )

    @property
    def poll(self) -> float | None:
        """Seconds between two looks at what other hosts have changed; None for no looks."""
        return self._poll

    @property
    def max_staleness(self) -> float:
        """Seconds after which a cache over this tier drops its copies in memory."""
        return self._max_staleness

    # -- looking ------------------------------------------------------------------------------------

    def get(self, key: str) -> CacheEntry | None:
        """Return the live entry under the key, or None; counts a lookup. Two round trips, one for a miss."""
        key = checked_key(key)
        begun = self._figures.begin()
        try:
            entry = self.peek(key)
        except TierUnavailableError:
            self._figures.unavailable += 1
            raise
        self._figures.end(begun, entry is not None)
        return entry

    def _live(self, keys: Sequence[str]) -> dict[str, CacheEntry]:
        return self._entries.live(keys)

    @asks_server
    def peek(self, key: str) -> CacheEntry | None:
        """Do what `get` does, without counting a lookup."""
        return self._entries.live([checked_key(key)]).get(key)

    @asks_server
    def keys(self, pattern: str | re.Pattern[str] | None = None) -> list[str]:
        """Return no keys: the server cannot list them.

        Raises:
            ValueError: the pattern is not a regular expression.
        """
        if pattern is not None:
            checked_pattern(pattern)
        return []

    @asks_server
    def size(self) -> int:
        """Return 0: the server cannot count the entries of this tier."""
        return 0

    @asks_server
    def memory_usage(self) -> int:
        """Return 0: the server cannot measure the entries of this tier."""
        return 0

    @asks_server
    def ping(self) -> None:
        """Return if the server answers; else raise `TierUnavailableError`."""
        self._store.ping()

    # -- fences -------------------------------------------------------------------------------------

    @asks_server
    def origins(self, keys: Sequence[str], tags: frozenset[str] = frozenset()) -> dict[str, ServerTokens]:
        """Return what `origin` returns for each of several keys, in two round trips."""
        return self._entries.origins(checked_keys(keys), _checked(tags))

    @asks_server
    def successor(self, tags: frozenset[str] = frozenset()) -> ServerTokens:
        """Return a fresh token, which the next `put` makes the key's, and the tags' tokens."""
        tags = _checked(tags)
        return ServerTokens(fresh(), self._entries.tag_tokens(tags) if tags else {})

    @asks_server
    def _is_current(self, key: str, origin: ServerTokens) -> bool:
        return self._entries.is_current(key, origin)

    # -- writing ------------------------------------------------------------------------------------

    @asks_server
    def put(
        self, key: str, entry: CacheEntry, origin: ServerTokens, *, expect: ServerTokens | None = None
    ) -> bool:
        """Do what `set` does, and make the token of `origin` the key's; see `ServerTier.put`."""
        return self._entries.put(key, entry, origin, expect)

    @asks_server
    def put_many(self, entries: Mapping[str, CacheEntry], origins: Mapping[str, ServerTokens]) -> None:
        """Do what `put` does for several keys at once."""
        self._entries.put_many(entries, origins)

    @asks_server
    def create(self, key: str, entry: CacheEntry, origin: ServerTokens) -> bool:
        """Do what `put` does unless the key has a live entry; return whether the entry was stored."""
        return self._entries.create(key, entry, origin)

    @asks_server
    def add(self, key: str, entry: CacheEntry, origin: ServerTokens) -> CacheEntry | bool:
        """Store the entry if the tokens are still those of `origin`; see `ServerTier.add`."""
        return self._entries.add(key, entry, origin)

    @asks_server
    def add_many(
        self, entries: Mapping[str, CacheEntry], origins: Mapping[str, ServerTokens]
    ) -> dict[str, CacheEntry | bool]:
        """Do what `add` does for several keys at once. If one entry cannot be stored, none is."""
        for key, entry in entries.items():
            self._entries.check(entry, origins[key])
        return {key: self._entries.add(key, entry, origins[key]) for key, entry in entries.items()}

    def _prolong(self, key: str, life: float) -> bool:
        return self._entries.prolong(key, life)

    def _end(self, keys: Sequence[str]) -> list[str]:
        return self._entries.remove(keys)

    @asks_server
    def clear(self) -> bool:
        """Let every entry count as absent, and break every fence. True."""
        self._entries.end_all()
        return True

    def _forget_tags(self, tags: frozenset[str]) -> None:
        self._entries.end_tags(tags)

    @asks_server
    def invalidate_by_pattern(self, pattern: str | re.Pattern[str]) -> int:
        """Drop entries whose key matches, and more: the segment of the literal beginning, or everything.

        Returns:
            0: the entries are not counted.
        """
        matches = pattern_to_invalidate(pattern)
        flags = matches.flags & ~re.UNICODE
        self._entries.end_beginning("" if flags else literal_beginning(matches.pattern))
        return 0

    # -- other caches -------------------------------------------------------------------------------

    @asks_server
    def subscribe(self, listener: BusListener) -> Callable[[], None]:
        """Let a cache drop all copies in memory every `max_staleness` seconds, and those of writes here.

        Changes made through this very object reach the listener in the thread that makes them, before the
        call returns. Those of other processes reach it within `poll` seconds. The tier holds the listener
        weakly.
        """
        return self._listeners.subscribe(listener)

    @asks_server
    def lease(self, key: str, seconds: float) -> PolledLease | None:
        """Return the lease of a key, which expires after so many seconds; None if it is taken."""
        return acquired(self._store, self._names.of_lease(checked_key(key)), seconds)

    # -- life ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the store. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._store.close()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(f"{type(self).__name__} does not pickle; make one in each process")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._store!r}, key_prefix={safe_repr(self._key_prefix)}>"


def _checked(tags: frozenset[str]) -> frozenset[str]:
    """Return the tags.

    Raises:
        ValueError: one is a name under which entries here have other tokens.
    """
    checked = checked_tags(tags)
    for name in RESERVED.intersection(checked):
        raise ValueError(f"tags must not be {safe_repr(name)} here; give it another name")
    return checked
