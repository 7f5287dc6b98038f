"""Warming by several at once: together each key is loaded once, whoever dies, and every memory has it."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from coherent_caches import listening
from holders import kill, process_with
from redis_server import wait_until

from cachekit import CacheLevel, FileCache, IntelligentCache, LoadOptions, MemoryCache, RedisCache, aio
from cachekit.loading.options import LeaseScope
from cachekit.model.reports import WarmReport
from cachekit.model.stats import CacheStats
from cachekit.testing import ManualClock
from cachekit.testing.processes import in_processes

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

KEYS = [f"k{number}" for number in range(60)]
PLACES = ["a directory", "a server", "hosts"]


class Place:
    """Where several warm: processes on a directory, on a server, or hosts with directories of their own."""

    def __init__(self, kind: str, path: Path, url: str, prefix: str) -> None:
        self.kind = kind
        self._path = path
        self._url = url
        self._prefix = prefix
        self._log = path / "loads"
        self._log.touch()

    def cache(self, number: int, **more: Any) -> IntelligentCache:
        """The cache of one of them."""
        tiers: dict[str, Any] = {"file_cache": None}
        if self.kind != "a directory":
            tiers["redis_cache"] = RedisCache(url=self._url, key_prefix=self._prefix, timeout=60)
        if self.kind != "a server":
            host = number if self.kind == "hosts" else 0
            tiers["file_cache"] = FileCache(self._path / f"host{host}", 64)
        make = partial(IntelligentCache, MemoryCache(), **tiers, **more)
        return listening(make) if "redis_cache" in tiers else make()

    def load(self, key: str) -> str:
        """A loader that notes that it was called, in whatever process."""
        with open(self._log, "a") as log:
            log.write(f"{key}\n")
        return key.upper()

    @property
    def loads(self) -> list[str]:
        """For which keys that was, sorted."""
        return sorted(self._log.read_text().split())


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str, prefix: str) -> Place:
    return Place(request.param, tmp_path, redis_url, prefix)


def in_memory(cache: IntelligentCache) -> list[str]:
    """The keys that the memory of the cache has, of those that are warmed."""
    assert cache.memory_cache is not None
    return [key for key in KEYS if cache.memory_cache.peek(key) is not None]


def warmed_by_two(place: Place, warm: Callable[[IntelligentCache, Callable[[str], str]], WarmReport]) -> None:
    """Two processes warm the same keys; each begins to load one while the other one loads another."""
    both = multiprocessing.get_context("fork").Barrier(2)

    def work(number: int) -> tuple[WarmReport, list[str], dict[str, object]]:
        met = False

        def load(key: str) -> str:
            nonlocal met
            if not met:
                both.wait(60)
            met = True
            return place.load(key)

        with place.cache(number) as cache:
            report = warm(cache, load)
            return report, in_memory(cache), cache.get_many(KEYS)

    done = in_processes(2, work)
    assert place.loads == sorted(KEYS), "each key was loaded once"
    assert sorted(key for report, *_ in done for key in report.loaded) == sorted(KEYS)
    for report, copied, found in done:
        assert report.loaded
        assert (sorted(report.loaded + report.fresh), report.failed) == (sorted(KEYS), {})
        assert copied == KEYS, "also what the other one has loaded"
        assert found == {key: key.upper() for key in KEYS}


def test_two_warmers_do_the_work_once(place: Place) -> None:
    """Together, by default: what one is loading the other one puts off."""
    warmed_by_two(place, lambda cache, load: cache.warm_cache(KEYS, load, concurrency=1))


def test_two_warmers_on_loops(place: Place) -> None:
    """The same with tasks."""

    def warm(cache: IntelligentCache, load: Callable[[str], str]) -> WarmReport:
        return asyncio.run(aio.IntelligentCache.of(cache).warm_cache(KEYS, load, concurrency=1))

    warmed_by_two(place, warm)


def test_many_warmers_with_many_threads(place: Place) -> None:
    """Four processes with four threads each."""

    def work(number: int) -> list[str]:
        with place.cache(number) as cache:
            report = cache.warm_cache(KEYS, place.load, concurrency=4)
            assert (len(report.loaded) + len(report.fresh), in_memory(cache)) == (len(KEYS), KEYS)
            return report.loaded

    loaded = [key for keys in in_processes(4, work) for key in keys]
    assert place.loads == sorted(loaded) == sorted(KEYS)


@pytest.mark.parametrize("awaited", [pytest.param(False, marks=pytest.mark.soak), True])
def test_a_killed_warmer_holds_up_nobody(place: Place, awaited: bool) -> None:
    """While it hangs all other keys are loaded; when it is gone, its own are too."""
    options = LoadOptions(lease="process" if place.kind == "a directory" else "fleet", lease_timeout=2)
    begun = threading.Semaphore(0)

    def hang(key: str) -> str:
        begun.release()
        threading.Event().wait()
        return key

    def warm_and_hang() -> IntelligentCache:
        cache = place.cache(0)
        warm = threading.Thread(
            target=cache.warm_cache,
            args=(KEYS, hang),
            kwargs={"load": options, "concurrency": 3},
            daemon=True,
        )
        warm.start()
        for _ in range(3):
            assert begun.acquire(timeout=60)
        return cache

    with process_with(warm_and_hang) as child, place.cache(1) as cache:

        def progress(done: int, total: int) -> None:
            if done == total - 3:
                kill(child)

        if awaited:
            facade = aio.IntelligentCache.of(cache)
            report = asyncio.run(facade.warm_cache(KEYS, place.load, load=options, progress=progress))
        else:
            report = cache.warm_cache(KEYS, place.load, load=options, progress=progress)
        assert (report.loaded, place.loads) == (KEYS, sorted(KEYS))
        assert cache.get_many(KEYS) == {key: key.upper() for key in KEYS}


def test_who_shares_the_work(subtests: pytest.Subtests, place: Place) -> None:
    """The widest lease that the tiers lend, unless the cache or the call says something else."""
    rows: list[tuple[LoadOptions, LoadOptions | None, LeaseScope | None]] = [
        (LoadOptions(), None, None),
        (LoadOptions(max_concurrent_loads=3), None, None),
        (LoadOptions(lease="process"), None, "process"),
        (LoadOptions(), LoadOptions(), "thread"),
        (LoadOptions(lease="process"), LoadOptions(hard_timeout=20), "thread"),
    ]
    for load, options, scope in rows:
        if place.kind == "a server" and (load.lease == "process" or load.takes_turns):
            continue  # these need a directory
        with subtests.test(load=load, options=options), place.cache(0, load=load) as cache:
            widest = "process" if place.kind == "a directory" else "fleet"
            terms = cache._core.defaults.warming_request(None, None, options, False)
            expected = (load if options is None else options).shared_by(scope or widest)  # type: ignore[arg-type]
            assert terms.options == expected
            assert cache.warm_cache(KEYS, place.load, load=options).loaded == KEYS
            cache.clear()


def test_memory_alone_shares_with_nobody() -> None:
    """And a lease that nobody lends is refused."""
    with IntelligentCache(MemoryCache(), None, None) as cache:
        assert cache.warm_cache(["a"], str.upper).loaded == ["a"]
        with pytest.raises(ValueError, match="lease='process' needs a directory"):
            cache.warm_cache(["a"], str.upper, load=LoadOptions(lease="process"))
        with pytest.raises(TypeError, match="load must be LoadOptions"):
            cache.warm_cache(["a"], str.upper, load="process")  # type: ignore[arg-type]


LEVELS = [CacheLevel.ALL, CacheLevel.MEMORY, CacheLevel.REDIS, CacheLevel.FILE]


def looked_for(stats: dict[str, CacheStats]) -> dict[str, tuple[int, int]]:
    return {name: (tier.misses, stats["combined"].requests) for name, tier in stats.items()}


def test_fresh_is_what_any_level_has(tmp_path: Path, redis_url: str, prefix: str) -> None:
    """It is copied into memory and not loaded; and neither requests nor misses are counted."""
    place = Place("hosts", tmp_path, redis_url, prefix)
    with place.cache(0) as cache:
        for level, key in zip(LEVELS, KEYS, strict=False):
            cache.set(key, "there", cache_level=level, tags={"t"})
        assert cache.memory_cache is not None
        cache.memory_cache.delete(KEYS[0])
        before = looked_for(cache.get_stats())
        report = cache.warm_cache(KEYS[:6], place.load, tags={"t"})
        assert (report.fresh, report.loaded) == (KEYS[:4], KEYS[4:6])
        assert (place.loads, in_memory(cache)) == (KEYS[4:6], KEYS[:6])
        assert looked_for(cache.get_stats()) == before
        assert cache.get_stats()["memory"].promotions == 3
        assert cache.get_stats()["combined"].request_hits == 0


def test_a_copy_knows_its_tags(tmp_path: Path) -> None:
    """What another process invalidates by them is not served from memory either."""
    with (
        IntelligentCache(MemoryCache(), None, FileCache(tmp_path / "d", 64)) as cache,
        IntelligentCache(MemoryCache(), None, FileCache(tmp_path / "d", 64)) as other,
    ):
        other.set("k0", "there", tags={"t"})
        other.set("k1", "there", tags={"u"})
        assert cache.warm_cache(["k0", "k1"], str.upper).fresh == ["k0", "k1"]
        assert in_memory(cache) == ["k0", "k1"]
        other.invalidate_by_tags({"t"})
        assert cache.get_many(["k0", "k1"]) == {"k1": "there"}


def test_what_is_invalidated_while_it_is_copied_is_not_kept(tmp_path: Path) -> None:
    """A write between the look and the copy is not undone."""
    with IntelligentCache(MemoryCache(), None, FileCache(tmp_path / "d", 64)) as cache:
        cache.set("k", "old", cache_level=CacheLevel.FILE)
        levels = cache._core.tiers
        assert levels.file is not None
        tier, peek = levels.file.tier, levels.file.tier.peek

        def peek_and_delete(key: str) -> Any:
            found = peek(key)
            cache.delete(key)
            return found

        class Meanwhile:
            def __getattr__(self, name: str) -> Any:
                return peek_and_delete if name == "peek" else getattr(tier, name)

        levels.file.tier = Meanwhile()
        assert levels.promote_quietly("k") == "old"
        assert in_memory(cache) == []
        assert cache.get("k") is None


def test_system_exit_of_a_loader_reaches_the_caller(tmp_path: Path) -> None:
    """It is no failure of a key, and no further load begins."""
    calls = []

    def load(key: str) -> str:
        calls.append(key)
        raise SystemExit(3)

    with IntelligentCache(MemoryCache(), None, FileCache(tmp_path / "d", 64)) as cache:
        with pytest.raises(SystemExit):
            cache.warm_cache(KEYS, load, concurrency=1)
        assert calls == [KEYS[0]]
        assert cache.warm_cache(KEYS, str.upper).loaded == KEYS


def test_each_load_has_the_callers_context(tmp_path: Path) -> None:
    """And none sees what another one has changed in it."""
    from contextvars import ContextVar

    said: ContextVar[str] = ContextVar("said", default="nothing")
    said.set("by the caller")
    seen = []

    def load(key: str) -> str:
        seen.append(said.get())
        said.set(key)
        return key

    with IntelligentCache(MemoryCache(), None, None) as cache:
        cache.warm_cache(KEYS, load, concurrency=2)
    assert set(seen) == {"by the caller"}
    assert said.get() == "by the caller"


def test_a_million_keys_take_no_thread_each() -> None:
    """As many threads as were allowed, and no more than there are keys."""
    threads = set()

    def load(key: str) -> str:
        threads.add(threading.get_ident())
        return key

    with IntelligentCache(MemoryCache(), None, None) as cache:
        cache.warm_cache(KEYS, load, concurrency=5)
        assert len(threads) <= 5
        cache.warm_cache(["one"], load, concurrency=100_000)
        assert cache.warm_cache([], load, progress=True) == ([], [], {})


def test_two_who_keep_warm_load_once(tmp_path: Path) -> None:
    """What another process has loaded again is taken over, and loaded when its own time comes."""
    clock, loads = ManualClock(), []

    def load(key: str) -> str:
        loads.append(key)
        return f"{key}{loads.count(key)}"

    def round_(cache: IntelligentCache) -> None:
        kept = cache._core.keep_warm
        assert kept is not None
        kept.look()
        wait_until(lambda: kept._round is None or kept._round.is_over, "the round is over")

    caches = [
        IntelligentCache(MemoryCache(clock=clock), None, FileCache(tmp_path / "d", 64, clock=clock))
        for _ in range(2)
    ]
    try:
        for cache in caches:
            cache.warm_cache(["a", "b"], load, ttl=100, keep_warm=True)
        assert sorted(loads) == ["a", "b"]
        for generation in range(2, 5):
            clock.advance(81)
            for cache in (*caches, *caches):
                round_(cache)
            assert sorted(loads) == ["a"] * generation + ["b"] * generation
            for cache in caches:
                assert cache.get_many(["a", "b"]) == {"a": f"a{generation}", "b": f"b{generation}"}
    finally:
        for cache in caches:
            cache.close()
