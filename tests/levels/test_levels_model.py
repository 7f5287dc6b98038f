"""Caches of two hosts against a dictionary: levels, TTLs, tags, patterns, loads, outages, figures.

Beyond the model of the protocol: what the public methods return, and figures, after any series of calls.
"""

from __future__ import annotations

import itertools
import re
import tempfile
from pathlib import Path
from typing import Any, NamedTuple, cast

import inside
import pytest
from coherent_caches import listen
from exploring import explored
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis_server import wait_until

from cachekit import CacheLevel, FileCache, IntelligentCache, LoadOptions, MemoryCache, RedisCache
from cachekit.testing import FaultyTier, ManualClock
from cachekit.tiers.base import DirectoryTier, ServerTier

pytestmark = pytest.mark.usefixtures("few_buckets")

KEYS = ["a:1", "a:2", "b:1"]
TAGS = ["x", "y"]
_prefixes = itertools.count()


_some_keys = st.lists(st.sampled_from(KEYS), min_size=1, unique=True).map(sorted)
#: All three tiers, the server alone, memory and the server, both lower ones.
_levels = st.sampled_from([CacheLevel.ALL, CacheLevel.REDIS, CacheLevel(3), CacheLevel(6)])


class Stored(NamedTuple):
    """What the model knows of a key."""

    value: int
    until: float
    tags: frozenset[str]


class Caches(RuleBasedStateMachine):
    """Two caches of one host and one of another. Any of them may forget; none may be wrong."""

    url = ""

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.clock = ManualClock()
        prefix = f"model-{Path(self.directory.name).name}-{next(_prefixes)}:"
        self.redis: list[FaultyTier] = []
        self.files: list[FaultyTier] = []
        self.caches = []
        for home in ("here", "here", "there"):
            redis = FaultyTier(RedisCache(url=self.url, key_prefix=prefix, clock=self.clock, timeout=60))
            file = FaultyTier(FileCache(Path(self.directory.name, home), 16, None, clock=self.clock))
            self.redis.append(redis)
            self.files.append(file)
            memory = MemoryCache(clock=self.clock)
            cache = IntelligentCache(memory, cast("ServerTier", redis), cast("DirectoryTier", file))
            for lower in (cache._core.tiers.redis, cache._core.tiers.file):
                assert lower is not None
                lower.clock = self.clock
                lower.breaker._monotonic = self.clock.monotonic
            self.caches.append(cache)
        listen(*self.caches)
        self.model: dict[str, Stored] = {}
        self.asked = [cache.get_stats()["combined"].requests for cache in self.caches]
        self.numbers = itertools.count()
        #: A cached function of each cache, whose keys are its arguments.
        self.functions = [
            cache.cached(ttl=50, key_func=lambda key: key, name="next")(lambda key: next(self.numbers))
            for cache in self.caches
        ]

    def right(self, key: str) -> set[Any]:
        stored = self.model.get(key)
        if stored is None or self.clock.time() >= stored.until:
            return {None}
        return {None, stored.value}

    def settle(self, actor: int) -> None:
        """What was told has arrived everywhere: each hears a message that comes after it."""
        speaker = self.caches[actor]
        for other in self.caches:
            if other is not speaker:
                memory = other.memory_cache
                assert memory is not None
                memory.set_value("mark", 1)
                while memory.peek("mark") is not None:
                    cast("Any", self.redis[actor].tier).delete("mark")
                    wait_until(lambda m=memory: m.peek("mark") is None, "the message has come")  # type: ignore[misc]

    @rule(
        at=st.integers(0, 2),
        key=st.sampled_from(KEYS),
        ttl=st.sampled_from([5.0, 50.0, 500.0]),
        tags=st.sets(st.sampled_from(TAGS)),
        level=_levels,
    )
    def store(self, at: int, key: str, ttl: float, tags: set[str], level: CacheLevel) -> None:
        value = next(self.numbers)
        assert self.caches[at].set(key, value, ttl, level, tags)
        self.model[key] = Stored(value, self.clock.time() + ttl, frozenset(tags))
        self.settle(at)

    @rule(
        at=st.integers(0, 2),
        key=st.sampled_from(KEYS),
        ttl=st.sampled_from([5.0, 50.0]),
        tags=st.sets(st.sampled_from(TAGS)),
    )
    def add(self, at: int, key: str, ttl: float, tags: set[str]) -> None:
        """What is stored where nothing is; a tier may have let go of what another one has."""
        value = next(self.numbers)
        if self.caches[at].add(key, value, ttl, tags=tags):
            self.model[key] = Stored(value, self.clock.time() + ttl, frozenset(tags))
        else:
            assert self.right(key) != {None}
        self.settle(at)

    @rule(at=st.integers(0, 2), key=st.sampled_from(KEYS), tags=st.sets(st.sampled_from(TAGS)))
    def update(self, at: int, key: str, tags: set[str]) -> None:
        """What is stored in place of what was read."""
        value, seen = next(self.numbers), []

        def function(old: int | None) -> int:
            seen.append(old)
            return value

        assert self.caches[at].update(key, function, ttl=50, tags=tags) == value
        (old,) = seen
        assert old in self.right(key)
        if old is None:
            self.model[key] = Stored(value, self.clock.time() + 50, frozenset(tags))
        else:
            self.model[key] = self.model[key]._replace(value=value, tags=self.model[key].tags | tags)
        self.settle(at)

    @rule(
        at=st.integers(0, 2),
        other=st.integers(0, 2),
        key=st.sampled_from(KEYS),
        tags=st.sets(st.sampled_from(TAGS)),
        during=st.sampled_from(["nothing", "delete", "tag", "pattern"]),
    )
    def begin_load(self, at: int, other: int, key: str, tags: set[str], during: str) -> None:
        """A load that is no function, and what another cache does in the middle of it."""
        value = next(self.numbers)
        fill = self.caches[at].begin(key, tags=tags)
        if during == "delete":
            self.delete(other, key)
        elif during == "tag":
            self.invalidate_tag(other, "x")
        elif during == "pattern":
            self.invalidate_pattern(other, ".*")
        concerned = during in {"delete", "pattern"} or (during == "tag" and "x" in tags)
        stored = fill.store(value, 50)
        assert not (stored and concerned)
        if stored:
            self.model[key] = Stored(value, self.clock.time() + 50, frozenset(tags))
        elif not concerned:
            # Another key of its bucket was concerned: whether the older value stays is not said.
            self.caches[at].delete(key)
            self.model.pop(key, None)
        self.settle(at)

    @rule(at=st.integers(0, 2), key=st.sampled_from(KEYS))
    def delete(self, at: int, key: str) -> None:
        self.caches[at].delete(key)
        self.model.pop(key, None)
        self.settle(at)

    @rule(at=st.integers(0, 2), tag=st.sampled_from(TAGS))
    def invalidate_tag(self, at: int, tag: str) -> None:
        self.caches[at].invalidate_by_tags({tag})
        self.model = {key: one for key, one in self.model.items() if tag not in one.tags}
        self.settle(at)

    @rule(at=st.integers(0, 2), pattern=st.sampled_from(["a:", "b:", ".*1", "z"]))
    def invalidate_pattern(self, at: int, pattern: str) -> None:
        self.caches[at].invalidate_by_pattern(pattern)
        self.model = {key: one for key, one in self.model.items() if not re.match(pattern, key)}
        self.settle(at)

    @rule(at=st.integers(0, 2), key=st.sampled_from(KEYS), ttl=st.sampled_from([5.0, 100.0]))
    def touch(self, at: int, key: str, ttl: float) -> None:
        if self.caches[at].touch(key, ttl):
            stored = self.model[key]
            assert self.clock.time() < stored.until
            self.model[key] = stored._replace(until=self.clock.time() + ttl)
        self.settle(at)

    @rule(at=st.integers(0, 2), key=st.sampled_from(KEYS), tags=st.sets(st.sampled_from(TAGS)))
    def get_or_set(self, at: int, key: str, tags: set[str]) -> None:
        new = next(self.numbers)
        self.asked[at] += 1
        value = self.caches[at].get_or_set(key, lambda: new, ttl=50, tags=tags)
        self.loaded(at, {key: value}, {new}, tags)

    def loaded(self, at: int, values: dict[str, Any], new: set[int], tags: set[str]) -> None:
        """So many keys were asked for, each to be loaded if it is not there."""
        for key, value in values.items():
            assert value in self.right(key) | new
            if value in new and self.right(key) == {None}:
                self.model[key] = Stored(value, self.clock.time() + 50, frozenset(tags))
            elif value in new:
                # The value is somewhere else: two are about, which an invalidation alone makes one.
                self.caches[at].delete(key)
                self.model.pop(key)
                self.settle(at)

    @rule(at=st.integers(0, 2), keys=_some_keys, tags=st.sets(st.sampled_from(TAGS)))
    def get_or_set_many(self, at: int, keys: list[str], tags: set[str]) -> None:
        new = {key: next(self.numbers) for key in keys}
        self.asked[at] += len(keys)
        values = self.caches[at].get_or_set_many(
            keys, lambda missing: {key: new[key] for key in missing}, ttl=50, tags=tags
        )
        assert list(values) == keys
        self.loaded(at, values, set(new.values()), tags)

    @rule(at=st.integers(0, 2), keys=_some_keys)
    def warm(self, at: int, keys: list[str]) -> None:
        new = {key: next(self.numbers) for key in keys}
        report = self.caches[at].warm_cache(keys, new.__getitem__, ttl=50, concurrency=2)
        assert not report.failed
        assert sorted(report.loaded + report.fresh) == keys
        assert all(self.right(key) != {None} for key in report.fresh)
        self.loaded(at, {key: new[key] for key in report.loaded}, set(new.values()), set())

    @rule(at=st.integers(0, 2), keys=_some_keys, tags=st.sets(st.sampled_from(TAGS)), level=_levels)
    def store_many(self, at: int, keys: list[str], tags: set[str], level: CacheLevel) -> None:
        values = {key: next(self.numbers) for key in keys}
        assert self.caches[at].set_many(values, 50, level, tags)
        for key, value in values.items():
            self.model[key] = Stored(value, self.clock.time() + 50, frozenset(tags))
        self.settle(at)

    @rule(at=st.integers(0, 2), keys=_some_keys)
    def delete_many(self, at: int, keys: list[str]) -> None:
        there = self.caches[at].delete_many(keys)
        # The server goes by its own clock, and does not look at tags: it may still have what is over.
        assert there is not None
        assert there <= len(keys)
        for key in keys:
            self.model.pop(key, None)
        self.settle(at)

    @rule(at=st.integers(0, 2), key=st.sampled_from(KEYS))
    def call(self, at: int, key: str) -> None:
        """A cached function."""
        self.asked[at] += 1
        before = self.right(key)
        value = self.functions[at](key)
        self.loaded(at, {key: value}, set() if value in before else {value}, set())

    @rule(at=st.integers(0, 2), key=st.sampled_from(KEYS))
    def refresh(self, at: int, key: str) -> None:
        """The answer of now takes the place of the one that is there, for everybody."""
        value = self.functions[at].refresh(key)
        assert value not in self.right(key)
        self.model[key] = Stored(value, self.clock.time() + 50, frozenset())
        self.settle(at)

    @rule(at=st.integers(0, 2), key=st.sampled_from(KEYS), tags=st.sets(st.sampled_from(TAGS)))
    def refresh_ahead(self, at: int, key: str, tags: set[str]) -> None:
        """A hit in the last part of a life begins a reload, which takes the place of what is there."""
        numbers: list[int] = []

        def loader() -> int:
            numbers.append(next(self.numbers))
            return numbers[-1]

        cache = self.caches[at]
        self.asked[at] += 1
        before = self.right(key)
        value = cache.get_or_set(key, loader, ttl=50, tags=tags, load=LoadOptions(refresh_ahead=0.9))
        wait_until(lambda: not len(inside.flights(cache)), "the reload has ended")
        assert len(numbers) <= 1
        if value in numbers:
            self.loaded(at, {key: value}, {value}, tags)
        else:
            assert value in before
            if numbers:
                self.model[key] = Stored(numbers[0], self.clock.time() + 50, frozenset(tags))
            self.settle(at)

    @rule(at=st.integers(0, 2), key=st.sampled_from(KEYS))
    def fall_back(self, at: int, key: str) -> None:
        """A load that fails is stood in for by what was stored last, and not invalidated since."""

        def loader() -> int:
            raise LookupError

        self.asked[at] += 1
        stored = self.model.get(key)
        try:
            value = self.caches[at].get_or_set(key, loader, stale_ttl=20)
        except LookupError:
            return
        assert stored is not None
        assert value == stored.value
        assert self.clock.time() < stored.until + 20

    @rule(at=st.integers(0, 2), key=st.sampled_from(KEYS), tags=st.sets(st.sampled_from(TAGS)))
    def store_stale(self, at: int, key: str, tags: set[str]) -> None:
        """One that loads may fall back on."""
        value = next(self.numbers)
        assert self.caches[at].set(key, value, 5, tags=tags, stale_ttl=20)
        self.model[key] = Stored(value, self.clock.time() + 5, frozenset(tags))
        self.settle(at)

    @rule(seconds=st.sampled_from([1.0, 10.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(at=st.integers(0, 2))
    def forget(self, at: int) -> None:
        memory = self.caches[at].memory_cache
        assert memory is not None
        memory.clear()

    @rule(at=st.integers(0, 2), key=st.sampled_from(KEYS), which=st.sampled_from(["redis", "file"]))
    def outage(self, at: int, key: str, which: str) -> None:
        """A tier fails, a key is written and deleted, the tier recovers: the old value stays away."""
        tier = (self.redis if which == "redis" else self.files)[at]
        levels = self.caches[at]._core.tiers
        lower = levels.redis if which == "redis" else levels.file
        assert lower is not None
        tier.fail()
        assert self.caches[at].set(key, next(self.numbers)) is False
        self.caches[at].delete(key)
        self.model.pop(key, None)
        tier.mend()
        self.clock.advance(10)
        while lower.state != "closed":
            lower.probe()
            self.clock.advance(10)
        self.settle(at)

    @rule(at=st.integers(0, 2), key=st.sampled_from(KEYS), method=st.sampled_from(["put", "add"]))
    def full(self, at: int, key: str, method: str) -> None:
        """No room: what is not stored is not served from there either."""
        value = next(self.numbers)
        self.files[at].fail(method, full=True)
        self.caches[at].set(key, value, 50)
        self.model[key] = Stored(value, self.clock.time() + 50, frozenset())
        self.files[at].mend()
        self.settle(at)

    @precondition(lambda self: hasattr(self, "caches"))
    @invariant()
    def everybody_is_right(self) -> None:
        for at, cache in enumerate(self.caches):
            for key in KEYS:
                self.asked[at] += 1
                value = cache.get(key)
                assert value in self.right(key), (at, key, value, self.model.get(key))
            found = cache.get_many(KEYS)
            self.asked[at] += len(KEYS)
            assert all(found[key] in self.right(key) for key in found)
            stats = cache.get_stats()
            assert stats["combined"].requests == self.asked[at]
            for figures in stats.values():
                assert figures.requests == figures.hits + figures.misses + figures.unavailable or (
                    figures is stats["combined"]
                )

    def teardown(self) -> None:
        if hasattr(self, "caches"):
            for cache in self.caches:
                cache.close()
            self.directory.cleanup()


@pytest.mark.hypothesis
def test_the_caches_are_right(redis_url: str) -> None:
    """Whatever is done, in whatever order, by whichever cache."""
    machine = type("Machine", (Caches,), {"url": redis_url})
    run_state_machine_as_test(machine, settings=explored(examples=0.25))
