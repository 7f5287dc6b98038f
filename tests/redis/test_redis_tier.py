"""RedisCache as users and caches use it: values, fences, many keys, and what lies on the server."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import inside
import pytest
from redis_looks import Point, arguments_of, commands_of, names_under, value_name
from same import same

from cachekit import CacheEntry, IntelligentCache
from cachekit.errors import SerializationError, ValueTooLargeError
from cachekit.model.display import shown_tags
from cachekit.model.types import FOREVER
from cachekit.testing import ManualClock
from cachekit.tiers.fences import ServerTokens
from cachekit.tiers.redis.tier import RedisCache
from cachekit.tiers.server_methods import values_of

MakeCache = Callable[..., RedisCache]

SECRET = "a secret of the whole fleet"


pytestmark = pytest.mark.usefixtures("few_buckets")


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
        other = make_cache()
        assert other.get("k") is None
        assert (other.get_stats().misses, other.get_stats().errors) == (1, 1)

    def test_an_oversized_value(self, cache: RedisCache) -> None:
        """It is refused before anything is sent, with both sizes in the message."""
        with pytest.raises(ValueTooLargeError, match=r"at most 67108864 bytes.*6710\d{4}"):
            cache.set_value("k", bytes(64 << 20))
        assert cache.get_stats().errors == 0
        assert cache.get("k") is None

    def test_other_codecs(self, make_cache: MakeCache) -> None:
        """JSON is read as JSON; what another codec wrote is a miss."""
        make_cache(codec="json", compression=None).set_value("k", {"a": (1,)})
        assert make_cache(codec="json").get_value("k") == {"a": (1,)}
        assert make_cache().get("k") is None


class TestFleetFences:
    """Origins: what the server said of key and tags, and what it lets in behind them."""

    def test_put_makes_its_token_the_keys(self, cache: RedisCache) -> None:
        """So what is read after it may be kept under that token."""
        origin = cache.successor(frozenset({"t"}))
        cache.put("k", CacheEntry("k", 1, tags={"t"}), origin)
        assert cache.origin("k", frozenset({"t"})) == origin

    def test_add_behind_a_current_origin(self, make_cache: MakeCache) -> None:
        """It stores, changes no token, and the second caller is given what is there."""
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
        assert inside.redis_store(cache).add({"k": write}) == {"k": True}
        assert inside.redis_store(cache).add({"k": write}) == {"k": True}

    def test_add_behind_a_broken_origin(self, subtests: pytest.Subtests, make_cache: MakeCache) -> None:
        """What another cache did since then refuses it, and counts."""
        rows: list[Callable[[RedisCache], object]] = [
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
        ]
        for happens in rows:
            with subtests.test(happens=happens):
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
        scan = inside.redis_store(cache).scan

        def scanned(pattern: Any) -> Any:
            yield from scan(pattern)
            # The place of this key has been passed.
            if taken == "before":
                answers.append(other.add("k1", CacheEntry("k1", "loaded"), before))
            else:
                origins.append(other.origin("k1"))

        store: Any = inside.redis_store(cache)
        store.scan = scanned
        cache.invalidate_by_pattern("k")
        if taken == "meanwhile":
            answers.append(other.add("k1", CacheEntry("k1", "read before"), origins[-1]))
        assert answers == [False]
        assert other.get("k1") is None

    def test_wrong_origins(self, cache: RedisCache) -> None:
        """One that lacks a tag is refused, which the error names; so is what is no fence."""
        with pytest.raises(ValueError, match=f"take it with {shown_tags({'u'})} too"):
            cache.put("k", CacheEntry("k", 1, tags={"t", "u"}), ServerTokens(1, {"t": 1}))
        with pytest.raises(TypeError, match="fence"):
            cache.set_if("k", CacheEntry("k", 1), None)  # type: ignore[arg-type]


class TestManyKeys:
    def test_tokens_of_many_keys_take_many_steps(self, cache: RedisCache, client: Any) -> None:
        """However many keys there are, others get their turn in between; each key has its own token still."""
        keys = [f"k{number}" for number in range(1000)]
        origins: dict[str, ServerTokens] = {}
        sizes = [
            int(arguments[2])
            for arguments in arguments_of(
                client, lambda: origins.update(cache.origins(keys, frozenset({"t"})))
            )
            if arguments[0] == "EVALSHA"
        ]
        assert max(sizes) <= 250
        assert list(origins) == keys
        for key in keys[::100]:
            assert cache.origin(key, frozenset({"t"})) == origins[key]

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

    @pytest.mark.parametrize("secret", [None, SECRET])
    def test_values_of_many_keys(
        self, make_cache: MakeCache, client: Any, prefix: str, secret: str | None
    ) -> None:
        """`values_of` gets the values of what `get_many` returns, of every kind, and counts as it."""
        clock = ManualClock()
        cache = make_cache(secret=secret, clock=clock, allow=[Point])
        for number, value in enumerate([1, None, "й" * 5000, b"x" * 100_000, Point(1), {"a": [1, (2,)]}]):
            cache.set_value(f"plain{number}", value)
        cache.set_value("a\udc80", "surrogate")
        cache.set_value("tagged", 2, tags=["t"])
        cache.set_value("invalidated", 3, tags=["u"])
        cache.invalidate_by_tags(["u"])
        cache.set("stale", CacheEntry("stale", 4, clock.time(), ttl=50, stale_ttl=50))
        cache.set_value("expired", 5, ttl=5)
        make_cache(secret="another secret of a fleet").set_value("signed", 6)
        for name, stored in (("damaged", b"CK\1\0"), ("foreign", b"1")):
            cache.set_value(name, 0)
            client.set(value_name(client, prefix, name), stored)
        clock.advance(10)
        get_values = values_of(cache)
        assert get_values is not None
        keys = [*sorted(cache.keys()), "missing", "expired", "invalidated", "signed", "damaged", "foreign"]
        before = cache.get_stats()
        entries = cache.get_many(keys)
        between = cache.get_stats()
        values = get_values(keys)
        after = cache.get_stats()
        assert same(values, {key: entry.value for key, entry in entries.items()})
        assert sorted(values) == ["a\udc80", *(f"plain{number}" for number in range(6)), "stale", "tagged"]
        for figure in ("hits", "misses", "errors"):
            assert after[figure] - between[figure] == between[figure] - before[figure], figure
        assert (after.hits - between.hits, after.misses - between.misses) == (9, 6)
        with IntelligentCache(memory_cache=None, redis_cache=cache, file_cache=None) as above:
            assert same(above.get_many(keys), {key: values[key] for key in keys if key in values})
            assert list(above.get_many(keys)) == [key for key in keys if key in values]
            stats = above.get_stats()["combined"]
            assert (stats.request_hits, stats.requests) == (18, 30)

    def test_a_get_many_of_ones_own(self, make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch) -> None:
        """A cache without memory calls what a subclass, or a test, has put in place of `get_many`."""
        cache = make_cache()
        cache.set_value("k", 1)
        asked: list[object] = []
        get_many = RedisCache.get_many

        def counting(self: RedisCache, keys: Any) -> dict[str, CacheEntry]:
            asked.append(keys)
            return get_many(self, keys)

        with IntelligentCache(memory_cache=None, redis_cache=cache, file_cache=None) as above:
            monkeypatch.setattr(RedisCache, "get_many", counting)
            assert above.get_many(["k", "l"]) == {"k": 1}
            assert asked == [["k", "l"]]
            monkeypatch.undo()
            assert above.get_many(["k", "l"]) == {"k": 1}
            assert len(asked) == 1

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
        """One for an untagged key, two for a tagged one that was not foreseen, however many keys."""
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
            "EVALSHA EVALSHA": lambda: cache.set_value("t", 1, tags={"x", "new"}),
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
        for _ in range(2):  # the first time, the tokens are read that the invalidation has removed
            cache.set_value("t", 2, tags={"x", "y"})
            assert commands_of(client, lambda: cache.set_value("t", 1, tags={"x"})) == ["EVALSHA"]


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
        replace: Callable[..., bool] = inside.redis_store(cache).replace
        calls = 0

        def interfered(*arguments: Any, **more: Any) -> int:
            nonlocal calls
            calls += 1
            if calls == 1:
                other.set_value("k", "new", ttl=60)
            return replace(*arguments, **more)

        store: Any = inside.redis_store(cache)
        store.replace = interfered
        assert cache.touch("k", 500) is True
        entry = cache.get("k")
        assert entry is not None
        assert entry.value == "new"
        assert entry.ttl is not None
        assert entry.ttl > 490
