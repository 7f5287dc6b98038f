"""Messages about arguments: each shows the value, without the login of a URL, and says what to pass."""

from __future__ import annotations

import re
import threading
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
    SerializationError,
    TierUnavailableError,
    aio,
    cache_result,
    errors,
)
from cachekit.model.display import safe_repr, shown_key, shown_value, typed_repr

URL: Any = "redis://app:hunter2@cache:6379/0"
#: The classes without their types, because each argument here is of a wrong one.
MADE: Any = IntelligentCache
SERVER: Any = RedisCache
MADE_AIO: Any = aio.IntelligentCache
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
        ("redis://h#:hunter2@", "'redis://***@'"),
        ("redis://h#hunter2", "'redis://h#***"),
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


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: {"job": Held()}, "a dict cannot be pickled, because of its ['job'].lock, a lock: "),
        (lambda: [1, (Held(),)], "because of its [1][0].lock, a lock: "),
        (lambda: {"not a name": threading.Lock()}, "because of its value 0, a lock: "),
        (lambda: {"sk_live_51Hq": threading.Lock()}, "because of its value 0, a lock: "),
        (lambda: [*range(10_000), threading.Lock()], "a list cannot be pickled: "),
        (lambda: {1: lambda: 1}, "a function: "),
        (lambda: Slotted(threading.Lock()), "a Slotted cannot be pickled, because of its .one, a lock: "),
        (threading.Lock, "a lock cannot be pickled: "),
    ],
)
def test_the_part_that_cannot_be_stored(tmp_path: Path, make: Callable[[], object], words: str) -> None:
    """It is named, and the key where there are several; no value is."""
    with IntelligentCache(file_cache=FileCache(tmp_path, 2)) as files:
        with pytest.raises(SerializationError, match=re.escape(words)):
            files.set("k", make())
        with pytest.raises(SerializationError, match=re.escape(words)) as caught:
            files.set_many({"a": 1, "k": make()})
        assert f"the value of {shown_key('k')} is not storable: " in str(caught.value)
        assert str(caught.value).endswith("or store plain values (CACHEKIT_SHOW_KEYS=1 shows keys)")


class Held:
    """A class at the top of a module, with a lock in it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class Slotted:
    """The same, with slots."""

    __slots__ = ("one",)

    def __init__(self, one: object) -> None:
        self.one = one


def test_other_remedies(cache: IntelligentCache) -> None:
    """Each fits what was wrong."""
    region: Any = cache.region("r:", int)
    decorate: Any = cache_result
    texts: dict[str, Callable[[], object]] = {
        r"not str; pass a value of that type, or use a region for other types$": lambda: region.set("1", "x"),
        r"has no threshold min_hitrate; pass some of min_hit_rate, ": lambda: cache.health(min_hitrate=0.5),
        r"is awaited already, so use it$": lambda: MADE_AIO.of(aio.IntelligentCache.of(cache)),
        r"@property must be above @cache_result, not below it": lambda: decorate(property(len)),
        r"not 600 of type int; pass options by name": lambda: decorate(600),
    }
    for words, call in texts.items():
        with pytest.raises(TypeError, match=words):
            call()
    cache.set("r:2", "text")
    with pytest.raises(TypeError, match=r"not str; delete the key, or use another prefix for other types$"):
        region.get("2")


def test_servers_that_are_not_there() -> None:
    """A host without an address, and a port without a server, have a remedy each."""
    with pytest.raises(TierUnavailableError, match=r"; check the host, or what resolves its name$"):
        RedisCache("no-such-host.invalid", timeout=5).ping()
    with pytest.raises(TierUnavailableError, match=r"; start the server, or check the host and the port$"):
        RedisCache("127.0.0.1", 1, timeout=5).ping()


def test_an_iterator_has_a_named_error(cache: IntelligentCache) -> None:
    """Its class stands with the others."""
    with pytest.raises(errors.OnceOnlyError) as caught:
        cache.set("k", iter([1]))
    assert type(caught.value).__module__ == "cachekit.errors"
