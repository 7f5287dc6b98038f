"""A cached function whose pages are prefetched, for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import inside

from cachekit import (
    IntelligentCache,
    MemoryCache,
    Prefetch,
    PrefetchInfo,
)


def memory_only(size: int = 200, **more: Any) -> IntelligentCache:
    return IntelligentCache(MemoryCache(size, **more), file_cache=None)


class Pages:
    """A cached function of one cache, with its calls; the test waits for what is prefetched."""

    def __init__(self, cache: IntelligentCache, prefetch: bool | Prefetch = True, **options: Any) -> None:
        self.cache = cache
        self.calls: list[int] = []
        self.inside: Callable[[int], object] = lambda number: None

        @cache.cached(prefetch=prefetch, name="page", version="1", **options)
        def page(number: int) -> int:
            self.calls.append(number)
            self.inside(number)
            return 10 * number

        self.page = page

    def read(self, numbers: Iterable[int]) -> list[int]:
        """Call the function, and return the numbers that were no hit in memory."""
        missed = []
        for number in numbers:
            before = self.cache.get_stats()["memory"].misses
            assert self.page(number) == 10 * number
            if self.cache.get_stats()["memory"].misses > before:
                missed.append(number)
            inside.wait_for_prefetches(self.cache)
        return missed

    def forget(self) -> None:
        assert self.page.cache_clear() is not None

    def learn(self, numbers: Iterable[int] = range(6)) -> None:
        """Let the function see a sequence until it is predicted."""
        numbers = list(numbers)
        for _ in range(2):
            self.read(numbers)
            self.forget()
        self.calls.clear()

    @property
    def info(self) -> PrefetchInfo:
        found = self.page.cache_info().prefetch
        assert found is not None
        return found
