"""Simulates the requests of a sample of keys, at the size of a cache and at others, and under other policies.

Each is a miniature cache (see `miniatures`). From their hits come the estimates of a memory tier.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from math import inf, sqrt
from statistics import stdev
from typing import Any, Final, Literal, NamedTuple, TypeAlias, final

from cachekit.model.reports import LoadTimeGain, SizeEstimate
from cachekit.model.types import NO_TAGS, CacheStrategy
from cachekit.runtime.none_dict import NoneDict
from cachekit.tiers.memory.entry import MemoryEntry, TagIndex
from cachekit.tiers.memory.eviction.adaptive import SHAPES, Adaptive, Shape
from cachekit.tiers.memory.eviction.cost_aware import CostAware
from cachekit.tiers.memory.miniatures import PARTS, Miniature, miniature_of
from cachekit.tiers.memory.sampling import CLEAR, DROPPED, HITS, LIFE, LOADED, PATTERN, SPREAD, TAGS, WRITTEN

#: The sizes that are simulated, as multiples of the size of the cache.
FACTORS: Final = (0.5, 1, 2, 10)
_SAME: Final = 1  # the index of the size of the cache
#: One more, which tells whether the hit rate falls steeply at half of the size: a steep fall cannot be placed
#: better than by one to the root of the number of entries of a miniature.
_BELOW_HALF: Final = 0.4
_STUDENT: Final = 2.35  # standard errors of a 90 % interval of four parts
_ENOUGH: Final = 5  # sampled requests for each sampled entry, at least
_FEWEST: Final = 200  # sampled requests, at least
_SPARE: Final = 1024  # keys that are known and in no miniature
_CHECKPOINTS: Final = 64
_LEAST_ADAPTIVE: Final = 50  # entries of a miniature below which the shape does not change
_LEAST_STEP: Final = 50  # sampled requests between two decisions, at least; else half as many as entries
_LOOK: Final = 16  # notes after which a decision may be due
_FADE: Final = 0.97  # of a score, at each decision
_LEAD: Final = 0.003  # of the requests by which another shape must be ahead
_WARM: Final = 4  # sampled requests for each entry that a simulation begins with, before they count
_APART: Final = 1000  # requests between two checkpoints, at least
_LONGEST: Final = 256  # characters of a key that is kept as it is


@final
class CostComparison:
    """How much load time COST_AWARE would save beside the policy in use, at the same size.

    It begins with the first sampled value whose load time is known. Caches that nothing is loaded for have
    none, and pay nothing.

    Args:
        capacity: The maximum number of entries of its miniature.
        limit: The maximum weight; infinity for no limit.
        known: The sampled entries that the cache may hold, with which it begins.
    """

    __slots__ = ("_asked", "_hits", "_requests", "_saved", "miniature")

    def __init__(self, capacity: int, limit: float, known: Mapping[str, _Known]) -> None:
        self.miniature = Miniature(CostAware[str](), capacity, limit)
        for key, one in known.items():
            self.miniature.store(key, one.deadline, one.weight, one.seconds)
        self._asked = [0.0] * PARTS  # seconds that all loads would take without a cache, by part
        self._saved = [0.0] * PARTS  # that COST_AWARE saves more than the policy in use
        self._requests = 0
        self._hits = 0  # that COST_AWARE has more

    def count(self, part: int, seconds: float, same: bool, other: bool) -> None:
        """Count requests of a key: whether the policy in use served them, and whether COST_AWARE did."""
        self._requests += 1
        self._asked[part] += seconds
        if same != other:
            sign = 1 if other else -1
            self._saved[part] += sign * seconds
            self._hits += sign

    def count_again(self, part: int, seconds: float, number: int) -> None:
        """Count so many more requests of a key that both have served."""
        self._requests += number
        self._asked[part] += number * seconds

    def gain(self) -> LoadTimeGain | None:
        """Return what COST_AWARE would bring; None before it is known."""
        if self._requests < max(_FEWEST, _ENOUGH * len(self.miniature)) or not all(self._asked):
            return None
        parts = [saved / asked for saved, asked in zip(self._saved, self._asked, strict=True)]
        return LoadTimeGain(
            sum(self._saved) / sum(self._asked),
            _STUDENT * stdev(parts) / sqrt(PARTS),
            self._hits / self._requests,
        )


#: Hits, misses and sets of a cache.
Totals: TypeAlias = tuple[int, int, int]


@final
class ShapeChoice:
    """Chooses the shape of an `Adaptive` policy: one miniature for each shape, and scores that fade.

    Another shape must be ahead by a share of the requests, and by more than the parts of the sample differ.

    Args:
        entries: The maximum number of entries of a miniature.
        limit: Its maximum weight; infinity for no limit.
        shape: The shape that the policy has now.
        share: The share of the keys that is sampled.
    """

    __slots__ = (
        "_before", "_decided", "_noise", "_scores", "_step", "_weight", "lead", "miniatures", "shape",
    )  # fmt: skip

    def __init__(self, entries: float, limit: float, shape: Shape, share: float) -> None:
        capacity = max(1, int(entries + 0.5))
        self.shape = shape
        #: The share of the requests that it served more than the one before.
        self.lead = 0.0
        self.miniatures = []
        if capacity >= _LEAST_ADAPTIVE:
            for one in SHAPES:
                policy = Adaptive[str]()
                policy.shape = one
                self.miniatures.append(Miniature(policy, capacity, limit))
        self._step = max(_LEAST_STEP, capacity // 2)
        self._decided = 0
        #: By shape and part of the sample.
        self._before = [[0] * PARTS for _ in SHAPES]
        self._scores = [[0.0] * PARTS for _ in SHAPES]
        self._weight = 0.0
        #: The interval of a sum over the parts, for a standard deviation of one among them.
        self._noise = _STUDENT * sqrt(PARTS) * sqrt(1 - share)

    def is_due(self, requests: int) -> bool:
        """Return whether so many sampled requests are enough for another decision."""
        return requests - self._decided >= self._step

    def decide(self, requests: int) -> None:
        """Add what each shape has served to its score, and change the shape if another one leads."""
        for index, miniature in enumerate(self.miniatures):
            self._scores[index] = [
                _FADE * score + hits - before
                for score, hits, before in zip(
                    self._scores[index], miniature.hits, self._before[index], strict=True
                )
            ]
            self._before[index] = miniature.hits.copy()
        self._weight = _FADE * self._weight + requests - self._decided
        self._decided = requests
        best = max(range(len(SHAPES)), key=lambda index: sum(self._scores[index]))
        mine = self._scores[SHAPES.index(self.shape)]
        parts = [other - own for other, own in zip(self._scores[best], mine, strict=True)]
        lead = sum(parts)
        if lead > max(_LEAD * self._weight, self._noise * stdev(parts)):
            self.shape = SHAPES[best]
            self.lead = lead / self._weight

    def apply(self, miniatures: Iterable[Miniature]) -> None:
        """Give miniatures of other sizes the shape that is chosen."""
        for miniature in miniatures:
            miniature.take_shape(self.shape)


class _Checkpoint(NamedTuple):
    """The counts at one moment."""

    hits: int  #: of the cache itself
    misses: int
    sets: int
    noted: Sequence[int]  #: requests by part of the sample, without those of keys that were not stored
    loaded: int  #: sampled values that were stored after a lookup had missed
    written: int  #: and without a lookup
    simulated: Sequence[Sequence[int]]  #: hits by miniature and part


class _Known(NamedTuple):
    """The last entry that was stored under a sampled key."""

    deadline: float
    weight: int
    tags: frozenset[str]
    seconds: float | None = None  #: of its last load


@final
class Simulation:
    """The miniatures of one cache, and the estimate that they give. Not locked.

    A key that the cache itself has lost may still be held by a larger miniature. So what invalidates a key, a
    tag or a pattern is simulated too, whether or not the cache held it. What other processes invalidate is
    known only for entries that the cache holds.

    Args:
        strategy: The policy of the cache.
        size: Its maximum number of entries.
        max_bytes: Its bound in bytes; None for no bound.
        share: The share of the keys that is sampled, more than 0 to 1.
        totals: Hits, misses and sets of the cache before the first note.
        shape: The shape that the policy has now, if its strategy is ADAPTIVE.
    """

    __slots__ = (
        "_base", "_checkpoints", "_cold", "_costs", "_known", "_last", "_loaded", "_max_bytes",
        "_noted", "_now", "_share", "_size", "_strategy", "_tags", "_written", "choice", "miniatures",
    )  # fmt: skip

    def __init__(
        self,
        strategy: CacheStrategy,
        size: int,
        max_bytes: int | None,
        share: float,
        totals: Totals,
        shape: Shape | None = None,
    ) -> None:
        self._strategy = strategy
        self._size = size
        self._max_bytes = max_bytes
        self._costs: CostComparison | None = None
        self._share = share
        self.miniatures = [
            miniature_of(
                strategy,
                max(1, int(size * share * factor + 0.5) if share < 1 else int(size * factor)),
                inf if max_bytes is None else max_bytes * share * factor,
            )
            for factor in (*FACTORS, _BELOW_HALF)
        ]
        #: The choice of a shape, for ADAPTIVE.
        self.choice: ShapeChoice | None = None
        if shape is not None:
            self.choice = ShapeChoice(size * share, self.miniatures[_SAME].limit, shape, share)
            self.choice.apply(self.miniatures)
            self.miniatures += self.choice.miniatures
        self._known: NoneDict[str, _Known] = NoneDict()
        self._tags = TagIndex()
        self._loaded = self._written = 0  # values, by whether a lookup had asked for them
        self._noted = [0] * PARTS
        self._now = -inf
        self._cold = 0  # sampled requests before any of them counts
        self._base = self._checkpoint(totals)
        self._last = self._base
        self._checkpoints: deque[_Checkpoint] = deque([self._base], _CHECKPOINTS)

    def warm(self, held: Iterable[MemoryEntry], limit: int) -> None:
        """Begin with the entries that the cache holds, and count nothing before four requests for each."""
        for one in held:
            if hash(one.key) % SPREAD < limit:
                self._put(one.key, one.deadline, one.tags, getattr(one, "weight", 1), False)
        self._cold = _WARM * len(self._known)

    # -- requests -----------------------------------------------------------------------------------

    def run(self, notes: deque[Any], most: int) -> None:
        """Simulate the oldest notes of those that are there now, and remove them."""
        for number in range(min(len(notes), most)):
            if self.choice is not None and not number % _LOOK:
                self._decide(self.choice, sum(self._noted))
            note = notes.popleft()
            if type(note) is str:
                self._hit(note)
                continue
            kind = note[0]
            if kind in (LOADED, WRITTEN):
                _, key, deadline, tags, weight, self._now, seconds = note
                if weight is None:
                    known = self._known[_name(key)]
                    weight = 1 if known is None else known.weight
                self._put(key, deadline, tags, weight, kind == LOADED, seconds)
            elif kind == DROPPED:
                self._forget(_name(note[1]))
            elif kind == HITS:
                self.more_hits(note[1], note[2])
            elif kind == LIFE:
                for miniature in self._all():
                    miniature.prolong(_name(note[1]), note[2])
            elif kind == TAGS:
                for key in self._tags.having(note[1]):
                    self._forget(key)
            elif kind == PATTERN:
                self._forget_matching(note[1])
            else:
                assert kind == CLEAR
                for key in list(self._known):
                    self._forget(key)

    def _decide(self, choice: ShapeChoice, requests: int) -> None:
        if choice.is_due(requests):
            choice.decide(requests)
            choice.apply(self.miniatures[: len(FACTORS) + 1])

    def _hit(self, text: str) -> None:
        key, part = _name(text), hash(text) % PARTS
        self._noted[part] += 1
        known = self._known[key]
        self._request(key, part, known or _Known(inf, 1, NO_TAGS))

    def _request(self, key: str, part: int, known: _Known) -> None:
        """Look a key up in each miniature, and store what it misses, which a load would bring."""
        deadline, weight, _, seconds = known
        now, costs, same = self._now, self._costs, False
        for index, miniature in enumerate(self.miniatures):
            if miniature.request(key, part, now, deadline, weight, seconds) and index == _SAME:
                same = True
        if costs is not None:
            served = costs.miniature.request(key, part, now, deadline, weight, seconds)
            costs.count(part, seconds or 0.0, same, served)

    def more_hits(self, text: str, number: int) -> None:
        """Simulate so many more hits of a key that was hit a moment ago."""
        if number <= 0:
            return
        self._hit(text)
        key, part, costs = _name(text), hash(text) % PARTS, self._costs
        self._noted[part] += number - 1
        for miniature in self.miniatures:
            miniature.hit_again(key, part, number - 1)
        if costs is not None:
            costs.miniature.hit_again(key, part, number - 1)
            known = self._known[key]
            costs.count_again(part, (known and known.seconds) or 0.0, number - 1)

    def _put(
        self,
        text: str,
        deadline: float,
        tags: frozenset[str],
        weight: int,
        was_missed: bool,
        seconds: float | None = None,
    ) -> None:
        key, part = _name(text), hash(text) % PARTS
        before = self._known[key]
        if before is not None:
            if before.tags:
                self._tags.unlink(key, before.tags)
            if seconds is None:
                seconds = before.seconds
        if seconds is not None and self._costs is None and self._strategy is not CacheStrategy.COST_AWARE:
            same = self.miniatures[_SAME]
            self._costs = CostComparison(same.capacity, same.limit, self._known)
        self._known[key] = known = _Known(deadline, weight, tags, seconds)
        if tags:
            self._tags.link(key, tags)
        if was_missed:
            self._noted[part] += 1
            self._loaded += 1
            self._request(key, part, known)  # a miniature that had the key did not load it
        else:
            self._written += 1
            for miniature in self._all():
                miniature.store(key, deadline, weight, seconds)

    def _all(self) -> list[Miniature]:
        return self.miniatures if self._costs is None else [*self.miniatures, self._costs.miniature]

    def _forget(self, key: str) -> None:
        known = self._known.pop(key, None)
        if known is not None:
            if known.tags:
                self._tags.unlink(key, known.tags)
            for miniature in self._all():
                miniature.forget(key)

    def _forget_matching(self, pattern: re.Pattern[str]) -> None:
        for key in list(self._known):
            # A long key is known by its hash only.
            if key.startswith("\0") or pattern.match(key):
                self._forget(key)

    # -- counts -------------------------------------------------------------------------------------

    def end_round(self, totals: Totals) -> None:
        """Keep the counts from time to time, and forget keys that no miniature holds."""
        if self._cold:
            if sum(self._noted) >= self._cold:
                self._cold = 0
                self._base = self._last = self._checkpoint(totals)
                self._checkpoints = deque([self._base], _CHECKPOINTS)
        elif totals[0] + totals[1] - self._last.hits - self._last.misses >= max(_APART, self._size):
            self._last = self._checkpoint(totals)
            self._checkpoints.append(self._last)
        if len(self._known) > 2 * sum(map(len, self.miniatures)) + _SPARE:
            for key in [key for key in self._known if not any(key in one for one in self.miniatures)]:
                self._forget(key)

    def _checkpoint(self, totals: Totals) -> _Checkpoint:
        simulated = [tuple(one.hits) for one in self.miniatures]
        return _Checkpoint(*totals, tuple(self._noted), self._loaded, self._written, simulated)

    def estimate(self, last: int | None, totals: Totals) -> SizeEstimate:
        """Return the hit rates of the simulated sizes, over about the last so many requests, or all."""
        now = self._checkpoint(totals)
        since = self._base
        if last is not None and last < totals[0] + totals[1] - since.hits - since.misses:
            for since in reversed(self._checkpoints):
                if totals[0] + totals[1] - since.hits - since.misses >= last:
                    break
        requests = totals[0] + totals[1] - since.hits - since.misses
        noted = [a - b for a, b in zip(now.noted, since.noted, strict=True)]
        sizes = [int((self._max_bytes or self._size) * factor) for factor in FACTORS]
        size = sizes[_SAME]
        unit: Literal["entries", "bytes"] = "entries" if self._max_bytes is None else "bytes"
        enough = max(_FEWEST, _ENOUGH * len(self.miniatures[_SAME]))
        if self._cold or sum(noted) < enough or not requests:
            return SizeEstimate(size, {}, {}, requests, self._share, unit, "too few requests")
        hits = [
            [a - b for a, b in zip(now.simulated[index], since.simulated[index], strict=True)]
            for index in range(len(FACTORS) + 1)
        ]
        measured = (now.hits - since.hits) / requests
        rates, plus_minus = {size: measured}, {size: 0.0}
        expected = requests * self._share / PARTS  # sampled requests in a part, if it had its share
        loaded, written = now.loaded - since.loaded, now.written - since.written
        stored = (now.sets - since.sets) * loaded / max(1, loaded + written)
        # Keys that were looked up and never stored are not noted: they are misses at every size.
        absent = max(0.0, now.misses - since.misses - stored) * self._share / PARTS
        for index, other in enumerate(sizes):
            if index == _SAME or not other:
                continue
            if FACTORS[index] > 2:
                # SHARDS-adj: the requests that the sample has too few, or too many, are those of the most
                # popular keys, which any size serves.
                parts = [
                    (mine + expected - absent - all_) / expected
                    for mine, all_ in zip(hits[index], noted, strict=True)
                ]
                rate = sum(parts) / PARTS
            else:
                # The difference of two simulations, from what was measured: what both have wrong is gone.
                parts = [
                    (mine - same) / expected for mine, same in zip(hits[index], hits[_SAME], strict=True)
                ]
                rate = measured + sum(parts) / PARTS
            rates[other] = min(max(rate, 0.0), 1.0)
            noise = _STUDENT * stdev(parts) / sqrt(PARTS) * sqrt(1 - self._share)
            if FACTORS[index] < 1 and self._share < 1:
                noise = max(noise, (sum(hits[index]) - sum(hits[len(FACTORS)])) / expected / PARTS)
            plus_minus[other] = noise
        rates = dict(sorted(rates.items()))
        gain = None if self._costs is None else self._costs.gain()
        return SizeEstimate(size, rates, plus_minus, requests, self._share, unit, None, gain)


def _name(key: str) -> str:
    """Return what a key is known by: a long one by its hash, so that it takes no memory."""
    return key if len(key) <= _LONGEST else f"\0{hash(key):x}"
