"""What stays on the server: values while they live, one token per tag in use, a bounded number beside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
from redis_server import RedisServer, wait_until

from cachekit import CacheEntry
from cachekit.tiers.redis.key_layout import BUCKETS
from cachekit.tiers.redis.store import BUCKET_LIFE, LONGEST_LOAD, TAG_LIFE
from cachekit.tiers.redis.tier import RedisCache

MakeCache = Callable[..., RedisCache]


def tagged_writes(server: RedisServer, writes: int, keys: int, tags: int, invalidations: int) -> None:
    """So many writes of so many keys with two of so many tags: what is left, at each step."""
    with RedisCache(url=server.url, timeout=60) as cache, server.client() as client:
        entries: dict[str, CacheEntry] = {}
        for number in range(writes):
            key = f"k{number % keys}"
            names = {f"t{number % tags}", f"t{number * 7 % tags}"}
            entries[key] = CacheEntry(key, number, ttl=3600, tags=names)
            if len(entries) == 500 or number == writes - 1:
                needed = frozenset(tag for entry in entries.values() for tag in entry.tags)
                origin = cache.successor(needed)
                cache.put_many(entries, dict.fromkeys(entries, origin))
                entries.clear()
        names_left = list(client.scan_iter(count=5000))
        values = [name for name in names_left if b"}:" in name]
        of_tags = [name for name in names_left if b"{#" in name]
        tokens = len(names_left) - len(values) - len(of_tags)
        assert (len(values), len(of_tags)) == (keys, tags)
        assert tokens <= min(keys, BUCKETS)
        assert all(0 < client.pttl(name) <= BUCKET_LIFE for name in names_left), "nothing stays for ever"

        for number in range(invalidations):
            cache.invalidate_by_tags({f"t{number % tags}"})
        assert client.dbsize() == len(names_left) - min(invalidations, tags)

        # Time passes: every value reaches its end.
        pipeline = client.pipeline(transaction=False)
        for name in values:
            pipeline.pexpire(name, 1)
        pipeline.execute()
        wait_until(lambda: not any(client.exists(name) for name in values), "all values are over")
        assert client.dbsize() == tokens + max(tags - invalidations, 0)


def test_tagged_writes_leave_no_more_than_values_and_tokens(server: RedisServer) -> None:
    """Keys = values that live + tags in use + buckets in use, the last at most 16,384."""
    tagged_writes(server, 5_000, 1_000, 200, 50)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_hundred_thousand_tagged_writes(server: RedisServer) -> None:
    """The same, at length."""
    tagged_writes(server, 100_000, 40_000, 5_000, 1_000)


def test_the_number_of_bucket_tokens_is_bounded(server: RedisServer) -> None:
    """More keys do not make more tokens."""
    with RedisCache(url=server.url, timeout=60) as cache, server.client() as client:
        for start in range(0, 60_000, 5_000):
            cache.origins([f"k{number}" for number in range(start, start + 5_000)])
        assert 0.9 * BUCKETS < client.dbsize() <= BUCKETS
        cache.renew()
        assert client.dbsize() == 0


def hours(client: Any, prefix: str, tag: str) -> float:
    """How long the tag's token still lives; -1 for ever, -2 if there is none."""
    left = int(client.pttl(f"{prefix}{{#{tag}}}"))
    return left if left < 0 else left / 3_600_000


@pytest.mark.parametrize("where", ["single", "cluster"])
def test_tokens_of_tags_live_as_long_as_their_values(
    where: str, redis_url: str, cluster_nodes: list[tuple[str, int]], prefix: str
) -> None:
    """Each way to store a value keeps those that it needs, and no other; a load has hours of its own."""
    load = LONGEST_LOAD / 3_600_000
    make_cluster: Any = redis.RedisCluster
    clients: dict[str, Any] = {
        "single": redis.Redis.from_url(redis_url),
        "cluster": make_cluster(*cluster_nodes[0]),
    }
    caches = {
        "single": RedisCache(url=redis_url, key_prefix=prefix, timeout=60),
        "cluster": RedisCache.cluster(cluster_nodes, prefix, timeout=60),
    }
    client, cache = clients[where], caches[where]

    def store(how: str, key: str, ttl: float | None, tags: set[str]) -> None:
        entry, origin = CacheEntry(key, 1, tags=tags, ttl=ttl), cache.origin(key, frozenset(tags))
        successor = cache.successor(frozenset(tags))
        ways: dict[str, Callable[[], object]] = {
            "set": lambda: cache.set(key, entry),
            "put": lambda: cache.put(key, entry, successor),
            "put if": lambda: cache.put(key, entry, successor, expect=origin),
            "put_many": lambda: cache.put_many({key: entry}, {key: successor}),
            "create": lambda: cache.create(key, entry, successor),
            "add": lambda: cache.add(key, entry, origin),
            "add_many": lambda: cache.add_many({key: entry}, {key: origin}),
        }
        ways[how]()
        assert cache.peek(key) is not None, how

    try:
        for how in ("set", "put", "put if", "put_many", "create", "add", "add_many"):
            store(how, f"{how} short", 60, {f"{how} a"})
            assert load < hours(client, prefix, f"{how} a") <= 2 * load, how
            store(how, f"{how} long", 720 * 3600, {f"{how} b", f"{how} c"})
            assert 719 < hours(client, prefix, f"{how} b") <= 720, how
            store(how, f"{how} endless", None, {f"{how} c"})
            store(how, f"{how} again", 60, {f"{how} b", f"{how} c"})
            assert 719 < hours(client, prefix, f"{how} b") <= 720, how
            assert hours(client, prefix, f"{how} c") == -1, how
        cache.set_value("touched", 1, ttl=60, tags={"touched"})
        cache.touch("touched", 720 * 3600)
        assert 719 < hours(client, prefix, "touched") <= 720
        # One that is read is given its whole life again before it runs out.
        client.pexpire(f"{prefix}{{#touched}}", LONGEST_LOAD // 2)
        cache.fence("k", {"touched"})
        assert hours(client, prefix, "touched") > 1.9 * load
    finally:
        for one in (*caches.values(), *clients.values()):
            one.close()


def test_a_token_that_ends_serves_nothing_stale(make_cache: MakeCache, redis_url: str, prefix: str) -> None:
    """While a value with it lives, or while a load runs: it counts as changed, and no other is like it."""
    cache, other = make_cache(), make_cache()
    with redis.Redis.from_url(redis_url) as client:

        def end() -> None:
            client.pexpire(f"{prefix}{{#t}}", 0)

        for invalidated in (False, True):
            cache.set_value("k", "old", tags={"t"})
            fence = cache.fence("l", {"t"})
            origin = cache.successor(frozenset({"t"}))
            end()
            if invalidated:
                other.invalidate_by_tags({"t"})
            assert cache.get("k") is None
            assert not fence.is_current()
            assert (
                other.successor(frozenset({"t"})).tags != origin.tags
            )  # a load that begins now makes it again
            assert cache.set_if("l", CacheEntry("l", "old", tags={"t"}), fence) is False
            cache.put("m", CacheEntry("m", "old", tags={"t"}), origin)  # a write whose load took too long
            assert [cache.get(key) for key in ("k", "l", "m")] == [None] * 3


def test_the_formula_of_the_documentation(server: RedisServer) -> None:
    """Keys on the server: live values, tokens of tags in use, leases, and tokens of buckets."""
    with RedisCache(url=server.url, timeout=60) as cache, server.client() as client:
        for number in range(200):
            cache.set_value(f"k{number}", 1, ttl=3600, tags={f"t{number}"})
            cache.lease(f"k{number}", 3600)

        def count(sign: bytes) -> int:
            return sum(name.startswith(b"cachekit:{" + sign) for name in client.scan_iter())

        values = cache.size()
        assert (values, count(b"#"), count(b"lease:")) == (200, 200, 200)
        assert client.dbsize() <= 600 + BUCKETS
        lives = [client.pttl(f"cachekit:{{#t{number}}}") for number in range(200)]
        assert all(0 < life <= TAG_LIFE for life in lives), "each ends with what may carry it"
        cache.invalidate_by_tags({f"t{number}" for number in range(200)})
        assert count(b"#") == 0
