"""No key, argument, tag or value appears in a text of cachekit: they may hold passwords."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cachekit import (
    CacheEntry,
    CacheLevel,
    FileCache,
    IntelligentCache,
    LoadOptions,
    MemcachedCache,
    MemoryCache,
    RedisCache,
    cache_result,
)
from cachekit.model.display import shown_key, shown_value
from cachekit.tiers.fences import ServerTokens
from cachekit.tiers.polled import entries as polled
from cachekit.tiers.redis.entries import Entries
from cachekit.tiers.server_fence import ServerFence, check_fence

SECRET = "correct-horse-battery"
ENTRY = CacheEntry(SECRET, SECRET, tags={SECRET})


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[IntelligentCache]:
    """A cache over files, as a program has it."""
    with IntelligentCache(file_cache=FileCache(tmp_path / "caches", max_size_mb=20)) as cache:
        yield cache


class Unkeyable:
    """An object that no key can hold."""

    def __init__(self) -> None:
        self.__dict__ = {"lock": threading.Lock()}

    def __repr__(self) -> str:
        return SECRET


def fail(_: object = None) -> Any:
    """Raise what a client of a service raises."""
    raise OSError(f"https://user:{SECRET}@service failed")


def _polled_entries() -> polled.Entries:
    """Return the entries of another server, which no call reaches."""
    return MemcachedCache()._entries


def _entries() -> Entries:
    """Return the entries of a server, which no call reaches."""
    return RedisCache()._entries


def serve_stale() -> None:
    """Have a load fail whose error the log alone gets."""
    with IntelligentCache(file_cache=None) as cache:
        cache.get_or_set(SECRET, lambda: 1, ttl=1e-9, stale_ttl=60)
        assert cache.get_or_set(SECRET, fail, stale_ttl=60) == 1


def texts(call: Callable[[], object]) -> str:
    """Return the text and the repr of what a call returns or raises."""
    try:
        result = call()
    except Exception as error:  # each is looked at
        return "" if isinstance(error, OSError) and "service failed" in str(error) else f"{error} {error!r}"
    return "" if result == SECRET else f"{result} {result!r}"


def test_misuse_and_failures(
    subtests: pytest.Subtests, cache: IntelligentCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Errors, log lines and reports name the type, or a digest of the key."""
    caplog.set_level(logging.DEBUG)
    fast = LoadOptions(hard_timeout=0.01)
    gone = threading.Event()
    memory, other = MemoryCache(), CacheEntry("other", 1)
    region = cache.region("r:", int)

    @cache_result(cache=cache, tags=lambda user, password: {f"user:{password}"})
    def connect(user: str, password: object) -> Any:
        return lambda: user  # files cannot hold it, which is worth a warning

    @cache_result(cache=cache)
    async def fetch(password: str) -> Any:
        return (n for n in range(3))

    calls: dict[str, Callable[[], object]] = {
        "a key of bytes": lambda: cache.get(SECRET.encode()),  # type: ignore[call-overload]
        "a key in a list": lambda: cache.get([SECRET]),  # type: ignore[call-overload]
        "one key for many": lambda: cache.get_many(SECRET),
        "many keys": lambda: cache.get_many([SECRET.encode()]),  # type: ignore[list-item]
        "tags": lambda: cache.set("k", 1, tags=SECRET),  # type: ignore[arg-type]
        "tags of bytes": lambda: cache.set("k", 1, tags={SECRET.encode()}),  # type: ignore[arg-type]
        "values": lambda: cache.set_many([(SECRET, SECRET)]),  # type: ignore[arg-type]
        "a value read once": lambda: cache.set(SECRET, iter([SECRET])),
        "values read once": lambda: cache.set_many({SECRET: iter([SECRET])}),
        "a loaded value read once": lambda: cache.get_or_set(SECRET, lambda: iter([SECRET])),
        "a value that files refuse": lambda: cache.set(SECRET, lambda: SECRET, tags={SECRET}),
        "a loader": lambda: cache.get_or_set("k", SECRET),  # type: ignore[arg-type]
        "a loader of many": lambda: cache.get_or_set_many([SECRET], lambda keys: {SECRET * 2: 1}),
        "a slow load": lambda: cache.get_or_set(SECRET, lambda: gone.wait(20), load=fast),
        "a pattern": lambda: cache.invalidate_by_pattern(f"({SECRET}"),
        "an entry": lambda: memory.set("k", ENTRY),
        "no entry": lambda: memory.set("k", SECRET),  # type: ignore[arg-type]
        "a fence of another key": lambda: memory.set_if(SECRET, ENTRY, memory.fence("k")),
        "a fence without tags": lambda: memory.set_if(SECRET, ENTRY, memory.fence(SECRET)),
        "a fence of files": lambda: cache.file_cache.set_if(SECRET, ENTRY, cache.file_cache.fence("k")),  # type: ignore[union-attr]
        "a region's value": lambda: region.set(SECRET, SECRET),  # type: ignore[arg-type]
        "a weigher": lambda: MemoryCache(max_bytes=99, weigher=lambda *_: -1).set_value(SECRET, SECRET),
        "entries": lambda: repr(ENTRY),
        "explanations": lambda: (cache.set(SECRET, 1, tags={SECRET}), cache.explain(SECRET)),
        "warming": lambda: len(cache.warm_cache(["w", SECRET], fail).failed),
        "a cached function": lambda: connect("ann", SECRET),
        "an argument without a key": lambda: connect("ann", Unkeyable()),
        "an argument within another": lambda: connect("ann", {SECRET: Unkeyable()}),
        "statistics": lambda: (cache.get_stats(), connect.cache_info(), cache, other, memory),
        "a stale value": serve_stale,
        "a URL": lambda: RedisCache(url=f"http://user:{SECRET}@host"),
        "a URL with a port": lambda: RedisCache(url=f"redis://user:{SECRET}@host:port/0"),
        "a URL with an option": lambda: RedisCache(url=f"redis://user:{SECRET}@host/0?no_such={SECRET}"),
        "a URL with a text as the database": lambda: RedisCache(url=f"redis://host/{SECRET}").get("k"),
        "URLs as nodes": lambda: RedisCache.cluster([f"redis://user:{SECRET}@host:1"]),  # type: ignore[list-item]
        "a ttl": lambda: cache.set("k", 1, ttl=SECRET),  # type: ignore[arg-type]
        "a region's ttl": lambda: cache.region("r:", int, ttl=SECRET),  # type: ignore[arg-type]
        "a value that a server refuses": lambda: _entries().put([(ENTRY, ServerTokens(1, {}))]),
        "a value without tokens": lambda: _polled_entries().put("k", ENTRY, ServerTokens(1, {})),
        "a fence of a server": lambda: check_fence(
            ServerFence("k", ServerTokens(1, {SECRET: 2}), None),  # type: ignore[arg-type]
            ENTRY,
        ),
        "a report of warming": lambda: cache.warm_cache(["w", SECRET], fail),
        "a URL as the host": lambda: RedisCache(f"redis://user:{SECRET}@host").get("k"),
        "a server": lambda: RedisCache(url=f"redis://user:{SECRET}@127.0.0.1:1/0").get("k"),
        "a server's repr": lambda: RedisCache(url=f"redis://user:{SECRET}@127.0.0.1:1/0"),
        "a secret": lambda: FileCache(tmp_path / "signed", secret=SECRET),
        "a short secret": lambda: FileCache(tmp_path / "signed", secret=SECRET[:7]),
        "a secret of numbers": lambda: FileCache(tmp_path / "signed", secret=[SECRET, 5]),  # type: ignore[arg-type]
        "a level": lambda: cache.get(SECRET, cache_level=CacheLevel.REDIS),
    }
    for name, call in calls.items():
        with subtests.test(name):
            caplog.clear()
            found = texts(call)
            for part in (SECRET, SECRET[:7]):
                assert part not in found
                assert part not in caplog.text
    gone.set()


def test_a_digest_finds_the_key_again(cache: IntelligentCache) -> None:
    """A log line, an explanation and a later process have one text for a key; another key has another one."""

    @cache_result(cache=cache)
    def connect(password: str) -> str:
        return password

    key = connect.key(SECRET)
    assert shown_key(key).startswith(f"{key.partition('@')[0]} #")
    assert shown_key(key) in str(cache.explain(key))
    assert shown_key(key) != shown_key(connect.key("another"))
    code = f"from cachekit.model.display import shown_key as s; print(s({key!r}))"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert there.strip() == shown_key(key)


def test_on_request(monkeypatch: pytest.MonkeyPatch, cache: IntelligentCache) -> None:
    """CACHEKIT_SHOW_KEYS=1 shows keys, tags and values."""
    monkeypatch.setenv("CACHEKIT_SHOW_KEYS", "1")
    assert shown_key("user:1") == "'user:1'"
    assert shown_value(["user"]) == "['user'] of type list"
    cache.set("user:1", 1, tags={"users"})
    assert str(cache.explain("user:1")).startswith("'user:1' is in MEMORY")
    assert "tags 'users'" in str(cache.explain("user:1"))
