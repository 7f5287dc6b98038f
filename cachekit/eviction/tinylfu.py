from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar, final

from cachekit.eviction.sketch import FrequencySketch

K = TypeVar("K", bound=Hashable)

_WINDOW: Final = 0.01
_PROTECTED: Final = 0.8
_SAMPLE: Final = 10
_STEP: Final = 0.0625
_DECAY: Final = 0.98
_RESTART: Final = 0.05


@final
class WTinyLfu(Generic[K]):
    def __init__(self) -> None:
        self.begin(1)

    def begin(self, capacity: int) -> None:
        self._window: OrderedDict[K, None] = OrderedDict()
        self._probation: OrderedDict[K, None] = OrderedDict()
        self._protected: OrderedDict[K, None] = OrderedDict()
        self._sketch = FrequencySketch()
        self._room = capacity
        self._share = _WINDOW
        self._step = _STEP
        self._hits = self._misses = 0
        self._rate = 0.0

    def insert(self, key: K, deadline: float) -> None:
        self._sketch.add(key)
        self._window[key] = None
        self._misses += 1
        if self._hits + self._misses >= _SAMPLE * self._room:
            self._climb()

    def hit(self, key: K) -> None:
        self._sketch.add(key)
        self._hits += 1
        if key in self._window:
            self._window.move_to_end(key)
        elif key in self._protected:
            self._protected.move_to_end(key)
        else:
            del self._probation[key]
            self._protected[key] = None
            self._demote()
        if self._hits + self._misses >= _SAMPLE * self._room:
            self._climb()

    def _demote(self) -> None:
        most = (self._room - self._window_size()) * _PROTECTED
        while len(self._protected) > most:
            self._probation[self._protected.popitem(last=False)[0]] = None

    def _window_size(self) -> int:
        return max(1, int(self._share * self._room))

    def evict(self, incoming: K) -> K:
        room = len(self._window) + len(self._probation) + len(self._protected)
        if room != self._room:
            self._room = room
        self._sketch.resize(room)
        candidate = None
        while len(self._window) >= self._window_size():
            candidate = self._window.popitem(last=False)[0]
            self._probation[candidate] = None
        victim = next(iter(self._probation or self._protected or self._window))
        if candidate is not None and candidate != victim:
            if self._sketch.estimate(candidate) <= self._sketch.estimate(victim):
                victim = candidate
        self.remove(victim)
        return victim

    def remove(self, key: K) -> None:
        for s in (self._window, self._probation, self._protected):
            if key in s:
                del s[key]
                return

    def prolong(self, key, deadline):
        pass

    def _climb(self) -> None:
        rate = self._hits / (self._hits + self._misses)
        change = rate - self._rate
        if change < 0:
            self._step = -self._step
        amount = self._step
        if abs(change) >= _RESTART:
            self._step = _STEP if amount >= 0 else -_STEP
        else:
            self._step = amount * _DECAY
        self._rate = rate
        self._hits = self._misses = 0
        self._share = min(max(self._share + amount, _WINDOW), 0.8)
        self._demote()
        # a window that grew takes from probation
        w = self._window_size()
        while len(self._window) < w and (self._probation or self._protected):
            src = self._probation or self._protected
            self._window[src.popitem(last=False)[0]] = None
