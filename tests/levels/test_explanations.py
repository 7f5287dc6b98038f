"""Each cause of a miss is explained, in each combination of tiers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from memcached_server import MemcachedServer
from redis_server import wait_until

from cachekit import (
    CacheLevel,
    CacheStrategy,
    FileCache,
    IntelligentCache,
    MemcachedCache,
    MemoryCache,
    Miss,
    RedisCache,
    SerializationError,
    cache_result,
    override,
)
from cachekit.model.events import EVENTS, MOST_KEYS, REMOVALS
from cachekit.testing import ManualClock
from cachekit.testing.processes import in_processes


class Tiers:
    """A cache over some tiers, and further ones over the same lower tiers."""

    def __init__(self, kind: str, directory: Path, server: str) -> None:
        self.kind = kind
        self.server = server
        self.clock = ManualClock()
        self._directory = directory
        self._made: list[IntelligentCache] = []
        self.cache = self.another()

    def another(self, **memory: Any) -> IntelligentCache:
        """Return a cache of its own, such as another host or process has."""
        redis: RedisCache | MemcachedCache | None = None
        files, prefix = None, f"{self._directory.name}:"
        if "redis" in self.kind:
            redis = RedisCache(url=self.server, key_prefix=prefix, clock=self.clock)
        if "memcached" in self.kind:
            host, _, port = self.server.partition(":")
            redis = MemcachedCache([(host, int(port))], prefix, timeout=60, clock=self.clock)
        if "file" in self.kind:
            files = FileCache(self._directory, clock=self.clock)
        made = IntelligentCache(MemoryCache(clock=self.clock, **memory), redis, files)
        self._made.append(made)
        # What is stored before the server notifies this cache is dropped from memory. A call begins it.
        wait_until(
            lambda: made.get("no") or not made._core.tiers.is_beginning, "the server notifies the cache"
        )
        return made

    def why(self, key: str = "k") -> Miss:
        explained = self.cache.explain(key)
        assert explained.level is None
        assert explained.miss is not None
        assert " is in no tier: " in str(explained)
        return explained.miss

    def close(self) -> None:
        for made in self._made:
            made.close()


KINDS = ["memory", "memory file", "memory redis", "memory redis file", "memory memcached"]


@pytest.fixture(scope="module")
def memcached() -> Iterator[MemcachedServer]:
    with MemcachedServer() as server:
        yield server


@pytest.fixture(params=KINDS)
def tiers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tiers]:
    server = request.getfixturevalue("redis_url") if "redis" in request.param else ""
    if "memcached" in request.param:
        server = "{}:{}".format(*request.getfixturevalue("memcached").address)
    made = Tiers(request.param, tmp_path, server)
    yield made
    made.close()


def test_never_stored(tiers: Tiers) -> None:
    """A tier below may have lost a value that another process stored: then the reason is unknown."""
    assert tiers.why().cause == ("never stored" if tiers.kind == "memory" else "unknown")


def test_a_hit_has_no_reason(tiers: Tiers) -> None:
    tiers.cache.set("k", 1)
    assert tiers.cache.explain("k").miss is None
    tiers.cache.delete("k")
    tiers.cache.set("k", 2)
    assert tiers.cache.explain("k").miss is None


@pytest.mark.parametrize("looks", [False, True])
def test_expired(tiers: Tiers, looks: bool) -> None:
    """When its life ended, and not when that was noticed."""
    if tiers.server:
        pytest.skip("the server has a clock of its own")
    tiers.cache.set("k", 1, ttl=10, tags={"t"})
    tiers.clock.advance(15)
    if looks:
        assert tiers.cache.get("k") is None
    tiers.cache.invalidate_by_tags({"t"})  # too late to be the reason
    miss = tiers.why()
    assert (miss.cause, miss.tier) == ("expired", "memory")
    assert miss.at == pytest.approx(tiers.clock.time() - 5)


def test_expired_and_stale(tiers: Tiers) -> None:
    """What a load that fails may still return is told, as long as it may."""
    if tiers.server:
        pytest.skip("the server has a clock of its own")

    def fail() -> int:
        raise OSError

    tiers.cache.get_or_set("k", lambda: 1, ttl=10, tags={"t"}, stale_ttl=60)
    tiers.clock.advance(15)
    assert tiers.why().stale_for == pytest.approx(55)
    assert str(tiers.why()).endswith("in memory; a load that fails may return it stale for 55.0 s")
    assert tiers.cache.get_or_set("k", fail, stale_ttl=60) == 1
    tiers.clock.advance(60)
    assert tiers.why().stale_for == 0
    tiers.cache.get_or_set("k", lambda: 1, ttl=10, tags={"t"}, stale_ttl=60)
    tiers.clock.advance(15)
    tiers.cache.invalidate_by_tags({"t"})
    assert tiers.why().stale_for == 0
    with pytest.raises(OSError):  # it has no text
        tiers.cache.get_or_set("k", fail, stale_ttl=60)


def test_evicted() -> None:
    """From memory, if there is no tier below; by each kind of store."""
    bounds: list[dict[str, Any]] = [
        {"max_size": 2}, {"max_size": 2, "strategy": CacheStrategy.FIFO}, {"max_bytes": 200_000},
    ]  # fmt: skip
    for bound in bounds:
        clock = ManualClock()
        with IntelligentCache(MemoryCache(clock=clock, **bound), file_cache=None) as cache:
            cache.set("k", "x" * 5000)
            clock.advance(5)
            for number in range(50):
                cache.set(f"other {number}", "x" * 5000)
            miss = cache.explain("k").miss
            assert miss is not None
            assert (miss.cause, miss.tier) == ("evicted", "memory")
            assert miss.at == pytest.approx(clock.time())
            cache.invalidate_by_pattern("k")  # later, when it was gone
            again = cache.explain("k").miss
            assert again is not None
            assert again.cause == "evicted"


def test_evicted_and_then_gone_below(tmp_path: Path) -> None:
    """A key that left memory, and is removed from files later, was not lost to the eviction."""
    tiers = Tiers("memory file", tmp_path, "")
    cache = tiers.another(max_size=1)
    cache.set("k", 1, ttl=100, tags={"t"})
    cache.set("other", 1)
    assert cache.explain("k").level is CacheLevel.FILE
    cache.invalidate_by_tags({"t"})
    miss = cache.explain("k").miss
    assert miss is not None
    assert (miss.cause, miss.by, miss.name) == ("invalidated", "tag", "t")
    cache.set("k", 1, ttl=100)
    cache.set("other", 1)
    tiers.clock.advance(101)
    miss = cache.explain("k").miss
    assert miss is not None
    assert miss.cause == "expired"
    tiers.close()


INVALIDATIONS: dict[str, tuple[Callable[[IntelligentCache], object], str, str | None]] = {
    "key": (lambda cache: cache.delete("k"), "key", "k"),
    "keys": (lambda cache: cache.delete_many(["a", "k"]), "key", "k"),
    "set": (lambda cache: cache.set("k", 2, ttl=0), "key", "k"),
    "tag": (lambda cache: cache.invalidate_by_tags({"t", "other"}), "tag", "t"),
    "pattern": (lambda cache: cache.invalidate_by_pattern("k"), "pattern", "k"),
    "clear": (lambda cache: cache.clear(), "clear", None),
}


@pytest.mark.parametrize("how", INVALIDATIONS)
def test_invalidated_here(tiers: Tiers, how: str) -> None:
    step, by, name = INVALIDATIONS[how]
    tiers.cache.set("k", 1, tags={"t", "u"})
    tiers.clock.advance(5)
    step(tiers.cache)
    tiers.clock.advance(3)
    tiers.cache.invalidate_by_tags({"u"})  # of what was gone already
    miss = tiers.why()
    assert (miss.cause, miss.by, miss.name, miss.where) == ("invalidated", by, name, "this cache")
    assert miss.at == pytest.approx(tiers.clock.time() - 3)


@pytest.mark.parametrize("how", ["key", "tag", "pattern", "clear"])
def test_invalidated_by_another_process(tmp_path: Path, how: str) -> None:
    """Which wrote the shared fence of the directory; what it did is not known here."""
    tiers = Tiers("memory file", tmp_path, "")
    tiers.cache.set("k", 1, tags={"t"})

    def elsewhere(number: int) -> None:
        INVALIDATIONS[how][0](tiers.another())

    in_processes(1, elsewhere)
    for looks in (False, True):
        if looks:
            assert tiers.cache.get("k") is None
        miss = tiers.why()
        assert (miss.cause, miss.by, miss.where) == ("invalidated", None, "another cache")
    tiers.close()


@pytest.mark.parametrize("how", ["key", "tag", "pattern", "clear"])
def test_invalidated_by_another_host(tmp_path: Path, redis_url: str, how: str) -> None:
    """Its message says what it did."""
    tiers = Tiers("memory redis", tmp_path, redis_url)
    host = tiers.another()
    tiers.cache.set("k", 1, tags={"t"})
    assert host.get("k") == 1
    INVALIDATIONS[how][0](host)
    wait_until(lambda: tiers.cache.get("k") is None, "the message has arrived")
    wait_until(lambda: tiers.why().where is not None, "the removal is noted")
    miss = tiers.why()
    _, by, name = INVALIDATIONS[how]
    assert (miss.cause, miss.by, miss.where) == ("invalidated", by, "another cache")
    if by == "tag":
        assert miss.name == name
    tiers.close()


@pytest.mark.parametrize("how", ["key", "tag", "pattern", "clear"])
def test_refused(tiers: Tiers, how: str) -> None:
    """What was invalidated while it was loaded, and by what."""
    cache = tiers.cache

    def load() -> int:
        INVALIDATIONS[how][0](cache)
        return 1

    assert cache.get_or_set("k", load, tags={"t"}) == 1
    miss = tiers.why()
    assert miss.cause == "refused"
    assert miss.at == pytest.approx(tiers.clock.time())
    assert (miss.by, miss.name, miss.where) == (*INVALIDATIONS[how][1:], "this cache")
    fill = cache.begin("k", tags={"t"})
    INVALIDATIONS[how][0](cache)
    assert not fill.store(1)
    assert tiers.why().cause == "refused"


def test_not_storable(tiers: Tiers) -> None:
    """The value is of one reader, or `store_if` or its ttl refused it."""
    cache = tiers.cache
    with pytest.raises(SerializationError):
        cache.get_or_set("k", lambda: iter([1]))
    miss = tiers.why()
    assert (miss.cause, miss.reason.partition(":")[0]) == ("not storable", "OnceOnlyError")
    assert cache.get_or_set("k", lambda: None, store_if=lambda value: value is not None) is None
    assert tiers.why().reason == "store_if or the ttl refused it"
    assert cache.get_or_set("k", lambda: 1, ttl=lambda value: 0) == 1
    assert tiers.why().cause == "not storable"


def test_too_large() -> None:
    with IntelligentCache(MemoryCache(max_bytes=100_000), file_cache=None) as cache:
        cache.set("k", "x" * 500_000)
        cache.set("k", "small")
        cache.set("k", "x" * 500_000)
        miss = cache.explain("k").miss
    assert miss is not None
    assert (miss.cause, miss.reason) == ("not storable", "it is too large for memory")


def test_too_large_for_a_file(tmp_path: Path) -> None:
    tiers = Tiers("memory file", tmp_path, "")
    with pytest.raises(SerializationError):
        tiers.cache.set("k", lambda: 1)
    assert tiers.why().cause == "not storable"
    assert "SerializationError" in tiers.why().reason
    tiers.close()


class TestFunctions:
    def test_explain(self) -> None:
        cache = IntelligentCache(MemoryCache(), file_cache=None)

        @cache_result(cache=cache, tags=lambda number: {f"number {number}"})
        def double(number: int) -> int:
            return 2 * number

        with cache:
            assert "never stored" in str(double.explain(1))
            double(1)
            assert double.explain(1).level is CacheLevel.MEMORY
            cache.invalidate_by_tags({"number 1"})
            miss = double.explain(number=1).miss
            assert miss is not None
            assert (miss.by, miss.name) == ("tag", "number 1")
            double(2)
            double.cache_clear()
            miss = double.explain(2).miss
            assert miss is not None
            assert miss.by == "tag"
            assert cache.get_stats()["combined"].requests == 2

    def test_awaited(self) -> None:
        cache = IntelligentCache(MemoryCache(), file_cache=None)

        @cache_result(cache=cache)
        async def double(number: int) -> int:
            return 2 * number

        async def run() -> list[str]:
            texts = [str((await double.explain(1)).miss)]
            await double(1)
            await double.invalidate(1)
            return [*texts, str((await double.explain(1)).miss)]

        with cache:
            before, after = asyncio.run(run())
        assert before == "never stored"
        assert after.startswith("invalidated")
        assert after.endswith("by key of this cache")

    def test_of_the_default_cache(self) -> None:
        @cache_result(name="tests.explained")
        def one() -> int:
            return 1

        with IntelligentCache(MemoryCache(), file_cache=None) as cache, override(cache):
            one()
            one.invalidate()
            assert str(one.explain().miss).startswith("invalidated")


def test_texts_show_no_names() -> None:
    """Tags and patterns may hold what a log must not; the fields have them."""
    with IntelligentCache(MemoryCache(), file_cache=None) as cache:
        cache.set("secret key", 1, tags={"secret tag"})
        cache.invalidate_by_tags({"secret tag"})
        explained = cache.explain("secret key")
    assert explained.miss is not None
    assert explained.miss.name == "secret tag"
    assert "secret" not in str(explained)


def test_bounds() -> None:
    """The rings are bounded, and so is what one event holds; what is forgotten is unknown."""
    with IntelligentCache(MemoryCache(max_size=10), file_cache=None) as cache:
        events = cache._core.memory.events
        cache.set("first", 1)
        for number in range(2 * REMOVALS):
            cache.set(f"k{number}", 1)
        for number in range(2 * EVENTS):
            cache.delete(f"k{number}")
        assert (len(events._removals), len(events.all())) == (REMOVALS, EVENTS)
        cache.delete_many([f"many {number}" for number in range(100_000)])
        assert len(events.all()[0].subject) == MOST_KEYS
        miss = cache.explain("first").miss
        assert miss is not None
        assert miss.cause == "unknown"
        last = cache.explain(f"k{2 * REMOVALS - 1}").miss
        assert last is None
    with IntelligentCache(MemoryCache(max_bytes=500_000), file_cache=None) as cache:
        for number in range(2 * REMOVALS):
            cache.set(f"k{number}" + 5000 * "x", 1, tags={f"t{number}" + 5000 * "x"})
        assert len(cache._core.memory.events._removals) == 500_000 // 4096


def test_values_are_not_kept() -> None:
    """The events hold no value of an entry that left."""
    import weakref

    class Value:
        pass

    with IntelligentCache(MemoryCache(max_size=1), file_cache=None) as cache:
        gone = []
        for number in range(3):
            value = Value()
            gone.append(weakref.ref(value))
            cache.set(f"k{number}", value)
        del value
        cache.clear()
        assert [one() for one in gone] == [None] * 3
