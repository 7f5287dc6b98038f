"""Two caches on one directory against a dict: values, tags, patterns, times, fences, reopening.

The second one has a clock object of its own that shows the same time, and so an engine of its own: to the
first it is what another process would be.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from math import inf

import inside
from exploring import explored
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cachekit import CacheEntry, FileCache
from cachekit.runtime.clock import Clock
from cachekit.testing import ManualClock
from cachekit.tiers.fences import ServerTokens, SharedFence

KEYS = st.sampled_from(["a:1", "a:2", "b:1", "b:2", "", "ключ", "\ud800", "long" * 60])
VALUES = st.sampled_from([None, 0, "text", b"b" * 3000, (1, [2]), {"k": {1}}, "z" * 300_000])
LIVES = st.sampled_from([None, 5.0, 50.0, inf])
# No two of them share a token.
TAGS = st.sets(st.sampled_from(["x", "y", "z"]), max_size=2).map(frozenset)
WHICH = st.integers(0, 1)


class SameTime:
    """Another clock that shows what a ManualClock shows."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock

    def time(self) -> float:
        return self._clock.time()

    def monotonic(self) -> float:
        return self._clock.monotonic()


@dataclass
class Expected:
    value: object
    expiry: float
    tags: frozenset[str]
    origin: ServerTokens | None


@dataclass
class Held:
    fence: SharedFence
    broken: bool


class CachesAgainstDict(RuleBasedStateMachine):
    """Whatever one of them does, both know it; a fence stands exactly until something breaks it."""

    def __init__(self) -> None:
        super().__init__()
        self.path = tempfile.mkdtemp(prefix="cachekit-test-")
        self.clock = ManualClock()
        self.model: dict[str, Expected] = {}
        self.fences: list[Held] = []
        self.caches: list[FileCache] = []

    @initialize()
    def open(self) -> None:
        clocks: list[Clock] = [self.clock, SameTime(self.clock)]
        self.caches = [FileCache(self.path, 64, None, clock=clock) for clock in clocks]
        engines = {id(inside.engine(cache)) for cache in self.caches}
        assert len(engines) == 2

    # -- what should be -----------------------------------------------------------------------------

    def live(self, key: str) -> Expected | None:
        expected = self.model.get(key)
        return expected if expected is not None and expected.expiry > self.clock.time() else None

    def wrote(self, key: str) -> None:
        """Fences of the key are broken, and those of keys that share its token."""
        bucket = self.caches[0].fence(key).bucket
        for held in self.fences:
            held.broken |= held.fence.bucket == bucket

    def expect(self, key: str, value: object, life: float | None, tags: frozenset[str]) -> Expected:
        return Expected(value, inf if life is None else self.clock.time() + life, tags, None)

    # -- writes -------------------------------------------------------------------------------------

    @rule(which=WHICH, key=KEYS, value=VALUES, life=LIVES, tags=TAGS)
    def set_value(
        self, which: int, key: str, value: object, life: float | None, tags: frozenset[str]
    ) -> None:
        self.caches[which].set_value(key, value, life, tags)
        self.wrote(key)
        self.model[key] = self.expect(key, value, life, tags)

    @rule(which=WHICH, key=KEYS, value=VALUES, age=st.sampled_from([-3.0, 0.0, 4.0, 6.0]), tags=TAGS)
    def put(self, which: int, key: str, value: object, age: float, tags: frozenset[str]) -> None:
        now = self.clock.time()
        origin = ServerTokens(len(self.fences) + 1, dict.fromkeys(tags, 7))
        fence = self.caches[which].put(key, CacheEntry(key, value, now - age, ttl=5, tags=tags), origin)
        assert fence is not None
        self.wrote(key)
        self.model.pop(key, None)
        if age < 5:
            self.model[key] = Expected(value, now - max(age, 0) + 5, tags, origin)
            self.fences.append(Held(fence, False))
            assert fence.names == tags

    @rule(which=WHICH, key=KEYS, value=VALUES, settle_first=st.booleans())
    def put_in_flux(self, which: int, key: str, value: object, settle_first: bool) -> None:
        fence = self.caches[which].put(key, CacheEntry(key, value, self.clock.time()), in_flux=True)
        assert fence is not None
        assert not fence.is_current()
        self.wrote(key)
        self.model[key] = self.expect(key, value, None, frozenset())
        if not settle_first:
            self.set_value(1 - which, key, "between", None, frozenset())
        assert self.caches[1 - which].settle(fence) is settle_first
        self.fences.append(Held(fence, not settle_first))

    @rule(which=WHICH, key=KEYS)
    def delete(self, which: int, key: str) -> None:
        assert self.caches[which].delete(key) is (self.live(key) is not None)
        self.wrote(key)
        self.model.pop(key, None)

    @rule(which=WHICH, key=KEYS, life=LIVES)
    def touch(self, which: int, key: str, life: float | None) -> None:
        expected = self.live(key)
        assert self.caches[which].touch(key, life) is (expected is not None)
        self.wrote(key)
        if expected is not None:
            expected.expiry = inf if life is None else self.clock.time() + life

    @rule(which=WHICH)
    def clear(self, which: int) -> None:
        self.caches[which].clear()
        self.model.clear()
        for held in self.fences:
            held.broken = True

    @rule(which=WHICH)
    def renew(self, which: int) -> None:
        self.caches[which].renew()
        for held in self.fences:
            held.broken = True

    @rule(which=WHICH, tags=TAGS)
    def invalidate_by_tags(self, which: int, tags: frozenset[str]) -> None:
        assert self.caches[which].invalidate_by_tags(tags) == (None if tags else 0)
        for key, expected in list(self.model.items()):
            if expected.tags & tags:
                del self.model[key]
        for held in self.fences:
            held.broken |= bool(held.fence.names & tags)

    @rule(which=WHICH, pattern=st.sampled_from(["a:", ".*1$", "long", "nothing", ""]))
    def invalidate_by_pattern(self, which: int, pattern: str) -> None:
        matching = [key for key in self.model if re.match(pattern, key)]
        alive = [key for key in matching if self.live(key)]
        assert self.caches[which].invalidate_by_pattern(pattern) == len(alive)
        for key in alive:
            del self.model[key]
        for held in self.fences:
            held.broken = True

    # -- fences -------------------------------------------------------------------------------------

    @rule(which=WHICH, key=KEYS, tags=TAGS)
    def fence(self, which: int, key: str, tags: frozenset[str]) -> None:
        self.fences.append(Held(self.caches[which].fence(key, tags), False))

    @rule(which=WHICH, number=st.integers(0, 100), value=VALUES, life=LIVES)
    def add(self, which: int, number: int, value: object, life: float | None) -> None:
        if not self.fences:
            return
        held = self.fences[number % len(self.fences)]
        key, tags = held.fence.key, frozenset(sorted(held.fence.names)[:1])
        mine = held.fence.tokens is self.caches[which].fence("").tokens
        there = self.live(key)
        entry = CacheEntry(key, value, self.clock.time(), ttl=life, tags=tags)
        outcome = self.caches[which].add(key, entry, held.fence)
        if held.broken or not mine:
            assert outcome is False
        elif there is not None:
            assert isinstance(outcome, CacheEntry)
            assert outcome.value == there.value
        else:
            assert outcome is True
            self.model[key] = self.expect(key, value, life, tags)

    @rule(which=WHICH, number=st.integers(0, 100), value=VALUES)
    def put_expecting(self, which: int, number: int, value: object) -> None:
        if not self.fences:
            return
        held = self.fences[number % len(self.fences)]
        key = held.fence.key
        if held.fence.tokens is not self.caches[which].fence("").tokens:
            return
        new = self.caches[which].put(key, CacheEntry(key, value, self.clock.time()), expect=held.fence)
        assert (new is None) is held.broken
        if new is not None:
            self.wrote(key)
            self.model[key] = self.expect(key, value, None, frozenset())
            self.fences.append(Held(new, False))

    @invariant()
    def fences_stand_until_they_are_broken(self) -> None:
        for held in self.fences:
            assert held.fence.is_current() is not held.broken

    # -- time and life ------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1.0, 5.0, 45.0]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(which=WHICH)
    def remove_expired(self, which: int) -> None:
        self.caches[which].remove_expired()
        assert self.caches[which].size() == len([key for key in self.model if self.live(key)])

    @rule()
    def reopen(self) -> None:
        for cache in self.caches:
            cache.close()
        self.fences.clear()
        self.open()

    # -- reads --------------------------------------------------------------------------------------

    @rule(which=WHICH, key=KEYS)
    def look(self, which: int, key: str) -> None:
        found, expected = self.caches[which].look(key), self.live(key)
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            assert found.entry.value == expected.value
            assert type(found.entry.value) is type(expected.value)
            assert found.entry.tags == expected.tags == found.fence.names
            assert abs(found.entry.expires_timestamp - expected.expiry) < 1e-5 or expected.expiry == inf
            assert found.origin == expected.origin
            self.fences.append(Held(found.fence, False))

    @invariant()
    def both_agree_with_the_dict(self) -> None:
        alive = {key: expected for key in self.model if (expected := self.live(key))}
        for cache in self.caches:
            assert sorted(cache.keys()) == sorted(alive)
            for key, expected in alive.items():
                assert cache.get_value(key) == expected.value

    def teardown(self) -> None:
        for cache in self.caches:
            cache.close()
        shutil.rmtree(self.path)


CachesAgainstDict.TestCase.settings = explored(examples=0.5)
TestCachesAgainstDict = CachesAgainstDict.TestCase
