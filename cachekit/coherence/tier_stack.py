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
from cachekit.coherence.load_fence import LoadFence, agree, marked, may_keep, named
from cachekit.coherence.notifications import Listener
from cachekit.coherence.writes import Writes
from cachekit.errors import SerializationError, ValueTooLargeError
from cachekit.model.entry import CacheEntry
from cachekit.model.types import FILE, MEMORY, MISSING, NO_TAGS, REDIS, CacheLevel, Missing
from cachekit.tiers.base import FleetTier, Found, HostTier, Sweeps
from cachekit.tiers.fences import Origin, PrivateFence, SharedFence
from cachekit.tiers.memory import MemoryCache


@final
class Levels:
    """Memory, and up to two tiers below it. Safe in any thread, before and after a fork.

    Args:
        memory: this process's tier; one that keeps nothing stands for none, and holds the fences.
        fleet: what hosts share, or None.
        host: what the processes of this host share, or None.

    Methods check no arguments; `cache` has done that. They raise TierUnavailableError at once if an
    accessor is strict; those of `writes` after their last step.
    """

    __slots__ = (
        "__weakref__", "_memory", "_now", "_unstorable", "_unsubscribe", "answers", "fleet", "host", "lower",
        "monotonic", "skipped", "writes",
    )  # fmt: skip

    def __init__(
        self, memory: MemoryCache, fleet: Lower[FleetTier] | None, host: Lower[HostTier] | None
    ) -> None:
        self._memory = memory
        self._now = memory._clock.time
        self.monotonic = memory._clock.monotonic
        self.fleet = fleet
        self.host = host
        #: Whether there is anything below memory.
        self.lower = fleet is not None or host is not None
        #: Requests that a tier below memory answered, and those that did not ask memory at all.
        self.answers = 0
        self.skipped = 0
        self._unstorable: set[type] = set()
        self._unsubscribe: Callable[[], None] | None = None
        if fleet is not None:
            self._unsubscribe = fleet.tier.subscribe(Listener(memory))
        #: Whatever changes the tiers.
        self.writes = Writes(memory, fleet, host)

    # -- reading ----------------------------------------------------------------------------------------

    def find(self, key: str, level: CacheLevel = CacheLevel.ALL) -> Any | Missing:
        """The value that a tier below memory has, copied into memory if that is a level."""
        places: int = level._value_
        # P before T: whatever happens from here on refuses the copy.
        fence = self._memory._copying(key)
        entry, mark = self._read(key, places)
        if entry is None:
            return MISSING
        self.answers += 1
        if places & MEMORY:
            self._promote(entry, fence, mark)
        return entry.value

    def find_many(self, keys: Sequence[str], level: CacheLevel = CacheLevel.ALL) -> dict[str, Any]:
        """`find` for distinct keys; each tier is asked once for what is still missing."""
        places: int = level._value_
        fences = {key: self._memory._copying(key) for key in keys}
        entries: dict[str, tuple[CacheEntry, SharedFence | None]] = {}
        fleet, host = self.fleet, self.host
        marks = {} if fleet is None else {key: marked(host, key) for key in keys}
        if fleet is not None and places & REDIS:
            answer = fleet.access.lookup(len(keys), fleet.tier.get_many, keys)
            if answer is not UNAVAILABLE:
                entries = {key: (entry, named(marks[key], entry)) for key, entry in answer.items()}
        if host is not None and places & FILE:
            found = self._look_many(host, [key for key in keys if key not in entries])
            verdicts = self._confirm_many(fleet, found, places) if fleet is not None and found else {}
            for key, one in found.items():
                verdict = verdicts.get(key)
                if isinstance(verdict, CacheEntry):
                    entries[key] = verdict, named(marks[key], verdict)
                elif verdict is False:
                    host.access.call(host.tier.remove, key)
                else:
                    entries[key] = one.entry, one.fence
        count = len(entries)
        self.answers += count
        if places & MEMORY:
            for key, (entry, mark) in entries.items():
                self._promote(entry, fences[key], mark)
        return {key: entry.value for key, (entry, _) in entries.items()}

    def peek(self, key: str) -> tuple[CacheEntry, CacheLevel] | None:
        """The entry of the nearest tier below memory, and where it is; it is copied nowhere.

        No lookup that counts, but for a hit in the host's tier that the server is asked about.
        """
        fleet, host = self.fleet, self.host
        if fleet is not None:
            entry = fleet.access.call(fleet.tier.peek, key)
            if entry is not UNAVAILABLE and entry is not None:
                return entry, CacheLevel.REDIS
        if host is None:
            return None
        entry = host.access.call(host.tier.peek, key)
        if entry is UNAVAILABLE or entry is None:
            return None
        if fleet is not None:
            found = self._look_many(host, [key])
            if not found or self._confirm(fleet, found[key], FILE) is False:
                return None
            entry = found[key].entry
        return entry, CacheLevel.FILE

    def bring_up(self, key: str) -> Any | Missing:
        """What the nearest tier below memory has, copied into memory; no lookup that counts (see `peek`)."""
        fence, mark = self._memory._copying(key), marked(self.host, key)
        found = self.peek(key)
        if found is None:
            return MISSING
        entry = found[0]
        self._promote(entry, fence, named(mark, entry))
        return entry.value

    def _read(self, key: str, places: int) -> tuple[CacheEntry | None, SharedFence | None]:
        """The entry of the first tier that has it, and the mark that goes with it."""
        fleet, host = self.fleet, self.host
        mark = None
        if fleet is not None:
            mark = marked(host, key)
            if places & REDIS:
                entry = fleet.access.lookup(1, fleet.tier.get, key)
                if entry is not UNAVAILABLE and entry is not None:
                    return entry, named(mark, entry)
        if host is None or not places & FILE:
            return None, None
        found = host.access.lookup(1, host.tier.look, key)
        if found is UNAVAILABLE or found is None:
            return None, None
        if fleet is None:
            return found.entry, found.fence
        # Another host may have written the key since; the server knows. While it is out, what this host
        # has is served: memory is dropped, and this copy asked about, when the server is back.
        verdict = self._confirm(fleet, found, places)
        if isinstance(verdict, CacheEntry):
            return verdict, named(mark, verdict)
        if verdict is False:
            host.access.call(host.tier.remove, key)
            return None, None
        return found.entry, found.fence

    def _confirm(self, fleet: Lower[FleetTier], found: Found, places: int) -> CacheEntry | bool | Unavailable:
        """What the server says of this host's copy, which it gets if it has none; or what it has itself."""
        entry, _, origin = found
        if origin is None:
            return UNAVAILABLE if fleet.access.is_out else False
        if places & REDIS:
            try:
                return fleet.access.call(fleet.tier.add, entry.key, entry, origin)
            except (SerializationError, ValueTooLargeError):
                pass  # only this host can hold it
        now = fleet.access.call(fleet.tier.origin, entry.key, entry.tags)
        return now if now is UNAVAILABLE else agree(origin, now)

    def _confirm_many(
        self, fleet: Lower[FleetTier], found: Mapping[str, Found], places: int
    ) -> Mapping[str, CacheEntry | bool | Unavailable]:
        """`_confirm` for several, in one round trip."""
        verdicts: dict[str, CacheEntry | bool | Unavailable] = {
            key: self._confirm(fleet, one, places) for key, one in found.items() if one.origin is None
        }  # which asks nobody
        origins = {key: one.origin for key, one in found.items() if one.origin is not None}
        if not origins:
            return verdicts
        if not places & REDIS:
            tags = NO_TAGS.union(*(origin.tags for origin in origins.values()))
            now = fleet.access.call(fleet.tier.origins, list(origins), tags)
            for key, origin in origins.items():
                verdicts[key] = now if now is UNAVAILABLE else agree(origin, now[key])
            return verdicts
        entries = {key: found[key].entry for key in origins}
        try:
            answers = fleet.access.call(fleet.tier.add_many, entries, origins)
        except (SerializationError, ValueTooLargeError):  # one of them, which only this host can hold
            return verdicts | {key: self._confirm(fleet, found[key], places) for key in origins}
        verdicts.update(dict.fromkeys(origins, UNAVAILABLE) if answers is UNAVAILABLE else answers)
        return verdicts

    def _look_many(self, host: Lower[HostTier], keys: Sequence[str]) -> dict[str, Found]:
        found = {}
        for key in keys:
            one = host.access.lookup(1, host.tier.look, key)
            if one is not UNAVAILABLE and one is not None:
                found[key] = one
        return found

    def _promote(self, entry: CacheEntry, fence: PrivateFence, mark: SharedFence | None) -> None:
        if may_keep(self.host, mark) and self._memory._put_entry(entry, fence, mark):
            self._memory._store.counter.promotions += 1

    # -- loads ------------------------------------------------------------------------------------------

    def fence(self, key: str, tags: frozenset[str]) -> LoadFence:
        """A fence to take before a flight."""
        memory = self._memory.fence(key, tags)
        return LoadFence(key, tags, memory, marked(self.host, key, tags))

    def successor(self, key: str, tags: frozenset[str]) -> LoadFence:
        """`fence`, after breaking those that older loads hold: theirs shall not come after this one."""
        memory = self._memory._successor(key, tags)
        return LoadFence(key, tags, memory, marked(self.host, key, tags))

    def look_again(self, key: str) -> Any | Missing:
        """What a flight that has landed since the lookup left in memory."""
        return self._memory._peek_value(key)

    def look_back(self, key: str) -> Any | Missing:
        """What memory has for loads to fall back on: a live value, or one that nobody has invalidated."""
        return self._memory._store.peek(key, lambda held: held.value, even_stale=True)

    def left_of(self, key: str) -> tuple[float, float] | None:
        """Seconds that memory has the key for, and those of its whole life, or infinity; None without it."""
        held = self._memory._find(key)
        if held is not None:
            # Without the lock, for every hit asks: at the worst another entry of the key is judged.
            left = held.deadline - self.monotonic()
            return (left, held.ttl) if left > 0 else None
        life = self._memory._store.peek(key, lambda held: (held.deadline - self.monotonic(), held.ttl))
        return None if life is MISSING else life

    def before_load(self, fence: LoadFence) -> None:
        """Complete the fence just before the loader is called."""
        fleet = self.fleet
        if fleet is not None:
            origin = fleet.access.call(fleet.tier.origin, fence.key, fence.tags)
            fence.origin = None if origin is UNAVAILABLE else origin

    def before_loads(self, fences: Sequence[LoadFence]) -> None:
        """`before_load` for several keys with the same tags."""
        fleet = self.fleet
        if fleet is not None and fences:
            keys = [fence.key for fence in fences]
            origins = fleet.access.call(fleet.tier.origins, keys, fences[0].tags)
            for fence in fences:
                fence.origin = None if origins is UNAVAILABLE else origins[fence.key]

    def keep(
        self, fence: LoadFence, value: Any, ttl: float, level: CacheLevel, stale_ttl: float = 0.0
    ) -> Any:
        """Keep what was loaded behind the fence wherever that stands.

        Returns:
            The value; or the one that somebody else stored first.
        """
        places: int = level._value_
        entry = CacheEntry._made(fence.key, value, self._now(), ttl, fence.tags, stale_ttl=stale_ttl)
        stored = self._add_here(entry, fence, places)
        fleet, origin = self.fleet, fence.origin
        if fleet is not None and origin is not None and places & REDIS and _goes_on(stored):
            stored = self._add(fleet.access, fleet.tier.add, entry, origin)
        return self._kept(entry, fence, stored, places)

    def keep_many(
        self, loaded: Iterable[tuple[LoadFence, Any, float]], level: CacheLevel, stale_ttl: float = 0.0
    ) -> dict[str, Any]:
        """`keep` for values of distinct keys, each with its TTL; the server is called once for all."""
        places: int = level._value_
        now = self._now()
        entries = {
            fence.key: (CacheEntry._made(fence.key, value, now, ttl, fence.tags, stale_ttl=stale_ttl), fence)
            for fence, value, ttl in loaded
        }
        stored = {key: self._add_here(entry, fence, places) for key, (entry, fence) in entries.items()}
        fleet = self.fleet
        if fleet is not None and places & REDIS:
            behind = {
                key: (entry, fence.origin)
                for key, (entry, fence) in entries.items()
                if fence.origin is not None and _goes_on(stored[key])
            }
            if behind:
                stored |= self._add_many(fleet, behind)
        return {key: self._kept(entry, fence, stored[key], places) for key, (entry, fence) in entries.items()}

    def _add_here(self, entry: CacheEntry, fence: LoadFence, places: int) -> CacheEntry | bool | Unavailable:
        """The step of a load's keeping that concerns the host's tier."""
        host, mark = self.host, fence.host
        if host is None or not places & FILE:
            return True
        if mark is None or not mark.is_current():
            return False
        return self._add(host.access, host.tier.add, entry, mark, fence.origin)

    def _kept(
        self, entry: CacheEntry, fence: LoadFence, stored: CacheEntry | bool | Unavailable, places: int
    ) -> Any:
        """The last step, which concerns memory; the value, or the one that somebody else stored first."""
        if isinstance(stored, CacheEntry):
            # Its tags may be others than those that the fence names.
            return self._take_over(fence, entry.value, places)
        if stored is False:
            self._memory._store.counter.refusals += 1
        elif places == MEMORY:
            self._memory._put_entry(entry, fence.memory)
        elif places & MEMORY and may_keep(self.host, fence.host):
            self._memory._put_entry(entry, fence.memory, fence.host)
        return entry.value

    def _take_over(self, fence: LoadFence, value: Any, places: int) -> Any:
        """What another one stored first, if it is still there and no older than what the server knows."""
        memory = self._memory._copying(fence.key)  # the load's own may not name its tags
        entry, mark = self._read(fence.key, places)
        if entry is None:
            return value
        if places & MEMORY:
            self._promote(entry, memory, mark)
        return entry.value

    def _add_many(
        self, fleet: Lower[FleetTier], behind: Mapping[str, tuple[CacheEntry, Origin]]
    ) -> Mapping[str, CacheEntry | bool | Unavailable]:
        """`_add` of several to the server."""
        entries = {key: entry for key, (entry, _) in behind.items()}
        origins = {key: origin for key, (_, origin) in behind.items()}
        try:
            answers = fleet.access.store(fleet.tier.add_many, entries, origins)
        except (SerializationError, ValueTooLargeError):  # one of them: the others are kept all the same
            return {
                key: self._add(fleet.access, fleet.tier.add, entry, origin)
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
        return {lower.access.name: lower.access for lower in (self.fleet, self.host) if lower is not None}

    def remove_expired(self) -> int:
        """Remove what is over from the tiers below memory that can be asked to; how many entries."""
        removed = 0
        for lower in (self.fleet, self.host):
            if lower is not None and isinstance(lower.tier, Sweeps):
                count = lower.access.call(lower.tier.remove_expired)
                removed += 0 if count is UNAVAILABLE else count
        return removed

    # -- life -------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End what runs in the background."""
        if self._unsubscribe is not None:
            self._unsubscribe()
        for lower in (self.fleet, self.host):
            if lower is not None:
                lower.access.close()


def _goes_on(stored: CacheEntry | bool | Unavailable) -> bool:
    """Whether the next tier is asked too: not if this one had something, or refused."""
    return stored is True or stored is UNAVAILABLE
