"""The user whose rights docs/redis.md gives: they suffice, and none of them is superfluous."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import limited_user
import pytest
from redis_server import RedisServer, wait_until

from cachekit import IntelligentCache, LoadOptions, MemoryCache, RedisCache
from cachekit.errors import TierUnavailableError
from cachekit.testing import ManualClock, TierContract
from cachekit.tiers.redis import figures_of
from cachekit.tiers.redis.figures import StoredRecord

pytestmark = pytest.mark.usefixtures("few_buckets")


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as started:
        yield started


def url(server: RedisServer) -> str:
    return server.url.replace("//", "//app:secret@")


class TestTierOfTheUser(TierContract):
    """Its keys begin with the prefix that the user has; each test clears them."""

    @pytest.fixture(autouse=True)
    def _place(self, server: RedisServer) -> Iterator[None]:
        self.url = url(server)
        with server.client() as client:
            client.flushall()
            client.acl_log_reset()
            limited_user.grant(client, limited_user.rights("shop:"))
            yield
            assert client.acl_log() == []

    def make_tier(self, clock: ManualClock) -> RedisCache:
        return RedisCache(url=self.url, key_prefix="shop:", timeout=60, clock=clock)

    def test_caches(self) -> None:
        """Loads with a lease of the fleet, batches, tags, patterns and messages between hosts."""
        with (
            IntelligentCache(MemoryCache(), self.make_tier(ManualClock()), file_cache=None) as one,
            IntelligentCache(MemoryCache(), self.make_tier(ManualClock()), file_cache=None) as two,
        ):
            options = LoadOptions(lease="fleet")
            assert one.get_or_set("k", lambda: 1, tags={"t"}, load=options) == 1
            assert two.get("k") == 1
            one.set_many({"a": 1, "b": 2}, tags={"t"})
            assert two.get_many(["a", "b"]) == {"a": 1, "b": 2}
            assert one.touch("a", 40 * 86400)
            assert two.add("c", 1)
            assert two.update("c", lambda value: value + 1) == 2
            one.invalidate_by_tags({"t"})
            wait_until(lambda: two.get("k") is None, "the invalidation is seen")
            one.invalidate_by_pattern("c")
            wait_until(lambda: two.get("c") is None, "the invalidation is seen")
            assert one.redis_cache is not None
            assert one.redis_cache.memory_usage() > 0
            assert one.clear()


def test_other_keys(server: RedisServer) -> None:
    """Another prefix is refused."""
    with server.client() as client:
        limited_user.grant(client, limited_user.rights("shop:"))
    refused = pytest.raises(TierUnavailableError, match="NOPERM")
    with RedisCache(url=url(server), key_prefix="bank:", timeout=60) as cache, refused:
        cache.set_value("k", 1)


@pytest.mark.parametrize("lacking", [one for one in limited_user.rights() if one.startswith("+")])
def test_no_right_is_superfluous(server: RedisServer, lacking: str) -> None:
    """Without any of them something is refused."""
    with server.client() as client:
        client.flushall()
        client.execute_command("ACL", "DELUSER", "app")
        limited_user.grant(client, [one for one in limited_user.rights("shop:") if one != lacking])
        client.acl_log_reset()
        client.script_flush()
        with RedisCache(url=url(server), key_prefix="shop:", timeout=60) as cache:
            every(cache)
        assert lacking[1:] in [entry["object"] for entry in client.acl_log()]


def every(cache: RedisCache) -> None:
    """What tiers and caches do."""

    class Listener:
        def everything_changed(self) -> None: ...
        def keys_changed(self, keys: Any) -> None: ...
        def tags_changed(self, tags: Any) -> None: ...
        def pattern_changed(self, pattern: Any) -> None: ...

    listener = Listener()
    end = cache.subscribe(listener)
    for call in (
        cache.ping,
        lambda: cache.set_value("k", 1),
        lambda: cache.set_value("k", 1, ttl=60, tags={"t"}),
        lambda: cache.set_value("k", 1, tags={"t"}),
        lambda: cache.fence("k", {"t"}),
        lambda: cache.set_value("l", 1),
        lambda: cache.get("k"),
        lambda: cache.get_many(["k", "l"]),
        lambda: "k" in cache,
        cache.keys,
        cache.memory_usage,
        lambda: cache.lease("k", 60),
        lambda: cache.delete("k"),
        cache.clear,
    ):
        try:
            call()
        except TierUnavailableError:
            pass
    reader = cache._store.bus._readers[0]
    wait_until(lambda: reader.has_begun, "the subscription is confirmed or refused")
    end()


@pytest.mark.parametrize("lacking", ["", *limited_user.rights_for_figures()])
def test_figures_of_all_hosts(server: RedisServer, lacking: str) -> None:
    """The rights that they need besides suffice, and none of them is superfluous."""
    more = [one for one in limited_user.rights_for_figures() if one != lacking]
    with server.client() as client:
        client.flushall()
        client.execute_command("ACL", "DELUSER", "app")
        limited_user.grant(client, limited_user.rights("shop:"), *more)
        client.acl_log_reset()
        with RedisCache(url=url(server), key_prefix="shop:", timeout=60) as cache:
            store = figures_of(cache)
            assert store is not None
            own = StoredRecord(0.0, b"1", b"{}", b"1|1|{}")
            client.hset("shop:!figures", "r:gone", own.stored)
            for call in (
                store.is_wanted,
                lambda: store.want(60),
                lambda: store.want(120),
                lambda: store.publish("own", 1, b"{}", begun=b"", last=0),
                store.read,
                lambda: store.fold("gone", own, {"loads/ok": 1}),
                lambda: store.remove([b"f:gone"]),
            ):
                with suppress(TierUnavailableError):
                    call()
        assert {entry["object"] for entry in client.acl_log()} == {lacking[1:]} - {""}


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_whole_suite() -> None:
    """All tests of the tier pass as that user, and nothing is refused."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "limited_user", "tests/redis"]
    command += ["--ignore=tests/redis/test_redis_acl.py"]  # which lets that user be refused
    support = str(root / "tests" / "support")
    ended = subprocess.run(
        command, cwd=root, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": support},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-4000:]
