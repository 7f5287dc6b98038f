"""What stays on the server: values while they live, one token per tag in use, a bounded number beside."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis
from redis_server import RedisServer, wait_until

from cachekit import CacheEntry
from cachekit.tiers.redis.key_layout import BUCKETS
from cachekit.tiers.redis.store import TOKEN_LIFE
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
        assert all(0 < client.pttl(name) <= TOKEN_LIFE for name in names_left), "nothing stays for ever"

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


def test_tokens_of_tags_live_as_long_as_their_values(
    make_cache: MakeCache, redis_url: str, prefix: str
) -> None:
    """A value that lives longer than tokens do prolongs those that it needs; others do not."""
    cache = make_cache()
    with redis.Redis.from_url(redis_url) as client:
        life = TOKEN_LIFE // 1000
        cache.set_value("short", 1, ttl=60, tags={"a"})
        cache.set_value("long", 1, ttl=3 * life, tags={"b", "c"})
        cache.set_value("endless", 1, tags={"c"})
        cache.set_value("again", 1, ttl=60, tags={"c"})

        def left(tag: str) -> int:
            return int(client.pttl(f"{prefix}{{#{tag}}}"))

        assert 0.9 * TOKEN_LIFE < left("a") <= TOKEN_LIFE
        assert 2.9 * TOKEN_LIFE < left("b") <= 3 * TOKEN_LIFE
        assert left("c") == -1
        # A token in use is given its whole life again before it runs out.
        client.pexpire(f"{prefix}{{#a}}", TOKEN_LIFE // 3)
        cache.successor(frozenset({"a"}))
        assert left("a") > 0.9 * TOKEN_LIFE
        cache.add("added", CacheEntry("added", 1, tags={"a"}), cache.origin("added", frozenset({"a"})))
        assert left("a") == -1
