"""Copies in memory of what the file tier has no room for, or shall not hold: neighbours drop them, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from coherent_caches import listen
from racing import in_thread

from cachekit import CacheLevel, FileCache, IntelligentCache, MemoryCache, RedisCache
from cachekit.testing import FaultyTier
from cachekit.tiers.base import DirectoryTier, ServerTier

pytestmark = pytest.mark.usefixtures("few_buckets")


class Host(NamedTuple):
    """Two caches of one host, as two processes have them; the file tier of the first can be made to fail."""

    one: IntelligentCache
    two: IntelligentCache
    file: FaultyTier
    level: CacheLevel  #: that memory and perhaps a server have

    def without_room(self) -> CacheLevel:
        """Have the files not hold what comes; the levels to say."""
        if self.level & CacheLevel.FILE:
            self.file.fail("put", full=True)
        return self.level


@pytest.fixture(params=["full", "full, with a server", "not a level"])
def host(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str, prefix: str) -> Iterator[Host]:
    file = FaultyTier(FileCache(tmp_path, 16, None))

    def make(tier: Any) -> IntelligentCache:
        redis = None if request.param == "full" else RedisCache(url=redis_url, key_prefix=prefix, timeout=60)
        return IntelligentCache(MemoryCache(), cast("ServerTier", redis), cast("DirectoryTier", tier))

    level = CacheLevel.MEMORY | CacheLevel.REDIS if request.param == "not a level" else CacheLevel.ALL
    with make(file) as one, make(FileCache(tmp_path, 16, None)) as two:
        if request.param != "full":
            listen(one, two)
        yield Host(one, two, file, level)


INVALIDATIONS: list[Callable[[IntelligentCache], object]] = [
    lambda cache: cache.delete("k"),
    lambda cache: cache.invalidate_by_tags({"t"}),
    lambda cache: cache.invalidate_by_pattern("k"),
]


@pytest.mark.parametrize("invalidate", INVALIDATIONS, ids=["delete", "tags", "pattern"])
def test_a_neighbour_invalidates_it(host: Host, invalidate: Callable[[IntelligentCache], object]) -> None:
    """As soon as its call returns, by key, tag or pattern."""
    host.one.set("k", 1, cache_level=host.without_room(), tags={"t"})
    assert host.one.get("k", cache_level=CacheLevel.MEMORY) == 1
    invalidate(host.two)
    assert host.one.get("k") is None


def test_a_reload_does_not_come_after_a_neighbours_write(host: Host) -> None:
    """One that found no room, or none of its business there, while another process wrote."""
    level = host.without_room()
    levels = host.one._core.tiers
    host.one.set("k", "first", cache_level=level)
    fence = levels.fence("k", frozenset())
    levels.complete_fence(fence)
    host.file.hang("remove")
    finish = in_thread(lambda: levels.writes.replace(fence, "loaded", 60, level))
    host.file.wait_for_hanging()
    host.two.set("k", "written")
    host.file.mend()
    finish()
    assert host.one.get("k") in ("written", None)
    assert host.two.get("k") in ("written", None)


def test_a_reload_in_memory_alone_is_kept(host: Host) -> None:
    """There no process but this one has a say."""
    levels = host.one._core.tiers
    host.one.set("k", "first", cache_level=CacheLevel.MEMORY)
    fence = levels.fence("k", frozenset())
    levels.complete_fence(fence)
    levels.writes.replace(fence, "loaded", 60, CacheLevel.MEMORY)
    assert host.one.get("k") == "loaded"
