"""Messages about arguments: each shows the value, without the login of a URL, and says what to pass."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cachekit
from cachekit import (
    TLS,
    DynamoDBCache,
    FileCache,
    IntelligentCache,
    LoadOptions,
    MemcachedCache,
    MemoryCache,
    RedisCache,
    aio,
    cache_result,
)
from cachekit.model.display import safe_repr, shown_value, typed_repr

URL: Any = "redis://app:hunter2@cache:6379/0"
#: The classes without their types, because each argument here is of a wrong one.
MADE: Any = IntelligentCache
SERVER: Any = RedisCache
LIST: Any = [URL]


@pytest.fixture
def cache() -> IntelligentCache:
    """A cache in memory."""
    return IntelligentCache(file_cache=None)


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        (URL, "'redis://***@cache:6379/0'"),
        ([URL, URL], "['redis://***@cache:6379/0']"),
        ({"url": URL}, "{'url': 'redis://***@cache:6379/0'}"),
        (("h", URL.encode()), "('h', b'redis://***@cache:6379/0')"),
        ("redis://:hun@ter2/x@h", "'redis://***@h'"),
        ("redis://h?password=hunter2", "'redis://h?***"),
        ("app:hunter2@cache:6379", "***@cache:6379'"),
        ("https://host:8000/a", "'https://host:8000/a'"),
        (5, "5"),
    ],
)
def test_a_login_is_hidden(argument: object, text: str) -> None:
    """Wherever it stands in the argument."""
    assert safe_repr(argument) == text
    assert typed_repr(argument) == f"{text} of type {type(argument).__name__}"


def test_a_login_is_hidden_on_request_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """CACHEKIT_SHOW_KEYS=1 shows values, and no password of a server."""
    monkeypatch.setenv("CACHEKIT_SHOW_KEYS", "1")
    assert shown_value(URL) == "'redis://***@cache:6379/0' of type str"


def test_long_arguments_are_cut() -> None:
    """An error is no dump; a number that Python does not write out has a text, too."""
    assert len(safe_repr(list(range(10_000)))) < 600
    assert safe_repr(10**5000) == "an int of thousands of digits"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("60", "'60' of type str"),
        ("-1.5", "'-1.5' of type str"),
        (60, "60 of type int"),
        ("hunter2", "an object of type str"),
        ("1" * 11, "an object of type str"),
        ("", "an object of type str"),
    ],
)
def test_a_number_is_no_secret(value: object, text: str) -> None:
    """Not as a text, either; anything else may be one."""
    assert shown_value(value) == text


def test_an_address_in_the_wrong_place(
    subtests: pytest.Subtests, cache: IntelligentCache, tmp_path: Path
) -> None:
    """No message shows its password, whichever argument it was passed as."""
    calls: dict[str, Callable[[], object]] = {
        "memory_cache": lambda: IntelligentCache(URL),
        "redis_cache": lambda: IntelligentCache(MemoryCache(), URL),
        "file_cache": lambda: IntelligentCache(MemoryCache(), None, URL),
        "load": lambda: IntelligentCache(MemoryCache(), file_cache=None, load=URL),
        "prefetch": lambda: IntelligentCache(MemoryCache(), file_cache=None, prefetch=URL),
        "strict": lambda: IntelligentCache(MemoryCache(), file_cache=None, strict=URL),
        "host": lambda: RedisCache(URL),
        "a host with a login": lambda: RedisCache("app:hunter2@cache"),
        "port": lambda: RedisCache("cache", URL),
        "db": lambda: RedisCache("cache", 6379, URL),
        "tls": lambda: RedisCache("cache", tls=URL),
        "ssl": lambda: RedisCache("cache", ssl=URL),
        "key_prefix": lambda: RedisCache("cache", key_prefix=f"{URL}{{}}"),
        "key_prefix in a repr": lambda: repr(RedisCache("cache", key_prefix=URL)),
        "timeout": lambda: RedisCache("cache", timeout=URL),
        "codec": lambda: RedisCache("cache", codec=URL),
        "compression": lambda: RedisCache("cache", compression=URL),
        "client": lambda: RedisCache(client=URL),
        "nodes": lambda: RedisCache.cluster(URL),
        "nodes of URLs": lambda: RedisCache.cluster([URL]),
        "nodes of pairs": lambda: RedisCache.cluster([(URL, 1)]),
        "service": lambda: RedisCache.sentinel([("h", 1)], LIST),
        "a certificate": lambda: TLS(ca=URL),
        "servers": lambda: MemcachedCache(URL),
        "servers of URLs": lambda: MemcachedCache([URL]),
        "servers of pairs": lambda: MemcachedCache([(URL, 11211)]),
        "table": lambda: DynamoDBCache(URL),
        "region": lambda: DynamoDBCache("table", region=LIST),
        "endpoint": lambda: DynamoDBCache("table", endpoint=URL),
        "cache_dir": lambda: FileCache(URL),
        "max_size_mb": lambda: FileCache(tmp_path / "a", max_size_mb=URL),
        "max_size": lambda: MemoryCache(URL),
        "strategy": lambda: MemoryCache(strategy=URL),
        "the default cache": lambda: cachekit.set_default_cache(URL),
        "override": lambda: cachekit.override(URL).__enter__(),
        "cache_level": lambda: cache.get("k", cache_level=URL),
        "lease": lambda: LoadOptions(lease=URL),
        "version": lambda: cache_result(version=LIST)(test_patterns),
        "ignore": lambda: cache_result(ignore=URL)(test_long_arguments_are_cut),
        "the decorated function": lambda: cache_result(URL),
        "ttl": lambda: cache.set("k", 1, ttl=URL),
        "of an aio cache": lambda: aio.IntelligentCache.of(URL),
    }
    for name, call in calls.items():
        with subtests.test(name):
            try:
                text = str(call())
            except (TypeError, ValueError) as error:
                text = str(error)
            assert "hunter2" not in text
    assert not list(Path().glob("redis:*"))


@pytest.mark.parametrize(
    ("call", "remedy"),
    [
        (lambda: MADE(MemoryCache(), URL), "pass a URL as redis_cache=RedisCache(url=...)"),
        (lambda: MADE(MemoryCache(), "h"), "pass redis_cache=RedisCache('host', 6379)"),
        (lambda: MADE("dir"), "pass a directory as file_cache=FileCache('dir')"),
        (lambda: MADE(Path("dir")), "pass a directory as file_cache=FileCache('dir')"),
        (lambda: MADE(file_cache="dir"), "pass a directory as file_cache=FileCache('dir')"),
        (lambda: MADE(RedisCache()), "pass it as redis_cache"),
        (lambda: MADE(MemoryCache(), MemoryCache()), "pass it as memory_cache"),
        (lambda: MADE(10_000), "pass memory_cache=MemoryCache(max_size=10_000)"),
        (lambda: SERVER("h", URL), "pass a URL as RedisCache(url=...)"),
        (lambda: SERVER("h", "6379"), "pass a number without quotes"),
        (lambda: SERVER(URL), "pass a URL as RedisCache(url=...)"),
        (lambda: SERVER("h", tls=True), "write tls=TLS(...), or ssl=True"),
        (lambda: MemcachedCache(URL), "write MemcachedCache([('host', 11211)])"),
        (lambda: DynamoDBCache(URL), "and a URL as endpoint"),
        (lambda: FileCache(URL), "a server is a tier of its own, RedisCache(url=...)"),
        (
            lambda: cachekit.set_default_cache(URL),
            "such as IntelligentCache(redis_cache=RedisCache(url=...))",
        ),
    ],
)
def test_the_remedy(call: Callable[[], object], remedy: str) -> None:
    """It names what to write instead."""
    with pytest.raises((TypeError, ValueError), match=re.escape(remedy) + "$"):
        call()


def test_a_directory_passed_as_memory(tmp_path: Path) -> None:
    """A tier of another kind is told where it belongs."""
    with FileCache(tmp_path) as files, pytest.raises(TypeError, match=r"pass it as file_cache$"):
        MADE(files)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (re.compile(b"a"), "not a pattern of bytes; keys are str, so leave out the b"),
        (b"a", "not an object of type bytes; keys are str, so leave out the b"),
        (None, "not None; pass a str, such as 'user:.*'"),
    ],
)
def test_patterns(cache: IntelligentCache, pattern: Any, words: str) -> None:
    """A compiled pattern of str is taken, so the message says what is wrong with this one."""
    with pytest.raises(TypeError, match=re.escape(words)):
        cache.invalidate_by_pattern(pattern)
