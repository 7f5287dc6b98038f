"""The memcached tier: the suite of all tiers, outages, limits and what an IntelligentCache makes of it."""

from __future__ import annotations

import math
import pickle
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from forking import in_fork
from memcached_server import MemcachedServer
from redis_server import wait_until

from cachekit import CacheEntry, FileCache, IntelligentCache, LoadOptions, MemcachedCache, MemoryCache
from cachekit.errors import SerializationError, TierUnavailableError, ValueTooLargeError
from cachekit.testing import ManualClock, TierContract
from cachekit.tiers.base import ServerTier
from cachekit.tiers.memcached.store import MemcachedStore
from cachekit.tiers.polled import PolledTier


@pytest.fixture(scope="module")
def server() -> Iterator[MemcachedServer]:
    with MemcachedServer() as started:
        yield started


class TestMemcachedTier(TierContract):
    lists_keys = False

    @pytest.fixture(autouse=True)
    def _place(self, server: MemcachedServer, prefix: str) -> None:
        self.servers, self.prefix = [server.address], prefix

    def make_tier(self, clock: ManualClock) -> MemcachedCache:
        return MemcachedCache(self.servers, self.prefix, timeout=60, clock=clock)

    def test_it_is_a_server_tier(self) -> None:
        with MemcachedCache(self.servers) as cache:
            assert isinstance(cache, ServerTier)


class TestTwoServers(TestMemcachedTier):
    @pytest.fixture(autouse=True)
    def _place(self, server: MemcachedServer, prefix: str) -> Iterator[None]:
        with MemcachedServer() as other:
            self.servers, self.prefix = [server.address, other.address], prefix
            yield


@pytest.fixture
def caches(server: MemcachedServer, prefix: str) -> Iterator[tuple[MemcachedCache, MemcachedCache]]:
    with (
        MemcachedCache([server.address], prefix, timeout=60) as one,
        MemcachedCache([server.address], prefix, timeout=60) as two,
    ):
        yield one, two


Two = tuple[MemcachedCache, MemcachedCache]


def store_of(cache: PolledTier) -> MemcachedStore:
    assert isinstance(cache._store, MemcachedStore)
    return cache._store


def test_wrong_arguments(subtests: pytest.Subtests) -> None:
    """Each is refused by name."""
    rows: list[tuple[dict[str, Any], str]] = [
        ({"servers": "host"}, "servers must be a list such as"),
        ({"servers": 5}, "servers must be a list such as"),
        ({"servers": []}, "servers must be a list such as"),
        ({"servers": [("h", 0)]}, "each of servers must be a tuple"),
        ({"servers": ["h:1"]}, "each of servers must be a tuple"),
        ({"servers": [("h", 1), ("h", 1)]}, "servers must be different"),
        ({"key_prefix": ""}, "key_prefix must be 1 to 50 visible ASCII characters, not ''"),
        ({"key_prefix": "a b"}, "key_prefix must be"),
        ({"key_prefix": "x" * 51}, "key_prefix must be"),
        ({"key_prefix": 5}, "key_prefix must be a str"),
        ({"max_staleness": 0}, "max_staleness must be more than 0"),
        ({"timeout": 0}, "timeout must be more than 0"),
        ({"allow": int}, "allow must be a list of classes"),
        ({"secret": "short"}, "secret must be at least 16 bytes"),
    ]
    for arguments, words in rows:
        with subtests.test(words=words), pytest.raises((TypeError, ValueError), match=words):
            MemcachedCache(**arguments)


def test_loads_of_another_host(caches: Two, subtests: pytest.Subtests) -> None:
    """Each write and invalidation on one host refuses the loads in progress on another."""
    one, two = caches
    entry = CacheEntry("user:1", "loaded", tags={"t"})
    writes: dict[str, Callable[[], object]] = {
        "set": lambda: two.set_value("user:1", "new"),
        "delete": lambda: two.delete("user:1"),
        "tags": lambda: two.invalidate_by_tags({"t"}),
        "pattern": lambda: two.invalidate_by_pattern("user:"),
        "any pattern": lambda: two.invalidate_by_pattern(".*1"),
        "clear": two.clear,
        "touch": lambda: two.set_value("user:1", 1) and two.touch("user:1", 50),
    }
    for name, write in writes.items():
        with subtests.test(name=name):
            two.delete("user:1")
            origin = one.origin("user:1", frozenset({"t"}))
            write()
            assert one.add("user:1", entry, origin) is not True
            assert getattr(two.get("user:1"), "value", None) != "loaded"


def test_a_value_of_an_earlier_generation_stays_dead(caches: Two) -> None:
    """Nothing brings it back, nor a load that began before."""
    one, two = caches
    one.set_value("user:1", "old", tags={"t"})
    drops: list[Callable[[], object]] = [
        two.clear,
        lambda: two.invalidate_by_tags({"t"}),
        lambda: two.invalidate_by_pattern("user:"),
    ]
    for drop in drops:
        one.set_value("user:1", "old", tags={"t"})
        origin = one.origin("user:1", frozenset({"t"}))
        drop()
        assert one.get("user:1") is None
        assert one.touch("user:1") is False
        assert one.add("user:1", CacheEntry("user:1", "old", tags={"t"}), origin) is False
        assert one.create("user:1", CacheEntry("user:1", "new"), one.successor()) is True
        assert two.get_value("user:1") == "new"


def test_evicted_items(server: MemcachedServer, prefix: str) -> None:
    """Whatever the server drops is a miss, and lets no older load in."""
    with MemcachedCache([server.address], prefix, timeout=60) as cache:
        client = store_of(cache)._clients[server.address]
        for name in (
            cache._names.of_key("a:k"), cache._names.of_generation(), cache._names.of_segment("a"),
            cache._names.of_tag("t"),
        ):  # fmt: skip
            cache.set_value("a:k", "old", tags={"t"})
            origin = cache.origin("a:k", frozenset({"t"}))
            assert client.delete(name)
            assert cache.get("a:k") is None
            assert cache.add("a:k", CacheEntry("a:k", "old", tags={"t"}), origin) is False
            cache.set_value("a:k", "new", tags={"t"})
            assert cache.get_value("a:k") == "new"


def test_what_no_cache_wrote(server: MemcachedServer, prefix: str) -> None:
    """Other bytes, and another key's value, are misses and count as errors; writes replace them."""
    with MemcachedCache([server.address], prefix, timeout=60) as cache:
        client = store_of(cache)._clients[server.address]
        name = cache._names.of_key("k")
        cache.set_value("other", 1)
        stolen = client.get(cache._names.of_key("other"))
        for data in (b"", b"V", b"T12345678+", b"x" * 30, b"V12345678" + b"junk", stolen):
            client.set(name, data)
            errors = cache.get_stats().errors
            assert cache.get("k") is None, data
            assert cache.get_stats().errors == errors + 1
            fence = cache.fence("k")
            assert cache.set_if("k", CacheEntry("k", 2), fence), data
            assert cache.get_value("k") == 2


class Numbers:
    """A codec for numbers, of which an older version encodes no large ones."""

    name = "numbers"
    code = 200

    def __init__(self, most: float = math.inf) -> None:
        self._most = most

    def encode(self, value: Any) -> bytes:
        if value > self._most:
            raise SerializationError(f"the number must be at most {self._most}")
        return str(value).encode()

    def decode(self, payload: bytes | memoryview) -> Any:
        return int(bytes(payload))


def test_a_value_that_cannot_be_stored_again(server: MemcachedServer, prefix: str) -> None:
    """It can be read, and counts as an error where its life would be prolonged."""
    with (
        MemcachedCache([server.address], prefix, timeout=60, codec=Numbers()) as newer,
        MemcachedCache([server.address], prefix, timeout=60, codec=Numbers(10)) as older,
    ):
        newer.set_value("k", 10)
        assert older.touch("k", 60)
        newer.set_value("k", 11)
        assert older.get_value("k") == 11
        assert older.touch("k", 60) is False
        assert older.get_stats().errors == 1


def test_values_that_are_too_large(server: MemcachedServer, prefix: str) -> None:
    """They are refused by name, and the older value does not stay."""
    with MemcachedCache([server.address], prefix, timeout=60, compression=None) as cache:
        cache.set_value("k", "old")
        with pytest.raises(ValueTooLargeError, match="its option -I"):
            cache.set_value("k", b"x" * (2 << 20))
        assert cache.get("k") is None
        with IntelligentCache(None, cache, file_cache=None, close_tiers=False) as over:
            assert over.get_or_set("large", lambda: b"x" * (2 << 20)) == b"x" * (2 << 20)


def test_a_full_server(prefix: str) -> None:
    """It evicts, tokens too; that costs hits alone."""
    with (
        MemcachedServer("-m", "8", "-I", "512k") as small,
        MemcachedCache([small.address], prefix, timeout=60, compression=None) as cache,
    ):
        for number in range(300):
            cache.set_value(f"a:{number}", str(number).encode() * 20_000, tags={f"t{number % 7}"})
            if number % 10 == 0:
                cache.invalidate_by_tags({"t3"})
                assert all(cache.get(f"a:{one}") is None for one in range(3, number + 1, 7)), (
                    "an invalidated value came back"
                )
        values = [cache.get_value(f"a:{number}") for number in range(300)]
        assert all(value in (None, str(number).encode() * 20_000) for number, value in enumerate(values))


def test_an_outage(prefix: str) -> None:
    """A cache goes on without it, keeps its invalidations for it, and is back by itself."""
    with MemcachedServer() as server:
        tier = MemcachedCache([server.address], prefix)
        with IntelligentCache(None, tier, file_cache=None) as cache:
            cache.set("k", "old")
            server.signal(signal.SIGSTOP)
            with pytest.raises(TierUnavailableError, match=r"memcached at 127\.0\.0\.1"):
                tier.peek("k")
            assert cache.get_or_set("other", lambda: 1) == 1
            cache.delete("k")  # the server does not learn of it yet
            server.signal(signal.SIGCONT)
            wait_until(lambda: cache.set("back", 1) and tier.peek("back"), "the tier is back")
            assert cache.get("k") is None
            server.kill()
            assert cache.get_or_set("other", lambda: 2) == 2
            server.start()
            wait_until(lambda: cache.set("back", 1) and tier.peek("back"), "the tier is back")


def test_copies_in_memory_end_with_max_staleness(server: MemcachedServer, prefix: str) -> None:
    """Other hosts are not notified, so their copies are dropped again and again."""
    with (
        MemcachedCache([server.address], prefix, timeout=60, max_staleness=0.2) as tier,
        MemcachedCache([server.address], prefix, timeout=60) as other,
        IntelligentCache(MemoryCache(), tier, file_cache=None) as cache,
    ):
        other.set_value("k", "old")
        assert cache.get("k") == "old"
        other.set_value("k", "new")
        wait_until(lambda: cache.get("k") == "new", "the copy is dropped")


def test_caches_of_one_process(caches: Two) -> None:
    """Those over one tier see each other's writes at once."""
    tier, _ = caches
    with (
        IntelligentCache(MemoryCache(), tier, file_cache=None, close_tiers=False) as one,
        IntelligentCache(MemoryCache(), tier, file_cache=None, close_tiers=False) as two,
    ):
        one.set("k", 1, tags={"t"})
        assert two.get("k") == 1
        one.set("k", 2, tags={"t"})
        assert two.get("k") == 2
        one.invalidate_by_tags({"t"})
        assert two.get("k") is None


def test_leases(caches: Two) -> None:
    """One holder at a time, and one load per key among hosts."""
    one, two = caches
    held = one.lease("k", 60)
    assert held is not None
    assert two.lease("k", 60) is None
    held.release()
    again = two.lease("k", 60)
    assert again is not None
    held.release()  # which is another holder's by now
    assert one.lease("k", 60) is None
    again.release()
    with IntelligentCache(None, one, file_cache=None, close_tiers=False) as cache:
        assert cache.get_or_set("loaded", lambda: 1, load=LoadOptions(lease="fleet")) == 1


def test_files_below(caches: Two, tmp_path: Any) -> None:
    """Copies in files are compared with the server, and go back to it."""
    tier, other = caches
    with FileCache(tmp_path) as files, IntelligentCache(None, tier, files, close_tiers=False) as cache:
        cache.set("user:1", "old", tags={"t"})
        drops: list[Callable[[], object]] = [
            other.clear,
            lambda: other.invalidate_by_tags({"t"}),
            lambda: other.delete("user:1"),
        ]
        for drop in drops:
            cache.set("user:1", "old", tags={"t"})
            drop()
            assert cache.get("user:1") is None, "a copy in a file outlived an invalidation of another host"
        cache.set("user:1", "kept")
        other.invalidate_by_pattern("page:")
        assert files.get("user:1") is not None
        assert cache.get("user:1") == "kept"


def test_it_pickles_as_its_configuration(caches: Two, server: MemcachedServer) -> None:
    """A copy speaks to the same keys of the same servers; a secret stays where it is."""
    tier, _ = caches
    tier.set_value("k", 1)
    with pickle.loads(pickle.dumps(tier)) as copy:
        assert copy.get_value("k") == 1
        assert (copy.key_prefix, copy.max_staleness, copy.default_ttl) == (tier.key_prefix, 5.0, None)
        assert repr(copy) == repr(tier)
    with MemcachedCache([server.address], secret="a secret of the fleet") as signed:
        with pytest.raises(TypeError, match="secret"):
            pickle.dumps(signed)
        assert "a secret" not in repr(signed)


def test_a_signed_tier(server: MemcachedServer, prefix: str) -> None:
    """What is not signed with its secret is a miss."""
    with (
        MemcachedCache([server.address], prefix, timeout=60) as unsigned,
        MemcachedCache([server.address], prefix, timeout=60, secret="a secret of the fleet") as signed,
    ):
        unsigned.set_value("k", 1)
        assert signed.get("k") is None
        assert signed.get_stats().errors == 1
        signed.set_value("k", 2)
        assert signed.get_value("k") == 2
        assert unsigned.get("k") is None


def test_after_a_fork(caches: Two) -> None:
    """The child has connections of its own."""
    tier, other = caches
    tier.set_value("k", 1)
    assert in_fork(lambda: tier.set_value("k", 2))() == 0
    assert tier.get_value("k") == other.get_value("k") == 2
