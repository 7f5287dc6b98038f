"""Six processes load and invalidate through a real memcached: no read is stale, unless a guard is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from memcached_server import MemcachedServer
from polled_hammer import hammer

from cachekit import MemcachedCache
from cachekit.tiers.polled import PolledTier
from cachekit.tiers.polled.items import GENERATION


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


def without_comparing_tokens(tier: Any) -> None:
    tier._current = lambda key, content, origin: tier._tokens({key: origin.tags})[key]


def without_compare_and_set(tier: Any) -> None:
    def replace(name: str, data: bytes, life: float | None, version: object) -> bool:
        tier._store.write(name, data, life)
        return True

    tier._store.replace = replace


def without_watching(tier: Any) -> None:
    real = tier._tokens

    def tokens(watched: Mapping[str, Any], create: bool = False) -> Any:
        if create or not all(GENERATION in tags for tags in watched.values()):
            return real(watched, create)
        return {key: dict(tags) for key, tags in watched.items()}  # as the value has them

    tier._tokens = tokens


def without_waiting_for_answers(tier: Any) -> None:
    for client in tier._store._clients.values():
        client.default_noreply = True
    tier._store._stored = lambda stored: None


GUARDS: dict[str, dict[str, Any]] = {
    "the origin before the truth": {"truth_first": True},
    "the token of the key": {"harm": without_comparing_tokens},
    "compare-and-set": {"harm": without_compare_and_set},
    "what a value watches": {"harm": without_watching},
}


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("guard", GUARDS)
def test_each_guard_is_needed(server: MemcachedServer, prefix: str, guard: str) -> None:
    """Without it some read is stale."""
    stale = 0
    for _ in range(20):
        counts = hammer(maker(server, prefix), 500, **GUARDS[guard])
        stale += counts.stale
        print(guard, counts)
        if stale:
            break
    assert stale > 0
