"""RedisCache as people and caches use it: values, fences, many keys, and what lies on the server."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.cache import CacheConfig
from redis_server import RedisServer
from same import same

from cachekit import CacheEntry
from cachekit.errors import (
    CacheClosedError,
    SerializationError,
    TierUnavailableError,
    ValueTooLargeError,
)
from cachekit.fences import Origin
from cachekit.model import FOREVER
from cachekit.serialization import Serializer
from cachekit.testing import ManualClock
from cachekit.tiers.redis import RedisCache, scripts

MakeCache = Callable[..., RedisCache]

SECRET = "a secret of the whole fleet"


@pytest.fixture
def client(redis_url: str) -> Any:
    with redis.Redis.from_url(redis_url) as plain:
        yield plain


def names_under(client: Any, prefix: str) -> set[bytes]:
    return set(client.scan_iter(match=prefix.encode() + b"*", count=1000))


def value_name(client: Any, prefix: str, key: str) -> bytes:
    """Where the value of a key is, found by looking."""
    (name,) = [name for name in names_under(client, prefix) if name.endswith(b"}:" + key.encode())]
    return name


def commands_of(client: Any, work: Callable[[], object]) -> list[str]:
    """What a server is asked by the work, without what scripts do inside it: one round trip each."""
    with client.monitor() as monitor:
        work()
        client.echo("that was it")
        commands: list[str] = []
        while True:
            seen = monitor.next_command()
            if seen["command"] == "ECHO that was it":
                return commands
            command = seen["command"].split()[0]
            if seen["client_type"] != "lua" and command not in ("HELLO", "CLIENT"):  # a new connection's
                commands.append(command)


class TestValues:
    @pytest.mark.parametrize("secret", [None, SECRET])
    def test_what_goes_in_comes_out(self, make_cache: MakeCache, secret: str | None) -> None:
        """Values, small and large, come back as they went in, in another process's cache as in this one's."""
        values = [None, {"a": [1, (2.5, {3})], "b": b"x" * 100_000}, "й" * 5000, 2**80, [math.inf]]
        writer, reader = make_cache(secret=secret), make_cache(secret=secret)
        for value in values:
            assert writer.set_value("k", value, ttl=60, tags=["t"]) is True
            assert same(reader.get_value("k", "default"), value)

    def test_the_server_ends_lives_too(self, make_cache: MakeCache, client: Any, prefix: str) -> None:
        """A value has a PX as long as its life, capped by the tier's default; one without end has none."""
        make_cache().set_value("a", 1, ttl=100)
        make_cache().set_value("b", 1)
        make_cache(default_ttl=50).set_value("c", 1, ttl=100)
        make_cache(default_ttl=50).set_value("d", 1, ttl=FOREVER)
        make_cache().set_value("e", 1, ttl=1e15)
        lives = {key: client.pttl(value_name(client, prefix, key)) for key in "abcde"}
        assert 99_000 < lives["a"] <= 100_000
        assert (lives["b"], lives["e"]) == (-1, -1)
        assert 49_000 < lives["c"] <= 50_000
        assert 49_000 < lives["d"] <= 50_000

    def test_a_copy_is_never_older_than_the_tier_allows(self, make_cache: MakeCache) -> None:
        """The entry that comes back says how long it may live."""
        clock = ManualClock()
        cache = make_cache(default_ttl=50, clock=clock)
        cache.set("k", CacheEntry("k", 1, clock.time() - 10, ttl=1000))
        entry = cache.get("k")
        assert entry is not None
        assert (entry.created_timestamp, entry.ttl) == (clock.time() - 10, 60)

    def test_a_host_whose_clock_is_ahead(self, make_cache: MakeCache) -> None:
        """What it stores lives here for its TTL at the most."""
        here, ahead = ManualClock(), ManualClock()
        ahead.jump(1000)
        make_cache(clock=ahead).set_value("k", 1, ttl=60)
        entry = make_cache(clock=here).get("k")
        assert entry is not None
        assert entry.expires_timestamp == here.time() + 60

    def test_what_cannot_make_the_trip(self, cache: RedisCache) -> None:
        """Iterators and unknown classes are refused, and nothing is stored or removed."""
        cache.set_value("k", "before")
        for value in (iter([1]), ManualClock()):
            with pytest.raises(SerializationError):
                cache.set_value("k", value)
        assert cache.get_value("k") == "before"

    def test_a_class_that_is_allowed(self, make_cache: MakeCache) -> None:
        """What `allow` names travels; a reader without it has a miss, and an error in its figures."""
        make_cache(allow=[Point]).set_value("k", Point(1))
        assert make_cache(allow=[Point]).get_value("k") == Point(1)
        stranger = make_cache()
        assert stranger.get("k") is None
        assert (stranger.get_stats().misses, stranger.get_stats().errors) == (1, 1)

    def test_an_oversized_value(self, cache: RedisCache) -> None:
        """It is refused before anything is sent, with both sizes in the message."""
        with pytest.raises(ValueTooLargeError, match=r"6710\d{4} bytes.*at most 67108864"):
            cache.set_value("k", bytes(64 << 20))
        assert cache.get_stats().errors == 0
        assert cache.get("k") is None

    def test_other_codecs(self, make_cache: MakeCache) -> None:
        """JSON is read as JSON; what another codec wrote is a miss."""
        make_cache(codec="json", compression=None).set_value("k", {"a": (1,)})
        assert make_cache(codec="json").get_value("k") == {"a": (1,)}
        assert make_cache().get("k") is None


class Point:
    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and other.x == self.x

    __hash__ = None  # type: ignore[assignment]


class Bomb:
    def __reduce__(self) -> Any:
        return print, ("this must not be printed",)


class TestForeignData:
    """What somebody else has put where a value belongs is a miss and an error, and can be replaced."""

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

    @pytest.mark.parametrize("token", [b"1" * 5000, b"9" * 20, b"-1", b"007", b"", b"1\n"])
    def test_tokens_that_no_cache_made(
        self, cache: RedisCache, client: Any, prefix: str, token: bytes
    ) -> None:
        """Also a number: one that is too long, or written otherwise, is no token, and no exception."""

        def spoil() -> None:
            for name in names_under(client, prefix):
                if not name.endswith(b"}:k"):
                    client.set(name, token)

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


class TestFleetFences:
    """Origins: what the server said of key and tags, and what it lets in behind them."""

    def test_put_makes_its_token_the_keys(self, cache: RedisCache) -> None:
        """So what is read after it may be kept under that token."""
        origin = cache.successor(frozenset({"t"}))
        cache.put("k", CacheEntry("k", 1, tags={"t"}), origin)
        assert cache.origin("k", frozenset({"t"})) == origin

    def test_add_behind_a_current_origin(self, make_cache: MakeCache) -> None:
        """It stores, changes no token, and whoever comes second is given what is there."""
        one, other = make_cache(), make_cache()
        origin = one.origin("k", frozenset({"t"}))
        assert other.origin("k", frozenset({"t"})) == origin
        assert one.add("k", CacheEntry("k", "first", tags={"t"}), origin) is True
        there = other.add("k", CacheEntry("k", "second", tags={"t"}), origin)
        assert isinstance(there, CacheEntry)
        assert there.value == "first"
        assert there.tags == {"t"}
        assert one.origin("k", frozenset({"t"})) == origin

    def test_add_twice_is_adding_once(self, cache: RedisCache) -> None:
        """A retry whose first answer was lost says the same."""
        clock_entry = CacheEntry("k", 1, ttl=50)
        origin = cache.origin("k")
        write = cache._entries._write(clock_entry, origin)
        assert write is not None
        assert cache._store.add("k", write, origin, None) is True
        assert cache._store.add("k", write, origin, None) is True

    @pytest.mark.parametrize(
        "happens",
        [
            lambda cache: cache.set_value("k", 2) and cache.delete("k"),
            lambda cache: cache.delete("k"),
            lambda cache: cache.invalidate_by_tags({"t"}),
            lambda cache: cache.invalidate_by_pattern("k"),
            lambda cache: cache.clear(),
            lambda cache: cache.renew(),
            lambda cache: (
                cache.put_many({"k": CacheEntry("k", 1)}, {"k": cache.successor()})
                or cache.remove_many(["k"])
            ),
        ],
        ids=["set", "delete", "tag", "pattern", "clear", "renew", "many"],
    )
    def test_add_behind_a_broken_origin(
        self, make_cache: MakeCache, happens: Callable[[RedisCache], object]
    ) -> None:
        """What another cache did since then refuses it, and counts."""
        cache, other = make_cache(), make_cache()
        origin = cache.origin("k", frozenset({"t"}))
        happens(other)
        assert cache.add("k", CacheEntry("k", "loaded", tags={"t"}), origin) is False
        assert cache.get("k") is None
        assert cache.get_stats().refusals == 1

    def test_a_missing_token_counts_as_changed(self, cache: RedisCache, client: Any, prefix: str) -> None:
        """The server may evict tokens as it likes: fences break, tagged values are over, nothing is wrong."""
        origin = cache.origin("k", frozenset({"t"}))
        for missing in names_under(client, prefix):
            value = client.get(missing)
            client.delete(missing)
            assert cache.add("k", CacheEntry("k", 1, tags={"t"}), origin) is False
            client.set(missing, value)
        assert cache.add("k", CacheEntry("k", 1, tags={"t"}), origin) is True
        (tag,) = [name for name in names_under(client, prefix) if b"{#" in name]
        client.delete(tag)
        assert cache.get("k") is None
        assert cache.set_value("k", 2, tags={"t"})
        assert cache.get_value("k") == 2

    def test_add_replaces_what_a_tag_has_ended(self, cache: RedisCache) -> None:
        """And what is over by this host's clock."""
        cache.set_value("k", 1, tags={"t"})
        cache.invalidate_by_tags({"t"})
        assert cache.add("k", CacheEntry("k", 2, tags={"t"}), cache.origin("k", frozenset({"t"}))) is True
        assert cache.get_value("k") == 2

    def test_add_replaces_what_is_over_by_the_clock(self, make_cache: MakeCache) -> None:
        """The server's clock may be behind."""
        clock = ManualClock()
        cache = make_cache(clock=clock)
        cache.set_value("k", 1, ttl=1000)
        clock.advance(1000)
        assert cache.add("k", CacheEntry("k", 2, clock.time()), cache.origin("k")) is True
        assert cache.get_value("k") == 2

    def test_the_fence_asks_the_server(self, make_cache: MakeCache) -> None:
        """Another cache's write breaks it, and set_if says no."""
        cache, other = make_cache(), make_cache()
        fence = cache.fence("k", {"t", "u"})
        assert fence.is_current()
        other.invalidate_by_tags(["u"])
        assert not fence.is_current()
        assert cache.set_if("k", CacheEntry("k", 1, tags={"t"}), fence) is False
        fence = cache.fence("j")
        other.delete("j")
        assert cache.set_if("j", CacheEntry("j", 1), fence) is False

    def test_put_where_something_is_expected(self, cache: RedisCache) -> None:
        """It changes nothing if the token is another one, and says yes twice to one write."""
        first, second, third = cache.successor(), cache.successor(), cache.successor()
        assert cache.put("k", CacheEntry("k", 1), first) is True
        assert cache.put("k", CacheEntry("k", 2), second, expect=third) is False
        assert cache.get_value("k") == 1
        assert cache.put("k", CacheEntry("k", 2), second, expect=first) is True
        assert cache.put("k", CacheEntry("k", 2), second, expect=first) is True, "a retry of the same"
        assert cache.put("k", CacheEntry("k", 3), third, expect=first) is False
        assert cache.get_value("k") == 2
        cache.delete("k")
        assert cache.put("k", CacheEntry("k", 3), third, expect=second) is False

    @pytest.mark.parametrize("taken", ["before", "meanwhile"])
    def test_a_load_beside_a_pattern(self, make_cache: MakeCache, taken: str) -> None:
        """What is loaded while the scan runs is refused, whether its tokens are older or from meanwhile."""
        cache, other = make_cache(), make_cache()
        before = other.origin("k1")
        answers: list[object] = []
        origins = [before]
        scan = cache._store.scan

        def scanned(pattern: Any) -> Any:
            yield from scan(pattern)
            # The place of this key has been passed.
            if taken == "before":
                answers.append(other.add("k1", CacheEntry("k1", "loaded"), before))
            else:
                origins.append(other.origin("k1"))

        store: Any = cache._store
        store.scan = scanned
        cache.invalidate_by_pattern("k")
        if taken == "meanwhile":
            answers.append(other.add("k1", CacheEntry("k1", "read before"), origins[-1]))
        assert answers == [False]
        assert other.get("k1") is None

    def test_wrong_origins(self, cache: RedisCache) -> None:
        """What is no origin, or lacks a tag, is refused by name."""
        with pytest.raises(TypeError, match="origin"):
            cache.put("k", CacheEntry("k", 1), None)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"\['u'\]"):
            cache.put("k", CacheEntry("k", 1, tags={"t", "u"}), Origin(1, {"t": 1}))
        with pytest.raises(ValueError, match="'k'"):
            cache.put_many({"k": CacheEntry("k", 1)}, {})
        with pytest.raises(TypeError, match="fence"):
            cache.set_if("k", CacheEntry("k", 1), None)  # type: ignore[arg-type]


class TestManyKeys:
    def test_many_keys(self, cache: RedisCache) -> None:
        """Reading, writing and removing many is reading, writing and removing each."""
        entries = {f"k{number}": CacheEntry(f"k{number}", number, tags={"t"}) for number in range(1200)}
        origins = cache.origins(list(entries), frozenset({"t"}))
        assert len(origins) == 1200
        cache.put_many(entries, origins)
        found = cache.get_many([*entries, "missing"])
        assert {key: entry.value for key, entry in found.items()} == {
            key: entry.value for key, entry in entries.items()
        }
        assert (cache.get_stats().hits, cache.get_stats().misses) == (1200, 1)
        assert cache.size() == 1200
        assert cache.remove_many(["k0", "missing", "k1"]) == ["k0", "k1"]
        assert cache.size() == 1198
        stats = cache.get_stats()
        assert (stats.sets, stats.deletes, stats.size) == (1200, 2, 1198)

    def test_none_at_all(self, cache: RedisCache) -> None:
        """No keys, no question."""
        assert cache.get_many([]) == {}
        assert cache.origins([]) == {}
        cache.put_many({}, {})
        assert cache.add_many({}, {}) == {}
        assert cache.remove_many([]) == []
        assert cache.invalidate_by_tags([]) == 0

    def test_put_many_with_entries_that_are_over(self, make_cache: MakeCache) -> None:
        """They remove their keys, as set does."""
        cache = make_cache(clock=ManualClock())
        cache.set_value("a", 1)
        entries = {"a": CacheEntry("a", 2, ttl=0), "b": CacheEntry("b", 2, 0)}
        cache.put_many(entries, {key: cache.successor() for key in entries})
        assert cache.keys() == ["b"]

    def test_round_trips(self, cache: RedisCache, client: Any) -> None:
        """One for an untagged key, two for a tagged one, however many keys."""
        cache.set_value("k", 1)
        cache.set_value("t", 1, tags={"x", "y"})
        cache.delete("warm the scripts")
        origin = cache.origin("k")
        cache.add("k", CacheEntry("k", 1), origin)
        entries = {key: CacheEntry(key, 1) for key in ("a", "b")}
        origins = {key: cache.successor() for key in entries}
        asked: dict[str, Callable[[], object]] = {
            "GET": lambda: cache.get("k"),
            "GET MGET": lambda: cache.get("t"),
            "MGET": lambda: cache.get_many(["k", "a"]),
            "MGET MGET": lambda: cache.get_many(["k", "t"]),
            "EVALSHA": lambda: cache.set_value("k", 1),
            "EVALSHA EVALSHA": lambda: cache.set_value("t", 1, ttl=60, tags={"x", "y"}),
            "EVALSHA PERSIST PERSIST EVALSHA": lambda: cache.set_value("t", 1, tags={"x", "y"}),
        }
        for expected, work in asked.items():
            assert " ".join(commands_of(client, work)) == expected
        alone: list[Callable[[], object]] = [
            lambda: cache.delete("k"),
            lambda: cache.remove_many(["k", "a", "b"]),
            lambda: cache.put_many(entries, origins),
            lambda: cache.invalidate_by_tags({"x", "y"}),
            lambda: cache.origin("k", frozenset({"x", "y"})),
            lambda: cache.origins(["k", "a", "b"]),
            lambda: cache.add("k", CacheEntry("k", 1), origin),
        ]
        for work in alone:
            assert commands_of(client, work) == ["EVALSHA"]
        assert commands_of(client, cache.successor) == []


class TestTouch:
    def test_it_prolongs(self, make_cache: MakeCache, client: Any, prefix: str) -> None:
        """The value, its tags and its age stay; its end, and the server's, move."""
        clock = ManualClock()
        cache = make_cache(clock=clock)
        cache.set_value("k", "v", ttl=10, tags={"t"})
        clock.advance(6)
        origin = cache.origin("k")
        assert cache.touch("k", 100) is True
        entry = cache.get("k")
        assert entry is not None
        assert (entry.value, entry.ttl) == ("v", 106)
        assert entry.tags == {"t"}
        assert client.pttl(value_name(client, prefix, "k")) > 90_000
        assert cache.origin("k") != origin, "a touch is a write"
        cache.invalidate_by_tags({"t"})
        assert cache.get("k") is None
        assert cache.touch("k", 100) is False
        assert cache.touch("missing") is False

    def test_zero_removes(self, cache: RedisCache) -> None:
        """A touch that leaves nothing is a delete."""
        cache.set_value("k", 1)
        assert cache.touch("k", 0) is True
        assert cache.get("k") is None

    def test_it_does_not_undo_a_write(self, make_cache: MakeCache) -> None:
        """A set between its reading and its writing wins, and is what is prolonged."""
        cache, other = make_cache(), make_cache()
        cache.set_value("k", "old")
        put = cache._store.put
        calls = 0

        def interfered(*arguments: Any, **more: Any) -> bool:
            nonlocal calls
            calls += 1
            if calls == 1:
                other.set_value("k", "new", ttl=5)
            return put(*arguments, **more)

        store: Any = cache._store
        store.put = interfered
        assert cache.touch("k", 500) is True
        entry = cache.get("k")
        assert entry is not None
        assert entry.value == "new"
        assert entry.ttl is not None
        assert entry.ttl > 490


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


class TestConfiguration:
    @pytest.mark.parametrize(
        ("arguments", "error", "words"),
        [
            ({"host": 5}, TypeError, "host must be a str, not 5"),
            ({"host": "redis://h"}, ValueError, "goes into url="),
            ({"host": ""}, ValueError, "host must not be empty"),
            ({"port": "6379"}, TypeError, "port must be an int, not '6379'"),
            ({"port": 0}, ValueError, "port must be 1 to 65535, not 0"),
            ({"db": -1}, ValueError, "db must be 0 to"),
            ({"key_prefix": ""}, ValueError, "key_prefix must not be empty"),
            ({"key_prefix": "{a}"}, ValueError, "braces"),
            ({"key_prefix": 5}, TypeError, "key_prefix must be a str"),
            ({"timeout": 0}, ValueError, "timeout must be more than 0"),
            ({"timeout": "1"}, TypeError, "timeout must be seconds"),
            ({"default_ttl": 0}, ValueError, "default_ttl must be more than 0"),
            ({"secret": "short"}, ValueError, "secret must be at least 16 bytes"),
            ({"allow": Point}, TypeError, "allow must be a list"),
            ({"codec": "yaml"}, ValueError, "codec must be"),
            ({"url": "http://h"}, ValueError, "url must be redis://"),
            ({"url": "redis://h?no_such_option=1"}, ValueError, "url must be redis://"),
            ({"url": "redis://h?socket_timeout=soon"}, ValueError, "url must be redis://"),
            ({"url": "redis://" + "h" * 70}, ValueError, "url must be redis://"),
            ({"host": "h" * 70}, ValueError, "looked up"),
            ({"host": "h:6380"}, ValueError, r"write RedisCache\('h', 6380\)"),
            ({"url": 5}, TypeError, "url must be a str"),
            ({"url": "redis://h", "port": 5}, ValueError, "leave out host, port"),
            ({"client": object()}, TypeError, "client must be a redis.Redis"),
            ({"client": redis.asyncio.Redis()}, TypeError, "not one of redis.asyncio"),
            ({"client": redis.Redis(decode_responses=True)}, ValueError, "decode_responses"),
            ({"client": redis.Redis(cache_config=CacheConfig())}, ValueError, "cache_config"),
            ({"client": redis.Redis().pipeline()}, TypeError, "not a pipeline"),
            ({"client": redis.Redis(), "host": "h"}, ValueError, "knows its server already"),
        ],
    )
    def test_wrong_arguments(self, arguments: Any, error: type[Exception], words: str) -> None:
        """Each is refused by name, when the cache is made."""
        with pytest.raises(error, match=words):
            RedisCache(**arguments)

    @pytest.mark.parametrize("nodes", [[], "host", [("h",)], ["h:1"], [("h", "1")], None])
    def test_wrong_nodes(self, nodes: Any) -> None:
        """So is a Cluster that is none."""
        with pytest.raises(TypeError, match=r"nodes must be|port must be"):
            RedisCache.cluster(nodes)

    @pytest.mark.parametrize(
        "url",
        [
            "redis://user:hunter2@h:port",
            "redis://:hun/ter2@h",
            "http://:hunter2@h",
            "redis://:hunter2@h:99999",
        ],
    )
    def test_a_wrong_url_is_not_repeated(self, url: str) -> None:
        """There may be a password in it."""
        with pytest.raises(ValueError, match="url must be") as caught:
            RedisCache(url=url)
        assert "hun" not in str(caught.value)
        assert caught.value.__cause__ is None

    def test_passwords_are_not_shown(self) -> None:
        """Not in repr, str or what is raised."""
        server = RedisServer("--requirepass", "hunter2-hunter2")
        try:
            url = server.url.replace("//", "//:hunter2-hunter2@")
            for cache in (RedisCache(url=url), RedisCache(url=server.url, password="hunter2-hunter2")):
                with cache:
                    cache.set_value("k", 1)
                    assert cache.get_value("k") == 1
                    assert "hunter2" not in repr(cache) + repr(cache._address) + str(cache._server)
            for wrong in (
                RedisCache(url=url.replace("2@", "3@")),
                RedisCache(url=server.url, password="wrong-word"),
            ):
                with wrong, pytest.raises(TierUnavailableError) as caught:
                    wrong.get("k")
                assert "Authentication" in str(caught.value)
                cause: BaseException | None = caught.value
                while cause is not None:
                    assert "hunter2" not in str(cause)
                    assert "wrong-word" not in str(cause)
                    cause = cause.__cause__
        finally:
            server.close()

    def test_a_unix_socket(self) -> None:
        """unix:// works too."""
        server = RedisServer()
        try:
            with RedisCache(url=f"unix://{server.directory}/socket") as cache:
                cache.set_value("k", 1)
                assert cache.get_value("k") == 1
        finally:
            server.close()

    def test_options_in_the_url(self, make_cache: MakeCache, redis_url: str) -> None:
        """What redis-py takes there, the cache takes; but values stay bytes."""
        options = "max_connections=2&timeout=3&socket_timeout=4&protocol=2&decode_responses=True"
        cache = make_cache(url=f"{redis_url}?{options}")
        cache.put_many({"k": CacheEntry("k", b"\xff")}, {"k": cache.successor()})
        assert cache.get_value("k") == b"\xff"
        assert cache.keys() == ["k"]
        assert cache._server._ways().client.connection_pool.max_connections == 2

    def test_it_pickles_as_its_configuration(self, make_cache: MakeCache) -> None:
        """A copy speaks to the same keys of the same server."""
        cache = make_cache(default_ttl=50, allow=[Point])
        cache.set_value("k", Point(1))
        with pickle.loads(pickle.dumps(cache)) as copy:
            assert copy.get_value("k") == Point(1)
            assert (copy.key_prefix, copy.default_ttl) == (cache.key_prefix, 50)

    def test_what_does_not_pickle(self, make_cache: MakeCache, client: Any) -> None:
        """A secret stays where it is, and so does a connection."""
        with pytest.raises(TypeError, match="secret"):
            pickle.dumps(make_cache(secret=SECRET))
        with pytest.raises(TypeError, match="client"):
            pickle.dumps(make_cache(client=client))

    def test_making_one_connects_to_nothing(self) -> None:
        """Nor does asking for figures, a token, or closing it."""
        cache = RedisCache("192.0.2.1")
        assert cache.get_stats().to_dict()["size"] == 0
        assert cache.successor().token > 0
        assert "192.0.2.1:6379/0" in repr(cache)
        cache.close()
        cache.close()

    def test_a_client_is_left_open(self, make_cache: MakeCache, redis_url: str) -> None:
        """Who made it closes it; the cache is closed all the same."""
        client = redis.Redis.from_url(redis_url)
        cache = make_cache(client=client)
        cache.set_value("k", 1)
        cache.close()
        assert client.ping()
        closed: list[Callable[[], object]] = [
            lambda: cache.get("k"),
            lambda: cache.get_many(["k"]),
            lambda: cache.get_many([]),
            lambda: "k" in cache,
            cache.keys,
            cache.size,
            cache.clear,
            cache.renew,
            cache.successor,
            lambda: cache.fence("k"),
            lambda: cache.touch("k"),
            lambda: cache.invalidate_by_tags({"t"}),
            lambda: cache.invalidate_by_pattern("k"),
            lambda: cache.subscribe(None),  # type: ignore[arg-type]
        ]
        for call in closed:
            with pytest.raises(CacheClosedError):
                call()
        client.close()

    def test_arguments_of_methods(self, cache: RedisCache) -> None:
        """Keys are str, tags a set of them, several keys no single str."""
        with pytest.raises(TypeError, match="key must be a str"):
            cache.get(5)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="several keys"):
            cache.get_many("abc")
        with pytest.raises(TypeError, match="tags must be"):
            cache.invalidate_by_tags("abc")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="entry must be a CacheEntry"):
            cache.set("k", "value")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="ttl must be"):
            cache.touch("k", "5")  # type: ignore[arg-type]


def test_scripts_are_read_before_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that is forked while another thread reads one would find the import system locked for ever."""
    monkeypatch.delattr(scripts, "files")
    assert all(scripts.script(name).text for name in ("put", "add", "remove", "tokens"))
