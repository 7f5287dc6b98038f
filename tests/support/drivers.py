"""One list of scenarios for both drivers of the load path: threads and tasks. A plugin, for its fixture."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import pytest

from cachekit import IntelligentCache, aio
from cachekit.model.reports import WarmReport


class Driver(Protocol):
    """Asks a cache for many keys."""

    def load(self, cache: IntelligentCache, keys: list[str], loader: Callable[..., Any]) -> dict[str, Any]:
        """Call `get_or_set_many`."""

    def warm(
        self, cache: IntelligentCache, keys: list[str], loader: Callable[[str], Any], **options: Any
    ) -> WarmReport:
        """Call `warm_cache`."""


class Threads:
    """Calls the cache."""

    def load(self, cache: IntelligentCache, keys: list[str], loader: Callable[..., Any]) -> dict[str, Any]:
        return cache.get_or_set_many(keys, loader)

    def warm(
        self, cache: IntelligentCache, keys: list[str], loader: Callable[[str], Any], **options: Any
    ) -> WarmReport:
        return cache.warm_cache(keys, loader, **options)


class Tasks:
    """Awaits the facade of the cache on a loop of its own, with a loader that is awaited too."""

    def load(self, cache: IntelligentCache, keys: list[str], loader: Callable[..., Any]) -> dict[str, Any]:
        return asyncio.run(aio.IntelligentCache.of(cache).get_or_set_many(keys, _awaited(loader)))

    def warm(
        self, cache: IntelligentCache, keys: list[str], loader: Callable[[str], Any], **options: Any
    ) -> WarmReport:
        return asyncio.run(aio.IntelligentCache.of(cache).warm_cache(keys, _awaited(loader), **options))


def _awaited(loader: Callable[..., Any]) -> Callable[..., Any]:
    async def load(asked: Any) -> Any:
        return await asyncio.to_thread(loader, asked)

    return load


@pytest.fixture(params=[Threads, Tasks], ids=["threads", "tasks"])
def driver(request: pytest.FixtureRequest) -> Driver:
    """Each way to drive a load."""
    made: Driver = request.param()
    return made
