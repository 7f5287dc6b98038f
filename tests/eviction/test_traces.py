"""Hit counts of whole memory tiers, on request streams that an independent simulator has seen too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from naive_policies import NAIVE
from traces import made_up, reference, trace

from cachekit import CacheStrategy, MemoryCache

QUICK = reference("quick")
FULL = reference("full")

#: Names in reference.json of the policies that have one definition there.
DEFINED = {
    CacheStrategy.LRU: "LRU",
    CacheStrategy.FIFO: "FIFO",
    CacheStrategy.LFU: "LFU",
    CacheStrategy.SIEVE: "SIEVE",
    CacheStrategy.S3_FIFO: "S3-FIFO",
}

#: Hit ratios in percent that theine 2.0 reached in the worst of five runs.
THEINE = {
    ("twitter52", 1435): 69.05, ("twitter52", 14354): 79.46, ("orm_busy", 442): 62.20,
    ("orm_busy", 4418): 84.16, ("oltp", 1000): 39.46, ("oltp", 18688): 59.48, ("zipf09", 911): 42.12,
    ("zipf09", 9113): 66.75,
}  # fmt: skip


def hits_of(strategy: CacheStrategy, capacity: int, keys: Iterable[str]) -> int:
    """How many of the keys a memory tier answers."""
    with MemoryCache(capacity, strategy, cleanup_interval=None) as cache:
        for key in keys:
            if cache.get_value(key) is None:
                cache.set_value(key, key)
        cache._check()
        stats = cache.get_stats()
        assert stats.evictions == stats.misses - stats.size
        return int(stats.hits)


def model_hits(strategy: CacheStrategy, capacity: int, keys: Iterable[str]) -> int:
    model = NAIVE[strategy](capacity)
    held: set[str] = set()
    hits = 0
    for key in keys:
        if key in held:
            hits += 1
            model.hit(key)
            continue
        if len(held) == capacity:
            held.remove(model.evict(key))
        model.insert(key, 1.0)
        held.add(key)
    return hits


@pytest.mark.parametrize("strategy", CacheStrategy)
@pytest.mark.parametrize("capacity", [7, 50, 200])
def test_a_made_up_stream(strategy: CacheStrategy, capacity: int) -> None:
    """A tier answers as many requests as the model of its policy does."""
    keys = made_up(8_000)
    assert hits_of(strategy, capacity, keys) == model_hits(strategy, capacity, keys)


def cases(part: dict[str, Any]) -> list[tuple[str, int]]:
    return [(name, int(capacity)) for name, known in part.items() for capacity in known["hits"]]


@pytest.mark.skipif(not QUICK, reason="there is no folder of traces; CACHEKIT_TRACES names one")
@pytest.mark.parametrize(
    ("name", "capacity"),
    [
        pytest.param(*case, marks=[] if at % 8 == 1 else [pytest.mark.soak])
        for at, case in enumerate(cases(QUICK))
    ],
)
def test_the_beginnings_of_real_streams(name: str, capacity: int) -> None:
    """The same counts as the simulator, request for request, on the first 100,000 of each trace."""
    keys = trace(name, QUICK[name]["requests"])
    known = QUICK[name]["hits"][str(capacity)]
    expected = {strategy.value: known[other] for strategy, other in DEFINED.items()}
    assert {strategy.value: hits_of(strategy, capacity, keys) for strategy in DEFINED} == expected


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.skipif(not FULL, reason="there is no folder of traces; CACHEKIT_TRACES names one")
@pytest.mark.parametrize(("name", "capacity"), cases(FULL))
def test_whole_real_streams(name: str, capacity: int) -> None:
    """The same counts as the simulator; and W-TinyLFU at least the worst run of theine's."""
    keys = trace(name, FULL[name]["requests"])
    known = FULL[name]["hits"][str(capacity)]
    expected = {strategy.value: known[other] for strategy, other in DEFINED.items()}
    assert {strategy.value: hits_of(strategy, capacity, keys) for strategy in DEFINED} == expected
    adaptive = 100 * hits_of(CacheStrategy.W_TINYLFU, capacity, keys) / len(keys)
    assert adaptive >= THEINE.get((name, capacity), 0.0)
