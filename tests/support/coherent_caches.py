"""Caches over shared tiers, as the processes of one host and of another one have them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

from redis_server import wait_until

from cachekit import FileCache, IntelligentCache, MemoryCache, RedisCache
from cachekit.coherence.notifications import MemoryInvalidator


def open_cache(directory: Path | None, url: str | None, prefix: str = "cachekit:") -> IntelligentCache:
    """A cache with memory, the tier in the directory, and the one on the server."""
    return IntelligentCache(
        MemoryCache(10_000, cleanup_interval=None),
        None if url is None else RedisCache(url=url, key_prefix=prefix, timeout=20),
        None if directory is None else FileCache(directory, 64, cleanup_interval=None),
    )


@contextmanager
def three_caches(
    path: Path, url: str | None, prefix: str, *, files: bool
) -> Iterator[tuple[IntelligentCache, IntelligentCache, IntelligentCache]]:
    """Two caches of one host, and one of another, whose buses listen."""
    with ExitStack() as stack:
        one, two, other = (
            stack.enter_context(open_cache(path / host if files else None, url, prefix))
            for host in ("here", "here", "there")
        )
        if url is not None:
            listen(one, two, other)
        yield one, two, other


def listen(*caches: IntelligentCache) -> None:
    """Return when each of the caches hears the others."""
    for cache in caches:
        speaker = next(one for one in caches if one is not cache)
        memory, redis = cache.memory_cache, speaker.redis_cache
        assert memory is not None
        assert redis is not None

        def hears(memory: MemoryCache = memory, say: RedisCache = redis) -> bool:  # type: ignore[assignment]
            say.delete("heard")
            return memory.peek("heard") is None

        # Twice: memory is also emptied as the bus begins, and once more when it listens.
        for _ in range(2):
            memory.set_value("heard", False)
            wait_until(hears, "the bus listens")


def listening(make: Callable[[], IntelligentCache]) -> IntelligentCache:
    """The cache that is made, when its bus has begun: from then on it trusts its memory."""
    told = threading.Semaphore(0)
    distrust = MemoryInvalidator.everything_changed

    def announced(listener: MemoryInvalidator) -> None:
        distrust(listener)
        told.release()

    with patch.object(MemoryInvalidator, "everything_changed", announced):
        cache = make()
        for _ in range(2):  # as the thread begins, and when the server has confirmed
            assert told.acquire(timeout=60)
    return cache
