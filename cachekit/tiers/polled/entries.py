"""The entries of a polled tier: the items that stand for them, and in which order these are read and written.

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
generation and of the segment in one (xor), so each of the three changes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Final, NamedTuple, final

from cachekit.errors import UnreadableError, ValueTooLargeError
from cachekit.model.counters import TierCounters
from cachekit.model.entry import CacheEntry
from cachekit.model.storable import READABLE_TYPES, refuse_unstorable
from cachekit.model.types import FOREVER
from cachekit.runtime.clock import Clock
from cachekit.serialization.serializer import Serializer, Stored
from cachekit.tiers.fences import ServerTokens
from cachekit.tiers.fresh_tokens import fresh
from cachekit.tiers.polled.items import (
    GENERATION,
    SEGMENT,
    Held,
    Names,
    held,
    packed,
    renewed,
    segment,
    token_of,
    tombstone,
    value,
)
from cachekit.tiers.polled.journal import EVERYTHING, KEYS, TAGS
from cachekit.tiers.polled.listeners import Listeners
from cachekit.tiers.polled.store import Item, PolledStore, RetryingStore
from cachekit.tiers.stored_entries import entry_of, missing_tokens, prolonged

_TRIES: Final = 10  # to store where other clients write all the time
_LOAD: Final = 3600.0  # seconds that a load may take; a tombstone lives as long


class _Found(NamedTuple):
    """What is there for a key."""

    item: Item
    held: Held
    stored: Stored | None  #: None unless it is live
    entry: CacheEntry | None  #: None unless it is live


@final
class Entries:
    """The entries of a store. Safe in any thread.

    Args:
        store: the items on the server.
        names: their names.
        serializer: turns entries into envelopes and back.
        clock: the clock of lives.
        longest: seconds that a copy is kept at most.
        counter: counts stores, refusals and unreadable items.
        listeners: are notified of what is written here.
    """

    def __init__(
        self,
        store: PolledStore,
        names: Names,
        serializer: Serializer,
        clock: Clock,
        longest: float,
        counter: TierCounters,
        listeners: Listeners,
    ) -> None:
        self._store = store
        self._retrying = store if isinstance(store, RetryingStore) else None
        self._names = names
        self._serializer = serializer
        self._clock = clock
        self._longest = longest
        self._counter = counter
        self._listeners = listeners

    # -- reading ------------------------------------------------------------------------------------

    def live(self, keys: Sequence[str]) -> dict[str, CacheEntry]:
        """Return the live entries among the keys. Two round trips, one if nothing is there."""
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
            found[key] = _Found(item, content, None, None)
            stored = None if content.envelope is None else self._opened(key, content.envelope)
            if stored is not None and self._clock.time() < stored.expires:
                opened[key] = stored
        tokens = self._tokens({key: stored.tags for key, stored in opened.items()})
        for key, stored in opened.items():
            # An item that the server drops later has token 0 again, so that one confirms nothing.
            if stored.tags == tokens[key] and all(stored.tags.values()):
                size, tags = len(found[key].item.data), stored.tags.keys() - {GENERATION, SEGMENT}
                try:
                    entry = entry_of(key, stored, tags, size, self._clock.time())
                except UnreadableError:
                    self._counter.errors += 1
                else:
                    found[key] = found[key]._replace(stored=stored, entry=entry)
        return found

    def _opened(self, key: str, envelope: bytes) -> Stored | None:
        try:
            return self._serializer.decode(key, envelope)
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
        tokens = {name: token_of(item.data) for name, item in self._store.read(every).items()}
        if create:
            for name in every:
                if not tokens.get(name):
                    tokens[name] = self._first_token(name)
        return {key: {tag: tokens.get(name, 0) for tag, name in one.items()} for key, one in names.items()}

    def _first_token(self, name: str) -> int:
        for _ in range(_TRIES):
            token = fresh()
            if self._store.add(name, packed(token), None):
                return token
            item = self._store.read([name]).get(name)  # another client was first
            there = 0 if item is None else token_of(item.data)
            if there:
                return there
            if item is not None and self._store.replace(name, packed(token), None, item.version):
                return token  # no cache had written what was there
        return 0  # nothing that depends on it counts

    # -- fences -------------------------------------------------------------------------------------

    def origins(self, keys: Sequence[str], tags: frozenset[str]) -> dict[str, ServerTokens]:
        """Return the current tokens of the keys and of the tags."""
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

    def tag_tokens(self, tags: frozenset[str]) -> dict[str, int]:
        """Return the current tokens of the tags."""
        tokens = self._tokens({"": tags}, create=True)[""]
        return {tag: tokens[tag] for tag in tags}

    def is_current(self, key: str, origin: ServerTokens) -> bool:
        """Return whether the tokens are still those of the origin."""
        name = self._names.of_key(key)
        item = self._store.read([name]).get(name)
        content = None if item is None else held(item.data)
        return content is not None and self._current(key, content, origin) is not None

    def _current(self, key: str, content: Held, origin: ServerTokens) -> dict[str, int] | None:
        """Return the tokens of what a key watches; None unless all tokens are those of the origin."""
        tokens = self._tokens({key: origin.tags})[key]
        same = content.token ^ _around(tokens) == origin.token
        return tokens if same and all(tokens.values()) and origin.tags.items() <= tokens.items() else None

    # -- writing ------------------------------------------------------------------------------------

    def put(
        self, key: str, entry: CacheEntry, origin: ServerTokens, expect: ServerTokens | None = None
    ) -> bool:
        """Store an entry under the token of its origin; an expired one becomes a tombstone.

        With `expect` nothing changes if the key has another token; the result is whether it was stored.
        """
        self._check(entry, origin)
        watched = self._tokens({key: ()}, create=True)[key]
        with self._told([key]):
            stored = self._put(key, entry, origin, watched, expect)
            if stored:
                self._listeners.note(KEYS, [key])
        return stored

    def put_many(self, entries: Mapping[str, CacheEntry], origins: Mapping[str, ServerTokens]) -> None:
        """Do what `put` does for several keys: one round trip for each, one before that, and one notice."""
        for key, entry in entries.items():
            self._check(entry, origins[key])
        watched = self._tokens(dict.fromkeys(entries, ()), create=True)  # before all values are written
        written: list[str] = []
        with self._told(list(entries)):
            try:
                for key, entry in entries.items():
                    self._put(key, entry, origins[key], watched[key], None)
                    written.append(key)
            finally:
                if written:
                    self._listeners.note(KEYS, written)

    def _put(
        self,
        key: str,
        entry: CacheEntry,
        origin: ServerTokens,
        watched: Mapping[str, int],
        expect: ServerTokens | None,
    ) -> bool:
        name = self._names.of_key(key)
        made = self._made(entry, origin, watched)
        data, life = (tombstone(origin.token ^ _around(watched)), _LOAD) if made is None else made
        if expect is None:
            self._write(key, data, life)
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

    def _write(self, key: str, data: bytes, life: float | None) -> None:
        name = self._names.of_key(key)
        try:
            self._write_item(name, data, life)
        except ValueTooLargeError:
            # Some servers keep the older value when they refuse a newer one.
            self._write_item(name, tombstone(fresh()), _LOAD)
            self._listeners.note(KEYS, [key])
            raise

    def _write_item(self, name: str, data: bytes, life: float | None) -> None:
        if self._retrying is None:
            self._store.write(name, data, life)
        else:
            self._retrying.write_either(name, data, partial(renewed, data), life)

    def create(self, key: str, entry: CacheEntry, origin: ServerTokens) -> bool:
        """Store an entry as `put` does, unless the key has a live one; return whether it was stored."""
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
                    self._listeners.note(KEYS, [key])
                    return self._counted(True)
        return self._counted(False)

    def add(self, key: str, entry: CacheEntry, origin: ServerTokens) -> CacheEntry | bool:
        """Store an entry if the tokens are still those of its origin, and no live one is there.

        Returns the live entry that was there, or whether this one was stored.
        """
        self._check(entry, origin)
        found = self._find([key]).get(key)
        if found is not None and found.entry is not None:
            return found.entry
        watched = None if found is None else self._current(key, found.held, origin)
        made = None if watched is None else self._made(entry, origin, watched)
        if found is None or made is None:
            return self._counted(False)
        return self._counted(self._store.replace(self._names.of_key(key), *made, found.item.version))

    def check(self, entry: CacheEntry, origin: ServerTokens) -> None:
        """Raise if the entry cannot be stored."""
        self._check(entry, origin)
        self._encoded(entry, 0.0, {})

    def _counted(self, stored: bool) -> bool:
        if stored:
            self._counter.sets += 1
        else:
            self._counter.refusals += 1
        return stored

    def _check(self, entry: CacheEntry, origin: ServerTokens) -> None:
        if not origin.tags.keys() >= entry.tags:
            raise missing_tokens(entry, origin)
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

    def prolong(self, key: str, life: float) -> bool:
        """Give a live entry a life from now, and break the key's fences; return whether there is one."""
        with self._told([key]):
            for _ in range(_TRIES):
                found = self._find([key]).get(key)
                if found is None or found.stored is None or found.entry is None:
                    return False
                expires = self._clock.time() + life
                envelope = prolonged(self._serializer, key, found.stored, found.entry.value, expires)
                if envelope is None:
                    self._counter.errors += 1
                    return False
                data, end = value(fresh(), envelope), None if life == math.inf else life
                if self._store.replace(self._names.of_key(key), data, end, found.item.version):
                    self._listeners.note(KEYS, [key])
                    return True
        return False

    def remove(self, keys: Sequence[str]) -> list[str]:
        """Turn the keys' items into tombstones; return the keys that had a live entry."""
        with self._told(keys):
            live = list(self.live(keys))
            written: list[str] = []
            try:
                for key in keys:
                    self._write_item(self._names.of_key(key), tombstone(fresh()), _LOAD)
                    written.append(key)
            finally:
                if written:
                    self._listeners.note(KEYS, written)
        return live

    def end_all(self) -> None:
        """Let every entry count as absent, and break every fence."""
        self._end_watchers(self._names.of_generation())

    def end_beginning(self, beginning: str) -> None:
        """Do that to the segment of keys that begin like this, or to all keys if they are of several."""
        if ":" in beginning:
            self._end_watchers(self._names.of_segment(segment(beginning)))
        else:
            self.end_all()

    def end_tags(self, tags: frozenset[str]) -> None:
        """Do that to the entries with any of the tags, and to the fences that name one."""
        with self._listeners.told(lambda one: one.tags_changed(tags)):
            for tag in tags:
                self._renew(self._names.of_tag(tag))
            self._listeners.note(TAGS, sorted(tags))

    def _end_watchers(self, name: str) -> None:
        with self._listeners.told(lambda one: one.everything_changed()):
            self._renew(name)
            self._listeners.note(EVERYTHING, [])

    def _renew(self, name: str) -> None:
        self._write_item(name, packed(fresh()), None)

    def _told(self, keys: Sequence[str]) -> AbstractContextManager[None]:
        return self._listeners.told(lambda one: one.keys_changed(keys))


def _around(watched: Mapping[str, int]) -> int:
    """Return the tokens of the generation and the segment in one."""
    return watched[GENERATION] ^ watched[SEGMENT]
