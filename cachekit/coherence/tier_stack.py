"""The tiers of one cache, and the order of steps by which they stay one.

It promises that no load and no promotion brings back what was written or invalidated meanwhile (P4), in
this process, in the others of the host (P5), and on the hosts of a fleet (P6); that a tier that fails
costs a bounded time and no exception (P8, by `accessor`); and that a write to some levels leaves the key
in no other.

Three fences stand for "nothing happened since I looked": P, private to this process, which guards what
goes into its memory; T, tokens that the processes of the host share (the host tier's); RT, tokens that
the fleet's server holds. What one tier keeps was checked against its own fence, taken before the value
was read or made. FLUX is a T that says that a write is under way. The steps, whose order was found by
trying every interleaving with a model:

    read     T and P; fleet, else host; a host's copy counts only if the server confirms its RT;
             memory if P stands, marked with T
    write    P anew; host, T in flux; fleet, with a fresh RT; T settled; memory if nobody wrote meanwhile
    load     T, P, RT; the loader; host if T stands; fleet if RT stands; memory if P stands. Whoever
             finds that another one was first takes what that one stored
    touch    fleet; host; memory
    tags     fleet; host; memory
    pattern  T; host; fleet; T again; memory

A mark in memory is compared at every hit (see `tiers.memory.store`), so a write by another process is
seen at once; a write by another host is seen when its message comes (see `ports.BusListener`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, final

from cachekit.coherence.accessor import UNAVAILABLE, Accessor, Lower, Unavailable
from cachekit.coherence.load_fence import LoadFence, may_store, same_version, shared_fence_of, with_tags
from cachekit.coherence.notifications import MemoryInvalidator
from cachekit.coherence.writes import TierWrites
from cachekit.errors import SerializationError, ValueTooLargeError
from cachekit.model.entry import CacheEntry, checked_entry
from cachekit.model.types import FILE, MEMORY, MISSING, NO_TAGS, REDIS, CacheLevel, Missing
from cachekit.tiers.base import DirectoryTier, FencedEntry, ServerTier, Sweeps
from cachekit.tiers.fences import PrivateFence, ServerTokens, SharedFence
from cachekit.tiers.memory.store import Store


@final
class TierStack:
    """Memory, and up to two tiers below it. Safe in any thread, before and after a fork.

    Args:
        memory: this process's tier; one that keeps nothing stands for none, and holds the fences.
        redis: what hosts share, or None.
        file: what the processes of this host share, or None.

    Methods check no arguments; `cache` has done that. They raise TierUnavailableError at once if an
    accessor is strict; those of `writes` after their last step.
    """

    __slots__ = (
        "__weakref__",
        "_memory",
        "_now",
        "_unstorable",
        "_unsubscribe",
        "answers",
        "file",
        "lower",
        "monotonic",
        "redis",
        "skipped",
        "writes",
    )  # fmt: skip

    def __init__(
        self, memory: Store, redis: Lower[ServerTier] | None, file: Lower[DirectoryTier] | None
    ) -> None:
        self._memory = memory
        self._now = memory.clock.time
        self.monotonic = memory.clock.monotonic
        self.redis = redis
        self.file = file
        #: Whether there is anything below memory.
        self.lower = redis is not None or file is not None
        #: Requests that a tier below memory answered, and those that did not ask memory at all.
        self.answers = 0
        self.skipped = 0
        self._unstorable: set[type] = set()
        self._unsubscribe: Callable[[], None] | None = None
        if redis is not None:
            self._unsubscribe = redis.tier.subscribe(MemoryInvalidator(memory))
        #: Whatever changes the tiers.
        self.writes = TierWrites(memory, redis, file)

    # -- reading ----------------------------------------------------------------------------------------

    def find(self, key: str, level: CacheLevel = CacheLevel.ALL) -> Any | Missing:
        """The value that a tier below memory has, copied into memory if that is a level."""
        levels: int = level._value_
        # P before T: whatever happens from here on refuses the copy.
        fence = self._memory.copy_fence(key)
        entry, shared_fence = self._read(key, levels)
        if entry is None:
            return MISSING
        self.answers += 1
        if levels & MEMORY:
            self._promote(entry, fence, shared_fence)
        return entry.value

    def find_many(self, keys: Sequence[str], level: CacheLevel = CacheLevel.ALL) -> dict[str, Any]:
        """`find` for distinct keys; each tier is asked once for what is still missing."""
        levels: int = level._value_
        fences = {key: self._memory.copy_fence(key) for key in keys}
        entries: dict[str, tuple[CacheEntry, SharedFence | None]] = {}
        redis, file = self.redis, self.file
        marks = {} if redis is None else {key: shared_fence_of(file, key) for key in keys}
        if redis is not None and levels & REDIS:
            answer = redis.access.lookup(len(keys), redis.tier.get_many, keys)
            if answer is not UNAVAILABLE:
                entries = {key: (entry, with_tags(marks[key], entry)) for key, entry in answer.items()}
        if file is not None and levels & FILE:
            found = self._look_many(file, [key for key in keys if key not in entries])
            verdicts = self._revalidate_many(redis, found, levels) if redis is not None and found else {}
            for key, one in found.items():
                verdict = verdicts.get(key)
                if isinstance(verdict, CacheEntry):
                    entries[key] = verdict, with_tags(marks[key], verdict)
                elif verdict is False:
                    file.access.call(file.tier.remove, key)
                else:
                    entries[key] = one.entry, one.fence
        count = len(entries)
        self.answers += count
        if levels & MEMORY:
            for key, (entry, shared_fence) in entries.items():
                self._promote(entry, fences[key], shared_fence)
        return {key: entry.value for key, (entry, _) in entries.items()}

    def peek(self, key: str) -> tuple[CacheEntry, CacheLevel] | None:
        """The entry of the nearest tier below memory, and where it is; it is copied nowhere.

        No lookup that counts, but for a hit in the host's tier that the server is asked about.
        """
        redis, file = self.redis, self.file
        if redis is not None:
            entry = redis.access.call(redis.tier.peek, key)
            if entry is not UNAVAILABLE and entry is not None:
                return entry, CacheLevel.REDIS
        if file is None:
            return None
        entry = file.access.call(file.tier.peek, key)
        if entry is UNAVAILABLE or entry is None:
            return None
        if redis is not None:
            found = self._look_many(file, [key])
            if not found or self._revalidate(redis, found[key], FILE) is False:
                return None
            entry = found[key].entry
        return entry, CacheLevel.FILE

    def promote_quietly(self, key: str) -> Any | Missing:
        """What the nearest tier below memory has, copied into memory; no lookup that counts (see `peek`)."""
        fence, shared_fence = self._memory.copy_fence(key), shared_fence_of(self.file, key)
        found = self.peek(key)
        if found is None:
            return MISSING
        entry = found[0]
        self._promote(entry, fence, with_tags(shared_fence, entry))
        return entry.value

    def _read(self, key: str, levels: int) -> tuple[CacheEntry | None, SharedFence | None]:
        """The entry of the first tier that has it, and the mark that goes with it."""
        redis, file = self.redis, self.file
        shared_fence = None
        if redis is not None:
            shared_fence = shared_fence_of(file, key)
            if levels & REDIS:
                entry = redis.access.lookup(1, redis.tier.get, key)
                if entry is not UNAVAILABLE and entry is not None:
                    return entry, with_tags(shared_fence, entry)
        if file is None or not levels & FILE:
            return None, None
        found = file.access.lookup(1, file.tier.look, key)
        if found is UNAVAILABLE or found is None:
            return None, None
        if redis is None:
            return found.entry, found.fence
        # Another host may have written the key since; the server knows. While it is out, what this host
        # has is served: memory is dropped, and this copy asked about, when the server is back.
        verdict = self._revalidate(redis, found, levels)
        if isinstance(verdict, CacheEntry):
            return verdict, with_tags(shared_fence, verdict)
        if verdict is False:
            file.access.call(file.tier.remove, key)
            return None, None
        return found.entry, found.fence

    def _revalidate(
        self, redis: Lower[ServerTier], found: FencedEntry, levels: int
    ) -> CacheEntry | bool | Unavailable:
        """What the server says of this host's copy, which it gets if it has none; or what it has itself."""
        entry, _, origin = found
        if origin is None:
            return UNAVAILABLE if redis.access.is_out else False
        if levels & REDIS:
            try:
                return redis.access.call(redis.tier.add, entry.key, entry, origin)
            except (SerializationError, ValueTooLargeError):
                pass  # only this host can hold it
        now = redis.access.call(redis.tier.origin, entry.key, entry.tags)
        return now if now is UNAVAILABLE else same_version(origin, now)

    def _revalidate_many(
        self, redis: Lower[ServerTier], found: Mapping[str, FencedEntry], levels: int
    ) -> Mapping[str, CacheEntry | bool | Unavailable]:
        """`_revalidate` for several, in one round trip."""
        verdicts: dict[str, CacheEntry | bool | Unavailable] = {
            key: self._revalidate(redis, one, levels) for key, one in found.items() if one.origin is None
        }  # which asks nobody
        origins = {key: one.origin for key, one in found.items() if one.origin is not None}
        if not origins:
            return verdicts
        if not levels & REDIS:
            tags = NO_TAGS.union(*(origin.tags for origin in origins.values()))
            now = redis.access.call(redis.tier.origins, list(origins), tags)
            for key, origin in origins.items():
                verdicts[key] = now if now is UNAVAILABLE else same_version(origin, now[key])
            return verdicts
        entries = {key: found[key].entry for key in origins}
        try:
            answers = redis.access.call(redis.tier.add_many, entries, origins)
        except (SerializationError, ValueTooLargeError):  # one of them, which only this host can hold
            return verdicts | {key: self._revalidate(redis, found[key], levels) for key in origins}
        verdicts.update(dict.fromkeys(origins, UNAVAILABLE) if answers is UNAVAILABLE else answers)
        return verdicts

    def _look_many(self, file: Lower[DirectoryTier], keys: Sequence[str]) -> dict[str, FencedEntry]:
        found = {}
        for key in keys:
            one = file.access.lookup(1, file.tier.look, key)
            if one is not UNAVAILABLE and one is not None:
                found[key] = one
        return found

    def _promote(self, entry: CacheEntry, fence: PrivateFence, shared_fence: SharedFence | None) -> None:
        if may_store(self.file, shared_fence) and self._memory.put_entry(entry, fence, shared_fence):
            self._memory.counter.promotions += 1

    # -- loads ------------------------------------------------------------------------------------------

    def fence(self, key: str, tags: frozenset[str]) -> LoadFence:
        """A fence to take before a flight."""
        memory = self._memory.fence(key, tags)
        return LoadFence(key, tags, memory, shared_fence_of(self.file, key, tags))

    def successor(self, key: str, tags: frozenset[str]) -> LoadFence:
        """`fence`, after breaking those that older loads hold: theirs shall not come after this one."""
        memory = self._memory.fresh_fence(key, tags)
        return LoadFence(key, tags, memory, shared_fence_of(self.file, key, tags))

    def peek_memory(self, key: str) -> Any | Missing:
        """What a flight that has landed since the lookup left in memory."""
        return self._memory.peek_value(key)

    def peek_stale(self, key: str) -> Any | Missing:
        """What memory has for loads to fall back on: a live value, or one that nobody has invalidated."""
        return self._memory.peek(key, lambda held: held.value, even_stale=True)

    def remaining_life(self, key: str) -> tuple[float, float] | None:
        """Seconds that memory has the key for, and those of its whole life, or infinity; None without it."""
        held = self._memory.find(key)
        if held is not None:
            # Without the lock, for every hit asks: at the worst another entry of the key is judged.
            left = held.deadline - self.monotonic()
            return (left, held.ttl) if left > 0 else None
        life = self._memory.peek(key, lambda held: (held.deadline - self.monotonic(), held.ttl))
        return None if life is MISSING else life

    def before_load(self, fence: LoadFence) -> None:
        """Complete the fence just before the loader is called."""
        redis = self.redis
        if redis is not None:
            origin = redis.access.call(redis.tier.origin, fence.key, fence.tags)
            fence.origin = None if origin is UNAVAILABLE else origin

    def before_loads(self, fences: Sequence[LoadFence]) -> None:
        """`before_load` for several keys with the same tags."""
        redis = self.redis
        if redis is not None and fences:
            keys = [fence.key for fence in fences]
            origins = redis.access.call(redis.tier.origins, keys, fences[0].tags)
            for fence in fences:
                fence.origin = None if origins is UNAVAILABLE else origins[fence.key]

    def keep(
        self, fence: LoadFence, value: Any, ttl: float, level: CacheLevel, stale_ttl: float = 0.0
    ) -> Any:
        """Keep what was loaded behind the fence wherever that stands.

        Returns:
            The value; or the one that somebody else stored first.
        """
        levels: int = level._value_
        entry = checked_entry(fence.key, value, self._now(), ttl, fence.tags, stale_ttl=stale_ttl)
        stored = self._add_here(entry, fence, levels)
        redis, origin = self.redis, fence.origin
        if redis is not None and origin is not None and levels & REDIS and _goes_on(stored):
            stored = self._add(redis.access, redis.tier.add, entry, origin)
        return self._kept(entry, fence, stored, levels)

    def keep_many(
        self, loaded: Iterable[tuple[LoadFence, Any, float]], level: CacheLevel, stale_ttl: float = 0.0
    ) -> dict[str, Any]:
        """`keep` for values of distinct keys, each with its TTL; the server is called once for all."""
        levels: int = level._value_
        now = self._now()
        entries = {
            fence.key: (checked_entry(fence.key, value, now, ttl, fence.tags, stale_ttl=stale_ttl), fence)
            for fence, value, ttl in loaded
        }
        stored = {key: self._add_here(entry, fence, levels) for key, (entry, fence) in entries.items()}
        redis = self.redis
        if redis is not None and levels & REDIS:
            behind = {
                key: (entry, fence.origin)
                for key, (entry, fence) in entries.items()
                if fence.origin is not None and _goes_on(stored[key])
            }
            if behind:
                stored |= self._add_many(redis, behind)
        return {key: self._kept(entry, fence, stored[key], levels) for key, (entry, fence) in entries.items()}

    def _add_here(self, entry: CacheEntry, fence: LoadFence, levels: int) -> CacheEntry | bool | Unavailable:
        """The step of a load's keeping that concerns the host's tier."""
        file, shared_fence = self.file, fence.file
        if file is None or not levels & FILE:
            return True
        if shared_fence is None or not shared_fence.is_current():
            return False
        return self._add(file.access, file.tier.add, entry, shared_fence, fence.origin)

    def _kept(
        self, entry: CacheEntry, fence: LoadFence, stored: CacheEntry | bool | Unavailable, levels: int
    ) -> Any:
        """The last step, which concerns memory; the value, or the one that somebody else stored first."""
        if isinstance(stored, CacheEntry):
            # Its tags may be others than those that the fence names.
            return self._adopt_winner(fence, entry.value, levels)
        if stored is False:
            self._memory.counter.refusals += 1
        elif levels == MEMORY:
            self._memory.put_entry(entry, fence.memory)
        elif levels & MEMORY and may_store(self.file, fence.file):
            self._memory.put_entry(entry, fence.memory, fence.file)
        return entry.value

    def _adopt_winner(self, fence: LoadFence, value: Any, levels: int) -> Any:
        """What another one stored first, if it is still there and no older than what the server knows."""
        memory = self._memory.copy_fence(fence.key)  # the load's own may not name its tags
        entry, shared_fence = self._read(fence.key, levels)
        if entry is None:
            return value
        if levels & MEMORY:
            self._promote(entry, memory, shared_fence)
        return entry.value

    def _add_many(
        self, redis: Lower[ServerTier], behind: Mapping[str, tuple[CacheEntry, ServerTokens]]
    ) -> Mapping[str, CacheEntry | bool | Unavailable]:
        """`_add` of several to the server."""
        entries = {key: entry for key, (entry, _) in behind.items()}
        origins = {key: origin for key, (_, origin) in behind.items()}
        try:
            answers = redis.access.store(redis.tier.add_many, entries, origins)
        except (SerializationError, ValueTooLargeError):  # one of them: the others are kept all the same
            return {
                key: self._add(redis.access, redis.tier.add, entry, origin)
                for key, (entry, origin) in behind.items()
            }
        return {} if answers is UNAVAILABLE else answers

    def _add(
        self, access: Accessor, add: Callable[..., CacheEntry | bool], entry: CacheEntry, *fences: object
    ) -> CacheEntry | bool | Unavailable:
        """`add`; UNAVAILABLE also for a value that the tier cannot hold, which has been paid for."""
        try:
            return access.store(add, entry.key, entry, *fences)
        except (SerializationError, ValueTooLargeError) as error:
            access.errors += 1
            if type(entry.value) not in self._unstorable:
                self._unstorable.add(type(entry.value))
                import logging

                logging.getLogger("cachekit").warning(
                    "what was loaded for %r is not kept in the %s tier: %s", entry.key, access.name, error
                )
            return UNAVAILABLE

    # -- upkeep -----------------------------------------------------------------------------------------

    def states(self) -> dict[str, Accessor]:
        """How the tiers below memory do, by name."""
        return {lower.access.name: lower.access for lower in (self.redis, self.file) if lower is not None}

    def remove_expired(self) -> int:
        """Remove what is over from the tiers below memory that can be asked to; how many entries."""
        removed = 0
        for lower in (self.redis, self.file):
            if lower is not None and isinstance(lower.tier, Sweeps):
                count = lower.access.call(lower.tier.remove_expired)
                removed += 0 if count is UNAVAILABLE else count
        return removed

    # -- life -------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End what runs in the background."""
        if self._unsubscribe is not None:
            self._unsubscribe()
        for lower in (self.redis, self.file):
            if lower is not None:
                lower.access.close()


def _goes_on(stored: CacheEntry | bool | Unavailable) -> bool:
    """Whether the next tier is asked too: not if this one had something, or refused."""
    return stored is True or stored is UNAVAILABLE
