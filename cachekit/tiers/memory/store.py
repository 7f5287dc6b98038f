"""The store of the memory tier: entries in LRU order, their tags, their fences, and the one lock.

It guarantees exact LRU (P1), never more than `max_size` entries (P2), no expired value (P3), and that no
value loaded before an invalidation is stored after it (P4, with `fences`). `removal` removes entries.
`tier` checks the arguments.

Why a hit needs no lock
-----------------------
A hit has five steps: find the entry, read its value, check that it is current, move it to the young end,
and count. While the GIL is held, each step is atomic for other threads: keys are exact `str`, whose
hashing and comparison run no Python code, and neither do the C methods of `OrderedDict`.

- The lookup finds an entry or not.
- The hit reads the value first, then the deadline, and then checks that the entry still has this value. A
  write that removes an entry, or replaces its value, first sets the deadline to minus infinity, and sets a
  new deadline last. So a deadline in the future belongs to the value that the entry has after the read of
  the deadline. If that is the value read first, the value was valid. For the same reason a cached function
  may keep references to entries: the same comparisons tell whether an entry is still in the store.
- An entry may have a shared fence, which other processes break too (`fences.SharedFence`). The hit reads
  it between the value and the deadline, so it belongs to that value. The fence was intact after the lookup
  began. While no process on the host writes, one shared word says so; otherwise the hit checks the fence.
- `move_to_end` raises KeyError if another thread has removed the key. The hit ignores it, because the
  value was valid when it was read.
- The counters move as `model.counters` describes.

Two operations are forbidden. Never iterate the OrderedDict itself, because that fails when a hit moves an
entry; `list(dict.values(...))` is one atomic step. Never replace the dict object, because other modules
keep its bound methods. On a free-threaded build none of this holds: there `find` finds nothing, and every
lookup takes the lock. Under the lock, lookups use `in` and `[]`, not `get`. `get` of the free-threaded 3.13
locks the dict twice if another thread made what it finds. The second lock waits for 40 turns of the
scheduler before the thread gives up the first one: 10 us on an idle machine, a second on a busy one.

Writes go through `write_lock`, or have its steps inline where speed matters. A signal handler may raise
between any two steps. Their order ensures that this leaves at most a dead entry, or a surplus key in the
tag index. It never leaves a live entry that its tags do not find, nor one outside the store that looks
live.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Any, Final, TypeVar

from cachekit.model.counters import Lookups
from cachekit.model.entry import FIRST_MOMENT, CacheEntry
from cachekit.model.events import hashes
from cachekit.model.types import FOREVER, MISSING, NO_TAGS, Missing, RemovalCause
from cachekit.runtime import fork
from cachekit.runtime.clock import Clock
from cachekit.runtime.interrupts import raise_interrupt
from cachekit.runtime.scheduler import ScheduledTask, scheduler
from cachekit.tiers.base import Fence
from cachekit.tiers.fences import CHANGES, FirstHitFence, PrivateFence, SharedFence
from cachekit.tiers.memory.entry import GONE, MemoryEntry
from cachekit.tiers.memory.eviction.base import EvictionPolicy
from cachekit.tiers.memory.removal import RemovalMixin
from cachekit.tiers.memory.sampling import DROPPED, LIFE, LOADED, SPREAD, WRITTEN, SampledFence
from cachekit.tiers.memory.write_lock import BUSY, CLOSED, IDLE, RemovalListener, Removed, notify

T = TypeVar("T")

# Reading a member of an Enum runs Python code, which is measurable on the hot path.
_REPLACED: Final = RemovalCause.REPLACED
_EVICTED: Final = RemovalCause.EVICTED


def gil_enabled() -> bool:
    """Return whether this interpreter runs one thread at a time."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


class Store(RemovalMixin):
    """The entries of one memory tier. Safe in any thread, before and after a fork.

    Args:
        max_size: The maximum number of entries.
        longest: The maximum life of an entry in seconds; infinity for no limit.
        clock: The source of time.
        cleanup_interval: Seconds between two sweeps; None for no sweeps.
        limit: The bytes of the entries, which a subclass bounds; infinity if they are not bounded.
    """

    __slots__ = (
        "_cleanup_interval", "_fork_guard", "_longest", "_sweep", "_unswept", "clock", "fences", "find",
        "keeps", "max_size", "touch", "uncopied",
    )  # fmt: skip

    def __init__(
        self,
        max_size: int,
        longest: float,
        clock: Clock,
        cleanup_interval: float | None,
        limit: float = inf,
    ) -> None:
        has_gil = gil_enabled()
        super().__init__(clock, has_gil, limit)
        self.clock = clock
        self.max_size = max_size
        self._longest = longest
        self._cleanup_interval = cleanup_interval
        #: The two lock-free steps of a hit; see the module docstring.
        self.find: Callable[[str], MemoryEntry | None] = self._entries.get if has_gil else find_nothing
        self.touch: Callable[[str], object] = self._entries.move_to_end
        #: Its private fences. A caller that copies an entry reads `changes` of it first.
        self.fences = self._fences
        #: Whether it keeps entries at all.
        self.keeps = True
        #: Hits of lower tiers that it gets no copy of; see `coherence.promotion_gate`.
        self.uncopied = 0
        self._sweep: ScheduledTask | None = None
        self._unswept = cleanup_interval is not None
        self._fork_guard = fork.ForkSafeLock(self._lock)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def policy(self) -> EvictionPolicy | None:
        """Return the eviction policy; None if the store itself is an LRU queue."""
        return None

    @property
    def weight(self) -> int | None:
        """Return the weight of all entries; None if they are not weighed."""
        return None

    def seconds_of(self, key: str) -> float | None:  # noqa: ARG002
        """Return how long the load of the entry took; None if that is not known, or not remembered."""
        return None

    # -- lookups ------------------------------------------------------------------------------------

    def hit(self, key: str, lookups: Lookups) -> Any | Missing:
        """Return the value under the key: the steps of `MemoryCache.get_value` for any reader."""
        held = self.find(key)
        if held is not None:
            value = held.value
            shared_fence = held.shared_fence
            now = self.time.monotonic()
            if (
                now < held.deadline
                and held.value is value
                and (
                    shared_fence is None
                    or shared_fence.words[CHANGES] == shared_fence.seen
                    or shared_fence.stands()
                )
            ):
                try:
                    self.touch(key)
                except KeyError as error:
                    raise_interrupt(error)
                held.accesses += 1
                held.last = now
                lookups.hits += 1
                return value
        return self.look_up(key, lookups)

    def touch_again(self, key: str) -> None:
        """Do what `touch` does for a key that was just touched, to time it; nothing changes."""
        self._entries.move_to_end(key)

    def look_up(self, key: str, lookups: Lookups) -> Any | Missing:
        """Return the value under the key when the lock-free steps found none.

        This is nearly always a miss, and a miss takes no lock either, unless it removes the entry. A key that
        is missing now, or whose fence is broken, is a miss, whatever other threads store later.
        """
        if self.find is not find_nothing and self._state != CLOSED:
            held = self._entries.get(key)  # with a GIL, so this is one step
            fence = None if held is None else held.shared_fence
            if held is None or (fence is not None and not fence.is_current()):
                lookups.misses += 1
                self.note_missed(key)
                if held is not None:  # another process has written the key
                    self._exclusively(self._remove_expired, [held], self.time.monotonic())
                return MISSING
        return self.look_up_locked(key, lookups, _value)

    def look_up_locked(self, key: str, lookups: Lookups, read: Callable[[MemoryEntry], T]) -> T | Missing:
        """Return `read(entry)` for the live entry under the key; count the lookup."""
        found: T | Missing = MISSING
        expired: MemoryEntry | None = None
        try:
            with self._lock:
                self.refuse_if_closed()
                before = self._state
                try:
                    # Busy, so that a finalizer or signal handler cannot remove the entry here.
                    self._state = BUSY
                    now = self.time.monotonic()
                    held = self._entries[key] if key in self._entries else None  # noqa: SIM401
                    if (
                        held is not None
                        and now < held.deadline
                        and (held.shared_fence is None or held.shared_fence.stands())
                    ):
                        try:
                            self.touch(key)
                        except (
                            KeyError
                        ) as error:  # an interrupted policy does not know the key until its rebuild
                            raise_interrupt(error)
                        held.accesses += 1
                        held.last = now
                        lookups.hits += 1
                        found = read(held)
                    else:
                        expired = held
                        lookups.misses += 1
                        self.note_missed(key)
                        if held is not None and isinstance(held.shared_fence, SampledFence):
                            self._note(DROPPED, key)
                finally:
                    self._state = before
        finally:
            if self._deferred:
                self._run_deferred()
        if expired is not None:
            self._exclusively(self._remove_expired, [expired], now)
        return found

    def peek(self, key: str, read: Callable[[MemoryEntry], T], *, even_stale: bool = False) -> T | Missing:
        """Return `read(entry)` as `look_up_locked` does, but count and move nothing.

        With `even_stale` also for an expired entry that loads may still use.
        """
        found: T | Missing = MISSING
        if self.find is not find_nothing and key not in self._entries and self._state != CLOSED:
            return found
        try:
            with self._lock:
                self.refuse_if_closed()
                before = self._state
                try:
                    self._state = BUSY
                    held = self._entries[key] if key in self._entries else None  # noqa: SIM401
                    if (
                        held is not None
                        and self.time.monotonic() < held.deadline + (held.stale if even_stale else 0.0)
                        and (held.shared_fence is None or held.shared_fence.is_current())
                    ):
                        found = read(held)
                finally:
                    self._state = before
        finally:
            if self._deferred:
                self._run_deferred()
        return found

    def peek_value(self, key: str) -> Any | Missing:
        """Return the live value under the key; count and move nothing."""
        return self.peek(key, _value)

    def peek_entry(self, key: str) -> CacheEntry | None:
        """Return a snapshot of the live entry under the key; count and move nothing."""
        entry = self.peek(key, self.snapshot)
        return None if entry is MISSING else entry

    def snapshot(self, held: MemoryEntry) -> CacheEntry:
        """Return a snapshot of the entry."""
        wall, now = self.time.time(), self.time.monotonic()
        return CacheEntry(
            held.key,
            held.value,
            wall - (now - held.created),
            wall - (now - held.last),
            held.accesses,
            held.ttl,
            held.tags,
            stale_ttl=held.stale,
        )

    def keep_nothing(self) -> None:
        """Let every entry expire at once from now on. Writes still break fences."""
        self._longest = 0.0
        self.keeps = False

    # -- writing ------------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        value: Any,
        ttl: float,
        tags: frozenset[str],
        created: float | None = None,
        fence: Fence | int | None = None,
        shared_fence: SharedFence | None = None,
        breaks_fences: bool = False,
        stale: float = 0.0,
    ) -> bool:
        """Store a value in place of any entry under the key.

        Without a fence this is a new value, and it breaks the fences of the key. With a fence it is a loaded
        value: it is stored only if the fence is current, and breaks no fences unless `breaks_fences` is set.

        Args:
            key: An exact str.
            value: Any object.
            ttl: Seconds of life from `created`. If they are over, the key is removed instead.
            tags: Tags, as exact str.
            created: When the value was created, on the store's clock (default: now).
            fence: Taken before the value was loaded; or `fences.changes` from before it was copied.
            shared_fence: Serve the value only while this fence is current; see the module docstring.
            breaks_fences: Break the fences of the key even though there is a fence.
            stale: Finite seconds that loads may use the value after its life.

        Returns:
            True, or False if there is a fence and it is broken.
        """
        now = self.time.monotonic()
        if created is None:
            created = now
            if ttl > self._longest:
                ttl = self._longest
        elif created + ttl > now + self._longest:
            ttl = now + self._longest - created
        if created + ttl <= now:
            return self._put_nothing(key, fence, breaks_fences)
        try:
            evicted = None
            # The steps of _exclusively inline: calling it would take a third of the time of this method.
            with self._lock:
                if self._state:
                    self._defer(
                        self.put, key, value, ttl, tags, created, fence, shared_fence, breaks_fences, stale
                    )
                    return True
                try:
                    self._state = BUSY
                    if fence is None:
                        # As break_key(), whose call a write without loads in progress does not need.
                        self.fences.changes += 1
                        if self._fenced:
                            self._fences.break_key(key)
                    elif fence != self.fences.changes if isinstance(fence, int) else not fence.is_current():
                        self.counter.refusals += 1
                        return False
                    elif breaks_fences:
                        self._fences.break_key(key)
                    limit = self.sampled  # as is_sampled(), without its call
                    sampled = limit > 0 and hash(key) % SPREAD < limit
                    held = self._entries[key] if key in self._entries else None  # noqa: SIM401
                    replaced = held is not None
                    if held is None:
                        held = MemoryEntry()
                        held.key = key
                        held.calls = ()
                        before = tags
                        live = False
                    else:
                        live = now < held.deadline
                        # In place, which saves creating and destroying an entry. A reader that holds the
                        # old value meets the dead deadline, or finds another value in the entry.
                        old = held.value
                        before = held.tags
                    held.deadline = GONE
                    held.shared_fence = self._sampled_fence(key, shared_fence) if sampled else shared_fence
                    held.value = value
                    held.created = held.last = created
                    held.ttl = ttl
                    held.stale = stale
                    held.accesses = 0
                    if replaced:
                        if tags is not before:
                            # Link first: if an interrupted write leaves tags that the entry names and the
                            # index does not, the next write would take them for linked.
                            self._tags.link(key, tags - before)
                            held.tags = tags
                            self._tags.unlink(key, before - tags)
                        self.touch(key)
                    else:
                        held.tags = tags
                        # Evict first: a hit may make the newest entry the oldest, and it must not evict
                        # itself.
                        if len(self._entries) >= self.max_size:
                            evicted = self._oldest()
                            evicted.deadline = GONE
                            del self._entries[evicted.key]
                            self.counter.evictions += 1
                            if evicted.tags:
                                self._tags.unlink(evicted.key, evicted.tags)
                        if tags:
                            self._tags.link(key, tags)
                        self._entries[key] = held
                    held.deadline = created + ttl
                    self.counter.sets += 1
                    if sampled:
                        asked = not live and (fence is not None or key in self._missed)
                        took = fence.seconds if isinstance(fence, PrivateFence) else None
                        self._note(LOADED if asked else WRITTEN, key, created + ttl, tags, 1, now, took)
                finally:
                    self._state = IDLE
            if evicted is not None:
                named, shared = evicted.tags, evicted.shared_fence is not None
                self.events.add_removal((
                    now, _EVICTED, hash(evicted.key), evicted.created + evicted.ttl,
                    hashes(named) if named else (), shared,
                ))  # fmt: skip
                if self._listeners:
                    notify(self._listeners, self.counter, [(evicted.key, evicted.value, _EVICTED)])
                evicted.let_go()
            elif replaced and self._listeners:
                notify(self._listeners, self.counter, [(key, old, _REPLACED)])
            if self._unswept and ttl != inf:
                self._begin_sweeping()
            if sampled:
                self._wake()
        finally:  # run the queued calls also if this write was refused or interrupted
            if self._deferred:
                self._run_deferred()
        return True

    def put_entry(
        self,
        entry: CacheEntry,
        fence: Fence | None = None,
        shared_fence: SharedFence | None = None,
        breaks_fences: bool = False,
    ) -> bool:
        """Store an entry with the age that it has; one from the future counts as created now; see `put`."""
        # The monotonic clock first: time that passes between the two reads shortens the life.
        now = self.time.monotonic()
        age = max(0.0, self.time.time() - entry.created_timestamp)
        ttl = FOREVER if entry.ttl is None else entry.ttl
        return self.put(
            entry.key,
            entry.value,
            ttl,
            entry.tags,
            now - age,
            fence,
            shared_fence,
            breaks_fences,
            entry.stale_ttl,
        )

    def put_copy(
        self,
        key: str,
        value: Any,
        created: float,
        expiry: float,
        stale_until: float,
        changes: int,
        shared_fence: SharedFence,
    ) -> None:
        """Store a copy from another tier, unless there was a write since `changes` was read; see `put`.

        The fence names its tags. The times are by the wall clock. A copy from the future is created now.
        """
        if not created >= FIRST_MOMENT:
            return  # other users may write in that tier, and one has written a time that is none
        # The monotonic clock first: time that passes between the two reads shortens the life.
        now = self.time.monotonic()
        age = self.time.time() - created
        born = now if age < 0 else now - age
        ttl = round(expiry - created, 6)
        stale = round(stale_until - expiry, 6) if expiry < stale_until < inf else 0.0
        if self.put(key, value, ttl, shared_fence.names, born, changes, shared_fence, False, stale):
            self.counter.promotions += 1

    def note_copy(
        self,
        key: str,
        value: Any,  # noqa: ARG002
        created: float,  # noqa: ARG002
        expiry: float,
        stale_until: float,  # noqa: ARG002
        changes: int,  # noqa: ARG002
        shared_fence: SharedFence,
    ) -> None:
        """Do what `put_copy` does in the simulation of other sizes alone, for a sampled key."""
        now = self.time.monotonic()
        self._note(LOADED, key, now + expiry - self.time.time(), shared_fence.names, None, now, None)
        self._wake()

    def _put_nothing(self, key: str, fence: Fence | int | None, breaks_fences: bool) -> bool:
        if fence is None or breaks_fences:
            self.events.deleted(self.time.monotonic(), [key])
            self.delete(key)
        return fence is None

    def _oldest(self) -> MemoryEntry:
        while True:
            try:
                return self._entries[next(iter(self._entries))]
            except RuntimeError as error:  # a hit moved an entry between the two steps
                raise_interrupt(error)

    def prolong(self, key: str, life: float) -> bool:
        """Give a live entry `life` seconds from now, and break the key's fences; return whether it exists."""
        life = min(life, self._longest)
        done = bool(self._exclusively(self._prolong, key, life))
        if self._unswept and life != inf:
            self._begin_sweeping()
        return done

    def _prolong(self, removed: Removed, key: str, life: float) -> bool:  # noqa: ARG002
        self._fences.break_key(key)
        held = self._entries.get(key)
        now = self.time.monotonic()
        if held is None or now >= held.deadline:
            return False
        held.ttl = now + life - held.created
        held.deadline = now + life
        if self.is_sampled(key):
            self._note(LIFE, key, now + life)
        return True

    # -- fences and tags ------------------------------------------------------------------------------

    def fence(self, key: str, tags: frozenset[str]) -> PrivateFence:
        """Take a fence for the key and the tags, before a slow operation."""
        with self._lock:
            if self._state == CLOSED:
                self.refuse_if_closed()
            return self._fences.take(key, tags, False)

    def fresh_fence(self, key: str, tags: frozenset[str]) -> PrivateFence:
        """Break the fences of the key and take a new one, so that no older load is stored after this."""
        with self._lock:
            if self._state == CLOSED:
                self.refuse_if_closed()
            self._fences.break_key(key)
            return self._fences.take(key, tags, False)

    def fresh_fences(self, keys: Sequence[str], tags: frozenset[str]) -> list[PrivateFence]:
        """Do what `fresh_fence` does for several keys; a store that keeps nothing returns no fences."""
        fences = self._fences
        with self._lock:
            self.refuse_if_closed()
            for key in keys:
                fences.break_key(key)
            return [fences.take(key, tags, False) for key in keys] if self.keeps else []

    def break_fences(self, keys: Iterable[str]) -> None:
        """Break the fences of the keys, so that no older load is stored after this."""
        with self._lock:
            if self._state == CLOSED:
                self.refuse_if_closed()
            # As break_key(), whose call a write without loads in progress does not need.
            self.fences.changes += 1
            if self._fenced:
                for key in keys:
                    self._fences.break_key(key)

    def break_fence(self, key: str) -> None:
        """Do what `break_fences` does, for one key."""
        with self._lock:
            if self._state == CLOSED:
                self.refuse_if_closed()
            # As in break_fences().
            self.fences.changes += 1
            if self._fenced:
                self._fences.break_key(key)

    def copy_fence(self, key: str) -> PrivateFence:
        """Take a fence before an entry is copied from another tier, whatever its tags are."""
        with self._lock:
            if self._state == CLOSED:
                self.refuse_if_closed()
            return self._fences.take(key, NO_TAGS, True)

    def copy_fences(self, keys: Iterable[str]) -> dict[str, PrivateFence]:
        """Do what `copy_fence` does for several keys."""
        take = self._fences.take
        with self._lock:
            self.refuse_if_closed()
            return {key: take(key, NO_TAGS, True) for key in keys}

    def tagged(self, tag: str) -> int:
        """Return how many entries have the tag, expired ones that are not yet removed included."""
        return self._tags.count(tag)

    def on_removal(self, listener: RemovalListener) -> Callable[[], None]:
        """Call `listener` for every entry that leaves, until the returned function is called."""
        with self._lock:
            self.refuse_if_closed()
            self._listeners = (*self._listeners, listener)
        registered = [listener]

        def forget() -> None:
            with self._lock:
                # Remove one registration only, because a listener may be registered twice.
                if registered and registered[0] in self._listeners:
                    left = list(self._listeners)
                    left.remove(registered.pop())
                    self._listeners = tuple(left)

        return forget

    def on_first_hit(self, key: str, report: Callable[[], object]) -> bool | None:
        """Call `report` at the first hit of the entry.

        The hit may hold the lock of the store, and `report` must raise nothing.

        Returns:
            True if it will be called; False if there was a hit already; None if the entry is gone.
        """
        with self._lock:
            held = self._entries.get(key)
            # Under the lock no write gives the entry another fence. A finalizer may interrupt one.
            if self._state != IDLE or held is None or self.time.monotonic() >= held.deadline:
                return None
            if held.accesses:
                return False
            mark = held.shared_fence
            if isinstance(mark, SampledFence):  # it stays the outermost: then one look tells that it is there
                mark.fence = FirstHitFence(mark.fence, report)
            else:
                held.shared_fence = FirstHitFence(mark, report)
            return True

    def count_use(self, key: str) -> None:
        """Let the policy count a use of the entry that was no lookup here. LRU counts none."""

    # -- life ---------------------------------------------------------------------------------------

    def _begin_sweeping(self) -> None:
        # Without the lock: the scheduler has its own, and a fork takes both.
        self._unswept = False
        assert self._cleanup_interval is not None
        sweep = scheduler.every(self._cleanup_interval, self.remove_expired, apart=True)
        with self._lock:
            if self._sweep is None and self._state != CLOSED:
                self._sweep = sweep
                return
        sweep.cancel()

    def close(self) -> None:
        """Drop all entries and end the sweep; call no listener and count nothing."""
        removed: Removed = []
        with self._lock:
            if self._state == CLOSED:
                return
            if self._state == BUSY:  # this thread is in the middle of a write
                self._deferred.append((self.close, ()))
                return
            self._state = CLOSED
            self._listeners = ()
            invalidations = self.counter.invalidations
            self._clear(removed)
            self.counter.invalidations = invalidations
            self._unswept = False
            sweep, self._sweep = self._sweep, None
            self.sampled = 0
        if self.sample is not None:
            self.sample.close()
        for held in removed[::2]:  # values are destroyed without the lock
            held.let_go()
        if sweep is not None:
            sweep.cancel()

    def check(self) -> None:
        """Assert that entries, order, bounds and tag index agree; for tests, on an idle store."""
        held = list(dict.values(self._entries))
        assert len(self._entries) == len(list(self._entries)) == len(held) <= self.max_size
        assert all(key == one.key for key, one in self._entries.items())
        assert all(one.deadline > GONE for one in held)
        tagged: dict[str, set[str]] = {}
        for one in held:
            for tag in one.tags:
                tagged.setdefault(tag, set()).add(one.key)
        for tag, keys in self._tags.condemned:  # of an invalidation that was interrupted
            for key in keys & tagged.get(tag, set()):
                self._tags.link(key, [tag])
        assert tagged == self._tags.as_dict()
        assert self._state != BUSY
        assert not self._deferred


def _value(held: MemoryEntry) -> Any:
    return held.value


def find_nothing(key: str) -> None:
    """Stand in for `find` where every lookup must take the lock."""
