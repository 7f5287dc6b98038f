"""Facades and the core's own objects are one cache; each side takes what it can use and refuses the rest."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forking import in_fork
from loops import Run, no_threads, on_a_loop

import cachekit
from cachekit import CacheClosedError, CacheEntry, CacheLevel, TierUnavailableError, aio
from cachekit.aio import FileCache, IntelligentCache, MemoryCache, RedisCache
from cachekit.model.display import shown_key
from cachekit.testing import FaultyTier, ManualClock


@pytest.fixture
def file(tmp_path: Path) -> Iterator[FileCache]:
    tier = FileCache(tmp_path / "files")
    yield tier
    tier.sync.close()


class TestSharing:
    @on_a_loop
    async def test_a_cache_of_the_core(self, tmp_path: Path) -> None:
        """What one side stores, invalidates and counts the other sees; there is one cache."""
        sync = cachekit.IntelligentCache(file_cache=cachekit.FileCache(tmp_path / "files"))
        cache = IntelligentCache.of(sync)
        assert cache.sync is sync
        await cache.set("k", 1, tags={"t"})
        assert sync.get("k") == 1
        sync.invalidate_by_tags({"t"})
        assert await cache.get("k") is None
        assert (await cache.get_stats())["combined"].requests == sync.get_stats()["combined"].requests == 2
        assert cache.default_ttl == sync.default_ttl
        await cache.close()
        with pytest.raises(CacheClosedError):
            sync.get("k")

    @on_a_loop
    async def test_tiers_of_either_kind(self, file: FileCache, redis_url: str, prefix: str) -> None:
        """A cache takes tiers of `aio` and of the core, and hands out views of both."""
        redis = cachekit.RedisCache(url=redis_url, key_prefix=prefix, timeout=60)
        memory = cachekit.MemoryCache(5)
        async with IntelligentCache(memory, redis, file) as cache:
            assert cache.sync.memory_cache is memory
            assert cache.sync.file_cache is file.sync
            assert cache.file_cache is file
            assert cache.memory_cache == MemoryCache.of(memory)
            assert cache.memory_cache is cache.memory_cache
            assert cache.redis_cache is not None
            assert cache.redis_cache.sync is redis
            assert cache.redis_cache.key_prefix == prefix
            await cache.set("k", 1)
            assert await cache.redis_cache.get_value("k") == await file.get_value("k") == 1
            assert redis.get_value("k") == 1

    @on_a_loop
    async def test_caches_without_tiers(self) -> None:
        """None means none, as in the core."""
        cache = IntelligentCache(MemoryCache(), None, None)
        assert (cache.redis_cache, cache.file_cache) == (None, None)
        with pytest.raises(ValueError, match="names no tier of this cache"):
            await cache.get("k", cache_level=CacheLevel.REDIS)
        with pytest.raises(ValueError, match="memory_cache=None must come with another tier"):
            IntelligentCache(None, None, None)
        await cache.close()

    @on_a_loop
    async def test_tiers_of_another_make(self, file: FileCache) -> None:
        """A tier that is not the core's own, but can take its place, is awaited too."""
        faulty: Any = FaultyTier(file.sync)
        tier = FileCache.of(faulty)
        assert (
            await tier.set_value("k", 1)
            if hasattr(faulty, "set_value")
            else await tier.set("k", CacheEntry("k", 1))
        )
        entry = await tier.get("k")
        assert entry is not None
        assert entry.value == 1
        await tier.close()

    def test_views(self, file: FileCache) -> None:
        """Two views of one object are equal, and views of two are not."""
        sync = cachekit.MemoryCache()
        assert MemoryCache.of(sync) == MemoryCache.of(sync)
        assert len({MemoryCache.of(sync), MemoryCache.of(sync), MemoryCache()}) == 2
        assert MemoryCache.of(sync) != MemoryCache()
        assert FileCache.of(file.sync) == file
        assert repr(MemoryCache.of(sync)) == f"aio.{sync!r}"

    def test_pickles(self, tmp_path: Path) -> None:
        """A facade travels as the object that it shares does: as its configuration."""
        cache = IntelligentCache(MemoryCache(7), None, FileCache(tmp_path / "files"))
        twin = pickle.loads(pickle.dumps(cache))
        assert isinstance(twin, IntelligentCache)
        assert twin.memory_cache is not None
        assert twin.memory_cache.max_size == 7
        asyncio.run(cache.set("k", 1))
        assert asyncio.run(twin.get("k")) == 1, "they share a directory"
        region = pickle.loads(pickle.dumps(cache.region("r:", int)))
        assert (type(region), region.prefix) == (aio.Region, "r:")
        for one in (cache, twin, region._cache):
            one.sync.close()
        assert copy.copy(MemoryCache(3)).max_size == 3


class TestRefusals:
    def test_the_core_refuses_facades(self, file: FileCache) -> None:
        """A facade where the core needs its own is an error that says what to pass instead."""
        memory: Any = MemoryCache()
        cache: Any = IntelligentCache(memory, None, None)
        tier: Any = file
        for arguments in ({"memory_cache": memory}, {"file_cache": tier}, {"redis_cache": tier}):
            with pytest.raises(
                TypeError, match=r"not the awaitable .*; pass its `\.sync`, or use cachekit\.aio"
            ):
                cachekit.IntelligentCache(**arguments)
        for function in (cachekit.set_default_cache, lambda cache: cachekit.override(cache).__enter__()):
            with pytest.raises(TypeError, match=r"not the awaitable .*; pass its `\.sync`"):
                function(cache)
        with pytest.raises(TypeError, match=r"not the awaitable .*; pass its `\.sync`"):
            cachekit.cache_result(cache=cache, name="f")(lambda x: x)

    def test_facades_refuse_each_other(self, file: FileCache) -> None:
        """`of` takes the core's objects, of the right kind."""
        cases: list[tuple[Any, Any]] = [
            (MemoryCache, MemoryCache()),
            (MemoryCache, 1),
            (FileCache, file),
            (FileCache, cachekit.MemoryCache()),
            (RedisCache, file.sync),
            (IntelligentCache, cachekit.MemoryCache()),
        ]
        for kind, given in cases:
            with pytest.raises(
                TypeError,
                match=r"of\(\) takes .* that is not awaited(, not |; .* awaited already, so use it)",
            ):
                kind.of(given)
        with pytest.raises(TypeError, match="memory_cache must be a MemoryCache or None"):
            IntelligentCache(file)  # type: ignore[arg-type]

    @on_a_loop
    async def test_wrong_arguments(self, file: FileCache) -> None:
        """The core's errors, with its words."""
        async with IntelligentCache(MemoryCache(), None, file) as cache:
            with pytest.raises(TypeError, match="key must be a str, not 1"):
                await cache.get(1)  # type: ignore[call-overload]
            with pytest.raises(TypeError, match="key must be a str"):
                await cache.get([])  # type: ignore[call-overload]
            with pytest.raises(TypeError, match="cache_level must be a CacheLevel"):
                await cache.get("k", cache_level=1)  # type: ignore[call-overload]
            with pytest.raises(TypeError, match="keys must be several keys, not a single str"):
                await cache.get_many("abc")
            with pytest.raises(ValueError, match="is not a valid regular expression"):
                await cache.invalidate_by_pattern("(")
            with pytest.raises(TypeError, match=r"is not (iterable|a container)"):
                "k" in cache  # type: ignore[operator]  # noqa: B015


class TestLife:
    @pytest.mark.parametrize("close", ["close", "aclose", "with"])
    def test_closing(self, tmp_path: Path, run: Run, close: str) -> None:
        """After any way to close it everything raises CacheClosedError, and no thread is left."""

        async def main() -> None:
            file = FileCache(tmp_path / "files")
            cache = IntelligentCache(MemoryCache(), None, file)
            await cache.set("k", 1)
            await file.get("k")
            if close == "with":
                async with cache as same:
                    assert same is cache
            else:
                await getattr(cache, close)()
            calls = [
                cache.get("k"), cache.set("k", 1), cache.get_many(["k"]), cache.contains("k"),
                cache.get_or_set("k", lambda: 1), cache.get_or_set_many(["k"], lambda keys: {}),
                cache.delete("k"), cache.warm_cache(["k"], len), file.get("k"),
            ]  # fmt: skip
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [CacheClosedError] * len(calls)
            await cache.close()

        run(main())
        no_threads()

    def test_tiers_that_stay_open(self, file: FileCache, run: Run) -> None:
        """With close_tiers=False the tiers go on, and the cache's own threads end."""

        async def main() -> None:
            memory = MemoryCache()
            cache = IntelligentCache(memory, None, file, close_tiers=False)
            await cache.set("k", 1)
            await cache.close()
            with pytest.raises(CacheClosedError):
                await cache.get("k")
            with pytest.raises(CacheClosedError):
                await cache.get_or_set("new", lambda: 1)
            assert await file.get_value("k") == 1
            async with file, memory:
                pass
            with pytest.raises(CacheClosedError):
                await file.get("k")

        run(main())
        no_threads()

    def test_forks(self, file: FileCache) -> None:
        """A child uses the cache on a loop of its own, and the parent goes on."""
        cache = IntelligentCache(MemoryCache(), None, file)
        asyncio.run(cache.set("k", 1))

        def child() -> None:
            assert asyncio.run(cache.get_many(["k", "no"])) == {"k": 1}
            asyncio.run(cache.set("from the child", 2))
            assert asyncio.run(file.get_value("from the child")) == 2

        assert in_fork(child)() == 0
        assert asyncio.run(cache.get("from the child")) == 2
        cache.sync.close()

    def test_loops_one_after_the_other(self, file: FileCache, run: Run) -> None:
        """A cache is bound to no loop."""
        cache = IntelligentCache(MemoryCache(), None, file)
        for number in range(5):
            run(cache.set("k", number))
            assert run(cache.get("k")) == run(file.get_value("k")) == number
        run(cache.close())

    @on_a_loop
    async def test_errors_of_tiers(self, file: FileCache) -> None:
        """`strict` raises here what it raises there."""
        faulty = FaultyTier(file.sync)
        cache = IntelligentCache(MemoryCache(), None, faulty, strict=True)  # type: ignore[arg-type]
        faulty.fail("look")
        with pytest.raises(TierUnavailableError):
            await cache.get("k")
        await cache.close()


class TestAnswers:
    @on_a_loop
    async def test_levels(self, file: FileCache) -> None:
        """A level is asked alone, and counted as in the core."""
        async with IntelligentCache(MemoryCache(), None, file) as cache:
            await cache.set("k", 1)
            assert await cache.get("k", cache_level=CacheLevel.FILE) == 1
            assert await cache.get("k", cache_level=CacheLevel.MEMORY) == 1
            await cache.clear(CacheLevel.MEMORY)
            assert await cache.get("k", "none", cache_level=CacheLevel.MEMORY) == "none"
            assert await cache.get("k") == 1
            assert await cache.get("k", cache_level=CacheLevel.MEMORY) == 1, "promoted"
            assert (await cache.get_stats())["combined"].requests == 5
            assert (await cache.get_stats())["combined"].request_hits == 4

    @on_a_loop
    async def test_none_is_a_value(self) -> None:
        """A cached None is found."""
        async with IntelligentCache(file_cache=None) as cache:
            await cache.set("k", None)
            assert await cache.get("k", 1) is None
            assert await cache.get_or_set("k", lambda: 1) is None

    @on_a_loop
    async def test_time(self) -> None:
        """No expired value is returned."""
        clock = ManualClock()
        async with IntelligentCache(MemoryCache(clock=clock), None, None) as cache:
            await cache.set("k", 1, ttl=5)
            clock.advance(4.9)
            assert await cache.get("k") == 1
            assert await cache.touch("k", 5)
            clock.advance(5)
            assert await cache.get("k") is None

    @on_a_loop
    async def test_regions(self, file: FileCache) -> None:
        """A region is the core's: its types, prefix, TTL and tags."""

        async def load() -> int:
            return 2

        async def wrong() -> Any:
            return "a str"

        async with IntelligentCache(MemoryCache(), None, file) as cache:
            region = cache.region("n:", int, ttl=60, tags={"numbers"})
            assert region.prefix == "n:"
            assert await region.set("1", 1)
            assert await cache.get("n:1") == 1
            assert await region.get_or_set("2", load) == await region.get("2") == 2
            assert await region.get_or_set("3", lambda: 3) == 3
            assert (await cache.explain("n:2")).tags == {"numbers"}
            for refused in (region.set("4", "a str"), region.get_or_set("4", wrong)):  # type: ignore[arg-type]
                with pytest.raises(
                    TypeError,
                    match=f"the value of {shown_key('n:4')} in region .* must be of type int, not str",
                ):
                    await refused
            assert not await region.contains("4")
            assert await region.delete("1")
            assert await region.clear() == 2

    @on_a_loop
    async def test_listeners(self, file: FileCache) -> None:
        """A listener of memory hears of what the cache removes."""
        heard = []
        async with IntelligentCache(MemoryCache(), None, file) as cache:
            assert cache.memory_cache is not None
            end = await cache.memory_cache.on_removal(lambda key, value, cause: heard.append(key))
            await cache.set("k", 1)
            await cache.delete("k")
            end()
            await cache.set("l", 1)
            await cache.delete("l")
            assert heard == ["k"]


class TestDefaultCache:
    @on_a_loop
    async def test_it_is_the_cores(self) -> None:
        """Both sides have one default cache, and its functions speak to it."""
        cache = await aio.get_default_cache()
        assert cache.sync is cachekit.get_default_cache()
        assert await aio.get_default_cache() == cache
        await cache.set("a:1", 1, tags={"t"})
        await cache.set("b:1", 1, tags={"t"})
        assert await aio.invalidate_cache_pattern("a:") == 1
        await aio.invalidate_cache_tags({"t"})
        assert not await cache.contains("b:1")

        async def load(key: str) -> str:
            return key

        assert (await aio.warm_cache_keys(["w"], load)).loaded == ["w"]
        assert (await aio.optimize_cache_performance()).size == 2, "in memory and in a file"
        assert await aio.clear_all_caches() is True
        assert (await aio.get_cache_stats())["combined"].size == 0

    @on_a_loop
    async def test_switching(self) -> None:
        """Both kinds of cache can be the default one, for a while or for good; no switch is awaited."""
        mine, other = IntelligentCache(file_cache=None), cachekit.IntelligentCache(file_cache=None)
        with aio.override(mine) as inside:
            assert inside is mine
            assert await aio.get_default_cache() == mine
        with aio.override(other) as inside:
            assert inside.sync is other
            assert cachekit.get_default_cache() is other
        assert aio.set_default_cache(mine) is None
        assert cachekit.get_default_cache() is mine.sync
        assert aio.set_default_cache(other) == mine
        assert aio.set_default_cache(None) == IntelligentCache.of(other)
        await mine.close()
        other.close()

    @on_a_loop
    async def test_cached_functions(self) -> None:
        """The decorator is one for both sides, and finds the cache that is the default one."""
        calls = []

        @aio.cache_result(name="square")
        async def square(x: int) -> int:
            calls.append(x)
            return x * x

        async with IntelligentCache(file_cache=None) as cache:
            with aio.override(cache):
                assert [await square(3), await square(3)] == [9, 9]
                assert await cache.contains(square.key(3))
                with aio.disabled():
                    await square(3)
            assert calls == [3, 3]

            @cache.cached(name="cube")
            async def cube(x: int) -> int:
                calls.append(x)
                return x**3

            assert [await cube(2), await cube(2), await cube.refresh(2)] == [8, 8, 8]
            assert calls == [3, 3, 2, 2]
            assert await cube.invalidate(2)
            assert await cube.cache_clear() == 0
