"""RedisCache against a plain dict, under every operation, from two caches that share a server."""

from __future__ import annotations

import itertools
import math
import os
import re
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from exploring import explored
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cachekit import CacheEntry
from cachekit.testing import ManualClock
from cachekit.tiers.fences import ServerTokens
from cachekit.tiers.redis.tier import RedisCache

KEYS = st.sampled_from(["a", "b", "", "user:1", "user:2", "user:30", "{x}"])
TAGS = st.frozensets(st.sampled_from(["x", "y", "z{"]), max_size=2)
#: The unit of all times: the clock is the test's, but a server lets go of values by its own.
HOUR = 3600.0
TTLS = st.sampled_from([None, 0, -1, 30 * HOUR, 500 * HOUR, math.inf])
AGES = st.sampled_from([0, 20 * HOUR, 100 * HOUR])
PATTERNS = st.sampled_from(["user:", ".", "user:3", "[ab]$", "nothing", r"\{"])
CACHES = st.integers(0, 1)

_prefixes = itertools.count()

pytestmark = pytest.mark.usefixtures("few_buckets")


@dataclass
class Expected:
    value: int
    end: float
    tags: frozenset[str]
    current: bool = True  #: no tag of it was invalidated


class RedisAgainstModel(RuleBasedStateMachine):
    """What is served is what was stored last, while it lives; fences let in what they should, and no more."""

    url: ClassVar[str]
    nodes: ClassVar[list[tuple[str, int]] | None] = None
    DEFAULT_TTL = 200 * HOUR

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.prefix = f"model-{os.getpid()}-{next(_prefixes)}:"
        self.caches = [self.make(), self.make()]
        self.model: dict[str, Expected] = {}
        self.origins: list[tuple[str, ServerTokens, list[bool]]] = []
        self.value = 0

    def make(self) -> RedisCache:
        more: dict[str, Any] = {"timeout": 60, "default_ttl": self.DEFAULT_TTL, "clock": self.clock}
        if self.nodes is not None:
            return RedisCache.cluster(self.nodes, self.prefix, **more)
        return RedisCache(url=self.url, key_prefix=self.prefix, **more)

    def teardown(self) -> None:
        self.caches[0].clear()
        for cache in self.caches:
            cache.close()

    def is_live(self, key: str) -> bool:
        known = self.model.get(key)
        return known is not None and known.current and self.clock.time() < known.end

    def store(self, key: str, value: int, ttl: float | None, tags: frozenset[str], age: float = 0) -> None:
        now = self.clock.time()
        end = min(now - age + (math.inf if ttl is None else ttl), now + self.DEFAULT_TTL)
        if end > now:
            self.model[key] = Expected(value, end, tags)
        else:
            self.model.pop(key, None)

    def break_key(self, key: str) -> None:
        for name, _, stands in self.origins:
            if name == key:
                stands[0] = False

    @rule(cache=CACHES, key=KEYS, ttl=TTLS, tags=TAGS)
    def set_value(self, cache: int, key: str, ttl: float | None, tags: frozenset[str]) -> None:
        self.value += 1
        assert self.caches[cache].set_value(key, self.value, ttl, tags) is True
        self.store(key, self.value, ttl, tags)
        self.break_key(key)

    @rule(cache=CACHES, key=KEYS, age=AGES, ttl=st.sampled_from([None, 50 * HOUR, 300 * HOUR]))
    def set_entry(self, cache: int, key: str, age: float, ttl: float | None) -> None:
        self.value += 1
        self.caches[cache].set(key, CacheEntry(key, self.value, self.clock.time() - age, ttl=ttl))
        self.store(key, self.value, ttl, frozenset(), age)
        self.break_key(key)

    @rule(cache=CACHES, keys=st.sets(KEYS, min_size=1), tags=TAGS)
    def put_many(self, cache: int, keys: set[str], tags: frozenset[str]) -> None:
        self.value += 1
        entries = {key: CacheEntry(key, self.value, self.clock.time(), tags=tags) for key in keys}
        self.caches[cache].put_many(entries, dict.fromkeys(keys, self.caches[cache].successor(tags)))
        for key in keys:
            self.store(key, self.value, None, tags)
            self.break_key(key)

    @rule(cache=CACHES, key=KEYS)
    def delete(self, cache: int, key: str) -> None:
        removed = self.caches[cache].delete(key)
        if self.is_live(key):
            assert removed, "what lives was there"
        assert removed == (self.model.pop(key, None) is not None)
        self.break_key(key)

    @rule(cache=CACHES, key=KEYS, ttl=TTLS)
    def touch(self, cache: int, key: str, ttl: float | None) -> None:
        life = min(math.inf if ttl is None else ttl, self.DEFAULT_TTL)
        touched = self.caches[cache].touch(key, ttl)
        if life <= 0:
            assert touched == (self.model.pop(key, None) is not None)
            self.break_key(key)
            return
        assert touched == self.is_live(key)
        if touched:
            self.model[key].end = self.clock.time() + life
            self.break_key(key)

    @rule(cache=CACHES, tags=TAGS)
    def invalidate_tags(self, cache: int, tags: frozenset[str]) -> None:
        self.caches[cache].invalidate_by_tags(tags)
        for known in self.model.values():
            known.current = known.current and not tags & known.tags
        for _, origin, stands in self.origins:
            stands[0] = stands[0] and not tags & origin.tags.keys()

    @rule(cache=CACHES, pattern=PATTERNS)
    def invalidate_pattern(self, cache: int, pattern: str) -> None:
        matching = [key for key in self.model if re.match(pattern, key)]
        assert self.caches[cache].invalidate_by_pattern(pattern) == len(matching)
        for key in matching:
            del self.model[key]
        for _, _, stands in self.origins:
            stands[0] = False

    @rule(cache=CACHES)
    def clear(self, cache: int) -> None:
        self.caches[cache].clear()
        self.model.clear()
        for _, _, stands in self.origins:
            stands[0] = False

    @rule(cache=CACHES, key=KEYS, tags=TAGS)
    def take_origin(self, cache: int, key: str, tags: frozenset[str]) -> None:
        self.origins.append((key, self.caches[cache].origin(key, tags), [True]))

    @precondition(lambda self: self.origins)
    @rule(cache=CACHES, which=st.integers(0, 1000), ttl=st.sampled_from([None, 0, 60 * HOUR]))
    def add(self, cache: int, which: int, ttl: float | None) -> None:
        key, origin, (stands,) = self.origins[which % len(self.origins)]
        self.value += 1
        entry = CacheEntry(key, self.value, self.clock.time(), ttl=ttl, tags=frozenset(origin.tags))
        answer = self.caches[cache].add(key, entry, origin)
        if ttl == 0:
            assert answer is False
        elif self.is_live(key):
            assert isinstance(answer, CacheEntry)
            assert answer.value == self.model[key].value
        else:
            assert answer is stands
            if stands:
                self.store(key, self.value, ttl, entry.tags)

    @rule(seconds=st.sampled_from([1, 29 * HOUR, 200 * HOUR]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(cache=CACHES)
    def look_at_all(self, cache: int) -> None:
        live = {key: known for key, known in self.model.items() if self.is_live(key)}
        assert sorted(self.caches[cache].keys()) == sorted(live)
        assert sorted(self.caches[cache].keys("user:3|a")) == sorted(
            key for key in live if re.match("user:3|a", key)
        )
        assert self.caches[cache].size() == len(self.model)

    @invariant()
    def both_serve_the_same(self) -> None:
        keys = ["a", "b", "", "user:1", "user:2", "user:30", "{x}"]
        live = {key: known for key, known in self.model.items() if self.is_live(key)}
        for cache in self.caches:
            found = cache.get_many(keys)
            assert {key: entry.value for key, entry in found.items()} == {
                key: known.value for key, known in live.items()
            }
            for key, entry in found.items():
                assert entry.tags == live[key].tags
                assert math.isclose(entry.expires_timestamp, live[key].end, abs_tol=1e-3)
            one = keys[self.value % len(keys)]
            assert (one in cache) == (one in live)
            assert (cache.get(one) is not None) == (one in live)


@pytest.mark.hypothesis
def test_against_a_dict(redis_url: str) -> None:
    """On one server."""
    RedisAgainstModel.url, RedisAgainstModel.nodes = redis_url, None
    run_state_machine_as_test(RedisAgainstModel, settings=explored(examples=0.5))


@pytest.mark.hypothesis
def test_against_a_dict_on_a_cluster(cluster_nodes: list[tuple[str, int]]) -> None:
    """The same on three."""
    RedisAgainstModel.nodes = cluster_nodes
    run_state_machine_as_test(RedisAgainstModel, settings=explored(examples=0.1))
