"""A region as a mapping."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any, cast

import pytest
from forking import in_fork
from racing import race

from cachekit import FileCache, IntelligentCache, MemoryCache, RedisCache
from cachekit.integrations.mapping import RegionMapping
from cachekit.testing import FaultyTier, ManualClock
from cachekit.tiers.base import DirectoryTier


@pytest.fixture(params=["memory", "file", "all"])
def cache(
    request: pytest.FixtureRequest, tmp_path: Path, redis_url: str, prefix: str
) -> Iterator[IntelligentCache]:
    file = None if request.param == "memory" else FileCache(tmp_path / "cache")
    redis = RedisCache(url=redis_url, key_prefix=prefix) if request.param == "all" else None
    with IntelligentCache(MemoryCache(), redis, file) as made:
        yield made


def test_it_is_a_mapping(cache: IntelligentCache) -> None:
    """Each method does what a dict's does."""
    mapping: MutableMapping[str, int] = RegionMapping(cache.region("a.:", int, ttl=50, tags={"t"}))
    cache.set("a.:other region", 1)
    cache.delete("a.:other region")
    cache.set("ab:", 1)
    mapping["k"] = 1
    assert mapping["k"] == 1
    assert cache.get("a.:k") == 1
    assert cache.explain("a.:k").tags == {"t"}
    mapping.update({"l": 2}, m=3)
    assert dict(mapping) == {"k": 1, "l": 2, "m": 3}
    assert len(mapping) == 3
    assert set(mapping.values()) == {1, 2, 3}
    assert "k" in mapping
    assert "x" not in mapping
    assert cast("Any", 5) not in mapping
    assert mapping.get("x") is None
    assert mapping.get("x", 7) == 7
    assert mapping.setdefault("k", 9) == 1
    assert mapping.setdefault("n", 9) == 9
    assert mapping.pop("n") == 9
    assert mapping.pop("n", 4) == 4
    del mapping["m"]
    for missing in (lambda: mapping["m"], lambda: mapping.pop("m"), lambda: mapping.__delitem__("m")):
        with pytest.raises(KeyError, match="m"):
            missing()
    assert mapping.popitem()[0] in {"k", "l"}
    mapping.clear()
    assert not mapping
    assert mapping == {}
    assert cache.get("ab:") == 1
    with pytest.raises(KeyError):
        mapping.popitem()


def test_types(cache: IntelligentCache) -> None:
    """Values of another type are refused, on the way in and on the way out."""
    wrong: Any = RegionMapping(cache.region("r:", int))
    calls: list[Callable[[], object]] = [
        lambda: wrong.__setitem__("k", "1"),
        lambda: wrong.setdefault("k", "1"),
        lambda: wrong[5],
        lambda: RegionMapping(cast("Any", {})),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="must be"):
            call()
    cache.set("r:k", "1")
    with pytest.raises(TypeError, match="must be of type int"):
        wrong["k"]


def test_one_caller_sets_the_default(cache: IntelligentCache) -> None:
    mapping = RegionMapping(cache.region("r:", int))
    values = race(*[lambda n=n: mapping.setdefault("k", n) for n in range(6)])
    assert len(set(values)) == 1
    assert mapping["k"] == values[0]


def test_processes(tmp_path: Path) -> None:
    """What one deletes the other no longer has."""
    with IntelligentCache(MemoryCache(), None, FileCache(tmp_path)) as cache:
        mapping = RegionMapping(cache.region("r:", str))
        mapping["k"] = "v"
        assert mapping["k"] == "v"

        def other() -> None:
            assert mapping.pop("k") == "v"

        assert in_fork(other)() == 0
        assert "k" not in mapping
        assert list(mapping) == []


def test_expiry_and_outages(tmp_path: Path) -> None:
    """What is over is not among the keys; a tier that is out is left out."""
    clock = ManualClock()
    tier = FaultyTier(FileCache(tmp_path, clock=clock))
    with IntelligentCache(MemoryCache(clock=clock), None, cast("DirectoryTier", tier)) as cache:
        mapping = RegionMapping(cache.region("r:", int, ttl=5))
        mapping["k"] = 1
        clock.advance(6)
        assert list(mapping) == []
        mapping["k"] = 2
        tier.fail("keys")
        assert list(mapping) == ["k"]
