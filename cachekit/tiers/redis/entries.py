"""Entries into envelopes and back, and which of them are still good.

An envelope says when its value ends, and under which tokens of its tags it was stored; it is good while
neither has passed. What cannot be read is as good as nothing, and counted. Times are the caller's clock's:
a value from a host whose clock is ahead lives no longer than its TTL.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, final

from cachekit.errors import UnreadableError, ValueTooLargeError
from cachekit.model.counters import TierCounters
from cachekit.model.entry import CacheEntry, checked_entry
from cachekit.model.types import FOREVER, NO_TAGS
from cachekit.model.validation import refuse_unstorable
from cachekit.runtime.clock import Clock
from cachekit.serialization import Serializer, Stored
from cachekit.tiers.fences import ServerTokens
from cachekit.tiers.redis.store import Store, Write, fresh

#: Bytes of the largest envelope: a larger one would keep the server from everybody else for too long.
LARGEST: Final = 64 << 20

_TRIES: Final = 5  # to replace what somebody else replaces all the time
_LONGEST_LIFE: Final = 100 * 365.25 * 24 * 3600  # seconds; beyond, the server need not know of an end


@final
class Entries:
    """The entries of a store. Safe in any thread.

    Args:
        store: where their bytes are.
        serializer: how they are read.
        signed: whether all of an envelope must be there to read its header.
        clock: where the time comes from.
        longest: seconds that any copy is kept.
        counter: where stores, refusals and what cannot be read are counted.
    """

    __slots__ = ("_clock", "_counter", "_longest", "_serializer", "_signed", "_store")

    def __init__(
        self,
        store: Store,
        serializer: Serializer,
        signed: bool,
        clock: Clock,
        longest: float,
        counter: TierCounters,
    ) -> None:
        self._store = store
        self._serializer = serializer
        self._signed = signed
        self._clock = clock
        self._longest = longest
        self._counter = counter

    # -- reading ------------------------------------------------------------------------------------

    def get(self, key: str) -> CacheEntry | None:
        """The live entry of a key. One round trip, two with tags."""
        return self._entries({key: self._store.read(key)}).get(key)

    def get_many(self, keys: Sequence[str]) -> dict[str, CacheEntry]:
        """The live entries among the keys. One round trip, two with tags."""
        return self._entries(dict(zip(keys, self._store.read_many(keys), strict=True)))

    def _entries(self, found: Mapping[str, object]) -> dict[str, CacheEntry]:
        entries = {}
        for key, (stored, size) in self._alive(found).items():
            try:
                entries[key] = self._entry(key, stored, size)
            except UnreadableError:
                self._counter.errors += 1
        return entries

    def _entry(self, key: str, stored: Stored, size: int) -> CacheEntry:
        # Made now at the latest: if another host's clock is ahead, that lengthens no life.
        created = min(stored.created, self._clock.time())
        # Microseconds are what is left of a difference of two times since the epoch.
        ttl = round(stored.expires - stored.created, 6)
        if not (created >= 0 and ttl >= 0):  # NaN, too: whoever wrote that, it was not us
            raise UnreadableError("the times of the envelope are none")
        tags = frozenset(stored.tags) if stored.tags else NO_TAGS
        return checked_entry(key, stored.value(), created, ttl, tags, size, stored.stale_ttl)

    def _alive(self, found: Mapping[str, object]) -> dict[str, tuple[Stored, int]]:
        """What can be read, is not over, and whose tags have not been invalidated; with its size."""
        now = self._clock.time()
        alive: dict[str, tuple[Stored, int]] = {}
        tags: set[str] = set()
        for key, envelope in found.items():
            if envelope is None:
                continue
            stored = self._opened(key, envelope)
            if stored is None:
                self._counter.errors += 1
            elif now < stored.expires:
                alive[key] = stored, len(envelope)  # type: ignore[arg-type]  # it was bytes
                tags.update(stored.tags)
        if tags:
            tokens = self._store.tag_tokens(list(tags))
            alive = {
                key: (stored, size)
                for key, (stored, size) in alive.items()
                if all(tokens[tag] == token for tag, token in stored.tags.items())
            }
        return alive

    def _opened(self, key: str, envelope: object) -> Stored | None:
        if not isinstance(envelope, bytes):
            return None
        try:
            return self._serializer.decode(key, envelope)
        except UnreadableError:
            return None

    def alive(self, keys: Sequence[str]) -> list[str]:
        """Those of the keys that hold a live entry; no more of the values is read than that takes."""
        if self._signed:  # the signature covers all of it
            found = dict(zip(keys, self._store.read_many(keys), strict=True))
        else:
            # What is missing reads as empty.
            found = {key: head or None for key, head in zip(keys, self._store.heads(keys), strict=True)}
            # So many tags that the header is longer; or indeed unreadable.
            cut = [key for key, head in found.items() if head and self._opened(key, head) is None]
            if cut:
                found.update(zip(cut, self._store.read_many(cut), strict=True))
        return list(self._alive(found))

    def keys(self, matches: re.Pattern[str] | None) -> list[str]:
        """The keys of live entries; those that match from the start."""
        alive: dict[str, None] = {}  # a scan may yield a key twice
        for keys in self._store.scan(matches):
            alive.update(dict.fromkeys(self.alive(keys)))
        return list(alive)

    # -- writing ------------------------------------------------------------------------------------

    def put(self, entry: CacheEntry, origin: ServerTokens, expect: ServerTokens | None = None) -> bool:
        """Store it under the token of the origin, or remove the key if its time is over.

        False, and nothing done, if there is an expected origin whose token is not the key's any more.
        """
        write = self._write(entry, origin)
        if write is None:
            removed = self._store.remove(entry.key)
            self._counter.deletes += removed
        elif self._store.put(entry.key, write, origin.token, expect=None if expect is None else expect.token):
            self._counter.sets += 1
        else:
            self._counter.refusals += 1
            return False
        return True

    def put_many(self, entries: Iterable[tuple[CacheEntry, ServerTokens]]) -> None:
        """`put` of several, at once; nothing is stored if one cannot be."""
        writes: dict[str, tuple[Write, int]] = {}
        over = []
        for entry, origin in entries:
            write = self._write(entry, origin)
            if write is None:
                over.append(entry.key)
            else:
                writes[entry.key] = write, origin.token
        if over:
            removed = len(self._store.remove_many(over))
            self._counter.deletes += removed
        self._store.put_many(writes)
        stored = len(writes)
        self._counter.sets += stored

    def add(self, entry: CacheEntry, origin: ServerTokens) -> CacheEntry | bool:
        """See `ports.ServerTier.add`."""
        write = self._write(entry, origin)
        dead: bytes | None = None
        for _ in range(_TRIES if write is not None else 0):
            assert write is not None
            answer = self._store.add(entry.key, write, origin, dead)
            if isinstance(answer, bytes):
                there = self._entries({entry.key: answer}).get(entry.key)
                if there is not None:
                    return there
                # Unreadable, over, or its tags invalidated: it is replaced, if it is still that one.
                dead = answer
            elif answer:
                self._counter.sets += 1
                return True
            else:
                self._counter.refusals += 1
                return False
        return False

    def add_many(self, pairs: Iterable[tuple[CacheEntry, ServerTokens]]) -> dict[str, CacheEntry | bool]:
        """`add` of several, at once; nothing is stored if one cannot be."""
        pairs = list(pairs)
        outcomes: dict[str, CacheEntry | bool] = {}
        writes: dict[str, tuple[Write, ServerTokens]] = {}
        for entry, origin in pairs:
            write = self._write(entry, origin)
            if write is None:
                outcomes[entry.key] = False
            else:
                writes[entry.key] = write, origin
        answers = self._store.add_many(writes) if writes else {}
        there = self._entries({key: held for key, held in answers.items() if isinstance(held, bytes)})
        for entry, origin in pairs:
            answer = answers.get(entry.key)
            if isinstance(answer, bytes):
                # What cannot be read, or is over, is rare: it is replaced by itself.
                outcomes[entry.key] = there.get(entry.key) or self.add(entry, origin)
            elif answer is not None:
                outcomes[entry.key] = answer
                self._counter.sets += answer
                self._counter.refusals += not answer
        return outcomes

    def prolong(self, key: str, life: float) -> bool:
        """Give a live entry so many seconds from now; False if there is none. Breaks the key's fences."""
        for _ in range(_TRIES):
            envelope = self._store.read(key)
            alive = self._alive({key: envelope})
            if not alive:
                return False
            assert isinstance(envelope, bytes)
            stored, _ = alive[key]
            try:
                value = stored.value()
            except UnreadableError:
                self._counter.errors += 1
                return False
            expires = self._clock.time() + life
            prolonged = self._serializer.encode(
                key,
                value,
                created=stored.created,
                expires=expires,
                stale_until=expires + stored.stale_ttl,
                tags=stored.tags,
            )
            write = Write(prolonged, _milliseconds(life), tuple(stored.tags))
            if self._store.put(key, write, fresh(), instead_of=envelope):
                return True
        return False

    def _write(self, entry: CacheEntry, origin: ServerTokens) -> Write | None:
        """What is to be stored; None if its time is over."""
        now = self._clock.time()
        created = min(entry.created_timestamp, now)
        ttl = FOREVER if entry.ttl is None else entry.ttl
        expires = min(created + ttl, now + self._longest)
        if expires <= now:
            return None
        missing = entry.tags - origin.tags.keys()
        if missing:
            raise ValueError(
                f"origin has tokens for the tags {sorted(origin.tags)}, and the entry has {sorted(missing)} "
                f"besides; take it for all the tags that will be stored"
            )
        refuse_unstorable(entry.value)
        tags = {tag: origin.tags[tag] for tag in entry.tags}
        envelope = self._serializer.encode(
            entry.key,
            entry.value,
            created=created,
            expires=expires,
            stale_until=expires + entry.stale_ttl,
            tags=tags,
        )
        if len(envelope) > LARGEST:
            raise ValueTooLargeError(
                f"the value of key {entry.key!r} takes {len(envelope)} bytes, and a shared server is given "
                f"at most {LARGEST}; keep it in memory or in files (cache_level=), or cache its parts"
            )
        return Write(envelope, _milliseconds(expires - now), tuple(tags))


def _milliseconds(life: float) -> int | None:
    return None if life > _LONGEST_LIFE else max(1, math.ceil(life * 1000))
