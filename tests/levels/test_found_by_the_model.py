"""Schedules that the model of the protocol found, with real tiers: each was wrong once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast

import inside
import pytest
import traced
from coherent_caches import listen
from file_checks import SMALL
from racing import in_thread
from tracing import at_line

from cachekit import CacheLevel, FileCache, IntelligentCache, MemoryCache, RedisCache
from cachekit.model.validation import checked_pattern
from cachekit.testing import FaultyTier
from cachekit.tiers.base import DirectoryTier, ServerTier
from cachekit.tiers.fences import CHANGES
from cachekit.tiers.file.engine.engine import Engine


class Process(NamedTuple):
    """A cache as a process of its own has it, whose lower tiers can be stopped."""

    cache: IntelligentCache
    redis: FaultyTier
    file: FaultyTier

    def get(self) -> object:
        """What its lower tiers have."""
        assert self.cache.memory_cache is not None
        self.cache.memory_cache.delete("k")
        return self.cache.get("k")


@pytest.fixture
def processes(tmp_path: Path, redis_url: str, prefix: str) -> Iterator[tuple[Process, Process]]:
    """Two of one host."""

    def make() -> Process:
        redis = FaultyTier(RedisCache(url=redis_url, key_prefix=prefix, timeout=60))
        file = FaultyTier(FileCache(tmp_path, 16, None))
        cache = IntelligentCache(MemoryCache(), cast("ServerTier", redis), cast("DirectoryTier", file))
        return Process(cache, redis, file)

    one, two = make(), make()
    with one.cache, two.cache:
        listen(one.cache, two.cache)
        yield one, two


def test_a_value_for_this_host_alone_gives_way(processes: tuple[Process, Process]) -> None:
    """To a write that had begun before and reached the server in between: it does not come back later."""
    one, two = processes
    two.redis.hang("put")
    finish_two = in_thread(lambda: two.cache.set("k", "everywhere"))
    two.redis.wait_for_hanging()
    one.file.hang("settle")
    finish_one = in_thread(
        lambda: one.cache.set("k", "here", cache_level=CacheLevel.FILE | CacheLevel.MEMORY)
    )
    one.file.wait_for_hanging()
    two.file.hang("settle")
    two.redis.mend()
    two.file.wait_for_hanging()
    one.file.mend()
    assert finish_one() is True
    two.file.mend()
    assert finish_two() is True

    seen = {one.cache.get("k"), two.cache.get("k"), one.get(), two.get()}
    inside.let_go(cast("RedisCache", one.redis.tier), "k")  # as a server without room does
    seen |= {one.get(), two.get()}
    assert len(seen - {None}) == 1


def test_nobody_keeps_the_life_from_before_a_touch(processes: tuple[Process, Process]) -> None:
    """A neighbour that looks between any two steps, and hears no message: it has the new life, or nothing."""
    one, two = (process.cache for process in processes)
    assert two._core.tiers._unsubscribe is not None
    two._core.tiers._unsubscribe()
    for number in itertools.count(1):
        key = f"k{number}"
        one.set(key, "value", 5000)

        def look(key: str = key) -> object:
            assert two.memory_cache is not None
            two.memory_cache.delete(key)
            return two.get(key)

        if not at_line(number, traced.WRITES, look, lambda key=key: one.touch(key, 500)):  # type: ignore[misc]
            assert number > 3
            break
        assert two.get(key) == "value"
        remaining = two.explain(key).remaining
        assert remaining is not None
        assert remaining <= 500, number


def test_a_pattern_is_news_with_every_key(tmp_path: Path) -> None:
    """A copy that somebody looked at in the middle is compared again, also if whoever removes is killed."""
    with Engine(tmp_path, geometry=SMALL) as engine:
        engine.put("k", b"value")
        engine.renew_tokens()
        fence = engine.fence("k")
        assert fence.stands()
        assert fence.seen == fence.words[CHANGES]
        for shard in inside.shards(engine):
            shard.delete_matching(checked_pattern("k"), 0.0)
        assert engine.get("k") is None
        assert fence.seen != fence.words[CHANGES]
        assert not fence.stands()
