"""The store of the memory tier: entries in LRU order, their tags, their fences, and the one lock.

It promises exact LRU (P1), never more than `max_size` entries (P2), no expired value (P3), and that
nothing loaded before an invalidation is kept after it (P4, by `fences`). Arguments are checked by
`tier` before they come here.

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
- `move_to_end` of a key that was removed meanwhile raises KeyError, which is no news: the answer was
  right when it was read;
- the counters are bumped as `stats` describes.

Two things must not be done: iterate the OrderedDict itself, which fails when a hit moves an entry
(`list(dict.values(...))` is one step and does not); and replace the dict object, whose bound methods
other rooms keep. On a free-threaded build none of this holds: there `find` finds nothing, and every
lookup takes the lock.

How a write takes the lock
--------------------------
`with` on an RLock leaves no gap in which a signal handler's exception could strand it. It is
re-entrant because Python may run a finalizer, or a signal handler, in the middle of a write; if that
calls the cache, the call finds `state` busy and is queued until the write is done. Entries that leave
are handed out of the locked part, so that listeners run, and values die, without the lock. The steps
of a write are ordered so that an exception between any two (a signal handler may raise anywhere)
leaves at most a dead entry, or a key too many in the tag index: never a live entry that its tags do
not find, nor one outside the store that looks alive. What was queued is carried out all the same.
"""

from __future__ import annotations

import re
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from math import inf
from typing import Any, Final, TypeVar, final

from cachekit import forks
from cachekit.errors import CacheClosedError
from cachekit.fences import FenceTable, PrivateFence
from cachekit.model import MISSING, Missing, RemovalCause
from cachekit.ports import Fence
from cachekit.stats import Lookups, StatsCounter
from cachekit.tiers.memory.held import GONE, Held, TagIndex
from cachekit.tiers.memory.listeners import RemovalListener, tell
from cachekit.upkeep import Job, upkeep

T = TypeVar("T")

_IDLE: Final = 0
_BUSY: Final = 1
_CLOSED: Final = 2

# An Enum's members are looked up by code of Python's own, which shows on the hot path.
_REPLACED: Final = RemovalCause.REPLACED
_EVICTED: Final = RemovalCause.EVICTED

_SLICE: Final = 1000  # entries that one lock hold of a scan looks at


_Gone = list[tuple[Held, RemovalCause]]


def gil_enabled() -> bool:
    """Whether this interpreter runs one thread at a time."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


@final
class Store:
    """The entries of one memory tier. Safe in any thread, before and after a fork.

    Args:
        max_size: the most entries.
        longest: seconds that it keeps any entry at the most; infinity for no such limit.
        now: the monotonic clock.
        cleanup_interval: seconds between sweeps; None for no sweeps.
    """

    __slots__ = (
        "__weakref__",
        "_cleanup_interval",
        "_deferred",
        "_entries",
        "_fenced",
        "_fences",
        "_job",
        "_listeners",
        "_lock",
        "_longest",
        "_max_size",
        "_state",
        "_tags",
        "_unswept",
        "counter",
        "find",
        "now",
        "touch",
    )  # fmt: skip

    def __init__(
        self,
        max_size: int,
        longest: float,
        now: Callable[[], float],
        cleanup_interval: float | None,
    ) -> None:
        self._max_size = max_size
        self._longest = longest
        self._cleanup_interval = cleanup_interval
        self.now = now
        self._entries: OrderedDict[str, Held] = OrderedDict()
        #: The two lock-free steps of a hit; see the module.
        self.find: Callable[[str], Held | None] = self._entries.get if gil_enabled() else find_nothing
        self.touch: Callable[[str], object] = self._entries.move_to_end
        self.counter = StatsCounter()
        self._tags = TagIndex()
        self._fences = FenceTable()
        self._fenced = self._fences.held  # empty, and so falsy, while nothing is in flight
        self._lock = threading.RLock()
        self._state = _IDLE
        self._deferred: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self._listeners: tuple[RemovalListener, ...] = ()
        self._job: Job | None = None
        self._unswept = cleanup_interval is not None
        forks.register(self)

    def __len__(self) -> int:
        return len(self._entries)

    # -- looking ------------------------------------------------------------------------------------

    def look_up(self, key: str, lookups: Lookups) -> Any | Missing:
        """The value under the key: the way of a lookup that the lock-free steps did not answer.

        That is nearly always a miss, and then it takes no lock either: what was not there when it was
        asked for is missing, whatever comes next.
        """
        if self.find is not find_nothing and key not in self._entries and self._state != _CLOSED:
            lookups.misses += 1
            return MISSING
        return self.look_up_locked(key, lookups, _value)

    def look_up_locked(self, key: str, lookups: Lookups, read: Callable[[Held], T]) -> T | Missing:
        """What `read` makes of the entry under the key; a lookup that counts."""
        found: T | Missing = MISSING
        try:
            with self._lock:
                self.refuse_if_closed()
                before = self._state
                try:
                    # Busy, or a finalizer or signal handler could remove the entry under our hands.
                    self._state = _BUSY
                    now = self.now()
                    held = self._entries.get(key)
                    if held is not None and now < held.deadline:
                        self.touch(key)
                        held.accesses += 1
                        held.last = now
                        lookups.hits += 1
                        found = read(held)
                        held = None
                    else:
                        lookups.misses += 1
                finally:
                    self._state = before
        finally:
            if self._deferred:
                self._run_deferred()
        if held is not None:
            self._exclusively(self._expire, [held], now)
        return found

    def peek(self, key: str, read: Callable[[Held], T]) -> T | Missing:
        """Like `look_up_locked`, but nothing is counted or moved."""
        found: T | Missing = MISSING
        try:
            with self._lock:
                self.refuse_if_closed()
                before = self._state
                try:
                    self._state = _BUSY
                    held = self._entries.get(key)
                    if held is not None and self.now() < held.deadline:
                        found = read(held)
                finally:
                    self._state = before
        finally:
            if self._deferred:
                self._run_deferred()
        return found

    def all_held(self) -> list[Held]:
        """Every entry at one moment, expired ones included, in no particular order."""
        with self._lock:
            return list(dict.values(self._entries))

    # -- writing ------------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        value: Any,
        ttl: float,
        tags: frozenset[str],
        created: float | None = None,
        fence: Fence | None = None,
    ) -> bool:
        """Put a value in place of whatever the key held.

        Without a fence it is news, and breaks the fences of the key. With one it is what was loaded
        behind it: it is put in only if the fence is current, and breaks none.

        Args:
            key: an exact str.
            value: anything.
            ttl: seconds of life, from `created` on; if they are over, the key is removed instead.
            tags: of exact str.
            created: when the value was made, on the store's clock; None is now.
            fence: taken before the value was loaded.

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
            return self._put_nothing(key, fence)
        try:
            left = None
            # What _exclusively does is written out here: its calls would be a third of this one's time.
            with self._lock:
                if self._state:
                    self._not_now(self.put, key, value, ttl, tags, created, fence)
                    return True
                try:
                    self._state = _BUSY
                    if fence is None:
                        if self._fenced:
                            self._fences.break_key(key)
                    elif not fence.is_current():
                        self.counter.refusals += 1
                        return False
                    held = self._entries.get(key)
                    replaced = held is not None
                    if held is None:
                        held = Held()
                        held.key = key
                        before = tags
                    else:
                        # In place, which spares a new entry and the end of the old one. A reader that has
                        # the old value in hand meets the dead deadline, or finds another value in its place.
                        old = held.value
                        before = held.tags
                    held.deadline = GONE
                    held.value = value
                    held.created = held.last = created
                    held.ttl = ttl
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
                        if len(self._entries) >= self._max_size:
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
                    self._state = _IDLE
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

    def _put_nothing(self, key: str, fence: Fence | None) -> bool:
        """What a put whose time is over does: news that the key holds nothing, or no news at all."""
        if fence is None:
            self.delete(key)
        return fence is None

    def _oldest(self) -> Held:
        while True:
            try:
                return self._entries[next(iter(self._entries))]
            except RuntimeError:  # a hit moved an entry between the two steps
                continue

    def prolong(self, key: str, life: float) -> bool:
        """Give a live entry `life` seconds from now, and break the key's fences; True if there is one."""
        done = bool(self._exclusively(self._prolong, key, life))
        if self._unswept and life != inf:
            self._begin_sweeping()
        return done

    def _prolong(self, gone: _Gone, key: str, life: float) -> bool:  # noqa: ARG002
        self._fences.break_key(key)
        held = self._entries.get(key)
        now = self.now()
        if held is None or now >= held.deadline:
            return False
        held.ttl = now + life - held.created
        held.deadline = now + life
        return True

    # -- removing -----------------------------------------------------------------------------------

    def delete(self, key: str, fence: Fence | None = None) -> bool:
        """Remove a key, and break its fences whether or not it is there; True if it was live.

        With a fence: only if that is current.
        """
        return bool(self._exclusively(self._delete, key, fence))

    def _delete(self, gone: _Gone, key: str, fence: Fence | None) -> bool:
        if fence is not None and not fence.is_current():
            return False
        self._fences.break_key(key)
        held = self._entries.get(key)
        if held is None:
            return False
        if self.now() >= held.deadline:
            self._remove(gone, held, RemovalCause.EXPIRED)
            return False
        self.counter.deletes += 1
        self._remove(gone, held, RemovalCause.INVALIDATED)
        return True

    def clear(self) -> None:
        """Remove everything, and break every fence."""
        self._exclusively(self._clear)

    def _clear(self, gone: _Gone) -> None:
        self._fences.break_all()
        held = list(dict.values(self._entries))
        # In place: other rooms keep the bound methods of this very dict. `held` keeps every value
        # alive until the lock is free.
        for one in held:
            one.deadline = GONE
        self._entries.clear()
        self._tags.clear()
        self.counter.invalidations += len(held)
        gone.extend((one, RemovalCause.INVALIDATED) for one in held)

    def invalidate_tags(self, tags: frozenset[str]) -> int:
        """Remove entries with any of the tags, and break fences that name one; how many were live."""
        return self._exclusively(self._invalidate_tags, tags) or 0

    def _invalidate_tags(self, gone: _Gone, tags: frozenset[str]) -> int:
        self._fences.break_tags(tags)
        found = (self._entries.get(key) for key in self._tags.having(tags))
        return self._invalidate(gone, [held for held in found if held is not None])

    def invalidate_matching(self, pattern: re.Pattern[str]) -> int:
        """Remove entries whose key matches, and break the fences of such keys; how many were live."""
        # Fences first: a load that is refused from here on began before; one that begins now belongs
        # after this invalidation, wherever the scan is. So the scan itself needs no lock.
        self._exclusively(self._break_matching, pattern)
        matching = [held for held in self.all_held() if pattern.match(held.key)]
        removed = 0
        for start in range(0, len(matching), _SLICE):
            removed += self._exclusively(self._invalidate, matching[start : start + _SLICE]) or 0
        return removed

    def _break_matching(self, gone: _Gone, pattern: re.Pattern[str]) -> None:  # noqa: ARG002
        self._fences.break_matching(pattern)

    def _invalidate(self, gone: _Gone, condemned: list[Held]) -> int:
        now = self.now()
        removed = 0
        for held in condemned:
            if self._entries.get(held.key) is not held:
                continue  # gone; a value that was put in its place meanwhile goes too, which is safe
            if now >= held.deadline:
                self._remove(gone, held, RemovalCause.EXPIRED)
                continue
            removed += 1
            self.counter.invalidations += 1
            self._remove(gone, held, RemovalCause.INVALIDATED)
        return removed

    def remove_expired(self) -> int:
        """Remove the entries whose time is over; how many that were."""
        everything = self.all_held()
        removed = 0
        for start in range(0, len(everything), _SLICE):
            now = self.now()
            expired = [held for held in everything[start : start + _SLICE] if held.deadline <= now]
            if expired:
                removed += self._exclusively(self._expire, expired, now) or 0
        return removed

    def _expire(self, gone: _Gone, condemned: list[Held], now: float) -> int:
        before = len(gone)
        for held in condemned:
            # Looked at again under the lock: it may have been replaced, or touched.
            if self._entries.get(held.key) is held and held.deadline <= now:
                self._remove(gone, held, RemovalCause.EXPIRED)
        return len(gone) - before

    def _remove(self, gone: _Gone, held: Held, cause: RemovalCause) -> None:
        held.deadline = GONE
        del self._entries[held.key]
        if held.tags:
            self._tags.unlink(held.key, held.tags)
        if cause is RemovalCause.EXPIRED:
            self.counter.expirations += 1
        gone.append((held, cause))

    def fence(self, key: str, tags: frozenset[str], *, anew: bool = False) -> PrivateFence:
        """A fence for the key and the tags, to take before something slow; `anew` breaks older ones."""
        with self._lock:
            self.refuse_if_closed()
            if anew:
                self._fences.break_key(key)
            return self._fences.take(key, tags)

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

    # -- the lock -----------------------------------------------------------------------------------

    def _exclusively(self, change: Callable[..., T], *arguments: Any) -> T | None:
        """Call `change(gone, *arguments)` under the lock, alone; then do what must not be done there.

        Returns:
            What `change` returned; None if it was queued, because this thread is in the middle of
            another change.
        """
        gone: _Gone = []
        try:
            with self._lock:
                if self._state:
                    self._not_now(self._exclusively, change, *arguments)
                    return None
                try:
                    self._state = _BUSY
                    result = change(gone, *arguments)
                finally:
                    self._state = _IDLE
            if gone:
                if self._listeners:
                    tell(
                        self._listeners, self.counter, [(held.key, held.value, cause) for held, cause in gone]
                    )
                # Only now, and after its deadline: a reader that saw a live deadline has the value. A
                # cached function may refer to the entry for a while, and shall not keep its value alive.
                for held, _ in gone:
                    held.value = None
        finally:  # refused or interrupted, what was queued meanwhile was promised
            if self._deferred:
                self._run_deferred()
        return result

    def _not_now(self, operation: Callable[..., Any], *arguments: Any) -> None:
        self.refuse_if_closed()
        self._deferred.append((operation, arguments))

    def _run_deferred(self) -> None:
        while self._state == _IDLE:
            try:
                operation, arguments = self._deferred.pop(0)
            except IndexError:  # another thread took the last one
                return
            operation(*arguments)

    def refuse_if_closed(self) -> None:
        """Raise CacheClosedError after `close`."""
        if self._state == _CLOSED:
            raise CacheClosedError("this MemoryCache was closed; make a new one")

    # -- life ---------------------------------------------------------------------------------------

    def _begin_sweeping(self) -> None:
        # Without the lock: upkeep has one of its own, and a fork takes both.
        self._unswept = False
        assert self._cleanup_interval is not None
        job = upkeep.every(self._cleanup_interval, self.remove_expired)
        with self._lock:
            if self._job is None and self._state != _CLOSED:
                self._job = job
                return
        job.cancel()

    def close(self) -> None:
        """Let go of everything; no listener is told, and nothing is counted."""
        gone: _Gone = []
        with self._lock:
            if self._state == _CLOSED:
                return
            if self._state == _BUSY:  # this thread is in the middle of a write
                self._deferred.append((self.close, ()))
                return
            self._state = _CLOSED
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

    def before_fork(self) -> None:
        """Take the lock (see `forks`)."""
        self._lock.acquire()

    def after_fork(self, in_child: bool) -> None:  # noqa: ARG002
        """Give the lock back; entries, and the sweep, go on in the child."""
        self._lock.release()

    def check(self) -> None:
        """Assert that entries, order, bounds and tag index agree; for tests, on a quiet store."""
        held = list(dict.values(self._entries))
        assert len(self._entries) == len(list(self._entries)) == len(held) <= self._max_size
        assert all(key == one.key for key, one in self._entries.items())
        assert all(one.deadline > GONE for one in held)
        tagged: dict[str, set[str]] = {}
        for one in held:
            for tag in one.tags:
                tagged.setdefault(tag, set()).add(one.key)
        assert tagged == self._tags.as_dict()
        assert self._state != _BUSY
        assert not self._deferred


def _value(held: Held) -> Any:
    return held.value


def find_nothing(key: str) -> None:
    """What `find` is where every lookup must take the lock."""
