"""W-TinyLFU: admit an entry only if it was requested more often than the entry that it replaces."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar, final

from cachekit.tiers.memory.eviction.sketch import FrequencySketch

K = TypeVar("K", bound=Hashable)

_LEAST_WINDOW: Final = 0.02  # share of the capacity; also the initial window
_MOST_WINDOW: Final = 0.8
_PROTECTED: Final = 0.8  # share of the main part
_SAMPLE: Final = 6  # requests per entry between two measurements of the hit ratio
_STEP: Final = 0.05  # share of the capacity by which the window changes
_ONWARD: Final = 0.98  # factor of the step in the same direction
_BACK: Final = 0.6  # factor of the step when it turns back
_UPHEAVAL: Final = 0.05  # a change of the hit ratio that restores full steps
_FIRST: Final = 1024  # entries that the sketch has room for at first


@final
class WTinyLfu(Generic[K]):
    """W-TinyLFU with an adaptive window.

    From Einziger, Friedman, Manes, "TinyLFU: A Highly Efficient Cache Admission Policy", ACM Transactions
    on Storage 13 (2017), with the hill climbing of Einziger, Eytan, Friedman, Manes, "Adaptive Software
    Cache Management", Middleware '18.

    A sketch (see `FrequencySketch`) counts how often keys were requested recently, whether held or not. The
    cache has two parts. New entries enter the window, an LRU queue. An entry that does not fit into the
    window any more becomes a candidate for the main part. If the candidate was requested more often than
    the main part's own victim, the victim is evicted, otherwise the candidate. So the main part keeps
    popular entries, a scan does not get past the window, and the window gives a new entry time for a
    second request.

    The main part is a segmented LRU. An entry starts on probation and becomes protected when it is
    requested there. It returns to probation when the protected entries exceed four fifths. The victim is
    the least recently requested entry on probation.

    The best size of the window depends on the requests: most of the capacity for requests that come in
    bursts, almost nothing for steadily popular keys. So after every six requests per entry the hit ratio is
    compared with the previous one. If the last change of the window has helped, the window continues to
    grow or shrink; otherwise it turns back. The steps become smaller, above all when it turns. They are
    full steps again when the ratio changes by more than five points. The window starts at its minimum, two
    hundredths, which suits steadily popular keys, and grows to at most four fifths.

    The structure is that of the papers. The constants of the hill climbing and of the sketch are our own,
    chosen on the traces of docs/eviction.md. Caffeine, which the authors maintain, also admits a candidate
    at random now and then, against attackers whose keys share counters. Here the hashes are secret.

    A hit counts in the sketch and moves the entry, so hits come in batches under the lock.
    """

    __slots__ = (
        "_capacity", "_divided", "_held", "_hits", "_misses", "_most_protected", "_most_window", "_probation",
        "_protected", "_ratio", "_sample", "_share", "_sketch", "_sketched", "_step", "_window",
    )  # fmt: skip

    def __init__(self) -> None:
        self.begin(1)

    def begin(self, capacity: int) -> None:
        self._window: OrderedDict[K, None] = OrderedDict()
        self._probation: OrderedDict[K, None] = OrderedDict()
        self._protected: OrderedDict[K, None] = OrderedDict()
        self._capacity = capacity
        self._held = 0
        self._sketched = min(capacity, _FIRST)
        self._sketch = FrequencySketch(self._sketched)
        self._share = _LEAST_WINDOW
        self._step = -_STEP
        self._ratio = 0.0
        self._hits = self._misses = 0
        self._divide(capacity)

    def _divide(self, capacity: int) -> None:
        self._divided = capacity
        self._sample = _SAMPLE * capacity
        self._most_window = max(1, int(self._share * capacity))
        self._most_protected = int((capacity - self._most_window) * _PROTECTED)

    def insert(self, key: K, deadline: float) -> None:  # noqa: ARG002
        self._misses += 1
        self._held += 1
        if self._held > self._sketched:
            self._sketched = min(2 * self._sketched, self._capacity)
            self._sketch.resize(self._sketched)
        self._sketch.add(key)
        self._window[key] = None
        if len(self._window) > self._most_window:
            self._shrink_window_to(self._most_window)
        if self._hits + self._misses >= self._sample:
            self._climb()

    def hit(self, key: K) -> None:
        self._hits += 1
        self._sketch.add(key)
        protected = self._protected
        if key in protected:
            protected.move_to_end(key)
        elif key in self._window:
            self._window.move_to_end(key)
        else:
            del self._probation[key]
            protected[key] = None
            if len(protected) > self._most_protected:
                self._demote()
        if self._hits + self._misses >= self._sample:
            self._climb()

    def prolong(self, key: K, deadline: float) -> None:
        pass

    def evict(self, incoming: K) -> K:  # noqa: ARG002
        if self._held != self._divided:
            self._divide(self._held)
            self._demote()
        # One place less, for the incoming entry.
        candidate = self._shrink_window_to(self._most_window - 1)
        if candidate is None:  # entries were removed from the window
            candidate = next(iter(self._window), None)
        victims = iter(self._probation)
        victim = next(victims, None)
        if victim is not None and victim == candidate:
            victim = next(victims, None)
        if victim is None:
            victim = next(iter(self._protected), None)
        if victim is None or (
            candidate is not None and self._sketch.estimate(candidate) <= self._sketch.estimate(victim)
        ):
            victim = candidate
        assert victim is not None, "evict is called only while something is held"
        self.remove(victim)
        return victim

    def remove(self, key: K) -> None:
        for part in (self._probation, self._window, self._protected):
            if key in part:
                del part[key]
                self._held -= 1
                return
        raise KeyError(key)

    def _shrink_window_to(self, most: int) -> K | None:
        # Returns the last key that moves to probation.
        key = None
        while len(self._window) > most:
            key, _ = self._window.popitem(last=False)
            self._probation[key] = None
        return key

    def _demote(self) -> None:
        # Back to probation, until the protected part has its size.
        while len(self._protected) > self._most_protected:
            self._probation[self._protected.popitem(last=False)[0]] = None

    def _climb(self) -> None:
        # Continues in the direction that helped, or turns back.
        ratio = self._hits / (self._hits + self._misses)
        change = ratio - self._ratio
        self._step *= _ONWARD if change >= 0 else -_BACK
        if abs(change) >= _UPHEAVAL:
            self._step = _STEP if self._step > 0 else -_STEP
        self._share = min(max(self._share + self._step, _LEAST_WINDOW), _MOST_WINDOW)
        self._ratio = ratio
        self._hits = self._misses = 0
        self._divide(self._divided)
        self._shrink_window_to(self._most_window)
        self._demote()
        while len(self._window) < self._most_window and self._probation:
            self._window[self._probation.popitem(last=False)[0]] = None
