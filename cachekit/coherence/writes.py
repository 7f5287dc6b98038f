"""What changes the tiers of one cache: sets, deletions, refreshes, invalidations, in the order of `levels`.

It promises that all steps of a write are taken, whichever tier fails; that what a tier missed is noted
before the call returns; and that a value which a tier cannot hold leaves its key in none. Of several keys
the fleet's server is told at once, and each of them in the same order of steps as one alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar, final

from cachekit.coherence.accessor import UNAVAILABLE, Lower, Unavailable
from cachekit.coherence.load_fence import LoadFence, marked, may_keep, named
from cachekit.errors import SerializationError, TierUnavailableError, ValueTooLargeError
from cachekit.model.entry import CacheEntry
from cachekit.model.types import ALL, FILE, MEMORY, NO_TAGS, REDIS, CacheLevel
from cachekit.tiers.base import FleetTier, HostTier
from cachekit.tiers.fences import Origin, PrivateFence, SharedFence
from cachekit.tiers.memory import MemoryCache

#: Keys that are in flux at a time. A second later their neighbours would take the writer for dead.
_TOGETHER: Final = 500


@final
class Writes:
    """The writes of one cache, over the tiers of its `Levels`. Safe in any thread, before and after a fork.

    Methods check no arguments; `cache` has done that. If an accessor is strict they raise
    TierUnavailableError after their last step.
    """

    __slots__ = ("_fleet", "_host", "_memory", "_now")

    def __init__(
        self, memory: MemoryCache, fleet: Lower[FleetTier] | None, host: Lower[HostTier] | None
    ) -> None:
        self._memory = memory
        self._fleet = fleet
        self._host = host
        self._now = memory._clock.time

    # -- storing ------------------------------------------------------------------------------------

    def write(
        self,
        key: str,
        value: Any,
        ttl: float,
        tags: frozenset[str],
        level: CacheLevel,
        stale_ttl: float = 0.0,
    ) -> bool:
        """Store a value at the levels, and leave the key at no other; whether all of that was done.

        Raises:
            SerializationError, ValueTooLargeError: a tier cannot hold the value. The key is gone.
        """
        steps = Steps()
        if ttl <= 0:
            self._delete(key, ALL, steps)
        else:
            entry = CacheEntry._made(key, value, self._now(), ttl, tags, stale_ttl=stale_ttl)
            self._write_alone(entry, level._value_, steps)
        return steps.done()

    def write_many(
        self, values: Mapping[str, Any], ttl: float, tags: frozenset[str], level: CacheLevel
    ) -> bool:
        """`write` for several keys.

        Raises:
            SerializationError, ValueTooLargeError: a tier cannot hold a value. All of the keys are gone.
        """
        fleet, places = self._fleet, level._value_
        steps = Steps()
        try:
            if ttl <= 0:
                self._delete_all(list(values), ALL, steps)
            elif fleet is None or (self._host is not None and places & FILE and not places & REDIS):
                for key, value in values.items():
                    entry = CacheEntry._made(key, value, self._now(), ttl, tags)
                    self._write_alone(entry, places, steps)
            else:
                now = self._now()
                for keys in _portions(list(values)):
                    entries = {key: CacheEntry._made(key, values[key], now, ttl, tags) for key in keys}
                    self._write_some(fleet, entries, tags, places, steps)
        except (SerializationError, ValueTooLargeError):
            self._delete_all(list(values), ALL, steps)
            raise
        except BaseException:  # as in _write()
            for key in values:
                self._memory._store.delete(key)
            raise
        return steps.done()

    def _write_alone(self, entry: CacheEntry, places: int, steps: Steps) -> None:
        """Store one entry, in the way that its levels ask for."""
        if self._fleet and self._host and places & FILE and not places & REDIS:
            self._write_here(self._fleet, self._host, entry, places, steps)
        else:
            fence = self._memory._successor(entry.key, entry.tags)
            self._write(entry, fence, marked(self._host, entry.key, entry.tags), None, places, steps)

    def _write_some(
        self,
        fleet: Lower[FleetTier],
        entries: Mapping[str, CacheEntry],
        tags: frozenset[str],
        places: int,
        steps: Steps,
    ) -> None:
        """`_write` for several, with one call to the server; all of them have these tags."""
        fences: dict[str, PrivateFence] = {}
        marks: dict[str, SharedFence | None] = {}
        origins: dict[str, Origin] = {}
        of_tags = self._fresh_origin(tags, steps)
        for key, entry in entries.items():
            fences[key] = self._memory._successor(key, tags)
            mark = marked(self._host, key, tags)
            origin = None if of_tags is None else self._fresh_origin(NO_TAGS, steps)
            if origin is not None and of_tags is not None:
                origin = origins[key] = Origin(origin.token, of_tags.tags)
            marks[key] = self._write_host(entry, mark, origin, None, places, steps)[1]
        tier, access = fleet.tier, fleet.access
        put: object
        if places & REDIS and len(origins) == len(entries):
            put = steps.take(lambda: access.store(tier.put_many, entries, origins))
        else:
            put = steps.take(lambda: access.call(tier.remove_many, list(entries)))
        if put is UNAVAILABLE:
            access.missed_keys(entries)
        for key, entry in entries.items():
            self._to_memory(entry, fences[key], self._settle(marks[key], steps), places)

    def replace(
        self, fence: LoadFence, value: Any, ttl: float | None, level: CacheLevel, stale_ttl: float = 0.0
    ) -> None:
        """Keep what was loaded in place of what the key has, if the fence stands; a ttl of None ends that."""
        key = fence.key
        if ttl is None or ttl <= 0:
            if fence.is_current():
                self.delete(key, CacheLevel.ALL)
            return
        entry = CacheEntry._made(key, value, self._now(), ttl, fence.tags, stale_ttl=stale_ttl)
        stood = fence.is_current()
        try:
            self._write(entry, fence.memory, fence.host, fence, level._value_, Steps())
        except (SerializationError, ValueTooLargeError):
            # Paid for, and nobody but this process can hold it.
            if not stood or not self._memory._put_entry(entry, fence.memory, news=True):
                self._memory._store.delete(key)

    def _write(
        self,
        entry: CacheEntry,
        fence: PrivateFence,
        mark: SharedFence | None,
        expect: LoadFence | None,
        places: int,
        steps: Steps,
    ) -> None:
        """Put an entry where it shall be; with `expect`, only behind that fence.

        Args:
            entry: what.
            fence: P, as it must be when memory gets the entry.
            mark: T before anything was done.
            expect: of a load whose value takes the place of what is there; `fence` and `mark` are its own.
            places: the bits of the levels.
            steps: where failures go.
        """
        key = entry.key
        try:
            origin = self._successor_of(expect, steps) if expect else self._fresh_origin(entry.tags, steps)
            stands, mark = self._write_host(entry, mark, origin, expect, places, steps)
            if stands and self._fleet is not None:
                before = None if expect is None else expect.origin
                stands, mark = self._write_fleet(self._fleet, entry, mark, origin, before, places, steps)
            if stands:
                # If there is nothing below it, and the fence says that somebody was first, memory has that.
                lowest = expect is not None and self._fleet is None and self._host is None
                self._to_memory(entry, fence, mark, places, fence if lowest else None)
            elif expect is None:
                self._memory._store.delete(key)
        except Exception:
            # A tier cannot hold the value: then none holds it, nor what it was to replace. What memory may
            # keep of a load is for its caller to say.
            self._delete(key, ALL if expect is None else ALL & ~MEMORY, steps)
            raise
        except BaseException:
            # A signal handler's, at any point: memory may have what is older than what lies below it now.
            self._memory._store.delete(key)
            raise

    def _to_memory(
        self,
        entry: CacheEntry,
        fence: PrivateFence,
        mark: SharedFence | None,
        places: int,
        unless: PrivateFence | None = None,
    ) -> None:
        """The last step of a write: what is not kept must not leave the older value behind."""
        if places == MEMORY:
            # It belongs to this process: no other one could bring it back.
            kept = self._memory._put_entry(entry, fence, None, news=True)
        else:
            kept = (
                bool(places & MEMORY)
                and may_keep(self._host, mark)
                and self._memory._put_entry(entry, fence, mark, news=True)
            )
        if not kept:
            self._memory._store.delete(entry.key, unless)

    def _write_here(
        self,
        fleet: Lower[FleetTier],
        host: Lower[HostTier],
        entry: CacheEntry,
        places: int,
        steps: Steps,
    ) -> None:
        """Store what this host alone shall hold.

        First the key goes everywhere; then the value comes as if loaded, behind tokens that the server has
        since, so that the file's copy is good until some host writes the key. What somebody else on this
        host writes in between comes after it: then it is kept nowhere.
        """
        key = entry.key
        _, gone = self._delete(key, ALL, steps)
        fence = self._memory.fence(key, entry.tags)
        mark = marked(host, key, entry.tags)
        origin = steps.take(lambda: fleet.access.call(fleet.tier.origin, key, entry.tags))
        if gone is None or mark is None or mark.token != gone.token:
            return
        stored: CacheEntry | bool | Unavailable = UNAVAILABLE
        if origin is not UNAVAILABLE:
            # A write that began before, and is still under way, may have reached the server since. Then the
            # tokens are its, and this value would come back as soon as the server lets go of that one.
            there = steps.take(partial(fleet.access.call, fleet.tier.peek, key))
            if isinstance(there, CacheEntry):
                return
            stored = steps.take(lambda: host.access.store(host.tier.add, key, entry, mark, origin))
        # Without room on the disk, or a server to ask, it is memory's alone for as long as nobody writes.
        if places & MEMORY and (stored is UNAVAILABLE or stored is True):
            self._memory._put_entry(entry, fence, mark)

    def _fresh_origin(self, tags: frozenset[str], steps: Steps) -> Origin | None:
        """A fresh token, and those of the tags; None if there is no server to give them."""
        fleet = self._fleet
        if fleet is None:
            return None
        origin = steps.take(lambda: fleet.access.call(fleet.tier.successor, tags))
        return None if origin is UNAVAILABLE else origin

    def _successor_of(self, fence: LoadFence, steps: Steps) -> Origin | None:
        """A fresh token, and those that the tags had when the load began."""
        fresh = None if fence.origin is None else self._fresh_origin(NO_TAGS, steps)
        return None if fresh is None or fence.origin is None else Origin(fresh.token, fence.origin.tags)

    def _write_host(
        self,
        entry: CacheEntry,
        mark: SharedFence | None,
        origin: Origin | None,
        expect: LoadFence | None,
        places: int,
        steps: Steps,
    ) -> tuple[bool, SharedFence | None]:
        """Whether the expected fence stood, and the mark that holds from this write on."""
        if self._host is None:
            return True, None
        tier, access, key = self._host.tier, self._host.access, entry.key
        in_flux = self._fleet is not None
        if expect is not None and (mark is None or not mark.is_current()):
            return False, None
        if places & FILE:
            before = None if expect is None else mark
            put = steps.take(
                lambda: access.store(tier.put, key, entry, origin, expect=before, in_flux=in_flux)
            )
            if put is not UNAVAILABLE:
                return put is not None, put
        # What the tier cannot store it shall at least not answer with.
        gone = steps.take(lambda: access.call(tier.remove, key, in_flux=in_flux))
        if gone is UNAVAILABLE:
            access.missed_keys([key])
            return True, mark
        if expect is not None and places != MEMORY:
            # Somebody may have written since the fence was looked at, and what was removed may be theirs:
            # what was loaded before that shall not come after it in this memory.
            self._memory._successor(key, entry.tags)
        return True, named(gone[1], entry)

    def _write_fleet(
        self,
        fleet: Lower[FleetTier],
        entry: CacheEntry,
        mark: SharedFence | None,
        origin: Origin | None,
        expect: Origin | None,
        places: int,
        steps: Steps,
    ) -> tuple[bool, SharedFence | None]:
        """The same of the server, and the mark, settled."""
        tier, access, key = fleet.tier, fleet.access, entry.key
        if places & REDIS and origin is not None:
            put = steps.take(lambda: access.store(tier.put, key, entry, origin, expect=expect))
        else:
            put = steps.take(lambda: access.call(removed, tier, key))
        if put is UNAVAILABLE:
            access.missed_keys([key])
        mark = self._settle(mark, steps)
        if put is False:  # another host was first: what this one has stored goes
            self.delete(key, CacheLevel.FILE | CacheLevel.MEMORY)
        return put is not False, mark

    def _settle(self, mark: SharedFence | None, steps: Steps) -> SharedFence | None:
        """End a write in flux; the mark, unless another write came in between."""
        host = self._host
        if host is None or mark is None:
            return None
        mine = steps.take(lambda: host.access.call(host.tier.settle, mark))
        return mark if mine is True else None

    # -- removing -----------------------------------------------------------------------------------

    def delete(self, key: str, level: CacheLevel) -> bool:
        """Remove a key from the levels, and refuse what is under way; True if one of them had it."""
        steps = Steps()
        there, _ = self._delete(key, level._value_, steps)
        steps.done()
        return there

    def _delete(self, key: str, places: int, steps: Steps) -> tuple[bool, SharedFence | None]:
        """Whether it was there, and the mark that stands if nobody has written since the host removed it."""
        fleet = self._fleet
        try:
            there, mark = self._delete_here(key, places, steps)
            if fleet is not None and places & REDIS:
                gone = steps.take(lambda: fleet.access.call(fleet.tier.delete, key))
                if gone is UNAVAILABLE:
                    fleet.access.missed_keys([key])
                there = there or gone is True
                mark = self._settle(mark, steps)
            if places & MEMORY:
                there = self._memory._store.delete(key) or there
        except BaseException:
            # A signal handler's, at any point: memory would have what nobody else has.
            if places & MEMORY:
                self._memory._store.delete(key)
            raise
        return there, mark

    def _delete_here(self, key: str, places: int, steps: Steps) -> tuple[bool, SharedFence | None]:
        """Remove it from the host's tier, in flux if the server comes next."""
        host = self._host
        if host is None or not places & FILE:
            return False, None
        in_flux = self._fleet is not None and bool(places & REDIS)
        gone = steps.take(lambda: host.access.call(host.tier.remove, key, in_flux=in_flux))
        if gone is UNAVAILABLE:
            host.access.missed_keys([key])
            return False, None
        return gone

    def delete_many(self, keys: Sequence[str], level: CacheLevel) -> int:
        """`delete` for distinct keys; how many were there."""
        steps = Steps()
        there = self._delete_all(keys, level._value_, steps)
        steps.done()
        return there

    def _delete_all(self, keys: Sequence[str], places: int, steps: Steps) -> int:
        fleet = self._fleet
        if fleet is None or not places & REDIS:
            return sum([self._delete(key, places, steps)[0] for key in keys])
        return sum([self._delete_some(fleet, some, places, steps) for some in _portions(keys)])

    def _delete_some(self, fleet: Lower[FleetTier], keys: Sequence[str], places: int, steps: Steps) -> int:
        """`_delete` for several, with one call to the server; how many were there."""
        there = set()
        marks = []
        try:
            for key in keys:
                was_there, mark = self._delete_here(key, places, steps)
                marks.append(mark)
                if was_there:
                    there.add(key)
            gone = steps.take(lambda: fleet.access.call(fleet.tier.remove_many, keys))
            if gone is UNAVAILABLE:
                fleet.access.missed_keys(keys)
            else:
                there.update(gone)
            for mark in marks:
                self._settle(mark, steps)
            if places & MEMORY:
                for key in keys:
                    if self._memory._store.delete(key):
                        there.add(key)
        except BaseException:  # as in _delete()
            if places & MEMORY:
                for key in keys:
                    self._memory._store.delete(key)
            raise
        return len(there)

    def touch(self, key: str, ttl: float) -> bool:
        """Give a live entry a new life at every level that has it; True if one has."""
        if ttl <= 0:
            return self.delete(key, CacheLevel.ALL)
        steps = Steps()
        there = False
        try:
            # The server first: what a neighbour copied of it before, the host's token refuses afterwards.
            for lower in (self._fleet, self._host):
                if lower is not None:
                    touched = steps.take(partial(lower.access.call, lower.tier.touch, key, ttl))
                    if touched is UNAVAILABLE:
                        lower.access.missed_keys([key])
                    there = there or touched is True
        except BaseException:  # as in _write()
            self._memory._store.delete(key)
            raise
        if there:
            self._memory._store.delete(key)  # the next lookup copies it with its new life
        else:
            there = self._memory.touch(key, ttl)
        steps.done()
        return there

    # -- invalidating -------------------------------------------------------------------------------

    def invalidate_tags(self, tags: frozenset[str]) -> int:
        """Drop what has any of the tags, and refuse what is under way; how many, as far as is known."""
        steps = Steps()
        dropped = 0
        try:
            for lower in (self._fleet, self._host):
                if lower is not None:
                    count = steps.take(partial(lower.access.call, lower.tier.invalidate_by_tags, tags))
                    if count is UNAVAILABLE:
                        lower.access.missed_tags(tags)
                    else:
                        dropped = max(dropped, count)
            dropped = max(dropped, self._memory.invalidate_by_tags(tags))
        except BaseException:  # as in _delete()
            self._memory.invalidate_by_tags(tags)
            raise
        steps.done()
        return dropped

    def invalidate_matching(self, pattern: re.Pattern[str]) -> int:
        """Drop the keys that match from the start, and refuse what is under way; how many."""
        steps = Steps()
        dropped = 0
        text = as_text(pattern)
        try:
            for lower in (self._host, self._fleet):
                if lower is not None:
                    count = steps.take(partial(lower.access.call, lower.tier.invalidate_by_pattern, text))
                    if count is UNAVAILABLE:
                        lower.access.missed_pattern(text)
                    else:
                        dropped = max(dropped, count)
            self._renew_host()
            dropped = max(dropped, self._memory.invalidate_by_pattern(pattern))
        except BaseException:  # as in _delete()
            self._memory.invalidate_by_pattern(pattern)
            raise
        steps.done()
        return dropped

    def clear(self, level: CacheLevel) -> bool:
        """Remove everything from the levels, and refuse what is under way; whether that was done."""
        steps = Steps()
        places: int = level._value_
        try:
            for lower, its in ((self._host, FILE), (self._fleet, REDIS)):
                if lower is not None and places & its:
                    done = steps.take(partial(lower.access.call, lower.tier.clear))
                    if done is UNAVAILABLE:
                        lower.access.missed_everything()
            if places & REDIS:
                self._renew_host()
            if places & MEMORY:
                self._memory.clear()
        except BaseException:  # as in _delete()
            if places & MEMORY:
                self._memory.clear()
            raise
        return steps.done()

    def _renew_host(self) -> None:
        """Refuse what any process of the host read of the fleet's server before that had dropped it."""
        host = self._host
        if host is not None and self._fleet is not None:
            steps = Steps()
            if steps.take(lambda: host.access.call(host.tier.renew)) is UNAVAILABLE:
                host.access.missed_everything()


def _portions(keys: Sequence[str]) -> Iterable[Sequence[str]]:
    return (keys[start : start + _TOGETHER] for start in range(0, len(keys), _TOGETHER))


R = TypeVar("R")

_FLAGS = (
    ("a", re.ASCII), ("i", re.IGNORECASE), ("m", re.MULTILINE), ("s", re.DOTALL), ("x", re.VERBOSE),
)  # fmt: skip


@final
class Steps:
    """The steps of one write: all are taken, whichever fails."""

    __slots__ = ("_error", "_failed")

    def __init__(self) -> None:
        self._error: TierUnavailableError | None = None
        self._failed = False

    def take(self, step: Callable[[], R | Unavailable]) -> R | Unavailable:
        """Its result; UNAVAILABLE also if a strict accessor raised."""
        try:
            result = step()
        except TierUnavailableError as error:
            self._error = error
            result = UNAVAILABLE
        if result is UNAVAILABLE:
            self._failed = True
        return result

    def done(self) -> bool:
        """Whether none failed.

        Raises:
            TierUnavailableError: one did, and its accessor is strict.
        """
        if self._error is not None:
            raise self._error
        return not self._failed


def removed(tier: FleetTier, key: str) -> bool:
    """Delete a key; True, for it is gone."""
    tier.delete(key)
    return True


def as_text(pattern: re.Pattern[str]) -> str:
    """The pattern with its flags written into it, so that it can travel."""
    flags = "".join(letter for letter, flag in _FLAGS if pattern.flags & flag)
    return f"(?{flags}){pattern.pattern}" if flags else pattern.pattern
