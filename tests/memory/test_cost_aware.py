"""COST_AWARE keeps what is expensive to load, and is advised where it would save load time."""

from __future__ import annotations

import random
from itertools import accumulate
from math import inf
from typing import Self

import pytest

from cachekit import CacheStrategy, IntelligentCache, LoadOptions, LoadTimeGain, MemoryCache, SizeEstimate
from cachekit.testing import ManualClock
from cachekit.tiers.memory.eviction.cost_aware import CostAware
from cachekit.tiers.memory.tier import store_of

SIZE = 80  # of which every key is in the sample


class Loads:
    """A cache whose loads take time on its own clock."""

    def __init__(self, size: int, strategy: CacheStrategy = CacheStrategy.COST_AWARE, **more: object) -> None:
        self.clock = ManualClock()
        options: dict[str, object] = {"clock": self.clock, **more}
        self.memory = MemoryCache(size, strategy, **options)  # type: ignore[arg-type]
        self.cache = IntelligentCache(self.memory, file_cache=None)
        self.seconds = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cache.close()

    def get(self, key: str, seconds: float) -> bool:
        """Return whether it was a hit."""
        loaded: list[str] = []

        def load() -> int:
            loaded.append(key)
            self.clock.advance(seconds)
            self.seconds += seconds
            return 1

        self.cache.get_or_set(key, load, ttl=10**9)
        return not loaded


def stream(requests: int, keys: int) -> list[int]:
    weights = list(accumulate(rank**-0.8 for rank in range(1, keys + 1)))
    return random.Random(3).choices(range(keys), cum_weights=weights, k=requests)


def test_what_is_expensive_stays() -> None:
    """Entries that are requested equally often leave in the order of their load times."""
    with Loads(4) as loads:
        for number, seconds in enumerate([5.0, 0.1, 1.0, 2.0]):
            loads.get(f"k{number}", seconds)
        loads.get("new", 3.0)
        loads.get("newer", 3.0)
        assert set(loads.memory.keys()) == {"k0", "k3", "new", "newer"}


def test_size_counts_against_load_time() -> None:
    """Of two loads that took equally long, the smaller value stays."""
    with Loads(10, max_bytes=100, weigher=lambda key, value: 20 if key == "large" else 5) as loads:
        for key in ["small", "large", *(f"k{number}" for number in range(20))]:
            loads.get(key, 1.0)
        kept = loads.memory.keys()
    assert "large" not in kept
    assert len(kept) == 10


def test_without_load_times_hits_decide() -> None:
    with MemoryCache(3, CacheStrategy.COST_AWARE) as cache:
        for key in "abc":
            cache.set_value(key, 1)
        cache.get_value("a")
        cache.set_value("d", 1)
        assert set(cache.keys()) == {"a", "c", "d"}
        assert cache.policy == "cost-aware: no load times are known, so size and hits decide"


def test_it_saves_load_time() -> None:
    """At the price of hits: more of them, and cheaper ones, are misses."""
    chance = random.Random(7)
    times = [chance.lognormvariate(0, 1.5) for _ in range(600)]
    spent = {}
    for strategy in (CacheStrategy.S3_FIFO, CacheStrategy.COST_AWARE):
        with Loads(SIZE, strategy, estimates=False) as loads:
            for number in stream(6_000, 600):
                loads.get(f"k{number}", times[number])
            store_of(loads.memory).check()
            spent[strategy] = loads.seconds
    assert spent[CacheStrategy.COST_AWARE] < 0.9 * spent[CacheStrategy.S3_FIFO]


def test_an_outage_does_not_fill_the_cache_for_ever() -> None:
    """What was slow once, because a server was, leaves after some rounds, however slow that was."""
    with Loads(50) as loads:
        for number in range(500):
            loads.get(f"before {number}", 0.01)
        for number in range(50):
            loads.get(f"outage {number}", 100.0)
        kept = loads.memory.keys()
        assert sum(key.startswith("outage") for key in kept) > 45
        for number in range(1_000):
            for _ in range(2):
                loads.get(f"after {number % 500}", 0.01)
        kept = loads.memory.keys()
        assert sum(key.startswith("outage") for key in kept) < 5


def test_explain_and_policy_name_load_times() -> None:
    """A batch divides its time among its keys, and a value that replaces another keeps the load time."""
    with Loads(10) as loads:
        loads.get("k", 0.5)
        assert loads.memory.policy == "cost-aware: half of the last loads took 500.0 ms or less"
        found = loads.cache.explain("k")
        assert found.load_seconds == 0.5
        assert str(found).endswith(", loaded in 0.5 s")
        loads.cache.set("k", 2)
        assert loads.cache.explain("k").load_seconds == 0.5
        loads.cache.set("other", 2)
        assert loads.cache.explain("other").load_seconds is None
        assert loads.cache.explain("none").load_seconds is None

        def load(keys: list[str]) -> dict[str, int]:
            loads.clock.advance(3.0)
            return dict.fromkeys(keys, 1)

        loads.cache.get_or_set_many(["a", "b", "c"], load)
        assert [loads.cache.explain(key).load_seconds for key in "abc"] == [1.0, 1.0, 1.0]
    with Loads(10, CacheStrategy.LRU) as loads:
        loads.get("k", 0.5)
        assert loads.cache.explain("k").load_seconds is None


@pytest.mark.parametrize("options", [LoadOptions(), LoadOptions(soft_timeout=5)])
def test_a_load_in_a_thread_of_its_own_is_timed_too(options: LoadOptions) -> None:
    with Loads(10) as loads:

        def load() -> int:
            loads.clock.advance(2.0)
            return 1

        loads.cache.get_or_set("k", load, load=options, stale_ttl=9)
        assert loads.cache.explain("k").load_seconds == 2.0


def compared(size: int, varied: bool, keys: list[int]) -> tuple[SizeEstimate, float, tuple[str, ...]]:
    """What an LRU tier estimates, what COST_AWARE saves in truth, and the advice."""
    chance = random.Random(7)
    times = [chance.lognormvariate(0, 1.5) if varied else 1.0 for _ in range(max(keys) + 1)]
    total = sum(times[number] for number in keys)
    with Loads(size, CacheStrategy.LRU) as loads, Loads(size, estimates=False) as other:
        for at, number in enumerate(keys):
            loads.get(f"k{number}", times[number])
            other.get(f"k{number}", times[number])
            if not at % 4:
                loads.memory.estimate()
        saved = (loads.seconds - other.seconds) / total
        return loads.memory.estimate(), saved, loads.cache.optimize_cache().advice


def test_it_is_advised_where_it_saves_load_time() -> None:
    """The comparison is exact where every key is in the sample."""
    found, saved, advice = compared(SIZE, True, stream(6_000, 600))
    assert found.cost_aware is not None
    assert found.cost_aware.share == pytest.approx(saved, abs=1e-6)
    assert saved > 0.05
    (line,) = [line for line in advice if "COST_AWARE" in line]
    assert line.startswith(f"CacheStrategy.COST_AWARE would save {100 * saved:.1f} +- ")


def test_it_is_not_advised_where_loads_take_equally_long() -> None:
    """Here LRU is as good as any strategy: each key comes back once, soon."""
    keys = [number // 2 - number % 2 * 40 for number in range(80, 6_000)]
    found, _, advice = compared(SIZE, False, keys)
    assert found.cost_aware is not None
    assert [line for line in advice if "COST_AWARE" in line] == []


def test_nothing_is_compared_without_load_times() -> None:
    """Values that are only written have none; nor does a tier compare COST_AWARE with itself."""
    with MemoryCache(SIZE) as cache:
        for number in stream(3_000, 600):
            if cache.get_value(f"k{number}") is None:
                cache.set_value(f"k{number}", 1)
        assert cache.estimate()
        assert cache.estimate().cost_aware is None
    with Loads(SIZE) as loads:
        for number in stream(3_000, 600):
            loads.get(f"k{number}", 1.0)
        assert loads.memory.estimate()
        assert loads.memory.estimate().cost_aware is None


@pytest.mark.parametrize(
    ("share", "margin", "advised"), [(0.03, 0.01, True), (0.029, 0.0, False), (0.05, 0.06, False)]
)
def test_advice_needs_three_points_beyond_the_noise(share: float, margin: float, advised: bool) -> None:
    gain = LoadTimeGain(share, margin, -0.01)
    assert bool(gain.advice()) is advised
    if advised:
        assert gain.advice() == (
            "CacheStrategy.COST_AWARE would save 3.0 +- 1.0 points more of the load time, "
            "at -1.0 points of hit rate",
        )


def test_load_times_of_no_length_leave_the_choice_to_hits() -> None:
    """On a clock that is too coarse for loads, every load takes no time."""
    policy = CostAware[str]()
    policy.begin(3)
    for key in "abc":
        policy.weigh(key, 1, 0.0)
        policy.insert(key, inf)
    policy.hit("a")
    assert policy.median == 0
    assert policy.evict("d") == "b"
