"""`add`, `update` and `begin`, awaited."""

from __future__ import annotations

import asyncio
import pickle
import threading
from pathlib import Path
from typing import Any, cast

import pytest
from loops import on_a_loop

from cachekit.aio import FileCache, Fill, IntelligentCache, MemoryCache


@on_a_loop
async def test_with_memory_alone() -> None:
    """All runs on the loop, the function of an update too."""
    loop_thread = threading.get_ident()
    async with IntelligentCache(MemoryCache(), None, None) as cache:
        assert await cache.add("k", 1)
        assert not await cache.add("k", 2)
        assert await cache.update("k", lambda n: (n + 1, threading.get_ident())) == (2, loop_thread)
        assert await cache.update("n", lambda n: n + 1, 0, ttl=5, tags={"t"}) == 1
        fill = await cache.begin("f", tags={"t"})
        assert await fill.store(1, ttl=5)
        assert not await fill.store(2)

        async def load() -> list[int]:
            return []

        assert await cache.get_or_set("g", load, store_if=bool) == []
        assert not await cache.contains("g")


@on_a_loop
async def test_tasks(tmp_path: Path) -> None:
    """One winner among many, and no update is lost."""
    async with IntelligentCache(MemoryCache(), None, FileCache(tmp_path, 16)) as cache:
        won = await asyncio.gather(*[cache.add("k", n) for n in range(20)])
        assert won.count(True) == 1
        await asyncio.gather(*[cache.update("n", lambda n: n + 1, 0) for _ in range(50)])
        assert await cache.get("n") == 50
        fill = await cache.begin("f", tags={"t"})
        await cache.invalidate_by_tags({"t"})
        assert not await fill.store(1)
        assert fill.key == "f"
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(fill)


@on_a_loop
async def test_regions(tmp_path: Path) -> None:
    """The same, typed."""
    async with IntelligentCache(MemoryCache(), None, FileCache(tmp_path, 16)) as cache:
        region = cache.region("r:", int, ttl=50)
        assert await region.add("k", 1)
        assert await region.update("k", lambda n: n + 1, 0) == 2
        fill: Fill[int] = await region.begin("f")
        assert await fill.store(3)
        assert await cache.get("r:f") == 3
        with pytest.raises(TypeError, match="must be of type int"):
            await region.update("k", cast("Any", lambda n: "2"))

        async def load() -> int:
            return 4

        assert await region.get_or_set("g", load, store_if=lambda n: n > 5, ttl=lambda n: n) == 4
        assert not await region.contains("g")
