"""The memory tier under every strategy: bounds, nothing lost or left behind; threads, forks, signals."""

from __future__ import annotations

import copy
import gc
import pickle
import random
import weakref
from collections.abc import Callable
from functools import partial
from itertools import product
from math import inf
from types import ModuleType
from typing import Any

import inside
import pytest
import traced
from exploring import explored
from forking import in_fork
from free_threads import lock_free_hits
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from naive_policies import NAIVE, Naive
from racing import frequent_switches, race
from tracing import at_line

from cachekit import CacheError, CacheStrategy, IntelligentCache, MemoryCache, RemovalCause, cache_result
from cachekit.model.display import shown_value
from cachekit.model.types import NO_TAGS
from cachekit.testing import ManualClock
from cachekit.tiers.memory import policy_store
from cachekit.tiers.memory.eviction.base import EvictionPolicy
from cachekit.tiers.memory.eviction.policies import Fifo, S3Fifo, Sieve
from cachekit.tiers.memory.sizing import TAG_IN_INDEX
from cachekit.tiers.memory.tier import store_of

KEYS = st.sampled_from([f"k{number}" for number in range(9)])


class Order:
    """LRU as a policy of a user's: without slots, and with nothing but what the port asks for."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def begin(self, capacity: int) -> None:
        self.keys = []

    def insert(self, key: str, deadline: float) -> None:
        self.keys.append(key)

    def hit(self, key: str) -> None:
        self.keys.remove(key)
        self.keys.append(key)

    def prolong(self, key: str, deadline: float) -> None:
        assert key in self.keys

    def evict(self, incoming: str) -> str:
        return self.keys.pop(0)

    def remove(self, key: str) -> None:
        self.keys.remove(key)


def weight(key: str, value: object) -> int:
    assert isinstance(value, int)
    return value


class StrategyMachine(RuleBasedStateMachine):
    """A tier beside the naive model of its policy: the same keys at every moment, whatever happens."""

    MAX_SIZE = 6
    MAX_BYTES = 20

    @initialize(strategy=st.sampled_from([*CacheStrategy, Order]), bounded=st.booleans())
    def begin(self, strategy: CacheStrategy | type[Order], bounded: bool) -> None:
        self.clock = ManualClock()
        self.model_class = (
            NAIVE[strategy] if isinstance(strategy, CacheStrategy) else NAIVE[CacheStrategy.LRU]
        )
        self.model: Naive = self.model_class(self.MAX_SIZE)
        self.weights: dict[str, int] = {}
        self.seconds: dict[str, float | None] = {}  # of loads
        self.deadlines: dict[str, float] = {}
        self.limit = self.MAX_BYTES if bounded else None
        self.cache = MemoryCache(
            self.MAX_SIZE,
            strategy,
            max_bytes=self.limit,
            weigher=weight if bounded else None,
            clock=self.clock,
            cleanup_interval=None,
        )
        self.causes: list[tuple[str, RemovalCause]] = []
        self.expected: list[tuple[str, RemovalCause]] = []
        self.cache.on_removal(lambda key, value, cause: self.causes.append((key, cause)))
        self.oversized = 0

    def leave(self, key: str, cause: RemovalCause) -> None:
        self.model.remove(key)
        self.forget(key, cause)

    def forget(self, key: str, cause: RemovalCause) -> None:
        del self.weights[key], self.deadlines[key]
        self.expected.append((key, cause))

    def live(self, key: str) -> bool:
        return key in self.deadlines and self.clock.monotonic() < self.deadlines[key]

    def drop(self, key: str) -> None:
        if key in self.deadlines:
            cause = RemovalCause.INVALIDATED if self.live(key) else RemovalCause.EXPIRED
            self.leave(key, cause)

    @rule(
        key=KEYS,
        value=st.integers(0, 7),
        life=st.sampled_from([1, 5, 50, None]),
        seconds=st.sampled_from([None, 0.0, 0.01, 0.5, 90.0]),
    )
    def set_value(self, key: str, value: int, life: float | None, seconds: float | None) -> None:
        if seconds is None:
            kept = self.cache.set_value(key, value, life)
        else:
            store = store_of(self.cache)
            fence = store.fence(key, NO_TAGS)
            fence.seconds = seconds
            kept = store.put(
                key, value, inf if life is None else life, NO_TAGS, fence=fence, breaks_fences=True
            )
        if self.limit is not None and value > self.limit // 4:
            assert kept is False
            self.oversized += 1
            self.drop(key)
            return
        assert kept is True
        while (key not in self.weights and len(self.weights) >= self.MAX_SIZE) or (
            self.limit is not None
            and sum(self.weights.values()) - self.weights.get(key, 0) + value > self.limit
        ):
            self.forget(self.model.evict(key), RemovalCause.EVICTED)
        deadline = self.clock.monotonic() + life if life else float("inf")
        if key in self.weights:
            seconds = self.seconds[key] if seconds is None else seconds
        self.seconds[key] = seconds
        self.model.weigh(key, value if self.limit else 0, seconds)
        if key in self.weights:
            self.expected.append((key, RemovalCause.REPLACED))
            self.model.prolong(key, deadline)
            self.model.hit(key)
        else:
            self.model.insert(key, deadline)
        self.weights[key] = value
        self.deadlines[key] = deadline

    @rule(key=KEYS, entry=st.booleans())
    def get(self, key: str, entry: bool) -> None:
        found = self.cache.get(key) if entry else self.cache.get_value(key, None)
        if self.live(key):
            assert found is not None
            self.model.hit(key)
        else:
            assert found is None
            self.drop(key)

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        assert self.cache.delete(key) is self.live(key)
        self.drop(key)

    @rule(key=KEYS)
    def touch(self, key: str) -> None:
        assert self.cache.touch(key, 9) is self.live(key)
        if self.live(key):
            self.deadlines[key] = self.clock.monotonic() + 9
            self.model.prolong(key, self.deadlines[key])

    @rule(number=st.integers(0, 4))
    def invalidate(self, number: int) -> None:
        self.cache.invalidate_by_pattern(f"k[{number}{number + 4}]")
        self.drop(f"k{number}")
        self.drop(f"k{number + 4}")

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        for key in list(self.weights):
            self.forget(key, RemovalCause.INVALIDATED)
        self.model = self.model_class(self.MAX_SIZE)

    @rule(seconds=st.sampled_from([0.5, 3, 20]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def sweep(self) -> None:
        over = [key for key in self.weights if not self.live(key)]
        assert self.cache.remove_expired() == len(over)
        for key in over:
            self.drop(key)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "cache"):
            return
        self.cache._check()
        assert {held.key for held in inside.entries(self.cache)} == set(self.weights)
        assert len(self.weights) <= self.MAX_SIZE
        stats = self.cache.get_stats()
        if self.limit is not None:
            assert stats.memory_usage_bytes == self.cache.memory_usage() == sum(self.weights.values())
            assert stats.memory_usage_bytes <= self.limit
        assert stats.oversized == self.oversized
        assert sorted(map(str, self.causes)) == sorted(map(str, self.expected))

    def teardown(self) -> None:
        if hasattr(self, "cache"):
            self.cache.close()


StrategyMachine.TestCase.settings = explored(steps=2.5)
TestStrategies = StrategyMachine.TestCase


@pytest.mark.usefixtures("build")
@pytest.mark.parametrize("strategy", [*CacheStrategy, Order])
def test_threads(strategy: CacheStrategy | type[Order]) -> None:
    """Eight threads do everything at once: no wrong value, bounds hold, counters and policy agree."""
    cache = MemoryCache(40, strategy, max_bytes=400_000)
    lookups = [0] * 8

    def work(number: int) -> None:
        chance = random.Random(number)
        for step in range(1200):
            key = f"k{int(chance.paretovariate(0.7)) % 90}"
            action = chance.randrange(20)
            if action < 13:
                lookups[number] += 1
                value = cache.get_value(key)
                assert value is None or value.startswith(key + "="), value
            elif action < 18:
                cache.set_value(
                    key, f"{key}={step}" + "x" * chance.choice([0, 2000]), ttl=chance.choice([None, 60])
                )
            elif action == 18:
                cache.delete(key)
            elif step % 40 == 0:
                cache.clear()
            else:
                cache.touch(key, 100)

    with cache, frequent_switches():
        race(*[partial(work, number) for number in range(8)])
        cache._check()
        stats = cache.get_stats()
        assert stats.hits + stats.misses == sum(lookups)
        assert stats.size <= 40
        for key in cache.keys():  # noqa: SIM118
            assert cache.delete(key)
        assert cache.size() == cache.memory_usage() == 0


@pytest.mark.parametrize("strategy", CacheStrategy)
def test_forks(strategy: CacheStrategy) -> None:
    """Parent and child go on, each by itself, also if another thread was writing at the fork."""
    with MemoryCache(20, strategy, max_bytes=1_000_000) as cache:
        for number in range(20):
            cache.set_value(f"k{number}", number)

        def writes(count: int) -> None:
            for number in range(count):
                cache.set_value(f"w{number % 30}", number)
                cache.get_value(f"w{number % 7}")

        def child() -> None:
            writes(300)
            cache._check()

        children = race(lambda: writes(3000), lambda: [in_fork(child) for _ in range(3)])[1]
        assert children is not None
        assert [wait() for wait in children] == [0, 0, 0]
        cache._check()


OPERATIONS: dict[str, Callable[[MemoryCache], object]] = {
    "overwrite": lambda cache: cache.set_value("a", "new", tags={"y"}),
    "insert and evict": lambda cache: cache.set_value("new", "n" * 900),
    "delete": lambda cache: cache.delete("a"),
    "touch": lambda cache: cache.touch("a", 60),
    "by tag": lambda cache: cache.invalidate_by_tags({"x"}),
    "clear": lambda cache: cache.clear(),
    "get": lambda cache: cache.get("a"),
}


class Struck(Exception):
    pass


@pytest.mark.parametrize("strategy", traced.POLICIES)
def test_an_exception_between_any_two_lines(strategy: str) -> None:
    """Wherever a signal handler's exception strikes: bounds hold, and the policy knows what is held."""
    for part, name in product(traced.POLICIES[strategy], OPERATIONS):
        struck_everywhere(CacheStrategy[strategy], part, name)


def struck_everywhere(strategy: CacheStrategy, part: ModuleType, name: str) -> None:

    def strike() -> None:
        raise Struck

    number, came = 0, True
    while came:
        number += 1
        where = strategy, name, number
        with MemoryCache(3, strategy, max_bytes=8000, cleanup_interval=None) as cache:
            for key in "abc":
                cache.set_value(key, key, tags={"x"})
                cache.get_value(key)
            try:
                came = at_line(number, part, strike, partial(OPERATIONS[name], cache))
            except Struck:
                pass
            assert cache.size() <= 3, where
            for key in cache.keys():  # noqa: SIM118
                assert cache.get(key) is not None, where
                assert cache.get_value(key) is not None, where
            for more in range(8):
                cache.set_value(f"more {more}", "m" * 600)
                assert cache.size() <= 3, where
            cache.remove_expired()  # a write that was struck may leave a dead entry,
            held = inside.entries(cache)  # or a key too many in the index of tags
            having = inside.store(cache)._tags.having
            assert all(one.key in having(one.tags) for one in held if one.tags), where
            weight = sum(one.weight for one in held)  # type: ignore[attr-defined]
            tags = len(inside.store(cache)._tags)
            assert cache.memory_usage() == weight + TAG_IN_INDEX * tags, where
            for key in cache.keys():  # noqa: SIM118
                assert cache.delete(key), where
            assert cache.size() == cache.memory_usage() == 0, where


class TestHits:
    """How policies without lock-free hits hear of them."""

    def test_many_hits_between_two_writes_are_all_told(self) -> None:
        """A queue of hits does not grow without bound, and loses none."""
        with MemoryCache(3, CacheStrategy.LFU) as cache:
            for key in "abc":
                cache.set_value(key, key)
            for _ in range(1000):
                cache.get_value("a")
            assert isinstance(inside.store(cache), policy_store.PolicyStore)
            assert len(inside.store(cache)._hits) < 128
            for _ in range(998):
                cache.get_value("b")
            for _ in range(999):
                cache.get_value("c")
            cache.set_value("d", "d")
            assert sorted(cache.keys()) == ["a", "c", "d"]

    @lock_free_hits
    def test_a_hit_is_told_once_though_its_time_is_taken(self) -> None:
        """Hits that are timed, which all are here, are no second hits to the policy."""
        clock = ManualClock()
        with MemoryCache(2, CacheStrategy.LFU, clock=clock) as cache:
            cache.set_value("timed", 1)
            cache.set_value("later", 1)
            clock.advance(1)
            cache.get_value("timed")  # the first after a while, so it is timed
            assert cache._stats.latency._counts != [0] * len(cache._stats.latency._counts)
            cache.get_value("later")
            cache.set_value("new", 1)
            assert sorted(cache.keys()) == ["later", "new"]

    def test_cached_functions_and_caches_tell_too(self) -> None:
        """A hit by a cached function or by a cache counts as one by the tier does."""
        with IntelligentCache(MemoryCache(2, CacheStrategy.SIEVE), file_cache=None) as cache:

            @cache_result(cache=cache)
            def twice(number: int) -> int:
                return 2 * number

            twice(1)
            twice(2)
            assert twice(1) == 2
            twice(3)
            assert [cache.contains(twice.key(number)) for number in (1, 2, 3)] == [True, False, True]


class Wrong(Order):
    def evict(self, incoming: str) -> str:
        return "never seen"


class Failing(Order):
    fails = True

    def hit(self, key: str) -> None:
        if self.fails:
            type(self).fails = False
            raise RuntimeError("once")
        super().hit(key)


class TestOwnPolicies:
    """Policies of the user's: instances, classes, functions."""

    def test_an_instance_belongs_to_one_cache(self) -> None:
        """A second cache with it is refused, as long as the first exists."""
        policy: EvictionPolicy = Sieve()
        cache = MemoryCache(3, policy)
        assert cache.strategy is policy
        with pytest.raises(ValueError, match="strategy must be a policy that no other cache has"):
            MemoryCache(3, policy)
        with pytest.raises(ValueError, match="strategy must be a policy that no other cache has"):
            MemoryCache(3, lambda: policy)

    def test_a_cache_that_is_dropped_is_gone_at_once(self, subtests: pytest.Subtests) -> None:
        """No cycle keeps it, its values, or its policy, which may then serve another cache."""
        rows: list[Any] = [Order, Sieve, *CacheStrategy]
        for strategy in rows:
            with subtests.test(strategy=strategy):
                gc.disable()
                try:
                    cache = MemoryCache(3, strategy, max_bytes=10_000, cleanup_interval=None)
                    cache.set_value("k", 1)
                    cache.get_value("k")
                    store = weakref.ref(inside.store(cache))
                    del cache
                    assert store() is None
                finally:
                    gc.enable()
                policy = Order()
                MemoryCache(3, policy)
                assert MemoryCache(3, policy).strategy is policy

    def test_classes_and_functions_make_one_for_each_cache(self) -> None:
        """And the policy is told the capacity."""
        first, second = MemoryCache(30, S3Fifo), MemoryCache(40, S3Fifo)
        third = MemoryCache(3, lambda: Order())
        for cache in (first, second, third):
            for number in range(50):
                cache.set_value(f"k{number}", number)
        assert (first.size(), second.size(), third.size()) == (30, 40, 3)

    def test_a_class_pickles_and_an_instance_does_not(self) -> None:
        """Configuration travels; what belongs to one cache does not, and the error says what to do."""
        cache = MemoryCache(7, Order, 60, max_bytes=1000, weigher=weight)
        twin = pickle.loads(pickle.dumps(cache))
        assert (twin.max_size, twin.strategy, twin.max_bytes) == (7, Order, 1000)
        assert twin.set_value("k", 250)
        assert not twin.set_value("k", 251)
        assert copy.copy(MemoryCache(5, CacheStrategy.SIEVE)).strategy is CacheStrategy.SIEVE
        with pytest.raises(TypeError, match="cannot be copied or pickled, because a policy belongs to one"):
            pickle.dumps(MemoryCache(7, Fifo()))

    def test_what_is_no_policy(self, subtests: pytest.Subtests) -> None:
        """The error says what it was, and what is missing."""
        rows: list[tuple[object, str]] = [
            ("lru", "strategy must be a member of CacheStrategy, an EvictionPolicy, or a function"),
            (None, "not None$"),
            (
                dict,
                r"must make an EvictionPolicy, not \{\} as .* does; add begin, insert, hit, prolong, evict",
            ),
        ]
        for strategy, words in rows:
            with subtests.test(strategy=strategy), pytest.raises(TypeError, match=words):
                MemoryCache(3, strategy)  # type: ignore[arg-type]

    def test_a_policy_that_chooses_what_is_not_held(self) -> None:
        """The write is refused, by an error that names it; the bound holds; the cache goes on."""
        with MemoryCache(2, Wrong) as cache:
            cache.set_value("a", 1)
            cache.set_value("b", 1)
            with pytest.raises(
                CacheError, match=r"must return a key that is held, not an object of type str; .*Wrong object"
            ):
                cache.set_value("c", 1)
            assert sorted(cache.keys()) == ["a", "b"]
            assert cache.delete("a")
            assert cache.set_value("c", 1)

    def test_a_policy_that_chooses_no_key(
        self, subtests: pytest.Subtests, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The same error, with what it chose; also for what cannot be hashed."""
        rows: list[object] = [None, ["a"], ("a", "b")]
        for chosen in rows:
            with subtests.test(chosen=chosen):
                monkeypatch.setattr(Wrong, "evict", lambda self, incoming, chosen=chosen: chosen)
                with MemoryCache(1, Wrong) as cache:
                    cache.set_value("a", 1)
                    with pytest.raises(
                        CacheError, match=f"must return a key that is held, not {shown_value(chosen)};"
                    ):
                        cache.set_value("b", 1)

    def test_a_policy_that_raises_begins_again(self) -> None:
        """Its exception reaches the caller; afterwards it knows all that is held."""
        Failing.fails = True
        with MemoryCache(2, Failing) as cache:
            cache.set_value("a", 1)
            cache.set_value("b", 1)
            cache.get_value("a")
            with pytest.raises(RuntimeError, match="once"):
                cache.set_value("c", 1)
            cache.set_value("c", 1)
            assert sorted(cache.keys()) == ["b", "c"]
            cache._check()

    def test_a_policy_that_always_raises_keeps_no_old_value(self) -> None:
        """Neither a write nor a removal that it spoils leaves the older value to be read."""

        class Broken(Order):
            def hit(self, key: str) -> None:
                raise RuntimeError("always")

        with MemoryCache(3, Broken) as cache:
            cache.set_value("a", "old")
            with pytest.raises(RuntimeError, match="always"):
                cache.set_value("a", "new")
            assert cache.get_value("a") is None
            cache.set_value("b", "old")
            cache.get_value("b")
            with pytest.raises(RuntimeError, match="always"):
                cache.delete("b")
            assert cache.get_value("b") is None
            assert cache.size() == 0
