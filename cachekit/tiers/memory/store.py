"""The store of the memory tier: entries in LRU order, their tags, their fences, and the one lock.

It promises exact LRU (P1), never more than `max_size` entries (P2), no expired value (P3), and that
nothing loaded before an invalidation is kept after it (P4, by `fences`). How entries leave stands in
`removing`. Arguments are checked by `tier` before they come here.

How a hit does without a lock
-----------------------------
A hit is five steps: look the entry up, read its value, see that it is current, move it to the young end,
count. While the GIL is held each is one step for every other thread, because keys are exact `str`
(hashing and comparing them runs no Python code) and the C methods of `OrderedDict` run none either:

- the lookup finds an entry or not;
- the value is read first, then the deadline, then whether the value is still that one. Whoever removes
  an entry, or puts another value into it, sets its deadline to minus infinity first, and a new one
  last. So a deadline that is ahead belongs to the value that is in its place after it; and if that is
  the value in hand, it was right. This is also what lets a cached function keep references to entries
  of its own: the same comparisons tell whether they are still in the store;
- an entry may carry a mark, a fence that other processes break too (`fences.SharedFence`). It is read
  after the value and before the deadline, so it belongs to that value; and it stood after the lookup had
  begun. While nobody on the host writes anything, one shared word says so; else the mark is asked;
- `move_to_end` of a key that was removed meanwhile raises KeyError, which is no news: the answer was
  right when it was read;
- the counters are bumped as `stats` describes.

Two things must not be done: iterate the OrderedDict itself, which fails when a hit moves an entry
(`list(dict.values(...))` is one step and does not); and replace the dict object, whose bound methods
other rooms keep. On a free-threaded build none of this holds: there `find` finds nothing, and every
lookup takes the lock.

Writes go through `exclusive`, and write their way in out where time counts. Their steps are ordered so
that an exception between any two (a signal handler may raise anywhere) leaves at most a dead entry, or a
key too many in the tag index: never a live entry that its tags do not find, nor one outside the store
that looks alive.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from math import inf
from typing import Any, Final, TypeVar

from cachekit.model.counters import Lookups
from cachekit.model.entry import CacheEntry
from cachekit.model.types import FOREVER, MISSING, NO_TAGS, Missing, RemovalCause
from cachekit.runtime import fork
from cachekit.runtime.clock import Clock
from cachekit.runtime.scheduler import ScheduledTask, scheduler
from cachekit.tiers.base import Fence
from cachekit.tiers.fences import CHANGES, PrivateFence, SharedFence
from cachekit.tiers.memory.entry import GONE, MemoryEntry
from cachekit.tiers.memory.removal import RemovalMixin
from cachekit.tiers.memory.write_lock import BUSY, CLOSED, IDLE, RemovalListener, Removed, tell

T = TypeVar("T")

# An Enum's members are looked up by code of Python's own, which shows on the hot path.
_REPLACED: Final = RemovalCause.REPLACED
_EVICTED: Final = RemovalCause.EVICTED


def gil_enabled() -> bool:
    """Whether this interpreter runs one thread at a time."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


class Store(RemovalMixin):
    """The entries of one memory tier. Safe in any thread, before and after a fork.

    Args:
        max_size: the most entries.
        longest: seconds that it keeps any entry at the most; infinity for no such limit.
        clock: where the time comes from.
        cleanup_interval: seconds between sweeps; None for no sweeps.
    """

    __slots__ = (
        "_cleanup_interval",
        "_job",
        "_longest",
        "_unswept",
        "clock",
        "find",
        "max_size",
        "touch",
    )  # fmt: skip

    def __init__(
        self,
        max_size: int,
        longest: float,
        clock: Clock,
        cleanup_interval: float | None,
    ) -> None:
        super().__init__(clock.monotonic)
        self.clock = clock
        self.max_size = max_size
        self._longest = longest
        self._cleanup_interval = cleanup_interval
        #: The two lock-free steps of a hit; see the module.
        self.find: Callable[[str], MemoryEntry | None] = self._entries.get if gil_enabled() else find_nothing
        self.touch: Callable[[str], object] = self._entries.move_to_end
        self._job: ScheduledTask | None = None
        self._unswept = cleanup_interval is not None
        fork.register(self)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def weight(self) -> int | None:
        """What all entries count for together, where they are weighed."""
        return None

    # -- looking ------------------------------------------------------------------------------------

    def hit(self, key: str, lookups: Lookups) -> Any | Missing:
        """Return the value under the key: the steps of `MemoryCache.get_value`, for any reader."""
        held = self.find(key)
        if held is not None:
            value = held.value
            shared_fence = held.shared_fence
            now = self.now()
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
                except KeyError:
                    pass
                held.accesses += 1
                held.last = now
                lookups.hits += 1
                return value
        return self.look_up(key, lookups)

    def touch_again(self, key: str) -> None:
        """What `touch` costs, about, for a key that has just been touched; nothing changes."""
        self._entries.move_to_end(key)

    def look_up(self, key: str, lookups: Lookups) -> Any | Missing:
        """The value under the key: the way of a lookup that the lock-free steps did not answer.

        That is nearly always a miss, and then it takes no lock either: what was not there when it was
        asked for is missing, whatever comes next.
        """
        if self.find is not find_nothing and key not in self._entries and self._state != CLOSED:
            lookups.misses += 1
            return MISSING
        return self.look_up_locked(key, lookups, _value)

    def look_up_locked(self, key: str, lookups: Lookups, read: Callable[[MemoryEntry], T]) -> T | Missing:
        """What `read` makes of the entry under the key; a lookup that counts."""
        found: T | Missing = MISSING
        over: MemoryEntry | None = None
        try:
            with self._lock:
                self.refuse_if_closed()
                before = self._state
                try:
                    # Busy, or a finalizer or signal handler could remove the entry under our hands.
                    self._state = BUSY
                    now = self.now()
                    held = self._entries.get(key)
                    if (
                        held is not None
                        and now < held.deadline
                        and (held.shared_fence is None or held.shared_fence.stands())
                    ):
                        try:
                            self.touch(key)
                        except KeyError:  # a policy that was interrupted does not know it, for now
                            pass
                        held.accesses += 1
                        held.last = now
                        lookups.hits += 1
                        found = read(held)
                    else:
                        over = held
                        lookups.misses += 1
                finally:
                    self._state = before
        finally:
            if self._deferred:
                self._run_deferred()
        if over is not None:
            self._exclusively(self._remove_over, [over], now)
        return found

    def peek(self, key: str, read: Callable[[MemoryEntry], T], *, even_stale: bool = False) -> T | Missing:
        """Like `look_up`, but nothing is counted or moved; with `even_stale` as loads may see it."""
        found: T | Missing = MISSING
        if self.find is not find_nothing and key not in self._entries and self._state != CLOSED:
            return found
        try:
            with self._lock:
                self.refuse_if_closed()
                before = self._state
                try:
                    self._state = BUSY
                    held = self._entries.get(key)
                    if (
                        held is not None
                        and self.now() < held.deadline + (held.stale if even_stale else 0.0)
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
        """Return the live value under the key; nothing is counted or moved."""
        return self.peek(key, _value)

    def peek_entry(self, key: str) -> CacheEntry | None:
        """Return a snapshot of the live entry under the key; nothing is counted or moved."""
        entry = self.peek(key, self.snapshot)
        return None if entry is MISSING else entry

    def snapshot(self, held: MemoryEntry) -> CacheEntry:
        """Return the entry as it is now."""
        wall, now = self.clock.time(), self.now()
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
        """From now on every entry is over as soon as it comes; fences are broken as ever."""
        self._longest = 0.0

    # -- writing ------------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        value: Any,
        ttl: float,
        tags: frozenset[str],
        created: float | None = None,
        fence: Fence | None = None,
        shared_fence: SharedFence | None = None,
        news: bool = False,
        stale: float = 0.0,
    ) -> bool:
        """Put a value in place of whatever the key held.

        Without a fence it is news, and breaks the fences of the key. With one it is what was loaded
        behind it: it is put in only if the fence is current, and breaks none, unless it is `news` too.

        Args:
            key: an exact str.
            value: anything.
            ttl: seconds of life, from `created` on; if they are over, the key is removed instead.
            tags: of exact str.
            created: when the value was made, on the store's clock; None is now.
            fence: taken before the value was loaded.
            shared_fence: serve the value only as long as this fence stands; see the module.
            news: break the fences of the key although there is a fence.
            stale: seconds, a finite number, that it stays after its life, for loads to fall back on.

        Returns:
            True, unless there is a fence and it is broken.
        """
        now = self.now()
        if created is None:
            created = now
            if ttl > self._longest:
                ttl = self._longest
        elif created + ttl > now + self._longest:
            ttl = now + self._longest - created
        if created + ttl <= now:
            return self._put_nothing(key, fence, news)
        try:
            left = None
            # What _exclusively does is written out here: its calls would be a third of this one's time.
            with self._lock:
                if self._state:
                    self._defer(self.put, key, value, ttl, tags, created, fence, shared_fence, news, stale)
                    return True
                try:
                    self._state = BUSY
                    if fence is None:
                        if self._fenced:
                            self._fences.break_key(key)
                    elif not fence.is_current():
                        self.counter.refusals += 1
                        return False
                    elif news:
                        self._fences.break_key(key)
                    held = self._entries.get(key)
                    replaced = held is not None
                    if held is None:
                        held = MemoryEntry()
                        held.key = key
                        before = tags
                    else:
                        # In place, which spares a new entry and the end of the old one. A reader that has
                        # the old value in hand meets the dead deadline, or finds another value in its place.
                        old = held.value
                        before = held.tags
                    held.deadline = GONE
                    held.shared_fence = shared_fence
                    held.value = value
                    held.created = held.last = created
                    held.ttl = ttl
                    held.stale = stale
                    held.accesses = 0
                    if replaced:
                        if tags is not before:
                            # Linked first: tags that an entry names but the index does not would be
                            # taken for linked by the next write.
                            self._tags.link(key, tags - before)
                            held.tags = tags
                            self._tags.unlink(key, before - tags)
                        self.touch(key)
                    else:
                        held.tags = tags
                        # Room first: a hit may make the newest the oldest, and it shall not evict itself.
                        if len(self._entries) >= self.max_size:
                            left = self._oldest()
                            left.deadline = GONE
                            del self._entries[left.key]
                            self.counter.evictions += 1
                            if left.tags:
                                self._tags.unlink(left.key, left.tags)
                        if tags:
                            self._tags.link(key, tags)
                        self._entries[key] = held
                    held.deadline = created + ttl
                    self.counter.sets += 1
                finally:
                    self._state = IDLE
            if left is not None:
                if self._listeners:
                    tell(self._listeners, self.counter, [(left.key, left.value, _EVICTED)])
                left.value = None
            elif replaced and self._listeners:
                tell(self._listeners, self.counter, [(key, old, _REPLACED)])
            if self._unswept and ttl != inf:
                self._begin_sweeping()
        finally:  # refused or interrupted, what was queued meanwhile was promised
            if self._deferred:
                self._run_deferred()
        return True

    def put_entry(
        self,
        entry: CacheEntry,
        fence: Fence | None = None,
        shared_fence: SharedFence | None = None,
        news: bool = False,
    ) -> bool:
        """`put` for an entry, which keeps the age that it has; one from the future counts as made now."""
        # The monotonic clock first: whatever time passes between the two makes the life shorter.
        now = self.now()
        age = max(0.0, self.clock.time() - entry.created_timestamp)
        ttl = FOREVER if entry.ttl is None else entry.ttl
        return self.put(
            entry.key, entry.value, ttl, entry.tags, now - age, fence, shared_fence, news, entry.stale_ttl
        )

    def _put_nothing(self, key: str, fence: Fence | None, news: bool) -> bool:
        """What a put whose time is over does: news that the key holds nothing, or no news at all."""
        if fence is None or news:
            self.delete(key)
        return fence is None

    def _oldest(self) -> MemoryEntry:
        while True:
            try:
                return self._entries[next(iter(self._entries))]
            except RuntimeError:  # a hit moved an entry between the two steps
                continue

    def prolong(self, key: str, life: float) -> bool:
        """Give a live entry `life` seconds from now, and break the key's fences; True if there is one."""
        life = min(life, self._longest)
        done = bool(self._exclusively(self._prolong, key, life))
        if self._unswept and life != inf:
            self._begin_sweeping()
        return done

    def _prolong(self, gone: Removed, key: str, life: float) -> bool:  # noqa: ARG002
        self._fences.break_key(key)
        held = self._entries.get(key)
        now = self.now()
        if held is None or now >= held.deadline:
            return False
        held.ttl = now + life - held.created
        held.deadline = now + life
        return True

    # -- fences and figures ---------------------------------------------------------------------------

    def fence(self, key: str, tags: frozenset[str]) -> PrivateFence:
        """Take a fence for the key and the tags, before something slow."""
        with self._lock:
            if self._state == CLOSED:
                self.refuse_if_closed()
            return self._fences.take(key, tags, False)

    def fresh_fence(self, key: str, tags: frozenset[str]) -> PrivateFence:
        """Take a fence after breaking the older ones of the key: no older load is stored after this one."""
        with self._lock:
            if self._state == CLOSED:
                self.refuse_if_closed()
            if self._fenced:
                self._fences.break_key(key)
            return self._fences.take(key, tags, False)

    def copy_fence(self, key: str) -> PrivateFence:
        """Take a fence before an entry is copied from another tier, whatever tags it turns out to have."""
        with self._lock:
            if self._state == CLOSED:
                self.refuse_if_closed()
            return self._fences.take(key, NO_TAGS, True)

    def tagged(self, tag: str) -> int:
        """How many entries have the tag, expired ones that were not noticed included."""
        return self._tags.count(tag)

    def on_removal(self, listener: RemovalListener) -> Callable[[], None]:
        """Tell `listener` of every entry that leaves; the function returned ends that."""
        with self._lock:
            self.refuse_if_closed()
            self._listeners = (*self._listeners, listener)
        registered = [listener]

        def forget() -> None:
            with self._lock:
                # One registration, once: a listener may have been given twice.
                if registered and registered[0] in self._listeners:
                    left = list(self._listeners)
                    left.remove(registered.pop())
                    self._listeners = tuple(left)

        return forget

    # -- life ---------------------------------------------------------------------------------------

    def _begin_sweeping(self) -> None:
        # Without the lock: upkeep has one of its own, and a fork takes both.
        self._unswept = False
        assert self._cleanup_interval is not None
        job = scheduler.every(self._cleanup_interval, self.remove_expired)
        with self._lock:
            if self._job is None and self._state != CLOSED:
                self._job = job
                return
        job.cancel()

    def close(self) -> None:
        """Let go of everything; no listener is told, and nothing is counted."""
        gone: Removed = []
        with self._lock:
            if self._state == CLOSED:
                return
            if self._state == BUSY:  # this thread is in the middle of a write
                self._deferred.append((self.close, ()))
                return
            self._state = CLOSED
            self._listeners = ()
            invalidations = self.counter.invalidations
            self._clear(gone)
            self.counter.invalidations = invalidations
            self._unswept = False
            job, self._job = self._job, None
        for held, _ in gone:  # values die without the lock
            held.value = None
        if job is not None:
            job.cancel()

    def check(self) -> None:
        """Assert that entries, order, bounds and tag index agree; for tests, on a quiet store."""
        held = list(dict.values(self._entries))
        assert len(self._entries) == len(list(self._entries)) == len(held) <= self.max_size
        assert all(key == one.key for key, one in self._entries.items())
        assert all(one.deadline > GONE for one in held)
        tagged: dict[str, set[str]] = {}
        for one in held:
            for tag in one.tags:
                tagged.setdefault(tag, set()).add(one.key)
        assert tagged == self._tags.as_dict()
        assert self._state != BUSY
        assert not self._deferred


def _value(held: MemoryEntry) -> Any:
    return held.value


def find_nothing(key: str) -> None:
    """What `find` is where every lookup must take the lock."""
