"""A store that asks an eviction policy which entry to evict, and may be bounded in bytes.

It guarantees what `Store` does, except LRU order. It is a separate class so that plain LRU, which needs
neither, does not pay for it.

How a policy learns of hits
---------------------------
A `ReadsAccesses` policy reads the entries' own counts, so a hit does nothing for it. A hit calls a
`LockFreeHits` policy directly. For other policies a hit appends its key to a queue, which is
one atomic step under the GIL. The hit that fills the queue, or the next write, reports the queued hits to
the policy under the lock. No hit is lost. With one thread the policy receives every hit in order and in
time. With several threads the order of concurrent hits is arbitrary. On a free-threaded build `find` finds
nothing, so every hit is reported under the lock, in one of the two ways.

When a step is interrupted
--------------------------
An exception of a signal handler may end any step of a write, also inside the policy, and a user's policy
may raise. `_unsure` is set before the first of these steps and cleared after the last. An operation that
finds it set rebuilds the policy and the index of tags from the entries held, and sums the bytes again.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from math import inf
from typing import Any, Final, final

from cachekit.errors import CacheClosedError, CacheError
from cachekit.model.display import safe_repr, shown_value
from cachekit.model.types import RemovalCause
from cachekit.runtime.clock import Clock
from cachekit.runtime.interrupts import raise_interrupt
from cachekit.tiers.base import Fence
from cachekit.tiers.fences import PrivateFence, SharedFence
from cachekit.tiers.memory.entry import GONE, MemoryEntry
from cachekit.tiers.memory.eviction.base import EvictionPolicy, LockFreeHits, ReadsAccesses, WeighsEntries
from cachekit.tiers.memory.sampling import LOADED, WRITTEN, SampledFence
from cachekit.tiers.memory.sizing import ByteBound
from cachekit.tiers.memory.store import Store
from cachekit.tiers.memory.write_lock import Removed

# Reading a member of an Enum runs Python code, which is measurable.
_REPLACED: Final = RemovalCause.REPLACED
_EVICTED: Final = RemovalCause.EVICTED

_BATCH: Final = 128  # queued hits before one of them takes the lock

# The store of each policy, by the policy's id: the store keeps the policy alive, so the id is unique.
_owners: weakref.WeakValueDictionary[int, PolicyStore] = weakref.WeakValueDictionary()


@final
class _Weighed(MemoryEntry):
    """An entry with its weight, and how long its load took if that is known."""

    __slots__ = ("seconds", "weight")

    weight: int
    seconds: float | None


@final
class _LeastRecent:
    """LRU for a store that is bounded in bytes: the order is the dict's, as in `Store`."""

    __slots__ = ("_entries", "hit", "hit_unlocked")

    def __init__(self, entries: OrderedDict[str, MemoryEntry]) -> None:
        self._entries = entries
        self.hit = self.hit_unlocked = entries.move_to_end

    def begin(self, capacity: int) -> None:
        pass

    def insert(self, key: str, deadline: float) -> None:
        pass

    def prolong(self, key: str, deadline: float) -> None:
        pass

    def evict(self, incoming: str) -> str:  # noqa: ARG002
        while True:
            try:
                return next(iter(self._entries))
            except RuntimeError as error:  # a hit moved an entry between the two steps
                raise_interrupt(error)

    def remove(self, key: str) -> None:
        pass


@final
class PolicyStore(Store):
    """`Store` with another order than LRU, a bound in bytes, or both.

    Args:
        max_size: The maximum number of entries.
        longest: The maximum life of an entry in seconds; infinity for no limit.
        clock: The source of time.
        cleanup_interval: Seconds between two sweeps; None for no sweeps.
        policy: Chooses the entry to evict; it belongs to this store from now on. None means LRU.
        bound: The bound in bytes; None for no bound.

    Raises:
        ValueError: the policy belongs to another store.
    """

    __slots__ = ("_bound", "_hits", "_limit", "_per_tag", "_policy", "_reads", "_unsure", "_weigh", "_weight")

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
        limit = inf if bound is None else bound.limit
        super().__init__(max_size, longest, clock, cleanup_interval, limit)
        self._policy: EvictionPolicy = _LeastRecent(self._entries) if policy is None else policy
        self._bound = bound
        self._limit = limit
        self._per_tag = 0 if bound is None else bound.per_tag
        self._weight = 0
        self._unsure = False
        self._hits: deque[str] = deque()
        if _owners.setdefault(id(self._policy), self) is not self:
            raise ValueError(
                f"strategy must be a policy that no other cache has, not {safe_repr(policy)}; "
                f"create a policy for "
                f"each cache, or pass its class as the strategy"
            )
        self._reads: ReadsAccesses | None = None
        if isinstance(self._policy, ReadsAccesses):
            self._reads = self._policy
            self._reads.read_accesses(self._entries)
        #: For a policy that wants to know weights and load times.
        self._weigh = self._policy.weigh if isinstance(self._policy, WeighsEntries) else None
        self._policy.begin(max_size)
        if self._reads is not None:
            self.touch = len  # of a key: the quickest call that does nothing
        elif isinstance(self._policy, LockFreeHits):
            self.touch = self._policy.hit_unlocked
        else:
            self.touch = _queueing(self._hits, weakref.ref(self))

    @property
    def weight(self) -> int | None:
        """Return the weight of all entries and their tags; None if there is no bound."""
        return None if self._bound is None else self._weight + self._per_tag * len(self._tags)

    @property
    def policy(self) -> EvictionPolicy:
        """Return the policy, which belongs to this store."""
        return self._policy

    # -- hits ---------------------------------------------------------------------------------------

    def touch_again(self, key: str) -> None:
        """Look up a key without reporting a hit, which the policy would count twice."""
        self._entries[key]

    def _report_hits(self, removed: Removed | None = None) -> None:  # noqa: ARG002
        if self._unsure:
            self._rebuild()
        self._unsure = True
        hits, entries, hit = self._hits, self._entries, self._policy.hit
        for _ in range(len(hits)):  # no more than these, or hits of other threads could prolong the loop
            key = hits.popleft()
            if key in entries:
                hit(key)
        self._unsure = False

    def _rebuild(self) -> None:
        self._policy.begin(self.max_size)
        self._weight = 0
        self._hits.clear()
        self._tags.keep(self._entries)
        entries: list[Any] = list(dict.values(self._entries))  # all entries here are _Weighed
        for held in entries:
            if self._weigh is not None:
                self._weigh(held.key, held.weight, held.seconds)
            self._policy.insert(held.key, held.deadline)
            self._weight += held.weight
        self._unsure = False

    def seconds_of(self, key: str) -> float | None:
        """Return how long the load of the entry took; None if that is not known."""
        held: Any = self._entries.get(key)
        return None if held is None else held.seconds

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
        """Store a value as `Store.put` does; count it and return False if it is too large.

        Raises:
            CacheError: the policy chose a key that is not held.
        """
        now = self.time.monotonic()
        if created is None:
            created = now
            ttl = min(ttl, self._longest)
        elif created + ttl > now + self._longest:
            ttl = now + self._longest - created
        if created + ttl <= now:
            return self._put_nothing(key, fence, breaks_fences)
        try:
            weight = 0
            if self._bound is not None:
                # Without the lock, because a user's weigher may run any code.
                weight = self._bound.weigh(key, value, tags)
                if weight + self._per_tag * len(tags) > self._bound.largest:
                    self.refuse_if_closed()
                    self.counter.oversized += 1
                    self._put_nothing(key, fence, breaks_fences)
                    why = "it is too large for memory"
                    self.events.not_stored(self.time.monotonic(), "unstorable", key, why)
                    return False
            held = _Weighed()
            held.key = key
            held.calls = ()
            held.value = value
            held.created = held.last = created
            held.ttl = ttl
            held.stale = stale
            held.deadline = GONE
            held.accesses = 0
            held.tags = tags
            sampled = self.is_sampled(key)
            held.shared_fence = self._sampled_fence(key, shared_fence) if sampled else shared_fence
            held.weight = weight
            held.seconds = fence.seconds if isinstance(fence, PrivateFence) else None
            done = self._exclusively(self._put, held, fence, breaks_fences)
        except CacheClosedError:
            raise
        except BaseException:
            # A user's weigher or policy failed, or a signal came. A slower tier may have the new value
            # already, so the older one must not stay here.
            self._put_nothing(key, fence, breaks_fences)
            raise
        if self._unswept and ttl != inf:
            self._begin_sweeping()
        if sampled:
            self._wake()
        return done is not False  # None: the call is queued

    def _put(self, removed: Removed, held: _Weighed, fence: Fence | int | None, breaks_fences: bool) -> bool:
        if fence is not None and (
            fence != self.fences.changes if isinstance(fence, int) else not fence.is_current()
        ):
            self.counter.refusals += 1
            return False
        key = held.key
        if fence is None or breaks_fences:
            self._fences.break_key(key)
        if self._hits or self._unsure:
            self._report_hits()
        self._unsure = True
        entries, weight = self._entries, held.weight
        old: Any = entries[key] if key in entries else None  # noqa: SIM401
        live = -inf if old is None else old.deadline
        if old is None:
            if len(entries) >= self.max_size or self._weight + weight + self._of_tags(held) > self._limit:
                self._free_space(removed, held, None)
        elif self._weight + weight - old.weight + self._of_tags(held) > self._limit:
            old = self._free_space(removed, held, old)
        deadline = held.created + held.ttl
        if held.tags:
            self._tags.link(key, held.tags)
        if old is None:
            entries[key] = held
            self._weight += weight
            if self._weigh is not None:
                self._weigh(key, weight, held.seconds)
            self._policy.insert(key, deadline)
        else:
            # A new entry, unlike in `Store`, because listeners receive the old one.
            old.deadline = GONE
            if self._reads is not None:
                self._reads.count_hits(key)
            entries[key] = held
            self._weight += weight - old.weight
            if old.tags:
                self._tags.unlink(key, old.tags - held.tags)
            removed.append(old)
            removed.append(_REPLACED)
            if self._weigh is not None:
                if held.seconds is None:
                    held.seconds = old.seconds
                self._weigh(key, weight, held.seconds)
            self._policy.prolong(key, deadline)
            self._policy.hit(key)
        held.deadline = deadline
        self.counter.sets += 1
        self._unsure = False
        if isinstance(held.shared_fence, SampledFence):
            now = self.time.monotonic()
            asked = not (live > now) and (fence is not None or key in self._missed)
            self._note(LOADED if asked else WRITTEN, key, deadline, held.tags, weight, now, held.seconds)
        return True

    def _of_tags(self, held: _Weighed) -> int:
        # The weight of all tags, once an entry is stored.
        return self._per_tag * (len(self._tags) + (self._tags.missing(held.tags) if held.tags else 0))

    def _free_space(self, removed: Removed, held: _Weighed, old: Any) -> Any:
        # Evicts until an entry fits. Returns the entry that it replaces, or None if that was evicted too.
        entries, key, weight = self._entries, held.key, held.weight
        while entries:
            chosen = self._policy.evict(key)
            # A user's policy may choose a value that cannot even be looked up.
            victim: Any = entries.get(chosen) if isinstance(chosen, str) else None
            if victim is None:
                raise CacheError(
                    f"evict() of the policy must return a key that is held, not {shown_value(chosen)}; "
                    f"correct the eviction policy {self._policy!r}"
                )
            if victim is old:
                old = None
            victim.deadline = GONE
            del entries[chosen]
            self._weight -= victim.weight
            if victim.tags:
                self._tags.unlink(chosen, victim.tags)
            self.counter.evictions += 1
            removed.append(victim)
            removed.append(_EVICTED)
            growth = weight if old is None else weight - old.weight
            if self._weight + growth + self._of_tags(held) <= self._limit and (
                old is not None or len(entries) < self.max_size
            ):
                break
        return old

    def on_first_hit(self, key: str, report: Callable[[], object]) -> bool | None:
        """Do what `Store.on_first_hit` does; a policy that counts uses does not count that hit."""
        insert_ahead = getattr(self._policy, "insert_ahead", None)
        with self._lock:
            watched = super().on_first_hit(key, report)
            if watched and insert_ahead is not None:
                insert_ahead(key)
            return watched

    def count_use(self, key: str) -> None:
        """Let the policy count a use of the entry that was no lookup here."""
        self._exclusively(self._count_use, key)

    def _count_use(self, removed: Removed, key: str) -> None:  # noqa: ARG002
        self._report_hits()
        if key in self._entries:
            self._unsure = True
            self._policy.hit(key)
            self._unsure = False

    def _prolong(self, removed: Removed, key: str, life: float) -> bool:
        done = super()._prolong(removed, key, life)
        if done:
            self._report_hits()
            self._unsure = True
            self._policy.prolong(key, self._entries[key].deadline)
            self._unsure = False
        return done

    # -- removing -----------------------------------------------------------------------------------

    def _remove(self, removed: Removed, held: MemoryEntry, cause: RemovalCause) -> None:
        try:
            self._report_hits()
        finally:  # the entry leaves even if the policy raises
            self._unsure = True
            super()._remove(removed, held, cause)
        self._weight -= held.weight  # type: ignore[attr-defined]
        self._policy.remove(held.key)
        self._unsure = False

    def _clear(self, removed: Removed) -> None:
        self._unsure = True
        super()._clear(removed)
        self._rebuild()

    def check(self) -> None:
        """Assert what `Store.check` does, and that policy, bytes and entries agree."""
        super().check()
        with self._lock:
            self._report_hits()
            held: list[Any] = list(dict.values(self._entries))
        assert self._weight == sum(one.weight for one in held)
        assert (self.weight or 0) <= self._limit

    def report_queued_hits(self) -> None:
        """Report the queued hits to the policy, under the lock."""
        self._exclusively(self._report_hits)


def _queueing(hits: deque[str], store: weakref.ref[PolicyStore]) -> Callable[[str], object]:
    append = hits.append

    def touch(key: str) -> None:
        append(key)
        if len(hits) >= _BATCH:
            owner = store()
            if owner is not None:
                owner.report_queued_hits()

    return touch
