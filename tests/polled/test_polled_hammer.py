"""Six processes load and invalidate through real servers: no read is stale, unless a guard is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dynamodb_server import TABLE, DynamoDBServer
from memcached_server import MemcachedServer
from polled_guards import GUARDS, notice_first
from polled_hammer import hammer

from cachekit import DynamoDBCache, MemcachedCache
from cachekit.tiers.polled import PolledTier


@pytest.fixture(scope="module")
def memcached() -> Iterator[MemcachedServer]:
    with MemcachedServer() as started:
        yield started


@pytest.fixture(scope="module")
def dynamodb() -> Iterator[DynamoDBServer]:
    with DynamoDBServer() as started:
        yield started


#: Rounds of each process: in the suite, for long, and with a guard removed. moto is slow.
ROUNDS = {"memcached": (600, 10_000, 500), "dynamodb": (25, 300, 100)}


@pytest.fixture(params=list(ROUNDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(kind: str, request: pytest.FixtureRequest, prefix: str) -> Callable[[], PolledTier]:
    if kind == "memcached":
        memcached: MemcachedServer = request.getfixturevalue(kind)
        return lambda: MemcachedCache([memcached.address], prefix, timeout=60)
    dynamodb: DynamoDBServer = request.getfixturevalue(kind)
    return lambda: DynamoDBCache(TABLE, prefix, **dynamodb.place, timeout=60)


def test_no_read_is_stale(make: Callable[[], PolledTier], kind: str) -> None:
    counts = hammer(make, ROUNDS[kind][0])
    print(kind, counts)
    assert counts.stale == 0


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_no_read_is_stale_for_long(make: Callable[[], PolledTier], kind: str) -> None:
    counts = hammer(make, ROUNDS[kind][1])
    print(kind, counts)
    assert counts.stale == 0


def with_notices(server: MemcachedServer, prefix: str) -> Callable[[], PolledTier]:
    """Looks are made by the hammer alone, which knows what was settled before."""
    return lambda: MemcachedCache([server.address], prefix, timeout=60, max_staleness=600, poll=600)


@pytest.mark.parametrize("rounds", [200, pytest.param(10_000, marks=pytest.mark.soak)])
@pytest.mark.timeout(900)
def test_no_copy_is_older_than_a_look(memcached: MemcachedServer, prefix: str, rounds: int) -> None:
    """With memory above the tier, and notices of what other processes change."""
    counts = hammer(with_notices(memcached, prefix), rounds, memory=True)
    print(counts)
    assert counts.stale == 0


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("guard", ["the notice comes after the change", "notices"])
def test_each_guard_of_notices_is_needed(memcached: MemcachedServer, prefix: str, guard: str) -> None:
    """Without it some copy is older."""
    harm = notice_first if guard != "notices" else _no_notices
    stale = 0
    for _ in range(20):
        counts = hammer(with_notices(memcached, prefix), 1000, harm=harm, memory=True)
        stale += counts.stale
        print(guard, counts)
        if stale:
            break
    assert stale > 0


def _no_notices(entries: Any) -> None:
    entries._listeners.note = lambda kind, names: None


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("guard", [*GUARDS, "the truth is read last"])
def test_each_guard_is_needed(make: Callable[[], PolledTier], kind: str, guard: str) -> None:
    """Without it some read is stale."""
    rounds, stale = ROUNDS[kind][2], 0
    for _ in range(20):
        counts = hammer(make, rounds, harm=GUARDS.get(guard), truth_first=guard not in GUARDS)
        stale += counts.stale
        print(kind, guard, counts)
        if stale:
            break
    assert stale > 0
