"""W-TinyLFU: a newcomer must have been asked for more often than the one whose place it takes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar, final

from cachekit.tiers.memory.eviction.sketch import FrequencySketch

K = TypeVar("K", bound=Hashable)

_LEAST_WINDOW: Final = 0.02  # share of the room; what the window begins with
_MOST_WINDOW: Final = 0.8
_PROTECTED: Final = 0.8  # share of the main part
_SAMPLE: Final = 6  # requests per entry, between two looks at the hit ratio
_STEP: Final = 0.05  # share of the room by which the window changes
_ONWARD: Final = 0.98  # what becomes of the step on the way
_BACK: Final = 0.6  # and when it turns back
_UPHEAVAL: Final = 0.05  # a change of the hit ratio that calls for full steps again
_FIRST: Final = 1024  # entries that the sketch is made for before there are more


@final
class WTinyLfu(Generic[K]):
    """W-TinyLFU with an adaptive window.

    From Einziger, Friedman, Manes, "TinyLFU: A Highly Efficient Cache Admission Policy", ACM Transactions
    on Storage 13 (2017), with the hill climbing of Einziger, Eytan, Friedman, Manes, "Adaptive Software
    Cache Management", Middleware '18.

    A sketch (see `FrequencySketch`) counts how often keys were asked for lately, held or not. The room has
    two parts. New entries come into the window, an LRU queue. What the window has no room for becomes a
    candidate for the main part: if it was asked for more often than the main part's own victim, the victim
    leaves, otherwise the candidate does. So the main part keeps what is popular, a scan does not get past
    the window, and the window gives a newcomer time to be asked for again.

    The main part is a segmented LRU: an entry comes in on probation, is protected when it is asked for
    there, and goes back on probation when the protected ones are more than four fifths. The victim is the
    entry on probation that was asked for longest ago.

    How large the window should be depends on the requests: on ones that come in bursts it should be most
    of the room, on ones with steady favourites next to nothing. So after every six requests per entry the
    hit ratio is compared with that of the time before: the window goes on growing or shrinking if that has
    helped, and turns back if not, with steps that become smaller, above all when it turns; and
    full ones again when the ratio changes by more than five points. It begins with the least that it
    may have, two hundredths, which is right for steady favourites, and grows to four fifths at most.

    The structure is that of the papers; the constants of the climb and of the sketch are our own, chosen on
    the traces of docs/eviction.md. Caffeine, which the authors maintain, also admits a candidate by chance
    now and then, against attackers whose keys share counters; here the hashes are secret.

    A hit counts in the sketch and moves the entry, so hits come in batches under the lock.
    """

    __slots__ = (
        "_capacity", "_held", "_hits", "_misses", "_most_protected", "_most_window", "_probation",
        "_protected", "_ratio", "_room", "_sample", "_share", "_sketch", "_sketched", "_step", "_window",
    )  # fmt: skip

    def __init__(self) -> None:
        self.begin(1)

    def begin(self, capacity: int) -> None:
        """See `EvictionPolicy`."""
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

    def _divide(self, room: int) -> None:
        """Divide this much room between window, probation and protected."""
        self._room = room
        self._sample = _SAMPLE * room
        self._most_window = max(1, int(self._share * room))
        self._most_protected = int((room - self._most_window) * _PROTECTED)

    def insert(self, key: K, deadline: float) -> None:  # noqa: ARG002
        """See `EvictionPolicy`."""
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
        """See `EvictionPolicy`."""
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
        """See `EvictionPolicy`."""

    def evict(self, incoming: K) -> K:  # noqa: ARG002
        """See `EvictionPolicy`."""
        if self._held != self._room:
            self._divide(self._held)
            self._demote()
        # One place less, which is for the incoming one.
        candidate = self._shrink_window_to(self._most_window - 1)
        if candidate is None:  # the window lost entries otherwise
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
        """See `EvictionPolicy`."""
        for part in (self._probation, self._window, self._protected):
            if key in part:
                del part[key]
                self._held -= 1
                return
        raise KeyError(key)

    def _shrink_window_to(self, most: int) -> K | None:
        """Put what the window has too many on probation; the last of them."""
        key = None
        while len(self._window) > most:
            key, _ = self._window.popitem(last=False)
            self._probation[key] = None
        return key

    def _demote(self) -> None:
        """Put what the protected part has too many on probation."""
        while len(self._protected) > self._most_protected:
            self._probation[self._protected.popitem(last=False)[0]] = None

    def _climb(self) -> None:
        """Go on in the direction that helped, or turn back."""
        ratio = self._hits / (self._hits + self._misses)
        change = ratio - self._ratio
        self._step *= _ONWARD if change >= 0 else -_BACK
        if abs(change) >= _UPHEAVAL:
            self._step = _STEP if self._step > 0 else -_STEP
        self._share = min(max(self._share + self._step, _LEAST_WINDOW), _MOST_WINDOW)
        self._ratio = ratio
        self._hits = self._misses = 0
        self._divide(self._room)
        self._shrink_window_to(self._most_window)
        self._demote()
        while len(self._window) < self._most_window and self._probation:
            self._window[self._probation.popitem(last=False)[0]] = None
