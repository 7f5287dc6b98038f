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

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, final

from cachekit.accessor import UNAVAILABLE, Accessor, Unavailable
from cachekit.coherence import Listener, LoadFence, Lower, Steps, agree, as_text, named, removed
from cachekit.errors import SerializationError, TierUnavailableError, ValueTooLargeError
from cachekit.fences import FLUX, Origin, PrivateFence, SharedFence
from cachekit.model import MISSING, NO_TAGS, CacheEntry, CacheLevel, Missing
from cachekit.ports import FleetTier, Found, HostTier, Sweeps
from cachekit.tiers.memory import MemoryCache

_ALL: Final = CacheLevel.ALL
_MEMORY: Final = CacheLevel.MEMORY
_REDIS: Final = CacheLevel.REDIS
_FILE: Final = CacheLevel.FILE


@final
class Levels:
    """Memory, and up to two tiers below it. Safe in any thread, before and after a fork.

    Args:
        memory: this process's tier; one that keeps nothing stands for none, and holds the fences.
        fleet: what hosts share, or None.
        host: what the processes of this host share, or None.

    Methods check no arguments; `cache` has done that. Reads raise TierUnavailableError at once if an
    accessor is strict, writes after their last step.
    """

    __slots__ = (
        "__weakref__", "_memory", "_now", "_unstorable", "_unsubscribe", "answers", "fleet", "host", "lower",
        "monotonic", "skipped",
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

    # -- reading ----------------------------------------------------------------------------------------

    def find(self, key: str, level: CacheLevel = _ALL) -> Any | Missing:
        """The value that a tier below memory has, copied into memory if that is a level."""
        # P and T first: whatever happens from here on refuses the copy.
        fence = self._memory._copying(key)
        entry, mark = self._read(key, level, self._mark(key))
        if entry is None:
            return MISSING
        self.answers += 1
        if level & _MEMORY:
            self._promote(entry, fence, mark)
        return entry.value

    def find_many(self, keys: Sequence[str], level: CacheLevel = _ALL) -> dict[str, Any]:
        """`find` for distinct keys; each tier is asked once for what is still missing."""
        fences = {key: self._memory._copying(key) for key in keys}
        marks = {key: self._mark(key) for key in keys}
        entries: dict[str, tuple[CacheEntry, SharedFence | None]] = {}
        fleet = self.fleet
        if fleet is not None and level & _REDIS:
            answer = fleet.access.lookup(len(keys), fleet.tier.get_many, keys)
            if answer is not UNAVAILABLE:
                entries = {key: (entry, named(marks[key], entry)) for key, entry in answer.items()}
        if self.host is not None and level & _FILE:
            entries |= self._look_many(self.host, [key for key in keys if key not in entries])
        self.answers += len(entries)
        if level & _MEMORY:
            for key, (entry, mark) in entries.items():
                self._promote(entry, fences[key], mark)
        return {key: entry.value for key, (entry, _) in entries.items()}

    def peek(self, key: str) -> tuple[CacheEntry, CacheLevel] | None:
        """The entry of the nearest tier below memory, and where it is; it is copied nowhere.

        No lookup that counts, but for one of the host's tier whose answer the server is asked about.
        """
        fleet, host = self.fleet, self.host
        if fleet is not None:
            entry = fleet.access.call(fleet.tier.peek, key)
            if entry is not UNAVAILABLE and entry is not None:
                return entry, _REDIS
            if host is not None:
                found = self._look_many(host, [key])
                return (found[key][0], _FILE) if found else None
        if host is not None:
            entry = host.access.call(host.tier.peek, key)
            if entry is not UNAVAILABLE and entry is not None:
                return entry, _FILE
        return None

    def _mark(self, key: str, tags: frozenset[str] = NO_TAGS) -> SharedFence | None:
        if self.host is None:
            return None
        try:
            return self.host.tier.fence(key, tags)
        except TierUnavailableError:  # its directory is gone: nothing may be kept until there is a new one
            return None

    def _read(
        self, key: str, level: CacheLevel, mark: SharedFence | None
    ) -> tuple[CacheEntry | None, SharedFence | None]:
        fleet, host = self.fleet, self.host
        if fleet is not None and level & _REDIS:
            entry = fleet.access.lookup(1, fleet.tier.get, key)
            if entry is not UNAVAILABLE and entry is not None:
                return entry, named(mark, entry)
        if host is None or not level & _FILE:
            return None, None
        found = host.access.lookup(1, host.tier.look, key)
        if found is UNAVAILABLE or found is None:
            return None, None
        if fleet is None:
            return found.entry, found.fence
        # Another host may have written the key since; the server knows. While it is out, what this host
        # has is served: memory is dropped, and this copy asked about, when the server is back.
        verdict = self._confirm(fleet, found, level)
        if isinstance(verdict, CacheEntry):
            return verdict, named(mark, verdict)
        if verdict is False:
            host.access.call(host.tier.remove, key)
            return None, None
        return found.entry, found.fence

    def _confirm(
        self, fleet: Lower[FleetTier], found: Found, level: CacheLevel
    ) -> CacheEntry | bool | Unavailable:
        """What the server says of this host's copy, which it gets if it has none; or what it has itself."""
        entry, _, origin = found
        if origin is None:
            return UNAVAILABLE if fleet.access.is_out else False
        if level & _REDIS:
            try:
                return fleet.access.call(fleet.tier.add, entry.key, entry, origin)
            except (SerializationError, ValueTooLargeError):
                pass  # only this host can hold it
        now = fleet.access.call(fleet.tier.origin, entry.key, entry.tags)
        return now if now is UNAVAILABLE else agree(origin, now)

    def _look_many(
        self, host: Lower[HostTier], keys: Sequence[str]
    ) -> dict[str, tuple[CacheEntry, SharedFence | None]]:
        found = {}
        for key in keys:
            one = host.access.lookup(1, host.tier.look, key)
            if one is not UNAVAILABLE and one is not None:
                found[key] = one
        fleet = self.fleet
        if fleet is not None and found:
            tags = NO_TAGS.union(*(one.entry.tags for one in found.values()))
            origins = fleet.access.call(fleet.tier.origins, list(found), tags)
            if origins is not UNAVAILABLE:
                for key in [key for key, one in found.items() if not agree(one.origin, origins[key])]:
                    del found[key]
                    host.access.call(host.tier.remove, key)
        return {key: (one.entry, one.fence) for key, one in found.items()}

    def _promote(self, entry: CacheEntry, fence: PrivateFence, mark: SharedFence | None) -> None:
        if self._may_keep(mark) and self._memory._put_entry(entry, fence, mark):
            self._memory._store.counter.promotions += 1

    def _may_keep(self, mark: SharedFence | None) -> bool:
        return self.host is None or (mark is not None and not mark.token & FLUX)

    # -- writing ----------------------------------------------------------------------------------------

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
            self._delete(key, _ALL, steps)
            return steps.done()
        entry = CacheEntry(key, value, self._now(), ttl=ttl, tags=tags, stale_ttl=stale_ttl)
        if self.fleet and self.host and level & _FILE and not level & _REDIS:
            self._write_here(self.fleet, self.host, entry, level, steps)
        else:
            fence = self.successor(key, tags)
            self._write(entry, fence, level, steps, conditional=False)
        return steps.done()

    def _write_here(
        self,
        fleet: Lower[FleetTier],
        host: Lower[HostTier],
        entry: CacheEntry,
        level: CacheLevel,
        steps: Steps,
    ) -> None:
        """Store what this host alone shall hold.

        First the key goes everywhere; then the value comes as if loaded, behind tokens that the server has
        since, so that the file's copy is good until some host writes the key. What somebody else on this
        host writes in between comes after it: then it is kept nowhere.
        """
        key = entry.key
        _, gone = self._delete(key, _ALL, steps)
        fence = self.fence(key, entry.tags)
        mark = fence.host
        origin = steps.take(lambda: fleet.access.call(fleet.tier.origin, key, entry.tags))
        if gone is None or mark is None or mark.token != gone.token:
            return
        # A write that began before, and is still under way, may have reached the server since: the tokens
        # would be its, and this value would come back when the server lets go of that one.
        there = (
            UNAVAILABLE
            if origin is UNAVAILABLE
            else steps.take(partial(fleet.access.call, fleet.tier.peek, key))
        )
        if there is not UNAVAILABLE and there is not None:
            return
        stored: CacheEntry | bool | Unavailable = UNAVAILABLE
        if origin is not UNAVAILABLE:
            stored = steps.take(lambda: host.access.store(host.tier.add, key, entry, mark, origin))
        # Without room on the disk, or a server to ask, it is memory's alone for as long as nobody writes.
        if level & _MEMORY and (stored is UNAVAILABLE or stored is True):
            self._memory._put_entry(entry, fence.memory, mark)

    def write_many(
        self, values: Mapping[str, Any], ttl: float, tags: frozenset[str], level: CacheLevel
    ) -> bool:
        """`write` for several keys, one after another.

        Raises:
            SerializationError, ValueTooLargeError: a tier cannot hold a value. All of the keys are gone.
        """
        done = [self.write(key, value, ttl, tags, level) for key, value in values.items()]
        return all(done)

    def _write(
        self, entry: CacheEntry, fence: LoadFence, level: CacheLevel, steps: Steps, *, conditional: bool
    ) -> None:
        """Put an entry where it shall be; if `conditional`, only behind the fence."""
        key = entry.key
        try:
            origin = self._successor_of(fence) if conditional else self._fresh_origin(entry.tags, steps)
            stands, mark, behind = self._write_host(entry, fence, origin, level, steps, conditional)
            if stands and self.fleet is not None:
                expect = fence.origin if conditional else None
                stands, mark, confirmed = self._write_fleet(
                    self.fleet, entry, mark, origin, expect, level, steps
                )
                behind = behind or confirmed
            if conditional and not behind:
                mark = None  # it is from after what another process may have written since the fence
        except Exception:
            # A tier cannot hold the value: then none holds it, nor what it was to replace. What memory may
            # keep of a load is for its caller to say.
            self._delete(key, _ALL & ~_MEMORY if conditional else _ALL, steps)
            raise
        if level == _MEMORY:
            mark = None  # it belongs to this process: no other one could bring it back
        kept = (
            stands
            and bool(level & _MEMORY)
            and (level == _MEMORY or self._may_keep(mark))
            and self._memory._put_entry(entry, fence.memory, mark, news=True)
        )
        if not kept and (stands or not conditional):
            # Somebody wrote meanwhile, or nothing is to be kept: what memory has may be older; but
            # not if there is nothing below it, and the fence says that somebody was first.
            self._memory._store.delete(key, fence.memory if conditional and not self.lower else None)

    def _fresh_origin(self, tags: frozenset[str], steps: Steps) -> Origin | None:
        """A fresh token, and those of the tags; None if there is no server to give them."""
        fleet = self.fleet
        if fleet is None:
            return None
        origin = steps.take(lambda: fleet.access.call(fleet.tier.successor, tags))
        return None if origin is UNAVAILABLE else origin

    def _successor_of(self, fence: LoadFence) -> Origin | None:
        """A fresh token, and those that the tags had when the load began."""
        if self.fleet is None or fence.origin is None:
            return None
        return Origin(self.fleet.tier.successor().token, fence.origin.tags)

    def _write_host(
        self,
        entry: CacheEntry,
        fence: LoadFence,
        origin: Origin | None,
        level: CacheLevel,
        steps: Steps,
        conditional: bool,
    ) -> tuple[bool, SharedFence | None, bool]:
        """Whether the fence stood, the mark that holds from this write on, and whether that is behind it."""
        if self.host is None:
            return True, None, True
        tier, access, key = self.host.tier, self.host.access, entry.key
        in_flux = self.fleet is not None
        if conditional and (fence.host is None or not fence.host.is_current()):
            return False, None, True
        if level & _FILE:
            expect = fence.host if conditional else None
            put = steps.take(
                lambda: access.store(tier.put, key, entry, origin, expect=expect, in_flux=in_flux)
            )
            if put is not UNAVAILABLE:
                return put is not None, put, True
        # What the tier cannot store it shall at least not answer with.
        removed = steps.take(lambda: access.call(tier.remove, key, in_flux=in_flux))
        if removed is not UNAVAILABLE:
            return True, removed[1], False
        access.missed_keys([key])
        return True, fence.host, True

    def _write_fleet(
        self,
        fleet: Lower[FleetTier],
        entry: CacheEntry,
        mark: SharedFence | None,
        origin: Origin | None,
        expect: Origin | None,
        level: CacheLevel,
        steps: Steps,
    ) -> tuple[bool, SharedFence | None, bool]:
        """Whether the tokens were the expected ones, the mark, and whether the server has said so."""
        tier, access, key = fleet.tier, fleet.access, entry.key
        if level & _REDIS and origin is not None:
            put = steps.take(lambda: access.store(tier.put, key, entry, origin, expect=expect))
        else:
            put = steps.take(lambda: access.call(removed, tier, key))
        if put is UNAVAILABLE:
            access.missed_keys([key])
        mark = self._settle(mark, steps)
        if put is False:  # another host was first: what this one has stored goes
            self.delete(key, _FILE | _MEMORY)
        return put is not False, mark, put is True and expect is not None

    def _settle(self, mark: SharedFence | None, steps: Steps) -> SharedFence | None:
        """End a write in flux; the mark, unless another write came in between."""
        host = self.host
        if host is None or mark is None:
            return None
        mine = steps.take(lambda: host.access.call(host.tier.settle, mark))
        return mark if mine is True else None

    def delete(self, key: str, level: CacheLevel) -> bool:
        """Remove a key from the levels, and refuse what is under way; True if one of them had it."""
        steps = Steps()
        there, _ = self._delete(key, level, steps)
        steps.done()
        return there

    def _delete(self, key: str, level: CacheLevel, steps: Steps) -> tuple[bool, SharedFence | None]:
        """Whether it was there, and the mark that stands if nobody has written since the host removed it."""
        there = False
        mark = None
        host, fleet = self.host, self.fleet
        if host is not None and level & _FILE:
            in_flux = fleet is not None and bool(level & _REDIS)
            removed = steps.take(lambda: host.access.call(host.tier.remove, key, in_flux=in_flux))
            if removed is UNAVAILABLE:
                host.access.missed_keys([key])
            else:
                there, mark = removed
        if fleet is not None and level & _REDIS:
            gone = steps.take(lambda: fleet.access.call(fleet.tier.delete, key))
            if gone is UNAVAILABLE:
                fleet.access.missed_keys([key])
            there = there or gone is True
            mark = self._settle(mark, steps)
        if level & _MEMORY:
            there = self._memory._store.delete(key) or there
        return there, mark

    def delete_many(self, keys: Sequence[str], level: CacheLevel) -> int:
        """`delete` for distinct keys; how many were there."""
        return sum([self.delete(key, level) for key in keys])

    def touch(self, key: str, ttl: float) -> bool:
        """Give a live entry a new life at every level that has it; True if one has."""
        if ttl <= 0:
            return self.delete(key, _ALL)
        steps = Steps()
        there = False
        # The server first: what a neighbour copies of it before, the host's token refuses afterwards.
        for lower in (self.fleet, self.host):
            if lower is not None:
                touched = steps.take(partial(lower.access.call, lower.tier.touch, key, ttl))
                if touched is UNAVAILABLE:
                    lower.access.missed_keys([key])
                there = there or touched is True
        if there:
            self._memory._store.delete(key)  # the next lookup copies it with its new life
        else:
            there = self._memory.touch(key, ttl)
        steps.done()
        return there

    # -- loads ------------------------------------------------------------------------------------------

    def fence(self, key: str, tags: frozenset[str]) -> LoadFence:
        """A fence to take before a flight."""
        memory = self._memory.fence(key, tags)
        return LoadFence(key, tags, memory, self._mark(key, tags))

    def successor(self, key: str, tags: frozenset[str]) -> LoadFence:
        """`fence`, after breaking those that older loads hold: theirs shall not come after this one."""
        memory = self._memory._successor(key, tags)
        return LoadFence(key, tags, memory, self._mark(key, tags))

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
        entry = CacheEntry(fence.key, value, self._now(), ttl=ttl, tags=fence.tags, stale_ttl=stale_ttl)
        mark = fence.host
        host, fleet = self.host, self.fleet
        if host is not None and level & _FILE:
            if mark is None or not mark.is_current():
                self._memory._store.counter.refusals += 1
                return value
            stored = self._add(host.access, host.tier.add, entry, mark, fence.origin)
            if isinstance(stored, CacheEntry):
                return self._take_over(fence, value, level)
            if stored is False:
                self._memory._store.counter.refusals += 1
                return value
        origin = fence.origin
        if fleet is not None and level & _REDIS and origin is not None:
            stored = self._add(fleet.access, fleet.tier.add, entry, origin)
            if isinstance(stored, CacheEntry):
                # Its tags may be others than those that the fence names.
                return self._take_over(fence, value, level)
            if stored is False:
                self._memory._store.counter.refusals += 1
                return value
        if level == _MEMORY:
            mark = None
        if level & _MEMORY and (level == _MEMORY or self._may_keep(mark)):
            self._memory._put_entry(entry, fence.memory, mark)
        return entry.value

    def _take_over(self, fence: LoadFence, value: Any, level: CacheLevel) -> Any:
        """What another one stored first, if it is still there and no older than what the server knows."""
        memory = self._memory._copying(fence.key)  # the load's own may not name its tags
        entry, mark = self._read(fence.key, level, self._mark(fence.key))
        if entry is None:
            return value
        if level & _MEMORY:
            self._promote(entry, memory, mark)
        return entry.value

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

    def replace(
        self, fence: LoadFence, value: Any, ttl: float | None, level: CacheLevel, stale_ttl: float = 0.0
    ) -> None:
        """Keep what was loaded in place of what the key has, if the fence stands; a ttl of None ends that."""
        if ttl is None or ttl <= 0:
            if fence.is_current():
                self.delete(fence.key, _ALL)
            return
        entry = CacheEntry(fence.key, value, self._now(), ttl=ttl, tags=fence.tags, stale_ttl=stale_ttl)
        stood = fence.is_current()
        try:
            self._write(entry, fence, level, Steps(), conditional=True)
        except (SerializationError, ValueTooLargeError):
            # Paid for, and nobody but this process can hold it.
            if not stood or not self._memory._put_entry(entry, fence.memory, news=True):
                self._memory._store.delete(fence.key)

    # -- invalidation -----------------------------------------------------------------------------------

    def invalidate_tags(self, tags: frozenset[str]) -> int:
        """Drop what has any of the tags, and refuse what is under way; how many, as far as is known."""
        steps = Steps()
        dropped = 0
        for lower in (self.fleet, self.host):
            if lower is not None:
                count = steps.take(partial(lower.access.call, lower.tier.invalidate_by_tags, tags))
                if count is UNAVAILABLE:
                    lower.access.missed_tags(tags)
                else:
                    dropped = max(dropped, count)
        dropped = max(dropped, self._memory.invalidate_by_tags(tags))
        steps.done()
        return dropped

    def invalidate_matching(self, pattern: re.Pattern[str]) -> int:
        """Drop the keys that match from the start, and refuse what is under way; how many."""
        steps = Steps()
        dropped = 0
        text = as_text(pattern)
        for lower in (self.host, self.fleet):
            if lower is not None:
                count = steps.take(partial(lower.access.call, lower.tier.invalidate_by_pattern, text))
                if count is UNAVAILABLE:
                    lower.access.missed_pattern(text)
                else:
                    dropped = max(dropped, count)
        self._renew_host()
        dropped = max(dropped, self._memory.invalidate_by_pattern(pattern))
        steps.done()
        return dropped

    def clear(self, level: CacheLevel) -> bool:
        """Remove everything from the levels, and refuse what is under way; whether that was done."""
        steps = Steps()
        for lower, its in ((self.host, _FILE), (self.fleet, _REDIS)):
            if lower is not None and level & its:
                done = steps.take(partial(lower.access.call, lower.tier.clear))
                if done is UNAVAILABLE:
                    lower.access.missed_everything()
        if level & _REDIS:
            self._renew_host()
        if level & _MEMORY:
            self._memory.clear()
        return steps.done()

    def _renew_host(self) -> None:
        """Refuse what any process of the host read of the fleet's server before that had dropped it."""
        host = self.host
        if host is not None and self.fleet is not None:
            steps = Steps()
            if steps.take(lambda: host.access.call(host.tier.renew)) is UNAVAILABLE:
                host.access.missed_everything()

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
