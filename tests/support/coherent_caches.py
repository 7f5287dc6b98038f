"""Caches over shared tiers, as the processes of one host and of another one have them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from redis_server import wait_until

from cachekit import FileCache, IntelligentCache, MemoryCache, RedisCache


def open_cache(directory: Path | None, url: str | None, prefix: str = "cachekit:") -> IntelligentCache:
    """A cache with memory, the tier in the directory, and the one on the server."""
    return IntelligentCache(
        MemoryCache(10_000, cleanup_interval=None),
        None if url is None else RedisCache(url=url, key_prefix=prefix, timeout=5),
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
            memory.set_value("heard", False)
            say.delete("heard")
            return memory.peek("heard") is None

        wait_until(hears, "the bus listens")
