"""What type checkers must see in cached functions. Checked, not run, by test_typing.py."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, assert_type

import cachekit
from cachekit import (
    FOREVER,
    AsyncCachedFunction,
    CachedFunction,
    CacheInfo,
    CacheLevel,
    IntelligentCache,
    LoadOptions,
    WarmReport,
    cache_result,
)

cache = IntelligentCache(file_cache=None)


@cache_result
def bare(x: int, y: str = "", *, z: bool = False) -> list[str]:
    """The signature of a decorated function stays."""
    return [y * x]


@cache_result(ttl=60, cache_level=CacheLevel.ALL, tags={"a"}, version="1", ignore=("y",), copy=True)
def with_parameters(x: int, y: str = "") -> str:
    """So it does with parameters."""
    return y * x


@cache.cached(ttl=timedelta(hours=1), tags=lambda x: [f"user:{x}"], store_if=lambda answer: answer > 0)
def of_a_cache(x: int) -> float:
    """And with the decorator of a cache."""
    return x / 2


@cache_result
def of_any(x: str) -> Any:
    """What has no type is not taken for a coroutine."""
    return x


@cache_result(ttl=60)
def of_any_with_parameters(x: str) -> Any:
    """Nor with parameters."""
    return x


@cache_result
async def awaited_any(x: str) -> Any:
    """And a coroutine of it still is one."""
    return x


@cache_result
async def awaited(x: int) -> bytes:
    """A coroutine function stays one."""
    return bytes(x)


@cache_result(ttl=lambda answer: FOREVER if answer else None, key_func=lambda x: f"x:{x}", name="n")
async def awaited_with_parameters(x: int) -> str | None:
    """With parameters too."""
    return str(x) or None


@cache.cached()
async def awaited_of_a_cache(x: int) -> dict[str, int]:
    """And of a cache."""
    return {"x": x}


@cache.cached
def bare_of_a_cache(x: int) -> float:
    """Without parentheses."""
    return float(x)


def functions() -> None:
    assert_type(bare_of_a_cache(1), float)
    assert_type(bare(1), list[str])
    assert_type(bare(1, "a", z=True), list[str])
    assert_type(bare(x=1, y="a"), list[str])
    assert_type(with_parameters(1, y="a"), str)
    assert_type(of_a_cache(1), float)
    assert_type(of_any(""), Any)
    assert_type(of_any_with_parameters(""), Any)
    assert_type(bare.cache_info(), CacheInfo)
    assert_type(bare.cache_info().hits, int)
    assert_type(bare.cache_clear(), int | None)
    assert_type(bare.invalidate(1, y="a"), bool)
    assert_type(bare.refresh(1), list[str])
    assert_type(bare.key(1), str)
    assert_type(bare.__wrapped__(1), list[str])
    assert_type(bare.__name__, str)

    bare("1")  # type: ignore[arg-type]
    bare()  # type: ignore[call-arg]
    bare(1, "a", True)  # type: ignore[call-arg]
    bare(1, w=2)  # type: ignore[call-arg]
    bare.invalidate("1")  # type: ignore[arg-type]
    bare.refresh()  # type: ignore[call-arg]
    bare.key(1, w=2)  # type: ignore[call-arg]
    bare.no_such_question()  # type: ignore[attr-defined]
    with_parameters(1, 2)  # type: ignore[arg-type]
    of_a_cache("1")  # type: ignore[arg-type]


async def coroutines() -> None:
    assert_type(await awaited(1), bytes)
    assert_type(await awaited_with_parameters(1), str | None)
    assert_type(await awaited_any(""), Any)
    assert_type(await awaited_any.invalidate(""), bool)
    assert_type(await awaited_of_a_cache(1), dict[str, int])
    assert_type(await awaited.cache_clear(), int | None)
    assert_type(await awaited.invalidate(1), bool)
    assert_type(await awaited.refresh(1), bytes)
    assert_type(await awaited.__wrapped__(1), bytes)
    assert_type(awaited.cache_info(), CacheInfo)
    assert_type(awaited.key(1), str)

    await awaited("1")  # type: ignore[arg-type]
    awaited(1) + b""  # type: ignore[operator]
    await awaited_with_parameters()  # type: ignore[call-arg]
    await awaited.invalidate("1")  # type: ignore[call-overload]


class Client:
    """The usual kinds of methods."""

    @cache_result(ignore=("self",))
    def get(self, key: int) -> str:
        """A method."""
        return str(key)

    @cache_result
    async def fetch(self, key: int) -> bytes:
        """A coroutine method."""
        return bytes(key)

    @classmethod
    @cache_result
    def make(cls, key: int) -> float:
        """A class method; checkers see what it returns, but not what it takes."""
        return key / 2

    @classmethod
    @cache_result
    async def make_later(cls, key: int) -> float:
        """A class method that is awaited."""
        return key / 2

    @staticmethod
    @cache_result
    def free(key: int) -> complex:
        """A static method."""
        return key * 1j

    @staticmethod
    @cache_result
    async def free_later(key: int) -> complex:
        """A static method that is awaited."""
        return key * 1j


async def methods(client: Client) -> None:
    assert_type(client.get(1), str)
    assert_type(await client.fetch(1), bytes)
    assert_type(Client.make(1), float)
    assert_type(client.make(1), float)
    assert_type(await Client.make_later(1), float)
    assert_type(await client.make_later(1), float)
    assert_type(Client.free(1), complex)
    assert_type(await Client.free_later(1), complex)
    assert_type(client.free(1), complex)
    assert_type(await client.free_later(1), complex)
    assert_type(Client.get(client, 1), str)
    assert_type(Client.get.invalidate(client, 1), bool)
    assert_type(await Client.fetch.refresh(client, 1), bytes)

    client.get("1")  # type: ignore[arg-type]
    client.get()  # type: ignore[call-arg]
    await client.fetch("1")  # type: ignore[arg-type]
    Client.free("1")  # type: ignore[arg-type]
    client.free("1")  # type: ignore[arg-type]
    Client.get.invalidate(1)  # type: ignore[call-arg, arg-type]
    client.get.invalidate(1)  # type: ignore[attr-defined]


def wrong_parameters() -> None:
    cache_result(60)  # type: ignore[call-overload]
    cache_result(ttl="60")  # type: ignore[call-overload]
    cache_result(tags="user")  # type: ignore[call-overload]
    cache_result(cache_level="memory")  # type: ignore[call-overload]
    cache_result(key_func="x")  # type: ignore[call-overload]
    cache_result(no_such=1)  # type: ignore[call-overload]
    cache.cached(ttl="60")  # type: ignore[call-overload]
    cache.cached(cache=cache)  # type: ignore[call-overload]


def shapes() -> None:
    plain: CachedFunction[[int], float] = of_a_cache
    later: AsyncCachedFunction[[int], bytes] = awaited
    wrong: CachedFunction[[str], float] = of_a_cache  # type: ignore[assignment]
    del plain, later, wrong


@dataclass
class User:
    """Something to keep in a region."""

    name: str


def names() -> None:
    from cachekit import no_such_name  # type: ignore[attr-defined]

    assert_type(cachekit.errors.CacheError("x"), cachekit.CacheError)
    assert_type(cachekit.aio.MemoryCache(), cachekit.aio.MemoryCache)
    del no_such_name


def caches() -> None:
    assert_type(cache.get("k"), Any | None)
    assert_type(cache.get("k", 0), Any | int)
    assert_type(cache.get_or_set("k", lambda: 1), int)
    assert_type(cache.get_or_set("k", lambda: User("x")), User)
    assert_type(cache.get_many(["k"]), dict[str, Any])
    assert_type(cache.set("k", 1, tags=["a"]), bool)
    assert_type(cache.invalidate_by_pattern(re.compile("k")), int | None)
    users = cache.region("user:", User, ttl=60)
    assert_type(users.get("1"), User | None)
    assert_type(users.get("1", None), User | None)
    assert_type(users.get("1", User("nobody")), User)
    assert_type(users.get("1", False), User | bool)
    assert_type(users.get_or_set("1", lambda: User("x")), User)
    assert_type(cache.region("n:", int).get("1"), int | None)
    assert_type(cache.region("n:", list[int]).get("1"), list[int] | None)

    assert_type(cache.warm_cache(["k"], str.upper, progress=True, load=LoadOptions()), WarmReport)
    assert_type(cache.warm_cache(["k"], str.upper, progress=lambda done, total: done / total), WarmReport)

    cache.get(1)  # type: ignore[call-overload]
    cache.warm_cache(["k"], str.upper, progress="yes")  # type: ignore[arg-type]
    cache.warm_cache(["k"], str.upper, load="process")  # type: ignore[arg-type]
    cache.set("k", 1, tags="user")  # type: ignore[arg-type]
    cache.set("k", 1, ttl="60")  # type: ignore[arg-type]
    users.set("1", "a str")  # type: ignore[arg-type]
    users.get_or_set("1", lambda: 1)  # type: ignore[arg-type, return-value]
    users.get(1)  # type: ignore[call-overload]
