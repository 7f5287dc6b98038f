"""MemoryCache against a plain ordered dict, under every operation and a clock moved by hand."""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from dataclasses import dataclass, replace

import inside
from exploring import explored
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cachekit import CacheEntry, MemoryCache, RemovalCause
from cachekit.testing import ManualClock
from cachekit.tiers.fences import PrivateFence
from cachekit.tiers.memory import removal

KEYS = st.sampled_from(["a", "b", "c", "user:1", "user:2", "user:30"])
TAGS = st.frozensets(st.sampled_from(["x", "y", "z"]), max_size=2)
TTLS = st.sampled_from([None, 0, -1, 1, 5, 50, math.inf])
PATTERNS = st.sampled_from(["user:", ".", "user:3", "[ab]$", "nothing"])


@dataclass(frozen=True)
class Expected:
    value: int
    deadline: float
    tags: frozenset[str]
    accesses: int = 0


class MemoryAgainstModel(RuleBasedStateMachine):
    """P1 exact LRU, P2 bounds, P3 no expired value, P14 exact statistics; and what listeners are told."""

    MAX_SIZE = 3
    DEFAULT_TTL = 20.0

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.cache = MemoryCache(self.MAX_SIZE, default_ttl=self.DEFAULT_TTL, clock=self.clock)
        self.model: OrderedDict[str, Expected] = OrderedDict()
        self.fences: dict[PrivateFence, bool] = {}
        self.told: list[tuple[str, object, RemovalCause]] = []
        self.expected_told: list[tuple[str, object, RemovalCause]] = []
        self.cache.on_removal(lambda *removal: self.told.append(removal))
        self.counts = dict.fromkeys(
            ["hits", "misses", "sets", "deletes", "invalidations", "evictions", "expirations", "refusals"], 0
        )
        self.value = 0

    def now(self) -> float:
        return self.clock.monotonic()

    def leave(self, key: str, cause: RemovalCause, counter: str | None) -> None:
        self.expected_told.append((key, self.model.pop(key).value, cause))
        if counter:
            self.counts[counter] += 1

    def is_live(self, key: str) -> bool:
        return key in self.model and self.now() < self.model[key].deadline

    def drop(self, key: str, counter: str) -> bool:
        if self.is_live(key):
            self.leave(key, RemovalCause.INVALIDATED, counter)
            return True
        if key in self.model:
            self.leave(key, RemovalCause.EXPIRED, "expirations")
        return False

    def insert(self, key: str, life: float, tags: frozenset[str]) -> None:
        if key in self.model:
            self.leave(key, RemovalCause.REPLACED, None)
        self.model[key] = Expected(self.value, self.now() + life, tags)
        if len(self.model) > self.MAX_SIZE:
            self.leave(next(iter(self.model)), RemovalCause.EVICTED, "evictions")
        self.counts["sets"] += 1

    def break_fences(self, keys: str | None = None, tags: frozenset[str] = frozenset()) -> None:
        for fence in self.fences:
            if (keys is not None and re.match(keys, fence.key)) or tags & fence.tags:
                self.fences[fence] = False

    @rule(key=KEYS, ttl=TTLS, tags=TAGS)
    def set_value(self, key: str, ttl: float | None, tags: frozenset[str]) -> None:
        self.value += 1
        assert self.cache.set_value(key, self.value, ttl, tags) is True
        self.break_fences(re.escape(key) + "$")
        life = min(math.inf if ttl is None else ttl, self.DEFAULT_TTL)
        if life > 0:
            self.insert(key, life, tags)
        else:
            self.drop(key, "deletes")

    @rule(key=KEYS, age=st.sampled_from([0, 2, 10]), ttl=st.sampled_from([None, 5, 100]), tags=TAGS)
    def set_entry(self, key: str, age: float, ttl: float | None, tags: frozenset[str]) -> None:
        self.value += 1
        entry = CacheEntry(key, self.value, self.clock.time() - age, ttl=ttl, tags=tags)
        assert self.cache.set(key, entry) is True
        self.break_fences(re.escape(key) + "$")
        left = math.inf if ttl is None else ttl - age
        if left > 0:
            self.insert(key, min(left, self.DEFAULT_TTL), tags)
        else:
            self.drop(key, "deletes")

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        if self.is_live(key):
            expected = self.model[key] = replace(self.model[key], accesses=self.model[key].accesses + 1)
            self.model.move_to_end(key)
            self.counts["hits"] += 1
            assert self.cache.get_value(key, "default") == expected.value
        else:
            self.drop(key, "deletes")
            self.counts["misses"] += 1
            assert self.cache.get_value(key, "default") == "default"

    @rule(key=KEYS)
    def get_entry(self, key: str) -> None:
        entry = self.cache.get(key)
        if self.is_live(key):
            expected = self.model[key] = replace(self.model[key], accesses=self.model[key].accesses + 1)
            self.model.move_to_end(key)
            self.counts["hits"] += 1
            assert entry is not None
            assert (entry.value, entry.tags, entry.access_count) == (
                expected.value,
                expected.tags,
                expected.accesses,
            )
            assert entry.expires_timestamp - self.clock.time() == expected.deadline - self.now()
        else:
            self.drop(key, "deletes")
            self.counts["misses"] += 1
            assert entry is None

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        self.break_fences(re.escape(key) + "$")
        assert self.cache.delete(key) is self.drop(key, "deletes")

    @rule(key=KEYS, ttl=TTLS)
    def touch(self, key: str, ttl: float | None) -> None:
        life = min(math.inf if ttl is None else ttl, self.DEFAULT_TTL)
        self.break_fences(re.escape(key) + "$")
        if life <= 0:
            assert self.cache.touch(key, ttl) is self.drop(key, "deletes")
            return
        assert self.cache.touch(key, ttl) is self.is_live(key)
        if self.is_live(key):
            self.model[key] = replace(self.model[key], deadline=self.now() + life)

    @rule(tags=TAGS)
    def invalidate_by_tags(self, tags: frozenset[str]) -> None:
        self.break_fences(tags=tags)
        hit = [key for key, one in self.model.items() if one.tags & tags]
        assert self.cache.invalidate_by_tags(tags) == sum([self.drop(key, "invalidations") for key in hit])

    @rule(pattern=PATTERNS)
    def invalidate_by_pattern(self, pattern: str) -> None:
        self.break_fences(pattern)
        hit = [key for key in self.model if re.match(pattern, key)]
        removed = sum([self.drop(key, "invalidations") for key in hit])
        assert self.cache.invalidate_by_pattern(pattern) == removed

    @rule()
    def clear(self) -> None:
        self.break_fences("")
        assert self.cache.clear() is True
        for key in list(self.model):
            self.leave(key, RemovalCause.INVALIDATED, "invalidations")

    @rule()
    def sweep(self) -> None:
        over = [key for key in self.model if not self.is_live(key)]
        assert self.cache.remove_expired() == len(over)
        for key in over:
            self.drop(key, "expirations")

    @rule(seconds=st.sampled_from([0.5, 1, 4, 30]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(key=KEYS, tags=TAGS)
    def take_fence(self, key: str, tags: frozenset[str]) -> None:
        fence = self.cache.fence(key, tags)
        self.fences[fence] = True

    @precondition(lambda self: self.fences)
    @rule(data=st.data(), life=st.sampled_from([1, 5, 100]))
    def set_if(self, data: st.DataObject, life: float) -> None:
        fence = data.draw(st.sampled_from(sorted(self.fences, key=lambda fence: fence.key)))
        self.value += 1
        entry = CacheEntry(fence.key, self.value, self.clock.time(), ttl=life, tags=fence.tags)
        assert self.cache.set_if(fence.key, entry, fence) is self.fences[fence]
        if self.fences[fence]:
            self.insert(fence.key, min(life, self.DEFAULT_TTL), fence.tags)
        else:
            self.counts["refusals"] += 1

    @rule()
    def forget_fences(self) -> None:
        self.fences.clear()

    @invariant()
    def agrees(self) -> None:
        self.cache._check()
        assert list(inside.store(self.cache)._entries) == list(self.model)
        assert self.cache.size() == len(self.model) <= self.MAX_SIZE
        assert sorted(self.cache.keys()) == sorted(filter(self.is_live, self.model))
        stats = self.cache.get_stats()
        assert {name: stats[name] for name in self.counts} == self.counts
        # Removals of one call are told in no particular order.
        assert sorted(map(repr, self.told)) == sorted(map(repr, self.expected_told))
        for fence, current in self.fences.items():
            assert fence.is_current() is current

    def teardown(self) -> None:
        self.cache.close()


MemoryAgainstModel.TestCase.settings = explored(steps=2)
TestMemoryAgainstModel = MemoryAgainstModel.TestCase


class MemoryInSlices(MemoryAgainstModel):
    """The same where each removal of several entries takes several holds of the lock."""

    def __init__(self) -> None:
        super().__init__()
        self.slice = removal._SLICE
        removal._SLICE = 1  # type: ignore[misc]

    def teardown(self) -> None:
        removal._SLICE = self.slice  # type: ignore[misc]
        super().teardown()


MemoryInSlices.TestCase.settings = explored()
TestMemoryInSlices = MemoryInSlices.TestCase
