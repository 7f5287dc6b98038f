"""Entries with tags are stored in one round trip where the tokens of the tags are foreseen, and are right."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from redis_looks import commands_of, value_name
from redis_server import wait_until

from cachekit import IntelligentCache, MemoryCache, RedisCache
from cachekit.tiers.redis.foreseen_tokens import ForeseenTokens

MakeCache = Callable[..., RedisCache]

pytestmark = pytest.mark.usefixtures("few_buckets")


@pytest.mark.parametrize("memory", [None, MemoryCache], ids=["no memory", "memory"])
def test_round_trips(make_cache: MakeCache, client: Any, memory: Callable[[], MemoryCache] | None) -> None:
    """A write takes one where the tokens were read before, and three where another host changed them."""
    tier, other = make_cache(), make_cache()
    with IntelligentCache(memory and memory(), tier, None) as cache:
        numbers = iter(range(1000))

        def write(*tags: str) -> int:
            return len(commands_of(client, lambda: cache.set("k", next(numbers), ttl=60, tags={*tags})))

        for _ in range(2):
            write("warm the scripts")
        assert write() == 1
        assert write("a", "b") == 2
        assert write("a", "b") == write("b") == write("a") == 1
        assert write("a", "c") == 2
        assert write("c") == 1
        cache.invalidate_by_tags({"a"})
        assert write("b") == 1
        assert write("a") == 2, "it has forgotten what it invalidated"
        other.invalidate_by_tags({"b"})
        assert write("b") == 3
        assert write("b") == 1
        cache.get_or_set("l", lambda: next(numbers), tags={"d"})
        assert write("d") == 1, "a load has read it"
        assert cache.get("k") == other.get_value("k") == next(numbers) - 1


def test_a_tier_of_its_own(make_cache: MakeCache, client: Any) -> None:
    cache = make_cache()
    for _ in range(2):
        cache.set_value("warm the scripts", 0, tags={"w"})
    assert len(commands_of(client, lambda: cache.set_value("k", 1, tags={"x"}))) == 2
    assert len(commands_of(client, lambda: cache.set_value("l", 2, tags={"x"}))) == 1
    assert (cache.get_value("k"), cache.get_value("l")) == (1, 2)
    assert cache.get_stats().sets == 4


@pytest.mark.parametrize("secret", [None, b"a secret of 32 characters or more"])
def test_tokens_that_are_gone_or_foreign(
    make_cache: MakeCache, client: Any, prefix: str, secret: Any
) -> None:
    """The server may evict them, and another program may take their place."""
    cache = make_cache(secret=secret)
    cache.set_value("k", 1, tags={"x"})
    for strike in ("evicted", "foreign", "no token"):
        (token,) = client.scan_iter(match=f"{prefix}{{#x}}")
        client.delete(token)
        assert cache.get_value("k") is None
        if strike == "foreign":
            client.rpush(token, "a list")
        elif strike == "no token":
            client.set(token, "a text")
        cache.set_value("k", strike, tags={"x"})
        assert cache.get_value("k") == strike
        assert cache.get_stats().errors == 0


def test_a_token_lives_as_long_as_the_value(make_cache: MakeCache, client: Any, prefix: str) -> None:
    cache = make_cache()
    cache.set_value("k", 1, ttl=60, tags={"x"})
    (token,) = client.scan_iter(match=f"{prefix}{{#x}}")
    for life in (5, 100_000, None, 60):
        client.pexpire(token, 1000)
        cache.set_value("k", 2, ttl=life, tags={"x"})
        left, of_value = client.pttl(token), client.pttl(value_name(client, prefix, "k"))
        assert left == -1 or left >= of_value > 0
        assert (left == -1) is (life is None)
        client.pexpire(token, 1_000_000_000)


def test_an_entry_that_has_expired(make_cache: MakeCache) -> None:
    """It removes the key, as it does where the tokens are not foreseen."""
    cache = make_cache()
    cache.set_value("k", 1, tags={"x"})
    cache.set_value("k", 2, ttl=-1, tags={"x"})
    assert cache.get("k") is None


def test_the_other_hosts_are_told(make_cache: MakeCache) -> None:
    tiers = [make_cache(), make_cache()]
    with (
        IntelligentCache(MemoryCache(), tiers[0], None) as first,
        IntelligentCache(MemoryCache(), tiers[1], None) as second,
    ):
        for value in range(5):
            first.set("k", value, tags={"x"})
            wait_until(lambda: second.get("k") == value, "the other host has the newer value")  # noqa: B023


@pytest.mark.parametrize("place", ["object", "class"])
def test_a_method_that_was_replaced_is_called(
    make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """A wrapper or a test may do more in it."""
    tier = make_cache()
    seen: list[str] = []
    put = RedisCache.put

    def noting(self: RedisCache, key: str, *args: Any, **options: Any) -> bool:
        seen.append(key)
        return put(self, key, *args, **options)

    if place == "class":
        monkeypatch.setattr(RedisCache, "put", noting)
    else:
        monkeypatch.setattr(tier, "put", partial(noting, tier))
    with IntelligentCache(None, tier, None) as cache:
        cache.set("k", 1, tags={"x"})
        tier.set_value("l", 1, tags={"x"})
        assert seen == ["k", "l"]
        assert cache.get_many(["k", "l"]) == {"k": 1, "l": 1}


def test_what_is_remembered() -> None:
    """As many tags as have room, and none that is long."""
    tokens = ForeseenTokens()
    assert tokens.of([]) == {}
    assert tokens.of(["a"]) is None
    tokens.learn({"a": 1, "b": 2, "x" * 600: 3})
    assert tokens.of(["b", "a"]) == {"a": 1, "b": 2}
    assert tokens.of(["a", "c"]) is tokens.of(["x" * 600]) is None
    tokens.forget({"a", "c"})
    assert tokens.of(["a"]) is None
    for number in range(5000):
        tokens.learn({f"{number}": number + 1})
        assert tokens.of([f"{number}"]) == {f"{number}": number + 1}
    assert len(tokens._tokens) <= 1024
    tokens.learn({f"{number}": 1 for number in range(3000)})
    assert len(tokens._tokens) <= 1024
