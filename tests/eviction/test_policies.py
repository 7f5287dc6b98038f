"""Each policy beside a naive model of its paper, victim for victim."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from naive_policies import NAIVE, Naive

from cachekit import CacheStrategy
from cachekit.tiers.memory.eviction.base import EvictionPolicy, LockFreeHits, WeighsEntries
from cachekit.tiers.memory.eviction.policies import (
    POLICIES,
    Adaptive,
    CostAware,
    Fifo,
    Lfu,
    S3Fifo,
    Sieve,
    SoonestToExpire,
    WTinyLfu,
)
from cachekit.tiers.memory.eviction.sketch import FrequencySketch

BESIDE_LRU = [strategy for strategy in CacheStrategy if strategy is not CacheStrategy.LRU]


def held_by(policy: EvictionPolicy) -> int:
    """How many keys a policy takes for held."""
    match policy:
        case Fifo():
            return len(policy._queue)
        case Lfu():
            assert sum(map(len, policy._queues.values())) == len(policy._counts)
            assert all(policy._queues.values())
            return len(policy._counts)
        case SoonestToExpire():
            assert len(policy._heap) <= 2 * len(policy._places) + 32
            return len(policy._places)
        case CostAware():
            assert len(policy._heap) <= 2 * len(policy._places) + 32
            assert policy._weighed == {}
            return len(policy._places)
        case Sieve():
            return len(policy._nodes)
        case S3Fifo():
            assert not policy._ghosts.keys() & (policy._small.keys() | policy._main.keys())
            assert len(policy._ghosts) <= policy._capacity * 0.9
            return len(policy._small) + len(policy._main)
        case Adaptive():
            assert not policy._ghosts.keys() & (policy._trial.keys() | policy._main.keys())
            assert len(policy._ghosts) <= policy._capacity * 0.9
            return len(policy._trial) + len(policy._main)
        case WTinyLfu():
            assert policy._held == len(policy._window) + len(policy._probation) + len(policy._protected)
            return policy._held
    raise AssertionError(policy)


@pytest.mark.parametrize("strategy", BESIDE_LRU)
def test_victims_are_those_of_the_model(subtests: pytest.Subtests, strategy: CacheStrategy) -> None:
    """Under inserts, hits, removals, new deadlines, and a room that is at times smaller."""
    rows: list[int] = [1, 2, 3, 10, 11, 40]
    for capacity in rows:
        with subtests.test(capacity=capacity):
            policy = POLICIES[strategy]()
            policy.begin(capacity)
            model = NAIVE[strategy](capacity)
            chance = random.Random(capacity)
            held: list[str] = []
            evicted = 0

            def weigh(
                key: str, chance: random.Random = chance, policy: Any = policy, model: Naive = model
            ) -> None:
                if isinstance(policy, WeighsEntries):
                    weight = chance.randrange(4)
                    seconds = chance.choice([None, chance.lognormvariate(0, 2)])
                    model.weigh(key, weight, seconds)
                    policy.weigh(key, weight, seconds)

            for step in range(4000):
                key = f"k{int(chance.paretovariate(0.8)) % (5 * capacity)}"
                action = chance.random()
                if key not in held:
                    # In a cache that is bounded in bytes a large entry takes the room of several.
                    room = capacity if step % 500 < 400 else max(1, capacity // 2)
                    while len(held) >= room:
                        expected, actual = model.evict(key), policy.evict(key)
                        assert actual == expected, step
                        held.remove(actual)
                        evicted += 1
                    deadline = float(chance.randrange(20))
                    weigh(key)
                    model.insert(key, deadline)
                    policy.insert(key, deadline)
                    held.append(key)
                elif action < 0.85:
                    model.hit(key)
                    policy.hit(key)
                elif action < 0.92:
                    deadline = float(chance.randrange(20))
                    weigh(key)
                    model.prolong(key, deadline)
                    policy.prolong(key, deadline)
                else:
                    model.remove(key)
                    policy.remove(key)
                    held.remove(key)
                assert held_by(policy) == len(held)
            assert evicted > 200


@pytest.mark.parametrize("strategy", BESIDE_LRU)
def test_begin_forgets_everything(strategy: CacheStrategy) -> None:
    """A policy that begins again does what a new one does, ghosts and counts included."""

    def victims(policy: EvictionPolicy) -> list[str]:
        policy.begin(5)
        chance = random.Random(7)
        held: set[str] = set()
        gone = []
        for _ in range(300):
            key = f"k{chance.randrange(12)}"
            if key in held:
                policy.hit(key)
                continue
            if len(held) == 5:
                gone.append(policy.evict(key))
                held.remove(gone[-1])
            policy.insert(key, 1.0)
            held.add(key)
        return gone

    used = POLICIES[strategy]()
    first = victims(used)
    assert victims(used) == first == victims(POLICIES[strategy]())


@pytest.mark.parametrize("strategy", BESIDE_LRU)
def test_a_hit_without_the_lock_bears_a_key_that_has_left(strategy: CacheStrategy) -> None:
    """It may do nothing, or raise KeyError, and leaves nothing behind."""
    policy = POLICIES[strategy]()
    policy.begin(3)
    if not isinstance(policy, LockFreeHits):
        assert strategy in {CacheStrategy.LFU, CacheStrategy.W_TINYLFU, CacheStrategy.ADAPTIVE}
        return
    policy.insert("k", 1.0)
    policy.remove("k")
    try:
        policy.hit_unlocked("k")
    except KeyError:
        pass
    assert held_by(policy) == 0


class TestSketch:
    """The estimate of how often a key was asked for."""

    def test_it_is_never_too_low_and_seldom_too_high(self) -> None:
        """Before any halving; at most a few percent of the keys share all four of their places."""
        sketch = FrequencySketch(1000)
        counts = {f"key {number}": number % 7 for number in range(1000)}
        for key, count in counts.items():
            for _ in range(count):
                sketch.add(key)
        assert all(sketch.estimate(key) >= count for key, count in counts.items())
        assert sum(sketch.estimate(key) > count for key, count in counts.items()) < 20

    def test_growing_changes_no_estimate(self) -> None:
        """Keys counted before a resize have the same count after it."""
        sketch = FrequencySketch(16)
        keys = [f"key {number}" for number in range(40)]
        for number, key in enumerate(keys):
            for _ in range(number % 5):
                sketch.add(key)
        before = [sketch.estimate(key) for key in keys]
        sketch.resize(5000)
        assert [sketch.estimate(key) for key in keys] == before

    def test_what_was_popular_fades(self) -> None:
        """A count is halved when there have been 24 others for each entry, and stays below 16."""
        sketch = FrequencySketch(16)
        for _ in range(100):
            sketch.add("popular")
        assert sketch.estimate("popular") == 15
        for number in range(24 * 16 - 15):
            sketch.add(f"other {number}")
        assert sketch.estimate("popular") == 7


@pytest.mark.parametrize(
    ("stream", "grows"),
    [
        # Each key a few times within a short while, and never again: only a window helps.
        (lambda step, chance: f"k{step // 3 - int(chance.expovariate(1 / 20))}", True),
        # The same favourites all the time: a window is in the way.
        (lambda step, chance: f"k{int(chance.paretovariate(0.6))}", False),
    ],
)
def test_the_window_of_tinylfu_adapts(stream: Callable[[int, random.Random], str], grows: bool) -> None:
    """It grows on bursts, and stays small, in the mean, on steady favourites."""
    policy: WTinyLfu[str] = WTinyLfu()
    policy.begin(100)
    chance = random.Random(3)
    shares = []
    for step in range(60_000):
        key = stream(step, chance)
        if any(key in part for part in (policy._window, policy._probation, policy._protected)):
            policy.hit(key)
            continue
        if policy._held == 100:
            policy.evict(key)
        policy.insert(key, 1.0)
        shares.append(policy._share)
    mean = sum(shares) / len(shares)
    assert mean > 0.2 if grows else mean < 0.1, mean
