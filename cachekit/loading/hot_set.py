"""HotSet: the keys that a process used most are in memory again after a restart (`reload_hot=True`).

Once a minute, at `close` and at the end of the process, the keys are stored as one record of a lower tier:
most used first, at most half of what memory holds. The file tier has it, or else the server. When a cache
begins, a thread copies their entries from the lower tiers into memory. No loader is called, no lookup counts,
and nothing is evicted for it. What expired or was invalidated is in no tier any more. A fence keeps out what
is written during the copy.

After the keys that had hits come those of the record before that are still in memory, and then those that
came into memory last. A key that was asked for once has no hit, because the first request was a miss. The
end is made of keys of functions that were not called, and of those of the record before that were evicted.

Results of a cached function are copied when the function is first called, because only then its version is
known. Results of other code stay away.

With prefetching, a second record has the keys that follow the clock (see `recurrence_record`).
"""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from heapq import nlargest
from itertools import islice
from typing import Any, Final, final

from cachekit.coherence.accessor import UNAVAILABLE, TierAccessor
from cachekit.coherence.tier_stack import FencedCopy, TierStack
from cachekit.errors import CacheClosedError, TierUnavailableError
from cachekit.model.counters import LookupTable
from cachekit.model.display import shown_error
from cachekit.model.entry import CacheEntry
from cachekit.model.types import FUNCTION_TAG, MISSING
from cachekit.runtime.background import BackgroundCall, RateLimitedLog
from cachekit.runtime.interrupts import raise_interrupt
from cachekit.runtime.scheduler import ScheduledTask, scheduler
from cachekit.tiers.fences import EntryFence, FirstHitFence
from cachekit.tiers.memory.entry import MemoryEntry
from cachekit.tiers.memory.sampling import SampledFence
from cachekit.tiers.memory.store import Store

#: The key of the record. It is no key of a cached function, because it has no version.
KEY: Final = "cachekit.hot_keys"

#: The key of the record of keys that follow the clock.
RECURRING_KEY: Final = "cachekit.recurring_keys"

_INTERVAL: Final = 60.0  # seconds between two records
_SECONDS: Final = 10.0  # that a copy of entries takes at most
_MOST_KEYS: Final = 100_000
_MOST_TEXT: Final = 4 << 20  # characters of all keys
_MOST_BYTES: Final = 64 << 20  # of stored values, in a memory tier without a bound in bytes
_PATIENCE: Final = 1.0  # seconds that `close` waits for a thread

#: A key, and the identity of the cached function whose result it has; "" for none.
_Hot = tuple[str, str]


@final
class HotSet:
    """The keys that one cache uses most, before and after a restart. Safe in any thread.

    Args:
        tiers: of the cache, with a lower tier.
        memory: its store.
        most_bytes: of values to copy: half of the bound of memory, or None without one.
        table: the lookups of the cache. Without any since the last record, none is stored.
        log: for failures.

    Attributes:
        reloaded: how many entries were copied into memory.
        record_recurring: Returns the record of keys that follow the clock; None without prefetching.
    """

    __slots__ = (
        "__weakref__", "_carried", "_copies", "_ended", "_functions", "_job", "_log", "_memory", "_most",
        "_most_bytes", "_reader", "_seen", "_table", "_taken", "_tier", "_tiers", "_waiting",
        "record_recurring", "reloaded",
    )  # fmt: skip

    def __init__(
        self,
        tiers: TierStack,
        memory: Store,
        most_bytes: int | None,
        table: LookupTable,
        log: RateLimitedLog,
    ) -> None:
        self._tiers = tiers
        self._memory = memory
        tier: TierAccessor[Any] | None = tiers.redis if tiers.file is None else tiers.file
        assert tier is not None, "the cache has checked that"
        self._tier = tier
        self._most = min(max(1, memory.max_size // 2), _MOST_KEYS)
        self._most_bytes = most_bytes
        self._table = table
        self._seen = (0, 0)
        self._log = log
        #: Keys of the last record that were copied, most used first. They follow what this process uses.
        self._carried: dict[str, str] = {}
        #: The keys of functions that were not called yet.
        self._waiting: dict[str, list[str]] = {}
        #: What the keys of functions begin with that were called before the record was read.
        self._functions: dict[str, tuple[str, ...]] = {}
        self._ended = False
        self.reloaded = 0
        self._taken = 0  # bytes of the stored values that were copied
        self.record_recurring: Callable[[], dict[str, Any]] | None = None
        self._copies: list[BackgroundCall] = []
        # Apart: it goes through all entries of memory, and writes to a disk or a server.
        self._job: ScheduledTask | None = scheduler.every(_INTERVAL, self.save, apart=True)
        _hot_sets.add(self)
        self._reader = self._begin(partial(self._copy_record))

    # -- after a restart ----------------------------------------------------------------------------

    def function_began(self, identity: str, prefix: str | None) -> None:
        """Copy the results of a cached function, which is called for the first time.

        Args:
            identity: of the function.
            prefix: What its keys begin with, with the version of its code; None for keys of a `key_func`.
        """
        begins = ("",) if prefix is None else (f"{prefix}(", f"{prefix}[")
        if not self._reader.is_over:
            # First: the thread that reads the record looks here after it has filled `_waiting`.
            self._functions[identity] = begins
        keys = self._waiting.pop(identity, None)
        if keys is not None and not self._ended:
            self._begin(partial(self._copy, _of_code(keys, identity, begins)))

    def _begin(self, copy: partial[None]) -> BackgroundCall:
        background = BackgroundCall(partial(self._run, copy))
        if background.start():
            self._copies = [one for one in self._copies if not one.is_over] + [background]
        return background

    def _run(self, copy: partial[None]) -> None:
        try:
            copy()
        except CacheClosedError:
            pass
        except Exception as error:  # noqa: BLE001  # of a weigher or a codec of the user's, or a tier of a strict cache
            raise_interrupt(error)
            self._log.add(f"not all entries that were used most are in memory again: {shown_error(error)}")

    def _copy_record(self) -> None:
        hot = self._stored()
        for key, identity in hot:
            if identity:
                self._waiting.setdefault(identity, []).append(key)
        self._copy([(key, identity) for key, identity in hot if not identity])
        while self._functions:
            identity, begins = self._functions.popitem()
            keys = self._waiting.pop(identity, None)
            if keys is not None:
                self._copy(_of_code(keys, identity, begins))

    def _stored(self) -> list[_Hot]:
        """Return the keys of the record. Other programs may write there, so each part is checked."""
        entry = self._tier.call(self._tier.tier.peek, KEY)
        record = None if entry is None or entry is UNAVAILABLE else entry.value
        if not isinstance(record, dict):
            return []
        keys, functions, numbers = (record.get(name) for name in ("keys", "functions", "function_of"))
        if not (isinstance(keys, list) and isinstance(functions, list) and isinstance(numbers, list)):
            return []
        found = []
        for key, number in islice(zip(keys, numbers, strict=False), self._most):
            if type(key) is str and type(number) is int and 0 <= number < len(functions):
                found.append((key, str(functions[number])))
        return found

    def _copy(self, hot: Sequence[_Hot]) -> None:
        clock = self._tiers.clock
        begun = clock.monotonic()
        # When the server notifies this cache, memory is cleared, and what was copied before would be lost.
        while self._tiers.is_beginning and not self._ended and clock.monotonic() - begun < _SECONDS:
            self._tiers.await_beginning()
        copies: list[tuple[FencedCopy, str]] = []
        for key, identity in hot:
            if self._ended or self._is_enough(len(copies)) or clock.monotonic() - begun > _SECONDS:
                break
            if self._tiers.peek_memory(key) is MISSING:
                copy = self._tiers.read_quietly(key)
                if copy is not None:
                    copies.append((copy, identity))
                    size = copy[0].size_bytes
                    self._taken += size
        # Most used last: every policy evicts what came first, if it was not used since.
        for copy, _ in reversed(copies):
            if self._ended or self._is_full():
                break
            key = copy[0].key
            if self._tiers.peek_memory(key) is MISSING:
                self._tiers.promote_copy(copy)
                self._memory.count_use(key)  # as new ones they would have to prove themselves once more
                self.reloaded += 1
        self._carried.update((copy[0].key, identity) for copy, identity in copies)

    def _is_enough(self, count: int) -> bool:
        most_bytes = _MOST_BYTES if self._most_bytes is None else self._most_bytes
        return self.reloaded + count >= self._most or self._taken >= most_bytes

    def _is_full(self) -> bool:
        # What this run has asked for stays.
        memory = self._memory
        weight, most_bytes = memory.weight, self._most_bytes
        return len(memory) >= memory.max_size or (
            weight is not None and most_bytes is not None and weight > 1.5 * most_bytes
        )

    # -- before a restart ---------------------------------------------------------------------------

    def save(self) -> None:
        """Store the keys that are used most, if there were requests since the last time."""
        seen = self._table.totals()
        if seen == self._seen or self._tier.breaker.refuses:
            return
        self._seen = seen
        numbers: dict[str, int] = {}
        keys, function_of, text = [], [], 0
        for key, identity in self._hot():
            text += len(key)
            if text > _MOST_TEXT:
                break
            keys.append(key)
            function_of.append(numbers.setdefault(identity, len(numbers)))
        try:
            if keys:
                self._store(KEY, {"keys": keys, "functions": list(numbers), "function_of": function_of})
            recurring = {} if self.record_recurring is None else self.record_recurring()
            if recurring:
                self._store(RECURRING_KEY, recurring)
        except CacheClosedError:
            pass  # by its owner, before the cache
        except Exception as error:  # noqa: BLE001  # of a codec of the user's, or a tier of a strict cache
            raise_interrupt(error)
            self._log.add(f"the keys that are used most were not stored: {shown_error(error)}")

    def _store(self, key: str, record: dict[str, Any]) -> None:
        self._tier.call(self._tier.tier.set, key, CacheEntry(key, record, self._tiers.clock.time()))

    def recurring(self) -> object:
        """Return the last record of keys that follow the clock; None if the tier is out."""
        try:
            entry = self._tier.call(self._tier.tier.peek, RECURRING_KEY)
        except TierUnavailableError:  # of a strict cache
            return None
        if entry is UNAVAILABLE:
            return None
        return {} if entry is None else entry.value

    def _hot(self) -> Sequence[_Hot]:
        now, shared = self._memory.time.monotonic(), self._tiers.file is not None
        carried = self._carried.copy()

        def use(held: MemoryEntry) -> tuple[int, bool, float]:
            return held.accesses, held.key in carried, held.last

        live = [
            held
            for held in self._memory.all_held()
            # With a file tier, a copy without a shared fence is in memory only.
            if now < held.deadline and (not shared or _has_copy(held.shared_fence))
        ]
        hot = dict(map(_with_function, nlargest(self._most, live, key=use)))
        waiting = [(key, identity) for identity, keys in self._waiting.copy().items() for key in keys]
        for key, identity in [*waiting, *carried.items()]:
            if len(hot) >= self._most:
                break
            hot.setdefault(key, identity)
        return list(hot.items())

    def close(self) -> None:
        """Store the keys, and end the work in the background. A second call does nothing."""
        job, self._job = self._job, None
        if job is None:
            return
        self._ended = True
        job.cancel()
        for copy in self._copies:
            copy.wait(_PATIENCE)
        self.save()


def _of_code(keys: Sequence[str], identity: str, begins: tuple[str, ...]) -> list[_Hot]:
    """Return the keys that begin with one of these; the others are of code that was edited since."""
    return [(key, identity) for key in keys if key.startswith(begins)]


def _has_copy(fence: EntryFence | None) -> bool:
    while isinstance(fence, (FirstHitFence, SampledFence)):
        fence = fence.fence
    return fence is not None


def _with_function(held: MemoryEntry) -> _Hot:
    for tag in held.tags:
        if tag.startswith(FUNCTION_TAG):
            return held.key, tag[len(FUNCTION_TAG) :]
    return held.key, ""


#: The hot sets of open caches. Few programs close their caches.
_hot_sets: weakref.WeakSet[HotSet] = weakref.WeakSet()


@atexit.register
def _save_at_exit() -> None:
    for hot_set in list(_hot_sets):
        hot_set.close()
