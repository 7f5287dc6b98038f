"""PolledTier: a tier on a server that has compare-and-set and no messages.

The protocol:

- **A load** takes the token of the key's item, and those of what it watches, before it reads the truth. An
  absent item becomes a tombstone with a fresh token. The result is stored by compare-and-set, if the item
  still has that token.
- **A write** stores the value with a fresh token, and **a deletion** stores a tombstone with one. So every
  load in progress is refused.
- **An invalidation** of a tag, a segment or all keys gives the watched item a fresh token. Values with the
  earlier one count as absent. A reader reads the watched items after the value.
- An item that the server dropped is a token that nothing has. That costs hits, and never returns a wrong
  value.

No two items need to change together. The token of a key, as caches see it, is that of its item, of the
generation and of the segment in one (xor), so each of the three changes it. Other hosts are not notified. So
copies in memory are dropped every `max_staleness` seconds.
"""

from __future__ import annotations

import functools
import math
import re
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from struct import Struct
from typing import Any, Concatenate, Final, NamedTuple, ParamSpec, Self, TypeVar, final

from cachekit.errors import CacheClosedError, TierUnavailableError, UnreadableError, ValueTooLargeError
from cachekit.model.entry import CacheEntry, checked_entry
from cachekit.model.stats import CacheStats
from cachekit.model.types import FOREVER, NO_TAGS, TTL, Tags
from cachekit.model.validation import (
    READABLE_TYPES,
    checked_key,
    checked_keys,
    checked_pattern,
    checked_tags,
    refuse_unstorable,
    seconds,
)
from cachekit.runtime.clock import Clock, SystemClock
from cachekit.runtime.scheduler import Scheduler
from cachekit.serialization.codec import Codec
from cachekit.serialization.compression import Compression
from cachekit.serialization.pickle_allowlist import classes
from cachekit.serialization.serializer import CodecName, Serializer, Stored
from cachekit.serialization.signing import Secret
from cachekit.tiers.arguments import check_entry, checked_cap
from cachekit.tiers.base import BusListener, Fence
from cachekit.tiers.fences import ServerTokens
from cachekit.tiers.fresh_tokens import fresh
from cachekit.tiers.patterns import literal_beginning
from cachekit.tiers.polled.items import GENERATION, SEGMENT, Held, Names, held, segment, tombstone, value
from cachekit.tiers.polled.store import Item, PolledStore
from cachekit.tiers.server_figures import Figures

_TRIES: Final = 10  # to store where other clients write all the time
_LOAD: Final = 3600.0  # seconds that a load may take; a tombstone lives as long
_LONGEST_PREFIX: Final = 50
_PREFIX: Final = re.compile(r"[!-~]+")
_NUMBER: Final = Struct("<Q")

P = ParamSpec("P")
R = TypeVar("R")

#: Listeners have a thread of their own, which waits for nothing.
_dropping: Final = Scheduler("cachekit-polled")


def _asks_server(method: Callable[Concatenate[PolledTier, P], R]) -> Callable[Concatenate[PolledTier, P], R]:
    """Let a method refuse a closed tier, and count its failures."""

    @functools.wraps(method)
    def asking(self: PolledTier, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._closed:
            raise CacheClosedError("this tier was closed; make a new one")
        try:
            return method(self, *args, **kwargs)
        except TierUnavailableError:
            self._counter.errors += 1
            raise

    return asking


class _Found(NamedTuple):
    """What is there for a key."""

    item: Item
    held: Held
    entry: CacheEntry | None  #: None unless it is live


@final
class PolledFence:
    """A fence that the writes and invalidations of all hosts break."""

    __slots__ = ("_tier", "key", "origin")

    def __init__(self, tier: PolledTier, key: str, origin: ServerTokens) -> None:
        self._tier = tier
        self.key = key
        self.origin = origin

    def is_current(self) -> bool:
        """Return whether nothing has written or invalidated the key, or a tag, since. Two round trips."""
        return self._tier._is_current(self.key, self.origin)


@final
class PolledLease:
    """The right to load a key, until it is released or expires."""

    __slots__ = ("_data", "_name", "_store")

    def __init__(self, store: PolledStore, name: str, data: bytes) -> None:
        self._store = store
        self._name = name
        self._data = data

    def release(self) -> None:
        """Give it back, unless it has expired and may have another holder."""
        item = self._store.read([self._name]).get(self._name)
        if item is not None and item.data == self._data:
            self._store.replace(self._name, b"", 1.0, item.version)


class PolledTier:
    """A tier on a server that hosts share, and that cannot notify them. It is a `ServerTier`.

    Args:
        store: the items on the server.
        key_prefix: the beginning of all names on the server: 50 visible ASCII characters at most.
        max_staleness: seconds after which a cache over this tier drops its copies in memory. Up to then, it
            may serve a copy that another host has invalidated.
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
        default_ttl: TTL = None,
        codec: CodecName | Codec = "pickle",
        compression: Compression = "zlib",
        secret: Secret | None = None,
        allow: Iterable[Any] = (),
        clock: Clock = SystemClock(),  # noqa: B008  # it has no state
    ) -> None:
        if not isinstance(store, PolledStore):
            raise TypeError(f"store must have the methods of PolledStore, not be {store!r}")
        if not isinstance(key_prefix, str):
            raise TypeError(f"key_prefix must be a str, not {key_prefix!r}")
        if len(key_prefix) > _LONGEST_PREFIX or not _PREFIX.fullmatch(key_prefix):
            raise ValueError(
                f"key_prefix must be 1 to {_LONGEST_PREFIX} visible ASCII characters, not {key_prefix!r}"
            )
        self._key_prefix = key_prefix
        self._max_staleness = seconds(max_staleness, "max_staleness")
        if not 0 < self._max_staleness <= threading.TIMEOUT_MAX:
            raise ValueError(f"max_staleness must be more than 0 seconds, not {max_staleness!r}")
        self._longest = checked_cap(default_ttl)
        self._serializer = Serializer(
            key_prefix, codec=codec, compression=compression, secret=secret, allow=classes(allow)
        )
        self._store = store
        self._names = Names(key_prefix)
        self._clock = clock
        self._figures = Figures(clock)
        self._counter = self._figures.counter
        self._closed = False
        self._lock = threading.Lock()
        # Replaced as a whole, because writes go through it without the lock.
        self._listening: tuple[weakref.ref[BusListener], ...] = ()

    @property
    def key_prefix(self) -> str:
        """The beginning of all names on the server."""
        return self._key_prefix

    @property
    def max_staleness(self) -> float:
        """Seconds after which a cache over this tier drops its copies in memory."""
        return self._max_staleness

    @property
    def default_ttl(self) -> float | None:
        """Seconds that a copy is kept at most; None for no such limit."""
        return None if self._longest == FOREVER else self._longest

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

    @_asks_server
    def get_many(self, keys: Sequence[str]) -> dict[str, CacheEntry]:
        """Return the live entries among the keys, in two round trips; each key counts as a lookup."""
        keys = checked_keys(keys)
        try:
            entries = self._live(keys)
        except TierUnavailableError:
            asked = len(keys)
            self._figures.unavailable += asked
            raise
        self._figures.end_many(len(keys), len(entries))
        return entries

    @_asks_server
    def peek(self, key: str) -> CacheEntry | None:
        """Do what `get` does, without counting a lookup."""
        return self._live([checked_key(key)]).get(key)

    @_asks_server
    def keys(self, pattern: str | re.Pattern[str] | None = None) -> list[str]:
        """Return no keys: the server cannot list them.

        Raises:
            ValueError: the pattern is not a regular expression.
        """
        if pattern is not None:
            checked_pattern(pattern)
        return []

    @_asks_server
    def size(self) -> int:
        """Return 0: the server cannot count the entries of this tier."""
        return 0

    @_asks_server
    def memory_usage(self) -> int:
        """Return 0: the server cannot measure the entries of this tier."""
        return 0

    def get_stats(self) -> CacheStats:
        """Return what this process has counted; see `CacheStats`. It stays readable after `close`."""
        return self._figures.snapshot()

    @_asks_server
    def ping(self) -> None:
        """Return if the server answers; else raise `TierUnavailableError`."""
        self._store.ping()

    def _live(self, keys: Sequence[str]) -> dict[str, CacheEntry]:
        return {key: found.entry for key, found in self._find(keys).items() if found.entry is not None}

    def _find(self, keys: Sequence[str]) -> dict[str, _Found]:
        """Return what is there for the keys. The watched tokens are read after the values."""
        names = {self._names.of_key(key): key for key in keys}
        found: dict[str, _Found] = {}
        opened: dict[str, Stored] = {}
        for name, item in self._store.read(list(names)).items():
            key, content = names[name], held(item.data)
            if content is None:
                self._counter.errors += 1
                content = Held(0, None)  # no token is 0, so no load is stored over it, but writes are
            found[key] = _Found(item, content, None)
            stored = None if content.envelope is None else self._opened(key, content.envelope)
            if stored is not None and self._clock.time() < stored.expires:
                opened[key] = stored
        tokens = self._tokens({key: stored.tags for key, stored in opened.items()})
        for key, stored in opened.items():
            if stored.tags == tokens[key]:
                entry = self._entry(key, stored, len(found[key].item.data))
                found[key] = found[key]._replace(entry=entry)
        return found

    def _opened(self, key: str, envelope: bytes) -> Stored | None:
        try:
            return self._serializer.decode(key, envelope)
        except UnreadableError:
            self._counter.errors += 1
            return None

    def _entry(self, key: str, stored: Stored, size: int) -> CacheEntry | None:
        created = min(stored.created, self._clock.time())
        ttl = stored.expires - stored.created
        tags = frozenset(stored.tags.keys() - {GENERATION, SEGMENT}) or NO_TAGS
        try:
            if not (created >= 0 and ttl >= 0):  # NaN, too
                raise UnreadableError("the envelope has no valid times")
            ttl = ttl if ttl == FOREVER else round(ttl, 6)
            return checked_entry(key, stored.value(), created, ttl, tags, size, stored.stale_ttl)
        except UnreadableError:
            self._counter.errors += 1
            return None

    def _tokens(
        self, watched: Mapping[str, Iterable[str]], create: bool = False
    ) -> dict[str, dict[str, int]]:
        """Return for each key the tokens of what it watches, in one round trip; 0 for an absent one.

        Args:
            watched: the tags of each key.
            create: make fresh tokens where there are none.
        """
        if not watched:
            return {}
        names = {key: self._names.watched(key, tags) for key, tags in watched.items()}
        every = list(dict.fromkeys(name for one in names.values() for name in one.values()))
        tokens = {name: _number(item.data) for name, item in self._store.read(every).items()}
        if create:
            for name in every:
                if not tokens.get(name):
                    tokens[name] = self._first_token(name)
        return {key: {tag: tokens.get(name, 0) for tag, name in one.items()} for key, one in names.items()}

    def _first_token(self, name: str) -> int:
        token = fresh()
        if self._store.add(name, _NUMBER.pack(token), None):
            return token
        item = self._store.read([name]).get(name)  # another client was first
        return 0 if item is None else _number(item.data)

    # -- fences -------------------------------------------------------------------------------------

    def origin(self, key: str, tags: frozenset[str] = frozenset()) -> ServerTokens:
        """Return the current tokens of key and tags, which are a fence for `add`; two round trips."""
        return self.origins([key], tags)[key]

    @_asks_server
    def origins(self, keys: Sequence[str], tags: frozenset[str] = frozenset()) -> dict[str, ServerTokens]:
        """Return what `origin` returns for each of several keys."""
        keys, tags = checked_keys(keys), checked_tags(tags)
        watched = self._tokens(dict.fromkeys(keys, tags), create=True)  # before the keys' items
        names = {key: self._names.of_key(key) for key in keys}
        items = self._store.read(list(names.values()))
        return {
            key: ServerTokens(
                self._token(name, items.get(name)) ^ _around(watched[key]),
                {tag: watched[key][tag] for tag in tags},
            )
            for key, name in names.items()
        }

    def _token(self, name: str, item: Item | None) -> int:
        """Return the token of a key's item; an absent one becomes a tombstone."""
        for _ in range(_TRIES):
            content = None if item is None else held(item.data)
            if content is not None:
                return content.token
            token = fresh()
            if item is None:
                if self._store.add(name, tombstone(token), _LOAD):
                    return token
            elif self._store.replace(name, tombstone(token), _LOAD, item.version):
                return token  # no cache had written what was there
            item = self._store.read([name]).get(name)
        return 0  # no item has it, so the load is not stored

    @_asks_server
    def successor(self, tags: frozenset[str] = frozenset()) -> ServerTokens:
        """Return a fresh token, which the next `put` makes the key's, and the tags' tokens."""
        tags = checked_tags(tags)
        if not tags:
            return ServerTokens(fresh(), {})
        tokens = self._tokens({"": tags}, create=True)[""]
        return ServerTokens(fresh(), {tag: tokens[tag] for tag in tags})

    def fence(self, key: str, tags: Tags = ()) -> PolledFence:
        """Return a fence for `set_if`; take it before the value is loaded. Two round trips."""
        key = checked_key(key)
        return PolledFence(self, key, self.origin(key, checked_tags(tags)))

    @_asks_server
    def _is_current(self, key: str, origin: ServerTokens) -> bool:
        name = self._names.of_key(key)
        item = self._store.read([name]).get(name)
        content = None if item is None else held(item.data)
        return content is not None and self._current(key, content, origin) is not None

    def _current(self, key: str, content: Held, origin: ServerTokens) -> dict[str, int] | None:
        """Return the tokens of what a key watches; None unless all tokens are those of the origin."""
        tokens = self._tokens({key: origin.tags})[key]
        same = content.token ^ _around(tokens) == origin.token
        return tokens if same and origin.tags.items() <= tokens.items() else None

    # -- writing ------------------------------------------------------------------------------------

    def set_value(self, key: str, value: Any, ttl: TTL = None, tags: Tags | None = None) -> bool:
        """Store a value in place of the key's older one; True. See `RedisCache.set_value`."""
        return self.set(checked_key(key), CacheEntry(key, value, self._clock.time(), ttl=ttl, tags=tags))

    def get_value(self, key: str, default: Any = None) -> Any:
        """Return the value under the key, or `default`; counts a lookup."""
        entry = self.get(key)
        return default if entry is None else entry.value

    def set(self, key: str, entry: CacheEntry) -> bool:
        """Store an entry in place of the key's older one; it keeps the age that it has. Returns True.

        Raises:
            ValueError: the entry has another key.
        """
        check_entry(key, entry)
        self.put(key, entry, self.successor(entry.tags))
        return True

    @_asks_server
    def put(
        self, key: str, entry: CacheEntry, origin: ServerTokens, *, expect: ServerTokens | None = None
    ) -> bool:
        """Do what `set` does, and make the token of `origin` the key's; see `ServerTier.put`."""
        return self._put(key, entry, origin, expect)

    def _put(
        self, key: str, entry: CacheEntry, origin: ServerTokens, expect: ServerTokens | None = None
    ) -> bool:
        self._check(entry, origin)
        name = self._names.of_key(key)
        watched = self._tokens({key: ()}, create=True)[key]
        made = self._made(entry, origin, watched)
        data, life = (tombstone(origin.token ^ _around(watched)), _LOAD) if made is None else made
        with self._told([key]):
            if expect is None:
                self._write(name, data, life)
            else:
                item = self._store.read([name]).get(name)
                content = None if item is None else held(item.data)
                if item is None or content is None or content.token ^ _around(watched) != expect.token:
                    return self._counted(False)
                if not self._store.replace(name, data, life, item.version):
                    return self._counted(False)
        if made is None:
            self._counter.deletes += 1
            return True
        return self._counted(True)

    def _write(self, name: str, data: bytes, life: float | None) -> None:
        try:
            self._store.write(name, data, life)
        except ValueTooLargeError:
            # Some servers keep the older value when they refuse a newer one.
            self._store.write(name, tombstone(fresh()), _LOAD)
            raise

    @_asks_server
    def put_many(self, entries: Mapping[str, CacheEntry], origins: Mapping[str, ServerTokens]) -> None:
        """Do what `put` does for several keys at once."""
        for key, entry in entries.items():
            self._put(key, entry, origins[key])

    @_asks_server
    def create(self, key: str, entry: CacheEntry, origin: ServerTokens) -> bool:
        """Do what `put` does unless the key has a live entry; return whether the entry was stored."""
        self._check(entry, origin)
        made = self._made(entry, origin, self._tokens({key: ()}, create=True)[key])
        if made is None:
            return False
        name = self._names.of_key(key)
        with self._told([key]):
            for _ in range(_TRIES):
                found = self._find([key]).get(key)
                if found is not None and found.entry is not None:
                    return self._counted(False)
                if found is None:
                    stored = self._store.add(name, *made)
                else:
                    stored = self._store.replace(name, *made, found.item.version)
                if stored:
                    return self._counted(True)
        return self._counted(False)

    def set_if(self, key: str, entry: CacheEntry, fence: Fence) -> bool:
        """Store an entry if the fence, taken for this key before the value was loaded, is still current.

        A live entry that is there already stays.

        Raises:
            ValueError: the entry has another key, or the fence was taken for another key, or not for all
                the tags of the entry.
        """
        check_entry(key, entry)
        if not isinstance(fence, PolledFence):
            raise TypeError(f"fence must come from this tier's fence(), not {fence!r}")
        if fence.key != key or not fence.origin.tags.keys() >= entry.tags:
            raise ValueError(
                f"the fence was taken for another key or other tags; take it for key {key!r} and tags "
                f"{sorted(entry.tags)}"
            )
        return self.add(key, entry, fence.origin) is True

    @_asks_server
    def add(self, key: str, entry: CacheEntry, origin: ServerTokens) -> CacheEntry | bool:
        """Store the entry if the tokens are still those of `origin`; see `ServerTier.add`."""
        return self._add(key, entry, origin)

    def _add(self, key: str, entry: CacheEntry, origin: ServerTokens) -> CacheEntry | bool:
        self._check(entry, origin)
        found = self._find([key]).get(key)
        if found is not None and found.entry is not None:
            return found.entry
        watched = None if found is None else self._current(key, found.held, origin)
        made = None if watched is None else self._made(entry, origin, watched)
        if found is None or made is None:
            return self._counted(False)
        return self._counted(self._store.replace(self._names.of_key(key), *made, found.item.version))

    @_asks_server
    def add_many(
        self, entries: Mapping[str, CacheEntry], origins: Mapping[str, ServerTokens]
    ) -> dict[str, CacheEntry | bool]:
        """Do what `add` does for several keys at once. If one entry cannot be stored, none is."""
        for key, entry in entries.items():
            self._check(entry, origins[key])
            self._encoded(entry, 0.0, {})
        return {key: self._add(key, entry, origins[key]) for key, entry in entries.items()}

    def _counted(self, stored: bool) -> bool:
        if stored:
            self._counter.sets += 1
        else:
            self._counter.refusals += 1
        return stored

    def _check(self, entry: CacheEntry, origin: ServerTokens) -> None:
        missing = entry.tags - origin.tags.keys()
        if missing:
            raise ValueError(
                f"origin must have tokens for all tags of the entry, not only for {sorted(origin.tags)}; "
                f"take it with {sorted(missing)} too"
            )
        if type(entry.value) not in READABLE_TYPES:
            refuse_unstorable(entry.value)

    def _made(
        self, entry: CacheEntry, origin: ServerTokens, watched: Mapping[str, int]
    ) -> tuple[bytes, float | None] | None:
        """Return the item of an entry and its life; None for an expired entry.

        Args:
            entry: the entry.
            origin: the token that the key is to have, and those of the tags when the value was made.
            watched: the tokens of the generation and the segment.
        """
        now = self._clock.time()
        created = min(entry.created_timestamp, now)
        expires = min(created + (FOREVER if entry.ttl is None else entry.ttl), now + self._longest)
        if expires <= now:
            return None
        tags = {name: watched[name] for name in (GENERATION, SEGMENT)}
        tags |= {tag: origin.tags[tag] for tag in entry.tags}
        envelope = self._encoded(entry, expires, tags)
        life = None if expires == math.inf else expires - now
        return value(origin.token ^ _around(watched), envelope), life

    def _encoded(self, entry: CacheEntry, expires: float, tags: Mapping[str, int]) -> bytes:
        return self._serializer.encode(
            entry.key,
            entry.value,
            created=min(entry.created_timestamp, self._clock.time()),
            expires=expires,
            stale_until=expires + entry.stale_ttl,
            tags=tags,
        )

    @_asks_server
    def touch(self, key: str, ttl: TTL = None) -> bool:
        """Give a live entry a new life from now, as a write of the key; return whether there is one."""
        key = checked_key(key)
        life = min(math.inf if ttl is None else seconds(ttl), self._longest)
        if life <= 0:
            return bool(self._remove([key]))
        with self._told([key]):
            for _ in range(_TRIES):
                found = self._find([key]).get(key)
                if found is None or found.entry is None:
                    return False
                entry, now = found.entry, self._clock.time()
                stored = self._serializer.decode(key, found.held.envelope or b"")
                envelope = self._serializer.encode(
                    key,
                    entry.value,
                    created=stored.created,
                    expires=now + life,
                    stale_until=now + life + stored.stale_ttl,
                    tags=stored.tags,
                )
                data, end = value(fresh(), envelope), None if life == math.inf else life
                if self._store.replace(self._names.of_key(key), data, end, found.item.version):
                    return True
        return False

    @_asks_server
    def delete(self, key: str) -> bool:
        """Remove the key, and break its fences; return whether it had an entry."""
        return bool(self._remove([checked_key(key)]))

    @_asks_server
    def remove_many(self, keys: Sequence[str]) -> list[str]:
        """Do what `delete` does for several keys at once; return those that had an entry."""
        return self._remove(checked_keys(keys))

    def _remove(self, keys: Sequence[str]) -> list[str]:
        with self._told(keys):
            live = list(self._live(keys))
            for key in keys:
                self._store.write(self._names.of_key(key), tombstone(fresh()), _LOAD)
        removed = len(live)  # first: a call between reading and storing a counter loses others' counts
        self._counter.deletes += removed
        return live

    @_asks_server
    def clear(self) -> bool:
        """Let every entry count as absent, and break every fence. True."""
        with self._all_told():
            self._renew(self._names.of_generation())
        return True

    @_asks_server
    def invalidate_by_tags(self, tags: Tags) -> int | None:
        """Drop entries with any of the tags, and break fences that name one. None: they are not counted."""
        tags = checked_tags(tags)
        if not tags:
            return 0
        try:
            for tag in tags:
                self._renew(self._names.of_tag(tag))
        finally:
            for listener in self._listeners():
                listener.tags_changed(tags)
        return None

    @_asks_server
    def invalidate_by_pattern(self, pattern: str | re.Pattern[str]) -> int:
        """Drop entries whose key matches, and more: the segment of the literal beginning, or everything.

        Returns:
            0: the entries are not counted.
        """
        matches = checked_pattern(pattern)
        beginning = "" if matches.flags & ~re.UNICODE else literal_beginning(matches.pattern)
        whole = ":" in beginning  # then all keys that match are of one segment
        name = self._names.of_segment(segment(beginning)) if whole else self._names.of_generation()
        with self._all_told():
            self._renew(name)
        return 0

    def _renew(self, name: str) -> None:
        self._store.write(name, _NUMBER.pack(fresh()), None)

    # -- other caches -------------------------------------------------------------------------------

    @_asks_server
    def subscribe(self, listener: BusListener) -> Callable[[], None]:
        """Let a cache drop all copies in memory every `max_staleness` seconds, and those of writes here.

        Changes made through this very object reach the listener in the thread that makes them, before the
        call returns. Those of other processes do not. The tier holds the listener weakly.
        """
        mine = weakref.ref(listener)
        with self._lock:
            self._listening = (*(one for one in self._listening if one() is not None), mine)
        listener.everything_changed()
        task = _dropping.every(self._max_staleness, listener.everything_changed)

        kept = [listener]

        def end() -> None:
            kept.clear()
            task.cancel()
            with self._lock:
                self._listening = tuple(one for one in self._listening if one is not mine)

        return end

    def _listeners(self) -> list[BusListener]:
        found = [one() for one in self._listening]
        return [listener for listener in found if listener is not None]

    def _told(self, keys: Sequence[str]) -> _Telling:
        return _Telling([functools.partial(one.keys_changed, keys) for one in self._listeners()])

    def _all_told(self) -> _Telling:
        return _Telling([one.everything_changed for one in self._listeners()])

    @_asks_server
    def lease(self, key: str, seconds: float) -> PolledLease | None:
        """Return the lease of a key, which expires after so many seconds; None if it is taken."""
        name, data = self._names.of_lease(checked_key(key)), _NUMBER.pack(fresh())
        if self._store.add(name, data, seconds):
            return PolledLease(self._store, name, data)
        item = self._store.read([name]).get(name)
        if item is not None and not item.data and self._store.replace(name, data, seconds, item.version):
            return PolledLease(self._store, name, data)
        return None

    # -- life ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the store. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(f"{type(self).__name__} does not pickle; make one in each process")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._store!r}, key_prefix={self._key_prefix!r}>"


class _Telling:
    """A block whose end notifies listeners, also if it fails: the write may have been carried out."""

    __slots__ = ("_calls",)

    def __init__(self, calls: Sequence[Callable[[], None]]) -> None:
        self._calls = calls

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        for call in self._calls:
            call()


def _number(data: bytes) -> int:
    return int(_NUMBER.unpack(data)[0]) if len(data) == _NUMBER.size else 0


def _around(watched: Mapping[str, int]) -> int:
    """Return the tokens of the generation and the segment in one."""
    return watched[GENERATION] ^ watched[SEGMENT]
