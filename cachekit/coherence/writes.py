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
from cachekit.coherence.load_fence import LoadFence, may_store, shared_fence_of, with_tags
from cachekit.errors import SerializationError, TierUnavailableError, ValueTooLargeError
from cachekit.model.entry import CacheEntry, checked_entry
from cachekit.model.types import ALL, FILE, MEMORY, NO_TAGS, REDIS, CacheLevel
from cachekit.tiers.base import DirectoryTier, ServerTier
from cachekit.tiers.fences import PrivateFence, ServerTokens, SharedFence
from cachekit.tiers.memory.store import Store

#: Keys that are in flux at a time. A second later their neighbours would take the writer for dead.
_TOGETHER: Final = 500


@final
class TierWrites:
    """The writes of one cache. Safe in any thread, before and after a fork.

    Methods check no arguments; `cache` has done that. If an accessor is strict they raise
    TierUnavailableError after their last step.
    """

    __slots__ = ("_file", "_memory", "_now", "_redis")

    def __init__(
        self, memory: Store, redis: Lower[ServerTier] | None, file: Lower[DirectoryTier] | None
    ) -> None:
        self._memory = memory
        self._redis = redis
        self._file = file
        self._now = memory.clock.time

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
        steps = WriteSteps()
        if ttl <= 0:
            self._delete(key, ALL, steps)
        else:
            entry = checked_entry(key, value, self._now(), ttl, tags, stale_ttl=stale_ttl)
            self._write_alone(entry, level._value_, steps)
        return steps.done()

    def write_many(
        self, values: Mapping[str, Any], ttl: float, tags: frozenset[str], level: CacheLevel
    ) -> bool:
        """`write` for several keys.

        Raises:
            SerializationError, ValueTooLargeError: a tier cannot hold a value. All of the keys are gone.
        """
        redis, levels = self._redis, level._value_
        steps = WriteSteps()
        try:
            if ttl <= 0:
                self._delete_all(list(values), ALL, steps)
            elif redis is None or (self._file is not None and levels & FILE and not levels & REDIS):
                for key, value in values.items():
                    entry = checked_entry(key, value, self._now(), ttl, tags)
                    self._write_alone(entry, levels, steps)
            else:
                now = self._now()
                for keys in _portions(list(values)):
                    entries = {key: checked_entry(key, values[key], now, ttl, tags) for key in keys}
                    self._write_some(redis, entries, tags, levels, steps)
        except (SerializationError, ValueTooLargeError):
            self._delete_all(list(values), ALL, steps)
            raise
        except BaseException:  # as in _write()
            for key in values:
                self._memory.delete(key)
            raise
        return steps.done()

    def _write_alone(self, entry: CacheEntry, levels: int, steps: WriteSteps) -> None:
        """Store one entry, in the way that its levels ask for."""
        if self._redis and self._file and levels & FILE and not levels & REDIS:
            self._write_here(self._redis, self._file, entry, levels, steps)
        else:
            fence = self._memory.fresh_fence(entry.key, entry.tags)
            self._write(entry, fence, shared_fence_of(self._file, entry.key, entry.tags), None, levels, steps)

    def _write_some(
        self,
        redis: Lower[ServerTier],
        entries: Mapping[str, CacheEntry],
        tags: frozenset[str],
        levels: int,
        steps: WriteSteps,
    ) -> None:
        """`_write` for several, with one call to the server; all of them have these tags."""
        fences: dict[str, PrivateFence] = {}
        marks: dict[str, SharedFence | None] = {}
        origins: dict[str, ServerTokens] = {}
        of_tags = self._fresh_origin(tags, steps)
        for key, entry in entries.items():
            fences[key] = self._memory.fresh_fence(key, tags)
            shared_fence = shared_fence_of(self._file, key, tags)
            origin = None if of_tags is None else self._fresh_origin(NO_TAGS, steps)
            if origin is not None and of_tags is not None:
                origin = origins[key] = ServerTokens(origin.token, of_tags.tags)
            marks[key] = self._write_host(entry, shared_fence, origin, None, levels, steps)[1]
        tier, access = redis.tier, redis.access
        put: object
        if levels & REDIS and len(origins) == len(entries):
            put = steps.take(lambda: access.store(tier.put_many, entries, origins))
        else:
            put = steps.take(lambda: access.call(tier.remove_many, list(entries)))
        if put is UNAVAILABLE:
            access.missed_keys(entries)
        for key, entry in entries.items():
            self._to_memory(entry, fences[key], self._settle(marks[key], steps), levels)

    def replace(
        self, fence: LoadFence, value: Any, ttl: float | None, level: CacheLevel, stale_ttl: float = 0.0
    ) -> None:
        """Keep what was loaded in place of what the key has, if the fence stands; a ttl of None ends that."""
        key = fence.key
        if ttl is None or ttl <= 0:
            if fence.is_current():
                self.delete(key, CacheLevel.ALL)
            return
        entry = checked_entry(key, value, self._now(), ttl, fence.tags, stale_ttl=stale_ttl)
        stood = fence.is_current()
        try:
            self._write(entry, fence.memory, fence.file, fence, level._value_, WriteSteps())
        except (SerializationError, ValueTooLargeError):
            # Paid for, and nobody but this process can hold it.
            if not stood or not self._memory.put_entry(entry, fence.memory, news=True):
                self._memory.delete(key)

    def _write(
        self,
        entry: CacheEntry,
        fence: PrivateFence,
        shared_fence: SharedFence | None,
        expect: LoadFence | None,
        levels: int,
        steps: WriteSteps,
    ) -> None:
        """Put an entry where it shall be; with `expect`, only behind that fence.

        Args:
            entry: what.
            fence: P, as it must be when memory gets the entry.
            shared_fence: T before anything was done.
            expect: the fence of a load whose value replaces the current one.
            levels: the bits of the levels.
            steps: where failures go.
        """
        key = entry.key
        try:
            origin = self._successor_of(expect, steps) if expect else self._fresh_origin(entry.tags, steps)
            stands, shared_fence = self._write_host(entry, shared_fence, origin, expect, levels, steps)
            if stands and self._redis is not None:
                before = None if expect is None else expect.origin
                stands, shared_fence = self._write_fleet(
                    self._redis, entry, shared_fence, origin, before, levels, steps
                )
            if stands:
                # If there is nothing below it, and the fence says that somebody was first, memory has that.
                lowest = expect is not None and self._redis is None and self._file is None
                self._to_memory(entry, fence, shared_fence, levels, fence if lowest else None)
            elif expect is None:
                self._memory.delete(key)
        except Exception:
            # A tier cannot hold the value: then none holds it, nor what it was to replace. What memory may
            # keep of a load is for its caller to say.
            self._delete(key, ALL if expect is None else ALL & ~MEMORY, steps)
            raise
        except BaseException:
            # A signal handler's, at any point: memory may have what is older than what lies below it now.
            self._memory.delete(key)
            raise

    def _to_memory(
        self,
        entry: CacheEntry,
        fence: PrivateFence,
        shared_fence: SharedFence | None,
        levels: int,
        unless: PrivateFence | None = None,
    ) -> None:
        """The last step of a write: what is not kept must not leave the older value behind."""
        if levels == MEMORY:
            # It belongs to this process: no other one could bring it back.
            kept = self._memory.put_entry(entry, fence, None, news=True)
        else:
            kept = (
                bool(levels & MEMORY)
                and may_store(self._file, shared_fence)
                and self._memory.put_entry(entry, fence, shared_fence, news=True)
            )
        if not kept:
            self._memory.delete(entry.key, unless)

    def _write_here(
        self,
        redis: Lower[ServerTier],
        file: Lower[DirectoryTier],
        entry: CacheEntry,
        levels: int,
        steps: WriteSteps,
    ) -> None:
        """Store what this host alone shall hold.

        First the key goes everywhere; then the value comes as if loaded, behind tokens that the server has
        since, so that the file's copy is good until some host writes the key. What somebody else on this
        host writes in between comes after it: then it is kept nowhere.
        """
        key = entry.key
        _, gone = self._delete(key, ALL, steps)
        fence = self._memory.fence(key, entry.tags)
        shared_fence = shared_fence_of(file, key, entry.tags)
        origin = steps.take(lambda: redis.access.call(redis.tier.origin, key, entry.tags))
        if gone is None or shared_fence is None or shared_fence.token != gone.token:
            return
        stored: CacheEntry | bool | Unavailable = UNAVAILABLE
        if origin is not UNAVAILABLE:
            # A write that began before, and is still under way, may have reached the server since. Then the
            # tokens are its, and this value would come back as soon as the server lets go of that one.
            there = steps.take(partial(redis.access.call, redis.tier.peek, key))
            if isinstance(there, CacheEntry):
                return
            stored = steps.take(lambda: file.access.store(file.tier.add, key, entry, shared_fence, origin))
        # Without room on the disk, or a server to ask, it is memory's alone for as long as nobody writes.
        if levels & MEMORY and (stored is UNAVAILABLE or stored is True):
            self._memory.put_entry(entry, fence, shared_fence)

    def _fresh_origin(self, tags: frozenset[str], steps: WriteSteps) -> ServerTokens | None:
        """A fresh token, and those of the tags; None if there is no server to give them."""
        redis = self._redis
        if redis is None:
            return None
        origin = steps.take(lambda: redis.access.call(redis.tier.successor, tags))
        return None if origin is UNAVAILABLE else origin

    def _successor_of(self, fence: LoadFence, steps: WriteSteps) -> ServerTokens | None:
        """A fresh token, and those that the tags had when the load began."""
        fresh = None if fence.origin is None else self._fresh_origin(NO_TAGS, steps)
        return None if fresh is None or fence.origin is None else ServerTokens(fresh.token, fence.origin.tags)

    def _write_host(
        self,
        entry: CacheEntry,
        shared_fence: SharedFence | None,
        origin: ServerTokens | None,
        expect: LoadFence | None,
        levels: int,
        steps: WriteSteps,
    ) -> tuple[bool, SharedFence | None]:
        """Whether the expected fence stood, and the mark that holds from this write on."""
        if self._file is None:
            return True, None
        tier, access, key = self._file.tier, self._file.access, entry.key
        in_flux = self._redis is not None
        if expect is not None and (shared_fence is None or not shared_fence.is_current()):
            return False, None
        if levels & FILE:
            before = None if expect is None else shared_fence
            put = steps.take(
                lambda: access.store(tier.put, key, entry, origin, expect=before, in_flux=in_flux)
            )
            if put is not UNAVAILABLE:
                return put is not None, put
        # What the tier cannot store it shall at least not answer with.
        gone = steps.take(lambda: access.call(tier.remove, key, in_flux=in_flux))
        if gone is UNAVAILABLE:
            access.missed_keys([key])
            return True, shared_fence
        if expect is not None and levels != MEMORY:
            # Somebody may have written since the fence was looked at, and what was removed may be theirs:
            # what was loaded before that shall not come after it in this memory.
            self._memory.fresh_fence(key, entry.tags)
        return True, with_tags(gone[1], entry)

    def _write_fleet(
        self,
        redis: Lower[ServerTier],
        entry: CacheEntry,
        shared_fence: SharedFence | None,
        origin: ServerTokens | None,
        expect: ServerTokens | None,
        levels: int,
        steps: WriteSteps,
    ) -> tuple[bool, SharedFence | None]:
        """The same of the server, and the mark, settled."""
        tier, access, key = redis.tier, redis.access, entry.key
        if levels & REDIS and origin is not None:
            put = steps.take(lambda: access.store(tier.put, key, entry, origin, expect=expect))
        else:
            put = steps.take(lambda: access.call(removed, tier, key))
        if put is UNAVAILABLE:
            access.missed_keys([key])
        shared_fence = self._settle(shared_fence, steps)
        if put is False:  # another host was first: what this one has stored goes
            self.delete(key, CacheLevel.FILE | CacheLevel.MEMORY)
        return put is not False, shared_fence

    def _settle(self, shared_fence: SharedFence | None, steps: WriteSteps) -> SharedFence | None:
        """End a write in flux; the mark, unless another write came in between."""
        file = self._file
        if file is None or shared_fence is None:
            return None
        mine = steps.take(lambda: file.access.call(file.tier.settle, shared_fence))
        return shared_fence if mine is True else None

    # -- removing -----------------------------------------------------------------------------------

    def delete(self, key: str, level: CacheLevel) -> bool:
        """Remove a key from the levels, and refuse what is under way; True if one of them had it."""
        steps = WriteSteps()
        there, _ = self._delete(key, level._value_, steps)
        steps.done()
        return there

    def _delete(self, key: str, levels: int, steps: WriteSteps) -> tuple[bool, SharedFence | None]:
        """Whether it was there, and the mark that stands if nobody has written since the host removed it."""
        redis = self._redis
        try:
            there, shared_fence = self._delete_here(key, levels, steps)
            if redis is not None and levels & REDIS:
                gone = steps.take(lambda: redis.access.call(redis.tier.delete, key))
                if gone is UNAVAILABLE:
                    redis.access.missed_keys([key])
                there = there or gone is True
                shared_fence = self._settle(shared_fence, steps)
            if levels & MEMORY:
                there = self._memory.delete(key) or there
        except BaseException:
            # A signal handler's, at any point: memory would have what nobody else has.
            if levels & MEMORY:
                self._memory.delete(key)
            raise
        return there, shared_fence

    def _delete_here(self, key: str, levels: int, steps: WriteSteps) -> tuple[bool, SharedFence | None]:
        """Remove it from the host's tier, in flux if the server comes next."""
        file = self._file
        if file is None or not levels & FILE:
            return False, None
        in_flux = self._redis is not None and bool(levels & REDIS)
        gone = steps.take(lambda: file.access.call(file.tier.remove, key, in_flux=in_flux))
        if gone is UNAVAILABLE:
            file.access.missed_keys([key])
            return False, None
        return gone

    def delete_many(self, keys: Sequence[str], level: CacheLevel) -> int:
        """`delete` for distinct keys; how many were there."""
        steps = WriteSteps()
        there = self._delete_all(keys, level._value_, steps)
        steps.done()
        return there

    def _delete_all(self, keys: Sequence[str], levels: int, steps: WriteSteps) -> int:
        redis = self._redis
        if redis is None or not levels & REDIS:
            return sum([self._delete(key, levels, steps)[0] for key in keys])
        return sum([self._delete_some(redis, some, levels, steps) for some in _portions(keys)])

    def _delete_some(
        self, redis: Lower[ServerTier], keys: Sequence[str], levels: int, steps: WriteSteps
    ) -> int:
        """`_delete` for several, with one call to the server; how many were there."""
        there = set()
        marks = []
        try:
            for key in keys:
                was_there, shared_fence = self._delete_here(key, levels, steps)
                marks.append(shared_fence)
                if was_there:
                    there.add(key)
            gone = steps.take(lambda: redis.access.call(redis.tier.remove_many, keys))
            if gone is UNAVAILABLE:
                redis.access.missed_keys(keys)
            else:
                there.update(gone)
            for shared_fence in marks:
                self._settle(shared_fence, steps)
            if levels & MEMORY:
                for key in keys:
                    if self._memory.delete(key):
                        there.add(key)
        except BaseException:  # as in _delete()
            if levels & MEMORY:
                for key in keys:
                    self._memory.delete(key)
            raise
        return len(there)

    def touch(self, key: str, ttl: float) -> bool:
        """Give a live entry a new life at every level that has it; True if one has."""
        if ttl <= 0:
            return self.delete(key, CacheLevel.ALL)
        steps = WriteSteps()
        there = False
        try:
            # The server first: what a neighbour copied of it before, the host's token refuses afterwards.
            for lower in (self._redis, self._file):
                if lower is not None:
                    touched = steps.take(partial(lower.access.call, lower.tier.touch, key, ttl))
                    if touched is UNAVAILABLE:
                        lower.access.missed_keys([key])
                    there = there or touched is True
        except BaseException:  # as in _write()
            self._memory.delete(key)
            raise
        if there:
            self._memory.delete(key)  # the next lookup copies it with its new life
        else:
            there = self._memory.prolong(key, ttl)
        steps.done()
        return there

    # -- invalidating -------------------------------------------------------------------------------

    def invalidate_tags(self, tags: frozenset[str]) -> int:
        """Drop what has any of the tags, and refuse what is under way; how many, as far as is known."""
        steps = WriteSteps()
        dropped = 0
        try:
            for lower in (self._redis, self._file):
                if lower is not None:
                    count = steps.take(partial(lower.access.call, lower.tier.invalidate_by_tags, tags))
                    if count is UNAVAILABLE:
                        lower.access.missed_tags(tags)
                    else:
                        dropped = max(dropped, count)
            dropped = max(dropped, self._memory.invalidate_tags(tags))
        except BaseException:  # as in _delete()
            self._memory.invalidate_tags(tags)
            raise
        steps.done()
        return dropped

    def invalidate_matching(self, pattern: re.Pattern[str]) -> int:
        """Drop the keys that match from the start, and refuse what is under way; how many."""
        steps = WriteSteps()
        dropped = 0
        text = as_text(pattern)
        try:
            for lower in (self._file, self._redis):
                if lower is not None:
                    count = steps.take(partial(lower.access.call, lower.tier.invalidate_by_pattern, text))
                    if count is UNAVAILABLE:
                        lower.access.missed_pattern(text)
                    else:
                        dropped = max(dropped, count)
            self._renew_host()
            dropped = max(dropped, self._memory.invalidate_matching(pattern))
        except BaseException:  # as in _delete()
            self._memory.invalidate_matching(pattern)
            raise
        steps.done()
        return dropped

    def clear(self, level: CacheLevel) -> bool:
        """Remove everything from the levels, and refuse what is under way; whether that was done."""
        steps = WriteSteps()
        levels: int = level._value_
        try:
            for lower, its in ((self._file, FILE), (self._redis, REDIS)):
                if lower is not None and levels & its:
                    done = steps.take(partial(lower.access.call, lower.tier.clear))
                    if done is UNAVAILABLE:
                        lower.access.missed_everything()
            if levels & REDIS:
                self._renew_host()
            if levels & MEMORY:
                self._memory.clear()
        except BaseException:  # as in _delete()
            if levels & MEMORY:
                self._memory.clear()
            raise
        return steps.done()

    def _renew_host(self) -> None:
        """Refuse what any process of the host read of the fleet's server before that had dropped it."""
        file = self._file
        if file is not None and self._redis is not None:
            steps = WriteSteps()
            if steps.take(lambda: file.access.call(file.tier.renew)) is UNAVAILABLE:
                file.access.missed_everything()


def _portions(keys: Sequence[str]) -> Iterable[Sequence[str]]:
    return (keys[start : start + _TOGETHER] for start in range(0, len(keys), _TOGETHER))


R = TypeVar("R")

_FLAGS = (
    ("a", re.ASCII), ("i", re.IGNORECASE), ("m", re.MULTILINE), ("s", re.DOTALL), ("x", re.VERBOSE),
)  # fmt: skip


@final
class WriteSteps:
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


def removed(tier: ServerTier, key: str) -> bool:
    """Delete a key; True, for it is gone."""
    tier.delete(key)
    return True


def as_text(pattern: re.Pattern[str]) -> str:
    """The pattern with its flags written into it, so that it can travel."""
    flags = "".join(letter for letter, flag in _FLAGS if pattern.flags & flag)
    return f"(?{flags}){pattern.pattern}" if flags else pattern.pattern
