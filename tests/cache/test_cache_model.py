"""IntelligentCache against a plain dict, loads and invalidations during loads included."""

from __future__ import annotations

import math
import re

import inside
from exploring import explored
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cachekit import IntelligentCache, MemoryCache
from cachekit.testing import ManualClock

KEYS = st.sampled_from(["a", "b", "user:1", "user:2"])
TAGS = st.frozensets(st.sampled_from(["x", "y"]), max_size=2)
TTLS = st.sampled_from([None, 0, 2, 50, math.inf])
DEFAULT_TTL = 10.0


class CacheAgainstModel(RuleBasedStateMachine):
    """The room is ample here, so whatever is missing expired or was asked to go."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.cache = IntelligentCache(MemoryCache(clock=self.clock), default_ttl=DEFAULT_TTL, file_cache=None)
        self.model: dict[str, tuple[int, float, frozenset[str]]] = {}
        self.requests = self.hits = 0
        self.value = 0

    def live(self, key: str) -> bool:
        return key in self.model and self.clock.monotonic() < self.model[key][1]

    def keep(self, key: str, value: int, ttl: float | None, tags: frozenset[str]) -> None:
        life = DEFAULT_TTL if ttl is None else ttl
        if life > 0:
            self.model[key] = value, self.clock.monotonic() + life, tags
        else:
            self.model.pop(key, None)

    def asked(self, key: str) -> bool:
        self.requests += 1
        self.hits += self.live(key)
        return self.live(key)

    @rule(key=KEYS, ttl=TTLS, tags=TAGS)
    def set_one(self, key: str, ttl: float | None, tags: frozenset[str]) -> None:
        self.value += 1
        assert self.cache.set(key, self.value, ttl, tags=tags) is True
        self.keep(key, self.value, ttl, tags)

    @rule(keys=st.sets(KEYS), ttl=TTLS, tags=TAGS)
    def set_many(self, keys: frozenset[str], ttl: float | None, tags: frozenset[str]) -> None:
        values = {key: self.value + number for number, key in enumerate(sorted(keys), 1)}
        self.value += len(keys)
        assert self.cache.set_many(values, ttl, tags=tags) is True
        for key, value in values.items():
            self.keep(key, value, ttl, tags)

    @rule(key=KEYS, ttl=TTLS, tags=TAGS)
    def add(self, key: str, ttl: float | None, tags: frozenset[str]) -> None:
        self.value += 1
        stored = self.cache.add(key, self.value, ttl, tags=tags)
        assert stored is (not self.live(key) and ttl != 0)
        if stored:
            self.keep(key, self.value, ttl, tags)

    @rule(key=KEYS, ttl=st.sampled_from([None, 2, 50]), tags=TAGS)
    def update(self, key: str, ttl: float | None, tags: frozenset[str]) -> None:
        was_live = self.live(key)
        value = self.cache.update(key, lambda number: number + 1000, 1, ttl=ttl, tags=tags)
        if was_live:
            number, until, older = self.model[key]
            assert value == number + 1000
            self.model[key] = value, until, older | tags
        else:
            assert value == 1001
            self.keep(key, value, ttl, tags)

    @rule(key=KEYS, ttl=TTLS, tags=TAGS, during=st.sampled_from(["nothing", "set", "tags", "update"]))
    def begin(self, key: str, ttl: float | None, tags: frozenset[str], during: str) -> None:
        """A load that is no function."""
        self.value += 1
        fill = self.cache.begin(key, tags=tags)
        if during == "set":
            self.set_one(key, None, frozenset())
        elif during == "tags":
            self.cache.invalidate_by_tags({"x"})
            self.invalidate_in_model({"x"})
        elif during == "update":
            self.update(key, None, frozenset())
        concerned = during in {"set", "update"} or (during == "tags" and "x" in tags)
        assert fill.store(self.value, ttl) is (not concerned and ttl != 0)
        if not concerned and ttl != 0:
            self.keep(key, self.value, ttl, tags)

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        expected = self.model[key][0] if self.asked(key) else "default"
        assert self.cache.get(key, "default") == expected

    @rule(keys=st.lists(KEYS))
    def get_many(self, keys: list[str]) -> None:
        expected = {key: self.model[key][0] for key in dict.fromkeys(keys) if self.asked(key)}
        found = self.cache.get_many(keys)
        assert (list(found), found) == (list(expected), expected)

    @rule(key=KEYS, ttl=TTLS, tags=TAGS)
    def get_or_set(self, key: str, ttl: float | None, tags: frozenset[str]) -> None:
        self.value += 1
        value = self.cache.get_or_set(key, lambda: self.value, ttl=ttl, tags=tags)
        if self.asked(key):
            assert value == self.model[key][0]
        else:
            assert value == self.value
            self.keep(key, value, ttl, tags)

    @rule(
        key=KEYS,
        tags=TAGS,
        during=st.sampled_from(["set", "delete", "tags", "pattern", "clear", "touch", "other"]),
    )
    def written_during_a_load(self, key: str, tags: frozenset[str], during: str) -> None:
        """P4: what was loaded is returned, and not kept if the key was written meanwhile."""
        self.value += 2
        loaded, written = self.value - 1, self.value

        def loader() -> int:
            if during == "set":
                self.cache.set(key, written)
            elif during == "delete":
                self.cache.delete(key)
            elif during == "tags":
                self.cache.invalidate_by_tags({"x"})
            elif during == "pattern":
                self.cache.invalidate_by_pattern("user:")
            elif during == "clear":
                self.cache.clear()
            elif during == "touch":
                self.cache.touch(key)
            else:
                self.cache.set("unrelated", 1)
            return loaded

        was_live = self.asked(key)
        value = self.cache.get_or_set(key, loader, tags=tags)
        if was_live:
            assert value == self.model[key][0]
            return
        assert value == loaded
        # The model: the write of the moment first, then the load, if nothing concerned it.
        if during == "set":
            self.keep(key, written, None, frozenset())
        elif during == "tags":
            self.invalidate_in_model({"x"})
        elif during == "pattern":
            for match in [known for known in self.model if re.match("user:", known)]:
                del self.model[match]
        elif during == "clear":
            self.model.clear()
        elif during == "other":
            self.keep("unrelated", 1, None, frozenset())
        concerned = (
            during in {"set", "delete", "clear", "touch"}
            or (during == "tags" and "x" in tags)
            or (during == "pattern" and key.startswith("user:"))
        )
        if not concerned:
            self.keep(key, loaded, None, tags)

    @rule(keys=st.lists(KEYS, min_size=1), left_out=KEYS)
    def get_or_set_many(self, keys: list[str], left_out: str) -> None:
        distinct = list(dict.fromkeys(keys))
        missing = [key for key in distinct if not self.asked(key)]
        asked: list[list[str]] = []

        def loader(wanted: list[str]) -> dict[str, int]:
            asked.append(wanted)
            return {key: self.value + 1 for key in wanted if key != left_out}

        values = self.cache.get_or_set_many(keys, loader)
        assert asked == ([missing] if missing else [])
        self.value += 1
        for key in missing:
            if key != left_out:
                self.keep(key, self.value, None, frozenset())
        expected = [key for key in distinct if key not in missing or key != left_out]
        assert values == {key: self.model[key][0] for key in expected}
        assert list(values) == expected

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        assert self.cache.delete(key) is self.live(key)
        self.model.pop(key, None)

    @rule(keys=st.lists(KEYS))
    def delete_many(self, keys: list[str]) -> None:
        assert self.cache.delete_many(keys) == sum(map(self.live, set(keys)))
        for key in keys:
            self.model.pop(key, None)

    @rule(key=KEYS, ttl=TTLS)
    def touch(self, key: str, ttl: float | None) -> None:
        live = self.live(key)
        assert self.cache.touch(key, ttl) is live
        if live:
            self.keep(key, self.model[key][0], ttl, self.model[key][2])

    @rule(tags=TAGS)
    def invalidate_by_tags(self, tags: frozenset[str]) -> None:
        assert self.cache.invalidate_by_tags(tags) == self.invalidate_in_model(tags)

    def invalidate_in_model(self, tags: frozenset[str] | set[str]) -> int:
        hit = [key for key, (_, _, known) in self.model.items() if tags & known]
        live = sum(map(self.live, hit))
        for key in hit:
            del self.model[key]
        return live

    @rule()
    def clear(self) -> None:
        assert self.cache.clear() is True
        self.model.clear()

    @rule()
    def optimize(self) -> None:
        report = self.cache.optimize_cache()
        assert report.size == sum(map(self.live, self.model))

    @rule(seconds=st.sampled_from([0.5, 1, 3, 20]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def agrees(self) -> None:
        for key in ["a", "b", "user:1", "user:2"]:
            assert self.cache.contains(key) is self.live(key)
            explanation = self.cache.explain(key)
            if self.live(key):
                assert explanation.remaining == self.model[key][1] - self.clock.monotonic()
                assert explanation.tags == self.model[key][2]
            else:
                assert explanation.level is None
        stats = self.cache.get_stats()
        assert (stats["combined"].requests, stats["combined"].request_hits) == (self.requests, self.hits)
        assert stats["memory"].hits + stats["memory"].misses == self.requests
        inside.memory(self.cache)._check()

    def teardown(self) -> None:
        self.cache.close()


CacheAgainstModel.TestCase.settings = explored(steps=2)
TestCacheAgainstModel = CacheAgainstModel.TestCase
