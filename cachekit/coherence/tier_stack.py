"""TierStack: the tiers of one cache, and the order of steps that keeps them consistent.

No load and no promotion brings back what was written or invalidated in between: not in this process, not in
the other processes of the host, not on other hosts. A tier that fails costs a bounded time and no exception
(see `accessor`). A write to some levels leaves the key at no other.

Three fences stand for "nothing has changed since". P is private to this process and guards its memory. T is
a token of the file tier, which the processes of the host share. RT are tokens that the server holds. What a
tier stores was checked against its own fence, taken before the value was read or made. A T with the WRITING
bit says that writes are in progress, and how many. A model that tries every interleaving found the order of
the steps:

    read     T and P; server, else file; a file's copy counts only if the server confirms its RT;
             memory if P is current, with T beside the entry
    write    fresh P; T; file, in progress; server, with a fresh RT; file, finished; memory if no other
             write of the key was in progress
    load     T, P, RT; the loader; file if T is current; server if RT is current; memory if P is current.
             A load that finds an entry stored first takes that one
    add      fresh P; T; file removed, in progress; server if it has nothing; file, finished; file if T is
             current; memory. Without a server, file if it has nothing
    update   T, P, RT; server, else file; the function; then as a write, behind T and RT
    touch    server; file; memory
    tags     server; file; memory
    pattern  T; file; server; T again; memory

The T beside an entry in memory is compared at every hit (see `tiers.memory.store`). So a write by another
process is seen at once, and a write by another host when its message arrives (see `tiers.base.BusListener`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final
from weakref import WeakSet

from cachekit.coherence.accessor import UNAVAILABLE, TierAccessor, Unavailable
from cachekit.coherence.load_fence import LoadFence, may_store, same_version, shared_fence_of, with_tags
from cachekit.coherence.misses import miss_of
from cachekit.coherence.notifications import MemoryInvalidator
from cachekit.coherence.promotion_gate import PromotionGate
from cachekit.coherence.writes import TierWrites
from cachekit.errors import OnceOnlyError, SerializationError, TierUnavailableError, ValueTooLargeError
from cachekit.model.display import shown_key
from cachekit.model.entry import CacheEntry, checked_entry
from cachekit.model.reports import Explanation
from cachekit.model.types import FILE, FOREVER, MEMORY, MISSING, NO_TAGS, REDIS, CacheLevel, Missing
from cachekit.tiers.base import DirectoryTier, FencedEntry, ServerTier
from cachekit.tiers.fences import PrivateFence, ServerTokens, SharedFence
from cachekit.tiers.file import store_of
from cachekit.tiers.memory.store import Store
from cachekit.tiers.memory.strategy import adaptive_policy_of
from cachekit.tiers.redis import bus_of

if TYPE_CHECKING:
    from cachekit.tiers.file.store import FileStore
    from cachekit.tiers.redis.bus import Bus

_ALL: Final = CacheLevel.ALL

#: An entry of a lower tier, with P and T from before it was read.
FencedCopy: TypeAlias = tuple[CacheEntry, PrivateFence, SharedFence | None]


@final
class TierStack:
    """The memory tier, and up to two tiers below it. Safe in any thread, before and after a fork.

    Args:
        memory: the store of this process. Without a memory tier it keeps nothing, and holds the fences.
        redis: the tier that hosts share, or None.
        file: the tier that the processes of this host share, or None.
        hits: Returns how many lookups the cache has found in memory.

    Methods check no arguments, because their callers have done that. If an accessor is strict, they raise
    TierUnavailableError at once, and those of `writes` after their last step.
    """

    __slots__ = (
        "__weakref__", "_bus", "_files", "_gate", "_memory", "_unstorable", "_unsubscribe", "answers", "busy",
        "clock", "file", "lower", "peek_memory", "peek_memory_entry", "redis", "skipped", "writes",
    )  # fmt: skip

    def __init__(
        self,
        memory: Store,
        redis: TierAccessor[ServerTier] | None,
        file: TierAccessor[DirectoryTier] | None,
        hits: Callable[[], int],
    ) -> None:
        self._memory = memory
        self._gate = PromotionGate(memory, hits)
        #: What this reads the clock of memory from.
        self.clock = memory.time
        #: Returns the value that a flight which ended since the lookup left in memory, or MISSING.
        self.peek_memory: Callable[[str], Any | Missing] = memory.peek_value
        #: Returns a snapshot of the live entry in memory, or None; counts no lookup.
        self.peek_memory_entry = memory.peek_entry
        self.redis = redis
        self.file = file
        #: The store of the file tier, if that is the only tier below memory. Its lookups and writes are short
        #: ways to do what the general ways do, with the same order of steps.
        self._files = None if redis is not None or file is None else store_of(file.tier)
        #: Whether there is a tier below memory.
        self.lower = redis is not None or file is not None
        #: Requests that a tier below memory answered.
        self.answers = 0
        #: Lookups in the tiers below memory that are under way, which may be hits or misses.
        self.busy = 0
        #: Requests that did not ask memory.
        self.skipped = 0
        self._unstorable: WeakSet[type] = WeakSet()  # weakly: a program may make classes all the time
        self._unsubscribe: Callable[[], None] | None = None
        self._bus: Bus | None = None
        if redis is not None:
            self._unsubscribe = redis.tier.subscribe(MemoryInvalidator(memory))
            self._bus = bus_of(redis.tier)
        #: What changes the tiers.
        self.writes = TierWrites(memory, redis, file, self._files, self._bus)

    @property
    def is_beginning(self) -> bool:
        """Whether the server has not confirmed yet that it notifies this cache."""
        return self._bus is not None and bool(self._bus.beginning)

    def await_beginning(self) -> None:
        """Wait until the server notifies this cache of writes, for 0.2 s at most.

        Memory is cleared then, and what a caller has stored before would be lost.
        """
        if self._bus is not None:
            self._bus.await_beginning()

    # -- reading ----------------------------------------------------------------------------------------

    def find(self, key: str, level: CacheLevel = CacheLevel.ALL) -> Any | Missing:
        """Return the value that a tier below memory has, and copy it into memory if that is a level."""
        self.busy += 1
        try:
            files, file = self._files, self.file
            if files is None or file is None or level is not _ALL or file.breaker.refuses:
                return self._find(key, level._value_)
            begun = file.clock.monotonic()
            try:
                value = self._value_in_files(files, key) if self._memory.keeps else files.value(key)
            except TierUnavailableError as error:
                file.failed(error, begun)
                if file.strict:
                    raise
                return MISSING
            if value is not MISSING:
                self.answers += 1
            return value
        finally:
            self.busy -= 1

    def _value_in_files(self, files: FileStore, key: str) -> Any | Missing:
        """Return the value that the files have, and copy it into memory if that is worth it."""
        memory, gate = self._memory, self._gate
        if memory.counter.promotions >= gate.due:
            gate.decide()
        # P before T: a write or an invalidation from here on refuses the copy.
        changes = memory.fences.changes
        if gate.every == 1 or gate.opens():
            return files.value(key, memory.put_copy, changes)
        # Estimates of other sizes count this request too.
        value = files.value(key, memory.note_copy if memory.is_sampled(key) else None, changes)
        memory.uncopied += value is not MISSING
        return value

    def _find(self, key: str, levels: int) -> Any | Missing:
        """Do what `find` does, with any tiers and levels."""
        if self.is_beginning:
            self.await_beginning()
        memory = self._memory
        # P before T: whatever happens from here on refuses the copy.
        fence = memory.copy_fence(key) if memory.keeps and levels & MEMORY else None
        entry, shared_fence = self._read(key, levels)
        if entry is None:
            return MISSING
        self.answers += 1
        if fence is not None:
            self._promote(entry, fence, shared_fence)
        return entry.value

    def find_many(self, keys: Sequence[str], level: CacheLevel = CacheLevel.ALL) -> dict[str, Any]:
        """Do what `find` does for distinct keys. Each tier is asked once for what is still missing."""
        count = len(keys)
        self.busy += count
        try:
            return self._find_some(keys, level)
        finally:
            self.busy -= count

    def find_ahead(self, key: str, ahead: Sequence[str]) -> dict[str, Any]:
        """Do what `find` does, and copy other keys into memory too, with one call of each tier.

        Returns:
            The values that were found. The other keys are no requests.
        """
        self.busy += 1
        try:
            return self._find_many([key, *ahead], CacheLevel.ALL.value, key)
        finally:
            self.busy -= 1

    def _find_some(self, keys: Sequence[str], level: CacheLevel) -> dict[str, Any]:
        files, file, redis = self._files, self.file, self.redis
        found: dict[str, Any]
        if redis is not None and file is None and not self._memory.keeps and level is _ALL:
            get_values = redis.values_of()  # nothing here needs more of the entries
            if get_values is not None:
                values = redis.call(get_values, keys)
                found = {} if values is UNAVAILABLE else values
                count = len(found)
                self.answers += count
                return found
        if files is None or file is None or level is not _ALL or file.breaker.refuses:
            return self._find_many(keys, level._value_)
        begun = file.clock.monotonic()
        found = {}
        keeps = self._memory.keeps
        try:
            for key in keys:
                found[key] = self._value_in_files(files, key) if keeps else files.value(key)
        except TierUnavailableError as error:
            file.failed(error, begun)
            if file.strict:
                raise
        left = keys[len(found) + 1 :]
        found = {key: value for key, value in found.items() if value is not MISSING}
        count = len(found)
        self.answers += count
        # After a failure the breaker refuses the others, each of which is a lookup too.
        return found | self._find_many(left, level._value_) if left else found

    def _find_many(self, keys: Sequence[str], levels: int, only: str | None = None) -> dict[str, Any]:
        """Do what `find_many` does, with any tiers and levels; with `only`, that key is the one request."""
        memory = self._memory
        fences = memory.copy_fences(keys) if memory.keeps and levels & MEMORY else {}
        redis, file = self.redis, self.file
        shared_fences: dict[str, SharedFence | None] = {}
        if redis is not None and file is not None:
            shared_fences = {key: shared_fence_of(file, key) for key in keys}
        entries: dict[str, CacheEntry] = {}
        if redis is not None and levels & REDIS:
            answer = redis.call(redis.tier.get_many, keys)
            if answer is not UNAVAILABLE:
                entries = answer
                if file is not None:
                    for key, entry in answer.items():
                        shared_fences[key] = with_tags(shared_fences[key], entry)
        if file is not None and levels & FILE:
            found = self._look_many(file, [key for key in keys if key not in entries])
            verdicts = self._revalidate_many(redis, found, levels) if redis is not None and found else {}
            for key, one in found.items():
                verdict = verdicts.get(key)
                if isinstance(verdict, CacheEntry):
                    entries[key], shared_fences[key] = verdict, with_tags(shared_fences[key], verdict)
                elif verdict is False:
                    file.call(file.tier.remove, key)
                else:
                    entries[key], shared_fences[key] = one.entry, one.fence
        count = len(entries) if only is None else int(only in entries)
        self.answers += count
        if fences:
            for key, entry in entries.items():
                self._promote(entry, fences[key], shared_fences.get(key))
        return {key: entry.value for key, entry in entries.items()}

    def peek(self, key: str) -> tuple[CacheEntry, CacheLevel] | None:
        """Return the entry of the nearest tier below memory, and that tier's level; nothing is copied.

        It counts no lookup, except for a hit in the file tier that the server has to confirm.
        """
        redis, file = self.redis, self.file
        if redis is not None:
            entry = redis.call(redis.tier.peek, key)
            if entry is not UNAVAILABLE and entry is not None:
                return entry, CacheLevel.REDIS
        if file is None:
            return None
        entry = file.call(file.tier.peek, key)
        if entry is UNAVAILABLE or entry is None:
            return None
        if redis is not None:
            found = self._look_many(file, [key])
            if not found or self._revalidate(redis, found[key], FILE) is False:
                return None
            entry = found[key].entry
        return entry, CacheLevel.FILE

    def promote_quietly(self, key: str) -> Any | Missing:
        """Return the value that `peek` finds, and copy it into memory; counts no lookup."""
        copy = self.read_quietly(key)
        if copy is None:
            return MISSING
        self.promote_copy(copy)
        return copy[0].value

    def read_quietly(self, key: str) -> FencedCopy | None:
        """Return the entry that `peek` finds, for `promote_copy`; counts no lookup."""
        fence, shared_fence = self._memory.copy_fence(key), shared_fence_of(self.file, key)
        found = self.peek(key)
        return None if found is None else (found[0], fence, with_tags(shared_fence, found[0]))

    def promote_copy(self, copy: FencedCopy) -> None:
        """Copy an entry into memory, unless there was a write or an invalidation since it was read."""
        self._promote(*copy)

    def _read(self, key: str, levels: int) -> tuple[CacheEntry | None, SharedFence | None]:
        """Return the entry of the first tier that has it, and T for its copy in memory."""
        redis, file = self.redis, self.file
        shared_fence = None
        if redis is not None:
            shared_fence = shared_fence_of(file, key)
            if levels & REDIS:
                entry = redis.call(redis.tier.get, key)
                if entry is not UNAVAILABLE and entry is not None:
                    return entry, with_tags(shared_fence, entry)
        if file is None or not levels & FILE:
            return None, None
        found = file.call(file.tier.look, key)
        if found is UNAVAILABLE or found is None:
            return None, None
        if redis is None:
            return found.entry, found.fence
        # Another host may have written the key since; the server knows. While the server is out, this host's
        # copy is served. When the server recovers, memory is cleared and the copy is revalidated.
        verdict = self._revalidate(redis, found, levels)
        if isinstance(verdict, CacheEntry):
            return verdict, with_tags(shared_fence, verdict)
        if verdict is False:
            file.call(file.tier.remove, key)
            return None, None
        return found.entry, found.fence

    def _revalidate(
        self, redis: TierAccessor[ServerTier], found: FencedEntry, levels: int
    ) -> CacheEntry | bool | Unavailable:
        """Return whether the server confirms this host's copy, or the server's own entry.

        A server without an entry gets this copy.
        """
        entry, _, origin = found
        if origin is None:
            return UNAVAILABLE if redis.is_out else False
        if levels & REDIS:
            try:
                return redis.call(redis.tier.add, entry.key, entry, origin)
            except (SerializationError, ValueTooLargeError):
                pass  # only this host can hold it
        now = redis.call(redis.tier.origin, entry.key, entry.tags)
        return now if now is UNAVAILABLE else same_version(origin, now)

    def _revalidate_many(
        self, redis: TierAccessor[ServerTier], found: Mapping[str, FencedEntry], levels: int
    ) -> Mapping[str, CacheEntry | bool | Unavailable]:
        """Revalidate several copies in one round trip."""
        verdicts: dict[str, CacheEntry | bool | Unavailable] = {
            key: self._revalidate(redis, one, levels) for key, one in found.items() if one.origin is None
        }  # which calls nothing
        origins = {key: one.origin for key, one in found.items() if one.origin is not None}
        if not origins:
            return verdicts
        if not levels & REDIS:
            tags = NO_TAGS.union(*(origin.tags for origin in origins.values()))
            now = redis.call(redis.tier.origins, list(origins), tags)
            for key, origin in origins.items():
                verdicts[key] = now if now is UNAVAILABLE else same_version(origin, now[key])
            return verdicts
        entries = {key: found[key].entry for key in origins}
        try:
            answers = redis.call(redis.tier.add_many, entries, origins)
        except (SerializationError, ValueTooLargeError):  # only this host can hold one of them
            return verdicts | {key: self._revalidate(redis, found[key], levels) for key in origins}
        verdicts.update(dict.fromkeys(origins, UNAVAILABLE) if answers is UNAVAILABLE else answers)
        return verdicts

    def _look_many(self, file: TierAccessor[DirectoryTier], keys: Sequence[str]) -> dict[str, FencedEntry]:
        found = {}
        for key in keys:
            one = file.call(file.tier.look, key)
            if one is not UNAVAILABLE and one is not None:
                found[key] = one
        return found

    def _promote(self, entry: CacheEntry, fence: PrivateFence, shared_fence: SharedFence | None) -> None:
        if may_store(self.file, shared_fence) and self._memory.put_entry(entry, fence, shared_fence):
            self._memory.counter.promotions += 1

    # -- loads ------------------------------------------------------------------------------------------

    def fence(self, key: str, tags: frozenset[str]) -> LoadFence:
        """Return a fence to take before a flight."""
        memory = self._memory.fence(key, tags)
        return LoadFence(key, tags, memory, shared_fence_of(self.file, key, tags, self._files))

    def fresh_fence(self, key: str, tags: frozenset[str]) -> LoadFence:
        """Break the fences of older loads, so that none is stored after this one; return a new fence."""
        memory = self._memory.fresh_fence(key, tags)
        return LoadFence(key, tags, memory, shared_fence_of(self.file, key, tags))

    def peek_stale(self, key: str) -> Any | Missing:
        """Return the value that loads may fall back on: a live or a stale one, never an invalidated one."""
        return self._memory.peek(key, lambda held: held.value, even_stale=True)

    def remaining_life(self, key: str) -> tuple[float, float] | None:
        """Return the seconds that the entry in memory has left, and its whole life; None without an entry."""
        held = self._memory.find(key)
        if held is not None:
            # Without the lock, because every hit asks. At worst another entry of the key is judged.
            left = held.deadline - self.clock.monotonic()
            return (left, held.ttl) if left > 0 else None
        life = self._memory.peek(key, lambda held: (held.deadline - self.clock.monotonic(), held.ttl))
        return None if life is MISSING else life

    def complete_fence(self, fence: LoadFence) -> None:
        """Complete the fence just before the loader is called."""
        redis = self.redis
        if redis is not None:
            origin = redis.call(redis.tier.origin, fence.key, fence.tags)
            fence.origin = None if origin is UNAVAILABLE else origin

    def is_current(self, fence: LoadFence) -> bool:
        """Return whether no write or invalidation is known that concerns the fence.

        The server is asked for tags. It compares the token of the key as it stores the value.
        """
        redis, origin = self.redis, fence.origin
        if not fence.is_current():
            return False
        if redis is None or origin is None or not fence.tags:
            return True
        now = redis.call(redis.tier.origin, fence.key, fence.tags)
        return now is UNAVAILABLE or now.tags == origin.tags

    def complete_fences(self, fences: Sequence[LoadFence]) -> None:
        """Complete the fences of several keys with the same tags."""
        redis = self.redis
        if redis is not None and fences:
            keys = [fence.key for fence in fences]
            origins = redis.call(redis.tier.origins, keys, fences[0].tags)
            for fence in fences:
                fence.origin = None if origins is UNAVAILABLE else origins[fence.key]

    def store_loaded(
        self, fence: LoadFence, value: Any, ttl: float, level: CacheLevel, stale_ttl: float = 0.0
    ) -> Any:
        """Store what was loaded in each tier whose fence is current.

        Returns:
            The value; or the one that another load stored first.
        """
        levels: int = level._value_
        if not self.lower:
            memory = self._memory
            if not memory.put(fence.key, value, ttl, fence.tags, fence=fence.memory, stale=stale_ttl):
                self.refused(fence)
            return value
        entry = checked_entry(fence.key, value, self.clock.time(), ttl, fence.tags, stale_ttl=stale_ttl)
        stored = self._store_in_file(entry, fence, levels)
        redis, origin = self.redis, fence.origin
        if redis is not None and origin is not None and levels & REDIS and _goes_to_server(stored):
            stored = self._store_in_redis(redis, entry, origin)
        return self._store_in_memory(entry, fence, stored, levels)

    def store_loaded_many(
        self, loaded: Iterable[tuple[LoadFence, Any, float]], level: CacheLevel, stale_ttl: float = 0.0
    ) -> dict[str, Any]:
        """Do what `store_loaded` does for distinct keys; the server is called once for all."""
        levels: int = level._value_
        now = self.clock.time()
        entries = {
            fence.key: (checked_entry(fence.key, value, now, ttl, fence.tags, stale_ttl=stale_ttl), fence)
            for fence, value, ttl in loaded
        }
        stored = {key: self._store_in_file(entry, fence, levels) for key, (entry, fence) in entries.items()}
        redis = self.redis
        if redis is not None and levels & REDIS:
            behind = {
                key: (entry, fence.origin)
                for key, (entry, fence) in entries.items()
                if fence.origin is not None and _goes_to_server(stored[key])
            }
            if behind:
                stored |= self._add_many(redis, behind)
        return {
            key: self._store_in_memory(entry, fence, stored[key], levels)
            for key, (entry, fence) in entries.items()
        }

    def _store_in_file(
        self, entry: CacheEntry, fence: LoadFence, levels: int
    ) -> CacheEntry | bool | Unavailable:
        file, shared_fence = self.file, fence.file
        if file is None or not levels & FILE:
            return True
        if shared_fence is None or not shared_fence.is_current():
            return False
        files = self._files
        begun = file.clock.monotonic()
        try:
            if files is None or file.breaker.refuses:
                return file.call(file.tier.add, entry.key, entry, shared_fence, fence.origin)
            try:
                stored = files.add(entry, shared_fence, fence.origin)
            except TierUnavailableError as error:
                file.failed(error, begun)
                if file.strict:
                    raise
                return UNAVAILABLE
            if file.is_full and stored is True:
                file.has_room()
            return stored
        except (SerializationError, ValueTooLargeError) as error:
            return self._cannot_hold(file, entry, error)

    def _store_in_redis(
        self, redis: TierAccessor[ServerTier], entry: CacheEntry, origin: ServerTokens
    ) -> CacheEntry | bool | Unavailable:
        try:
            return redis.call(redis.tier.add, entry.key, entry, origin)
        except (SerializationError, ValueTooLargeError) as error:
            return self._cannot_hold(redis, entry, error)

    def _store_in_memory(
        self, entry: CacheEntry, fence: LoadFence, stored: CacheEntry | bool | Unavailable, levels: int
    ) -> Any:
        """Take the last step of a load; return the value, or the one that another load stored first."""
        if isinstance(stored, CacheEntry):
            # Its tags may be others than those that the fence names.
            return self._adopt_winner(fence, entry.value, levels)
        kept = True
        if stored is False:
            self._memory.counter.refusals += 1
            kept = False
        elif levels == MEMORY:
            kept = self._memory.put_entry(entry, fence.memory)
        elif levels & MEMORY and may_store(self.file, fence.file):
            kept = self._memory.put_entry(entry, fence.memory, fence.file)
        if not kept:
            self.refused(fence)
        return entry.value

    def refused(self, fence: LoadFence) -> None:
        """Remember that a loaded value was not stored, if that was because of its fence."""
        memory = self._memory
        if not fence.is_current() or (self.redis is not None and fence.origin is not None):
            memory.events.not_stored(memory.time.monotonic(), "refused", fence.key, tags=fence.tags)

    def unwanted(self, key: str) -> None:
        """Remember that a loaded value was not to be stored."""
        self._memory.events.not_stored(self._memory.time.monotonic(), "unwanted", key)

    def explain(self, key: str, tags: frozenset[str] = NO_TAGS) -> Explanation:
        """Return what is known about a key, whose entry may have these tags; it counts no lookup."""
        memory = self._memory
        entry, level = memory.peek_entry(key), CacheLevel.MEMORY
        seconds = None if entry is None else memory.seconds_of(key)
        adaptive = adaptive_policy_of(memory)
        eviction = None if adaptive is None else str(adaptive)
        if entry is None:
            below = self.peek(key) if self.lower else None
            if below is None:
                miss = miss_of(memory, key, tags, self.lower)
                return Explanation(key, None, None, None, NO_TAGS, 0, miss, None, eviction)
            entry, level = below
        age = max(0.0, self.clock.time() - entry.created_timestamp)
        ttl = FOREVER if entry.ttl is None else entry.ttl
        served = entry.access_count
        return Explanation(entry.key, level, age, ttl - age, entry.tags, served, None, seconds, eviction)

    def _adopt_winner(self, fence: LoadFence, value: Any, levels: int) -> Any:
        """Return the value that was stored first, if it is still there and the server confirms it."""
        memory = self._memory.copy_fence(fence.key)  # the load's own may not name its tags
        entry, shared_fence = self._read(fence.key, levels)
        if entry is None:
            return value
        if levels & MEMORY:
            self._promote(entry, memory, shared_fence)
        return entry.value

    def _add_many(
        self, redis: TierAccessor[ServerTier], behind: Mapping[str, tuple[CacheEntry, ServerTokens]]
    ) -> Mapping[str, CacheEntry | bool | Unavailable]:
        entries = {key: entry for key, (entry, _) in behind.items()}
        origins = {key: origin for key, (_, origin) in behind.items()}
        try:
            answers = redis.call(redis.tier.add_many, entries, origins)
        except (SerializationError, ValueTooLargeError):  # one of them: the others are stored all the same
            return {
                key: self._store_in_redis(redis, entry, origin) for key, (entry, origin) in behind.items()
            }
        return {} if answers is UNAVAILABLE else answers

    def _cannot_hold(self, lower: TierAccessor[Any], entry: CacheEntry, error: Exception) -> Unavailable:
        """Log that the tier cannot hold a loaded value. The caller has paid for it, and gets no error.

        Raises:
            OnceOnlyError: the value is for one reader only, so memory must not keep it either.
        """
        lower.errors += 1
        if isinstance(error, OnceOnlyError):
            raise error
        if type(entry.value) not in self._unstorable:
            self._unstorable.add(type(entry.value))
            import logging

            logging.getLogger("cachekit").warning(
                "%s tier cannot hold the loaded value of %s, storing it only elsewhere: %s",
                lower.name, shown_key(entry.key), error,
            )  # fmt: skip
        return UNAVAILABLE

    # -- maintenance ------------------------------------------------------------------------------------

    def states(self) -> dict[str, TierAccessor[Any]]:
        """Return the accessors of the tiers below memory, by name."""
        return {lower.name: lower for lower in (self.redis, self.file) if lower is not None}

    def remove_expired(self) -> int:
        """Remove expired entries from the file tier, and return how many; a server does that by itself."""
        file = self.file
        if file is None:
            return 0
        removed = file.call(file.tier.remove_expired)
        return 0 if removed is UNAVAILABLE else removed

    # -- life -------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the background work."""
        if self._unsubscribe is not None:
            self._unsubscribe()
        for lower in (self.redis, self.file):
            if lower is not None:
                lower.close()


def _goes_to_server(stored: CacheEntry | bool | Unavailable) -> bool:
    # Not if this tier had an entry, or refused.
    return stored is True or stored is UNAVAILABLE
