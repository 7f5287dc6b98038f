"""Turns entries into envelopes and back, and decides which are still good.

An envelope has the end of its value's life, and the tokens that its tags had when it was stored. It is good
until its life ends or a token changes. What cannot be read counts as an error, and as missing. Times are
those of the reader's clock: a value from a host whose clock is ahead lives no longer than its TTL.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, final

from cachekit.errors import UnreadableError, ValueTooLargeError
from cachekit.model.counters import TierCounters
from cachekit.model.display import shown_key
from cachekit.model.entry import CacheEntry, checked_entry
from cachekit.model.storable import READABLE_TYPES, refuse_unstorable
from cachekit.model.types import FOREVER, NO_TAGS
from cachekit.runtime.clock import Clock, source_of
from cachekit.serialization.parts import too_large
from cachekit.serialization.serializer import Serializer, Stored
from cachekit.tiers.fences import ServerTokens
from cachekit.tiers.fresh_tokens import fresh
from cachekit.tiers.redis.foreseen_tags import ForeseenTags
from cachekit.tiers.redis.resp import LARGEST
from cachekit.tiers.redis.store import Store, Write
from cachekit.tiers.stored_entries import LONGEST_LIFE, difference, entry_of, missing_tokens, prolonged

_TRIES: Final = 5  # to replace a value that other clients replace all the time


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

    __slots__ = ("_clock", "_counter", "_foreseen", "_longest", "_serializer", "_signed", "_store")

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
        self._clock = source_of(clock)
        self._longest = longest
        self._counter = counter
        self._foreseen = ForeseenTags()

    # -- reading ------------------------------------------------------------------------------------

    def get(self, key: str) -> CacheEntry | None:
        """Return the live entry of a key. One round trip, or two with tags that were not foreseen."""
        tags = self._tags_of(key)
        if tags:
            found, tokens = self._store.read_with(key, tags)
        else:
            found, tokens = self._store.read(key), {}
        entry = None if found is None else self._entries([(key, found)], tokens).get(key)
        if entry is not None and entry.tags != tags:
            self._foreseen.learn(key, entry.tags)
        return entry

    def get_many(self, keys: Sequence[str]) -> dict[str, CacheEntry]:
        """Return the live entries among the keys. One round trip, or two with tags that were not foreseen."""
        found, tags, tokens = self._read_many(keys)
        entries = self._entries(found, tokens)
        if entries:
            self._learn(keys, tags, entries)
        return entries

    def get_values(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the values of the entries that `get_many` returns."""
        values: dict[str, Any] = {}
        found, tags, tokens = self._read_many(keys)
        others = self._serializer.read_many(found, self._clock.time(), values)
        entries = self._other_entries(others, tokens) if others else {}
        for key, entry in entries.items():
            values[key] = entry.value
        if values:
            self._learn(keys, tags, entries)
        return values

    def _tags_of(self, key: str) -> frozenset[str]:
        # In a Cluster the tokens are on other nodes, which may be out. And the guess may be wrong.
        return NO_TAGS if self._store.is_cluster else self._foreseen.of(key)

    def _read_many(
        self, keys: Sequence[str]
    ) -> tuple[Iterable[tuple[str, object]], frozenset[str], Mapping[str, int | None]]:
        """Return what is stored under the keys, the tags that are foreseen, and their tokens from then."""
        tags = self._tags_of(keys[0]) if keys else NO_TAGS
        if not tags:
            return zip(keys, self._store.read_many(keys), strict=True), tags, {}
        found, tokens = self._store.read_many_with(keys, tags)
        return zip(keys, found, strict=True), tags, tokens

    def _learn(
        self, keys: Sequence[str], foreseen: frozenset[str], entries: Mapping[str, CacheEntry]
    ) -> None:
        """Foresee the tags of what was found when the first of the keys is read again."""
        tags = NO_TAGS.union(*(entry.tags for entry in entries.values()))
        if tags != foreseen:
            self._foreseen.learn(keys[0], tags)

    def _entries(
        self, found: Iterable[tuple[str, object]], tokens: Mapping[str, int | None]
    ) -> dict[str, CacheEntry]:
        """Return the entries that can be read, have not expired, and whose tags were not invalidated.

        The tokens of some tags, which were read behind the entries; those of others are read now.
        """
        now = self._clock.time()
        values: dict[str, Any] = {}
        times: dict[str, tuple[float, float, float, int]] = {}
        others = self._serializer.read_many(found, now, values, times)
        entries = {}
        for key, (created, expires, stale_until, size) in times.items():
            ttl = expires - created
            # Made now at the latest: another host's clock that is ahead lengthens no life.
            entries[key] = checked_entry(
                key,
                values[key],
                created if created < now else now,  # noqa: FURB136  # a call takes longer
                round(ttl * 1e6) / 1e6 if ttl < LONGEST_LIFE else ttl,  # `difference`, without a call
                NO_TAGS,
                size,
                0.0 if stale_until == expires else difference(stale_until, expires),
            )
        return entries | self._other_entries(others, tokens) if others else entries

    def _other_entries(
        self, found: Mapping[str, object], tokens: Mapping[str, int | None]
    ) -> dict[str, CacheEntry]:
        entries = {}
        for key, (stored, size) in self._alive(found, tokens).items():
            try:
                entries[key] = entry_of(key, stored, stored.tags, size, self._clock.time())
            except UnreadableError:
                self._counter.errors += 1
        return entries

    def _alive(
        self, found: Mapping[str, object], tokens: Mapping[str, int | None]
    ) -> dict[str, tuple[Stored, int]]:
        """Return what can be read, has not expired, and whose tags were not invalidated; with its size."""
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
            missing = [tag for tag in tags if tag not in tokens]
            if missing:
                tokens = {**tokens, **self._store.tag_tokens(missing)}
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
        """Return the keys that have a live entry, reading no more of the values than that takes."""
        if self._signed:  # the signature covers the whole envelope
            found = dict(zip(keys, self._store.read_many(keys), strict=True))
        else:
            # A missing value reads as empty.
            found = {key: head or None for key, head in zip(keys, self._store.heads(keys), strict=True)}
            # Either it has so many tags that the header is longer, or it is unreadable.
            cut = [key for key, head in found.items() if head and self._opened(key, head) is None]
            if cut:
                found.update(zip(cut, self._store.read_many(cut), strict=True))
        return list(self._alive(found, {}))

    def keys(self, matches: re.Pattern[str] | None) -> list[str]:
        """Return the keys of live entries that match from the start."""
        alive: dict[str, None] = {}  # a scan may yield a key twice
        for keys in self._store.scan(matches):
            alive.update(dict.fromkeys(self.alive(keys)))
        return list(alive)

    # -- writing ------------------------------------------------------------------------------------

    def put_one(self, entry: CacheEntry, origin: ServerTokens) -> None:
        """Store an entry without tags under the token of its origin; remove the key of an expired one."""
        write = self._write(entry, origin)
        if write is None:
            removed = len(self._store.remove([entry.key]))
            self._counter.deletes += removed
        else:
            self._store.put_one(entry.key, write)
            self._counter.sets += 1

    def put_now(self, entries: Sequence[CacheEntry]) -> None:
        """Store entries that have the same tags, with the tokens that these have now.

        One round trip for one entry if the tokens were foreseen.
        """
        tags = entries[0].tags
        if len(entries) == 1:
            if not tags:
                self.put_one(entries[0], ServerTokens(fresh(), {}))
                return
            tokens = self._store.foreseen_tokens(tags)
            if tokens is not None and self._put_if_foreseen(entries[0], tokens):
                return
        origin = ServerTokens(fresh(), self._store.tokens([], tags)[1])
        self.put([(entry, origin) for entry in entries])

    def _put_if_foreseen(self, entry: CacheEntry, tokens: Mapping[str, int]) -> bool:
        """Store an entry if the tags have these tokens; return False if they have others."""
        write = self._write(entry, ServerTokens(fresh(), tokens))
        if write is None:
            return False  # it has expired, which `put` knows
        if not self._store.replace(entry.key, write, same_tags=True):
            return False
        self._counter.sets += 1
        return True

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
        held = [(key, answer) for key, answer in answers.items() if isinstance(answer, bytes)]
        there = self._entries(held, {})
        for key, answer in answers.items():
            if isinstance(answer, bytes):
                # An unreadable or dead value is rare, so it is replaced by itself.
                outcomes[key] = there.get(key) or self._replace(key, writes[key], answer)
            else:
                outcomes[key] = self._count_stored(answer)
        return outcomes

    def create(self, entry: CacheEntry, origin: ServerTokens) -> bool:
        """Store an entry as `put` does, unless the key has a live one; return whether it was stored."""
        write = self._write(entry, origin)
        if write is None:
            return False
        dead = None
        for _ in range(_TRIES):
            there = self._store.create(entry.key, write, dead)
            if not isinstance(there, bytes):
                return self._count_stored(there)
            if self._entries([(entry.key, there)], {}):
                break
            dead = there  # an unreadable or dead value is rare, so it is replaced by itself
        return self._count_stored(False)

    def _replace(self, key: str, write: Write, dead: bytes) -> CacheEntry | bool:
        """Store a value in place of a dead one, if it is still that one."""
        for _ in range(_TRIES - 1):
            answer = self._store.add({key: write}, dead)[key]
            if not isinstance(answer, bytes):
                return self._count_stored(answer)
            there = self._entries([(key, answer)], {}).get(key)
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
            envelope = self._store.read(key)
            alive = self._alive({key: envelope}, {})
            if not alive:
                return False
            assert isinstance(envelope, bytes)
            stored, _ = alive[key]
            try:
                value = stored.value()
            except UnreadableError:
                self._counter.errors += 1
                return False
            envelope_then = prolonged(self._serializer, key, stored, value, self._clock.time() + life)
            if envelope_then is None:
                self._counter.errors += 1
                return False
            write = Write(envelope_then, _milliseconds(life), ServerTokens(fresh(), {}), tuple(stored.tags))
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
            if not origin.tags.keys() >= entry.tags:
                raise missing_tokens(entry, origin)
            tags = {tag: origin.tags[tag] for tag in entry.tags}
        if type(entry.value) not in READABLE_TYPES:
            refuse_unstorable(entry.value)
        try:
            envelope = self._serializer.encode_in_parts(
                entry.key,
                entry.value,
                created=created,
                expires=expires,
                stale_until=expires + entry.stale_ttl,
                tags=tags,
                most=LARGEST,
            )
            if len(envelope) > LARGEST:
                raise too_large(len(envelope))
        except ValueTooLargeError as error:
            raise ValueTooLargeError(
                f"the value of {shown_key(entry.key)} must take at most {LARGEST} bytes on a server, "
                f"but {error}; store it in memory or in files (cache_level=), or cache its parts"
            ) from error
        return Write(envelope, _milliseconds(expires - now), origin, tuple(tags))


def _milliseconds(life: float) -> int | None:
    return None if life > LONGEST_LIFE else max(1, math.ceil(life * 1000))
