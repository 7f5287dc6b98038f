"""A user who lacks one permission: each operation works without it, or says that it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis_server import RedisServer

from cachekit import CacheEntry, RedisCache, TierUnavailableError

pytestmark = pytest.mark.usefixtures("few_buckets")

#: What the tier and its scripts send to a server.
COMMANDS = (
    "get", "mget", "getrange", "set", "unlink", "scan", "memory|usage", "pexpire", "persist", "pttl",
    "publish", "evalsha", "eval", "ping",
)  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """One whose users this module makes."""
    with RedisServer() as started:
        yield started


def filled(cache: RedisCache) -> None:
    """Entries with and without tags and ends."""
    cache.clear()
    cache.set("plain", CacheEntry("plain", 1))
    cache.set("tagged", CacheEntry("tagged", 2, tags={"t"}))
    cache.set("lasting", CacheEntry("lasting", 3, tags={"u"}, ttl=None))


def values(entries: Any) -> object:
    return sorted((key, entry.value) for key, entry in entries.items())


def operations(cache: RedisCache, other: RedisCache) -> dict[str, Callable[[], object]]:
    """Each with what it returns, or what another client finds afterwards, that must be as without a loss."""

    def after(call: Callable[[], object], *keys: str) -> Callable[[], object]:
        return lambda: (call(), values(other.get_many(keys or ["plain", "tagged", "lasting", "new"])))

    new = CacheEntry("new", 4, tags={"t"})
    short = CacheEntry("plain", 5)

    def fenced() -> bool:
        fence = cache.fence("new", {"t"})
        return fence.is_current() and cache.set_if("new", new, fence)

    def broken() -> bool:
        fence = cache.fence("new", {"t"})
        other.invalidate_by_tags({"t"})
        return cache.set_if("new", new, fence)

    def lease() -> list[bool]:
        held = cache.lease("k", 60)
        if held is None:
            return [False]
        result = [True, held.is_held()]
        held.release()
        again = other.lease("k", 60)
        if again is not None:
            again.release()
        return [*result, held.is_held(), again is not None]

    return {
        "get": lambda: getattr(cache.get("plain"), "value", None),
        "get with tags": lambda: getattr(cache.get("tagged"), "value", None),
        "get_many": lambda: values(cache.get_many(["plain", "tagged", "none"])),
        "contains": lambda: ["plain" in cache, "tagged" in cache, "none" in cache],
        "keys": lambda: sorted(cache.keys()),
        "size": cache.size,
        "memory_usage": lambda: cache.memory_usage() > 0,
        "ping": cache.ping,
        "set": after(lambda: cache.set("new", new)),
        "set for long": after(lambda: cache.set("new", CacheEntry("new", 4, tags={"t"}, ttl=40 * 86400))),
        "set for ever": after(lambda: cache.set("new", CacheEntry("new", 4, tags={"t"}, ttl=None))),
        "set over": after(lambda: cache.set("plain", short)),
        "put_many": after(lambda: cache.put_many({"plain": short}, {"plain": cache.successor()})),
        "put if": after(lambda: cache.put("plain", short, cache.successor(), expect=cache.origin("plain"))),
        "add": after(lambda: cache.add("new", CacheEntry("new", 1), cache.origin("new"))),
        "add to a live one": after(
            lambda: getattr(cache.add("plain", short, cache.origin("plain")), "value", None)
        ),
        "create": after(lambda: cache.create("new", CacheEntry("new", 1), cache.successor())),
        "create over": after(lambda: cache.create("plain", short, cache.successor())),
        "set_if": after(fenced),
        "set_if behind an invalidation": after(broken),
        "touch": after(lambda: cache.touch("plain", 60)),
        "delete": after(lambda: cache.delete("plain")),
        "remove_many": after(lambda: cache.remove_many(["plain", "tagged"])),
        "invalidate_by_tags": after(lambda: cache.invalidate_by_tags({"t"})),
        "invalidate_by_pattern": after(lambda: cache.invalidate_by_pattern("p")),
        "clear": after(cache.clear),
        "lease": lease,
    }


@pytest.mark.parametrize("lacking", COMMANDS)
def test_without_one_command(server: RedisServer, prefix: str, lacking: str) -> None:
    """Nothing is silently empty, lost or refused."""
    user = f"no-{lacking.replace('|', '-')}"
    with server.client() as client:
        client.execute_command(
            "ACL", "SETUSER", user, "on", ">a-password", "~*", "&*", "+@all", f"-{lacking}"
        )
    poor = {"url": server.url, "username": user, "password": "a-password"}
    refused = []
    with (
        server.client() as client,
        RedisCache(url=server.url, key_prefix=prefix, timeout=60) as whole,
        RedisCache(**poor, key_prefix=prefix, timeout=60) as cache,  # type: ignore[arg-type]
    ):
        for name, call in operations(cache, whole).items():
            filled(whole)
            client.script_flush()  # so that scripts are sent, and not only named
            try:
                found = call()
            except TierUnavailableError as error:
                refused.append(str(error))
                continue
            filled(whole)
            assert found == operations(whole, whole)[name](), name
    assert refused
    assert all("NOPERM" in error for error in refused), refused
