"""Turns entries into envelopes and back, and decides which are still good.

An envelope has the end of its value's life, and the tokens that its tags had when it was stored. It is good
until its life ends or a token changes. What cannot be read counts as an error, and as missing. Times are
those of the reader's clock: a value from a host whose clock is ahead lives no longer than its TTL.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Final, final

from cachekit.errors import UnreadableError, ValueTooLargeError
from cachekit.model.counters import TierCounters
from cachekit.model.entry import CacheEntry, checked_entry
from cachekit.model.types import FOREVER, NO_TAGS
from cachekit.model.validation import PLAIN_TYPES, refuse_unstorable
from cachekit.runtime.clock import Clock
from cachekit.serialization import Serializer
from cachekit.serialization.envelope import Header
from cachekit.serialization.serializer import stale_ttl
from cachekit.tiers.fences import ServerTokens
from cachekit.tiers.redis.store import Store, Write, fresh

#: Bytes of the largest envelope. A larger one would keep the server from other clients for too long.
LARGEST: Final = 64 << 20

_TRIES: Final = 5  # to replace a value that other clients replace all the time
_LONGEST_LIFE: Final = 100 * 365.25 * 24 * 3600  # seconds; a longer life has no end on the server


@final
class Entries:
    """The entries of a store. Safe in any thread.

    Args:
        store: the bytes on the server.
        serializer: turns entries into envelopes and back.
        signed: whether a header can only be read together with the whole envelope.
        clock: the clock of lives.
        longest: seconds that a copy is kept at most.
        counter: counts stores, refusals and unreadable envelopes.
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
        """Return the live entry of a key. One round trip, two with tags."""
        found = self._store.read(key)
        return None if found is None else self._entries([(key, found)]).get(key)

    def get_many(self, keys: Sequence[str]) -> dict[str, CacheEntry]:
        """Return the live entries among the keys. One round trip, two with tags."""
        return self._entries(zip(keys, self._store.read_many(keys), strict=True))

    def _entries(self, found: Iterable[tuple[str, object]]) -> dict[str, CacheEntry]:
        """Return the entries that can be read, have not expired, and whose tags were not invalidated."""
        now, value, counter = self._clock.time(), self._serializer.value, self._counter
        entries = {}
        for key, envelope, header in self._alive(found, now):
            _, _, created, expires, stale_until, _, tags, _ = header
            # The difference of two times since the epoch is precise to microseconds.
            ttl = round(expires - created, 6)
            try:
                if not (created >= 0 <= ttl):  # NaN, too: no cache writes that
                    raise UnreadableError("the envelope has no valid times")
                entries[key] = checked_entry(
                    key,
                    value(envelope, header),
                    # Made now at the latest: another host's clock that is ahead lengthens no life.
                    min(now, created),
                    ttl,
                    frozenset(tags) if tags else NO_TAGS,
                    len(envelope),
                    stale_ttl(expires, stale_until) if stale_until != expires else 0.0,
                )
            except UnreadableError:
                counter.errors += 1
        return entries

    def _alive(self, found: Iterable[tuple[str, object]], now: float) -> list[tuple[str, bytes, Header]]:
        """Return what has a header that can be read, has not expired, and whose tags were not invalidated."""
        read = self._serializer.open
        alive: list[tuple[str, bytes, Header]] = []
        names: set[str] = set()
        for key, envelope in found:
            if envelope is None:
                continue
            try:
                if type(envelope) is not bytes:
                    raise UnreadableError("another program's value")
                header = read(key, envelope)
            except UnreadableError:
                self._counter.errors += 1
                continue
            if now < header.expires:
                alive.append((key, envelope, header))
                if header.tags:
                    names.update(header.tags)
        if names:
            tokens = self._store.tag_tokens(list(names))
            alive = [one for one in alive if all(tokens[tag] == token for tag, token in one[2].tags.items())]
        return alive

    def alive(self, keys: Sequence[str]) -> list[str]:
        """Return the keys that have a live entry, reading no more of the values than that takes."""
        if self._signed:  # the signature covers the whole envelope
            found = dict(zip(keys, self._store.read_many(keys), strict=True))
        else:
            # A missing value reads as empty.
            found = {key: head or None for key, head in zip(keys, self._store.heads(keys), strict=True)}
            # Either it has so many tags that the header is longer, or it is unreadable.
            cut = [key for key, head in found.items() if head and not self._is_readable(key, head)]
            if cut:
                found.update(zip(cut, self._store.read_many(cut), strict=True))
        return [key for key, _, _ in self._alive(found.items(), self._clock.time())]

    def _is_readable(self, key: str, envelope: bytes) -> bool:
        try:
            self._serializer.open(key, envelope)
        except UnreadableError:
            return False
        return True

    def keys(self, matches: re.Pattern[str] | None) -> list[str]:
        """Return the keys of live entries that match from the start."""
        alive: dict[str, None] = {}  # a scan may yield a key twice
        for keys in self._store.scan(matches):
            alive.update(dict.fromkeys(self.alive(keys)))
        return list(alive)

    # -- writing ------------------------------------------------------------------------------------

    def put(
        self, pairs: Sequence[tuple[CacheEntry, ServerTokens]], expect: ServerTokens | None = None
    ) -> bool:
        """Store each entry under the token of its origin; remove the keys of expired entries.

        Nothing is stored if one entry cannot be. With `expect` it is one entry, and nothing is stored if its
        key has another token; the result is whether it was stored.
        """
        writes: dict[str, Write] = {}
        expired = []
        for entry, origin in pairs:
            write = self._write(entry, origin)
            if write is None:
                expired.append(entry.key)
            else:
                writes[entry.key] = write
        if expired:
            removed = len(self._store.remove(expired))
            self._counter.deletes += removed
        if not writes:
            return True
        if expect is not None:
            ((key, write),) = writes.items()
            return self._count_stored(self._store.replace(key, write, expect=expect.token))
        self._store.put(writes)
        stored = len(writes)
        self._counter.sets += stored
        return True

    def add(self, pairs: Sequence[tuple[CacheEntry, ServerTokens]]) -> dict[str, CacheEntry | bool]:
        """Store each entry if the tokens are still those of its origin, and no live entry is there.

        Nothing is stored if one entry cannot be. Returns for each key the live entry that was there, or
        whether the entry was stored.
        """
        outcomes: dict[str, CacheEntry | bool] = {}
        writes: dict[str, Write] = {}
        for entry, origin in pairs:
            outcomes[entry.key] = False
            write = self._write(entry, origin)
            if write is not None:
                writes[entry.key] = write
        if not writes:
            return outcomes
        answers = self._store.add(writes)
        there = self._entries([(key, held) for key, held in answers.items() if isinstance(held, bytes)])
        for key, answer in answers.items():
            if isinstance(answer, bytes):
                # An unreadable or dead value is rare, so it is replaced by itself.
                outcomes[key] = there.get(key) or self._replace(key, writes[key], answer)
            else:
                outcomes[key] = self._count_stored(answer)
        return outcomes

    def _replace(self, key: str, write: Write, dead: bytes) -> CacheEntry | bool:
        """Store a value in place of a dead one, if it is still that one."""
        for _ in range(_TRIES - 1):
            answer = self._store.add({key: write}, dead)[key]
            if not isinstance(answer, bytes):
                return self._count_stored(answer)
            there = self._entries([(key, answer)]).get(key)
            if there is not None:
                return there
            dead = answer
        return False

    def _count_stored(self, stored: bool) -> bool:
        if stored:
            self._counter.sets += 1
        else:
            self._counter.refusals += 1
        return stored

    def prolong(self, key: str, life: float) -> bool:
        """Give a live entry a life from now, and break the key's fences; return whether there is one."""
        for _ in range(_TRIES):
            alive = self._alive([(key, self._store.read(key))], self._clock.time())
            if not alive:
                return False
            ((_, envelope, header),) = alive
            try:
                value = self._serializer.value(envelope, header)
            except UnreadableError:
                self._counter.errors += 1
                return False
            expires = self._clock.time() + life
            prolonged = self._serializer.encode(
                key,
                value,
                created=header.created,
                expires=expires,
                stale_until=expires + stale_ttl(header.expires, header.stale_until),
                tags=header.tags,
            )
            write = Write(prolonged, _milliseconds(life), ServerTokens(fresh(), {}), tuple(header.tags))
            if self._store.replace(key, write, instead_of=envelope):
                return True
        return False

    def _write(self, entry: CacheEntry, origin: ServerTokens) -> Write | None:
        """Return what is to be stored; None for an expired entry."""
        now = self._clock.time()
        created = min(entry.created_timestamp, now)
        ttl = FOREVER if entry.ttl is None else entry.ttl
        expires = min(created + ttl, now + self._longest)
        if expires <= now:
            return None
        tags: dict[str, int] = {}
        if entry.tags:
            missing = entry.tags - origin.tags.keys()
            if missing:
                raise ValueError(
                    f"origin must have tokens for all tags of the entry, not only for {sorted(origin.tags)}; "
                    f"take it with {sorted(missing)} too"
                )
            tags = {tag: origin.tags[tag] for tag in entry.tags}
        if type(entry.value) not in PLAIN_TYPES:
            refuse_unstorable(entry.value)
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
                f"the value of key {entry.key!r} must take at most {LARGEST} bytes on a server, not "
                f"{len(envelope)}; store it in memory or in files (cache_level=), or cache its parts"
            )
        return Write(envelope, _milliseconds(expires - now), origin, tuple(tags))


def _milliseconds(life: float) -> int | None:
    return None if life > _LONGEST_LIFE else max(1, math.ceil(life * 1000))
