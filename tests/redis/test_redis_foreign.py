"""What others have put on the server, and what lies beside a prefix."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from redis_looks import names_under, value_name

from cachekit import CacheEntry
from cachekit.serialization.serializer import Serializer
from cachekit.tiers.redis.tier import RedisCache

MakeCache = Callable[..., RedisCache]

SECRET = "a secret of the whole fleet"


pytestmark = pytest.mark.usefixtures("few_buckets")


class Bomb:
    def __reduce__(self) -> Any:
        return print, ("this must not be printed",)


class TestForeignData:
    """What another client has put where a value belongs is a miss and an error, and can be replaced."""

    def poisons(self, prefix: str) -> dict[str, bytes]:
        trusted = Serializer(prefix, trusted=True)
        elsewhere = Serializer("elsewhere:")
        return {
            "nothing of ours": b"hello",
            "empty": b"",
            "a pickle that runs code": trusted.encode("k", Bomb(), created=0),
            "another key's": trusted.encode("another", 1, created=0),
            "another prefix's": elsewhere.encode("k", 1, created=0),
            "signed": Serializer(prefix, secret=SECRET).encode("k", 1, created=0),
            "cut": trusted.encode("k", "x" * 1000, created=0)[:-1],
            "made never": trusted.encode("k", 1, created=math.inf),
            "made long ago": trusted.encode("k", 1, created=-1e300),
            "over for ever": trusted.encode("k", 1, created=0, expires=-math.inf),
            "full of bytes": bytes(range(256)),
        }

    def test_it_is_a_miss(self, cache: RedisCache, client: Any, prefix: str, capfd: Any) -> None:
        """Whatever it is, for every way to read; code in it does not run."""
        cache.set_value("k", 1)
        name = value_name(client, prefix, "k")
        for what, poison in self.poisons(prefix).items():
            client.set(name, poison)
            errors = cache.get_stats().errors
            assert cache.get("k") is None, what
            assert cache.get_many(["k"]) == {}, what
            assert cache.peek("k") is None, what
            assert cache.get_stats().errors == errors + (0 if what == "over for ever" else 3), what
            cache.touch("k", 5)
            assert cache.get("k") is None, what
        assert "must not" not in capfd.readouterr().out

    def test_another_type(self, cache: RedisCache, client: Any, prefix: str) -> None:
        """Someone else's list is a miss; set, add and delete make short work of it."""
        cache.set_value("k", 1)
        name = value_name(client, prefix, "k")
        foreign: list[Callable[[], object]] = [
            lambda: cache.set_value("k", 2),
            lambda: cache.add("k", CacheEntry("k", 2), cache.origin("k")),
        ]
        for write in foreign:
            client.delete(name)
            client.rpush(name, "a")
            assert cache.get("k") is None
            assert cache.get_many(["k"]) == {}
            assert "k" not in cache
            assert cache.keys() == []
            write()
            assert cache.get_value("k") == 2
        client.delete(name)
        client.rpush(name, "a")
        assert cache.delete("k") is True
        assert not client.exists(name)

    def test_foreign_tokens(self, cache: RedisCache, client: Any, prefix: str) -> None:
        """A token that is none counts as missing, and is replaced."""
        origin = cache.origin("k", frozenset({"t"}))
        for name in names_under(client, prefix):
            client.delete(name)
            client.rpush(name, "a")
        assert cache.add("k", CacheEntry("k", 1, tags={"t"}), origin) is False
        again = cache.origin("k", frozenset({"t"}))
        for name in names_under(client, prefix):
            client.set(name, "not a number")
        assert cache.add("k", CacheEntry("k", 1, tags={"t"}), again) is False
        assert cache.add("k", CacheEntry("k", 1, tags={"t"}), cache.origin("k", frozenset({"t"}))) is True

    def test_tokens_that_no_cache_made(
        self, subtests: pytest.Subtests, cache: RedisCache, client: Any, prefix: str
    ) -> None:
        """Also a number: one that is too long, or written otherwise, is no token, and no exception."""
        rows: list[bytes] = [b"1" * 5000, b"9" * 20, b"-1", b"007", b"", b"1\n"]
        for token in rows:
            with subtests.test(token=token):

                def spoil() -> None:
                    for name in names_under(client, prefix):
                        if not name.endswith(b"}:k"):
                            client.set(name, token)  # noqa: B023

                cache.set_value("k", 1, tags={"t"})
                fence = cache.fence("k", {"t"})
                spoil()
                assert not fence.is_current()
                assert cache.get("k") is None
                assert cache.keys() == []
                origin = cache.origin("k", frozenset({"t"}))
                assert cache.add("k", CacheEntry("k", 2, tags={"t"}), origin) is True
                spoil()
                assert cache.set_value("k", 3, tags={"t"})
                assert cache.get_value("k") == 3

    def test_add_replaces_what_is_unreadable(self, cache: RedisCache, client: Any, prefix: str) -> None:
        """It counts as nothing there."""
        cache.set_value("k", 1)
        name = value_name(client, prefix, "k")
        for what, poison in self.poisons(prefix).items():
            client.set(name, poison)
            assert cache.add("k", CacheEntry("k", 2), cache.origin("k")) is True, what
            assert cache.get_value("k") == 2

    def test_with_a_secret_nothing_unsigned_is_read(self, make_cache: MakeCache) -> None:
        """Nor what another secret signed; a rotated one reads both."""
        make_cache().set_value("unsigned", 1)
        make_cache(secret="another secret, as long").set_value("other", 1)
        make_cache(secret=SECRET).set_value("mine", 1)
        cache = make_cache(secret=SECRET)
        assert sorted(cache.get_many(["unsigned", "other", "mine"])) == ["mine"]
        assert cache.keys() == ["mine"]
        both = make_cache(secret=[SECRET, "another secret, as long"])
        assert sorted(both.get_many(["unsigned", "other", "mine"])) == ["mine", "other"]


class TestOnePrefixAmongOthers:
    def test_prefixes_do_not_meet(self, make_cache: MakeCache, prefix: str) -> None:
        """Not even if one begins with the other; clear and patterns touch their own."""
        short, long, glob = (
            make_cache(),
            make_cache(key_prefix=f"{prefix}x:"),
            make_cache(key_prefix=f"{prefix}*"),
        )
        for cache in (short, long, glob):
            cache.set_value("x:k", 1, tags={"t"})
        assert [cache.keys() for cache in (short, long, glob)] == [["x:k"]] * 3
        assert glob.invalidate_by_pattern(".*") == 1
        short.invalidate_by_tags({"t"})
        assert [cache.keys() for cache in (short, long, glob)] == [[], ["x:k"], []]
        short.clear()
        glob.clear()
        assert long.get_value("x:k") == 1

    def test_leases_are_nobodys_values(self, make_cache: MakeCache, client: Any, prefix: str) -> None:
        """Nor does the value of a cache with a longer prefix look like a lease that is taken."""
        short, long = make_cache(), make_cache(key_prefix=f"{prefix}lease:")
        long.set_value("k", 1)
        (name,) = names_under(client, f"{prefix}lease:") - {
            value_name(client, prefix, "k").rpartition(b":")[0]
        }
        lease = short.lease(name.decode().removeprefix(f"{prefix}lease:"), 30)
        assert lease is not None
        assert long.get_value("k") == 1
        assert long.keys() == ["k"]
        assert short.keys() == []

    def test_clear_leaves_nothing_of_its_own(self, cache: RedisCache, client: Any, prefix: str) -> None:
        """Neither values nor tokens."""
        for number in range(20):
            cache.set_value(f"k{number}", 1, tags={f"t{number}"})
        assert cache.clear() is True
        assert names_under(client, prefix) == set()
        assert cache.get_stats().invalidations == 20

    def test_patterns_of_awkward_keys(self, cache: RedisCache) -> None:
        """What a glob would take for a sign is none here."""
        keys = ["a*b", "a?b", "a[b]", "a\\b", "a{b}c", "axb", "}:a", "a-b^"]
        for key in keys:
            cache.set_value(key, 1)
        assert sorted(cache.keys()) == sorted(keys)
        assert cache.keys(r"a\*") == ["a*b"]
        assert cache.keys(r"a\?b") == ["a?b"]
        assert cache.keys(r"a\[b\]") == ["a[b]"]
        assert cache.keys(r"a\\b") == ["a\\b"]
        assert cache.keys(r"a\{b") == ["a{b}c"]
        assert cache.keys(r"\}:") == ["}:a"]
        assert sorted(cache.keys("a.b")) == ["a*b", "a-b^", "a?b", "a[b]", "a\\b", "axb", "a{b}c"]
        assert sorted(cache.keys(re.compile("AXB", re.IGNORECASE))) == ["axb"]
        assert cache.keys(re.compile("a x b", re.VERBOSE)) == ["axb"]
        assert cache.invalidate_by_pattern("(?i)A[*]") == 1
        assert sorted(cache.keys("a?x|}")) == ["axb", "}:a"]

    def test_memory_usage_is_the_servers(self, cache: RedisCache) -> None:
        """It is measured on demand, and the figures show the last measurement."""
        assert cache.memory_usage() == 0
        for number in range(100):
            cache.set_value(f"k{number}", b"x" * 1000)
        assert cache.get_stats().memory_usage_bytes == 0
        measured = cache.memory_usage()
        assert 100_000 < measured < 300_000
        assert cache.get_stats().memory_usage_bytes == measured

    def test_many_tags_on_one_value(self, cache: RedisCache) -> None:
        """A header that is longer than what `keys` reads first is read whole."""
        cache.set_value("k", 1, tags={f"a tag with a long name {number}" for number in range(100)})
        assert cache.keys() == ["k"]
        assert "k" in cache
        cache.invalidate_by_tags({"a tag with a long name 50"})
        assert cache.keys() == []
        assert "k" not in cache
        assert cache.get_stats().errors == 0
