"""Six processes load and invalidate through a real memcached: no read is stale, unless a guard is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from memcached_server import MemcachedServer
from polled_guards import GUARDS
from polled_hammer import hammer

from cachekit import MemcachedCache
from cachekit.tiers.polled import PolledTier


@pytest.fixture(scope="module")
def server() -> Iterator[MemcachedServer]:
    with MemcachedServer() as started:
        yield started


def maker(server: MemcachedServer, prefix: str) -> Callable[[], PolledTier]:
    return lambda: MemcachedCache([server.address], prefix, timeout=60)


def test_no_read_is_stale(server: MemcachedServer, prefix: str) -> None:
    counts = hammer(maker(server, prefix), 600)
    print(counts)
    assert counts.stale == 0


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_no_read_is_stale_for_long(server: MemcachedServer, prefix: str) -> None:
    counts = hammer(maker(server, prefix), 10_000)
    print(counts)
    assert counts.stale == 0


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("guard", [*GUARDS, "the truth is read last"])
def test_each_guard_is_needed(server: MemcachedServer, prefix: str, guard: str) -> None:
    """Without it some read is stale."""
    stale = 0
    for _ in range(20):
        counts = hammer(maker(server, prefix), 500, harm=GUARDS.get(guard), truth_first=guard not in GUARDS)
        stale += counts.stale
        print(guard, counts)
        if stale:
            break
    assert stale > 0
