"""A store that asks an eviction policy who leaves, and may be bounded in bytes.

What `Store` promises it promises too, but for the order of LRU. It is a class of its own so that plain
LRU, which needs neither, pays for neither.

How a policy hears of hits
--------------------------
A policy that can bear it (`LockFreeHits`) is called by the hit itself. For the others a hit leaves its
key in a queue, which is one step under the GIL, and whoever makes the queue long, or writes next, tells
the policy, under the lock. Nothing is lost, and with one thread the policy hears everything in order and
before it matters; with several, hits of one moment come in some order. On a free-threaded build
`find` finds nothing, so every hit is told under the lock, in one way or the other.

When a step is interrupted
--------------------------
A signal handler's exception may end any step of a write in the middle, also one inside the policy, and a
policy of the user's may raise. `_unsure` is set before the first of such steps and taken back after the
last. Whoever finds it set makes the policy begin anew with what is held, and counts the bytes again.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from math import inf
from typing import Any, Final, final

from cachekit.errors import CacheClosedError, CacheError
from cachekit.model.types import RemovalCause
from cachekit.runtime.clock import Clock
from cachekit.tiers.base import Fence
from cachekit.tiers.fences import SharedFence
from cachekit.tiers.memory.entry import GONE, MemoryEntry
from cachekit.tiers.memory.eviction.base import EvictionPolicy, LockFreeHits
from cachekit.tiers.memory.sizing import ByteBound
from cachekit.tiers.memory.store import Store
from cachekit.tiers.memory.write_lock import Removed

# An Enum's members are looked up by code of Python's own, which shows.
_REPLACED: Final = RemovalCause.REPLACED
_EVICTED: Final = RemovalCause.EVICTED

_BATCH: Final = 128  # hits that wait before one of them takes the lock

# Which store a policy belongs to, by its identity: the store keeps it alive, so no other has it meanwhile.
_owners: weakref.WeakValueDictionary[int, PolicyStore] = weakref.WeakValueDictionary()


@final
class _Weighed(MemoryEntry):
    """An entry that knows what it counts for."""

    __slots__ = ("weight",)

    weight: int


@final
class _LeastRecent:
    """LRU for a store that is bounded in bytes: the order is the dict's, as in `Store`."""

    __slots__ = ("_entries", "hit", "hit_unlocked")

    def __init__(self, entries: OrderedDict[str, MemoryEntry]) -> None:
        self._entries = entries
        self.hit = self.hit_unlocked = entries.move_to_end

    def begin(self, capacity: int) -> None:
        """See `EvictionPolicy`."""

    def insert(self, key: str, deadline: float) -> None:
        """See `EvictionPolicy`."""

    def prolong(self, key: str, deadline: float) -> None:
        """See `EvictionPolicy`."""

    def evict(self, incoming: str) -> str:  # noqa: ARG002
        """See `EvictionPolicy`."""
        while True:
            try:
                return next(iter(self._entries))
            except RuntimeError:  # a hit moved an entry between the two steps
                continue

    def remove(self, key: str) -> None:
        """See `EvictionPolicy`."""


@final
class PolicyStore(Store):
    """`Store` with another order than LRU, a bound in bytes, or both.

    Args:
        max_size: the most entries.
        longest: seconds that it keeps any entry at the most; infinity for no such limit.
        now: the monotonic clock.
        cleanup_interval: seconds between sweeps; None for no sweeps.
        policy: who leaves; it belongs to this store from now on. None is LRU.
        bound: of its bytes; None is no bound.

    Raises:
        ValueError: the policy belongs to another store.
    """

    __slots__ = ("_bound", "_hits", "_limit", "_policy", "_unsure", "_weight")

    def __init__(
        self,
        max_size: int,
        longest: float,
        clock: Clock,
        cleanup_interval: float | None,
        *,
        policy: EvictionPolicy | None,
        bound: ByteBound | None,
    ) -> None:
        super().__init__(max_size, longest, clock, cleanup_interval)
        self._policy: EvictionPolicy = _LeastRecent(self._entries) if policy is None else policy
        self._bound = bound
        self._limit: float = inf if bound is None else bound.limit
        self._weight = 0
        self._unsure = False
        self._hits: deque[str] = deque()
        if _owners.setdefault(id(self._policy), self) is not self:
            raise ValueError(
                f"{policy!r} belongs to another cache already; give each cache a policy of its own, "
                f"or its class as the strategy"
            )
        self._policy.begin(max_size)
        if isinstance(self._policy, LockFreeHits):
            self.touch = self._policy.hit_unlocked
        else:
            self.touch = _queueing(self._hits, weakref.ref(self))

    @property
    def weight(self) -> int | None:
        """What all entries count for together; None if there is no bound."""
        return None if self._bound is None else self._weight

    # -- hits ---------------------------------------------------------------------------------------

    def touch_again(self, key: str) -> None:
        """See `Store.touch_again`; the policy is not told, which would take it for another hit."""
        self._entries[key]

    def _settle(self, gone: Removed | None = None) -> None:  # noqa: ARG002
        """Have the policy know all that has happened."""
        if self._unsure:
            self._begin_anew()
        self._unsure = True
        hits, entries, hit = self._hits, self._entries, self._policy.hit
        for _ in range(len(hits)):  # no more than these, or other threads' hits could keep us here
            key = hits.popleft()
            if key in entries:
                hit(key)
        self._unsure = False

    def _begin_anew(self) -> None:
        self._policy.begin(self.max_size)
        self._weight = 0
        self._hits.clear()
        for held in list(dict.values(self._entries)):
            self._policy.insert(held.key, held.deadline)
            self._weight += held.weight  # type: ignore[attr-defined]  # there are no others in here
        self._unsure = False

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
        """See `Store.put`; False also if the value is too large to be kept, which counts.

        Raises:
            CacheError: the policy chose a key that is not held.
        """
        now = self.now()
        if created is None:
            created = now
            ttl = min(ttl, self._longest)
        elif created + ttl > now + self._longest:
            ttl = now + self._longest - created
        if created + ttl <= now:
            return self._put_nothing(key, fence, news)
        try:
            weight = 0
            if self._bound is not None:
                # Without the lock: a weigher of the user's is anybody's code.
                weight = self._bound.weigh(key, value, tags)
                if weight > self._bound.largest:
                    self.refuse_if_closed()
                    self.counter.oversized += 1
                    self._put_nothing(key, fence, news)
                    return False
            held = _Weighed()
            held.key = key
            held.value = value
            held.created = held.last = created
            held.ttl = ttl
            held.stale = stale
            held.deadline = GONE
            held.accesses = 0
            held.tags = tags
            held.shared_fence = shared_fence
            held.weight = weight
            done = self._exclusively(self._put, held, fence, news)
        except CacheClosedError:
            raise
        except BaseException:
            # A weigher or a policy of the user's failed, or a signal came. A slower tier may have the
            # new value by now: the older one must not stay here.
            self._put_nothing(key, fence, news)
            raise
        if self._unswept and ttl != inf:
            self._begin_sweeping()
        return done is not False  # None: it is queued

    def _put(self, gone: Removed, held: _Weighed, fence: Fence | None, news: bool) -> bool:
        if fence is not None and not fence.is_current():
            self.counter.refusals += 1
            return False
        key = held.key
        if self._fenced and (fence is None or news):
            self._fences.break_key(key)
        if self._hits or self._unsure:
            self._settle()
        self._unsure = True
        entries, weight = self._entries, held.weight
        old: Any = entries.get(key)
        if old is None:
            if len(entries) >= self.max_size or self._weight + weight > self._limit:
                self._make_room(gone, key, weight, None)
        elif self._weight + weight - old.weight > self._limit:
            old = self._make_room(gone, key, weight, old)
        deadline = held.created + held.ttl
        if held.tags:
            self._tags.link(key, held.tags)
        if old is None:
            entries[key] = held
            self._weight += weight
            self._policy.insert(key, deadline)
        else:
            # An entry of its own, unlike in `Store`: the old one is handed out to listeners.
            old.deadline = GONE
            entries[key] = held
            self._weight += weight - old.weight
            if old.tags:
                self._tags.unlink(key, old.tags - held.tags)
            gone.append((old, _REPLACED))
            self._policy.prolong(key, deadline)
            self._policy.hit(key)
        held.deadline = deadline
        self.counter.sets += 1
        self._unsure = False
        return True

    def _make_room(self, gone: Removed, key: str, weight: int, old: Any) -> Any:
        """Evict until there is room for an entry; the one that it replaces, if that is still there."""
        entries = self._entries
        while True:
            chosen = self._policy.evict(key)
            # A policy may be anybody's, and choose what cannot even be looked up.
            victim: Any = entries.get(chosen) if isinstance(chosen, str) else None
            if victim is None:
                raise CacheError(f"the eviction policy {self._policy!r} chose {chosen!r}, which is not held")
            if victim is old:
                old = None
            victim.deadline = GONE
            del entries[chosen]
            self._weight -= victim.weight
            if victim.tags:
                self._tags.unlink(chosen, victim.tags)
            self.counter.evictions += 1
            gone.append((victim, _EVICTED))
            growth = weight if old is None else weight - old.weight
            if self._weight + growth <= self._limit and (old is not None or len(entries) < self.max_size):
                return old

    def _prolong(self, gone: Removed, key: str, life: float) -> bool:
        done = super()._prolong(gone, key, life)
        if done:
            self._settle()
            self._unsure = True
            self._policy.prolong(key, self._entries[key].deadline)
            self._unsure = False
        return done

    # -- removing -----------------------------------------------------------------------------------

    def _remove(self, gone: Removed, held: MemoryEntry, cause: RemovalCause) -> None:
        try:
            self._settle()
        finally:  # whatever the policy says to that, the entry leaves
            self._unsure = True
            super()._remove(gone, held, cause)
        self._weight -= held.weight  # type: ignore[attr-defined]
        self._policy.remove(held.key)
        self._unsure = False

    def _clear(self, gone: Removed) -> None:
        self._unsure = True
        super()._clear(gone)
        self._begin_anew()

    def check(self) -> None:
        """See `Store.check`; and that policy, bytes and entries agree."""
        super().check()
        with self._lock:
            self._settle()
            held: list[Any] = list(dict.values(self._entries))
        assert self._weight == sum(one.weight for one in held)
        assert self._weight <= self._limit


def _queueing(hits: deque[str], store: weakref.ref[PolicyStore]) -> Callable[[str], object]:
    """A hit that leaves its key in the queue; the one that makes it long has all of them told."""
    append = hits.append

    def touch(key: str) -> None:
        append(key)
        if len(hits) >= _BATCH:
            owner = store()
            if owner is not None:
                owner._exclusively(owner._settle)

    return touch
