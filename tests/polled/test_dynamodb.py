"""The DynamoDB tier: the suite of all tiers, that of servers without messages, limits and refusals."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from threading import Barrier
from typing import Any

import pytest
from dynamodb_server import REGION, TABLE, DynamoDBServer
from forking import in_fork
from fresh_imports import SITE_PACKAGES, run
from polled_servers import Hook, PolledServerTests, Server
from redis_server import wait_until
from throttling_proxy import ThrottlingProxy

from cachekit import CacheEntry, DynamoDBCache, IntelligentCache, LoadOptions, MemoryCache
from cachekit.errors import TierUnavailableError, ValueTooLargeError
from cachekit.testing import ManualClock, TierContract
from cachekit.tiers.base import ServerTier
from cachekit.tiers.dynamodb.store import _LARGEST, DynamoDBStore
from cachekit.tiers.polled import PolledTier
from cachekit.tiers.socket_options import DISCARD_UNSENT


@pytest.fixture(scope="module")
def server() -> Iterator[DynamoDBServer]:
    with DynamoDBServer() as started:
        yield started


class TestDynamoDBTier(TierContract):
    lists_keys = False

    @pytest.fixture(autouse=True)
    def _place(self, server: DynamoDBServer, prefix: str) -> None:
        self.server, self.prefix = server, prefix

    def make_tier(self, clock: ManualClock) -> DynamoDBCache:
        return DynamoDBCache(TABLE, self.prefix, **self.server.place, timeout=60, clock=clock)

    def test_it_is_a_server_tier(self) -> None:
        with self.make_tier(ManualClock()) as cache:
            assert isinstance(cache, ServerTier)


class TestDynamoDBServer(PolledServerTests):
    too_large = "DynamoDB takes 400 KB for an item"

    @pytest.fixture(autouse=True)
    def _place(self, server: DynamoDBServer) -> None:
        self.server = server

    def own_server(self) -> AbstractContextManager[Server]:
        return DynamoDBServer()

    def make(self, prefix: str, server: Any = None, **options: Any) -> PolledTier:
        place = (self.server if server is None else server).place
        return DynamoDBCache(TABLE, prefix, **{**place, "timeout": 60, **options})

    def lose(self, tier: PolledTier, name: str) -> None:
        client = client_of(tier)
        gone = client.delete_item(TableName=TABLE, Key={"k": {"S": name}}, ReturnValues="ALL_OLD")
        assert gone["Attributes"]

    @contextmanager
    def losing(self, prefix: str) -> Iterator[tuple[PolledTier, Callable[[Hook], None]]]:
        with proxied(self.server, prefix) as (proxy, tier):

            def lose(hook: Hook) -> None:
                proxy.on_loss, proxy.mode = hook, "lose"

            yield tier, lose

    def forge(self, tier: PolledTier, name: str, data: bytes) -> None:
        client_of(tier).put_item(TableName=TABLE, Item={"k": {"S": name}, "d": {"B": data}})


@contextmanager
def proxied(server: DynamoDBServer, prefix: str) -> Iterator[tuple[ThrottlingProxy, DynamoDBCache]]:
    """A tier behind a proxy."""
    with (
        ThrottlingProxy(server.endpoint) as proxy,
        DynamoDBCache(TABLE, prefix, region=REGION, endpoint=proxy.endpoint, timeout=60) as tier,
    ):
        yield proxy, tier


def client_of(tier: PolledTier) -> Any:
    assert isinstance(tier._store, DynamoDBStore)
    return tier._store._connected()


@pytest.fixture
def tier(server: DynamoDBServer, prefix: str) -> Iterator[DynamoDBCache]:
    with DynamoDBCache(TABLE, prefix, **server.place, timeout=60) as made:
        yield made


def test_wrong_arguments(subtests: pytest.Subtests) -> None:
    """Each is refused by name."""
    pytest.importorskip("boto3", reason="needs the extra dynamodb")
    rows: list[tuple[dict[str, Any], str]] = [
        ({"table": 5}, "table must be the name of a table, not 5"),
        ({"table": "ab"}, "table must be 3 to 255 letters"),
        ({"table": "a table"}, "table must be 3 to 255 letters"),
        ({"region": ""}, "region must not be empty"),
        ({"region": 5}, "region must be a str or None"),
        ({"endpoint": "localhost:8000"}, "endpoint must be a URL such as"),
        ({"endpoint": "http://host:99999"}, "endpoint must be a URL such as"),
        ({"endpoint": "http://host:port"}, "endpoint must be a URL such as"),
        ({"profile": b"x"}, "profile must be a str or None"),
        ({"key_prefix": ""}, "key_prefix must be 1 to 50 visible ASCII characters, not ''"),
        ({"max_staleness": 0}, "max_staleness must be more than 0"),
        ({"timeout": 0}, "timeout must be more than 0"),
        ({"allow": int}, "allow must be a list of classes"),
        ({"secret": "short"}, "secret must be at least 16 bytes"),
    ]
    for arguments, words in rows:
        with subtests.test(words=words), pytest.raises((TypeError, ValueError), match=words):
            DynamoDBCache(**{"table": TABLE, **arguments})
    with pytest.raises(ValueError, match="no user and password") as refused:
        DynamoDBCache(TABLE, endpoint="https://user:hunter2@host")
    assert "hunter2" not in str(refused.value)


def test_it_says_which_extra_it_needs() -> None:
    """Without boto3 the constructor says so, not the first call."""
    program = """
import sys
sys.modules["boto3"] = None
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "boto3" else real(name)
from cachekit import DynamoDBCache
try:
    DynamoDBCache("caches")
except ModuleNotFoundError as error:
    print(error)
"""
    expected = "DynamoDBCache needs boto3; install it with: pip install 'cachekit-tiered[dynamodb]'"
    assert run(program, SITE_PACKAGES) == expected


def test_making_it_loads_no_boto3() -> None:
    """The first call does."""
    pytest.importorskip("boto3", reason="needs the extra dynamodb")
    program = """
import sys
from cachekit import DynamoDBCache
tier = DynamoDBCache("caches", region="eu-central-1")
print(sorted({"boto3", "botocore", "urllib3", "socket"} & set(sys.modules)))
"""
    assert run(program, SITE_PACKAGES) == "[]"


def test_items_that_have_ended_count_as_absent(server: DynamoDBServer, prefix: str) -> None:
    """The table keeps them for days: a lease is free, and a token is another one."""
    clock = ManualClock()
    with DynamoDBCache(TABLE, prefix, **server.place, timeout=60, clock=clock) as tier:
        assert tier.lease("k", 10) is not None
        origin = tier.origin("k")
        clock.advance(9)
        assert tier.lease("k", 10) is None
        clock.advance(2)
        assert tier.lease("k", 10) is not None
        assert tier.fence("k").is_current()
        clock.advance(3600)
        assert tier.add("k", CacheEntry("k", "old", clock.time()), origin) is False
        assert tier.fence("k").is_current()
        tier.set_value("k", 1, ttl=5)
        item = client_of(tier).get_item(TableName=TABLE, Key={"k": {"S": tier._names.of_key("k")}})["Item"]
        assert clock.time() + 5 <= int(item["e"]["N"]) < clock.time() + 6
        tier.set_value("k", 1)
        item = client_of(tier).get_item(TableName=TABLE, Key={"k": {"S": tier._names.of_key("k")}})["Item"]
        assert "e" not in item


def test_the_largest_item(tier: DynamoDBCache) -> None:
    """What the tier takes, the table takes, also under a long name; one byte more is refused here."""
    store = tier._store
    name = "x" * 100
    store.write(name, b"x" * _LARGEST, 100)
    assert len(store.read([name])[name].data) == _LARGEST
    for call in (
        lambda: store.write(name, b"x" * (_LARGEST + 1), 100),
        lambda: store.add(name, b"x" * (_LARGEST + 1), 100),
        lambda: store.replace(name, b"x" * (_LARGEST + 1), 100, {"N": "1"}),
    ):
        with pytest.raises(ValueTooLargeError, match="399,001"):
            call()


def test_answers_in_parts(tier: DynamoDBCache) -> None:
    """A request is answered with 16 MB; the tier asks for the rest."""
    names = [f"{tier.key_prefix}{number}" for number in range(60)]
    for name in names:
        tier._store.write(name, b"x" * 390_000, 1000)
    assert sorted(tier._store.read(names)) == sorted(names)


def test_the_rights_that_it_needs(tier: DynamoDBCache) -> None:
    """Whatever is done with it, it makes requests of two kinds, and all reads are consistent."""
    sent: set[str] = set()
    consistent: list[bool] = []

    def note_read(params: dict[str, Any], **_: object) -> None:
        consistent.append(json.loads(params["body"])["RequestItems"][TABLE]["ConsistentRead"])

    client_of(tier).meta.events.register("before-call.dynamodb.BatchGetItem", note_read)
    client_of(tier).meta.events.register(
        "before-send.dynamodb", lambda event_name, **_: sent.add(event_name.rpartition(".")[2])
    )
    tier.ping()
    with IntelligentCache(MemoryCache(), tier, file_cache=None, close_tiers=False) as cache:
        assert cache.get_or_set("a:1", lambda: 1, tags={"t"}, load=LoadOptions(lease="fleet")) == 1
        cache.set_many({"a:2": 2, "a:3": 3}, tags={"t"})
        assert cache.add("a:4", 4)
        cache.update("a:4", lambda old: old + 1)
        assert tier.touch("a:4", 50)
        assert cache.get_many(["a:4", "a:9"]) == {"a:4": 5}
        cache.delete("a:4")
        cache.invalidate_by_tags({"t"})
        cache.invalidate_by_pattern("a:")
        cache.clear()
    assert sent == {"BatchGetItem", "PutItem"}
    assert len(consistent) > 10
    assert all(consistent)


def test_a_child_makes_a_client(tier: DynamoDBCache) -> None:
    """It must not use the sockets of its parent, nor locks that a thread of the parent holds."""
    parent = client_of(tier)

    def check() -> None:
        assert client_of(tier) is not parent
        tier.ping()

    assert in_fork(check)() == 0
    assert client_of(tier) is parent


def test_a_throttled_table(server: DynamoDBServer, prefix: str) -> None:
    """The tier is out until it answers again, and its invalidations are repeated then."""
    with ThrottlingProxy(server.endpoint) as proxy:
        tier = DynamoDBCache(TABLE, prefix, region=REGION, endpoint=proxy.endpoint, timeout=60)
        with IntelligentCache(None, tier, file_cache=None) as cache:
            assert cache.set("k", "old")
            proxy.mode = "refuse"
            before = proxy.requests
            with pytest.raises(TierUnavailableError, match="give the table more capacity"):
                tier.peek("k")
            assert proxy.requests == before + 1, "a throttled request was made again"
            assert cache.get_or_set("k", lambda: "new") == "new"
            cache.delete("k")
            before = proxy.requests
            assert [cache.get_or_set("k", lambda: "new") for _ in range(50)] == ["new"] * 50
            assert proxy.requests < before + 50, "the breaker let all calls through"
            proxy.mode = "off"
            wait_until(lambda: cache.set("back", 1), "the tier is back")
            assert tier.get("k") is None


def test_credentials_that_expire(
    server: DynamoDBServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are there by then are taken, without a new tier."""
    with proxied(server, prefix) as (proxy, tier):
        tier.set_value("k", 1)
        proxy.mode = "expire"
        with pytest.raises(TierUnavailableError, match="ExpiredTokenException"):
            tier.get("k")
        proxy.mode = "off"
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ANOTHER")
        assert tier.get_value("k") == 1
        assert proxy.users[-1] == "ANOTHER"
        assert proxy.users[0] != "ANOTHER"


def test_batches_that_are_throttled(server: DynamoDBServer, prefix: str) -> None:
    """Those that are answered in part are asked for again, a few times."""
    with proxied(server, prefix) as (proxy, tier):
        keys = [f"k:{number}" for number in range(20)]
        for key in keys:
            tier.set_value(key, key)
        proxy.mode = "halve"
        assert {key: entry.value for key, entry in tier.get_many(keys).items()} == {key: key for key in keys}
        proxy.mode = "leave"
        before = proxy.requests
        with pytest.raises(TierUnavailableError, match="left 20 of 20 items unread; it is throttled"):
            tier.get_many(keys)
        assert proxy.requests - before <= 8


def test_an_answer_that_is_cut(server: DynamoDBServer, prefix: str) -> None:
    """A read that gets no content is a failure of the tier, and no miss."""
    with proxied(server, prefix) as (proxy, tier):
        tier.set_value("k", 1)
        proxy.mode = "cut"
        with pytest.raises(TierUnavailableError, match="without content"):
            tier.get("k")
        proxy.mode = "off"
        assert tier.get_value("k") == 1


def test_its_connections_forget(server: DynamoDBServer, prefix: str) -> None:
    """What one has not sent when it is closed is never sent: it would be written over what is newer."""
    with proxied(server, prefix) as (proxy, tier):
        tier.ping()
        pool = client_of(tier)._endpoint.http_session._manager.connection_from_url(proxy.endpoint)
        (socket,) = [one.sock for one in pool.pool.queue if one is not None]
        option, name, wanted = DISCARD_UNSENT
        assert socket.getsockopt(option, name, len(wanted)) == wanted


def test_items_of_another_program(tier: DynamoDBCache) -> None:
    """Attributes of other kinds are no item of a cache; a write replaces them."""
    name = tier._names.of_key("k")
    for item in (
        {"d": {"S": "text"}},
        {"d": {"B": b"V"}, "e": {"S": "soon"}},
        {"d": {"B": b"V"}, "e": {"N": "1"}, "v": {"S": "one"}},
        {"v": {"M": {"a": {"N": "1"}}}},
        {},
    ):
        client_of(tier).put_item(TableName=TABLE, Item={"k": {"S": name}, **item})
        assert tier.get("k") is None
        fence = tier.fence("k")
        assert tier.set_if("k", CacheEntry("k", 2), fence), item
        assert tier.get_value("k") == 2


def test_refusals(server: DynamoDBServer, prefix: str) -> None:
    """A message says what is wrong with the table, and what is to be done."""
    client = server.client()
    client.create_table(
        TableName="other-key",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    for table, words in {
        "no-such-table": "make a table with the partition key k",
        "other-key": "the table must have the partition key k",
    }.items():
        with (
            DynamoDBCache(table, prefix, **server.place, timeout=60) as tier,
            pytest.raises(TierUnavailableError, match=words),
        ):
            tier.ping()


def test_what_boto3_does_not_find(
    server: DynamoDBServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A region, a profile or credentials: the tier is out, and says why. Credentials may come later."""
    rows: list[tuple[dict[str, Any], str]] = [
        ({}, "NoRegionError"),
        ({"region": REGION, "profile": "nobody"}, "ProfileNotFound"),
    ]
    for arguments, words in rows:
        monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
        with (
            DynamoDBCache(TABLE, prefix, **arguments) as tier,
            pytest.raises(TierUnavailableError, match=words),
        ):
            tier.ping()
    with monkeypatch.context() as patch, DynamoDBCache(TABLE, prefix, **server.place, timeout=60) as tier:
        patch.delenv("AWS_ACCESS_KEY_ID")
        with pytest.raises(TierUnavailableError, match="NoCredentialsError"):
            tier.ping()
        patch.undo()
        tier.ping()


def test_an_endpoint_that_boto3_refuses(server: DynamoDBServer, prefix: str) -> None:
    """The tier is out, and says why. A cache goes on without it."""
    with DynamoDBCache(TABLE, prefix, region=REGION, endpoint="http://a..b:80") as tier:
        with pytest.raises(TierUnavailableError, match="Invalid endpoint"):
            tier.ping()
        with IntelligentCache(None, tier, file_cache=None, close_tiers=False) as cache:
            assert cache.get_or_set("k", lambda: 1) == 1


def test_many_calls_at_a_time(tier: DynamoDBCache, caplog: pytest.LogCaptureFixture) -> None:
    """Each has a connection, and none is closed with a warning."""
    together = Barrier(50)

    def work(number: int) -> bool:
        together.wait()
        return all(tier.get(f"k:{number}") is None for _ in range(3))

    with ThreadPoolExecutor(50) as threads:
        assert all(threads.map(work, range(50)))
    assert not [one for one in caplog.messages if "pool is full" in one]


def test_a_request_is_made_once(server: DynamoDBServer, prefix: str) -> None:
    """boto3 repeats nothing: it would wait, and find its own first write."""
    with DynamoDBCache(TABLE, prefix, **server.place, timeout=0.25) as tier:
        sent: list[str] = []
        client_of(tier).meta.events.register(
            "before-send.dynamodb", lambda event_name, **_: sent.append(event_name)
        )
        server.signal(signal.SIGSTOP)
        try:
            with pytest.raises(TierUnavailableError, match="ReadTimeoutError"):
                tier.clear()
        finally:
            server.signal(signal.SIGCONT)
        assert sent == ["before-send.dynamodb.PutItem"]
