"""Entries with tags are read in one round trip where their tags are foreseen, and are right where not."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import inside
import pytest
import redis
from redis_looks import value_name
from redis_server import RedisServer

from cachekit import IntelligentCache, RedisCache
from cachekit.tiers.redis.foreseen_tags import ForeseenTags

MakeCache = Callable[..., RedisCache]

pytestmark = pytest.mark.usefixtures("few_buckets")


def trips(server: RedisServer, work: Callable[[], object]) -> int:
    """How often the server received something while the work ran."""
    with redis.Redis.from_url(server.url) as client:

        def received() -> int:
            return int(client.info("stats")["total_reads_processed"])

        before = received()
        work()
        return received() - before - 1


def test_round_trips(server: RedisServer) -> None:
    """A key whose tags were seen takes one, and so does one with the tags of the entry read last."""
    with RedisCache(url=server.url) as cache:
        cache.set_value("plain", 0)
        for key in "abc":
            cache.set_value(key, key, tags={"x", "y"})
        cache.set_value("other", 1, tags={"z"})
        assert trips(server, lambda: cache.get("plain")) == 1
        assert trips(server, lambda: cache.get("a")) == 2
        assert trips(server, lambda: cache.get("a")) == 1
        assert trips(server, lambda: cache.get("b")) == 1, "the tags of the entry read last"
        assert trips(server, lambda: cache.get("other")) == 2
        assert trips(server, lambda: cache.get("other")) == 1
        assert trips(server, lambda: cache.get("a")) == 1, "its own"
        assert trips(server, lambda: cache.get("plain")) == 1
        assert trips(server, lambda: cache.peek("a")) == 1
        assert trips(server, lambda: cache.get_many(["b", "c", "plain"])) == 2
        assert trips(server, lambda: cache.get_many(["b", "c", "plain"])) == 1
        assert trips(server, lambda: cache.get_many(["b", "other"])) == 2
        assert trips(server, lambda: cache.get_many(["b", "other"])) == 1
        many = [f"{number}" for number in range(400)]
        for key in many:
            cache.set_value(key, key, tags={"new"})
        assert trips(server, lambda: cache.get_many(many)) == 2
        assert trips(server, lambda: cache.get_many(many)) == 1
        assert cache.get_many(many) == {key: cache.get(key) for key in many}


def test_round_trips_of_a_cache(server: RedisServer) -> None:
    """`get_many` of a cache foresees as that of the tier does, and what is not there teaches nothing."""
    tier = RedisCache(url=server.url)
    with tier, IntelligentCache(memory_cache=None, redis_cache=tier, file_cache=None) as cache:
        keys = ["a", "b", "c"]
        for key in keys:
            cache.set(key, key, tags={"x"})
        assert trips(server, lambda: cache.get_many(keys)) == 2
        assert trips(server, lambda: cache.get_many(keys)) == 1
        assert cache.get_many(keys) == {key: key for key in keys}
        for key in keys:
            cache.delete(key)
        assert trips(server, lambda: cache.get_many(keys)) == 1
        assert trips(server, lambda: tier.get_many(keys)) == 1
        for key in keys:
            tier.set_value(key, key, tags={"x"})
        assert trips(server, lambda: tier.get_many(keys)) == 1
        assert trips(server, lambda: cache.get_many(keys)) == 1


def test_an_invalidation_is_seen(make_cache: MakeCache) -> None:
    """The tokens are those of now, however often the entry was read before."""
    reader, writer = make_cache(), make_cache()
    for value in range(5):
        writer.set_value("k", value, tags={"x"})
        assert [reader.get_value("k") for _ in range(3)] == [value] * 3
        assert {key: one.value for key, one in reader.get_many(["k"]).items()} == {"k": value}
        writer.invalidate_by_tags({"x"})
        assert reader.get("k") is None
        assert reader.get_many(["k"]) == {}


def test_writes_with_other_tags(make_cache: MakeCache) -> None:
    """A guess that is wrong is none: the tags of the entry count, and their tokens, as they are now."""
    hosts = [make_cache() for _ in range(3)]
    some = random.Random(5)
    kept: dict[str, tuple[int, frozenset[str]]] = {}
    for step in range(900):
        host, key = some.choice(hosts), some.choice("abcd")
        tags = frozenset(some.sample("xyz", some.randrange(4)))
        change = some.randrange(6)
        if change < 2:
            host.set_value(key, step, tags=tags)
            kept[key] = step, tags
        elif change == 2:
            host.invalidate_by_tags(tags)
            kept = {key: one for key, one in kept.items() if not one[1] & tags}
        elif change == 3:
            found = {key: (one.value, one.tags) for key, one in host.get_many([*"abcd"]).items()}
            assert found == kept, step
        else:
            entry = host.get(key)
            assert (None if entry is None else (entry.value, entry.tags)) == kept.get(key), step


def test_other_programs_values_count_as_errors(make_cache: MakeCache, client: Any, prefix: str) -> None:
    """As they do without tags, whether they are a string or another type."""
    cache = make_cache()
    cache.set_value("k", 1, tags={"x"})
    assert cache.get_value("k") == cache.get_value("k") == 1
    name = value_name(client, prefix, "k")
    client.delete(name)
    client.rpush(name, "a list")
    assert cache.get("k") is None
    assert cache.get_stats().errors == 1
    for token in client.scan_iter(match=f"{prefix}{{#x}}"):
        client.delete(token)
        client.rpush(token, "a list")
    client.set(name, "a text")
    assert cache.get("k") is None
    assert cache.get_stats().errors == 2
    client.delete(name)
    assert cache.get("k") is None
    assert cache.get_stats().errors == 2


def observed(call: Callable[[Any], Any], asked: list[Any]) -> Callable[[Any], Any]:
    """The same, noting what it is called with."""

    def calling(commands: Any) -> Any:
        asked.append(commands)
        return call(commands)

    return calling


def test_in_a_cluster(cluster_nodes: list[tuple[str, int]], prefix: str) -> None:
    """There the tags are on other nodes, which may be out, so none are foreseen."""
    with RedisCache.cluster(cluster_nodes, prefix, timeout=60) as cache:
        for key in "abc":
            cache.set_value(key, key, tags={"x", "y"})
        for _ in range(3):
            assert cache.get_value("a") == "a"
            assert sorted(cache.get_many([*"abc"])) == [*"abc"]
        cache.set_value("plain", 1)
        for read in (lambda: cache.get("plain"), lambda: cache.get_many(["plain"])):
            asked: list[Any] = []
            with pytest.MonkeyPatch.context() as patch:
                answers = inside.server(cache)._answers
                patch.setattr(inside.server(cache), "_answers", observed(answers, asked))
                read()
            assert sum(map(len, asked)) <= 1, "no token of a tag"
        cache.invalidate_by_tags({"y"})
        assert cache.get("a") is None
        assert cache.get_many([*"abc"]) == {}


def test_what_is_remembered() -> None:
    """The tags of some keys, if they are few and short."""
    foreseen = ForeseenTags()
    none: frozenset[str] = frozenset()
    assert foreseen.of("a") == none
    foreseen.learn("a", frozenset("x"))
    foreseen.learn("b", frozenset("yz"))
    assert [*map(foreseen.of, "abc")] == [{"x"}, {"y", "z"}, {"y", "z"}]
    foreseen.learn("b", none)
    assert [*map(foreseen.of, "abc")] == [{"x"}, none, none]
    for tags in (frozenset("abcdefghi"), frozenset({"long" * 129})):
        foreseen.learn("a", tags)
        assert foreseen.of("a") == none
    for number in range(5_000):
        foreseen.learn(f"{number}", frozenset({f"{number}"}))
    assert foreseen.of("4999") == {"4999"}
    assert sum(foreseen.of(f"{number}") == {f"{number}"} for number in range(5_000)) <= 1024


def test_large_answers_over_an_idle_connection(redis_url: str, prefix: str) -> None:
    """Several answers that come in pieces have their time from when they were asked for."""
    with RedisCache(url=redis_url, key_prefix=prefix, timeout=60) as cache:
        text = random.Random(3).randbytes(300_000)
        cache.set_value("k", text, tags={"x"})
        lines = []
        for _ in range(3):
            assert cache.get_value("k") == text
            (connection,) = inside.server(cache)._opened._free
            lines.append(connection.line)
            assert connection.line.socket.gettimeout() == 60
            for exchange in (cache.get, cache.delete):
                exchange("missing")
                assert not connection.line.is_sending, "the next exchange has a deadline of its own"
            connection.line._begun -= 61  # it has been idle for so long
        assert lines == [lines[0]] * 3, "no second try over another connection"
