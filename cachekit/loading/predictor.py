"""Predictor: learns which key follows which, and says which keys to prefetch, within a bound on the waste.

It is fed with the misses as they would be without it: misses, and first hits on prefetched entries. A row for
each key has its two most frequent successors. A successor is predicted if it came at least twice, and in at
least two of three cases. Three guards bound what that may cost:

- A budget. Each prefetch takes one from it. It begins with 32, grows by one in 200 requests, and gets back
  1.25 for each prefetch that was useful. A miss of an entry that a prefetch pushed out takes one, too.
- A key that was predicted twice in a row, and not requested, is tried one time in 16.
- At most a tenth of the memory tier is unproven: prefetched, and not requested yet.

The number of keys ahead follows the latency: it doubles while most of the useful prefetches are late, which
means that the request comes before the value.

The keys that follow the clock (see `recurrence`) are prefetched within the same guards.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, final

from cachekit.loading.recurrence import Recorded, Recurrence, is_over
from cachekit.loading.successors import SuccessorRows
from cachekit.runtime.fork import ForkSafeLock
from cachekit.runtime.reentrant_lock import RLock

_FIRST: Final = 32.0  # the budget of a new predictor
_REQUESTS: Final = 200  # that add one to it
_MOST: Final = 4096.0  # that it may grow to
_WRONG: Final = 2  # wrong predictions in a row from which a key is tried rarely
_RARELY: Final = 16
_JUDGED: Final = 32  # useful and late prefetches between two judgements of the depth
_LIFE: Final = 8  # sizes of memory in requests, after which an unproven entry counts as wasted
_FLOWS: Final = 256  # threads and tasks whose last key is known


class PrefetchInfo(NamedTuple):
    """What prefetching has done for a cached function, a region or a cache, in this process."""

    issued: int  #: prefetches that were begun
    useful: int  #: whose entry was in memory when it was requested
    late: int  #: whose key was requested while it was loaded; they save waiting, not loads
    wasted: int  #: which failed, or whose entry left memory, or grew old, without a request
    pushed_out: int  #: misses of entries that were evicted for a prefetched one
    saved_loads_net: int  #: loads that useful ones saved, less those of wasted ones and of `pushed_out`
    depth: int  #: keys ahead, at the moment
    paused: str  #: why no prefetch would be begun now; empty if one would
    clock_foreseen: int = 0  #: keys that were foreseen for a minute, and not in memory before it
    clock_right: int = 0  #: those of them that were asked for in that minute or the next one
    clock_issued: int = 0  #: the part of `issued` for keys that follow the clock
    clock_useful: int = 0  #: the part of `useful` for keys that follow the clock
    clock_active: bool = False  #: whether keys that follow the clock are prefetched, which takes a proof


class _Prefetched:
    """A prefetch whose use is not known yet."""

    __slots__ = ("begun", "has_landed", "is_load", "minute")

    def __init__(self, begun: int, minute: int | None = None) -> None:
        self.begun = begun  # in requests
        self.minute = minute  # for which the clock foresees it
        self.has_landed = False
        self.is_load = False


@final
class Unproven:
    """The prefetched entries of one cache that no request has asked for. They share a tenth of its memory."""

    __slots__ = ("count", "limit")

    def __init__(self, size: int) -> None:
        self.limit = max(1, size // 10)
        self.count = 0


@final
class PrefetchCounters:
    """What the predictors of one cache have counted together."""

    __slots__ = ("issued", "late", "useful", "wasted")

    def __init__(self) -> None:
        self.issued = 0
        self.useful = 0
        self.late = 0
        self.wasted = 0

    def as_dict(self) -> dict[str, int]:
        """Return the counters under their names in `CacheStats`."""
        names = {"prefetches": self.issued, "prefetch_hits": self.useful}
        return names | {"prefetches_late": self.late, "prefetches_wasted": self.wasted}


@final
class Predictor:
    """The successors of the keys of one function, region or cache. Safe in any thread.

    Args:
        rows: The most keys whose successors it knows.
        depth: The most keys ahead.
        max_waste: the share of useful prefetches that may be wasted, 0 to 1.
        size: the entries that the memory tier holds.
        unproven: of the cache.
        totals: of the cache.
        may_begin: Returns whether a key can be prefetched.
        recurrence: the keys that follow the clock; None if these are not prefetched.

    It calls nothing while it holds its lock, because a store may call it under its own.
    """

    __slots__ = (
        "__weakref__", "_back", "_budget", "_clock_issued", "_clock_useful", "_deepest", "_depth",
        "_fork_guard", "_issued", "_judged_late", "_judged_useful", "_last", "_late", "_lock", "_may_begin",
        "_prefetched", "_pushed_out", "_pushed_out_misses", "_recurrence", "_requests", "_rows",
        "_rows_limit", "_saved", "_size", "_totals", "_unproven", "_useful", "_wasted", "_wrong",
    )  # fmt: skip

    def __init__(
        self,
        rows: int,
        depth: int,
        max_waste: float,
        size: int,
        unproven: Unproven,
        totals: PrefetchCounters,
        may_begin: Callable[[str], bool] = bool,
        recurrence: Recurrence | None = None,
    ) -> None:
        self._rows = SuccessorRows(rows)
        self._recurrence = recurrence
        self._rows_limit = rows
        self._deepest = depth
        self._depth = 1
        self._back = 1 + max_waste
        self._size = size
        self._unproven = unproven
        self._totals = totals
        self._may_begin = may_begin
        self._budget = _FIRST
        self._requests = 0
        self._last: OrderedDict[int, str] = OrderedDict()
        self._prefetched: OrderedDict[str, _Prefetched] = OrderedDict()
        self._pushed_out: OrderedDict[str, int] = OrderedDict()
        self._wrong: OrderedDict[str, int] = OrderedDict()
        self._issued = self._useful = self._late = self._wasted = self._pushed_out_misses = self._saved = 0
        self._judged_late = self._judged_useful = 0
        self._clock_issued = self._clock_useful = 0
        self._lock = RLock()  # a signal handler may ask for a key
        self._fork_guard = ForkSafeLock(self._lock)

    # -- what callers do ----------------------------------------------------------------------------

    def missed(self, key: str, flow: int, requests: int, minute: int | None = None) -> list[str]:
        """Note a miss, and return the keys to prefetch.

        Args:
            key: the key.
            flow: The thread or task; each has a sequence of its own.
            requests: how many there were, hits included.
            minute: since 1970, if the clock is followed.
        """
        with self._lock:
            self._pass(requests)
            one = self._prefetched.get(key)
            if one is not None and not one.has_landed:
                self._settle(key)
                self._late += 1
                self._totals.late += 1
                self._budget += 1
                if one.minute is None:
                    self._judged_late += 1
                    self._judge()
                else:
                    self._judge_clock(True)
            elif one is not None:  # it left memory, and the store has not said so yet
                self._waste(key)
            pushed = self._pushed_out.pop(key, None)
            if pushed is not None and requests - pushed <= self._size:
                self._pushed_out_misses += 1
                self._saved -= 1
                self._budget -= 1
            if minute is not None and self._recurrence is not None:
                self._recurrence.wanted(key, minute)
            return self._follow(key, flow)

    def hit(self, key: str, flow: int, minute: int | None = None) -> list[str]:
        """Note the first hit of a prefetched entry, and return the keys to prefetch."""
        with self._lock:
            if minute is not None and self._recurrence is not None:
                self._recurrence.wanted(key, minute)
            return self._follow(key, flow) if self.used(key) else []

    def used(self, key: str) -> bool:
        """Note that a prefetched entry was hit; return False if that is known."""
        with self._lock:
            one = self._settle(key)
            if one is None:
                return False
            self._useful += 1
            self._totals.useful += 1
            self._saved += one.is_load
            self._budget = min(_MOST, self._budget + self._back)
            self._wrong.pop(key, None)
            if one.minute is None:
                self._judged_useful += 1
                self._judge()
            else:
                self._clock_useful += 1
                self._judge_clock(True)
            return True

    def _pass(self, requests: int) -> None:
        """Let time pass, which is counted in requests."""
        if requests > self._requests:
            self._budget = min(_MOST, self._budget + (requests - self._requests) / _REQUESTS)
            self._requests = requests
        oldest = requests - _LIFE * self._size
        while self._prefetched:
            key, one = next(iter(self._prefetched.items()))
            if one.begun >= oldest or not one.has_landed:
                break
            self._waste(key)

    def _follow(self, key: str, flow: int) -> list[str]:
        """Learn that the key came next in its flow, and return the keys that follow it."""
        last = self._last.pop(flow, None)
        if last is None and self._last:  # a new thread or task, which another one has begun
            last = next(reversed(self._last.values()))
        self._last[flow] = key
        if len(self._last) > _FLOWS:
            self._last.popitem(last=False)
        rows = self._rows
        if last is not None and last != key:
            rows.used(last).add(key)
        chosen: list[str] = []
        following = key
        for _ in range(self._depth):
            known = rows.get(following)
            following = "" if known is None else known.next()
            if not following or following == key or following in chosen:
                break
            if following not in self._prefetched and self._may_begin(following) and self._is_worth(following):
                if not self._has_budget():
                    break
                self._take(following, None)
                chosen.append(following)
        return chosen

    def _has_budget(self) -> bool:
        return self._budget >= 1 and self._unproven.count < self._unproven.limit

    def _take(self, key: str, minute: int | None) -> None:
        self._budget -= 1
        self._unproven.count += 1
        self._prefetched[key] = _Prefetched(self._requests, minute)

    def _is_worth(self, key: str) -> bool:
        wrong = self._wrong.get(key, 0)
        if wrong < _WRONG:
            return True
        self._wrong[key] = wrong + 1
        return (wrong + 1 - _WRONG) % _RARELY == 0

    def _judge(self) -> None:
        judged = self._judged_late + self._judged_useful
        if judged >= _JUDGED:
            if 2 * self._judged_late > judged:
                self._depth = min(2 * self._depth, self._deepest)
            elif not self._judged_late:
                self._depth = max(self._depth // 2, 1)
            self._judged_late = self._judged_useful = 0

    # -- what follows the clock ---------------------------------------------------------------------

    def due(self, minute: int, now: int) -> list[str]:
        """Return the keys that the clock foresees for a minute, and judge those of earlier ones.

        Args:
            minute: the one that comes next.
            now: the present one.
        """
        recurrence = self._recurrence
        if recurrence is None:
            return []
        with self._lock:
            # An entry that the clock has foreseen must not stay unproven until memory is full.
            for key, one in list(self._prefetched.items()):
                if one.minute is not None and is_over(one.minute, now):
                    self._waste(key)
            recurrence.pass_time(now)
            return recurrence.due(minute)

    def foresee(self, keys: Sequence[str], minute: int) -> list[str]:
        """Return those of the keys that are due which are to be prefetched; the others are only noted.

        Args:
            keys: that memory does not have.
            minute: for which they are due.
        """
        recurrence, chosen = self._recurrence, list[str]()
        assert recurrence is not None, "no key is due without it"
        with self._lock:
            for key in keys:
                if key in self._prefetched:
                    continue
                if (
                    recurrence.is_proven
                    and self._has_budget()
                    and self._may_begin(key)
                    and self._is_worth(key)
                ):
                    self._take(key, minute)
                    self._clock_issued += 1
                    chosen.append(key)
                else:
                    recurrence.expect(key, minute)
        return chosen

    def recurs(self, key: str) -> bool:
        """Return whether a key may follow the clock."""
        return self._recurrence is not None and key in self._recurrence

    def _judge_clock(self, is_right: bool) -> None:
        if self._recurrence is not None:
            self._recurrence.judge(is_right, prefetched=True)

    def recorded(self) -> tuple[list[int], Iterator[Recorded]] | None:
        """Return what is known of the keys that follow the clock, to be recorded."""
        if self._recurrence is None:
            return None
        with self._lock:
            return self._recurrence.proof, self._recurrence.recorded()

    def restore(self, proof: object, rows: Sequence[Recorded], now: int) -> None:
        """Add what an earlier process has recorded."""
        if self._recurrence is not None:
            with self._lock:
                for key, minutes in rows:
                    self._recurrence.restore(key, minutes, now)
                self._recurrence.restore_proof(proof)

    # -- what became of prefetches ------------------------------------------------------------------

    def is_wanted(self, key: str) -> bool:
        """Return whether the key is still to be prefetched: no caller has asked for it since."""
        with self._lock:
            return key in self._prefetched

    def begins(self) -> None:
        """Count a prefetch that begins."""
        with self._lock:
            self._issued += 1
            self._totals.issued += 1

    def landed(self, key: str, is_load: bool) -> None:
        """Note that the entry is in memory."""
        with self._lock:
            one = self._prefetched.get(key)
            if one is not None:
                one.has_landed, one.is_load = True, is_load

    def dropped(self, key: str) -> None:
        """Note that a prefetch is not carried out: memory has the key, or another caller loads it."""
        with self._lock:
            one = self._settle(key)
            if one is not None:
                self._budget += 1
                self._clock_issued -= one.minute is not None

    def lost(self, key: str, is_load: bool = False) -> None:
        """Note that a prefetch failed, or that its entry left memory."""
        with self._lock:
            one = self._prefetched.get(key)
            if one is not None:
                one.is_load |= is_load
                self._waste(key)

    def absent(self, key: str) -> None:
        """Note that no tier has a key that cannot be loaded. Such keys say nothing of those that can."""
        with self._lock:
            one = self._prefetched.get(key)
            if one is not None and one.minute is not None and self._recurrence is not None:
                one.minute = None
                self._recurrence.forget(key)
            self._waste(key)

    def pushed_out(self, key: str) -> None:
        """Note that an entry was evicted for a prefetched one."""
        with self._lock:
            self._pushed_out.pop(key, None)
            self._pushed_out[key] = self._requests
            if len(self._pushed_out) > self._size:
                self._pushed_out.popitem(last=False)

    def _settle(self, key: str) -> _Prefetched | None:
        one = self._prefetched.pop(key, None)
        if one is not None:
            self._unproven.count -= 1
        return one

    def _waste(self, key: str) -> None:
        one = self._settle(key)
        if one is not None:
            self._wasted += 1
            self._totals.wasted += 1
            self._saved -= one.is_load
            if one.minute is not None:
                self._judge_clock(False)
            wrong = self._wrong.pop(key, 0)
            self._wrong[key] = wrong + (wrong < _WRONG)
            if len(self._wrong) > self._rows_limit:
                self._wrong.popitem(last=False)

    # -- what there is to see -----------------------------------------------------------------------

    def info(self) -> PrefetchInfo:
        """Return what it has counted."""
        with self._lock:
            paused = ""
            if self._budget < 1:
                paused = "too many prefetches were wasted"
            elif self._unproven.count >= self._unproven.limit:
                paused = "a tenth of memory is prefetched and not requested yet"
            return PrefetchInfo(
                self._issued,
                self._useful,
                self._late,
                self._wasted,
                self._pushed_out_misses,
                self._saved,
                self._depth,
                paused,
                *self._clock_info(),
            )

    def _clock_info(self) -> tuple[int, int, int, int, bool]:
        recurrence = self._recurrence
        if recurrence is None:
            return 0, 0, 0, 0, False
        counts = recurrence.foreseen, recurrence.right, self._clock_issued, self._clock_useful
        return *counts, recurrence.is_proven

    def drop_pending(self) -> None:
        """Forget the prefetches that have not landed: this is a child of a fork, without their threads."""
        with self._lock:
            for key in [key for key, one in self._prefetched.items() if not one.has_landed]:
                self._settle(key)

    def close(self) -> None:
        """Forget all keys."""
        with self._lock:
            for key in list(self._prefetched):
                self._settle(key)
            self._rows.clear()
            if self._recurrence is not None:
                self._recurrence.clear()
            for keys in (self._last, self._pushed_out, self._wrong):
                keys.clear()
