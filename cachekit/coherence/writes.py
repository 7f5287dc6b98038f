"""TierWrites: what changes the tiers of one cache, in the order of steps that `tier_stack` lists.

All steps of a write are taken, whichever tier fails. What a tier missed is noted before the call returns. A
value that one tier cannot hold leaves its key in no tier. Several keys take one call to the server, and each
key goes through the same order of steps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, final

from cachekit.coherence.accessor import UNAVAILABLE, TierAccessor, Unavailable
from cachekit.coherence.load_fence import AbsenceFence, LoadFence, may_store, shared_fence_of, with_tags
from cachekit.errors import SerializationError, TierUnavailableError, ValueTooLargeError
from cachekit.model.display import shown_error
from cachekit.model.entry import CacheEntry, checked_entry
from cachekit.model.types import ALL, FILE, MEMORY, NO_TAGS, REDIS, CacheLevel
from cachekit.runtime.interrupts import is_interrupt
from cachekit.tiers.base import DirectoryTier, ServerTier
from cachekit.tiers.fences import PrivateFence, ServerTokens, SharedFence
from cachekit.tiers.memory.store import Store

if TYPE_CHECKING:
    from cachekit.tiers.file.store import FileStore
    from cachekit.tiers.redis.bus import Bus

P = ParamSpec("P")
R = TypeVar("R")

_ALL: Final = CacheLevel.ALL

#: Keys that are being written at a time. After a second other processes take a writer for dead.
_TOGETHER: Final = 500
#: The same where only files are written, under one hold of each shard's lock: no write there is in progress
#: after the hold.
_TOGETHER_IN_FILES: Final = 2000

#: Keys of one failed write whose failure is remembered.
_REMEMBERED: Final = 16


@final
class TierWrites:
    """The writes of one cache. Safe in any thread, before and after a fork.

    Methods check no arguments, because their callers have done that. If an accessor is strict, they raise
    TierUnavailableError after their last step.
    """

    __slots__ = ("_bus", "_clock", "_file", "_files", "_memory", "_redis")

    def __init__(
        self,
        memory: Store,
        redis: TierAccessor[ServerTier] | None,
        file: TierAccessor[DirectoryTier] | None,
        files: FileStore | None,
        bus: Bus | None,
    ) -> None:
        self._memory = memory
        self._bus = bus
        self._files = files
        self._redis = redis
        self._file = file
        self._clock = memory.time

    # -- storing ------------------------------------------------------------------------------------

    def write_one(
        self,
        key: str,
        value: Any,
        ttl: float,
        tags: frozenset[str],
        level: CacheLevel,
        stale_ttl: float = 0.0,
    ) -> bool:
        """Do what `write` does, for one value."""
        files, file = self._files, self._file
        if files is None or file is None or level is not _ALL or ttl <= 0 or file.breaker.refuses:
            redis, bus = self._redis, self._bus
            begins = bus is not None and bus.beginning
            if redis is not None and file is None and level is _ALL and ttl > 0 and not begins:
                entry = checked_entry(key, value, self._clock.time(), ttl, tags, stale_ttl=stale_ttl)
                return self._write_one_above_server(redis, entry)
            return self.write({key: value}, ttl, tags, level, stale_ttl)
        memory = self._memory
        begun = file.clock.monotonic()
        try:
            # P before T: a load in progress is refused, whichever of the next steps fails.
            memory.break_fence(key)
            if memory.keeps:
                # From before the write: a copy that outlived the file's entry would hide the next one, whose
                # load finds nothing there, and leaves T.
                created = memory.time.monotonic()
                shared_fence = files.write(key, value, ttl, tags, stale_ttl)
                # Behind T as this write has left it: if another write came since, no hit serves this copy.
                memory.put(key, value, ttl, tags, created, None, shared_fence, False, stale_ttl)
            else:
                files.write(key, value, ttl, tags, stale_ttl)
            if file.is_full:
                file.has_room()
        except TierUnavailableError as error:
            file.failed(error, begun)
            # From here on as if it was known. The breaker refuses what would wait for the tier again.
            return self.write({key: value}, ttl, tags, level, stale_ttl)
        except Exception as error:
            # The tier cannot hold the value: then none holds the key, nor what was to be replaced.
            self._delete([key], ALL, WriteSteps())
            self.not_stored([key], error)
            raise
        except BaseException:
            memory.delete(key)  # cut short: memory must not keep what is older than the file's entry
            raise
        return True

    def _write_one_above_server(self, redis: TierAccessor[ServerTier], entry: CacheEntry) -> bool:
        steps = WriteSteps()
        try:
            self._write_above_server(redis, [entry], entry.tags, steps)
        except Exception as error:
            # The tier cannot hold the value: then none holds the key, nor what was to be replaced.
            self._delete([entry.key], ALL, steps)
            self.not_stored([entry.key], error)
            raise
        except BaseException:
            self._memory.delete(entry.key)  # cut short: memory must not keep what is older
            raise
        return steps.done()

    def write(
        self,
        values: Mapping[str, Any],
        ttl: float,
        tags: frozenset[str],
        level: CacheLevel,
        stale_ttl: float = 0.0,
    ) -> bool:
        """Store values at the levels, and leave their keys at no other; return whether no step failed.

        Raises:
            SerializationError, ValueTooLargeError: a tier cannot hold a value. All of the keys are gone.
        """
        redis, file, bus = self._redis, self._file, self._bus
        if bus is not None and bus.beginning:
            bus.await_beginning()  # before the fences, which break as memory is cleared then
        levels: int = level._value_
        keys = list(values)
        steps = WriteSteps()
        if ttl <= 0:
            self._memory.events.deleted(self._memory.time.monotonic(), keys)
            self._delete(keys, ALL, steps)
            return steps.done()
        now = self._clock.time()
        try:
            with cleaning_on_interrupt(self._drop, keys):
                for start in range(0, len(keys), _TOGETHER):
                    entries: list[CacheEntry] = []
                    for key in keys[start : start + _TOGETHER]:
                        entry = checked_entry(key, values[key], now, ttl, tags, stale_ttl=stale_ttl)
                        if redis and file and levels & FILE and not levels & REDIS:
                            self._write_on_this_host(redis, file, entry, levels, steps)
                        else:
                            entries.append(entry)
                    if entries:
                        self._write(entries, tags, levels, steps)
        except Exception as error:
            # A tier cannot hold a value: then none holds the keys, nor what was to be replaced.
            self._delete(keys, ALL, steps)
            self.not_stored(keys, error)
            raise
        return steps.done()

    def write_many(
        self, values: Mapping[str, Any], ttl: float, tags: frozenset[str], level: CacheLevel
    ) -> bool:
        """Do what `write` does. The file tier takes each of its locks once for 2,000 keys or 4 MiB."""
        files, file = self._files, self._file
        if files is None or file is None or level is not _ALL or ttl <= 0 or file.breaker.refuses:
            return self.write(values, ttl, tags, level)
        memory = self._memory
        keys = list(values)
        begun = file.clock.monotonic()
        try:
            for start in range(0, len(keys), _TOGETHER_IN_FILES):
                some = {key: values[key] for key in keys[start : start + _TOGETHER_IN_FILES]}
                # The steps of `write_one`.
                memory.break_fences(some)
                created = memory.time.monotonic()
                shared_fences: dict[str, SharedFence] = {}
                files.write_many(some, ttl, tags, 0.0, shared_fences if memory.keeps else None)
                if file.is_full:
                    file.has_room()
                for key, shared_fence in shared_fences.items():
                    memory.put(key, values[key], ttl, tags, created, None, shared_fence)
        except TierUnavailableError as error:
            file.failed(error, begun)
            return self.write({key: values[key] for key in keys[start:]}, ttl, tags, level)
        except Exception as error:
            self._delete(keys, ALL, WriteSteps())
            self.not_stored(keys, error)
            raise
        except BaseException:
            self._drop(keys)
            raise
        return True

    def replace(
        self, fence: LoadFence, value: Any, ttl: float | None, level: CacheLevel, stale_ttl: float = 0.0
    ) -> bool:
        """Store what was loaded in place of the key's entry, if the fence is current; return whether it was.

        A `ttl` of None removes the entry.
        """
        key = fence.key
        if ttl is None or ttl <= 0:
            if fence.is_current():
                self.delete(key, CacheLevel.ALL)
            self._memory.events.not_stored(self._memory.time.monotonic(), "unwanted", key)
            return False
        entry = checked_entry(key, value, self._clock.time(), ttl, fence.tags, stale_ttl=stale_ttl)
        was_current = fence.is_current()
        steps = WriteSteps()
        with cleaning_on_interrupt(self._drop, [key]):
            try:
                if self._write([entry], fence.tags, level._value_, steps, fence) is True:
                    return True
                self._memory.events.not_stored(self._memory.time.monotonic(), "refused", key, tags=fence.tags)
                return False
            except Exception as error:
                # A tier cannot hold the value: then none below memory holds it, nor what it was to replace.
                self._delete([key], ALL & ~MEMORY, steps)
                if not isinstance(error, (SerializationError, ValueTooLargeError)):
                    raise
                # The caller has paid for the load, and only this process can hold the value.
                if was_current and self._memory.put_entry(entry, fence.memory, breaks_fences=True):
                    return True
                self._memory.delete(key)
                return False

    def exchange(self, fence: LoadFence, entry: CacheEntry) -> bool | Unavailable:
        """Store an entry in place of the one that the key has, if the fence is current; return whether.

        The lowest tier in use compares its fence with the value that it has, in one step. UNAVAILABLE if no
        tier can hold the entry now.

        Raises:
            SerializationError, ValueTooLargeError: a tier cannot hold the value. The key is gone.
        """
        if self._file is not None and fence.file is None:
            return UNAVAILABLE  # the directory is gone: nothing can be compared
        steps = WriteSteps()
        with cleaning_on_interrupt(self._drop, [entry.key]):
            try:
                outcome = self._write([entry], entry.tags, ALL, steps, fence)
            except Exception:
                self._delete([entry.key], ALL, steps)
                raise
        steps.done()
        return outcome

    def create(
        self, key: str, value: Any, ttl: float, tags: frozenset[str], stale_ttl: float
    ) -> bool | Unavailable:
        """Store a value unless the lowest tier in use has a live entry; return whether it was stored.

        UNAVAILABLE if no tier can hold the value now.

        Raises:
            SerializationError, ValueTooLargeError: a tier cannot hold the value, which is stored in none.
        """
        bus = self._bus
        if bus is not None and bus.beginning:
            bus.await_beginning()
        entry = checked_entry(key, value, self._clock.time(), ttl, tags, stale_ttl=stale_ttl)
        steps = WriteSteps()
        with cleaning_on_interrupt(self._drop, [key]):
            outcome = self._create(entry, steps)
        steps.done()
        return outcome

    def _create(self, entry: CacheEntry, steps: WriteSteps) -> bool | Unavailable:
        redis, file, key = self._redis, self._file, entry.key
        fence = self._memory.fresh_fence(key, entry.tags)  # P before T, as in `write`
        stored: bool | Unavailable = UNAVAILABLE
        shared_fence: SharedFence | None = None
        if redis is not None:
            stored, shared_fence = self._create_on_server(redis, entry, steps)
        if stored is UNAVAILABLE and file is not None:
            created = steps.call(file, file.tier.create, key, entry)
            if created is UNAVAILABLE:
                file.missed_keys([key])
            else:
                stored, shared_fence = created is not None, created
        if stored is UNAVAILABLE:
            return self._create_in_memory(entry)
        if stored:
            try:
                self._write_memory(entry, fence, shared_fence, ALL, None)
            except Exception:
                self._delete([key], ALL, steps)
                raise
        return stored

    def _create_on_server(
        self, redis: TierAccessor[ServerTier], entry: CacheEntry, steps: WriteSteps
    ) -> tuple[bool | Unavailable, SharedFence | None]:
        """Return whether the server has stored the entry, and T if no other write of the key came since.

        The file's step is first, as in a write: copies of what the server has lost end before the new value
        is seen. It stores nothing, because the server may refuse the entry.
        """
        file, key = self._file, entry.key
        origin = steps.call(redis, redis.tier.successor, entry.tags)
        if origin is UNAVAILABLE:
            redis.missed_keys([key])
            return UNAVAILABLE, None
        gone: SharedFence | None = None
        if file is not None:
            removed = steps.call(file, file.tier.remove, key, in_flux=True)
            if removed is UNAVAILABLE:
                file.missed_keys([key])
            else:
                gone = removed[1]
        try:
            stored = steps.call(redis, redis.tier.create, key, entry, origin)
        finally:
            gone = self._settle(gone, steps)
        if stored is UNAVAILABLE:
            redis.missed_keys([key])
        if not stored or file is None or gone is None:
            return stored, None
        shared_fence = gone.naming(entry.tags)
        try:
            steps.call(file, file.tier.add, key, entry, shared_fence, origin)
        except Exception:
            # A tier cannot hold the value: then none holds the key.
            self._delete([key], ALL, steps)
            raise
        return True, shared_fence

    def _create_in_memory(self, entry: CacheEntry) -> bool | Unavailable:
        """Store an entry in memory alone, unless memory has one: there is no other tier, or none answers."""
        memory = self._memory
        shared_fence = shared_fence_of(self._file, entry.key, entry.tags)
        absence = AbsenceFence(memory.peek_value, entry.key)
        if not may_store(self._file, shared_fence):
            return UNAVAILABLE
        if memory.put_entry(entry, absence, shared_fence, breaks_fences=True):
            return True if memory.keeps else UNAVAILABLE
        return False if absence.was_broken else UNAVAILABLE

    def _write(
        self,
        entries: Sequence[CacheEntry],
        tags: frozenset[str],
        levels: int,
        steps: WriteSteps,
        expect: LoadFence | None = None,
    ) -> bool | Unavailable:
        """Store entries with the same tags; with `expect` it is one, stored only behind that fence.

        Returns:
            Whether the expected fence was current; UNAVAILABLE if it was, and no tier could hold the entry.
        """
        redis, file, memory = self._redis, self._file, self._memory
        if redis is not None and file is None and expect is None and levels == ALL:
            self._write_above_server(redis, entries, tags, steps)
            return True
        fences: list[tuple[PrivateFence, SharedFence | None]] = []
        for entry in entries:
            if expect is None:
                # P before T: both must be older than the first step of the write.
                fences.append((memory.fresh_fence(entry.key, tags), shared_fence_of(file, entry.key, tags)))
            else:
                fences.append((expect.memory, expect.file))
        origin = None if redis is None else self._fresh_origin(redis, tags, expect, steps)
        written: list[SharedFence | None] = []
        #: Whether no tier below memory has compared its fence, so that memory does.
        lowest = expect is not None
        try:
            for at, entry in enumerate(entries):
                stored, shared_fence = self._write_file(entry, fences[at][1], origin, expect, levels, steps)
                if stored is False:
                    return False
                lowest = lowest and stored is UNAVAILABLE
                written.append(shared_fence)
            if redis is not None:
                stored = self._write_redis(redis, entries, origin, expect, levels, steps)
        except Exception as error:
            # A tier cannot hold a value, so none reached the server. After an interrupt one may reach it yet.
            if redis is not None and not is_interrupt(error):
                for shared_fence in written:
                    self._settle(shared_fence, steps)
            raise
        if redis is not None:
            for at, shared_fence in enumerate(written):
                written[at] = self._settle(shared_fence, steps)
            if stored is False:
                # Another host was first: what this host has stored goes.
                for entry in entries:
                    self.delete(entry.key, CacheLevel.FILE | CacheLevel.MEMORY)
                return False
            lowest = lowest and stored is UNAVAILABLE
        outcome: bool | Unavailable = True
        for (fence, _), entry, shared_fence in zip(fences, entries, written, strict=True):
            # Without a tier below, a broken fence means that memory itself has the newer value.
            kept = self._write_memory(entry, fence, shared_fence, levels, fence if lowest else None)
            if lowest:
                outcome = kept
        return outcome

    def _write_above_server(
        self,
        redis: TierAccessor[ServerTier],
        entries: Sequence[CacheEntry],
        tags: frozenset[str],
        steps: WriteSteps,
    ) -> None:
        """Do what `_write` does where the server is the only tier below memory, and all levels take part."""
        memory = self._memory
        keys = [entry.key for entry in entries]
        fences = memory.fresh_fences(keys, tags)
        put_now = redis.put_now_of()
        if put_now is None:
            origin = self._fresh_origin(redis, tags, None, steps)
            self._write_redis(redis, entries, origin, None, ALL, steps)
        elif steps.call(redis, put_now, entries) is UNAVAILABLE:
            redis.missed_keys(keys)
        if not memory.keeps:
            memory.break_fences(keys)  # once more: a load may have begun before the server had the value
            return
        for entry, fence in zip(entries, fences, strict=True):
            if not memory.put_entry(entry, fence, None, breaks_fences=True):
                memory.delete(entry.key)

    def _fresh_origin(
        self,
        redis: TierAccessor[ServerTier],
        tags: frozenset[str],
        expect: LoadFence | None,
        steps: WriteSteps,
    ) -> ServerTokens | None:
        """Return a fresh token, and the tokens of the tags; None if there are none to be had.

        All keys of one write get the same token, because no other write has it. The tags' tokens must be
        those that held when the value was made: for a load, those of its fence.
        """
        if expect is not None and expect.origin is None:
            return None
        origin = steps.call(redis, redis.tier.successor, tags if expect is None else NO_TAGS)
        if origin is UNAVAILABLE:
            return None
        if expect is not None and expect.origin is not None:
            return ServerTokens(origin.token, expect.origin.tags)
        return origin

    def _write_file(
        self,
        entry: CacheEntry,
        shared_fence: SharedFence | None,
        origin: ServerTokens | None,
        expect: LoadFence | None,
        levels: int,
        steps: WriteSteps,
    ) -> tuple[bool | Unavailable, SharedFence | None]:
        """Return whether the expected fence was current, and T as this write leaves it.

        UNAVAILABLE if there is no file tier, or if it did not answer.
        """
        file, key = self._file, entry.key
        if file is None:
            return UNAVAILABLE, None
        in_flux = self._redis is not None
        if expect is not None and (shared_fence is None or not shared_fence.is_current()):
            return False, None
        if levels & FILE:
            before = None if expect is None else shared_fence
            put = steps.call(file, file.tier.put, key, entry, origin, expect=before, in_flux=in_flux)
            if put is not UNAVAILABLE:
                return expect is None or put is not None, put
        # A tier that cannot store the value must not answer with the older one.
        gone = steps.call(file, file.tier.remove, key, in_flux=in_flux)
        if gone is UNAVAILABLE:
            file.missed_keys([key])
            # This write is not in progress there, so it must not end one.
            return UNAVAILABLE, None if in_flux else shared_fence
        if expect is not None and levels != MEMORY:
            # Another process may have written since the fence was checked, and `remove` may have removed its
            # entry. So the loaded value, which is older than that write, must not enter this memory.
            self._memory.fresh_fence(key, entry.tags)
        return True, with_tags(gone[1], entry)

    def _write_redis(
        self,
        redis: TierAccessor[ServerTier],
        entries: Sequence[CacheEntry],
        origin: ServerTokens | None,
        expect: LoadFence | None,
        levels: int,
        steps: WriteSteps,
    ) -> bool | Unavailable:
        """Return whether the expected token was current; UNAVAILABLE if the server did not answer."""
        put: object
        if not levels & REDIS or origin is None:
            put = steps.call(redis, redis.tier.remove_many, [entry.key for entry in entries])
        elif len(entries) == 1:
            before = None if expect is None else expect.origin
            put = steps.call(redis, redis.tier.put, entries[0].key, entries[0], origin, expect=before)
        else:
            by_key = {entry.key: entry for entry in entries}
            put = steps.call(redis, redis.tier.put_many, by_key, dict.fromkeys(by_key, origin))
        if put is UNAVAILABLE:
            redis.missed_keys([entry.key for entry in entries])
            return UNAVAILABLE
        return put is not False

    def _settle(self, shared_fence: SharedFence | None, steps: WriteSteps) -> SharedFence | None:
        """End the write of a key; return T, unless the write overlapped with another one of the key."""
        file = self._file
        if file is None or shared_fence is None:
            return None
        mine = steps.call(file, file.tier.settle, shared_fence)
        return shared_fence if mine is True else None

    def _write_memory(
        self,
        entry: CacheEntry,
        fence: PrivateFence,
        shared_fence: SharedFence | None,
        levels: int,
        unless: PrivateFence | None,
    ) -> bool | Unavailable:
        """Take the last step of a write: memory gets the entry, or at least drops the older one.

        Returns:
            Whether memory got it; UNAVAILABLE if it cannot hold it.
        """
        if levels == MEMORY:
            # The value belongs to this process, so no write of another process concerns it.
            stored = self._memory.put_entry(entry, fence, None, breaks_fences=True)
        else:
            stored = (
                bool(levels & MEMORY)
                and may_store(self._file, shared_fence)
                and self._memory.put_entry(entry, fence, shared_fence, breaks_fences=True)
            )
        if stored:
            return True if self._memory.keeps else UNAVAILABLE
        lost = unless is not None and not unless.is_current()
        self._memory.delete(entry.key, unless)
        return False if lost else UNAVAILABLE

    def _write_on_this_host(
        self,
        redis: TierAccessor[ServerTier],
        file: TierAccessor[DirectoryTier],
        entry: CacheEntry,
        levels: int,
        steps: WriteSteps,
    ) -> None:
        """Store what only this host may hold.

        First the key is removed everywhere. Then the value is stored like a loaded one, behind the tokens
        that the server has by then: the file's copy is good until another host writes the key. If another
        process of this host writes in between, its write is the later one, and the value is stored nowhere.
        """
        key = entry.key
        _, (removed,) = self._delete([key], ALL, steps)
        fence = self._memory.fence(key, entry.tags)
        shared_fence = shared_fence_of(file, key, entry.tags)
        origin = steps.call(redis, redis.tier.origin, key, entry.tags)
        if removed is None or shared_fence is None or shared_fence.token != removed.token:
            return
        stored: CacheEntry | bool | Unavailable = UNAVAILABLE
        if origin is not UNAVAILABLE:
            # An older write that is still in progress may have reached the server since. Then the tokens are
            # that write's, and this value would come back once the server evicts that write's value.
            if isinstance(steps.call(redis, redis.tier.peek, key), CacheEntry):
                return
            stored = steps.call(file, file.tier.add, key, entry, shared_fence, origin)
        # Without room on the disk, or without the server, only memory holds it, until the next write.
        if levels & MEMORY and (stored is UNAVAILABLE or stored is True):
            self._memory.put_entry(entry, fence, shared_fence)

    # -- removing -----------------------------------------------------------------------------------

    def delete(self, key: str, level: CacheLevel) -> bool:
        """Remove a key from the levels, and refuse loads in progress; return whether a level had it."""
        return bool(self.delete_many([key], level))

    def delete_many(self, keys: Sequence[str], level: CacheLevel) -> int | None:
        """Remove distinct keys from the levels, and refuse loads in progress; return how many were there.

        None if a tier failed that may have had one of the others.
        """
        steps = WriteSteps()
        # First, so that the event is never younger than the removals that it explains.
        self._memory.events.deleted(self._memory.time.monotonic(), keys)
        there, _ = self._delete(keys, level._value_, steps)
        return len(there) if steps.done() or len(there) == len(keys) else None

    def _delete(
        self, keys: Sequence[str], levels: int, steps: WriteSteps
    ) -> tuple[set[str], list[SharedFence | None]]:
        """Return the keys that were there, and for each key T, if no other write overlapped."""
        there: set[str] = set()
        removed: list[SharedFence | None] = []
        with cleaning_on_interrupt(self._drop, keys):
            for start in range(0, len(keys), _TOGETHER):
                removed += self._delete_together(keys[start : start + _TOGETHER], levels, steps, there)
        return there, removed

    def _delete_together(
        self, keys: Sequence[str], levels: int, steps: WriteSteps, there: set[str]
    ) -> list[SharedFence | None]:
        redis = self._redis if levels & REDIS else None
        file = self._file if levels & FILE else None
        removed: list[SharedFence | None] = []
        if file is not None and self._files is not None:
            found = steps.call(file, self._files.remove_many, keys)
            if found is UNAVAILABLE:
                file.missed_keys(keys)
            else:
                there.update(found)
            file = None
        for key in keys:
            shared_fence = None
            if file is not None:
                gone = steps.call(file, file.tier.remove, key, in_flux=redis is not None)
                if gone is UNAVAILABLE:
                    file.missed_keys([key])
                else:
                    was_there, shared_fence = gone
                    if was_there:
                        there.add(key)
            removed.append(shared_fence)
        if redis is not None:
            found = steps.call(redis, redis.tier.remove_many, keys)
            if found is UNAVAILABLE:
                redis.missed_keys(keys)
            else:
                there.update(found)
            removed = [self._settle(shared_fence, steps) for shared_fence in removed]
        if levels & MEMORY:
            for key in keys:
                if self._memory.delete(key):
                    there.add(key)
        return removed

    def _drop(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._memory.delete(key)

    def touch(self, key: str, ttl: float) -> bool:
        """Give a live entry a new life at every level that has it; return whether one has."""
        if ttl <= 0:
            return self.delete(key, CacheLevel.ALL)
        steps = WriteSteps()
        there = False
        with cleaning_on_interrupt(self._drop, [key]):
            # The server first: the host's token then refuses what another process copied of it before.
            for lower in (self._redis, self._file):
                if lower is not None:
                    touched = steps.call(lower, lower.tier.touch, key, ttl)
                    if touched is UNAVAILABLE:
                        lower.missed_keys([key])
                    there = there or touched is True
            if there:
                self._memory.delete(key)  # the next lookup copies it with its new life
            else:
                there = self._memory.prolong(key, ttl)
        steps.done()
        return there

    # -- invalidating -------------------------------------------------------------------------------

    def invalidate_tags(self, tags: frozenset[str]) -> int | None:
        """Drop entries with any of the tags, and refuse loads in progress; return how many.

        None if a tier failed, or does not count.
        """
        if not tags:
            return 0
        steps = WriteSteps()
        dropped: int | None = 0
        self._memory.events.invalidated(self._memory.time.monotonic(), tags)
        with cleaning_on_interrupt(self._memory.invalidate_tags, tags):
            for lower in (self._redis, self._file):
                if lower is not None:
                    count = steps.call(lower, lower.tier.invalidate_by_tags, tags)
                    if count is UNAVAILABLE:
                        lower.missed_tags(tags)
                    dropped = _most(dropped, count)
            dropped = _most(dropped, self._memory.invalidate_tags(tags))
        steps.done()
        return dropped

    def invalidate_matching(self, pattern: re.Pattern[str]) -> int | None:
        """Drop keys that match from the start, and refuse loads in progress; return how many.

        None if a tier failed.
        """
        steps = WriteSteps()
        dropped: int | None = 0
        text = as_text(pattern)
        self._memory.events.matched(self._memory.time.monotonic(), pattern)
        with cleaning_on_interrupt(self._memory.invalidate_matching, pattern):
            for lower in (self._file, self._redis):
                if lower is not None:
                    count = steps.call(lower, lower.tier.invalidate_by_pattern, text)
                    if count is UNAVAILABLE:
                        lower.missed_pattern(text)
                    dropped = _most(dropped, count)
            self._break_shared_fences()
            dropped = _most(dropped, self._memory.invalidate_matching(pattern))
        steps.done()
        return dropped

    def clear(self, level: CacheLevel) -> bool:
        """Remove everything from the levels, and refuse loads in progress; return whether no step failed."""
        steps = WriteSteps()
        levels: int = level._value_
        self._memory.events.cleared(self._memory.time.monotonic())
        with cleaning_on_interrupt(self._memory.clear):
            for lower, its in ((self._file, FILE), (self._redis, REDIS)):
                if lower is not None and levels & its:
                    done = steps.call(lower, lower.tier.clear)
                    if done is UNAVAILABLE:
                        lower.missed_everything()
            if levels & REDIS:
                self._break_shared_fences()
            if levels & MEMORY:
                self._memory.clear()
        return steps.done()

    # -- events -------------------------------------------------------------------------------------

    def not_stored(self, keys: Sequence[str], error: Exception) -> None:
        """Remember that values of the keys could not be stored."""
        now, told = self._memory.time.monotonic(), shown_error(error)
        for key in keys[:_REMEMBERED]:
            self._memory.events.not_stored(now, "unstorable", key, told)

    def _break_shared_fences(self) -> None:
        """Refuse what a process of this host read from the server before the server dropped it."""
        file = self._file
        if file is None or self._redis is None:
            return
        # Not a step of the write: once it is noted, nothing of the write is missing.
        if WriteSteps().call(file, file.tier.renew) is UNAVAILABLE:
            file.missed_everything()


@final
class WriteSteps:
    """The steps of one write: all are taken, whichever fails."""

    _error: TierUnavailableError | None = None
    _failed = False

    def call(
        self,
        accessor: TierAccessor[Any],
        operation: Callable[P, R],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R | Unavailable:
        """Return what `accessor.call` returns; UNAVAILABLE also if it raised because it is strict."""
        try:
            result = accessor.call(operation, *args, **kwargs)
        except TierUnavailableError as error:
            self._error = error
            result = UNAVAILABLE
        if result is UNAVAILABLE:
            self._failed = True
        return result

    def done(self) -> bool:
        """Return whether none failed.

        Raises:
            TierUnavailableError: one did, and its accessor is strict.
        """
        if self._error is not None:
            raise self._error
        return not self._failed


@final
class cleaning_on_interrupt(partial[object]):  # noqa: N801  # one by contextlib costs a set of files 4 %
    """Clean memory, with this call, if the `with` block is cut short.

    A signal handler may raise between any two steps. Memory would then keep what is older than the tiers
    below it, and serve it.
    """

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self()


def _most(one: int | None, other: int | Unavailable | None) -> int | None:
    """Return the larger of two counts of the same entries; None if one is not known."""
    if one is None or other is None or other is UNAVAILABLE:
        return None
    return max(one, other)


_FLAGS = (
    ("a", re.ASCII), ("i", re.IGNORECASE), ("m", re.MULTILINE), ("s", re.DOTALL), ("x", re.VERBOSE),
)  # fmt: skip


def as_text(pattern: re.Pattern[str]) -> str:
    """Return the pattern with its flags written into it, so that a tier can send it elsewhere."""
    flags = "".join(letter for letter, flag in _FLAGS if pattern.flags & flag)
    return f"(?{flags}){pattern.pattern}" if flags else pattern.pattern
