"""What a call of a cached function costs when its answer is known, beside other decorators.

In nanoseconds per call, the loop included: 10,000 answers, warm arguments, every cache with a TTL where it
has one, a lock where its documentation asks for one. `def` functions with one str, with an int and a str,
with a keyword, and as a method; `async def` functions awaited on a running loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import lru_cache
from time import perf_counter
from typing import Any

from harness import Question, Report, Round, Row, Target, options, seconds

from cachekit import IntelligentCache, MemoryCache, cache_result

LIBRARIES = (
    "cachekit-tiered", "cachebox", "cachetools", "theine", "dogpile.cache", "moka-py", "async-lru",
    "aiocache", "cashews",
)  # fmt: skip
TTL = 3600

# What is decorated: module-level functions, as users have them.


def by_name(name: str) -> int:
    return len(name)


def by_pair(number: int, name: str) -> int:
    return number


def by_keyword(name: str, *, flag: bool = True) -> int:
    return len(name)


async def by_name_async(name: str) -> int:
    return len(name)


# Ways to decorate: from a function and the number of answers to keep, to a cached function.

Decorate = Callable[[Callable[..., Any], int], Callable[..., Any]]


def own_cache(size: int) -> IntelligentCache:
    return IntelligentCache(MemoryCache(size), default_ttl=TTL, file_cache=None)


def with_cachekit(function: Callable[..., Any], size: int) -> Any:
    return cache_result(cache=own_cache(size))(function)


def with_lru_cache(function: Callable[..., Any], size: int) -> Any:
    return lru_cache(size)(function)


def with_lru_cache_typed(function: Callable[..., Any], size: int) -> Any:
    return lru_cache(size, typed=True)(function)


def with_cachebox_lru(function: Callable[..., Any], size: int) -> Any:
    import cachebox

    return cachebox.cached(cachebox.LRUCache(size))(function)


def with_cachebox_ttl(function: Callable[..., Any], size: int) -> Any:
    import cachebox

    return cachebox.cached(cachebox.TTLCache(size, TTL))(function)


def with_cachetools_lru(function: Callable[..., Any], size: int) -> Any:
    import cachetools

    cache: Any = cachetools.LRUCache(size)
    return cachetools.cached(cache, lock=threading.RLock())(function)


def with_cachetools_ttl(function: Callable[..., Any], size: int) -> Any:
    import cachetools

    cache: Any = cachetools.TTLCache(size, TTL)
    return cachetools.cached(cache, lock=threading.RLock())(function)


def with_theine(function: Callable[..., Any], size: int) -> Any:
    import theine

    return theine.Memoize(size, timedelta(seconds=TTL))(function)


def with_moka(function: Callable[..., Any], size: int) -> Any:
    import moka_py

    return moka_py.cached(size, ttl=TTL, policy="lru")(function)


def with_dogpile(function: Callable[..., Any], size: int) -> Any:
    return _dogpile_region().cache_on_arguments()(function)


def with_dogpile_keywords(function: Callable[..., Any], size: int) -> Any:
    from dogpile.cache.util import kwarg_function_key_generator as key_generator

    region = _dogpile_region(function_key_generator=key_generator)
    return region.cache_on_arguments()(function)


def _dogpile_region(**extra: Any) -> Any:
    from dogpile.cache import make_region

    return make_region(**extra).configure("dogpile.cache.memory", expiration_time=TTL)


def with_async_lru(function: Callable[..., Any], size: int) -> Any:
    import async_lru

    return async_lru.alru_cache(size, ttl=TTL)(function)


def with_aiocache(function: Callable[..., Any], size: int) -> Any:
    import aiocache

    return aiocache.cached(ttl=TTL)(function)


def with_cashews(function: Callable[..., Any], size: int) -> Any:
    from cashews import Cache

    cache: Any = Cache()
    cache.setup("mem://", size=size, check_interval=60)
    return cache(ttl=timedelta(seconds=TTL))(function)


CACHEKIT = "cache_result"
SYNC: dict[str, Decorate] = {
    CACHEKIT: with_cachekit,
    "functools.lru_cache": with_lru_cache,
    "functools.lru_cache typed": with_lru_cache_typed,
    "cachebox.cached LRU": with_cachebox_lru,
    "cachebox.cached TTL": with_cachebox_ttl,
    "cachetools.cached LRU + RLock": with_cachetools_lru,
    "cachetools.cached TTL + RLock": with_cachetools_ttl,
    "theine.Memoize": with_theine,
    "moka_py.cached LRU, TTL": with_moka,
    "dogpile cache_on_arguments": with_dogpile,
}
ASYNC: dict[str, Decorate] = {
    CACHEKIT: with_cachekit,
    "cachebox.cached LRU": with_cachebox_lru,
    "cachebox.cached TTL": with_cachebox_ttl,
    "async_lru.alru_cache TTL": with_async_lru,
    "theine.Memoize": with_theine,
    "moka_py.cached LRU, TTL": with_moka,
    "aiocache.cached": with_aiocache,
    "cashews.Cache": with_cashews,
}


# Methods: a class for each way, as each has its own idea of where the cache lives.


class Plain:
    def by_name(self, name: str) -> int:
        return len(name)


def cachekit_method(size: int) -> Any:
    method = cache_result(cache=own_cache(size), ignore=("self",))(Plain.by_name)
    return type("Ours", (), {"by_name": method})()


def cachebox_method(size: int) -> Any:
    import cachebox

    class Theirs:
        def __init__(self) -> None:
            self.cache: Any = cachebox.TTLCache(size, TTL)

        @cachebox.cached(lambda self: self.cache)
        def by_name(self, name: str) -> int:
            return len(name)

    return Theirs()


def cachetools_method(size: int) -> Any:
    import cachetools

    class Theirs:
        def __init__(self) -> None:
            self.cache: Any = cachetools.TTLCache(size, TTL)
            self.lock = threading.RLock()

        @cachetools.cachedmethod(lambda self: self.cache, lock=lambda self: self.lock)
        def by_name(self, name: str) -> int:
            return len(name)

    return Theirs()


def _decorated_method(decorate: Decorate) -> Callable[[int], Any]:
    """A class whose method is decorated like a function; the instance is a part of the key."""

    def make(size: int) -> Any:
        return type("Theirs", (), {"by_name": decorate(Plain.by_name, size)})()

    return make


METHODS: dict[str, Callable[[int], Any]] = {
    CACHEKIT: cachekit_method,
    "functools.lru_cache (self in key)": _decorated_method(with_lru_cache),
    "cachebox.cached TTL per instance": cachebox_method,
    "cachetools.cachedmethod TTL + RLock": cachetools_method,
    "theine.Memoize (self in key)": _decorated_method(with_theine),
    "moka_py.cached LRU, TTL (self in key)": _decorated_method(with_moka),
    "dogpile cache_on_arguments": _decorated_method(with_dogpile),
}

NAME, PAIR, KEYWORD = "sync hit, f(str)", "sync hit, f(int, str)", "sync hit, f(str, flag=bool)"
METHOD, AWAITED = "sync hit, instance.f(str)", "async hit, await f(str)"

TARGETS = (
    Target(NAME, CACHEKIT, "cachebox.cached TTL", 1.0),
    Target(NAME, CACHEKIT, "cachetools.cached TTL + RLock", 0.40),
    Target(AWAITED, CACHEKIT, "async_lru.alru_cache TTL", 0.65),
    Target(AWAITED, CACHEKIT, "cachebox.cached TTL", 1.0),
    Target(AWAITED, CACHEKIT, "aiocache.cached", 0.04),
)


def names_of(entries: int) -> list[str]:
    names = [f"name:{index}" for index in range(entries)]
    for name in names:
        hash(name)
    return names


def sync_rows(
    ways: dict[str, Decorate],
    function: Callable[..., Any],
    entries: int,
    loop: Callable[[Callable[..., Any], list[str]], None],
) -> list[Row]:
    def prepare(decorate: Decorate) -> Round:
        names = names_of(entries)
        cached = decorate(function, 2 * entries)
        loop(cached, names)
        return lambda: seconds(lambda: loop(cached, names))

    return [
        Row(name, lambda way=way: prepare(way), name == CACHEKIT)  # type: ignore[misc]
        for name, way in ways.items()
    ]


def call_with_name(cached: Callable[..., Any], names: list[str]) -> None:
    for name in names:
        cached(name)


def call_with_pair(cached: Callable[..., Any], names: list[str]) -> None:
    for name in names:
        cached(7, name)


def call_with_keyword(cached: Callable[..., Any], names: list[str]) -> None:
    for name in names:
        cached(name, flag=False)


def method_rows(entries: int) -> list[Row]:
    def prepare(make: Callable[[int], Any]) -> Round:
        names = names_of(entries)
        instance = make(2 * entries)

        def loop() -> None:
            for name in names:
                instance.by_name(name)

        loop()
        return lambda: seconds(loop)

    return [
        Row(name, lambda make=make: prepare(make), name == CACHEKIT)  # type: ignore[misc]
        for name, make in METHODS.items()
    ]


def async_rows(entries: int, runner: asyncio.Runner) -> list[Row]:
    def prepare(decorate: Decorate) -> Round:
        names = names_of(entries)
        cached: Callable[[str], Awaitable[int]] = decorate(by_name_async, 2 * entries)

        async def loop() -> float:
            started = perf_counter()
            for name in names:
                await cached(name)
            return perf_counter() - started

        runner.run(loop())
        return lambda: runner.run(loop())

    return [
        Row(name, lambda way=way: prepare(way), name == CACHEKIT)  # type: ignore[misc]
        for name, way in ASYNC.items()
    ]


def main() -> None:
    chosen = options(__doc__, rounds=15)
    entries = 200 if chosen.quick else 10_000
    report = Report(chosen, LIBRARIES)
    print(f"answers: {entries:,}; time per call; ratios below 1: ours takes less")
    report.ask(Question(NAME, entries, sync_rows(SYNC, by_name, entries, call_with_name)))
    report.ask(Question(PAIR, entries, sync_rows(SYNC, by_pair, entries, call_with_pair)))
    keywords = SYNC | {"dogpile cache_on_arguments": with_dogpile_keywords}
    report.ask(Question(KEYWORD, entries, sync_rows(keywords, by_keyword, entries, call_with_keyword)))
    report.ask(Question(METHOD, entries, method_rows(entries)))
    with asyncio.Runner() as runner:
        report.ask(Question(AWAITED, entries, async_rows(entries, runner)))
    report.judge(TARGETS)
    report.end()


if __name__ == "__main__":
    main()
